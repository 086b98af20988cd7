"""One at a time in a folder: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from unrolled.storage import read_json, write_json

_LOCK, _HOLDER = "in-use.lock", "in-use.json"


class FolderInUse(RuntimeError):
    """Another process works in the folder."""


@contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Keep every other process that asks for it out of a folder while this one works there.

    The operating system holds the lock for as long as the process lives, so one that was killed blocks nobody. What
    stays in the folder afterwards, an empty file, has no meaning by itself. It holds on one machine. Over NFS it also
    holds between machines if the server and the mount pass locks on (NFS 4 does, unless it is mounted with
    local_lock); where they do not, two machines can work in one folder and are not told.

    Args:
        folder: made if it is not there. Folders below it are not locked.
        what: what is done there, in words: "study", "training run".

    Raises:
        FolderInUse: another one is at work; the message names the folder, and the process and its machine. It is raised
            at once, and nothing is changed.
        OSError: the folder cannot be made or written, or its file system has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire(blocking=False)
    except Timeout:
        raise FolderInUse(f"{folder} is in use by {_holder(folder)}; wait for it, or choose another folder") from None
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write {folder}: {error.strerror or error}; choose another folder"
        ) from None
    try:
        # Beside the lock's file and not in it: a process that tries for the lock may empty that.
        write_json(folder / _HOLDER, {"what": what, "pid": os.getpid(), "host": socket.gethostname()})
        try:
            yield
        finally:
            (folder / _HOLDER).unlink(missing_ok=True)
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    try:
        told = read_json(folder / _HOLDER)
        return f"a {told['what']}, process {told['pid']} on {told['host']}"
    except (OSError, ValueError, KeyError):
        # It has the lock and has not said yet who it is, or it is just leaving.
        return "another process"
