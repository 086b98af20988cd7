"""The next character of real source: the running Python's own standard library, or a folder of .py files."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sysconfig
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .draws import check_integer, one_hot, stream
from .source_labels import label
from .task import SPLITS, Baseline, Batch, Split, Task

# Everything that is not a line end, a tab or printable ASCII is read as the last one.
ALPHABET = "\n\t" + "".join(map(chr, range(32, 127))) + "\ufffd"
LABELS = ("in_string", "in_comment", "bracket_depth", "indentation", "column")

# Larger files, tables mostly, would make one file the better part of a split.
LARGEST_FILE = 200_000
EXCERPT_DRAWS = 200

_OTHER = len(ALPHABET) - 1
_SYMBOL = np.full(128, _OTHER, dtype=np.uint8)
_SYMBOL[[ord(character) for character in ALPHABET[:-1]]] = np.arange(_OTHER, dtype=np.uint8)

_NOT_SOURCE = {"__pycache__", "site-packages", "dist-packages"}
_NOT_LIBRARY = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"}


def decode(symbols: Tensor | Iterable[int]) -> str:
    """The text of symbols: (T,); characters outside the alphabet read as U+FFFD."""
    numbers = symbols.tolist() if isinstance(symbols, Tensor) else symbols
    return "".join(ALPHABET[number] for number in numbers)


def encode(text: str) -> NDArray[np.uint8]:
    """The symbols of `text`: (len(text),), one for each character."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return np.where(points < 128, _SYMBOL[np.minimum(points, 127)], np.uint8(_OTHER))


@dataclass(frozen=True, kw_only=True)
class Code(Task):
    """Predict the next character of Python source.

    A sequence is `length` characters of one file, all positions of a split alike; its targets are the characters that
    follow, all scored. Files, not windows, are split: 80% train, 10% validation, 10% test, each file by the SHA-256 of
    its path within the folder, so that a file stays in its split whatever else is there.

    Test folders, IDLE, lib2to3 and turtledemo of the standard library are left out; so are, in any folder, caches,
    installed packages, hidden folders, files above 200,000 bytes and files that cannot be read as Python reads source.

    Attributes:
        length: characters in a window.
        path: a folder of .py files instead of the standard library.
        characters: at most this many are read, files in the order of their hashes.
    """

    name: ClassVar[str] = "code"
    summary: ClassVar[str] = "predict the next character of the Python standard library"
    metric: ClassVar[Literal["mse", "accuracy", "bits"]] = "bits"
    telling: ClassVar[str] = "length"

    length: int = 128
    path: str = ""
    characters: int = 4_000_000

    def __post_init__(self) -> None:
        check_integer(self.name, "length", self.length, 1)
        check_integer(self.name, "characters", self.characters, 1)

    @property
    def input_size(self) -> int:
        return len(ALPHABET)

    @property
    def output_size(self) -> int:
        return len(ALPHABET)

    def batch(self, size: int, *, seed: int, split: Split = "train") -> Batch:
        """`size` windows of `split`.

        targets: (B, T) int64. labels, those of `source_labels.label` for every input character, are made for validation
        and test only: training never reads them, and they take longer than a step of it. Files that Python's tokenizer
        refuses have no labels and are therefore drawn in training only.

        Raises:
            ValueError: the folder has no source, or none in this split that is long enough.
        """
        check_integer(self.name, "size", size, 1)
        rng = stream(self.name, split=split, seed=seed)
        windows = self._windows(split, labelled=split != "train")
        return self._batch([windows.draw(rng) for _ in range(size)], labelled=split != "train")

    def excerpt(self, length: int, seed: int) -> Batch:
        """One window of `length` test characters, with a string and a comment in it if 200 draws find one."""
        task = dataclasses.replace(self, length=length)
        rng = stream(f"{self.name}/excerpt", split="test", seed=seed)
        windows = task._windows("test", labelled=True)
        window = first = windows.draw(rng)
        for _ in range(EXCERPT_DRAWS):
            truth = window.labels(length)
            if truth["in_string"].any() and truth["in_comment"].any():
                return task._batch([window], labelled=True)
            window = windows.draw(rng)
        return task._batch([first], labelled=True)

    def baseline(self) -> Baseline:
        return Baseline(
            _unigram_bits(*self._key()),
            "cross-entropy of the test files under the character frequencies of the training files, add-one: "
            "-sum over characters c of p_test(c) log2((n_train(c) + 1) / (n_train + 98))",
        )

    def files(self, split: Split) -> tuple[str, ...]:
        """The files of `split`, their paths within the folder."""
        return tuple(source.path for source in _corpus(*self._key()).splits[split])

    def texts(self, split: Split) -> tuple[str, ...]:
        """The text of each of `files(split)`, characters outside the alphabet too."""
        return tuple(source.text for source in _corpus(*self._key()).splits[split])

    def _key(self) -> tuple[str, bool, int]:
        if self.path:
            return os.path.abspath(os.path.expanduser(self.path)), False, self.characters
        return sysconfig.get_path("stdlib"), True, self.characters

    def _windows(self, split: Split, *, labelled: bool) -> _Windows:
        return _windows(*self._key(), split, self.length, labelled)

    def _batch(self, windows: list[_Window], *, labelled: bool) -> Batch:
        symbols = torch.from_numpy(np.stack([window.symbols(self.length + 1) for window in windows]).astype(np.int64))
        labels: dict[str, Tensor] = {}
        if labelled:
            truths = [window.labels(self.length) for window in windows]
            for name in LABELS:
                labels[name] = torch.from_numpy(np.stack([truth[name] for truth in truths]).astype(np.int64))
        inputs = symbols[:, :-1].contiguous()
        return Batch(
            inputs=one_hot(inputs, len(ALPHABET)),
            targets=symbols[:, 1:].contiguous(),
            scored=torch.ones(inputs.shape, dtype=torch.bool),
            symbols=inputs,
            labels=labels,
        )


