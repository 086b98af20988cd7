"""Rows of a table on a grid of equal steps, one grid for each series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.data.tables import Columns

Array = NDArray[Any]

_REMARKS = 5  # series whose gaps are told of one by one
_UNITS = (
    ("day", 86400 * 10**9),
    ("hour", 3600 * 10**9),
    ("minute", 60 * 10**9),
    ("second", 10**9),
    ("millisecond", 10**6),
)
_DAY = _UNITS[0][1]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the rows of one series stand in time.

    Attributes:
        series: its name.
        rows: which rows of the table, by time.
        places: at which steps of the grid they stand.
        begin: the time of the first step, in nanoseconds since 1970 or as the table numbers its steps.
        step: how far apart steps are, in the same unit.
        length: steps.
    """

    series: str
    rows: slice | NDArray[np.int64]
    places: slice | NDArray[np.int64]
    begin: int
    step: int
    length: int

    def times(self) -> NDArray[np.datetime64]:
        """(length,) datetime64[ns] of every step."""
        return (self.begin + self.step * np.arange(self.length)).view("datetime64[ns]")


def regular(columns: Columns, *, time: str | None, group: str | None) -> tuple[list[Grid], list[str]]:
    """The grid of each series in the order of their first rows, and remarks on what was done.

    Args:
        columns: a table, with the times and the texts that are named here.
        time: the column of times or steps; rows are taken in order if None.
        group: the column of the series' names; all rows are one series if None.

    Raises:
        ValueError: a series has one row, twice the same time, a time off the grid, or less than half of its rows; a row
            belongs to no series. The message names the file, the column and the rows.
    """
    names, ends, order = _series(columns, group)
    starts = ends[:-1]
    counts = np.diff(ends)
    few = np.flatnonzero(counts < 2)
    if len(few):
        of = "" if group is None else f"series {names[few[0]]!r} of column {group!r} "
        raise ValueError(f"{columns.path}: {of}has {counted(int(counts[few[0]]), 'row')}; a time series needs more")
    if time is None:
        grids = [
            Grid(series=name, rows=_rows(order, a, b), places=slice(None), begin=0, step=1, length=int(b - a))
            for name, a, b in zip(names, starts, ends[1:], strict=True)
        ]
        return grids, ["there is no column of times, so rows are taken in order, one step each"]

    told = _Told(columns, time, group)
    remarks = []
    inside = np.ones(columns.rows - 1, bool)
    inside[starts[1:] - 1] = False
    keys = told.keys if order is None else told.keys[order]
    if (inside & (np.diff(keys) < 0)).any():
        order = (
            np.argsort(told.keys, kind="stable") if group is None else np.lexsort((told.keys, columns.texts[group][0]))
        )
        keys = told.keys[order]
        remarks.append(f"rows were sorted by {time!r}")

    gaps = np.diff(keys)
    same = np.flatnonzero(inside & (gaps == 0))
    if len(same):
        before, row = _at(order, same[0], same[0] + 1)
        raise told.twice(before, row)
    step = _commonest(gaps[inside])
    del gaps, inside
    places = keys - np.repeat(keys[starts], counts)
    off = np.flatnonzero(places % step)
    if len(off):
        before, row = _at(order, off[0] - 1, off[0])
        raise told.off_grid(before, row, step)
    places //= step
    lengths = places[ends[1:] - 1] + 1
    sparse = np.flatnonzero(lengths > 2 * counts)
    if len(sparse):
        raise told.sparse(names[sparse[0]], int(counts[sparse[0]]), int(lengths[sparse[0]]), step)
    remarks += _gaps(names, time, group, (lengths - counts).tolist())
    grids = [
        Grid(
            series=name,
            rows=_rows(order, a, b),
            places=slice(None) if length == b - a else places[a:b],
            begin=int(keys[a]),
            step=step,
            length=int(length),
        )
        for name, a, b, length in zip(names, starts, ends[1:], lengths, strict=True)
    ]
    return grids, remarks


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _series(columns: Columns, group: str | None) -> tuple[list[str], Array, NDArray[np.int64] | None]:
    """The names of the series; where each begins and the last one ends; and the rows so ordered, None as they stand."""
    if group is None:
        return [""], np.array([0, columns.rows]), None
    codes, names = columns.texts[group]
    if "" in names:
        row = int(np.argmax(codes == names.index("")))
        raise ValueError(
            f"{columns.path}: column {group!r}, {columns.place(row)}: the name of the series is missing; give every "
            "row one, or leave the row out"
        )
    ends = np.concatenate(([0], np.cumsum(np.bincount(codes, minlength=len(names)))))
    return names, ends, None if (np.diff(codes) >= 0).all() else np.argsort(codes, kind="stable")


