"""A network trained on source code through the command line, good enough that a unit of it follows strings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

# About 50 s on one core. Of seeds 0, 1 and 2 every one has such a unit: see test_browser_finding.
LABELLED = ("in_string", "in_comment")
OPTIONS = ("--hidden-size", "128", "--steps", "2000", "--batch-size", "32", "--length", "100", "--seed", "0")


def trained_on_code(within: Path) -> Path:
    """The folder of the run below `within`; whoever comes first trains it, and others wait."""
    folder = within / "code-lstm"
    with FileLock(within / "code-lstm.lock"):
        if not (folder / "trace.zarr").exists():
            command = ["train", "text", "code", *OPTIONS, "--validate-every", "2000", "--threads", "1"]
            unrolled(*command, "--out", str(folder))
            unrolled("record", str(folder), "--out", str(folder / "trace.zarr"))
    return folder


def unrolled(*arguments: str) -> str:
    """Run the command line; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "unrolled", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
