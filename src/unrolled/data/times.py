"""A column of times, piece by piece: what is written in it becomes nanoseconds since 1970, or numbers of steps.

A column is written one way throughout, the way of its first cell:

- ISO 8601, date and time of day or date alone, also as 2013/1/31 5:00; with a zone, times are turned to UTC.
- Day and month before the year, as 31/1/2013 or 1/31/2013 5:00 PM; a number above 12 somewhere in the column tells
  which of the two is the day.
- Whole numbers. All of them dates of the years 1900 to 2099 as 20130131, with or without hour, minute and second, they
  are that. All between 1e8 and 9.2e9 they are Unix seconds, since that is 1973 to 2261, and hardly a counter of steps
  begins above a hundred million; a thousand, a million and a billion times as much are Unix milliseconds, microseconds
  and nanoseconds. Any others are numbers of steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.data.cells import MISSING, BadCell, arrow, first, is_text, shown, texts

EXPECTED = "ISO 8601, such as 2013-01-31 17:00:00"

_CLOCK = r"(?:[ T]+(?P<h>\d{1,2}):(?P<m>\d{2})(?::(?P<s>\d{2})(?:\.(?P<f>\d{1,9}))?)?(?: *(?P<p>[AaPp])[Mm])?)?$"
_YEAR_FIRST = r"^(?P<y>\d{4})[/.-](?P<a>\d{1,2})[/.-](?P<b>\d{1,2})" + _CLOCK
_YEAR_LAST = r"^(?P<a>\d{1,2})[/.-](?P<b>\d{1,2})[/.-](?P<y>\d{4})" + _CLOCK
_UNIX = (("seconds", 10**9), ("milliseconds", 10**6), ("microseconds", 10**3), ("nanoseconds", 1))
_SECOND = 10**9
_DAY = 86400 * _SECOND

Array = NDArray[Any]


class Read(NamedTuple):
    """A column of times.

    Attributes:
        times: (N,) datetime64[ns], or None.
        steps: (N,) int64, or None.
        remark: how the cells were understood, where that is not plain to see; "" otherwise.
    """

    times: NDArray[np.datetime64] | None
    steps: NDArray[np.int64] | None
    remark: str = ""


class Times:
    """A column of times."""

    def __init__(self) -> None:
        self._way = ""
        self._example = ""
        self._rows = 0
        self._pieces: list[tuple[Array, ...]] = []

    def add(self, cells: Any) -> None:
        """Read the next cells.

        Raises:
            BadCell: one is missing, is not a time, or is not written as those before it.
        """
        if not len(cells):
            return
        self._pieces.append(self._texts(cells) if is_text(cells) else self._typed(cells))
        self._rows += len(cells)

    def done(self) -> Read:
        """All times.

        Raises:
            BadCell: day and month cannot be told apart.
        """
        columns = [np.concatenate(column) for column in zip(*self._pieces, strict=True)]
        self._pieces = []
        if self._way == "integers":
            return _integers(columns[0])
        if self._way == "year last":
            return _days_and_months(*columns, example=self._example)
        remark = "have a zone, and stand here in UTC" if self._way == "zoned" else ""
        return Read(columns[0].view("datetime64[ns]"), None, remark)

    def _texts(self, cells: Any) -> tuple[Array, ...]:
        pa, compute = arrow(), arrow(".compute")
        cells = texts(cells)
        gone = first(compute.or_(compute.is_null(cells), compute.is_in(cells, value_set=pa.array(MISSING))))
        if gone is not None:
            raise BadCell(self._rows + gone, "the time is missing; give every row one, or leave the row out")
        if not self._way:
            self._example = cells[0].as_py()
            self._way = _way(cells)
            if not self._way:
                raise BadCell(self._rows, _refusal(self._example))
        found = _READERS[self._way](cells)
        if found is None:
            raise self._odd(cells)
        return found

    def _odd(self, cells: Any) -> BadCell:
        """The error about the first of some cells that cannot be read as the column is written."""
        low, high = 0, len(cells)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _READERS[self._way](cells[low:middle]) is None else (middle, high)
        cell = cells[low].as_py()
        if not _way(cells[low : low + 1]):
            return BadCell(self._rows + low, _refusal(cell))
        return BadCell(
            self._rows + low,
            f"{shown(cell)} is not written as the first time of the column, {shown(self._example)}; write all times "
            f"one way, best as {EXPECTED}",
        )

    def _typed(self, cells: Any) -> tuple[Array, ...]:
        pa, types = arrow(), arrow(".types")
        if cells.null_count:
            raise BadCell(
                self._rows + int(first(arrow(".compute").is_null(cells)) or 0),
                "the time is missing; give every row one, or leave the row out",
            )
        kind = cells.type
        try:
            if types.is_integer(kind):
                self._way = "integers"
                return (cells.cast(pa.int64()).to_numpy(),)
            if types.is_timestamp(kind) or types.is_date(kind):
                zone = kind.tz if types.is_timestamp(kind) else None
                self._way = "zoned" if zone and zone.upper() != "UTC" else "iso"
                return (cells.cast(pa.timestamp("ns", zone)).cast(pa.int64()).to_numpy(),)
        except pa.ArrowInvalid:
            raise BadCell(None, f"holds {kind} beyond what nanoseconds can tell, the years 1678 to 2261") from None
        raise BadCell(None, f"holds {kind}; expected times, or whole numbers")


def _refusal(cell: str) -> str:
    return f"{shown(cell)} is not a time between the years 1678 and 2261; expected {EXPECTED}"


def _way(cells: Any) -> str:
    """How the first of some cells is written; "" where it is no time."""
    return next((way for way, read in _READERS.items() if read(cells[:1]) is not None), "")


def _whole(cells: Any) -> tuple[Array, ...] | None:
    pa = arrow()
    try:
        return (cells.cast(pa.int64()).to_numpy(),)
    except pa.ArrowInvalid:
        return None


def _iso(cells: Any) -> tuple[Array, ...] | None:
    pa = arrow()
    try:
        return (cells.cast(pa.timestamp("ns")).cast(pa.int64()).to_numpy(),)
    except pa.ArrowInvalid:
        pass
    parts = _parts(cells, _YEAR_FIRST)
    if parts is None:
        return None
    year, month, day, clock = parts
    days, wrong = _days(year, month, day)
    return None if wrong.any() else (days * _DAY + clock,)


def _zoned(cells: Any) -> tuple[Array, ...] | None:
    pa, compute = arrow(), arrow(".compute")
    close = compute.replace_substring_regex(cells, r"\s*(UTC|GMT)$", "Z")
    close = compute.replace_substring_regex(close, r"\s+(Z|[+-]\d\d:?\d*)$", r"\1")
    try:
        return (close.cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy(),)
    except pa.ArrowInvalid:
        return None


def _year_last(cells: Any) -> tuple[Array, ...] | None:
    parts = _parts(cells, _YEAR_LAST)
    return None if parts is None or ((parts[1] > 12) & (parts[2] > 12)).any() else parts


# In the order in which they are tried.
_READERS = {"integers": _whole, "iso": _iso, "zoned": _zoned, "year last": _year_last}


def _parts(cells: Any, pattern: str) -> tuple[Array, ...] | None:
    """(N,) year, the two numbers beside it, and the nanoseconds of the day; None where a cell is written otherwise."""
    pa, compute = arrow(), arrow(".compute")
    found = compute.extract_regex(cells, pattern)
    if found.null_count:
        return None

    def part(name: str) -> Array:
        cells = found.field(name)
        numbers: Array = compute.if_else(compute.equal(cells, ""), "0", cells).cast(pa.int64()).to_numpy()
        return numbers

    year, a, b = part("y"), part("a"), part("b")
    hour, minute, second = part("h"), part("m"), part("s")
    fraction = compute.utf8_rpad(found.field("f"), 9, "0").cast(pa.int64()).to_numpy()
    letter = compute.utf8_upper(found.field("p"))
    halved = compute.not_equal(letter, "").to_numpy(zero_copy_only=False)
    afternoon = compute.equal(letter, "P").to_numpy(zero_copy_only=False)
    if (halved & ((hour < 1) | (hour > 12))).any():
        return None
    # 12 AM is midnight and 12 PM is noon.
    hour = np.where(halved, hour % 12 + 12 * afternoon, hour)
    ranges = ((year, 1678, 2261), (a, 1, 31), (b, 1, 31), (hour, 0, 23), (minute, 0, 59), (second, 0, 59))
    if any(((values < low) | (values > high)).any() for values, low, high in ranges):
        return None
    clock = ((hour * 60 + minute) * 60 + second) * _SECOND + fraction
    return year.astype(np.int16), a.astype(np.int8), b.astype(np.int8), clock


def _days(year: Array, month: Array, day: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(N,) days since 1970, and (N,) whether there is no such day."""
    month, day = month.astype(np.int64), day.astype(np.int64)
    months = (year.astype(np.int64) - 1970) * 12 + month - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]") + (day - 1)
    wrong = (month < 1) | (month > 12) | (days.astype("datetime64[M]").astype(np.int64) != months)
    return days.astype(np.int64), wrong


