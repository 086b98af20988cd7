"""A study: finished runs are kept whatever ends it, nothing is done twice, and the same plan gives the same runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from unrolled import compare, study, training
from unrolled.claims import MEASUREMENTS
from unrolled.study import Plan, Study, plan
from unrolled.tasks import parse
from unrolled.training import evaluate
from unrolled.workers import processors

SETTING = "recall:lag=9"
# Too short for most instruments, and so quick to measure.
SHORT = "recall:lag=3"


def tiny(folder: Path, task: str = SHORT, **changes: Any) -> Study:
    return compare(
        task,
        **{"cells": ("rnn", "lstm"), "steps": 3, "seeds": 2, "parameters": 300, "jobs": 1} | changes,
        folder=folder,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study long enough for every instrument."""
    return tiny(tmp_path_factory.mktemp("whole"), SETTING)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return tiny(tmp_path_factory.mktemp("short"))


@pytest.fixture
def folder(short: Study, tmp_path: Path) -> Path:
    """A finished study that a test may spoil."""
    return Path(shutil.copytree(short.folder, tmp_path / "study"))


class Counted:
    """`fit` that counts its calls and fails at one of them."""

    def __init__(self, fail_at: int = 0, error: BaseException | None = None) -> None:
        self.calls, self.fail_at, self.error = 0, fail_at, error

    def __call__(self, *args: Any, **options: Any) -> training.Fit:
        self.calls += 1
        if self.calls == self.fail_at and self.error:
            raise self.error
        return training.fit(*args, **options)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()
    monkeypatch.setattr(study, "fit", counted)
    return counted


def stamps(folder: Path, name: str = "run.json") -> dict[str, int]:
    """When each run's file was written, in nanoseconds."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob(f"runs/*/{name}")}


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a study's runs that time does not change."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("runs/*/*"))
        if path.name != "metrics.jsonl"
    }


# What is found


def test_study_has_every_cell_and_seed_and_the_six_claims(whole: Study) -> None:
    assert [(run.setting, run.cell, run.seed) for run in whole.runs] == [
        (SETTING, cell, seed) for seed in (0, 1) for cell in ("rnn", "lstm")
    ]
    assert (
        [claim.id for claim in whole.claims]
        == list(MEASUREMENTS)
        == [
            "gradient",
            "overwrite",
            "contents",
            "storing",
            "long_term",
            "capacity",
        ]
    )
    for run in whole.runs:
        assert run.skill == parse(SETTING).skill(run.value)
        # A plain RNN has no gates to learn to store with.
        assert run.measured.keys() == MEASUREMENTS.keys() - ({"storing"} if run.cell == "rnn" else set())


def test_model_of_a_run_has_the_value_of_the_run(whole: Study) -> None:
    for run in whole.runs:
        model = whole.model(run)
        assert not model.training
        assert model.recurrent.hidden_size == run.hidden_size
        assert evaluate(model, parse(run.setting), size=512, seed=run.seed) == run.value


def test_study_json_holds_the_plans_the_runs_and_the_claims(whole: Study) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    saved = json.loads((whole.folder / "study.json").read_text(), parse_constant=refuse)
    assert [claim["id"] for claim in saved["claims"]] == [claim.id for claim in whole.claims]
    assert [claim["verdict"] for claim in saved["claims"]] == [claim.verdict for claim in whole.claims]
    assert [run["value"] for run in saved["runs"]] == [run.value for run in whole.runs]
    assert [entry["cell"] for entry in saved["plans"]] == [entry.cell for entry in whole.plans]


def test_metrics_of_a_run_say_how_its_training_went(whole: Study) -> None:
    for entry in whole.plans:
        home = whole.folder / "runs" / entry.folder
        rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["step"] == 3
        assert json.loads((home / "fit.json").read_text())["best_value"] == rows[-1]["best"]


# What is done once


def test_finished_runs_are_not_repeated(folder: Path, short: Study, fits: Counted) -> None:
    before = stamps(folder)
    again = tiny(folder)
    assert fits.calls == 0
    assert stamps(folder) == before
    assert again.runs == short.runs
    assert again.claims == short.claims


def test_more_seeds_use_the_runs_that_are_there(folder: Path, short: Study, fits: Counted) -> None:
    before = stamps(folder)
    more = tiny(folder, seeds=3)
    assert fits.calls == 2
    assert before.items() <= stamps(folder).items()
    assert more.runs[:4] == short.runs


def test_another_number_of_steps_makes_other_runs(folder: Path, fits: Counted) -> None:
    before = stamps(folder)
    tiny(folder, steps=2, seeds=1)
    assert fits.calls == 2
    assert len(stamps(folder)) == len(before) + 2
    assert before.items() <= stamps(folder).items()


def test_trained_run_that_was_not_measured_is_only_measured(folder: Path, short: Study, fits: Counted) -> None:
    home = folder / "runs" / short.plans[1].folder
    (home / "run.json").unlink()
    trained = stamps(folder, "weights.safetensors")
    again = tiny(folder)
    assert fits.calls == 0
    assert stamps(folder, "weights.safetensors") == trained
    assert again.runs == short.runs


@pytest.mark.parametrize("error", [KeyboardInterrupt(), training.Diverged("the loss is nan")])
def test_interrupted_study_keeps_what_is_finished_and_goes_on(
    tmp_path: Path, short: Study, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(study, "fit", Counted(fail_at=3, error=error))
    with pytest.raises(type(error)):
        tiny(tmp_path)
    before = stamps(tmp_path)
    assert len(before) == 2
    assert not (tmp_path / "study.json").exists()

    rest = Counted()
    monkeypatch.setattr(study, "fit", rest)
    assert tiny(tmp_path).runs == short.runs
    assert rest.calls == 2
    assert before.items() <= stamps(tmp_path).items()


KILLED = """
import sys
import time
from pathlib import Path
from unrolled import compare, study, training

