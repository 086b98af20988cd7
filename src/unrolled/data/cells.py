"""Columns of a table, piece by piece: cells of text or of a type become numbers or kinds.

A piece is an array of pyarrow; what is kept is flat NumPy memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.extras import extra

_WORDS = ("", "NA", "NaN", "null", "N/A", "#N/A", "None", "-", "?")
# How a cell says that it has no value, in any case of letters that is in use.
MISSING = tuple(dict.fromkeys(case for word in _WORDS for case in (word, word.lower(), word.upper(), word.title())))

_POINT = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_COMMA = r"^[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?$"
# 1,234 is 1.234 in some countries and 1234 in others.
_EITHER = r"^[+-]?[1-9]\d{0,2},\d{3}$"
_SHOWN = 40


class BadCell(ValueError):
    """A cell that cannot be read; it knows its row, and whoever knows the file says where that is.

    Attributes:
        row: from 0; None where the whole column is meant.
    """

    def __init__(self, row: int | None, message: str) -> None:
        super().__init__(message)
        self.row = row


def shown(cell: str) -> str:
    """A cell as an error quotes it, cut where it is long."""
    text = repr(cell if len(cell) <= _SHOWN else cell[:_SHOWN] + "...")
    # A quote that is never closed makes one cell of many lines.
    return f"{text} (a cell with a line break: is a quote not closed?)" if "\n" in cell else text


def arrow(part: str = "") -> Any:
    """pyarrow, or a part of it."""
    return extra(f"pyarrow{part}", "reading tables", "train")


def texts(cells: Any) -> Any:
    """Cells as text without the blanks around it; None stays where nothing is."""
    return arrow(".compute").utf8_trim_whitespace(cells.cast(arrow().string()))


def is_text(cells: Any) -> bool:
    """Whether the cells are text, rather than of another type."""
    types = arrow(".types")
    kind = cells.type.value_type if types.is_dictionary(cells.type) else cells.type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def first(mask: Any) -> int | None:
    """Where a mask of pyarrow is first true."""
    found = np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False))
    return int(found[0]) if len(found) else None


class Numbers:
    """A column of numbers.

    Args:
        commas: whether a comma may stand for the decimal point, as it may where no comma divides the cells.
    """

    def __init__(self, *, commas: bool) -> None:
        self._commas = commas
        self._pieces: list[NDArray[np.float64]] = []
        self._rows = 0
        # The first cell with a comma and its row, whether a comma was surely a decimal one, and if a point was seen.
        self._comma: tuple[int, str] | None = None
        self._surely = False
        self._point = False

    def add(self, cells: Any) -> None:
        """Read the next cells.

        Raises:
            BadCell: one is not a number, or is infinite.
        """
        values = self._read(cells)
        infinite = np.isinf(values)
        if infinite.any():
            at = int(infinite.argmax())
            raise BadCell(
                self._rows + at,
                f"{shown(str(cells[at].as_py()))} is infinite or beyond the range of numbers; expected a finite "
                "number, or an empty cell where a value is missing",
            )
        self._pieces.append(values)
        self._rows += len(values)

    def done(self) -> NDArray[np.float64]:
        """(N,) the numbers, NaN where a value is missing.

        Raises:
            BadCell: what the commas of the column mean cannot be told.
        """
        if self._comma is not None and (self._point or not self._surely):
            row, cell = self._comma
            reason = "other cells of the column have a decimal point" if self._point else "it may be a thousand's comma"
            raise BadCell(
                row, f"whether {shown(cell)} has a decimal comma cannot be told, since {reason}; write a decimal point"
            )
        pieces, self._pieces = self._pieces, []
        return np.concatenate(pieces) if pieces else np.empty(0)

    def _read(self, cells: Any) -> NDArray[np.float64]:
        if not is_text(cells):
            return self._typed(cells)
        pa = arrow()
        try:
            values = cells.cast(pa.float64())
        except pa.ArrowInvalid:
            cells = texts(cells)
            missing = arrow(".compute").is_in(cells, value_set=pa.array(MISSING))
            cells = arrow(".compute").if_else(missing, None, cells)
            try:
                values = cells.cast(pa.float64())
            except pa.ArrowInvalid:
                values = self._with_commas(cells)
        if self._commas and not self._point:
            self._point = first(arrow(".compute").match_substring(cells.cast(pa.string()), ".")) is not None
        return _floats(values)

    def _with_commas(self, cells: Any) -> Any:
        compute = arrow(".compute")
        good = compute.match_substring_regex(cells, _POINT)
        comma = compute.match_substring_regex(cells, _COMMA)
        bad = first(compute.invert(compute.or_(good, comma) if self._commas else good))
        if bad is not None:
            cell = cells[bad].as_py()
            raise BadCell(self._rows + bad, f"{shown(cell)} is not a number{_advice(cell, self._commas)}")
        at = first(comma)
        if at is not None:
            self._comma = self._comma or (self._rows + at, cells[at].as_py())
            either = compute.match_substring_regex(cells, _EITHER)
            self._surely = self._surely or first(compute.and_not(comma, either)) is not None
        return compute.replace_substring(cells, ",", ".").cast(arrow().float64())

    def _typed(self, cells: Any) -> NDArray[np.float64]:
        pa, types = arrow(), arrow(".types")
        if types.is_dictionary(cells.type):
            cells = cells.cast(cells.type.value_type)
        kind = cells.type
        tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
        if not any(test(kind) for test in tests):
            raise BadCell(None, f"holds {kind}; expected numbers")
        # Whole numbers above 2^53 have a nearest float64, and that is good enough here.
        return _floats(cells.cast(pa.float64(), safe=False))


class Texts:
    """A column of kinds: few texts, many times each."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._pieces: list[NDArray[np.int32]] = []

    def add(self, cells: Any) -> None:
        """Read the next cells.

        Raises:
            BadCell: the column holds something that has no short text.
        """
        pa = arrow()
        try:
            encoded = texts(cells).fill_null("").dictionary_encode()
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            raise BadCell(None, f"holds {cells.type}; expected texts or numbers") from None
        codes = [self._codes.setdefault(kind, len(self._codes)) for kind in encoded.dictionary.to_pylist()]
        self._pieces.append(np.array(codes, np.int32)[encoded.indices.to_numpy(zero_copy_only=False)])

    def done(self) -> tuple[NDArray[np.int32], list[str]]:
        """(N,) which kind each cell is, and the kinds in the order of their first cells; "" where nothing is."""
        pieces, self._pieces = self._pieces, []
        return (np.concatenate(pieces) if pieces else np.empty(0, np.int32)), list(self._codes)


def _floats(values: Any) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.to_numpy(zero_copy_only=False)
    return found if found.dtype == np.float64 else found.astype(np.float64)


def _advice(cell: str, commas: bool) -> str:
    if not commas and "," in cell:
        return "; write it with a decimal point and without commas"
    if "," in cell and "." in cell:
        return "; write it without marks between the thousands, and with a decimal point"
    return ", and a missing value is written as an empty cell or NA"
