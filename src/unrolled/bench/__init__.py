"""Speed beside torch.nn and other runtimes, measured in one run and only for results that are right.

rows → numbers → contestants → truth → alternation, memory → results → table, plot
"""

from __future__ import annotations

from unrolled.bench.measure import bench
from unrolled.bench.results import Absent, Failed, Measurement, Result, Timing, Wrong
from unrolled.bench.rows import CELLS, PHASES, ROWS, Row

__all__ = [
    "CELLS",
    "PHASES",
    "ROWS",
    "Absent",
    "Failed",
    "Measurement",
    "Result",
    "Row",
    "Timing",
    "Wrong",
    "bench",
]
