"""What a plot shows, before anything draws it."""

from __future__ import annotations

from dataclasses import dataclass


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
