"""A full disk stops a training with the file's name and the checkpoint that is kept, and it goes on exactly."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from short_trainings import Log, differing, on_cpu, outcome, task_job, text_job, undisturbed, write_texts
from unrolled import storage
from unrolled.jobs import Job
from unrolled.runs import Run
from unrolled.training.checkpoints import checkpoints, read_checkpoint


def full_from(monkeypatch: pytest.MonkeyPatch, name: str, function: str, call: int) -> None:
    """From the nth time on that a file whose name begins so is written, the disk is full."""
    real: Callable[..., Any] = getattr(os, function)
    calls = []

    def refused(first: Any, *rest: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else first
        if Path(path).name.startswith(f".{name}"):
            calls.append(path)
            if len(calls) >= call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(first, *rest)

    monkeypatch.setattr(storage.os, function, refused)


@pytest.fixture(params=["text", "task"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    return task_job() if request.param == "task" else text_job(write_texts(tmp_path / "texts"))


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("name", "call", "kept"),
    [
        # A checkpoint after every step. Weights are written before one from the first validation on, at step 6; metrics
        # when it begins, and before the checkpoint of the step they are of.
        ("step-000000001", 1, 0),
        ("step-000000009", 1, 8),
        ("weights", 1, 5),
        ("weights", 4, 8),
        ("metrics", 1, 0),
        ("metrics", 2, 5),
        ("metrics", 4, 17),
        ("fit", 1, 24),
    ],
)
def test_full_disk_is_named_with_the_checkpoint_that_is_kept(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch, name: str, call: int, kept: int, function: str
) -> None:
    whole = undisturbed(job, tmp_path / "whole")
    folder = tmp_path / "full"
    with monkeypatch.context() as patched:
        full_from(patched, name, function, call)
        with pytest.raises(OSError, match="No space left on device") as caught:
            on_cpu(job, folder, checkpoint_every=1e-9)
    said = str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert f"cannot write {folder}/" in said
    assert f"/{name}" in said
    assert (f"the checkpoint of step {kept} is kept" if kept else "nothing was written before") in said
    assert list(folder.rglob("*.part")) == []
    assert max((read_checkpoint(path).step for path in checkpoints(folder / "checkpoints")), default=0) == kept
    log = Log()
    on_cpu(job, folder, resume=True, display=log)
    assert log.steps == list(range(kept + 1, 25))
    assert differing(whole, outcome(folder)) == []


def test_disk_that_is_full_from_the_start_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        full_from(patched, "config", "fsync", 1)
        with pytest.raises(OSError, match=r"cannot write .*config\.json: No space left on device"):
            on_cpu(task_job(), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="holds no training run"):
        Run.open(tmp_path / "run")
    assert on_cpu(task_job(), tmp_path / "run").finished


def test_disk_that_is_full_when_it_goes_on_says_from_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, folder = task_job(), tmp_path / "run"
    with monkeypatch.context() as patched:
        full_from(patched, "step-000000009", "fsync", 1)
        with pytest.raises(OSError, match="No space left"):
            on_cpu(job, folder, checkpoint_every=1e-9)
    with monkeypatch.context() as patched:
        full_from(patched, "metrics", "fsync", 1)
        with pytest.raises(OSError, match=r"metrics\.jsonl.*the checkpoint of step 8 is kept"):
            on_cpu(job, folder, resume=True)
