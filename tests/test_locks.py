"""A folder's lock: one at a time, and nothing that is left of a dead process stands in the way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unrolled.locks import FolderInUse, only_one

HOLDS = """
import subprocess, sys, time
from pathlib import Path
from unrolled.locks import only_one
with only_one(Path(sys.argv[1]), "training run"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock of tmp_path, and a child that lives on."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    yield process
    process.kill()
    process.communicate()
    os.kill(child, 9)


def test_another_process_is_told_who_has_the_folder_and_changes_nothing(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    with pytest.raises(FolderInUse) as caught, only_one(tmp_path, "study"):
        pass
    assert str(caught.value) == (
        f"{tmp_path} is in use by a training run, process {holder.pid} on {socket.gethostname()}; "
        "wait for it, or choose another folder"
    )
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before


def test_lock_ends_with_a_process_that_is_killed_also_if_its_child_lives(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / "in-use.json").exists()  # what a dead process has left
    with only_one(tmp_path, "study"):
        pass
    assert not (tmp_path / "in-use.json").exists()


def test_this_process_cannot_have_a_folder_twice(tmp_path: Path) -> None:
    with (
        only_one(tmp_path, "study"),
        pytest.raises(FolderInUse, match=f"a study, process {os.getpid()} on"),
        only_one(tmp_path, "study"),
    ):
        pass


def test_one_that_was_refused_does_not_open_the_folder_to_a_third(tmp_path: Path) -> None:
    with only_one(tmp_path, "study"):
        for _ in range(2):
            with pytest.raises(FolderInUse), only_one(tmp_path, "study"):
                pass


def test_folder_is_free_after_work_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), only_one(tmp_path, "study"):
        raise ZeroDivisionError
    with only_one(tmp_path, "study"):
        pass


def test_folders_below_one_another_and_beside_are_not_locked(tmp_path: Path) -> None:
    with only_one(tmp_path, "study"), only_one(tmp_path / "below", "training run"), only_one(tmp_path / "b", "study"):
        pass


@pytest.mark.parametrize("left", [None, "", "{", "{}", "[]"])
def test_holder_that_has_not_said_who_it_is_still_has_the_folder(tmp_path: Path, left: str | None) -> None:
    with only_one(tmp_path, "study"):
        if left is None:
            (tmp_path / "in-use.json").unlink()
        else:
            (tmp_path / "in-use.json").write_text(left)
        with pytest.raises(FolderInUse, match="is in use by another process"), only_one(tmp_path, "study"):
            pass


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(OSError, match="cannot write .*file/study: .*; choose another folder"),
        only_one(tmp_path / "file" / "study", "study"),
    ):
        pass
