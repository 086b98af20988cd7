"""A unit that is on where its value is at or past a threshold, and where in a recording that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.trace import Trace
from unrolled.viewer.searching.portions import Numbers, Tell, count, extent, portions, silent, width


@dataclass(frozen=True)
class Unit:
    """One unit of a recorded state or gate; it is on where sign * value >= threshold.

    The threshold is compared in the precision of the recorded values, half of one in float32. NaN is off.

    Attributes:
        name: the recorded name.
        number: of the unit.
        sign: 1, or -1 for a unit that is on where its value is low.

    Raises:
        ValueError: the sign is another.
    """

    name: str
    number: int
    sign: int = 1

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ValueError(f"sign: given {self.sign!r} for unit {self.number} of {self.name!r}, expected 1 or -1")


def is_on(values: NDArray[Any], sign: int | NDArray[Any], threshold: float | NDArray[Any]) -> NDArray[np.bool_]:
    """Where values are on."""
    if isinstance(threshold, np.ndarray):
        threshold = threshold.astype(values.dtype)
    found: NDArray[np.bool_] = np.multiply(values, sign, dtype=values.dtype) >= threshold
    return found


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is no number."""
    if not math.isfinite(threshold):
        raise ValueError(f"threshold: given {threshold!r}, expected a finite number")


def short_between(bottom: float, top: float) -> float:
    """The number near the middle of two that needs fewest digits."""
    middle = bottom + (top - bottom) / 2
    for digits in range(1, 17):
        short = float(f"{middle:.{digits}g}")
        if bottom < short < top:
            return short
    return top


def names_of(trace: Trace, units: Sequence[Unit]) -> list[str]:
    """The recorded names that units are of, each once.

    Raises:
        ValueError: there are no units, or one is not in the trace.
    """
    if not units:
        raise ValueError("units: none given, expected one or more")
    names = list(dict.fromkeys(unit.name for unit in units))
    extent(trace, names)
    for unit in units:
        if not 0 <= unit.number < width(trace, unit.name):
            raise ValueError(
                f"units: {unit.name!r} has units 0 to {width(trace, unit.name) - 1}, given unit {unit.number}"
            )
    return names


def where_on(
    trace: Trace, units: Sequence[Unit], thresholds: Sequence[float], *, tell: Tell = silent
) -> NDArray[np.uint8]:
    """Where each unit is on, a bit for each: (B, T, ceil(units / 8)), as `np.packbits` lays them out.

    The recording is read once, a portion at a time; what is kept of it is these bits.
    """
    names = names_of(trace, units)
    sequences, steps = extent(trace, names)
    bits = np.zeros((sequences, steps, -(-len(units) // 8)), np.uint8)
    done, of = 0, count(trace, names)
    for name in names:
        of_name = [at for at, unit in enumerate(units) if unit.name == name]
        numbers = sorted({units[at].number for at in of_name})
        column = {number: at for at, number in enumerate(numbers)}
        for portion in portions(trace, name, numbers):
            rows = slice(portion.sequences.start, portion.sequences.stop)
            part = bits[rows, portion.steps.start : portion.steps.stop]
            for at in of_name:
                on = is_on(portion.values[..., column[units[at].number]], units[at].sign, thresholds[at])
                part[..., at // 8] |= on.astype(np.uint8) << np.uint8(7 - at % 8)
            done += 1
            tell(done, of)
    return bits


def how_many(bits: NDArray[np.uint8]) -> Numbers:
    """How many units are on at each step: (..., T, bytes) -> (..., T)."""
    found: Numbers = np.bitwise_count(bits).sum(axis=-1, dtype=np.int64)
    return found
