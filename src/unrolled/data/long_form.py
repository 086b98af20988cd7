"""Labelled sequences in long form: a table with one row for each step.

CSV is read by Python's own reader, a row at a time: it knows the line that each row begins on, whatever line breaks
quoted cells hold, and every error can name it.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.extras import extra

_MISSING = {"", "?", "-", "na", "n/a", "nan", "null", "none"}


class Steps(NamedTuple):
    """The rows of one sequence.

    Attributes:
        where: its name and where it begins, for messages.
        label: its class.
        channels: of each, (T,) float64, NaN where missing.
    """

    where: str
    label: str
    channels: Sequence[NDArray[np.float64]]


def from_csv(
    path: Path, text: str, *, id: str | None, label: str | None, known: bool = True
) -> tuple[tuple[str, ...], list[Steps]]:
    """The names of the channels and the sequences of a CSV file, in the order in which they begin.

    Columns are divided by a comma, a semicolon or a tab, by whichever the first line has most.

    Args:
        path: the file, for messages.
        text: what is in it.
        id: the column that says which sequence a row belongs to.
        label: the column with the class.
        known: whether the classes have to be there; if not, a sequence without one has the class "".

    Raises:
        ValueError: a column is not there, or a row cannot be read; the message names the file, the line and the column.
    """
    head = text[: text.find("\n")] if "\n" in text else text
    divider = max(",;\t", key=head.count)
    lines = _csv_rows(path, csv.reader(io.StringIO(text, newline=""), delimiter=divider, strict=True))
    _, names = next(lines, (0, []))
    return _sequences(path, "line", [name.strip() for name in names], lines, id=id, label=label, known=known)


def from_parquet(
    path: Path, *, id: str | None, label: str | None, known: bool = True
) -> tuple[tuple[str, ...], list[Steps]]:
    """The same of a Parquet file; its rows are numbered from 1.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: as of `from_csv`, or the file is no Parquet file.
    """
    parquet = extra("pyarrow.parquet", "reading Parquet files", "train")
    try:
        file = parquet.ParquetFile(path)
    # ArrowInvalid is a ValueError.
    except ValueError as error:
        raise ValueError(f"{path} is not a Parquet file that can be read ({error})") from error
    with file:
        rows = enumerate(
            (row for batch in file.iter_batches() for row in zip(*batch.to_pydict().values(), strict=True)), start=1
        )
        return _sequences(path, "row", file.schema_arrow.names, rows, id=id, label=label, known=known)


def _csv_rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the line they begin on."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}: line {line} cannot be read as CSV ({error})") from error
        if cells is None:
            return
        if any(map(str.strip, cells)):
            yield line, cells


class _Rows:
    """One sequence while its rows are being read."""

    def __init__(self, line: int, label: str, channels: int) -> None:
        self.line, self.label = line, label
        self.channels = [array("d") for _ in range(channels)]


def _sequences(
    path: Path,
    unit: str,
    names: Sequence[str],
    rows: Iterable[tuple[int, Sequence[Any]]],
    *,
    id: str | None,
    label: str | None,
    known: bool,
) -> tuple[tuple[str, ...], list[Steps]]:
    if not known and label not in names:
        label = None
    at_id, at_label = _columns(path, names, id=id, label=label, known=known)
    channels = [column for column in range(len(names)) if column not in (at_id, at_label)]
    found: dict[str, _Rows] = {}
    for line, cells in rows:
        if len(cells) != len(names):
            raise ValueError(f"{path}: {unit} {line} has {len(cells)} cells; the header has {len(names)} columns")
        name, kind = _text(cells[at_id]), "" if at_label is None else _text(cells[at_label])
        for column, cell in ((at_id, name), (at_label, kind)):
            if not cell and column is not None and (known or column == at_id):
                raise ValueError(
                    f"{path}: {unit} {line} has nothing in column {names[column]!r}; every row needs its sequence's "
                    f"{'name' if column == at_id else 'class'}"
                )
        steps = found.get(name)
        if steps is None:
            steps = found[name] = _Rows(line, kind, len(channels))
        elif kind != steps.label and at_label is not None:
            raise ValueError(
                f"{path}: {unit} {line} has {kind!r} in column {names[at_label]!r}, but sequence {name!r} has "
                f"{steps.label!r} from {unit} {steps.line} on; a sequence has one class"
            )
        for values, column in zip(steps.channels, channels, strict=True):
            try:
                values.append(_number(cells[column]))
            except (TypeError, ValueError):
                raise ValueError(
                    f"{path}: {unit} {line}, column {names[column]!r} has {str(cells[column]).strip()!r}; expected a "
                    "finite number, or an empty cell where a value is missing"
                ) from None
    if not found:
        raise ValueError(f"{path} has a header but no rows; expected one row for each step of each sequence")
    return tuple(names[column] for column in channels), [
        Steps(f"sequence {name!r} from {unit} {rows.line} on", rows.label, [np.array(each) for each in rows.channels])
        for name, rows in found.items()
    ]


def _columns(
    path: Path, names: Sequence[str], *, id: str | None, label: str | None, known: bool
) -> tuple[int, int | None]:
    if not any(names):
        raise ValueError(f"{path} is empty; expected a header and one row for each step of each sequence")
    listed = ", ".join(names)
    if "" in names:
        # Row numbers that pandas writes in such a column would be learnt as if they were measured.
        raise ValueError(
            f"{path}: column {list(names).index('') + 1} has no name, as where pandas has written row numbers; "
            "leave it out or give it a name"
        )
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path} has {names.count(name)} columns named {name!r}; give each its own name")
    for option, given in (("id", id), ("label", label)):
        if given is None and option == "label" and not known:
            continue
        if given is None:
            what = "the sequence that a row belongs to" if option == "id" else "the class"
            raise ValueError(f"{path}: name the column of {what} with {option}=; its columns are {listed}")
        if given not in names:
            close = difflib.get_close_matches(given, names, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"{path} has no column {given!r} for {option}=; its columns are {listed}{hint}")
    if id == label:
        raise ValueError(f"{path}: id= and label= are both {id!r}; they are two columns")
    if len(names) == (1 if label is None else 2):
        raise ValueError(f"{path} has no columns besides id={id!r} and label={label!r}; the others are its channels")
    assert id is not None
    return names.index(id), None if label is None else names.index(label)


def _text(cell: Any) -> str:
    # A float column with gaps has NaN where a name is missing.
    return "" if cell is None or cell != cell else str(cell).strip()


def _number(cell: Any) -> float:
    """The number in a cell, NaN where it is missing; ValueError where it is none or infinite."""
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in _MISSING):
        return math.nan
    value = float(cell)
    if math.isinf(value):
        raise ValueError
    return value
