"""Speed beside torch.nn and other runtimes, measured in one run and only for results that are right.

rows, dtypes → numbers → contestants → devices → truth → alternation, memory → results → table, plot
"""

from __future__ import annotations

from unrolled.bench.devices import Device
from unrolled.bench.dtypes import DTYPES
from unrolled.bench.measure import bench
from unrolled.bench.results import Absent, Failed, Measurement, Result, Timing, Wrong
from unrolled.bench.rows import CELLS, GPU_ROWS, PHASES, ROWS, Row

__all__ = [
    "CELLS",
    "DTYPES",
    "GPU_ROWS",
    "PHASES",
    "ROWS",
    "Absent",
    "Device",
    "Failed",
    "Measurement",
    "Result",
    "Row",
    "Timing",
    "Wrong",
    "bench",
]
