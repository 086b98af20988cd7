"""Tables as they come, through unrolled train series: each is trained on, or refused by file, column and row."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tiny_commands import ALONE, TINY, WINDOWS, refused, train
from unrolled.cli import main
from unrolled.runs import Run

Lines = list[str]


def hours(rows: int = 120) -> Lines:
    """Lines of times and values, without a header."""
    drawn = np.random.default_rng(0)
    times = np.datetime64("2024-01-01T00") + np.arange(rows) * np.timedelta64(1, "h")
    values = np.sin(np.arange(rows) / 5) + 0.1 * drawn.standard_normal(rows)
    return [f"{str(time).replace('T', ' ')}:00,{value:.4f}" for time, value in zip(times, values, strict=True)]


def replaced(lines: Lines, row: int, line: str) -> Lines:
    return [*lines[:row], line, *lines[row + 1 :]]


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "table.csv"
    path.write_bytes(text.encode(encoding))
    return path


def told(path: Path, folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What is said while a run is trained on a table, and forecast from it."""
    out = folder / "run"
    capsys.readouterr()
    assert train("series", path, out, *options) == 0
    said = capsys.readouterr().err
    assert main(["evaluate", str(out)]) == 0
    assert main(["predict", str(out)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) >= 3
    assert "nan" not in "".join(rows)
    return said


USABLE: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "as they should be": (lambda rows: ["t,y", *rows], ""),
    "missing values of every name": (
        lambda rows: [
            "t,y",
            *(
                row if n % 9 else row.split(",")[0] + "," + ("", "NA", "NaN", "null", "N/A", "-")[n // 9 % 6]
                for n, row in enumerate(rows)
            ),
        ],
        "column 'y' has 14 missing values",
    ),
    "missing rows": (lambda rows: ["t,y", *rows[:20], *rows[25:]], "5 rows were missing"),
    "unsorted times": (lambda rows: ["t,y", *reversed(rows)], "rows were sorted by 't'"),
    "a constant column beside": (lambda rows: ["t,y,c", *(f"{row},7" for row in rows)], ""),
    "text beside": (lambda rows: ["t,y,note", *(f'{row},"a, b"' for row in rows)], ""),
    "windows line ends": (lambda rows: ["t,y\r", *(f"{row}\r" for row in rows)], ""),
    "empty lines at the end": (lambda rows: ["t,y", *rows, "", ""], ""),
}


@pytest.mark.parametrize("name", USABLE)
def test_table_is_trained_on_and_what_was_done_to_it_is_said(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mess, remark = USABLE[name]
    path = write(tmp_path, "\n".join(mess(hours())))
    assert remark in told(path, tmp_path, capsys, "--time", "t", "--target", "y")


def test_order_of_the_rows_changes_nothing(tmp_path: Path) -> None:
    for name, rows in (("one", hours()), ("other", hours()[::-1])):
        (tmp_path / name).mkdir()
        path = write(tmp_path / name, "\n".join(["t,y", *rows]))
        assert train("series", path, tmp_path / name / "run", "--time", "t", "--target", "y") == 0
    one, other = (Run.open(tmp_path / name / "run") for name in ("one", "other"))
    assert one.digest == other.digest
    assert one.weights.read_bytes() == other.weights.read_bytes()


@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("utf-8", []),
        ("utf-8-sig", []),
        ("utf-16", []),
        ("utf-16", ["--encoding", "utf-16"]),
        ("latin-1", ["--encoding", "latin-1"]),
        ("cp1252", ["--encoding", "cp1252"]),
    ],
)
def test_other_encodings_and_delimiters_are_read(
    encoding: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["größe;zähler", *(f"{row.split(',')[1]};{n}" for n, row in enumerate(hours()))]
    path = write(tmp_path, "\n".join(lines), encoding)
    told(path, tmp_path, capsys, "--target", "größe", "--covariates", "zähler", *options)
    assert Run.open(tmp_path / "run").learnt["covariates"] == ["zähler"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["learnt"]["targets"] == ["größe"]


def test_columns_without_a_header_are_numbered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "\n".join(hours()))
    told(path, tmp_path, capsys, "--time", "1", "--target", "2")
    assert Run.open(tmp_path / "run").learnt["targets"] == ["2"]


def test_all_other_columns_of_numbers_are_covariates_where_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{row},7,{n % 5},word" for n, row in enumerate(hours())]
    path = write(tmp_path, "\n".join(["t,y,same,five,text", *rows]))
    said = told(path, tmp_path, capsys, "--time", "t", "--target", "y", "--covariates", "all")
    assert Run.open(tmp_path / "run").learnt["covariates"] == ["five"]
    assert "column 'same' is 7 in every row, and is left out" in said


REFUSED: dict[str, tuple[Callable[[Lines], Lines], list[str]]] = {
    "text in a column of numbers": (
        lambda rows: ["t,y", *replaced(rows, 57, rows[57].split(",")[0] + ",about 3")],
        ["column 'y', line 59", "'about 3' is not a number"],
    ),
    "a time twice": (lambda rows: ["t,y", *rows, rows[30]], ["column 't': line 32 and line 122 have the same time"]),
    "a time that is none": (
        lambda rows: ["t,y", *replaced(rows, 40, "yesterday,1.0")],
        ["column 't', line 42", "'yesterday'"],
    ),
    "a time off the grid": (
        lambda rows: ["t,y", *replaced(rows, 40, "2024-01-02 16:20:00,1.0")],
        ["'t'", "16:20"],
    ),
    "one row": (lambda rows: ["t,y", rows[0]], ["'y'"]),
    "few rows": (lambda rows: ["t,y", *rows[:14]], ["give more rows, or set window or horizon lower"]),
    "a target that never changes": (
        lambda rows: ["t,y", *(row.split(",")[0] + ",5" for row in rows)],
        ["'y' is 5 in every row", "nothing to forecast"],
    ),
    "a target without a value": (lambda rows: ["t,y", *(row.split(",")[0] + "," for row in rows)], ["'y'"]),
    "no such column": (lambda rows: ["t,z", *rows], ["'y'", "z"]),
    "a row with a field too many": (
        lambda rows: ["t,y", *replaced(rows, 9, rows[9] + ",8,9")],
        ["line 11 has 4 cells"],
    ),
    "a number beyond single precision": (
        lambda rows: ["t,y", *replaced(rows, 9, rows[9].split(",")[0] + ",1e39")],
        ["column 'y', line 11: 1e+39"],
    ),
    "nothing": (lambda rows: [], []),
    "a header alone": (lambda rows: ["t,y"], []),
}


@pytest.mark.parametrize("name", REFUSED)
def test_table_that_cannot_be_used_is_refused_by_file_column_and_row(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mess, words = REFUSED[name]
    path = write(tmp_path, "\n".join(mess(hours())))
    command = ["train", "series", str(path), *TINY, *ALONE, *WINDOWS, "--time", "t", "--target", "y"]
    line = refused([*command, "--out", str(tmp_path / "run")], capsys)
    assert path.name in line
    for word in words:
        assert word in line
    assert not (tmp_path / "run" / "config.json").exists()


def test_bytes_that_are_not_of_the_encoding_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "\n".join(["größe,y", *(f"ä,{row.split(',')[1]}" for row in hours())]), "latin-1")
    command = ["train", "series", str(path), *TINY, *ALONE, *WINDOWS, "--target", "y", "--encoding", "utf-8"]
    line = refused([*command, "--out", str(tmp_path / "run")], capsys)
    assert str(path) in line
    assert "encoding" in line


def test_several_columns_without_a_target_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "\n".join(["t,y,z", *(f"{row},{n}" for n, row in enumerate(hours()))]))
    command = ["train", "series", str(path), *TINY, *ALONE, *WINDOWS, "--time", "t"]
    line = refused([*command, "--out", str(tmp_path / "run")], capsys)
    assert "'y'" in line
    assert "'z'" in line
    assert "target" in line


@pytest.mark.slow
def test_ten_million_rows_take_less_than_four_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    rows, piece = 10_000_000, 500_000
    drawn = np.random.default_rng(0)
    begin = np.datetime64("2000-01-01T00:00:00")
    with path.open("w") as file:
        file.write("t,y,x\n")
        for at in range(0, rows, piece):
            times = np.datetime_as_string(begin + (at + np.arange(piece)) * np.timedelta64(30, "s"))
            values, others = drawn.standard_normal((2, piece)).round(3)
            file.writelines(f"{t},{y},{x}\n" for t, y, x in zip(times, values, others, strict=True))
    command = [sys.executable, "-m", "unrolled", "train", "series", str(path), *TINY, *ALONE, *WINDOWS]
    command += ["--time", "t", "--target", "y", "--covariates", "x", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    path.unlink()  # 350 MB
    assert done.returncode == 0, done.stderr
    # Of the largest child there was, in KiB on Linux.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"peak {peak:.2f} GiB")
    assert peak < 4
    assert Run.open(tmp_path / "run").finished
