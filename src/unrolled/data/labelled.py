"""Sequences of unequal length with one label each, as archives of time series and tables hold them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unrolled.data.long_form import Steps, from_csv, from_parquet

_FORMATS = ".ts, .tsv, .txt, .csv or .parquet"


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Sequences and their classes.

    Attributes:
        path: the file they come from.
        channels: C names; numbers from 1 where the file has no names.
        sequences: of each, (T, C) float32 without gaps; T differs between them.
        labels: the class of each sequence, as the file writes it.
    """

    path: str
    channels: tuple[str, ...]
    sequences: tuple[NDArray[np.float32], ...]
    labels: tuple[str, ...]


def load_labelled(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    id: str | None = None,
    encoding: str = "utf-8",
    known: bool = True,
) -> Labelled:
    """Read labelled sequences; the name's ending says how.

    - .ts: the format of the aeon toolkit, of one channel or several, of equal or unequal length, without times.
    - .tsv, .txt: the UCR archive; a line is a label and the values of its one channel. NaN at the end of a line means a
      shorter sequence. Labels that are whole numbers lose their decimals: "1.0000000e+00" reads as "1".
    - .csv, .parquet: a row is one step of the sequence that column `id` names; rows keep their order. Column `label` is
      the class, the same in all rows of a sequence; all other columns are channels.

    Missing values ("?" or "NaN"; an empty cell in tables) stand on the straight line between their neighbours in time;
    before the first and after the last known value that value is held.

    Args:
        path: the file.
        label: the column with the class, for tables.
        id: the column that says which sequence a row belongs to, for tables.
        encoding: of a file of text.
        known: whether there is a class to learn from. If not, one class is enough, and tables need no column of it: a
            sequence without one has the class "".

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: the file is not as described above, has text, infinity or no value at all where a channel's values
            should be, an empty sequence, sequences of different numbers of channels, or one class only; the message
            names the file, the line and the channel.
    """
    place = Path(path)
    suffix = place.suffix.lower()
    if not place.is_file():
        if place.exists():
            raise ValueError(f"{place} is a folder; expected a file that ends in {_FORMATS}")
        raise FileNotFoundError(f"{place} does not exist; give a file that ends in {_FORMATS}")
    if suffix in (".csv", ".parquet"):
        if suffix == ".csv":
            table = from_csv(place, _text(place, encoding), id=id, label=label, known=known)
        else:
            table = from_parquet(place, id=id, label=label, known=known)
        return _labelled(place, *table, known=known)
    if suffix not in (".ts", ".tsv", ".txt"):
        raise ValueError(f"{place} ends in {suffix!r}; expected a file that ends in {_FORMATS}")
    if id is not None or label is not None:
        raise ValueError(f"{place}: id= and label= name columns of .csv and .parquet files; leave them out here")
    lines = _text(place, encoding).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    entries = list(_archive(place, lines) if suffix == ".ts" else _ucr(place, lines))
    if not entries:
        raise ValueError(f"{place} has no sequences; expected one a line")
    return _labelled(place, tuple(str(number + 1) for number in range(len(entries[0].channels))), entries, known=known)


def _labelled(path: Path, channels: tuple[str, ...], entries: Sequence[Steps], *, known: bool) -> Labelled:
    kinds = {entry.label for entry in entries}
    if known and len(kinds) < 2:
        raise ValueError(
            f"{path}: all {len(entries)} sequences have the label {entries[0].label!r}; expected two classes or more"
        )
    return Labelled(
        path=str(path),
        channels=channels,
        sequences=tuple(_filled(path, channels, entry) for entry in entries),
        labels=tuple(entry.label for entry in entries),
    )


def _filled(path: Path, names: tuple[str, ...], entry: Steps) -> NDArray[np.float32]:
    """(T, C) the values of one sequence, without gaps."""
    if len(entry.channels) != len(names):
        raise ValueError(
            f"{path}: {entry.where} has {_count(len(entry.channels), 'channel')}, the sequences before it have "
            f"{len(names)}; give all sequences the same channels"
        )
    filled = np.empty((len(entry.channels[0]), len(names)), dtype=np.float32)
    for column, (name, values) in enumerate(zip(names, entry.channels, strict=True)):
        if len(values) != len(filled):
            raise ValueError(
                f"{path}: {entry.where}, channel {name} has {_count(len(values), 'step')}, channel {names[0]} has "
                f"{len(filled)}; a sequence's channels must be equally long, missing values can be written as ?"
            )
        missing = np.isnan(values)
        if missing.all():
            raise ValueError(
                f"{path}: {entry.where}, channel {name} has no value at all; leave this sequence or this channel out"
            )
        # Values beyond float32 become infinite here.
        with np.errstate(over="ignore"):
            filled[:, column] = values
        infinite = np.isinf(filled[:, column])
        if infinite.any():
            step = int(infinite.argmax())
            raise ValueError(
                f"{path}: {entry.where}, channel {name} has {values[step]:g} at step {step + 1}; expected finite "
                "numbers below 3.4e38, or ? or NaN where a value is missing"
            )
        if missing.any():
            steps = np.arange(len(values))
            filled[:, column] = np.interp(steps, steps[~missing], values[~missing])
    return filled


