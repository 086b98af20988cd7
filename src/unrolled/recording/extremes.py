"""A recording looked at from any distance: the lowest and highest value in each column of a plot, and exact values.

What is read from disk is blocks of about as many steps as a column has, so that it costs about the same at any
distance; single steps are read only where they are few. Blocks are as `recording.pyramid` wrote them. Where it wrote
none (in memory, in a selection, in an old recording), the first look from afar reads all steps of the sequence.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.recording import blocks, layout
from unrolled.recording.pyramid import build, has_extremes
from unrolled.recording.reading import Stored
from unrolled.selection import Region
from unrolled.source import Source

__all__ = ["Extremes", "Window", "build", "has_extremes"]

# What the values that were read last may take, so that moving a little reads a little.
MEMORY = 128 * 2**20
# What the blocks of one state may take of it that were not on disk.
MEMORY_OF_BLOCKS = MEMORY // 2
# Steps of the longest column that is put together from single steps.
_LONGEST_RAW = 4
# About what is read at one go where there are no chunks.
PIECE = 2**20


@dataclass(frozen=True)
class Window:
    """Lows and highs of one sequence's steps in columns.

    Attributes:
        start: the first step of the first column.
        stop: the step after the last column.
        span: steps in a column; the last may have fewer.
        low: (C, U) float32, the lowest value of each unit in each column; NaN where one of its values is.
        high: (C, U) float32, the highest; the same array where a column is one step.
    """

    start: int
    stop: int
    span: int
    low: NDArray[np.float32]
    high: NDArray[np.float32]


class Extremes:
    """Windows into a source. What was read last is kept, within a bound; threads may share it.

    A number of another kind than float32 becomes the nearest of that: infinite, where it is too large.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept = _Kept()
        self._reducing = Lock()

    def window(
        self,
        name: str,
        *,
        sequence: int,
        start: int,
        stop: int,
        columns: int,
        unit: int | None = None,
        quick: bool = False,
    ) -> Window:
        """The lows and highs of about `columns` columns from step `start` to before step `stop`, of all units or one.

        A column has 1, 2, 4, 16, 32, 64, ... steps and begins at a multiple of that, so that values stay the same when
        the window moves: `start` is rounded down and `stop` up, but not past the end. There are at most 1.2 times as
        many columns as asked for, and one or two from rounding, and at least 0.6 times where there are that many steps;
        but half of that where columns have 16 steps, since those of 8 would be read step by step. A `quick` window has
        no columns of 4 steps either.

        Raises:
            KeyError: `name` is not in the source.
            IndexError: there is no such sequence.
            ValueError: the steps are not a part of the recording, `columns` is less than 1, or what is read is damaged.
        """
        steps = self._check(name, sequence, start, stop)
        if columns < 1:
            raise ValueError(f"columns must be at least 1, given {columns}")
        span = _span(stop - start, columns, 2 if quick else _LONGEST_RAW)
        first, last = start // span, blocks.count(stop, span)
        units = slice(None) if unit is None else slice(unit, unit + 1)
        low, high = self._columns(name, sequence, span, first, last, steps, units)
        return Window(first * span, min(last * span, steps), span, low, high)

    def exact(self, name: str, *, sequence: int, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, U): the values from step `start` to before step `stop`; for windows of not very many steps.

        Raises: as `window`.
        """
        steps = self._check(name, sequence, start, stop)
        found: NDArray[np.float32] = self._read(name, sequence, 1, start, stop, steps)[0]
        return found

    def _check(self, name: str, sequence: int, start: int, stop: int) -> int:
        """The number of steps there are."""
        if name not in self._source.names:
            raise KeyError(f"{name!r} is not in this trace; it has {', '.join(self._source.names) or 'nothing'}")
        whole = self._source.form(name).whole(name)
        if not 0 <= sequence < len(whole.sequences):
            raise IndexError(f"sequence must be 0 to {len(whole.sequences) - 1} of {name!r}, given {sequence}")
        if not 0 <= start < stop <= len(whole.steps):
            raise ValueError(
                f"start and stop must be steps of {name!r} with 0 <= start < stop <= {len(whole.steps)}, "
                f"given {start} and {stop}"
            )
        return len(whole.steps)

    def _columns(
        self, name: str, sequence: int, span: int, first: int, last: int, steps: int, units: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Columns `first` to before `last` of `span` steps, of the longest blocks that there are for them."""
        if span < blocks.FINEST:
            return self._merged(name, sequence, 1, span, first, last, steps, units)
        there = [length for length in self._stored_spans(name) if length <= span]
        if there:
            return self._merged(name, sequence, max(there), span, first, last, steps, units)
        shortest, low, high = self._reduced(name, sequence, steps)
        if span < shortest:
            low, high = self._streamed(name, sequence, span, range(first * span, min(last * span, steps)))
            return low[:, units], high[:, units]
        number = span // shortest
        rows = slice(first * number, min(last * number, len(low)))
        return blocks.merged(low[rows, units], high[rows, units], number)

    def _merged(
        self, name: str, sequence: int, length: int, span: int, first: int, last: int, steps: int, units: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        number = span // length
        found = self._read(
            name, sequence, length, first * number, min(last * number, blocks.count(steps, length)), steps, units
        )
        low, high = found[0], found[-1]
        if number == 1:
            return low, high
        return blocks.merged(low, high, number)

    def _stored_spans(self, name: str) -> tuple[int, ...]:
        return self._source.spans(name) if isinstance(self._source, Stored) else ()

    def _read(
        self, name: str, sequence: int, span: int, start: int, stop: int, steps: int, units: slice = slice(None)
    ) -> NDArray[np.float32]:
        """(1 or 2, stop - start, U): steps, or lows and highs of stored blocks; those that are kept are not read."""
        length = self._length(name, span)
        numbers = range(start // length, blocks.count(stop, length))
        # A source in memory may have got more steps since.
        keys = {number: (name, sequence, span, steps, number) for number in numbers}
        parts = {number: part for number, key in keys.items() if (part := self._kept.get(key)) is not None}
        for run in _runs([number for number in numbers if number not in parts]):
            inside = range(run.start * length, min(run.stop * length, blocks.count(steps, span)))
            found = self._fetch(name, sequence, span, inside)
            for number, rows in zip(run, blocks.cuts(len(inside), length), strict=True):
                # A copy of its own, or each part would keep all that were read with it.
                parts[number] = found[:, rows] if len(run) == 1 else found[:, rows].copy()
                self._kept.put(keys[number], parts[number])
        cut = [parts[number][:, max(0, start - number * length) : stop - number * length, units] for number in numbers]
        return np.concatenate(cut, axis=1)

    def _length(self, name: str, span: int) -> int:
        """How many steps or blocks are kept together."""
        if isinstance(self._source, Stored):
            return self._source.chunk(name, span)[1]
        return max(1, PIECE // (4 * self._source.form(name).units))

    def _fetch(self, name: str, sequence: int, span: int, inside: range) -> NDArray[np.float32]:
        one = range(sequence, sequence + 1)
        if span > 1:
            assert isinstance(self._source, Stored)
            return _single(self._source.extremes(name, span, one, inside)[:, 0])
        units = range(self._source.form(name).units)
        return _single(layout.as_array(self._source.values(name, Region(one, inside, units))))

    def _reduced(self, name: str, sequence: int, steps: int) -> tuple[int, NDArray[np.float32], NDArray[np.float32]]:
        """Blocks of all steps of a sequence, of the shortest length of which as many are kept."""
        span, units = blocks.FINEST, self._source.form(name).units
        while 2 * 4 * units * blocks.count(steps, span) > MEMORY_OF_BLOCKS and span < steps:
            span *= blocks.FACTOR
        key = (name, sequence, span, steps, None)
        # One at a time: two threads would read the same steps, or be in each other's way.
        with self._reducing:
            kept = self._kept.get(key)
            if kept is None:
                kept = np.stack(self._streamed(name, sequence, span, range(steps)))
                self._kept.put(key, kept)
        return span, kept[0], kept[1]

    def _streamed(
        self, name: str, sequence: int, span: int, inside: range
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Blocks of steps that are read for them and not kept; they begin at a multiple of `span`."""
        number, units = blocks.count(len(inside), span), self._source.form(name).units
        low, high = (np.empty((number, units), np.float32) for _ in range(2))
        length = max(1, self._length(name, 1) // span) * span
        for part in blocks.cuts(len(inside), length):
            (values,) = self._fetch(name, sequence, 1, inside[part])
            rows = slice(part.start // span, blocks.count(part.stop, span))
            low[rows], high[rows] = blocks.merged(values, values, span)
        return low, high


class _Kept:
    """The arrays that were used last, of at most `MEMORY` bytes together."""

    def __init__(self) -> None:
        self._arrays: OrderedDict[Any, NDArray[np.float32]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: Any) -> NDArray[np.float32] | None:
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def put(self, key: Any, array: NDArray[np.float32]) -> None:
        with self._lock:
            before = self._arrays.pop(key, None)
            self._bytes += array.nbytes - (0 if before is None else before.nbytes)
            self._arrays[key] = array
            while self._bytes > MEMORY:
                _, oldest = self._arrays.popitem(last=False)
                self._bytes -= oldest.nbytes


def _span(steps: int, columns: int, longest_raw: int) -> int:
    """Steps in a column where `steps` are shown in about so many columns."""
    span = 1
    while 5 * steps > 6 * columns * span:
        span = blocks.FINEST if span == longest_raw else 2 * span
    return span


def _single(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def _runs(numbers: list[int]) -> Iterator[range]:
    """Ascending numbers as ranges of those that follow one another."""
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield range(numbers[start], numbers[place - 1] + 1)
            start = place
