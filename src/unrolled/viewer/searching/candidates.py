"""Spans of steps at which several units are on together: which there are, and the best of those that do not overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.viewer.searching.portions import Numbers

AROUND = 10  # steps on either side of a span that count as around it
LEVELS = 32
GAPS = (0, 1, 3, 10)
# Equal scores have to compare as equal.
DIGITS = 12


@dataclass(frozen=True)
class Spans:
    """Spans of one sequence with their scores, each (N,)."""

    starts: Numbers
    stops: Numbers
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, start: int, stop: int) -> Spans:
        """A single span."""
        return cls(np.array([start]), np.array([stop]), np.ones(1))

    def at(self, chosen: NDArray[np.bool_] | Numbers) -> Spans:
        return Spans(self.starts[chosen], self.stops[chosen], self.scores[chosen])

    def apart_from(self, start: int, stop: int) -> Spans:
        """Those that share no step with a span."""
        return self.at((self.stops <= start) | (self.starts >= stop))


def candidates(on: Numbers, units: int, around: int, length: int) -> Spans:
    """Runs of steps at which some number of the units are on, with their scores; those of score 0 are left out.

    Args:
        on: (T,) how many units are on at each step.
        units: how many there are.
        around: steps on either side of a run that count as around it.
        length: steps of the span that they are to be like.
    """
    levels = np.unique(np.linspace(1, units, min(units, LEVELS)).round().astype(np.int64))
    found = [run for level in levels for run in _runs(on >= level)]
    spans = np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)
    starts, stops = spans[:, 0], spans[:, 1]
    scored = Spans(starts, stops, scores(on, starts, stops, units, around, length))
    return scored.at(scored.scores > 0)


def scores(on: Numbers, starts: Numbers, stops: Numbers, units: int, around: int, length: int) -> NDArray[np.float64]:
    """The share on in each span less the share on around it, at least 0, by how alike the lengths are: (N,)."""
    before, after = np.maximum(starts - around, 0), np.minimum(stops + around, len(on))
    until = np.concatenate([[0], np.cumsum(on)])
    inside = until[stops] - until[starts]
    outside = until[after] - until[before] - inside
    steps, surroundings = stops - starts, (after - before) - (stops - starts)
    difference = inside / (steps * units) - outside / np.maximum(surroundings * units, 1)
    alike = np.sqrt(np.minimum(steps, length) / np.maximum(steps, length))
    found: NDArray[np.float64] = np.maximum(0.0, (difference * alike).round(DIGITS))
    return found


def best_apart(spans: Spans, limit: int, *, apart_from: Spans | None = None) -> list[tuple[int, int, float]]:
    """The best spans of which no two overlap, nor any the given one, as (start, stop, score), best first."""
    left = spans.at(np.lexsort((spans.stops, spans.starts, -spans.scores)))
    if apart_from is not None:
        left = left.apart_from(int(apart_from.starts[0]), int(apart_from.stops[0]))
    found: list[tuple[int, int, float]] = []
    while len(left.starts) and len(found) < limit:
        start, stop = int(left.starts[0]), int(left.stops[0])
        found.append((start, stop, float(left.scores[0])))
        left = left.apart_from(start, stop)
    return found


def _runs(held: NDArray[np.bool_]) -> list[Numbers]:
    """The runs of True, (N, 2) from start to stop, once for each gap that is closed; (T,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], held, [False]]).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return []
    found = []
    for gap in GAPS:
        parted = starts[1:] - stops[:-1] > gap
        found.append(np.stack([starts[np.append(True, parted)], stops[np.append(parted, True)]], axis=1))
    return found
