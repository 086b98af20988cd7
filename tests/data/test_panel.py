"""Rows become series on a regular grid; what does not fit one is named with its file, column and rows."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unrolled.data.panel import Panel, load_panel


def panel(folder: Path, *lines: str, **options: Any) -> Panel:
    path = folder / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    return load_panel(path, **options)


def refusal(folder: Path, *lines: str, **options: Any) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        panel(folder, *lines, **options)
    return str(caught.value)


def hours(*rows: str) -> list[str]:
    """Lines of the column t, in hours of a day, and of x and more columns."""
    return [f"2013-01-01 {row}" for row in rows]


def same(found: Any, expected: list[Any]) -> None:
    np.testing.assert_array_equal(found, expected)


def test_one_series_with_times(tmp_path: Path) -> None:
    found = panel(
        tmp_path, "t,x,y", *hours("00:00,1,5", "01:00,2,6", "02:00,4,8"), target=["y"], covariates=["x"], time="t"
    )
    assert found.path == str(tmp_path / "t.csv")
    assert found.series == ("",)
    assert found.targets == ("y",)
    assert found.covariates == ("x",)
    assert found.step == np.timedelta64(1, "h")
    assert found.times[0] is not None
    assert found.times[0].dtype == np.dtype("datetime64[ns]")
    same(found.times[0], [np.datetime64(f"2013-01-01T{hour:02}") for hour in range(3)])
    assert found.values[0].dtype == np.float32
    same(found.values[0], [[5, 1], [6, 2], [8, 4]])
    assert found.remarks == ()


def test_missing_rows_stand_as_rows_of_nan_with_a_remark(tmp_path: Path) -> None:
    found = panel(tmp_path, "t,x", *hours("00:00,1", "01:00,2", "04:00,5", "05:00,"), time="t")
    same(found.values[0][:, 0], [1, 2, math.nan, math.nan, 5, math.nan])
    assert found.times[0] is not None
    assert len(found.times[0]) == 6
    assert found.remarks == (
        "column 'x' has 1 missing value",
        "2 rows were missing in the times of 't', and stand as gaps",
    )


def test_rows_are_sorted_by_time_with_a_remark(tmp_path: Path) -> None:
    found = panel(tmp_path, "t,x", *hours("02:00,3", "00:00,1", "01:00,2"), time="t")
    same(found.values[0][:, 0], [1, 2, 3])
    assert found.remarks == ("rows were sorted by 't'",)


def test_groups_become_series_in_the_order_of_their_first_rows(tmp_path: Path) -> None:
    rows = hours("00:00,JFK,1", "00:00,EWR,10", "01:00,JFK,2", "03:00,EWR,13", "02:00,JFK,3", "01:00,EWR,11")
    found = panel(tmp_path, "t,where,x", *rows, time="t", group="where")
    assert found.series == ("JFK", "EWR")
    same(found.values[0][:, 0], [1, 2, 3])
    same(found.values[1][:, 0], [10, 11, math.nan, 13])
    assert found.times[1] is not None
    assert len(found.times[1]) == 4
    assert found.remarks == (
        "rows were sorted by 't'",
        "1 row was missing in the times of 'EWR', and stands as a gap",
    )


def test_groups_that_take_turns_are_not_called_unsorted(tmp_path: Path) -> None:
    rows = hours("00:00,a,1", "00:00,b,5", "01:00,a,2", "01:00,b,6")
    assert panel(tmp_path, "t,g,x", *rows, time="t", group="g").remarks == ()


def test_gaps_of_many_series_are_summed_up(tmp_path: Path) -> None:
    rows = [row for n in range(8) for row in hours(f"00:00,s{n},1", f"01:00,s{n},2", f"03:00,s{n},3")]
    remarks = panel(tmp_path, "t,g,x", *rows, time="t", group="g").remarks
    assert len(remarks) == 6
    assert remarks[-1] == "3 rows were missing in the times of 3 more series, and stand as gaps"


def test_rows_without_times_are_taken_in_order(tmp_path: Path) -> None:
    found = panel(tmp_path, "g,x", "a,3", "b,7", "a,1", "b,9", group="g")
    same(found.values[0][:, 0], [3, 1])
    same(found.values[1][:, 0], [7, 9])
    assert found.times == (None, None)
    assert found.step is None
    assert found.remarks == ("there is no column of times, so rows are taken in order, one step each",)


def test_column_of_steps_sorts_the_rows_and_shows_the_gaps(tmp_path: Path) -> None:
    found = panel(tmp_path, "t,x", "30,3", "10,1", "20,2", "50,5", target=["x"], time="t")
    same(found.values[0][:, 0], [1, 2, 3, math.nan, 5])
    assert found.times == (None,)
    assert found.step is None
    assert found.remarks == (
        "the times of 't' are whole numbers, and are taken as numbers of steps",
        "rows were sorted by 't'",
        "1 row was missing in the times of 't', and stands as a gap",
    )


def test_only_column_of_numbers_is_the_target(tmp_path: Path) -> None:
    assert panel(tmp_path, "t,x,note", *hours("00:00,1,a", "01:00,2,b"), time="t").targets == ("x",)
    assert panel(tmp_path, "x,y", "1,2", "2,3", covariates=["x"]).targets == ("y",)


def test_target_that_cannot_be_told_is_asked_for_with_the_columns(tmp_path: Path) -> None:
    message = refusal(tmp_path, "x,y,note", "1,2,a", "2,3,b")
    assert message.startswith(f"target: {tmp_path / 't.csv'} has 2 columns of numbers, 'x', 'y'; say which")
    message = refusal(tmp_path, "x,note", "1,a", "2.0.1,b")
    assert "has no column of numbers to forecast among 'x', 'note' ('x': line 3, '2.0.1' is not a number" in message


def test_all_covariates_are_the_other_columns_of_numbers(tmp_path: Path) -> None:
    lines = (",t,x,y,note,z", "0,2013-01-01,1,2,a,5", "1,2013-01-02,2,3,b,7")
    for every in ("all", ["all"]):
        assert panel(tmp_path, *lines, target="y", covariates=every, time="t").covariates == ("x", "z")
    message = refusal(tmp_path, *lines, target="note", covariates="all", time="t")
    assert "column 'note' is not one of numbers: line 2, 'a' is not a number" in message


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"target": ["x"], "covariates": ["x"]}, "covariates: column 'x' is the target already"),
        ({"target": ["x", "x"]}, "target: column 'x' is the target already"),
        ({"target": ["x"], "time": "x"}, "time: column 'x' is the target already"),
        ({"target": ["x"], "time": "t", "group": "t"}, "group: column 't' is the time already"),
        ({"target": ["w"]}, "t.csv has no column 'w'"),
        ({"target": ["x"], "covariates": ["w"]}, "t.csv has no column 'w'"),
        ({"target": ["x"], "group": "w"}, "t.csv has no column 'w'"),
        ({"target": ["t"]}, "column 't', line 2: '2013-01-01' is not a number"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    assert reason in refusal(tmp_path, "t,x", "2013-01-01,1", "2013-01-02,2", **options)


def test_same_time_twice_is_named_with_both_rows(tmp_path: Path) -> None:
    message = refusal(tmp_path, "t,x", *hours("01:00,1", "00:00,2", "02:00,3", "01:00,4"), time="t")
    assert "column 't': line 2 and line 5 have the same time, 2013-01-01 01:00:00; expected" in message
    assert "group=" in message
    message = refusal(tmp_path, "t,g,x", "1,a,1", "1,b,1", "2,a,2", "1,b,4", target=["x"], time="t", group="g")
    assert "line 3 and line 5 have the same time, 1, in series 'b'" in message


def test_time_off_the_grid_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, "t,x", *hours("00:00,1", "01:00,2", "02:00,3", "03:07,4"), time="t")
    assert "column 't', line 5: 2013-01-01 03:07:00 comes after 2013-01-01 02:00:00, and is not on the grid" in message
    assert "the commonest step, 1 hour; write times at equal steps" in message


def test_months_are_said_to_be_irregular(tmp_path: Path) -> None:
    rows = [f"2013-{month:02}-01,{month}" for month in range(1, 13)]
    message = refusal(tmp_path, "t,x", *rows, time="t")
    assert "line 4: 2013-03-01 comes after 2013-02-01" in message
    assert "months and years are not equally long" in message


def test_series_of_another_step_is_named(tmp_path: Path) -> None:
    rows = [f"2013-01-01 {hour:02}:00,a,{hour}" for hour in range(10)] + [f"2013-01-{d:02},b,{d}" for d in range(1, 4)]
    message = refusal(tmp_path, "t,g,x", *rows, time="t", group="g")
    assert "with the commonest step, 1 hour, 46 of the 49 times of series 'b' have no row" in message


def test_single_row_is_named(tmp_path: Path) -> None:
    assert "has 1 row; a time series needs more" in refusal(tmp_path, "x,y", "1,2", target="x", keep_constant=True)
    message = refusal(tmp_path, "g,x", "a,1", "a,2", "b,3", group="g")
    assert "series 'b' of column 'g' has 1 row" in message


def test_row_of_no_series_is_named(tmp_path: Path) -> None:
    assert "column 'g', line 3: the name of the series is missing" in refusal(tmp_path, "g,x", "a,1", ",2", group="g")


def test_constant_target_is_refused_and_constant_covariate_left_out(tmp_path: Path) -> None:
    lines = ("x,y", "1,5", "2,5", ",5")
    assert "column 'y' is 5 in every row; there is nothing" in refusal(tmp_path, *lines, target="y", covariates="all")
    found = panel(tmp_path, *lines, target="x", covariates="all")
    assert found.covariates == ()
    assert found.values[0].shape == (3, 1)
    assert "column 'y' is 5 in every row, and is left out" in found.remarks


def test_constant_columns_can_be_kept(tmp_path: Path) -> None:
    found = panel(tmp_path, "x,y", "1,5", "1,5", target="x", covariates=["y"], keep_constant=True)
    same(found.values[0], [[1, 5], [1, 5]])


def test_column_without_a_value_is_named(tmp_path: Path) -> None:
    assert "column 'x' holds no value at all" in refusal(tmp_path, "x,y", ",1", "NA,2", target="x")
    assert "column 'x' holds no value at all" in refusal(tmp_path, "x,y", ",1", "NA,2", target="y", covariates=["x"])


def test_series_without_a_target_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, "g,x", "a,1", "a,2", "b,", "b,", group="g")
    assert "series 'b' has no value in column 'x'" in message


def test_value_beyond_single_precision_is_named(tmp_path: Path) -> None:
    assert "column 'x', line 3: -1e+39 is beyond single precision" in refusal(tmp_path, "x", "1", "-1e39")


def test_values_that_single_precision_blurs_are_told_of(tmp_path: Path) -> None:
    remarks = panel(tmp_path, "x", "1700000000", "1700000200", "1700000900").remarks
    assert any("single precision tells steps of 2e+02 apart there; take off its mean" in remark for remark in remarks)
    message = refusal(tmp_path, "x", "1700000000", "1700000001")
    assert "column 'x' is 1.7e+09 in every row in single precision" in message


def test_file_is_read_as_it_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("2013:größe:1\n2014:x:2\n".encode("latin-1"))
    found = load_panel(path, target="3", encoding="latin-1", delimiter=":", header=False)
    same(found.values[0][:, 0], [1, 2])
    assert found.remarks[0] == "the first line of t.csv holds no names, so its columns are named by their place"


def test_parquet_errors_name_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    times = pa.array(["2013-01-01", "2013-01-02", "2013-01-02"])
    pq.write_table(pa.table({"t": times, "x": [1.0, 2.0, 3.0]}), path)
    with pytest.raises(ValueError, match="column 't': row 2 and row 3 have the same time, 2013-01-02;"):
        load_panel(path, time="t")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.lists(st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=12),
        min_size=1,
        max_size=4,
    ),
    step=st.sampled_from([1, 1_000_000, 3_600_000_000_000, 86_400_000_000_000]),
    seed=st.integers(0, 9),
)
def test_shuffled_rows_come_back_in_their_places(
    tmp_path: Path, values: list[list[float | None]], step: int, seed: int
) -> None:
    # Twelve rows without a gap show the step; of the others those with a value are there.
    whole = [[*range(12), *series, 99] for series in values]
    begin = np.datetime64("2013-01-01", "ns")
    rows = [
        f"{begin + at * np.timedelta64(step, 'ns')},s{number},{value!r}"
        for number, series in enumerate(whole)
        for at, value in enumerate(series)
        if value is not None
    ]
    random.Random(seed).shuffle(rows)
    found = panel(tmp_path, "t,g,x", *rows, time="t", group="g")
    assert found.step == np.timedelta64(step, "ns")
    assert sorted(found.series) == [f"s{number}" for number in range(len(whole))]
    for name, filled, times in zip(found.series, found.values, found.times, strict=True):
        series = whole[int(name[1:])]
        same(filled[:, 0], [math.nan if value is None else np.float32(value) for value in series])
        same(times, begin + np.arange(len(series)) * np.timedelta64(step, "ns"))