class _Source(NamedTuple):
    path: str
    text: str


class _Corpus(NamedTuple):
    folder: str
    splits: dict[Split, tuple[_Source, ...]]
    symbols: dict[Split, tuple[NDArray[np.uint8], ...]]


class _Window(NamedTuple):
    source: _Source
    characters: NDArray[np.uint8]
    start: int

    def symbols(self, length: int) -> NDArray[np.uint8]:
        return self.characters[self.start : self.start + length]

    def labels(self, length: int) -> dict[str, NDArray[np.int8]]:
        truth = _labels(self.source.text)
        assert truth is not None, self.source.path
        return {name: values[self.start : self.start + length] for name, values in truth.items()}


class _Windows:
    """Every window of one split; `labelled` ones pass over files that cannot be labelled."""

    def __init__(self, corpus: _Corpus, split: Split, length: int, *, labelled: bool) -> None:
        pairs = zip(corpus.splits[split], corpus.symbols[split], strict=True)
        self.sources = [(source, symbols) for source, symbols in pairs if len(symbols) > length]
        self.ends = np.cumsum([len(symbols) - length for _, symbols in self.sources])
        self.labelled = labelled
        self.refused: set[int] = set()
        self.nothing = (
            f"task code: the {split} split of {corpus.folder} has no file of at least {length + 1} characters"
            f"{' that can be tokenized' if labelled else ''}, among {len(corpus.splits[split])} files; "
            f"set a smaller length, or path=FOLDER with more files"
        )

    def draw(self, rng: np.random.Generator) -> _Window:
        while len(self.refused) < len(self.sources):
            at = int(rng.integers(self.ends[-1]))
            index = int(np.searchsorted(self.ends, at, side="right"))
            source, symbols = self.sources[index]
            if self.labelled and _labels(source.text) is None:
                self.refused.add(index)
                continue
            return _Window(source, symbols, int(self.ends[index]) - 1 - at)
        raise ValueError(self.nothing)


@lru_cache(maxsize=16)
def _windows(folder: str, library: bool, characters: int, split: Split, length: int, labelled: bool) -> _Windows:
    return _Windows(_corpus(folder, library, characters), split, length, labelled=labelled)


@lru_cache(maxsize=128)
def _labels(text: str) -> dict[str, NDArray[np.int8]] | None:
    """The labels of one file, None where it cannot be tokenized."""
    try:
        return label(text)
    except SyntaxError:
        return None


@lru_cache(maxsize=4)
def _corpus(folder: str, library: bool, characters: int) -> _Corpus:
    way_out = "give a folder of .py files, path=FOLDER"
    if not os.path.isdir(folder):
        raise ValueError(f"task code: path {folder!r} is not a folder; {way_out}")
    listed = _listed(Path(folder), leave_out=_NOT_SOURCE | (_NOT_LIBRARY if library else set()))
    if not listed:
        raise ValueError(f"task code: no .py source in {folder!r}; {way_out}")

    sources: dict[Split, list[_Source]] = {split: [] for split in SPLITS}
    left = characters
    skipped: list[str] = []
    for path, digest in listed:
        try:
            # A file has at least as many bytes as characters, so its size alone keeps the promise of `characters`.
            size = os.stat(os.path.join(folder, path)).st_size
            if size > LARGEST_FILE or size > left:
                skipped.append(f"{path}: its {size} bytes are above {min(LARGEST_FILE, left)}")
                continue
            # As Python reads source: by its coding line or byte-order mark, any line end as "\n".
            with tokenize.open(os.path.join(folder, path)) as file:
                text = file.read()
        except (OSError, SyntaxError, ValueError, LookupError) as error:
            skipped.append(f"{path}: {error}")
            continue
        if text:
            left -= size
            sources[_split_of(digest)].append(_Source(path, text))
    if not any(sources.values()):
        why = f"{len(skipped)} skipped, the first is {skipped[0]}" if skipped else "all are empty"
        raise ValueError(f"task code: no file of {folder!r} can be used ({why}); {way_out}")
    splits = {split: tuple(found) for split, found in sources.items()}
    return _Corpus(
        folder, splits, {split: tuple(encode(source.text) for source in found) for split, found in splits.items()}
    )


def _listed(folder: Path, *, leave_out: set[str]) -> list[tuple[str, bytes]]:
    """Paths of the .py files within `folder` and their SHA-256, in the order of the latter."""
    listed = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in leave_out and not name.startswith(".")]
        for name in names:
            file = Path(place, name)
            # A pipe named x.py would never end.
            if name.endswith(".py") and file.is_file():
                path = file.relative_to(folder).as_posix()
                listed.append((path, hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()))
    return sorted(listed, key=lambda entry: entry[1])


def _split_of(digest: bytes) -> Split:
    # Files are read in the order of the digest's first bytes; its last ones fill the splits alike all along that order.
    part = int.from_bytes(digest[-8:], "big") % 10
    return "train" if part < 8 else "validation" if part == 8 else "test"


@lru_cache(maxsize=4)
def _unigram_bits(folder: str, library: bool, characters: int) -> float:
    corpus = _corpus(folder, library, characters)
    train, test = (
        sum(
            (np.bincount(symbols, minlength=len(ALPHABET)) for symbols in corpus.symbols[split]),
            np.zeros(len(ALPHABET)),
        )
        for split in ("train", "test")
    )
    if not test.sum():
        raise ValueError(f"task code: the test split of {folder} has no file; set path=FOLDER with more files")
    bits = -np.log2((train + 1) / (train + 1).sum())
    return float((test * bits).sum() / test.sum())
