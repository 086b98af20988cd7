"""Texts from a file or a folder, and their parts for training, validation and test.

A folder's files are divided by the rule of the task `code`: whole files, each by the SHA-256 of its path within the
folder, so that a file stays in its part whatever else is there.
"""

from __future__ import annotations

import codecs
import fnmatch
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from unrolled.tasks.task import Split

# With fewer documents than this the parts of a division by files would be far from the shares asked for.
FEW_DOCUMENTS = 20

_CHUNK = 1 << 20
_CACHES = {"__pycache__", "node_modules"}
# A cut moves to a line end at most this many characters away, and at most a tenth of the shortest part.
_NEAR = 2_000


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Texts in the order of the SHA-256 of their names.

    Attributes:
        path: the file or folder they come from.
        names: of each, its path within the folder; the file's own name where there is one file.
        texts: of each, its characters with every line end as a line feed.
        remarks: what was left out and why, in words.
    """

    path: str
    names: tuple[str, ...]
    texts: tuple[str, ...]
    remarks: tuple[str, ...] = ()


class Place(NamedTuple):
    """Where a text is from: the document's name, all of it, and the place in it at which the text begins."""

    name: str
    whole: str
    start: int = 0


@dataclass(frozen=True, kw_only=True)
class Divided:
    """The texts of each part.

    Attributes:
        parts: split -> its texts.
        places: split -> of each of its texts where it is from; empty where that is not told.
        how: how they were divided, in words.
        remarks: what else a reader should know.
    """

    parts: dict[Split, tuple[str, ...]]
    places: dict[Split, tuple[Place, ...]] = field(default_factory=dict)
    how: str
    remarks: tuple[str, ...] = ()


def load_documents(
    path: str | os.PathLike[str], *, encoding: str = "utf-8", pattern: str = "*", characters: int | None = None
) -> Documents:
    """Read one text file, or the text files of a folder and those below it.

    Hidden files and folders, caches and empty files are left out. A byte-order mark is no part of a text; files that
    end in .gz are unpacked. Files that are not text in `encoding` are passed over with a remark where others are left.

    Args:
        path: a file or a folder.
        encoding: of every file.
        pattern: which names of a folder's files count, such as "*.txt"; matched with the path within the folder where
            it has a slash.
        characters: at most this many are read, files in the order of their hashes; the last one may be cut short.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: `path` holds no text in `encoding`, or an option has a value that it cannot take.
    """
    place = Path(path)
    try:
        b" ".decode(encoding, errors="ignore")
    except LookupError:
        raise ValueError(f"encoding {encoding!r} is not known; expected one such as utf-8, utf-16 or latin-1") from None
    if characters is not None and characters < 1:
        raise ValueError(f"characters is {characters}; expected 1 or more, or None to read everything")
    if not place.exists():
        raise FileNotFoundError(f"{place} does not exist; give a text file or a folder of them")

    if place.is_dir():
        listed = sorted(_listed(place, pattern), key=_digest)
        if not listed:
            raise ValueError(f"{place} has no file that matches pattern={pattern!r}, hidden ones and caches aside")
    else:
        listed = [place.name]

    names, texts, refused = [], [], []
    left, empty, begun = characters, 0, 0
    for name in listed:
        if left == 0:
            break
        begun += 1
        try:
            text = _read(place / name if place.is_dir() else place, encoding, left)
        except (OSError, EOFError, zlib.error, UnicodeError) as error:
            refused.append((name, str(error)))
            continue
        if not text:
            empty += 1
            continue
        names.append(name)
        texts.append(text)
        left = None if left is None else left - len(text)

    if not texts:
        if refused:
            raise ValueError(_refusal(place, refused, encoding))
        raise ValueError(f"{place} is empty: there is no text in its {len(listed)} file{'s' * (len(listed) > 1)}")
    remarks = []
    if refused:
        remarks.append(
            f"{len(refused)} of {begun} files of {place} cannot be read as {encoding} text and are left out, "
            f"the first is {refused[0][0]!r} ({refused[0][1]})"
        )
    if empty:
        remarks.append(f"{empty} of {begun} files of {place} have no text and are left out")
    if left == 0:
        unread = len(listed) - begun
        more = f"; {unread} of {len(listed)} files were not read" if unread else ""
        remarks.append(f"reading stopped at characters={characters}{more}")
    return Documents(path=str(place), names=tuple(names), texts=tuple(texts), remarks=tuple(remarks))


