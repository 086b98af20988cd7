"""A CSV file: its encoding, delimiter and header, its cells piece by piece, and what line a row is on.

Cells are read by pyarrow, which is fast and says little about what it could not read. Where it fails, and where a line
has to be named, the file is read once more by Python's own reader, which counts lines.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from unrolled.data.cells import MISSING, BadCell, Numbers, arrow
from unrolled.data.times import Times

HEAD = 1 << 20  # bytes by which a file is judged
_BLOCK = 4 << 20
_SAMPLE = 20  # records by which the delimiter is found
# The comma last: in files with another delimiter it is a decimal comma.
_DELIMITERS = ("\t", ";", "|", ",")
_UTF8 = "utf-8-sig"
# The longer ones first: the mark of UTF-16 begins that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PACKED = (
    (b"\x1f\x8b", "is packed with gzip; unpack it first"),
    (b"BZh", "is packed with bzip2; unpack it first"),
    (b"PK\x03\x04", "is a zip archive or an Excel file; unpack it, or save the sheet as CSV"),
)


@dataclass(frozen=True, kw_only=True)
class Csv:
    """A CSV file as a source of columns.

    Attributes:
        path: the file.
        names: the columns, in order; "1", "2", ... by place where there is no header or the name is empty.
        named: those that the file names itself, or all where there is no header.
        encoding: a name that Python knows.
        delimiter: what divides the cells.
        header: whether the first line names the columns.
        skipped: lines before the first row of cells.
    """

    path: Path
    names: tuple[str, ...]
    named: tuple[str, ...]
    encoding: str
    delimiter: str
    header: bool
    skipped: int

    @classmethod
    def open(cls, path: Path, head: bytes, *, encoding: str, delimiter: str | None, header: bool | None) -> Csv:
        """From what the file begins with.

        Raises:
            ValueError: it is no text, is empty, or an option is wrong.
        """
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise ValueError(f"delimiter: must be one character such as ',' or ';', given {delimiter!r}")
        encoding = _encoding(path, head, encoding)
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head, final=len(head) < HEAD)
        except UnicodeDecodeError:
            raise _undecodable(path, encoding) from None
        if "\0" in text:
            raise ValueError(f"{path} is not text in {encoding}; expected a CSV or Parquet file")
        text = text.removeprefix("\ufeff")
        if not text.strip():
            raise ValueError(f"{path} is empty; expected a table with a header and rows")
        if delimiter is None:
            delimiter = _delimiter(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            cells = [cell.strip() for cell in next(record for record in reader if record)]
        except csv.Error as error:
            raise ValueError(f"{path} has a first line that is not one of CSV ({error})") from None
        if header is None:
            header = not _holds_values(cells)
        names = tuple(cell if header and cell else str(place) for place, cell in enumerate(cells, 1))
        return cls(
            path=path,
            names=names,
            named=tuple(filter(None, cells)) if header else names,
            encoding=encoding,
            delimiter=delimiter,
            header=header,
            skipped=reader.line_num if header else 0,
        )

    @property
    def commas(self) -> bool:
        """Whether a comma may be a decimal point."""
        return self.delimiter != ","

    @property
    def remarks(self) -> tuple[str, ...]:
        """How the file was understood, in words."""
        if self.header:
            return ()
        return (f"the first line of {self.path.name} holds no names, so its columns are named by their place",)

    def pieces(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Column -> pyarrow array of text, for the next rows, until all rows have come.

        Raises:
            ValueError: a row has too few or too many cells, a quote is not closed, or the text is in another encoding.
        """
        if self.header and len(list(islice(self._records(), 2))) < 2:
            return
        self._check_quotes()
        pa, read = arrow(), arrow(".csv")
        inner = [str(place) for place in range(len(self.names))]
        kept = [inner[self.names.index(name)] for name in names]
        reading = read.ReadOptions(
            block_size=_BLOCK,
            column_names=inner,
            skip_rows=self.skipped,
            encoding="utf8" if self.encoding == _UTF8 else self.encoding,
        )
        parsing = read.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)
        # Everything is text here: what the cells mean is decided where errors can be told.
        converting = read.ConvertOptions(column_types=dict.fromkeys(kept, pa.string()), include_columns=kept)
        try:
            with (
                pa.OSFile(str(self.path)) as file,
                read.open_csv(file, read_options=reading, parse_options=parsing, convert_options=converting) as batches,
            ):
                for batch in batches:
                    yield {name: batch.column(place) for place, name in enumerate(names)}
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise self._complaint(error) from None

    def place(self, row: int) -> str:
        """The line on which a row, counted from 0, begins; its number among the rows where that cannot be told."""
        try:
            for number, (line, _) in enumerate(self._records()):
                if number == row + self.header:
                    return f"line {line}"
        except csv.Error:
            pass
        return f"record {row + 1}"

    def _records(self, *more: str) -> Iterator[tuple[int, list[str]]]:
        """The line on which each record begins, and its cells, the header's among them; empty lines are none.

        Args:
            more: lines that are read as if they stood at the end.
        """
        with self.path.open(encoding=self.encoding, errors="replace", newline="") as file:
            reader = csv.reader(chain(file, more), delimiter=self.delimiter)
            line = 1
            for record in reader:
                if record:
                    yield line, record
                line = reader.line_num + 1

    def _check_quotes(self) -> None:
        """Raise the ValueError about a quote that takes the rest of the file into one cell.

        Such a cell may be of a column that nobody asked for, and its rows would be lost without a word.
        """
        count = 0
        with self.path.open("rb") as file:
            while block := file.read(HEAD):
                count += block.count(b'"')
        if count % 2 == 0:
            return
        # An open quote takes in whatever comes after the end.
        line, record = 0, list[str]()
        try:
            for line, record in self._records("end"):  # noqa: B007
                pass
        except csv.Error:
            # The cell is larger than any that Python reads.
            line, record = line + 1, []
        if record != ["end"]:
            raise ValueError(f"{self.path}: line {line} opens a quote that is not closed; close or remove it")

    def _complaint(self, error: Exception) -> ValueError:
        """The error that names the line which pyarrow could not read."""
        if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
            return _undecodable(self.path, self.encoding)
        try:
            for line, record in self._records():
                if len(record) != len(self.names):
                    first = "header" if self.header else "first line"
                    return ValueError(
                        f"{self.path}: line {line} has {len(record)} cells divided by {self.delimiter!r}, and the "
                        f"{first} has {len(self.names)}; a cell that holds {self.delimiter!r} must stand in quotes"
                    )
        except csv.Error as other:
            error = other
        return ValueError(f"{self.path} cannot be read as CSV ({error}); look for a quote that is not closed")


