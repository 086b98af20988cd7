"""compare(): train every cell on every task with every seed, measure the claims on each, keep what is finished."""

from __future__ import annotations

import copy
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from unrolled import __version__
from unrolled.budget import Budget
from unrolled.claims import MEASUREMENTS, Claim, Run, Subject, judge
from unrolled.locks import only_one
from unrolled.model import SequenceModel, count_parameters, matched_hidden_size
from unrolled.plans import CELLS, DEFAULT_TASKS, Plan, default_budget, default_parameters, plan, versions
from unrolled.storage import read_json, read_weights, sweep, write_json, write_text, write_weights
from unrolled.tasks import Task, parse
from unrolled.training import Fit, Progress, deterministic, evaluate, fit
from unrolled.workers import Backend, WorkerDied, at_once, check, one_thread

__all__ = [
    "CELLS",
    "DEFAULT_TASKS",
    "Display",
    "Plan",
    "Study",
    "compare",
    "default_budget",
    "default_parameters",
    "load",
    "make",
    "perform",
    "plan",
]

_ARRIVES = (
    60.0  # seconds in which a file written on another machine must show here; network file systems look less often
)


@dataclass(frozen=True)
class Study:
    """Finished runs and the claims judged from them.

    Attributes:
        folder: where the runs are kept.
        plans: every run that was asked for, in order.
        runs: the finished ones, in the same order.
        claims: how each claim came out.
        seconds: how long this call took; runs finished by an earlier call take none.
    """

    folder: Path
    plans: tuple[Plan, ...]
    runs: tuple[Run, ...]
    claims: tuple[Claim, ...]
    seconds: float

    def save(self, folder: str | Path) -> Path:
        """Write the plan and the claims as study.json into a folder; compare() has done so in the study's own."""
        return write_json(
            Path(folder) / "study.json",
            {
                "version": __version__,
                "plans": [asdict(plan) for plan in self.plans],
                "runs": [asdict(run) | {"measured": sorted(run.measured)} for run in self.runs],
                "claims": [_plain(claim) for claim in self.claims],
            },
        )

    def model(self, run: Run) -> SequenceModel:
        """The trained network of one of the runs."""
        return _load(self.folder / "runs" / self.plans[self.runs.index(run)].folder, self.plans[self.runs.index(run)])


def _plain(claim: Claim) -> dict[str, Any]:
    def number(value: float) -> float | str:
        return value if abs(value) < float("inf") else str(value)

    return {
        "id": claim.id,
        "text": claim.text,
        "verdict": claim.verdict,
        "settings": claim.settings,
        "findings": [
            {
                "setting": f.setting,
                "statement": f.statement,
                "verdict": f.verdict,
                "threshold": f.threshold,
                "unit": f.unit,
                "interval": {name: number(value) for name, value in asdict(f.interval).items()},
            }
            for f in claim.findings
        ],
        "remarks": list(claim.remarks),
    }


