"""compare(): train every cell on every task with every seed, measure the claims on each, keep what is finished."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from unrolled import __version__
from unrolled.claims import MEASUREMENTS, Claim, Run, Subject, judge
from unrolled.model import LAYERS, SequenceModel, count_parameters, matched_hidden_size
from unrolled.storage import read_json, read_weights, sweep, write_json, write_text, write_weights
from unrolled.tasks import Task, parse
from unrolled.training import Budget, Fit, Progress, deterministic, evaluate, fit

# The settings of the default study: two in which the folk answer was expected to hold, two in which trials saw it fail.
DEFAULT_TASKS = ("adding:length=50", "recall:lag=1-40", "recall:lag=60", "code:length=100")
CELLS = ("rnn", "gru", "lstm")

_WATCH = 0.5  # seconds between a worker's looks at whether its parent lives


@dataclass(frozen=True)
class Plan:
    """One run: everything that decides its outcome."""

    setting: str
    cell: str
    seed: int
    parameters: int
    budget: Budget
    forget_bias: float = 1.0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Its folder's name: readable, and another one for every other plan."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]
        readable = "".join(c if c.isalnum() else "-" for c in self.setting)[:40]
        return f"{readable}--{self.cell}--seed{self.seed}--{digest}"

    @property
    def title(self) -> str:
        return f"{self.setting} {self.cell.upper()} seed {self.seed}"


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


def default_parameters(task: Task) -> int:
    """Parameters of a network for a task: 6,100 for the small synthetic ones, 48,000 for source code."""
    return 48_000 if task.name == "code" else 6_100


def default_budget(task: Task) -> Budget:
    """Training of the default study, chosen for a study of five minutes on two cores.

    Synthetic tasks get 1,500 steps, and half as many where sequences are longer than 50, so that these take no longer.
    """
    if task.name == "code":
        return Budget(steps=500, batch_size=32, learning_rate=1e-2, validate_every=50, validation_size=96)
    lengths = [task.batch(1, seed=seed).inputs.size(1) for seed in range(32)]
    long = sum(lengths) / len(lengths) > 50
    return Budget(steps=750 if long else 1500, batch_size=64, validate_every=50, validation_size=256)


def plan(
    tasks: Sequence[str | Task],
    cells: Sequence[str],
    seeds: int,
    *,
    parameters: int | None = None,
    steps: int | None = None,
) -> tuple[Plan, ...]:
    """The runs of a study, seed by seed, so that an interrupted study has whole seeds first.

    Raises:
        ValueError: an unknown task or cell, or a number that makes no study.
    """
    for name, value in (("seeds", seeds), ("steps", steps), ("parameters", parameters)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}: must be a whole number of at least 1, given {value}")
    if not tasks:
        raise ValueError("tasks: none given; expected at least one, such as 'recall:lag=40'")
    if not cells:
        raise ValueError(f"cells: none given; expected some of {', '.join(CELLS)}")
    for cell in cells:
        if cell not in LAYERS:
            raise ValueError(f"cells: unknown cell {cell!r}; expected some of {', '.join(CELLS)}")
    parsed = [parse(task) if isinstance(task, str) else task for task in tasks]
    versions = {"unrolled": __version__, "torch": torch.__version__, "python": platform.python_version()}
    budgets = [default_budget(task) for task in parsed]
    if steps is not None:
        budgets = [replace(b, steps=steps, validate_every=min(b.validate_every, steps)) for b in budgets]
    sizes = [parameters or default_parameters(task) for task in parsed]
    for task, size in zip(parsed, sizes, strict=True):
        for cell in cells:
            # Asked for now, so that a size no cell can have is told before anything is trained.
            matched_hidden_size(cell, task.input_size, task.output_size, size)
    plans = [
        Plan(task.spec(), cell, seed, size, budget, versions=versions)
        for seed in range(seeds)
        for task, budget, size in zip(parsed, budgets, sizes, strict=True)
        for cell in cells
    ]
    # A task or cell named twice is one run, not two in one folder.
    return tuple({plan.folder: plan for plan in plans}.values())


def compare(
    tasks: str | Task | Sequence[str | Task] = DEFAULT_TASKS,
    *,
    cells: str | Sequence[str] = CELLS,
    seeds: int = 3,
    parameters: int | None = None,
    steps: int | None = None,
    folder: str | Path | None = None,
    jobs: int | None = None,
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
        jobs: how many runs at once, each on one thread; by default as many as there are processors.
        display: what to tell about progress; nothing by default.

    Returns:
        The Study.

    Raises:
        ValueError: an unknown task or cell, a number that makes no study, or a damaged file in the folder.
        OSError: the folder cannot be written.
        Diverged: a training's loss became NaN; finished runs are kept.
    """
    start = time.perf_counter()
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: must be at least 1, given {jobs}")
    listed = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    cells = [cells] if isinstance(cells, str) else list(cells)
    plans = plan(listed, cells, seeds, parameters=parameters, steps=steps)
    if folder is None:
        folder = Path("runs") / "-".join(dict.fromkeys(p.setting.partition(":")[0] for p in plans))
    folder = Path(folder)
    sweep(folder)
    write_json(folder / "plan.json", {"version": __version__, "plans": [asdict(p) for p in plans]})
    finished = {p.folder: _read(folder, p) for p in plans if (folder / "runs" / p.folder / "run.json").exists()}
    pending = [p for p in plans if p.folder not in finished]
    workers = min(jobs or _processors(), max(1, len(pending)))
    if display:
        display.start(folder, plans, [p for p in plans if p.folder in finished])
    try:
        for done in _execute(folder, pending, workers):
            finished[done.folder] = _read(folder, done)
            if display:
                display.finished(done, finished[done.folder])
    finally:
        if display:
            display.stop()
    runs = tuple(finished[p.folder] for p in plans)
    study = Study(folder, plans, runs, judge(runs), time.perf_counter() - start)
    study.save(folder)
    return study


