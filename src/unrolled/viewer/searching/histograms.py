"""Histograms of every unit's values where a label holds and where it doesn't, and the thresholds that part them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.selection import Region
from unrolled.trace import Trace
from unrolled.viewer.searching.portions import Numbers, extent, values_of, width
from unrolled.viewer.searching.units import short_between

BINS = 1024
# Steps from which the bins of a unit are laid out, and in how many places of the recording they are looked for.
SAMPLE, PLACES = 4096, 16
# How many values are put into bins together: what they need fits a cache.
AT_ONCE = 2**17
HELD_OUT, DECIDING = 0, 1


@dataclass(frozen=True)
class Best:
    """Of each unit the sign and threshold with the highest F1, each (H,)."""

    sign: Numbers
    threshold: NDArray[np.float64]
    f1: NDArray[np.float64]


class Histograms:
    """Counts of one recorded name's values by unit, by bin, by what the label says, and by part of the steps.

    A value x of a unit falls into the bin of z / (1 + |z|), z = (x - centre) / scale, where centre is the median of a
    sample of the unit's values, and scale their mean distance from it. Bins are so finest where values are, and none
    is too far out for one. The lowest bin is for NaN and minus infinity.
    """

    def __init__(self, trace: Trace, name: str) -> None:
        sample = _sample(trace, name)
        sample[~np.isfinite(sample)] = np.nan
        known = ~np.isnan(sample).all(axis=0)
        self._centre, self._scale = np.zeros(sample.shape[1]), np.ones(sample.shape[1])
        self._centre[known] = np.nanmedian(sample[:, known], axis=0)
        spread = np.nanmean(np.abs(sample[:, known] - self._centre[known]), axis=0)
        # A unit that did not vary in the sample may elsewhere.
        self._scale[known] = np.where(spread > 0, spread, np.maximum(np.abs(self._centre[known]), 1))
        self._counts = np.zeros((2, 2, sample.shape[1], BINS), np.int64)  # part, label, unit, bin

    def add(self, values: NDArray[Any], holds: NDArray[np.bool_], deciding: NDArray[np.bool_]) -> None:
        """Count steps. values: (N, H), holds and deciding: (N,)."""
        units = values.shape[1]
        rows = max(1, AT_ONCE // units)
        for part in (HELD_OUT, DECIDING):
            for held in (0, 1):
                chosen = np.flatnonzero((deciding == part) & (holds == held))
                counts = np.zeros(units * BINS, np.int64)
                for first in range(0, len(chosen), rows):
                    numbers = self._bins(values[chosen[first : first + rows]])
                    numbers += np.arange(units, dtype=np.int32) * BINS
                    counts += np.bincount(numbers.ravel(), minlength=units * BINS)
                self._counts[part, held] += counts.reshape(units, BINS)

    def best(self) -> Best:
        """The sign and threshold of each unit that part the deciding steps best."""
        found = [self._best_above(sign) for sign in (1, -1)]
        better = found[1][0] > found[0][0]
        f1, edge = (np.where(better, found[1][at], found[0][at]) for at in (0, 1))
        sign = np.where(better, -1, 1)
        # Half a bin to either side; no bound of the outermost bins is used, which are endless.
        bottom, top = self._value(edge - 0.5), self._value(edge + 0.5)
        short = [short_between(low, high) for low, high in zip(bottom.tolist(), top.tolist(), strict=True)]
        return Best(sign, sign * np.array(short), f1)

    def auc(self) -> NDArray[np.float64]:
        """Of the held-out steps, the area under the ROC curve of each unit with sign 1; NaN without steps of both."""
        free, held = self._counts[HELD_OUT].astype(np.float64)
        below = np.cumsum(free, axis=1) - free / 2
        with np.errstate(invalid="ignore"):
            found: NDArray[np.float64] = (held * below).sum(axis=1) / (held.sum(axis=1) * free.sum(axis=1))
        return found

    def _best_above(self, sign: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The highest F1 of each unit, and the edge between bins, from 1 to BINS - 1, at which it is reached."""
        free, held = self._counts[DECIDING]
        if sign > 0:  # on in the bins from the edge on
            both, wrong = (np.cumsum(counts[:, ::-1], axis=1)[:, -2::-1] for counts in (held, free))
        else:  # on in the bins below the edge
            both, wrong = (np.cumsum(counts, axis=1)[:, :-1] for counts in (held, free))
        true = held.sum(axis=1, keepdims=True)
        f1 = 2 * both / np.maximum(true + both + wrong, 1)  # (H, BINS - 1)
        highest = f1.max(axis=1)
        # The first edge and the last of those around it that do as well: between them no value was seen.
        first = f1.argmax(axis=1)
        same = (both == np.take_along_axis(both, first[:, None], 1)) & (
            wrong == np.take_along_axis(wrong, first[:, None], 1)
        )
        last = BINS - 2 - same[:, ::-1].argmax(axis=1)
        return highest, (first + last) / 2 + 1

    def _bins(self, values: NDArray[Any]) -> NDArray[np.int32]:
        """(N, H) -> (N, H)."""
        dtype = values.dtype
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = (values - self._centre.astype(dtype)) / self._scale.astype(dtype)
            squashed = scaled / (1 + np.abs(scaled))
            squashed[np.isposinf(values)] = 1
            numbers = np.nan_to_num((squashed + 1) * (BINS / 2), nan=0.0)
        found: NDArray[np.int32] = np.clip(numbers, 0, BINS - 1).astype(np.int32)
        return found

    def _value(self, edge: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values, (H,), at an edge between bins, from 0 to BINS and whole or half."""
        squashed = edge / (BINS / 2) - 1
        found: NDArray[np.float64] = self._centre + self._scale * squashed / (1 - np.abs(squashed))
        return found


def _sample(trace: Trace, name: str) -> NDArray[np.float64]:
    """Some steps from all over a recording, (N, H)."""
    sequences, steps = extent(trace, [name])
    units = range(width(trace, name))
    rows = sorted({int(at) for at in np.linspace(0, sequences - 1, min(sequences, PLACES))})
    starts = max(1, PLACES // len(rows))
    each = max(1, min(SAMPLE // (len(rows) * starts), steps))
    parts = []
    for row in rows:
        for start in sorted({int(at) for at in np.linspace(0, steps - each, starts)}):
            region = Region(range(row, row + 1), range(start, start + each), units)
            parts.append(values_of(trace, name, region)[0].astype(np.float64))
    return np.concatenate(parts)
