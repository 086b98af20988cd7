"""Columns of a CSV or Parquet file, read piece by piece, so that only what is asked for stands in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unrolled.data.cells import BadCell, Numbers, Texts
from unrolled.data.sources import Source, check_column, listed, open_source
from unrolled.data.times import Times


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What was read of a table of N rows.

    Attributes:
        path: the file.
        names: all columns of the file, in order; where the file has no header they are "1", "2", ..., and so is a
            column called whose name is empty.
        rows: N.
        numbers: column -> (N,) float64, NaN where missing.
        texts: column -> (N,) int32 codes, and the kinds that they number, "" where missing.
        times: (N,) datetime64[ns], in UTC where the file gives zones; None without a column of times.
        steps: (N,) int64 in place of times where that column holds whole numbers that are no times.
        refused: columns that are not numbers, where every column was asked for -> the row of a cell that is none (from
            0, or None where the column's type says so), and what is wrong with it.
        remarks: how the file was understood where that is not plain to see, in words.
        place: row from 0 -> where that is in the file, in words. Slow: it may read the file again.
    """

    path: str
    names: tuple[str, ...]
    rows: int
    numbers: dict[str, NDArray[np.float64]]
    texts: dict[str, tuple[NDArray[np.int32], list[str]]]
    times: NDArray[np.datetime64] | None
    steps: NDArray[np.int64] | None
    refused: dict[str, tuple[int | None, str]]
    remarks: tuple[str, ...]
    place: Callable[[int], str]


def read_columns(
    path: str | os.PathLike[str],
    *,
    numbers: Sequence[str] | None = None,
    texts: Sequence[str] = (),
    time: str | None = None,
    encoding: str = "auto",
    delimiter: str | None = None,
    header: bool | None = None,
) -> Columns:
    """Read columns of a CSV or Parquet file.

    Numbers: empty cells, NA, N/A, NaN, null, None, - and ? are missing values. Where no comma divides the cells it may
    stand for the decimal point. Parquet's truth values are 0 and 1.

    Times: see `unrolled.data.times`; a missing time is an error.

    Args:
        path: the file; what it begins with tells Parquet from CSV.
        numbers: columns of numbers. None takes every named column that holds numbers and missing values alone.
        texts: columns of kinds, such as the name of a series.
        time: the column of times.
        encoding: of a CSV file; "auto" goes by its first bytes, and takes UTF-8 where they say nothing.
        delimiter: what divides the cells of a CSV file, one character; found out from the first lines if omitted.
        header: whether a CSV file's first line names the columns; found out if omitted: it does, unless all its cells
            are numbers or times.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: the file is not a table, has no rows, or has rows of unequal length; a column is missing or twice
            there; a cell is not what was asked for, or infinite. The message names the file, the column and the place:
            the line as an editor counts (the header is line 1) for CSV, the row from 1 for Parquet.
        ModuleNotFoundError: pyarrow is not installed.
    """
    source = open_source(Path(path), encoding=encoding, delimiter=delimiter, header=header)
    for name in (*(numbers or ()), *texts, *(() if time is None else (time,))):
        check_column(source, name)
    others = {*texts, time}
    wanted = source.named if numbers is None else tuple(dict.fromkeys(numbers))
    number_columns = {n: Numbers(commas=source.commas) for n in wanted if numbers is not None or n not in others}
    text_columns = {name: Texts() for name in texts}
    time_columns = {} if time is None else {time: Times()}
    refused: dict[str, tuple[int | None, str]] = {}

    def refuse(name: str, column: object, bad: BadCell) -> None:
        if numbers is not None or not isinstance(column, Numbers):
            raise _error(source, name, bad) from None
        refused[name] = (bad.row, str(bad))

    columns: list[tuple[str, Numbers | Texts | Times]] = [
        *number_columns.items(),
        *text_columns.items(),
        *time_columns.items(),
    ]
    rows = 0
    # Where nothing is asked for, the first column still counts the rows.
    asked = tuple(dict.fromkeys(name for name, _ in columns)) or source.names[:1]
    for piece in source.pieces(asked):
        for name, column in columns:
            if name not in refused:
                try:
                    column.add(piece[name])
                except BadCell as bad:
                    refuse(name, column, bad)
        rows += len(piece[asked[0]])
    if not rows:
        raise ValueError(f"{source.path} has the columns {listed(source.names)}, and no rows")

    found = {}
    for name, number_column in number_columns.items():
        if name not in refused:
            try:
                values = number_column.done()
            except BadCell as bad:
                refuse(name, number_column, bad)
                continue
            if numbers is None and np.isnan(values).all():
                refused[name] = (None, "holds no value at all")
            else:
                found[name] = values
    remarks, times, steps = list(source.remarks), None, None
    for name, time_column in time_columns.items():
        try:
            times, steps, remark = time_column.done()
        except BadCell as bad:
            raise _error(source, name, bad) from None
        if remark:
            remarks.append(f"the times of {name!r} {remark}")
    return Columns(
        path=str(source.path),
        names=source.names,
        rows=rows,
        numbers=found,
        texts={name: text_column.done() for name, text_column in text_columns.items()},
        times=times,
        steps=steps,
        refused=refused,
        remarks=tuple(remarks),
        place=source.place,
    )


def _error(source: Source, name: str, bad: BadCell) -> ValueError:
    where = "" if bad.row is None else f", {source.place(bad.row)}"
    return ValueError(f"{source.path}: column {name!r}{where}: {bad}")