class Display(Protocol):
    """What compare() tells while it works."""

    def start(self, folder: Path, plans: Sequence[Plan], finished: Sequence[Plan]) -> None:
        """Before the first run; `finished` were done by an earlier call."""

    def finished(self, plan: Plan, run: Run) -> None:
        """A run is done and stored."""

    def stop(self) -> None:
        """No more will come, for whatever reason."""


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _execute(folder: Path, pending: Sequence[Plan], workers: int) -> Iterator[Plan]:
    """Do the runs, several at once, and give each when it is done."""
    # The longest first: a long one that starts last would leave the other processors idle.
    ordered = sorted(pending, key=lambda p: (p.seed, -p.budget.steps * p.budget.batch_size * p.parameters))
    if workers == 1:
        for one in ordered:
            yield perform(folder, one)
        return
    from joblib import Parallel, delayed

    parallel = Parallel(
        n_jobs=workers, backend="loky", return_as="generator_unordered", batch_size=1, pre_dispatch=workers
    )
    yield from parallel(delayed(_in_worker)(folder, one, os.getpid()) for one in ordered)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_worker(folder: Path, plan: Plan, parent: int) -> Plan:
    """perform() in a worker process, which ends with its parent.

    A parent that is killed cannot tell its workers; without this they would go on beside the study's next start.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH)
        os._exit(1)

    # One watch for each worker, however many runs it does.
    if not any(thread.name == "unrolled-parent-watch" for thread in threading.enumerate()):
        threading.Thread(target=watch, name="unrolled-parent-watch", daemon=True).start()
    return perform(folder, plan)


@_one_thread()
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
    path = folder / "runs" / plan.folder / "run.json"
    try:
        return Run(**read_json(path))
    except TypeError as error:
        raise ValueError(f"{path} does not hold a run ({error}); delete {path.parent} to have it made again") from error
