"""`unrolled view` as a process of its own, which prints where it listens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Viewing:
    """A viewer that runs: its link, and the process's number."""

    url: str
    pid: int


@contextmanager
def viewing(path: Path, *options: str) -> Iterator[Viewing]:
    """The viewer of a path for as long as it is needed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unrolled", "view", str(path), "--no-open", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("The viewer is at "), line + process.stderr.read()
        yield Viewing(line.split()[-1], process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "Traceback" not in said