def fit(*args, **options):
    result = training.fit(*args, **options)
    print("trained", flush=True)
    return result

study.fit = fit
compare(sys.argv[1], cells=("rnn", "lstm"), steps=3, seeds=2, parameters=300, jobs=1, folder=sys.argv[2])
"""


def test_killed_study_goes_on_where_it_was(tmp_path: Path, short: Study, fits: Counted) -> None:
    command = [sys.executable, "-c", KILLED, SHORT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == "trained\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    finished, trained = stamps(tmp_path), stamps(tmp_path, "weights.safetensors")
    assert 2 <= len(finished) < 4

    assert tiny(tmp_path).runs == short.runs
    assert fits.calls == 4 - len(trained)
    assert finished.items() <= stamps(tmp_path).items()
    assert contents(tmp_path) == contents(short.folder)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_runs_made_two_at_once_are_the_same_bit_for_bit(tmp_path: Path, short: Study) -> None:
    together = tiny(tmp_path, jobs=2)
    assert together.runs == short.runs
    assert contents(tmp_path) == contents(short.folder)


def test_study_leaves_threads_and_random_numbers_as_they_were(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        state = torch.get_rng_state()
        tiny(tmp_path, seeds=1, cells=("rnn",))
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)


def test_display_is_told_of_every_run_and_of_the_end(folder: Path, short: Study) -> None:
    told: list[object] = []

    class Listener:
        def start(self, folder: Path, plans: Any, finished: Any) -> None:
            told.append((folder, len(plans), len(finished)))

        def finished(self, plan: Plan, run: Any) -> None:
            told.append((plan.seed, plan.cell, run.cell))

        def stop(self) -> None:
            told.append("stop")

    shutil.rmtree(folder / "runs" / short.plans[3].folder)
    tiny(folder, display=Listener())
    assert told == [(folder, 4, 3), (1, "lstm", "lstm"), "stop"]


# Plans


def test_plans_go_seed_by_seed_and_name_a_double_once() -> None:
    plans = plan([SHORT, "recall:lag=3,symbols=8"], ["rnn", "rnn", "gru"], 2)
    assert [(entry.seed, entry.cell) for entry in plans] == [(0, "rnn"), (0, "gru"), (1, "rnn"), (1, "gru")]


def test_every_part_of_a_plan_decides_its_folder() -> None:
    (first,) = plan([SHORT], ["rnn"], 1, steps=3, parameters=300)
    others = [
        plan([SETTING], ["rnn"], 1, steps=3, parameters=300)[0],
        plan([SHORT], ["gru"], 1, steps=3, parameters=300)[0],
        plan([SHORT], ["rnn"], 2, steps=3, parameters=300)[1],
        plan([SHORT], ["rnn"], 1, steps=4, parameters=300)[0],
        plan([SHORT], ["rnn"], 1, steps=3, parameters=301)[0],
    ]
    assert first.folder == plan([SHORT], ["rnn"], 1, steps=3, parameters=300)[0].folder
    assert len({entry.folder for entry in [first, *others]}) == 6


# What is wrong is named


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds: must be a whole number of at least 1, given 0"),
        ({"steps": 0}, "steps: must be a whole number of at least 1, given 0"),
        ({"parameters": -5}, "parameters: must be a whole number of at least 1, given -5"),
        ({"seeds": 1.5}, "seeds: must be a whole number"),
        ({"jobs": 0}, "jobs: must be at least 1, given 0"),
        ({"jobs": -1}, "jobs: must be at least 1, given -1"),
        ({"cells": ()}, "cells: none given"),
        ({"cells": ("rnn", "mamba")}, "cells: unknown cell 'mamba'; expected some of rnn, gru, lstm"),
        ({"parameters": 20}, "parameters: 20 is too few for a lstm"),
        ({"task": "racall:lag=3"}, "task 'racall' is not known.*did you mean recall"),
        ({"task": []}, "tasks: none given"),
    ],
)
def test_what_makes_no_study_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(tmp_path / "study", **changes)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("content", ["", '{"cell": ', "[]", '{"cell": "rnn"}', '{"nonsense": 1}'])
def test_damaged_run_is_named_with_what_to_do(folder: Path, short: Study, content: str) -> None:
    home = folder / "runs" / short.plans[2].folder
    (home / "run.json").write_text(content)
    with pytest.raises(ValueError, match="delete .* to have it made again") as caught:
        tiny(folder)
    assert str(home / "run.json") in str(caught.value)

    shutil.rmtree(home)  # what the message says
    assert tiny(folder).runs == short.runs


@pytest.mark.parametrize("kind", ["cut short", "of another network"])
def test_damaged_weights_are_named_with_what_to_do(folder: Path, short: Study, kind: str) -> None:
    first, second = (folder / "runs" / entry.folder for entry in short.plans[:2])
    path = first / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] if kind == "cut short" else (second / path.name).read_bytes())
    with pytest.raises(ValueError, match="delete .* to have it made again") as caught:
        Study(folder, short.plans, short.runs, short.claims, 0.0).model(short.runs[0])
    assert str(path) in str(caught.value)
    (first / "run.json").unlink()
    with pytest.raises(ValueError, match="delete .* to have it made again"):
        tiny(folder)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write .*file/study.*; choose another folder"):
        tiny(tmp_path / "file" / "study")


def test_a_run_uses_one_thread_also_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(torch.get_num_threads())
        return training.fit(*arguments, **options)

    monkeypatch.setattr(study, "fit", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tiny(tmp_path, jobs=1)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the processes from /proc")
@pytest.mark.skipif(processors() < 2, reason="one processor does one run at a time, without workers")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import unrolled; unrolled.compare('recall:lag=9', cells=['rnn'], seeds=2, steps=100000, parameters=300, "
        f"jobs=2, folder={str(tmp_path)!r})"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children: list[Path] = []
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("runs/*/metrics.jsonl")):
            assert parent.poll() is None, "the study ended before its workers had started"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        children = [
            stat.parent
            for stat in Path("/proc").glob("[0-9]*/stat")
            if (fields := _fields(stat)) and fields[1] == str(parent.pid)
        ]
        assert children
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while any(_runs(child) for child in children):
        assert time.monotonic() < deadline, "a worker outlived the study"
        time.sleep(0.2)


def _fields(stat: Path) -> list[str]:
    """State, parent, ... of a process, after its name; nothing if it has ended meanwhile."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _runs(process: Path) -> bool:
    fields = _fields(process / "stat")
    return bool(fields) and fields[0] != "Z"