def _rows(order: NDArray[np.int64] | None, begin: int, end: int) -> slice | NDArray[np.int64]:
    return slice(int(begin), int(end)) if order is None else order[begin:end]


def _at(order: NDArray[np.int64] | None, *places: int) -> list[int]:
    """The rows at places of an order."""
    return [int(place if order is None else order[place]) for place in places]


def _commonest(gaps: NDArray[np.int64]) -> int:
    """The commonest of some differences, the least of those that are equally common."""
    if gaps.min() == gaps.max():
        return int(gaps[0])
    values, counts = np.unique(gaps, return_counts=True)
    return int(values[counts.argmax()])


def _gaps(names: list[str], time: str, group: str | None, missing: list[int]) -> list[str]:
    """Remarks on the rows that series lack."""
    lacking = [(name, number) for name, number in zip(names, missing, strict=True) if number]
    remarks = []
    for name, number in lacking[:_REMARKS]:
        were, stand = ("was", "stands as a gap") if number == 1 else ("were", "stand as gaps")
        whose = repr(time if group is None else name)
        remarks.append(f"{counted(number, 'row')} {were} missing in the times of {whose}, and {stand}")
    rest = lacking[_REMARKS:]
    if rest:
        rows = counted(sum(number for _, number in rest), "row")
        remarks.append(f"{rows} were missing in the times of {len(rest)} more series, and stand as gaps")
    return remarks


class _Told:
    """Times of a table, and the errors about them."""

    def __init__(self, columns: Columns, time: str, group: str | None) -> None:
        self._columns, self._group = columns, group
        self._column = f"{columns.path}: column {time!r}"
        self._dated = columns.times is not None
        keys = columns.times if columns.times is not None else columns.steps
        assert keys is not None
        self.keys: NDArray[np.int64] = keys.view(np.int64)

    def twice(self, first: int, second: int) -> ValueError:
        place, group = self._columns.place, self._group
        where = "" if group is None else f", in series {self._name(first)!r}"
        advice = (
            " Are there several series in the file? Name the column that tells them apart: group=."
            if group is None
            else ""
        )
        if self._dated:
            advice += " Local times come twice when clocks are put back; write them in UTC."
        return ValueError(
            f"{self._column}: {place(first)} and {place(second)} have the same time, {self._word(first)}{where}; "
            f"expected a time once only.{advice}"
        )

    def off_grid(self, before: int, row: int, step: int) -> ValueError:
        advice = "write times at equal steps: round them, or take means over equal spans"
        if self._dated and 28 * _DAY <= step <= 366 * _DAY:
            advice = (
                "months and years are not equally long, so they make no regular grid: leave time out where no row is "
                "missing, or number the months in a column and give that as time"
            )
        return ValueError(
            f"{self._column}, {self._columns.place(row)}: {self._word(row)} comes after {self._word(before)}, and "
            f"is not on the grid of the commonest step, {self._step(step)}; {advice}"
        )

    def sparse(self, name: str, rows: int, length: int, step: int) -> ValueError:
        of = "" if self._group is None else f" of series {name!r}"
        return ValueError(
            f"{self._column}: with the commonest step, {self._step(step)}, {length - rows:,} of the {length:,} times"
            f"{of} have no row, more than half; write times at equal steps, and leave out series of another step"
        )

    def _name(self, row: int) -> str:
        codes, names = self._columns.texts[self._group or ""]
        return names[int(codes[row])]

    def _word(self, row: int) -> str:
        if not self._dated:
            return str(self.keys[row])
        word = str(self.keys[row].view("datetime64[ns]"))
        return word.rstrip("0").removesuffix(".").removesuffix("T00:00:00").replace("T", " ")

    def _step(self, step: int) -> str:
        if self._dated:
            for unit, size in _UNITS:
                if step % size == 0:
                    return counted(step // size, unit)
        return f"{step:,} nanoseconds" if self._dated else f"{step:,}"