def compare(
    tasks: str | Task | Sequence[str | Task] = DEFAULT_TASKS,
    *,
    cells: str | Sequence[str] = CELLS,
    seeds: int = 3,
    parameters: int | None = None,
    steps: int | None = None,
    folder: str | Path | None = None,
    jobs: int | None = None,
    backend: Backend = "loky",
    address: str | None = None,
    display: Display | None = None,
) -> Study:
    """Train every cell on every task with every seed, and measure the claims on what was trained.

    Cells are matched by their number of parameters. A run is stored when it is finished; calling again with the same
    folder goes on from there, whatever ended the first call.

    Args:
        tasks: tasks as on the command line ("recall:lag=1-40") or as objects.
        cells: some of "rnn", "gru", "lstm".
        seeds: how many networks of each kind; intervals need at least 2.
        parameters: trainable figures of each network; by default 6,100, and 48,000 for source code.
        steps: optimiser steps of each; by default what the default study takes.
        folder: where runs are kept; by default runs/ and the tasks' names below the current folder.
        jobs: how many runs at once, each on one thread; by default, and at most, as many as there are processors.
        backend: "loky" for processes of this machine; "ray" for a Ray cluster, whose machines must share the folder and
            have the same versions of unrolled, torch and Python.
        address: of the head of a running Ray cluster, as "10.0.0.1:6379", or "auto" for the one this machine belongs
            to. Without one, Ray starts a cluster on this machine and ends it with the study.
        display: what to tell about progress; nothing by default.

    Returns:
        The Study.

    Raises:
        ValueError: an unknown task or cell, a number that makes no study, or a damaged file in the folder; on a
            cluster, a machine that has other versions or does not see the folder.
        OSError: the folder cannot be written, or nothing answers at the address.
        FolderInUse: another process works in the folder; raised before anything is written.
        WorkerDied: a process was killed; says in which runs. Finished runs are kept, and the next call does the others.
        Diverged: a training's loss became NaN; finished runs are kept.
    """
    start = time.perf_counter()
    check(jobs, backend, address)
    listed = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    cells = [cells] if isinstance(cells, str) else list(cells)
    plans = plan(listed, cells, seeds, parameters=parameters, steps=steps)
    if folder is None:
        folder = Path("runs") / "-".join(dict.fromkeys(p.setting.partition(":")[0] for p in plans))
    folder = Path(folder)
    with only_one(folder, "study"):
        runs = _runs(folder, plans, jobs, backend, address, display)
        study = Study(folder, plans, runs, judge(runs), time.perf_counter() - start)
        study.save(folder)
    return study


