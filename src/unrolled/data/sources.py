"""Files that hold tables: what their columns are called, their cells piece by piece, and where a row stands."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unrolled.data.cells import arrow
from unrolled.data.csv_file import HEAD, Csv

_ROWS = 1 << 16  # of a piece of Parquet


class Source(Protocol):
    """A file with a table.

    Attributes:
        path: the file.
        names: the columns, in order.
        named: those that the file itself names, which an index without a name is not.
        commas: whether a comma may be a decimal point.
        remarks: how the file was understood, in words.
    """

    @property
    def path(self) -> Path: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def named(self) -> tuple[str, ...]: ...
    @property
    def commas(self) -> bool: ...
    @property
    def remarks(self) -> tuple[str, ...]: ...

    def pieces(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Column -> pyarrow array, for the next rows, until all rows have come."""

    def place(self, row: int) -> str:
        """Where a row, counted from 0, is in the file, in words."""


def open_source(path: Path, *, encoding: str, delimiter: str | None, header: bool | None) -> Source:
    """A CSV or Parquet file; what it begins with tells which.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is not a table, or an option is wrong.
    """
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{path} is a folder; expected a CSV or Parquet file")
        raise FileNotFoundError(f"{path} does not exist; expected a CSV or Parquet file")
    with path.open("rb") as file:
        head = file.read(HEAD)
    source: Source
    if head.startswith(b"PAR1"):
        source = Parquet.open(path)
    elif path.suffix.lower() in (".parquet", ".pq"):
        raise ValueError(f"{path} is not a Parquet file, though its name says so: it does not begin with PAR1")
    else:
        source = Csv.open(path, head, encoding=encoding, delimiter=delimiter, header=header)
    twice = [name for name, count in Counter(source.names).items() if count > 1]
    if twice:
        places = [str(place) for place, name in enumerate(source.names, 1) if name == twice[0]]
        raise ValueError(
            f"{path} has {len(places)} columns called {twice[0]!r}, the columns {', '.join(places)}; "
            "give every column a name of its own"
        )
    return source


def check_column(source: Source, name: str) -> None:
    """Raise the ValueError about a column that a file lacks, with those that it has."""
    if name in source.names:
        return
    lower = {other.lower(): other for other in source.names}
    close = difflib.get_close_matches(name.lower(), lower, 1)
    message = f"{source.path} has no column {name!r}"
    if close:
        message += f", but {lower[close[0]]!r}"
    message += f"; its columns are {listed(source.names)}"
    if isinstance(source, Csv) and not source.header:
        message += ". Its first line holds no names, so columns are named by their place; header=True says that it does"
    raise ValueError(message)


def listed(names: Sequence[str]) -> str:
    """Names in quotes, the first twenty of them."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(map(repr, names[:20])) + more


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """A Parquet file; see `Source`."""

    path: Path
    names: tuple[str, ...]
    named: tuple[str, ...]
    commas: bool = False
    remarks: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path) -> Parquet:
        pa = arrow()
        try:
            names = tuple(arrow(".parquet").read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is a damaged Parquet file ({error})") from None
        return cls(path=path, names=names, named=tuple(n for n in names if n and not n.startswith("__index_level_")))

    def pieces(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        pa = arrow()
        try:
            with arrow(".parquet").ParquetFile(self.path) as file:
                for piece in file.iter_batches(_ROWS, columns=list(names)):
                    yield {name: piece.column(name) for name in names}
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.path} is a damaged Parquet file ({error})") from None

    def place(self, row: int) -> str:
        return f"row {row + 1}"