def _encoding(path: Path, head: bytes, encoding: str) -> str:
    """The encoding of a file that begins with `head`, by a name that Python knows."""
    for mark, packed in _PACKED:
        if head.startswith(mark):
            raise ValueError(f"{path} {packed}")
    if encoding == "auto":
        found = next((name for mark, name in _MARKS if head.startswith(mark)), _UTF8)
        if found == _UTF8 and b"\0" in head:
            raise ValueError(
                f"{path} is not text; expected a CSV or Parquet file. If it is UTF-16, say so: encoding='utf-16-le'"
            )
        return found
    try:
        "".encode(encoding)
    except LookupError:
        raise ValueError(f"encoding: must be one such as utf-8, utf-16 or cp1252, given {encoding!r}") from None
    return _UTF8 if codecs.lookup(encoding).name == "utf-8" else encoding


def _undecodable(path: Path, encoding: str) -> ValueError:
    """The error about the first line that is not in an encoding."""
    name = encoding.removesuffix("-sig")
    where = ""
    # Elsewhere a line feed is not one byte.
    if not codecs.lookup(name).name.startswith(("utf-16", "utf-32")):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode(name)
                except UnicodeDecodeError as error:
                    where = f": line {number} has the byte 0x{line[error.start]:02x}, which"
                    break
    return ValueError(
        f"{path}{where} is not {name}; give the file's encoding, such as encoding='cp1252' or encoding='latin-1'"
    )


def _delimiter(text: str) -> str:
    """What divides the cells: the first that divides all of the first records into equally many."""
    counts = {}
    for delimiter in _DELIMITERS:
        try:
            records = list(
                islice(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), _SAMPLE)
            )
        except csv.Error:
            continue
        lengths = {len(record) for record in records}
        if len(lengths) == 1 and lengths != {1}:
            return delimiter
        counts[delimiter] = len(records[0])
    return max(reversed(counts), key=lambda delimiter: counts[delimiter], default=",")


def _holds_values(cells: Sequence[str]) -> bool:
    """Whether a line holds numbers and times alone, so that it is no header."""
    there = [cell for cell in cells if cell not in MISSING]
    return bool(there) and all(_is_value(cell) for cell in there)


def _is_value(cell: str) -> bool:
    pa = arrow()
    for column in (Numbers(commas=True), Times()):
        try:
            column.add(pa.array([cell]))
        except BadCell:
            continue
        return True
    return False