def load(folder: str | Path) -> Study:
    """The finished study in a folder, judged again from its runs: what compare() returned.

    Args:
        folder: the study's folder.

    Raises:
        FileNotFoundError: there is no study in the folder.
        ValueError: runs are missing, which compare() would still have to do; or a file is damaged. Names them.
    """
    start = time.perf_counter()
    folder = Path(folder)
    # The one is written before the first run, the other after the last.
    path = next((path for path in (folder / "plan.json", folder / "study.json") if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} holds no study (it has no plan.json); unrolled compare makes one")
    try:
        plans = tuple(Plan(**p | {"budget": Budget(**p["budget"])}) for p in read_json(path)["plans"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not hold the plans of a study ({error})") from error
    missing = [p.title for p in plans if not _path(folder, p).exists()]
    if missing or not plans:
        named = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        raise ValueError(
            f"{folder} is an unfinished study: {len(missing)} of {len(plans)} runs are missing ({named}); the same "
            "unrolled compare goes on where it was stopped"
        )
    runs = tuple(_read(folder, p) for p in plans)
    return Study(folder, plans, runs, judge(runs), time.perf_counter() - start)


def _runs(
    folder: Path,
    plans: Sequence[Plan],
    jobs: int | None,
    backend: Backend,
    address: str | None,
    display: Display | None,
) -> tuple[Run, ...]:
    """The runs of all plans, in order; those that are not finished are done first."""
    sweep(folder)
    write_json(folder / "plan.json", {"version": __version__, "plans": [asdict(p) for p in plans]})
    finished = {p.folder: _read(folder, p) for p in plans if _path(folder, p).exists()}
    pending = [p for p in plans if p.folder not in finished]
    # The longest first: a long one that starts last would leave the other processors idle.
    pending.sort(key=lambda p: (p.seed, -p.budget.steps * p.budget.batch_size * p.parameters))
    if display:
        display.start(folder, plans, [p for p in plans if p.folder in finished])
    # A worker's current folder may be another one.
    work = partial(perform if backend == "loky" else _perform_elsewhere, folder.resolve())
    try:
        for done in at_once(work, pending, jobs=jobs, backend=backend, address=address):
            if backend == "ray":
                _await(folder, done)
            finished[done.folder] = _read(folder, done)
            if display:
                display.finished(done, finished[done.folder])
    except WorkerDied as error:
        # Some that were under way are finished and were not given back any more.
        done_titles = {p.title for p in plans if _path(folder, p).exists()}
        raise WorkerDied([t for t in error.doing if t not in done_titles], kept=len(done_titles)) from error
    finally:
        if display:
            display.stop()
    return tuple(finished[p.folder] for p in plans)


class Display(Protocol):
    """What compare() tells while it works."""

    def start(self, folder: Path, plans: Sequence[Plan], finished: Sequence[Plan]) -> None:
        """Before the first run; `finished` were done by an earlier call."""

    def finished(self, plan: Plan, run: Run) -> None:
        """A run is done and stored."""

    def stop(self) -> None:
        """No more will come, for whatever reason."""


@one_thread()
def perform(folder: Path, plan: Plan) -> Plan:
    """Train one network unless its weights are there, measure it, and store both.

    In the run's folder: metrics.jsonl grows while it trains, weights.safetensors is written when training is done and
    run.json last of all. It uses one thread wherever it runs: how many run at once does not change its outcome.
    """
    home = folder / "runs" / plan.folder
    task = parse(plan.setting)
    untrained = make(plan, task)
    model = copy.deepcopy(untrained)
    weights = home / "weights.safetensors"
    if weights.exists():
        _restore(model, weights)
    else:
        metrics: list[str] = []

        def keep(progress: Progress) -> None:
            metrics.append(json.dumps(asdict(progress)))
            write_text(home / "metrics.jsonl", "\n".join(metrics) + "\n")

        write_json(home / "plan.json", asdict(plan))
        result: Fit = fit(model, task, plan.budget, seed=plan.seed, on_progress=keep)
        write_json(
            home / "fit.json",
            {"best_step": result.best_step, "best_value": result.best_value, "stopped": result.stopped},
        )
        write_weights(weights, model.state_dict())
    model.eval()
    value = evaluate(model, task, size=512, seed=plan.seed)
    subject = Subject(plan.cell, model, untrained.eval(), task, plan.seed, plan.budget)
    measured = {name: figures for name, m in MEASUREMENTS.items() if (figures := m.measure(subject)) is not None}
    hidden_size = int(model.recurrent.hidden_size)
    run = Run(
        plan.setting, plan.cell, plan.seed, hidden_size, count_parameters(model), value, task.skill(value), measured
    )
    write_json(home / "run.json", asdict(run))
    return plan


def _perform_elsewhere(folder: Path, plan: Plan) -> Plan:
    """perform() on a machine of a cluster, if it is as the study needs it.

    Raises:
        ValueError: it does not see the folder, or has other versions.
    """
    machine = socket.gethostname()
    if not (folder / "plan.json").exists():
        raise ValueError(
            f"folder: {folder} is not there on {machine}; on a cluster it must be on a file system that all machines "
            "share, under the same path"
        )
    if versions() != plan.versions:
        here, there = (", ".join(f"{n} {v}" for n, v in each.items()) for each in (versions(), plan.versions))
        raise ValueError(f"{machine} has {here}; the study was started with {there}; install the same everywhere")
    return perform(folder, plan)


def _await(folder: Path, plan: Plan, seconds: float = _ARRIVES) -> None:
    """Wait until a run that another machine has stored shows in the folder."""
    deadline = time.monotonic() + seconds
    while not _path(folder, plan).exists():
        if time.monotonic() > deadline:
            raise ValueError(
                f"folder: {plan.title} was finished on another machine and is not in {folder} after {seconds:.0f} s; "
                "on a cluster the folder must be on a file system that all machines share"
            )
        time.sleep(0.2)


def make(plan: Plan, task: Task) -> SequenceModel:
    """The untrained network of a plan; the same one every time."""
    hidden_size = matched_hidden_size(plan.cell, task.input_size, task.output_size, plan.parameters)
    with deterministic(plan.seed):
        return SequenceModel(plan.cell, task.input_size, hidden_size, task.output_size, forget_bias=plan.forget_bias)


def _load(home: Path, plan: Plan) -> SequenceModel:
    model = make(plan, parse(plan.setting))
    _restore(model, home / "weights.safetensors")
    return model.eval()


def _restore(model: SequenceModel, path: Path) -> None:
    weights = read_weights(path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds the weights of another network; delete {path.parent} to have it made again"
        ) from error


def _read(folder: Path, plan: Plan) -> Run:
    path = _path(folder, plan)
    try:
        return Run(**read_json(path))
    except TypeError as error:
        raise ValueError(f"{path} does not hold a run ({error}); delete {path.parent} to have it made again") from error


def _path(folder: Path, plan: Plan) -> Path:
    """The file that is there when a run is done."""
    return folder / "runs" / plan.folder / "run.json"
