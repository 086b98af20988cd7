"""What a plot shows, before anything draws it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Curve:
    """One line of a plot, with its interval over seeds; NaN leaves a gap."""

    label: str
    cell: str
    state: str
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """One plot: its curves, and the horizontal lines (label, value) they are to be compared with."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    lines: tuple[tuple[str, float], ...] = ()
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class HeatMap:
    """Values over two dimensions: one row of `values` for each name in `rows`, one column for each x.

    Attributes:
        low, high: the values at the two ends of the colour scale.
        diverging: whether the middle of the scale is a neutral value.
    """

    title: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    low: float
    high: float
    diverging: bool = False


@dataclass(frozen=True)
class Dots:
    """One figure with its interval for each name, one below the other."""

    title: str
    x_label: str
    rows: tuple[str, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    lines: tuple[tuple[str, float], ...] = ()


def bare(label: str, cell: str, state: str, x: Iterable[Any], y: Iterable[Any]) -> Curve:
    """A line without intervals."""
    places, values = tuple(map(float, x)), tuple(map(float, y))
    nothing = (math.nan,) * len(places)
    return Curve(label, cell, state, places, values, nothing, nothing)
