"""Panels made in memory, and problems over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.data.panel import Panel
from unrolled.problems.series import Series, Windows
from unrolled.tasks.task import Split

Array = NDArray[Any]
HOUR = np.timedelta64(1, "h").astype("timedelta64[ns]")
MONDAY = np.datetime64("2024-01-01T00", "ns")


def panel(
    *values: Any,
    targets: Sequence[str] = ("y",),
    covariates: Sequence[str] = (),
    step: np.timedelta64 | None = None,
    starts: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> Panel:
    """Series of values, each (T,) or (T, C); with a step they have times, each from its start in steps."""
    made = tuple(np.asarray(v, np.float32).reshape(len(v), -1) for v in values)
    starts = starts or [0] * len(made)
    times: list[Any] = [None] * len(made)
    if step is not None:
        times = [MONDAY + (start + np.arange(len(v))) * step for start, v in zip(starts, made, strict=True)]
    return Panel(
        path="made.csv",
        series=tuple(names or (["", *"bcdefgh"][: len(made)] if len(made) > 1 else [""])),
        targets=tuple(targets),
        covariates=tuple(covariates),
        times=tuple(times),
        step=step,
        values=made,
        remarks=(),
    )


def problem(of: Panel, **options: Any) -> Series:
    """Few steps, so that a window can be looked at by eye."""
    usual: dict[str, Any] = {"seed": 0, "batch_size": 4, "horizon": 3, "window": 8, "validation": 0.15, "test": 0.15}
    return Series(of, **{**usual, **options})


def windows(series: Series, split: Split) -> list[Windows]:
    return list(series.pieces(split))


def walk(steps: int, seed: int = 0) -> Array:
    """A random walk."""
    found: Array = np.random.default_rng(seed).standard_normal(steps).cumsum()
    return found
