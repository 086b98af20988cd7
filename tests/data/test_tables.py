"""Tables come back as they were written, and what cannot be read is named with its file, column and line."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unrolled.data.tables import Columns, read_columns


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "t.csv"
    path.write_bytes(text.encode(encoding))
    return path


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "t.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def complaint(path: Path, **options: Any) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        read_columns(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def times_of(folder: Path, *cells: str) -> Columns:
    return read_columns(table(folder, "t;x\n" + "".join(f"{cell};1\n" for cell in cells)), time="t")


def same(found: Any, expected: list[float]) -> None:
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_columns_come_back_whatever_the_delimiter_and_the_line_end(
    tmp_path: Path, delimiter: str, line_end: str
) -> None:
    rows = ["when,where,a,b", "2013-01-01 05:00:00,EWR,1.5,-2", "2013-01-01 06:00:00,JFK,,3e2", ""]
    found = read_columns(
        table(tmp_path, line_end.join(rows).replace(",", delimiter)), numbers=["b", "a"], texts=["where"], time="when"
    )
    assert found.names == ("when", "where", "a", "b")
    assert found.rows == 2
    same(found.numbers["a"], [1.5, math.nan])
    same(found.numbers["b"], [-2, 300])
    codes, kinds = found.texts["where"]
    assert [kinds[code] for code in codes] == ["EWR", "JFK"]
    assert codes.dtype == np.int32
    assert found.times is not None
    assert found.times.dtype == np.dtype("datetime64[ns]")
    assert found.times.tolist() == np.array(["2013-01-01T05", "2013-01-01T06"], "datetime64[ns]").tolist()


def test_given_delimiter_is_taken(tmp_path: Path) -> None:
    same(read_columns(table(tmp_path, "a:b\n1:2\n"), delimiter=":").numbers["b"], [2])
    with pytest.raises(ValueError, match="delimiter: must be one character .*given ', '"):
        read_columns(table(tmp_path, "a, b\n1, 2\n"), delimiter=", ")


def test_every_wholly_numeric_column_is_taken_where_none_is_named(tmp_path: Path) -> None:
    found = read_columns(table(tmp_path, "a,word,b,empty,t\n1,x,,,2013\n2,3,NA,,2014\n,4,5,,2015\n"), time="t")
    assert list(found.numbers) == ["a", "b"]
    assert found.refused == {
        "word": (0, "'x' is not a number, and a missing value is written as an empty cell or NA"),
        "empty": (None, "holds no value at all"),
    }


def test_index_without_a_name_is_read_only_when_it_is_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path, ",a\n0,5\n1,6\n")
    assert list(read_columns(path).numbers) == ["a"]
    same(read_columns(path, numbers=["1"]).numbers["1"], [0, 1])


@pytest.mark.parametrize("cell", ["", " ", "NA", "NaN", "nan", "null", "NULL", "N/A", "n/a", "#N/A", "None", "-", "?"])
def test_missing_value_becomes_nan(tmp_path: Path, cell: str) -> None:
    same(read_columns(table(tmp_path, f"a,b\n1,2\n{cell},3\n")).numbers["a"], [1, math.nan])


@pytest.mark.parametrize(
    ("cell", "number"), [("+1", 1), ("1.", 1), (".5", 0.5), (" 7 ", 7), ("-1E-3", -0.001), ("9007199254740993", 2**53)]
)
def test_numbers_are_read_however_they_are_written(tmp_path: Path, cell: str, number: float) -> None:
    same(read_columns(table(tmp_path, f"a,b\n{cell},2\nNA,3\n")).numbers["a"], [number, math.nan])


def test_text_in_a_numeric_column_is_named_with_file_column_and_line(tmp_path: Path) -> None:
    message = complaint(table(tmp_path, "a,b\n1,2\n\n3,4\n5,n.a. here\n"), numbers=["b"])
    assert "column 'b', line 5: 'n.a. here' is not a number" in message


def test_line_is_right_after_quoted_line_breaks_and_far_into_the_file(tmp_path: Path) -> None:
    rows = "".join(f'"x\ny",{n}\n' for n in range(400_000))
    message = complaint(table(tmp_path, f"a,b\n{rows}z,bad\n"), numbers=["b"])
    assert "column 'b', line 800002: 'bad' is not a number" in message


def test_long_cells_are_cut_in_errors(tmp_path: Path) -> None:
    assert "'" + "x" * 40 + "...'" in complaint(table(tmp_path, f"a,b\n{'x' * 1000},2\n"), numbers=["a"])


@pytest.mark.parametrize("cell", ["inf", "-inf", "Infinity", "1e999"])
def test_infinite_value_is_named(tmp_path: Path, cell: str) -> None:
    message = complaint(table(tmp_path, f"a,b\n1,2\n{cell},3\n"), numbers=["a"])
    assert f"column 'a', line 3: {cell!r} is infinite" in message


def test_decimal_commas_are_read_where_semicolons_divide(tmp_path: Path) -> None:
    found = read_columns(table(tmp_path, "a;b\n1,5;2\n-0,25;1,125\n;3\n12;0,5\n"))
    same(found.numbers["a"], [1.5, -0.25, math.nan, 12])
    same(found.numbers["b"], [2, 1.125, 3, 0.5])


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["1,234", "5"], "line 2: whether '1,234' has a decimal comma cannot be told, since it may be a thousand's"),
        (["1.5", "2,25"], "line 3: whether '2,25' has a decimal comma cannot be told, since other cells .* point"),
        (["1,5", "1.234"], "line 2: whether '1,5' has a decimal comma cannot be told, since other cells .* point"),
        (["1.234,5"], "line 2: '1.234,5' is not a number; write it without marks between the thousands"),
    ],
)
def test_comma_that_may_mean_two_things_is_refused(tmp_path: Path, cells: list[str], reason: str) -> None:
    path = table(tmp_path, "a;b\n" + "".join(f"{cell};1\n" for cell in cells))
    with pytest.raises(ValueError, match=f"column 'a', {reason}"):
        read_columns(path, numbers=["a"])


def test_comma_in_a_number_of_a_comma_file_is_refused(tmp_path: Path) -> None:
    message = complaint(table(tmp_path, 'a,b\n"1,5",2\n'), numbers=["a"])
    assert "line 2: '1,5' is not a number; write it with a decimal point" in message


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("2013-01-31", "2013-01-31"),
        ("2013-01-31 05:00:00", "2013-01-31T05"),
        ("2013-01-31T05:00:00.123456789", "2013-01-31T05:00:00.123456789"),
        ("2013-01-31T05:00:00Z", "2013-01-31T05"),
        ("2013-01-31 05:00:00+01:00", "2013-01-31T04"),
        ("2013-01-31 05:00:00 +0100", "2013-01-31T04"),
        ("2013-01-31 05:00:00 UTC", "2013-01-31T05"),
        ("2013/1/31 5:00", "2013-01-31T05"),
        ("31.1.2013 17:30", "2013-01-31T17:30"),
        ("1/31/2013 5:30 PM", "2013-01-31T17:30"),
        ("1/31/2013 12:00 am", "2013-01-31"),
        ("31-01-2013", "2013-01-31"),
        ("1/1/2013 5:00", "2013-01-01T05"),
        ("1359608400", "2013-01-31T05"),
        ("1359608400000", "2013-01-31T05"),
        ("1359608400000000", "2013-01-31T05"),
        ("1359608400000000000", "2013-01-31T05"),
        ("20130131", "2013-01-31"),
        ("201301310530", "2013-01-31T05:30"),
        ("1901-12-14", "1901-12-14"),
    ],
)
def test_times_are_read_in_utc(tmp_path: Path, cell: str, expected: str) -> None:
    found = times_of(tmp_path, cell, cell)
    assert found.times is not None
    assert found.times.tolist() == [np.datetime64(expected, "ns").astype(int)] * 2
    assert found.steps is None


def test_way_in_which_times_were_understood_is_told(tmp_path: Path) -> None:
    assert times_of(tmp_path, "2013-01-31").remarks == ()
    assert times_of(tmp_path, "13/1/2013").remarks == ("the times of 't' are read as day, month, year",)
    assert times_of(tmp_path, "1/13/2013").remarks == ("the times of 't' are read as month, day, year",)
    assert times_of(tmp_path, "1359608400").remarks == ("the times of 't' are read as Unix seconds, in UTC",)


@pytest.mark.parametrize("cells", [["0", "1", "2"], ["2013", "2014"], ["-5", "20131399"], ["99999999"]])
def test_whole_numbers_that_are_no_times_are_steps(tmp_path: Path, cells: list[str]) -> None:
    found = times_of(tmp_path, *cells)
    assert found.times is None
    assert found.steps is not None
    assert found.steps.tolist() == [int(cell) for cell in cells]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["2013-01-01", "soon"], "line 3: 'soon' is not a time"),
        (["2013-01-01", "2013-02-30"], "line 3: '2013-02-30' is not a time"),
        (["2013-01-01 25:00"], "line 2: '2013-01-01 25:00' is not a time"),
        (["1066-10-14"], "line 2: '1066-10-14' is not a time between the years 1678 and 2261"),
        (["2013-01-01", ""], "line 3: the time is missing"),
        (["2013-01-01", "NA"], "line 3: the time is missing"),
        (["2013-01-01 01:00", "2013-01-01 02:00Z"], "line 3: '2013-01-01 02:00Z' is not written as the first time"),
        (["2013-01-01", "20130102"], "line 3: '20130102' is not written as the first time of the column"),
        (["1/2/2013", "2/2/2013"], "holds times such as '1/2/2013', and no number above 12 tells the days"),
        (["1/13/2013", "13/2/2013"], "line 3: 13/2/2013 has day and month in another order than a row before it"),
        (["30/1/2013", "30/2/2013"], "line 3: 30/2/2013, read as day, month, year, is not in the calendar"),
        (["1/13/2013", "31/31/2013"], "line 3: '31/31/2013' is not a time"),
        (["1/13/13"], "line 2: '1/13/13' is not a time"),
        (["1.5"], "line 2: '1.5' is not a time"),
        (["1/13/2013 13:00 PM"], "line 2: .* is not a time"),
        (["9e18"], "line 2: '9e18' is not a time"),
        (["5", str(2**62)], f"line 3: {2**62} is neither a time nor a number of steps"),
    ],
)
def test_bad_time_is_named(tmp_path: Path, cells: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=f"t.csv: column 't'(, )?:? ?{reason}"):
        times_of(tmp_path, *cells)


def test_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = table(tmp_path, "time,Temp,wind\n1,2,3\n")
    assert "has no column 'temp', but 'Temp'; its columns are 'time', 'Temp', 'wind'" in complaint(
        path, numbers=["temp"]
    )
    assert "has no column 'zzz'; its columns" in complaint(path, texts=["zzz"])
    assert "has no column 'tim', but 'time'" in complaint(path, time="tim")


def test_duplicate_column_names_are_named_with_their_places(tmp_path: Path) -> None:
    assert "2 columns called 'a', the columns 1, 3" in complaint(table(tmp_path, "a,b,a\n1,2,3\n"))


def test_file_without_a_header_has_columns_named_by_place(tmp_path: Path) -> None:
    path = table(tmp_path, "2013-01-01,1.5,2\n2013-01-02,2.5,3\n")
    found = read_columns(path, numbers=["2"], time="1")
    same(found.numbers["2"], [1.5, 2.5])
    assert found.remarks == ("the first line of t.csv holds no names, so its columns are named by their place",)
    assert "its columns are '1', '2', '3'. Its first line holds no names" in complaint(path, numbers=["temp"])
    assert "column '2', line 2: 'x'" in complaint(table(tmp_path, "1,2\n3,x\n"), numbers=["2"])


def test_header_can_be_told(tmp_path: Path) -> None:
    path = table(tmp_path, "2013,2014\n1,2\n")
    assert read_columns(path, header=True).names == ("2013", "2014")
    assert read_columns(path).names == ("1", "2")
    path = table(tmp_path, "a,b\n1,2\n")
    assert read_columns(path, header=False, texts=["1"]).texts["1"][1] == ["a", "1"]


def test_names_lose_the_blanks_around_them(tmp_path: Path) -> None:
    found = read_columns(table(tmp_path, "a , b\n1, x \n"), texts=["b"])
    assert found.names == ("a", "b")
    assert found.texts["b"][1] == ["x"]


@pytest.mark.parametrize("content", ["", "\n\n", "  \n", "\ufeff"])
def test_empty_file_is_named(tmp_path: Path, content: str) -> None:
    assert "is empty; expected a table" in complaint(table(tmp_path, content))


@pytest.mark.parametrize("content", ["a,b", "a,b\n", "\na,b\n\n", '"a\nc",b\n'])
def test_header_alone_is_named(tmp_path: Path, content: str) -> None:
    assert "has the columns" in (message := complaint(table(tmp_path, content)))
    assert "and no rows" in message


@pytest.mark.parametrize(("row", "cells"), [("5", 1), ("5,6,7", 3), (" ", 1)])
def test_ragged_row_is_named(tmp_path: Path, row: str, cells: int) -> None:
    message = complaint(table(tmp_path, f"a,b\n1,2\n\n3,4\n{row}\n7,8\n"))
    assert f"line 5 has {cells} cell" in message
    assert "the header has 2" in message


def test_quote_that_is_not_closed_is_named_even_in_a_column_that_nobody_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path, 'a,b\n1,x\n2,"y\n3,z\n4,z\n')
    assert "line 3 opens a quote that is not closed" in complaint(path, numbers=["a"])


def test_inches_in_a_cell_are_no_open_quote(tmp_path: Path) -> None:
    assert read_columns(table(tmp_path, 'a,b\n1,x\n2,5"\n3,z\n'), numbers=["a"]).rows == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("given", ["auto", "itself"])
def test_unicode_is_found_out_or_told(tmp_path: Path, encoding: str, given: str) -> None:
    path = table(tmp_path, "größe,b\n1,ü\n", encoding)
    found = read_columns(path, texts=["b"], encoding="auto" if given == "auto" else encoding)
    assert found.texts["b"][1] == ["ü"]
    same(found.numbers["größe"], [1])


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le"])
def test_other_encodings_are_read_when_they_are_told(tmp_path: Path, encoding: str) -> None:
    path = table(tmp_path, "größe,b\n1,ü\n", encoding)
    assert read_columns(path, texts=["b"], encoding=encoding).texts["b"][1] == ["ü"]


def test_line_that_is_not_utf8_is_named_with_the_option(tmp_path: Path) -> None:
    message = complaint(table(tmp_path, "größe,b\n1,2\n", "latin-1"))
    assert "line 1 has the byte 0xf6, which is not utf-8; give the file's encoding" in message
    # Past what the file is judged by.
    rows = "1,2\n" * 400_000
    message = complaint(table(tmp_path, f"a,b\n{rows}1,ü\n", "latin-1"), texts=["b"])
    assert "line 400002 has the byte 0xfc" in message


def test_wrong_encoding_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "a,b\n1,ü\n")
    assert "line 2 has the byte 0xc3, which is not ascii" in complaint(path, texts=["b"], encoding="ascii")
    with pytest.raises(ValueError, match="encoding: must be one such as utf-8.*given 'utf-9'"):
        read_columns(path, encoding="utf-9")
    assert "is not text in latin-1" in complaint(table(tmp_path, "a,b\n1,2\n", "utf-16"), encoding="latin-1")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is not text"),
        (b"a\0b\0", "is not text"),
        (b"PK\x03\x04rest", "a zip archive or an Excel file"),
        (b"\x1f\x8brest", "is packed with gzip"),
        (b"PAR1 and no more", "is a damaged Parquet file"),
    ],
)
def test_file_that_is_no_table_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    assert reason in complaint(path)


def test_missing_file_folder_and_false_parquet_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.csv does not exist"):
        read_columns(tmp_path / "nowhere.csv")
    assert "is a folder" in complaint(tmp_path)
    path = tmp_path / "t.parquet"
    path.write_text("a,b\n1,2\n")
    assert "is not a Parquet file" in complaint(path)


def test_parquet_columns_of_any_type_are_read(tmp_path: Path) -> None:
    path = parquet(
        tmp_path,
        whole=[2**60, None],
        real=pa.array([1.5, math.nan], pa.float32()),
        money=[Decimal("1.25"), None],
        truth=[True, False],
        written=["1.5", "NA"],
        kind=pa.array(["x", None]).dictionary_encode(),
        number=pa.array([7, 8], pa.int8()),
        when=pa.array([datetime(2013, 1, 1, 5), datetime(2013, 1, 1, 6)], pa.timestamp("us", "Europe/Berlin")),
        nested=[[1], [2]],
    )
    found = read_columns(path, texts=["kind", "number"], time="when")
    assert list(found.numbers) == ["whole", "real", "money", "truth", "written"]
    same(found.numbers["whole"], [2.0**60, math.nan])
    same(found.numbers["real"], [1.5, math.nan])
    same(found.numbers["money"], [1.25, math.nan])
    same(found.numbers["truth"], [1, 0])
    same(found.numbers["written"], [1.5, math.nan])
    assert found.texts["kind"][1] == ["x", ""]
    assert found.texts["number"][1] == ["7", "8"]
    assert found.times is not None
    assert str(found.times[0]) == "2013-01-01T05:00:00.000000000"
    assert "list" in found.refused["nested"][1]


@pytest.mark.parametrize(
    "times",
    [
        [date(2013, 1, 31)],
        pa.array([datetime(2013, 1, 31)], pa.timestamp("s")),
        ["2013-01-31"],
        [1359590400],
        pa.array(["31/1/2013"]).dictionary_encode(),
    ],
)
def test_parquet_times_of_any_type_are_read(tmp_path: Path, times: Any) -> None:
    found = read_columns(parquet(tmp_path, t=times, x=[1]), time="t").times
    assert found is not None
    assert str(found[0]) == "2013-01-31T00:00:00.000000000"


def test_parquet_errors_name_the_row_from_1(tmp_path: Path) -> None:
    path = parquet(tmp_path, a=["1", "x"], b=[1.0, math.inf], t=[date(2013, 1, 1), None], c=[[1], [2]], f=[0.5, 1.5])
    assert "column 'a', row 2: 'x' is not a number" in complaint(path, numbers=["a"])
    assert "column 'b', row 2: 'inf' is infinite" in complaint(path, numbers=["b"])
    assert "column 't', row 2: the time is missing" in complaint(path, numbers=["f"], time="t")
    assert "column 'f': holds double; expected times" in complaint(path, numbers=["f"], time="f")
    assert "column 'c': holds list" in complaint(path, numbers=["c"])
    assert "column 'c': holds list" in complaint(path, numbers=["f"], texts=["c"])
    assert "has no column 'z'" in complaint(path, numbers=["z"])


def test_parquet_without_rows_is_named(tmp_path: Path) -> None:
    assert "and no rows" in complaint(parquet(tmp_path, a=pa.array([], pa.float64())))


def test_parquet_cut_short_anywhere_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path, a=[1.0, 2.0], b=["x", "y"])
    whole = path.read_bytes()
    for length in range(4, len(whole), 7):
        path.write_bytes(whole[:length])
        complaint(path)


CELLS = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53))
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.sampled_from(' \n",;'), max_size=8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(WORDS, CELLS, CELLS), min_size=1, max_size=8),
    delimiter=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_small_table_comes_back_as_it_was_written(
    tmp_path: Path, rows: list[tuple[str, Any, Any]], delimiter: str, encoding: str
) -> None:
    written = io.StringIO()
    writer = csv.writer(written, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)
    writer.writerow(["name", "a", "b"])
    writer.writerows([[name, "" if a is None else repr(a), "" if b is None else repr(b)] for name, a, b in rows])
    found = read_columns(
        table(tmp_path, written.getvalue(), encoding), numbers=["a", "b"], texts=["name"], delimiter=delimiter
    )
    codes, kinds = found.texts["name"]
    assert [kinds[code] for code in codes] == [name.strip() for name, _, _ in rows]
    for place, column in ((1, "a"), (2, "b")):
        same(found.numbers[column], [math.nan if row[place] is None else row[place] for row in rows])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(st.sampled_from('a1,;\t"\n\r.- é'), max_size=40).map(str.encode))
def test_any_file_is_read_or_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    found = read_or_complaint(path)
    if isinstance(found, str):
        assert str(path) in found
    else:
        assert all(len(values) == found.rows for values in found.numbers.values())


def read_or_complaint(path: Path) -> Columns | str:
    try:
        return read_columns(path)
    except ValueError as error:
        return str(error)


# Peak memory is of a whole process, so that a file is read in one of its own; Linux tells it. What getrusage tells of a
# child is at least what its parent had when it began.
READ = """
import sys
from pathlib import Path
from unrolled.data.panel import load_panel
panel = load_panel(sys.argv[1], target=["a"], covariates="all", time="time")
assert panel.values[0].shape == (int(sys.argv[2]), 3), panel.values[0].shape
(peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
print(peak)
"""


def peak_of(folder: Path, rows: int) -> float:
    """The GiB that a process needs to read this many rows of a time and three numbers."""
    path = folder / "large.csv"
    with path.open("w") as file:
        file.write("time,a,b,c\n")
        for begin in range(0, rows, 50_000):
            ahead = np.arange(begin, min(begin + 50_000, rows))
            times = np.datetime_as_string(np.datetime64("2000-01-01T00:00:00") + ahead * np.timedelta64(60, "s"))
            file.writelines(
                f"{time},{n % 977 / 7:.6f},{n % 31},{n % 8191 * 0.001:.3f}\n"
                for time, n in zip(times, ahead.tolist(), strict=True)
            )
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(rows)], check=True, capture_output=True, text=True
    )
    return float(done.stdout) / 2**20


def test_million_rows_stay_below_a_gibibyte(tmp_path: Path) -> None:
    assert peak_of(tmp_path, 1_000_000) < 1


@pytest.mark.slow
def test_ten_million_rows_stay_below_four_gibibytes(tmp_path: Path) -> None:
    assert peak_of(tmp_path, 10_000_000) < 4
