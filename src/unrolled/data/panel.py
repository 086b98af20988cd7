"""Time series on one regular grid, from the rows of a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.data.grid import Grid, counted, regular
from unrolled.data.sources import listed
from unrolled.data.tables import Columns, read_columns

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One series or several, all with the same columns and the same step.

    Attributes:
        path: the file.
        series: their names; ("",) where there is one without a name.
        targets, covariates: names of the columns; the channels are the targets and then the covariates.
        times: of each series, (T_i,) datetime64[ns], `step` apart; None where the file gives no times.
        step: timedelta64[ns]; None where the file gives no times.
        values: of each series, (T_i, C) float32, NaN where missing.
        remarks: what was done to the rows, and what a reader should know of them, in words.
    """

    path: str
    series: tuple[str, ...]
    targets: tuple[str, ...]
    covariates: tuple[str, ...]
    times: tuple[NDArray[np.datetime64] | None, ...]
    step: np.timedelta64 | None
    values: tuple[NDArray[np.float32], ...]
    remarks: tuple[str, ...]


def load_panel(
    path: str | os.PathLike[str],
    *,
    target: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
    time: str | None = None,
    group: str | None = None,
    encoding: str = "auto",
    delimiter: str | None = None,
    header: bool | None = None,
    keep_constant: bool = False,
) -> Panel:
    """Read time series from a CSV or Parquet file.

    Rows are sorted by time within each series. The step is the commonest difference of times that follow each other;
    times of the grid that no row has get a row of NaN. A column of whole numbers that are no times counts steps: it
    sorts the rows and shows the gaps, and the panel has no times.

    Args:
        path: the file.
        target: columns that are to be forecast; the only column of numbers if omitted.
        covariates: further columns; "all" for every other column of numbers.
        time: the column of times; without one the rows are taken in order, one step each.
        group: the column that says which series a row belongs to.
        encoding, delimiter, header: of a CSV file; see `read_columns`.
        keep_constant: keep columns that never change, as a file from which a trained network forecasts may have them.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: the file cannot be read (see `read_columns`); there is no target, or which it is cannot be told; a
            column is asked for twice, holds nothing at all or, being a target, one value only; a value is beyond
            float32; a series has one row; two rows of a series have the same time; a time is off the grid; more than
            half of a series is missing. The message names the file, the column and the rows.
        ModuleNotFoundError: pyarrow is not installed.
    """
    targets, others = _names(target), _names(covariates)
    every = others == ("all",)
    if every:
        others = ()
    _check_asked(targets, others, time=time, group=group)
    columns = read_columns(
        path,
        numbers=None if every or not targets else (*targets, *others),
        texts=() if group is None else (group,),
        time=time,
        encoding=encoding,
        delimiter=delimiter,
        header=header,
    )
    if not targets:
        targets = _only(columns, others)
    for name in targets:
        _check_number(columns, name)
    if every:
        others = tuple(name for name in columns.numbers if name not in targets)
    for name in others:
        _check_number(columns, name)

    remarks = list(columns.remarks)
    kept = [name for name in (*targets, *others) if _varies(columns, name, name in targets, keep_constant, remarks)]
    grids, found = regular(columns, time=time, group=group)
    remarks += found
    values = [np.full((grid.length, len(kept)), np.nan, np.float32) for grid in grids]
    for channel, name in enumerate(kept):
        # What has been laid out is let go, so that a large file stands in memory once.
        column = columns.numbers.pop(name)
        for filled, grid in zip(values, grids, strict=True):
            filled[grid.places, channel] = column[grid.rows]
    _check_series(columns.path, grids, targets, values)
    dated = columns.times is not None
    return Panel(
        path=columns.path,
        series=tuple(grid.series for grid in grids),
        targets=targets,
        covariates=tuple(name for name in kept if name not in targets),
        times=tuple(grid.times() if dated else None for grid in grids),
        step=np.timedelta64(grids[0].step, "ns") if dated else None,
        values=tuple(values),
        remarks=tuple(remarks),
    )