def _text(path: Path, encoding: str) -> str:
    content = path.read_bytes()
    try:
        text = content.decode(encoding)
    except LookupError:
        raise ValueError(f"encoding {encoding!r} is not known; expected one such as utf-8, utf-16 or latin-1") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: line {line} is not {encoding} ({error.reason}); name the file's encoding with encoding=, "
            "such as encoding=latin-1"
        ) from None
    return text.removeprefix("\ufeff")


def _archive(path: Path, lines: list[str]) -> Iterator[Steps]:
    """The sequences of a .ts file: channels divided by ":", values by ",", the label last."""
    header: dict[str, list[str]] = {}
    data = False
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line[0] in "#%":
            continue
        if line[0] == "@" and not data:
            key, *words = line[1:].split()
            header[key.lower()] = words
            data = key.lower() == "data"
            if data:
                _check_header(path, header)
            continue
        if not data:
            raise ValueError(f"{path}: line {number} stands before @data and begins with {line[:20]!r}, not with @")
        yield _archive_entry(path, number, line, header)
    if not data:
        raise ValueError(f"{path} has no line @data; expected a .ts file, with @classLabel and @data before the values")


def _check_header(path: Path, header: dict[str, list[str]]) -> None:
    def says(key: str, word: str) -> bool:
        return [value.lower() for value in header.get(key, [])[:1]] == [word]

    if says("timestamps", "true"):
        raise ValueError(
            f"{path} says @timestamps true: values with times are not read; write the values alone, at equal steps, "
            "with @timestamps false"
        )
    if says("targetlabel", "true"):
        raise ValueError(
            f"{path} says @targetlabel true: its sequences have a number to predict instead of a class; only classes "
            "can be learnt from labelled sequences"
        )
    if says("classlabel", "false"):
        raise ValueError(f"{path} says @classlabel false: its sequences have no class; expected @classlabel true")
    if "dimensions" in header and not "".join(header["dimensions"]).isdecimal():
        raise ValueError(f"{path} says @dimensions {' '.join(header['dimensions'])}; expected a whole number")
    if says("univariate", "true"):
        header["dimensions"] = ["1"]


def _archive_entry(path: Path, number: int, line: str, header: dict[str, list[str]]) -> Steps:
    *cells, label = map(str.strip, line.split(":"))
    kinds = header.get("classlabel", [])[1:]
    if not cells or not label or (kinds and label.lower() not in (kind.lower() for kind in kinds)):
        expected = f"one of {', '.join(kinds[:20])}, as @classLabel says" if kinds else "a class"
        given = repr(label if len(label) <= 40 else label[:40] + "...") if label else "nothing"
        raise ValueError(f"{path}: line {number} has {given} as its label, after the last colon; expected {expected}")
    if "dimensions" in header and len(cells) != int(header["dimensions"][0]):
        raise ValueError(
            f"{path}: line {number} has {_count(len(cells), 'channel')}, the header says {header['dimensions'][0]}; "
            "correct the line or @dimensions and @univariate"
        )
    where = f"line {number}"
    channels = [
        _numbers(path, f"{where}, channel {channel}", cell.split(",") if cell else [])
        for channel, cell in enumerate(cells, start=1)
    ]
    return Steps(where, label, channels)


def _ucr(path: Path, lines: list[str]) -> Iterator[Steps]:
    """The sequences of a file of the UCR archive: the label first, then the values."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        divider = "\t" if "\t" in line.rstrip() else "," if "," in line else None
        label, *cells = map(str.strip, line.strip(" ").split(divider))
        if not label or label.lower() == "nan":
            raise ValueError(f"{path}: line {number} has no label; expected a label and then the values")
        values = _numbers(path, f"line {number}, channel 1", [cell or "NaN" for cell in cells])
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            raise ValueError(f"{path}: line {number} has a label, {label!r}, but no values; leave the line out")
        yield Steps(f"line {number}", _whole(label), [values[: known[-1] + 1]])


def _whole(label: str) -> str:
    """A label that is a whole number without its decimals."""
    try:
        value = float(label)
    except ValueError:
        return label
    return str(int(value)) if math.isfinite(value) and value == int(value) else label


def _numbers(path: Path, where: str, cells: list[str]) -> NDArray[np.float64]:
    """(T,) the numbers that are written in cells, NaN for ?."""
    if not cells:
        raise ValueError(f"{path}: {where} has no values; leave the sequence out")
    values = []
    for step, cell in enumerate(map(str.strip, cells), start=1):
        try:
            values.append(math.nan if cell == "?" else float(cell))
        except ValueError:
            raise ValueError(
                f"{path}: {where} has {cell!r} at step {step}; expected a number, or ? where a value is missing"
            ) from None
    return np.array(values)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
