"""A training that is killed with SIGKILL, whenever that may be, goes on to the same weights, bit for bit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from short_trainings import (
    differing,
    finish_child,
    kill_often,
    on_cpu,
    outcome,
    start_child,
    task_job,
    text_job,
    undisturbed,
    write_texts,
)
from unrolled.jobs import Job, Network
from unrolled.runs import Run
from unrolled.training.checkpoints import checkpoints, read_checkpoint

DEEP = Network(hidden_size=32, embedding_size=8, layers=2, dropout=0.2)


def a_job(kind: str, folder: Path, **budget: Any) -> Job:
    if kind == "task":
        return task_job(DEEP, path="adding:length=40", **{"steps": 400, "validate_every": 20, **budget})
    texts = write_texts(folder / "texts", characters=20_000)
    return text_job(texts, DEEP, length=40, **{"steps": 400, "validate_every": 20, **budget})


def killed_often_it_ends_the_same(job: Job, folder: Path, times: int) -> None:
    finish_child(start_child(job, folder / "whole"))
    whole = outcome(folder / "whole")
    seconds = list(Run.open(folder / "whole").metrics())[-1]["seconds"]
    kill_often(job, folder / "killed", times, seconds=seconds)
    assert differing(whole, outcome(folder / "killed")) == []
    same_bytes = [(folder / run / "weights.safetensors").read_bytes() for run in ("whole", "killed")]
    assert same_bytes[0] == same_bytes[1]
    assert leftovers(folder) == []


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


@pytest.mark.parametrize("kind", ["text", "task"])
def test_killed_at_three_random_moments_it_ends_with_the_same_weights(tmp_path: Path, kind: str) -> None:
    killed_often_it_ends_the_same(a_job(kind, tmp_path, steps=120), tmp_path, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "task"])
def test_killed_at_twenty_random_moments_it_ends_with_the_same_weights(tmp_path: Path, kind: str) -> None:
    killed_often_it_ends_the_same(a_job(kind, tmp_path, steps=1200, validate_every=50), tmp_path, 20)


# The first files are the lock's note, config.json and metrics.jsonl; then come checkpoints, each after the weights if
# there are any, and metrics.jsonl after every validation.
# Each is flushed, renamed, and its folder flushed.
@pytest.mark.parametrize(
    ("function", "call"),
    [*(("replace", call) for call in range(1, 8)), *(("fsync", call) for call in range(1, 15))],
)
def test_killed_while_it_writes_it_leaves_nothing_half_written(tmp_path: Path, function: str, call: int) -> None:
    job = a_job("text", tmp_path, steps=60, validate_every=10)
    whole = undisturbed(job, tmp_path / "whole")
    folder = tmp_path / "killed"
    child = start_child(job, folder, kill_at=(function, call))
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    renamed = function == "fsync" and call % 2 == 0
    assert len(leftovers(folder)) == (0 if renamed else 1)
    for path in checkpoints(folder / "checkpoints"):
        assert read_checkpoint(path).step < 60
    on_cpu(job, folder, resume=True)
    assert leftovers(folder) == []
    assert differing(whole, outcome(folder)) == []


def test_killed_while_it_writes_again_and_again_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    job = a_job("text", tmp_path, steps=60, validate_every=10)
    whole = undisturbed(job, tmp_path / "whole")
    folder = tmp_path / "killed"
    kills = 0
    # One file later each time, so that it comes to its end however many of them are checkpoints.
    while (child := start_child(job, folder, kill_at=("replace", 5 + kills))).join(60) or child.exitcode != 0:
        assert child.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 2
    assert differing(whole, outcome(folder)) == []


def test_a_run_that_another_process_works_at_is_refused_and_not_disturbed(tmp_path: Path) -> None:
    job = a_job("text", tmp_path, steps=120)
    whole = undisturbed(job, tmp_path / "whole")
    folder = tmp_path / "run"
    child = start_child(job, folder)
    while not (tmp_path / "run.began").exists() and child.is_alive():
        pass
    with pytest.raises(RuntimeError, match=f"{folder} is in use by a training run, process {child.pid} on "):
        on_cpu(job, folder, resume=True)
    finish_child(child)
    assert differing(whole, outcome(folder)) == []