def _names(given: Sequence[str] | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)


def _check_asked(targets: Sequence[str], others: Sequence[str], *, time: str | None, group: str | None) -> None:
    uses: dict[str, str] = {}
    asked = [("target", name) for name in targets] + [("covariates", name) for name in others]
    asked += [(use, name) for use, name in (("time", time), ("group", group)) if name is not None]
    for use, name in asked:
        if name in uses:
            raise ValueError(f"{use}: column {name!r} is the {uses[name]} already; expected a column once only")
        uses[name] = use


def _only(columns: Columns, others: Sequence[str]) -> tuple[str, ...]:
    """The one column of numbers that is left as a target."""
    left = [name for name in columns.numbers if name not in others]
    if len(left) == 1:
        return (left[0],)
    if left:
        raise ValueError(
            f"target: {columns.path} has {len(left)} columns of numbers, {listed(left)}; say which are to be forecast"
        )
    reasons = "; ".join(f"{name!r}: {_reason(columns, name)}" for name in list(columns.refused)[:3])
    raise ValueError(
        f"target: {columns.path} has no column of numbers to forecast among {listed(columns.names)}"
        + (f" ({reasons})" if reasons else "")
    )


def _reason(columns: Columns, name: str) -> str:
    row, reason = columns.refused[name]
    return reason if row is None else f"{columns.place(row)}, {reason}"


def _check_number(columns: Columns, name: str) -> None:
    """Raise the ValueError about a column that is not of numbers, holds none, or holds one beyond float32."""
    if name in columns.refused:
        raise ValueError(f"{columns.path}: column {name!r} is not one of numbers: {_reason(columns, name)}")
    if name not in columns.numbers:
        raise ValueError(f"{columns.path} has no column {name!r} of numbers; it has {listed(list(columns.numbers))}")
    values = columns.numbers[name]
    low, high = _ends(values)
    if np.isnan(low):
        raise ValueError(f"{columns.path}: column {name!r} holds no value at all; leave it out")
    if max(-low, high) > float(np.finfo(np.float32).max):
        row = int(np.nanargmax(np.abs(values)))
        raise ValueError(
            f"{columns.path}: column {name!r}, {columns.place(row)}: {values[row]:g} is beyond single precision; "
            "expected numbers below 3.4e38, so give the column in a larger unit"
        )


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """The least and the greatest number; NaN where there is none."""
    return float(np.fmin.reduce(values)), float(np.fmax.reduce(values))


def _varies(columns: Columns, name: str, target: bool, keep_constant: bool, remarks: list[str]) -> bool:
    """Whether a column stays, with a remark on what a reader should know of its values."""
    low, high = _ends(columns.numbers[name])
    # As the values will be kept.
    if np.float32(low) == np.float32(high) and not keep_constant:
        nearly = "" if low == high else " in single precision; take off its mean"
        if target:
            raise ValueError(
                f"{columns.path}: column {name!r} is {low:g} in every row{nearly}; there is nothing to forecast in it"
            )
        remarks.append(f"column {name!r} is {low:g} in every row{nearly}, and is left out")
        return False
    digits = float(np.finfo(np.float32).eps) * max(abs(low), abs(high))
    if 0 < high - low < 1000 * digits:
        remarks.append(
            f"column {name!r} lies between {low:.10g} and {high:.10g}, and single precision tells steps of "
            f"{digits:.2g} apart there; take off its mean to keep more"
        )
    missing = int(np.isnan(columns.numbers[name]).sum())
    if missing:
        remarks.append(f"column {name!r} has {counted(missing, 'missing value')}")
    return True


def _check_series(path: str, grids: Sequence[Grid], targets: Sequence[str], values: Sequence[Array]) -> None:
    """Raise the ValueError about a series that lacks a target altogether."""
    for grid, filled in zip(grids, values, strict=True):
        for channel, name in enumerate(targets):
            if np.isnan(filled[:, channel]).all():
                raise ValueError(f"{path}: series {grid.series!r} has no value in column {name!r}; leave its rows out")