def _days_and_months(year: Array, a: Array, b: Array, clock: Array, *, example: str) -> Read:
    if a.max() > 12 and b.max() > 12:
        row = int(np.argmax((a > 12) if int(np.argmax(a > 12)) > int(np.argmax(b > 12)) else (b > 12)))
        raise BadCell(
            row,
            f"{a[row]}/{b[row]}/{year[row]} has day and month in another order than a row before it; write all times "
            f"as {EXPECTED}",
        )
    # Where the two are equal in every row, it does not matter which is which.
    if a.max() <= 12 and b.max() <= 12 and (a != b).any():
        raise BadCell(
            None,
            f"holds times such as {shown(example)}, and no number above 12 tells the days from the months; write them "
            f"as {EXPECTED}",
        )
    order = "day, month, year" if a.max() > 12 else "month, day, year"
    days, wrong = _days(year, b, a) if a.max() > 12 else _days(year, a, b)
    if wrong.any():
        row = int(wrong.argmax())
        raise BadCell(
            row,
            f"{a[row]}/{b[row]}/{year[row]}, read as {order}, is not in the calendar; write all times as {EXPECTED}",
        )
    return Read((days * _DAY + clock).view("datetime64[ns]"), None, f"are read as {order}")


def _integers(values: Array) -> Read:
    low, high = int(values.min()), int(values.max())
    for digits in (8, 10, 12, 14):
        if low >= 1900 * 10 ** (digits - 4) and high < 2100 * 10 ** (digits - 4):
            date, clock = np.divmod(values * 10 ** (14 - digits), 10**6)
            days, wrong = _days(date // 10000, date // 100 % 100, date % 100)
            hour, minute, second = clock // 10000, clock // 100 % 100, clock % 100
            if not (wrong | (hour > 23) | (minute > 59) | (second > 59)).any():
                nanoseconds = days * _DAY + ((hour * 60 + minute) * 60 + second) * _SECOND
                return Read(nanoseconds.view("datetime64[ns]"), None, "are read as year, month, day and time of day")
    for unit, scale in _UNIX:
        if low >= 10**17 // scale and high <= (2**63 - 1) // scale:
            return Read((values * scale).view("datetime64[ns]"), None, f"are read as Unix {unit}, in UTC")
    if max(-low, high) >= 2**62:
        row = int(np.argmax(values >= 2**62) if high >= 2**62 else np.argmin(values))
        raise BadCell(row, f"{values[row]} is neither a time nor a number of steps; expected {EXPECTED}")
    return Read(None, values.astype(np.int64, copy=False), "are whole numbers, and are taken as numbers of steps")
