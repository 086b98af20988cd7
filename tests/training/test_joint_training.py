"""Two processes under torchrun train what one does, and go on exactly when stopped or killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from short_trainings import Log, at_step, differing, interrupt, on_cpu, outcome, task_job, text_job, write_texts
from unrolled.jobs import Job, Network
from unrolled.runs import Run
from unrolled.training.checkpoints import checkpoints, read_checkpoint
from unrolled.training.train import Interrupted

pytestmark = pytest.mark.slow

# Ways in which torchrun's processes find each other: at a port that is free, and at a fixed one, the default.
C10D = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
STATIC = ("--master-port", "29417")
WORKER = Path(__file__).with_name("joint_worker.py")


def together(
    job: Job, folder: Path, act: str = "nothing", *, processes: int = 2, restarts: int = 0, store: Sequence[str] = C10D
) -> subprocess.CompletedProcess[str]:
    """Begin a job, or go on with it, under torchrun."""
    asked = folder.with_name(f"{folder.name}.job.json")
    asked.write_text(json.dumps(job.as_json()))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)),
        *(*store, "--max-restarts", str(restarts)),
        *(str(WORKER), str(asked), str(folder), act),
    ]
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def done(job: Job, folder: Path, act: str = "nothing", **options: Any) -> str:
    """As `together`, and it has to succeed; what it said."""
    finished = together(job, folder, act, **options)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def a_job(kind: str, folder: Path, *, dropout: float) -> Job:
    network = Network(hidden_size=8, embedding_size=4, layers=2, dropout=dropout)
    if kind == "task":
        # The validation part has two pieces, one for each process.
        return task_job(network, steps=42, validation_size=150)
    return text_job(write_texts(folder / "texts"), network, steps=42)


def close(one: Any, other: Any, name: str = "") -> None:
    """Figures and tensors to 1e-5, relative to the largest of a tensor."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            close(one[key], other[key], f"{name}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other)
        for index, (its, others) in enumerate(zip(one, other, strict=True)):
            close(its, others, f"{name}/{index}")
    elif isinstance(one, torch.Tensor):
        largest = float(one.abs().max()) if one.numel() else 0.0
        assert one.shape == other.shape, name
        assert torch.allclose(one, other, rtol=0, atol=1e-5 * largest), name
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5), name
    else:
        assert one == other, name


def compared(folder: Path) -> dict[str, Any]:
    """What does not depend on the number of processes."""
    found = outcome(folder)
    own = ("generators", "losses")
    # The optimiser's averages of gradients are as close as gradients are, which are small themselves.
    return {name: value for name, value in found.items() if name not in own and not name.startswith("optimizer")}


@pytest.mark.parametrize("kind", ["text", "task"])
def test_two_processes_train_what_one_does(tmp_path: Path, kind: str) -> None:
    job = a_job(kind, tmp_path, dropout=0.0)
    on_cpu(job, tmp_path / "one")
    said = done(job, tmp_path / "two")
    assert said.count("in 2 processes") == 1
    close(compared(tmp_path / "one"), compared(tmp_path / "two"))
    assert [row["step"] for row in Run.open(tmp_path / "two").metrics()] == [6, 12, 18, 24, 30, 36, 42]


@pytest.mark.parametrize("kind", ["text", "task"])
def test_two_processes_go_on_exactly(tmp_path: Path, kind: str) -> None:
    job = a_job(kind, tmp_path, dropout=0.3)
    done(job, tmp_path / "whole")
    # Between two validations, and right after one.
    for step in (10, 30):
        assert f"stopped at step {step} of 42" in done(job, tmp_path / "stopped", f"stop {step}")
    assert "going on from step 30 of 42" in done(job, tmp_path / "stopped")
    assert differing(outcome(tmp_path / "whole"), outcome(tmp_path / "stopped")) == []


@pytest.mark.parametrize(("kind", "store"), [("text", C10D), ("task", C10D), ("text", STATIC)])
def test_one_of_two_processes_is_killed_and_both_start_again(tmp_path: Path, kind: str, store: Sequence[str]) -> None:
    job = a_job(kind, tmp_path, dropout=0.3)
    done(job, tmp_path / "whole")
    said = done(job, tmp_path / "killed", "kill 27", restarts=1, store=store)
    assert "going on from step 20 of 42" in said
    assert differing(outcome(tmp_path / "whole"), outcome(tmp_path / "killed")) == []
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize("kind", ["text", "task"])
def test_checkpoint_of_two_processes_goes_on_with_one_and_back(tmp_path: Path, kind: str) -> None:
    job = a_job(kind, tmp_path, dropout=0.0)
    on_cpu(job, tmp_path / "one")
    mixed = tmp_path / "mixed"
    done(job, mixed, "stop 10")
    state = read_checkpoint(checkpoints(mixed / "checkpoints")[0])
    assert state.losses.shape == (2, 4)
    assert len(state.generators) == 2
    assert all(carried.shape == (2, 8, 8) for carried in state.carried)
    with pytest.raises(Interrupted, match="stopped at step 20"):
        on_cpu(job, mixed, resume=True, display=Log(at_step(20, interrupt)))
    assert "going on from step 20 of 42" in done(job, mixed)
    close(compared(tmp_path / "one"), compared(mixed))


def test_processes_draw_different_random_numbers(tmp_path: Path) -> None:
    job = a_job("task", tmp_path, dropout=0.3)
    done(job, tmp_path / "two")
    one, two = outcome(tmp_path / "two")["generators"]
    assert not torch.equal(one, two)


def test_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    finished = together(task_job(batch_size=9), tmp_path / "run")
    assert finished.returncode != 0
    assert "batch_size: 9 cannot be shared by 2 processes; give a multiple of 2" in finished.stderr
    assert not (tmp_path / "run" / "config.json").exists()


def test_one_process_under_torchrun_trains_what_one_without_does(tmp_path: Path) -> None:
    job = a_job("text", tmp_path, dropout=0.3)
    on_cpu(job, tmp_path / "without")
    done(job, tmp_path / "with", processes=1)
    assert differing(outcome(tmp_path / "without"), outcome(tmp_path / "with")) == []
