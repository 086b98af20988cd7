"""The loop: from a span to the units that are on in it and off around it, and from those to spans like it elsewhere."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.selection import Region
from unrolled.trace import Trace
from unrolled.viewer.searching.candidates import AROUND, Spans, best_apart, candidates
from unrolled.viewer.searching.portions import Numbers, Tell, checked_lengths, silent, values_of, width
from unrolled.viewer.searching.units import Unit, check_threshold, how_many, is_on, names_of, short_between, where_on

__all__ = ["Found", "Match", "Place", "Unit", "matches", "suggested", "units_on"]

# A unit is on in a span where it is on at 9 of 10 steps or more, and off around it where it is at 1 of 10 or fewer.
# For spans of fewer than ten steps that means every step.
TENTHS_ON, TENTHS_AROUND = 9, 1
# A span is read so many steps at a time; of a longer one a threshold is suggested by that many, evenly spaced.
AT_ONCE = 4096


@dataclass(frozen=True)
class Place:
    """A span of steps of one sequence: from `start` up to, and without, `stop`."""

    sequence: int
    start: int
    stop: int


@dataclass(frozen=True)
class Found:
    """A unit that is on in a span and off around it.

    Attributes:
        unit: which.
        on: the share of the span's steps it is on.
        around: the share of the steps around the span it is on; 0 where there are none.
        strength: how much higher sign * value is in the span than around it, on average, in the state's own units;
            where there are no steps around, the average in the span.
    """

    unit: Unit
    on: float
    around: float
    strength: float


@dataclass(frozen=True)
class Match:
    """A span that is like the one selected.

    Attributes:
        place: where.
        score: how much, from above 0 to 1; see `matches`.
        on: how many of the units are on at half of its steps or more.
    """

    place: Place
    score: float
    on: int


def units_on(
    trace: Trace,
    names: Sequence[str],
    place: Place,
    *,
    threshold: float,
    around: int = AROUND,
    lengths: Sequence[int] | None = None,
) -> list[Found]:
    """The units that are on in a span and off around it, best first.

    A unit is on at a step where sign * value >= threshold; both signs are looked at. In the span it has to be on at
    9 of 10 steps or more (at every step of a span of fewer than ten), around it at 1 of 10 or fewer. Around are the
    `around` steps on either side that the sequence has; where it has none, every unit counts as off around the span.
    Steps around may belong to another document where states were reset.

    Args:
        trace: what was recorded.
        names: the recorded states and gates whose units are looked at.
        place: the span.
        threshold: a value of the state; `suggested` proposes one.
        around: how many steps on either side.
        lengths: the steps of each sequence; as the trace knows them if omitted.

    Returns:
        Ranked by the share on in the span less the share on around it, then by strength, then in the trace's order.
        Nothing found is an empty list.

    Raises:
        ValueError: a name was not recorded, the place is not inside the recording, or a number makes no sense.
    """
    check_threshold(threshold)
    inside, outside = _sides(trace, names, place, around, lengths)
    spans, surroundings = len(inside), sum(map(len, outside))
    found = []
    for name in names:
        on, total = _count(trace, name, place.sequence, [inside], threshold)
        on_around, total_around = _count(trace, name, place.sequence, outside, threshold)
        for row, sign in enumerate((1, -1)):
            passing = (10 * on[row] >= TENTHS_ON * spans) & (10 * on_around[row] <= TENTHS_AROUND * surroundings)
            with np.errstate(invalid="ignore"):
                strength = sign * (total / spans - (total_around / surroundings if surroundings else 0))
            for number in np.flatnonzero(passing).tolist():
                unit = Unit(name, number, sign)
                share = on_around[row, number] / surroundings if surroundings else 0.0
                found.append(Found(unit, float(on[row, number] / spans), float(share), float(strength[number])))
    return sorted(found, key=lambda one: (one.around - one.on, -np.nan_to_num(one.strength, nan=-np.inf)))


def suggested(
    trace: Trace,
    names: Sequence[str],
    place: Place,
    *,
    around: int = AROUND,
    lengths: Sequence[int] | None = None,
) -> float:
    """The threshold above 0 at which `units_on` finds most units, with as few digits as that allows.

    Where a range of thresholds does as well it is one near the middle. Where no threshold finds any unit it is the
    middle magnitude of the values in the span (1 if that is 0). Of spans above 4,096 steps so many are looked at,
    evenly spaced.

    Raises:
        ValueError: as for `units_on`.
    """
    inside, outside = _sides(trace, names, place, around, lengths)
    stride = -(-len(inside) // AT_ONCE)
    lows, highs, magnitudes = [], [], []
    for name in names:
        held = _read(trace, name, place.sequence, inside[::stride]).astype(np.float64)
        free = np.concatenate([_read(trace, name, place.sequence, side) for side in outside]).astype(np.float64)
        magnitudes.append(np.abs(held[np.isfinite(held)]))
        for sign in (1, -1):
            # The lowest value of the best nine tenths in the span; the highest but the best tenth around it.
            needed = -(-TENTHS_ON * len(held) // 10)
            highs.append(_ranked(sign * held, needed))
            allowed = TENTHS_AROUND * len(free) // 10
            lows.append(_ranked(sign * free, allowed + 1) if len(free) else np.zeros(held.shape[1]))
    low, high = np.maximum(np.concatenate(lows), 0), np.concatenate(highs)
    usable = (high > low) & np.isfinite(high)
    if usable.any():
        return _commonest(low[usable], high[usable])
    middle = float(np.median(np.concatenate(magnitudes))) if any(map(len, magnitudes)) else 0.0
    return float(f"{middle:.2g}") or 1.0


def matches(
    trace: Trace,
    units: Sequence[Unit],
    place: Place,
    *,
    threshold: float,
    around: int = AROUND,
    limit: int = 50,
    lengths: Sequence[int] | None = None,
    tell: Tell = silent,
) -> list[Match]:
    """Spans elsewhere in which units are on and around which they are off, best first.

        score = max(0, share on in the span - share on around it) * sqrt(shorter / longer)

    where a share is of all units at all those steps together, around are the `around` steps on either side that the
    sequence has (no steps: share 0), and the root is of the lengths of the span and the selected one: a unit that is
    on for a single step is like a long span in nothing else. A span as long as the selected one in which all units are
    on throughout, and off around it, scores 1; so does the selected one, if it is such. Chance scores about 0: a unit
    that is on at random is so in the span as often as around it.

    Looked at are the runs of steps at which some number of the units or more are on, for every such number (32 of them,
    evenly spaced, where there are more units), with gaps of no, 1, 3 or 10 steps closed. Of spans that overlap the
    best is kept; of equal ones the first.

    Args:
        trace: what was recorded.
        units: those that `units_on` found, or any.
        place: the selected span, which no match overlaps.
        threshold: as for `units_on`.
        around: how many steps on either side.
        limit: at most so many.
        lengths: the steps of each sequence; as the trace knows them if omitted.
        tell: called with (portions read, portions in all); what it raises ends the search.

    Returns:
        Spans of any length in all sequences, which overlap neither each other nor `place`; equal scores in the order
        of their places. One bit a step and unit is kept in memory.

    Raises:
        ValueError: as for `units_on`; or no units are given, or one is not in the trace.
    """
    check_threshold(threshold)
    _at_least("limit", limit, 1)
    names = names_of(trace, units)
    _sides(trace, names, place, around, lengths)
    steps = checked_lengths(trace, names, lengths)
    bits = where_on(trace, units, [threshold] * len(units), tell=tell)
    found: list[Match] = []
    for sequence, length in enumerate(steps.tolist()):
        here = bits[sequence, :length]
        spans = candidates(how_many(here), len(units), around, place.stop - place.start)
        selected = Spans.of(place.start, place.stop) if place.sequence == sequence else None
        for start, stop, score in best_apart(spans, limit, apart_from=selected):
            on = np.unpackbits(here[start:stop], axis=1, count=len(units)).sum(axis=0, dtype=np.int64)
            found.append(Match(Place(sequence, start, stop), score, int((2 * on >= stop - start).sum())))
    return sorted(found, key=lambda one: (-one.score, one.place.sequence, one.place.start))[:limit]


def _sides(
    trace: Trace, names: Sequence[str], place: Place, around: int, lengths: Sequence[int] | None
) -> tuple[range, list[range]]:
    """The steps of a span, and those on either side of it."""
    steps = checked_lengths(trace, names, lengths)
    _at_least("around", around, 0)
    if not 0 <= operator.index(place.sequence) < len(steps):
        raise ValueError(f"place: given sequence {place.sequence}, expected one from 0 to {len(steps) - 1}")
    length = int(steps[place.sequence])
    if not 0 <= operator.index(place.start) < operator.index(place.stop) <= length:
        raise ValueError(
            f"place: given steps {place.start} to {place.stop}, expected one step or more of the {length} of sequence "
            f"{place.sequence}"
        )
    before = range(max(0, place.start - around), place.start)
    after = range(place.stop, min(length, place.stop + around))
    return range(place.start, place.stop), [before, after]


def _at_least(argument: str, given: int, least: int) -> None:
    if operator.index(given) < least:
        raise ValueError(f"{argument}: given {given}, expected {least} or more")


def _count(
    trace: Trace, name: str, sequence: int, parts: Sequence[range], threshold: float
) -> tuple[Numbers, NDArray[np.float64]]:
    """At how many of some steps each unit is on, (2, H) by sign, and the sum of its values, (H,)."""
    units = width(trace, name)
    on, total = np.zeros((2, units), np.int64), np.zeros(units)
    for part in parts:
        for first in range(0, len(part), AT_ONCE):
            values = _read(trace, name, sequence, part[first : first + AT_ONCE])
            on += np.stack([is_on(values, sign, threshold).sum(axis=0) for sign in (1, -1)])
            with np.errstate(invalid="ignore"):
                total += values.sum(axis=0, dtype=np.float64)
    return on, total


def _read(trace: Trace, name: str, sequence: int, steps: range) -> NDArray[Any]:
    """(steps, H), also of no steps."""
    if not steps:
        return np.zeros((0, width(trace, name)), np.float32)
    units = range(width(trace, name))
    found: NDArray[Any] = values_of(trace, name, Region(range(sequence, sequence + 1), steps, units))[0]
    return found


def _ranked(values: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """The value of each unit that is so many from the highest, the highest being 1; NaN counts as lowest. (T, H)"""
    values = np.where(np.isnan(values), -np.inf, values)
    found: NDArray[np.float64] = np.partition(values, len(values) - rank, axis=0)[len(values) - rank]
    return found


def _commonest(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """A number above low and not above high for as many of the pairs as possible."""
    edges, at = np.unique(np.concatenate([low, high]), return_inverse=True)
    change = np.zeros(len(edges), np.int64)
    np.add.at(change, at[: len(low)], 1)
    np.add.at(change, at[len(low) :], -1)
    holding = np.cumsum(change)[:-1]
    best = holding == holding.max()
    widest = int(np.argmax(np.where(best, np.diff(edges), -1)))
    bottom, top = float(edges[widest]), float(edges[widest + 1])
    return short_between(bottom, top)