def divided(documents: Documents, *, validation: float = 0.1, test: float = 0.1) -> Divided:
    """Training, validation and test parts of documents.

    Twenty documents or more are divided whole, each by the SHA-256 of its name: with a tenth for validation and a tenth
    for test exactly as the task `code` does. Fewer, or documents that would leave a part empty, are each cut by
    position: the first characters for training, then validation, then test; a cut stands at a line end if one is near.

    Args:
        documents: what to divide.
        validation: the share of validation, between 0 and 1.
        test: the share of test, between 0 and 1.

    Raises:
        ValueError: the shares are not positive or leave nothing for training, or there is too little text.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 < share < 1:
            raise ValueError(f"{name} is {share}; expected a share between 0 and 1")
    if not validation + test < 1:
        raise ValueError(
            f"validation + test is {validation + test:g}, which leaves nothing for training; expected less than 1"
        )
    count = len(documents.texts)
    if count >= FEW_DOCUMENTS:
        whole: dict[Split, list[Place]] = {"train": [], "validation": [], "test": []}
        for name, text in zip(documents.names, documents.texts, strict=True):
            whole[_part(name, validation, test)].append(Place(name, text))
        if all(whole.values()):
            numbers = ", ".join(f"{len(places)} for {split}" for split, places in whole.items())
            how = f"{count} documents, each whole in one part by the SHA-256 of its name: {numbers}"
            parts = {split: tuple(place.whole for place in found) for split, found in whole.items()}
            return Divided(parts=parts, places={split: tuple(found) for split, found in whole.items()}, how=how)

    cut: dict[Split, list[str]] = {"train": [], "validation": [], "test": []}
    places: dict[Split, list[Place]] = {"train": [], "validation": [], "test": []}
    for name, text in zip(documents.names, documents.texts, strict=True):
        start = 0
        for split, piece in zip(cut, _cut(text, validation, test), strict=True):
            if piece:
                cut[split].append(piece)
                places[split].append(Place(name, text, start))
            start += len(piece)
    for split, texts in cut.items():
        if not texts:
            raise ValueError(
                f"{documents.path}: its {sum(map(len, documents.texts))} characters are too few to give a {split} "
                "part; give more text, or larger shares of validation and test"
            )
    each = "the document" if count == 1 else f"each of {count} documents"
    return Divided(
        parts={split: tuple(texts) for split, texts in cut.items()},
        places={split: tuple(found) for split, found in places.items()},
        how=f"{each} cut by position: the first {100 * (1 - validation - test):g}% for training, the next "
        f"{100 * validation:g}% for validation, the last {100 * test:g}% for test",
    )


def _listed(folder: Path, pattern: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _CACHES and not name.startswith(".")]
        for name in names:
            path = Path(place, name).relative_to(folder).as_posix()
            matched = fnmatch.fnmatchcase(path if "/" in pattern else name, pattern)
            # A pipe would never end.
            if matched and not name.startswith(".") and Path(place, name).is_file():
                yield path


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def _read(path: Path, encoding: str, most: int | None) -> str:
    """The first characters of a file; UnicodeError says where it is not text."""
    codec = codecs.lookup(encoding).name
    decoder = codecs.getincrementaldecoder(codec.removesuffix("-sig"))()
    lines: Any = io.IncrementalNewlineDecoder(None, translate=True)
    # In these a byte of zero is a part of most characters.
    wide = codec.startswith(("utf-16", "utf-32"))
    pieces: list[str] = []
    held = at = 0
    open_bytes: Any = gzip.open if path.suffix == ".gz" else open
    with open_bytes(path, "rb") as file:
        for chunk in chain(iter(lambda: file.read(_CHUNK), b""), [b""]):
            if not wide and b"\0" in chunk:
                raise UnicodeError(f"a NUL at byte {at + chunk.index(0)}, as binary files have")
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise UnicodeError(f"byte {at - waiting + error.start} is not {encoding}: {error.reason}") from None
            at += len(chunk)
            text = lines.decode(text, final=not chunk)
            if text and not held:
                text = text.removeprefix("\ufeff")
            pieces.append(text)
            held += len(text)
            if most is not None and held >= most:
                break
    return "".join(pieces)[:most]


def _refusal(place: Path, refused: list[tuple[str, str]], encoding: str) -> str:
    first, why = refused[0]
    named = str(place / first) if place.is_dir() else str(place)
    others = f" and {len(refused) - 1} other files" if len(refused) > 1 else ""
    return (
        f"{named}{others} cannot be read as {encoding} text ({why}); give text files, or name their encoding with "
        "encoding=, such as encoding=latin-1 or encoding=utf-16"
    )


def _part(name: str, validation: float, test: float) -> Split:
    number = int.from_bytes(_digest(name)[-8:], "big")
    # The last digit first: it alone decides where shares are tenths, as it does in the task `code`.
    place = number % 10 * 10**6 + number // 10 % 10**6
    if place < round((1 - validation - test) * 10**7):
        return "train"
    return "validation" if place < round((1 - test) * 10**7) else "test"


def _cut(text: str, validation: float, test: float) -> tuple[str, str, str]:
    reach = min(_NEAR, int(min(1 - validation - test, validation, test) * len(text) / 10))
    first, second = (_line_end(text, round(share * len(text)), reach) for share in (1 - validation - test, 1 - test))
    return text[:first], text[first:second], text[second:]


def _line_end(text: str, at: int, reach: int) -> int:
    """The place behind the line end that is nearest to `at`, `at` itself if none is within reach."""
    before = text.rfind("\n", max(0, at - reach), at) + 1
    after = text.find("\n", at, at + reach) + 1
    return min((end for end in (before, after) if end), key=lambda end: abs(end - at), default=at)
