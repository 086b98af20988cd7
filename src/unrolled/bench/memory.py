"""The memory that training takes: the peak of a step above the level before the first, in a process of its own.

What is measured is the resident memory of the whole process, so buffers, gradients, what the autograd graph keeps and
what a library caches all count. Before, a tiny layer is trained and a large product taken, so that neither libraries
that are loaded at their first use nor the threads' own buffers are charged to the row; the weights, the input and the
gradient of the output are there already; and memory that was freed is given back, so that none is found ready.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path

import torch

from unrolled.bench.contestants import CONTESTANTS
from unrolled.bench.numbers import draw
from unrolled.bench.rows import Row

_STEPS = 3  # what is kept from one step to the next belongs to the peak
_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def measurable() -> bool:
    """Whether this system can say how much memory a process has had at most since a moment."""
    return _RESET.exists() and _STATUS.exists()


def peak(contestant: str, cell: str, row: Row, phase: str, threads: int) -> int:
    """Bytes by which training steps of one contestant exceed the level before them, in a fresh process.

    Raises:
        RuntimeError: the process failed; the message is its last line.
    """
    asked = json.dumps([contestant, cell, str(row), phase, threads])
    code = "from unrolled.bench.memory import _measure; _measure()"
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"memory of {contestant} on {cell} {row}: {last}")
    return int(done.stdout)


def _measure() -> None:
    contestant, cell, text, phase, threads = json.loads(sys.argv[1])
    torch.set_num_threads(threads)
    row = Row.parse(text)
    tiny = Row(2, 3, 4, 5, row.layers, row.bidirectional, row.loss)
    enter = CONTESTANTS[contestant].enter
    for _ in range(2):
        enter(draw(cell, tiny), phase, threads)[0]()
    torch.mm(torch.ones(1024, 1024), torch.ones(1024, 1024))
    work, _ = enter(draw(cell, row), phase, threads)
    gc.collect()
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
    _RESET.write_text("5")
    before = _status("VmRSS")
    for _ in range(_STEPS):
        work()
    print(_status("VmHWM") - before)


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"{_STATUS} has no {name}")
