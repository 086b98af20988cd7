"""The next character of a text, with states that are carried through it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unrolled.problems.problem import Problem, Shape, Share
from unrolled.tasks.draws import named
from unrolled.tasks.task import Batch, Split

Symbols = NDArray[np.int32]
Truth = Callable[[Split, int], Mapping[str, NDArray[Any]] | None]

BOUNDARY, OTHER = 0, 1  # the symbol between documents, and that of every character outside the vocabulary
_STREAMS = 32  # in which a split is read side by side


@dataclass(frozen=True)
class Vocabulary:
    """The characters a network knows, in the order of their code points; symbol numbers begin with two special ones."""

    characters: str

    @classmethod
    def of(cls, texts: Sequence[str], most: int) -> Vocabulary:
        """The `most` commonest characters of some texts."""
        counts: dict[int, int] = {}
        for text in texts:
            for point, count in zip(*np.unique(_points(text), return_counts=True), strict=True):
                counts[int(point)] = counts.get(int(point), 0) + int(count)
        commonest = sorted(counts, key=lambda point: (-counts[point], point))[:most]
        return cls("".join(map(chr, sorted(commonest))))

    def __len__(self) -> int:
        return len(self.characters) + 2

    def encode(self, text: str) -> Symbols:
        """(len(text),) the symbol of every character."""
        known = _points(self.characters)
        points = _points(text)
        at = np.minimum(np.searchsorted(known, points), len(known) - 1)
        return np.where(known[at] == points, at + 2, OTHER).astype(np.int32)

    def decode(self, symbols: Sequence[int]) -> str:
        """The text of symbols: a boundary reads as a form feed, what is outside the vocabulary as U+FFFD."""
        return "".join("\f\ufffd"[symbol] if symbol < 2 else self.characters[symbol - 2] for symbol in symbols)


def _points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def joined(documents: Sequence[Symbols]) -> Symbols:
    """The stream of documents: a boundary before each, and one after the last."""
    boundary = np.full(1, BOUNDARY, np.int32)
    return np.concatenate([part for document in documents for part in (boundary, document)] + [boundary])


class Text(Problem):
    """Predict every character of documents from those before it.

    Before each document stands a boundary, at which the states are zeroed; it is also what is to be answered at a
    document's end. Training reads `batch_size` places of one long stream side by side, in pieces of `length`
    characters, and carries the states from piece to piece. In every pass the documents are in a new order, and the
    stream begins at a new place.

    Args:
        parts: the documents of each split.
        seed: decides the order of the documents, and where the stream begins.
        batch_size: streams of a batch.
        length: characters of a piece, through which gradients flow.
        carry: whether the states go on from piece to piece; else every piece starts from zero.
        most_symbols: characters of the vocabulary, the commonest of the training part.
        validation_characters: at most these are looked at in a validation.
        name: what the text is, for messages.
        truth: of a split and the number of a document in it, what is true at each of its characters, name -> (its
            characters,); None where nothing is known of it. Asked for what is to be looked at only.
    """

    kind: ClassVar[str] = "text"
    metric: ClassVar[str] = "bits"
    width: ClassVar[int] = 3

    def __init__(
        self,
        parts: Mapping[Split, Sequence[str]],
        *,
        seed: int,
        batch_size: int,
        length: int,
        carry: bool = True,
        most_symbols: int = 512,
        validation_characters: int = 200_000,
        name: str = "text",
        truth: Truth | None = None,
    ) -> None:
        self.parts, self.name, self._truth = parts, name, truth
        self._seed, self._batch_size, self._length, self._carry = seed, batch_size, length, carry
        self._validation_characters = validation_characters
        self.vocabulary = Vocabulary.of(parts["train"], most_symbols)
        self._documents = [self.vocabulary.encode(text) for text in parts["train"]]
        self.symbols: dict[Split, Symbols] = {
            split: joined([self.vocabulary.encode(text) for text in texts]) for split, texts in parts.items()
        }
        self._pass, self._stream = -1, self.symbols["train"]
        for split, stream in self.symbols.items():
            if len(stream) < 2 * _STREAMS:
                raise ValueError(
                    f"{name}: its {split} part has {max(0, len(stream) - 1)} characters; expected {2 * _STREAMS} or "
                    "more; give more text, or set validation and test to larger shares"
                )
        self._pieces_a_pass = (len(self.symbols["train"]) - 1) // batch_size // length
        if not self._pieces_a_pass:
            raise ValueError(
                f"{name}: its training part has {len(self.symbols['train'])} characters, too few for batch_size="
                f"{batch_size} times length={length}; set batch_size to "
                f"{max(1, (len(self.symbols['train']) - 1) // length)} or less, or a smaller length"
            )

    @property
    def title(self) -> str:
        return f"text of {self.name}"

    @property
    def shape(self) -> Shape:
        return Shape(len(self.vocabulary), len(self.vocabulary), symbols=True)

    def batch(self, step: int, share: Share) -> tuple[Batch, int]:
        epoch, piece = divmod(step - 1, self._pieces_a_pass)
        if epoch != self._pass:
            self._pass, self._stream = epoch, self._in_new_order(epoch)
        stream, length = self._stream, self._length
        rows = np.arange(self._batch_size)[share.rows(self._batch_size)]
        starts = rows * ((len(stream) - 1) // self._batch_size) + piece * length
        read = torch.from_numpy(stream[starts[:, None] + np.arange(length + 1)].astype(np.int64))
        return self._made(read, goes_on=self._carry and piece > 0), self._batch_size * length

    def pieces(self, split: Split, share: Share) -> Iterator[Batch]:
        stream = self.symbols[split]
        if split == "validation":
            stream = stream[: self._validation_characters + 1]
        # Neighbouring streams overlap in the character that one is to answer and the next one reads.
        each = (len(stream) - 1) // _STREAMS
        yield from self._read(stream, np.arange(_STREAMS)[share.rows(_STREAMS)] * each, each)

    def sample(self, split: Split, sequences: int, steps: int | None = None) -> Iterator[Batch]:
        stream = self.symbols[split]
        each = (len(stream) - 1) // sequences
        starts, steps = np.arange(sequences) * each, min(each, steps or each)
        labels = self._labels(split, starts, steps)
        at = 0
        for batch in self._read(stream, starts, steps):
            size = batch.inputs.size(1)
            yield replace(batch, labels={name: label[:, at : at + size] for name, label in labels.items()})
            at += size

    def _labels(self, split: Split, starts: NDArray[np.int64], steps: int) -> dict[str, Tensor]:
        """Name -> (B, steps) what is true from each of these places of a stream on; -1 where it is not known."""
        if self._truth is None:
            return {}
        found: dict[str, Tensor] = {}
        sizes = np.array([len(text) for text in self.parts[split]])
        # A boundary stands before each document.
        begins = np.cumsum(sizes + 1) - sizes
        for row, start in enumerate(starts.tolist()):
            touched = np.flatnonzero((begins + sizes > start) & (begins < start + steps))
            for number in touched.tolist():
                offset = int(begins[number]) - start
                low, high = max(0, offset), min(steps, offset + int(sizes[number]))
                for name, values in (self._truth(split, number) or {}).items():
                    label = found.setdefault(name, torch.full((len(starts), steps), -1))
                    label[row, low:high] = torch.from_numpy(values[low - offset : high - offset].astype(np.int64))
        return found

    def _read(self, stream: Symbols, starts: NDArray[np.int64], steps: int) -> Iterator[Batch]:
        for at in range(0, steps, self._length):
            size = min(self._length, steps - at)
            read = torch.from_numpy(stream[starts[:, None] + at + np.arange(size + 1)].astype(np.int64))
            yield self._made(read, goes_on=at > 0)

    def loss(self, answers: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(answers.flatten(0, 1), batch.targets.flatten(), reduction="sum")

    def sums(self, answers: Tensor, batch: Batch) -> Tensor:
        nats = F.cross_entropy(answers.flatten(0, 1).double(), batch.targets.flatten(), reduction="sum")
        right = (answers.argmax(-1) == batch.targets).sum()
        return torch.stack((nats / math.log(2), right.double(), nats.new_tensor(batch.targets.numel())))

    def figures(self, sums: Tensor) -> dict[str, float]:
        return {"bits": float(sums[0] / sums[2]), "accuracy": float(sums[1] / sums[2])}

    def learnt(self) -> dict[str, Any]:
        return {"characters": self.vocabulary.characters}

    def digest(self) -> str:
        whole = hashlib.sha256()
        for split in ("train", "validation", "test"):
            for text in self.parts[split]:
                whole.update(text.encode("utf-8", "surrogatepass") + b"\0")
            whole.update(b"\1")
        return whole.hexdigest()

    def _in_new_order(self, epoch: int) -> Symbols:
        drawn = named("text", self._seed, epoch)
        order = drawn.permutation(len(self._documents))
        # A ring: the boundary after the last document is the one before the first.
        ring = joined([self._documents[number] for number in order])[:-1]
        begun = np.roll(ring, -int(drawn.integers(len(ring))))
        return np.append(begun, begun[0])

    def _made(self, read: Tensor, *, goes_on: bool) -> Batch:
        """read: (B, T + 1) symbols."""
        inputs = read[:, :-1].contiguous()
        return Batch(
            inputs=inputs,
            targets=read[:, 1:].contiguous(),
            scored=torch.ones_like(inputs, dtype=torch.bool),
            reset=inputs == BOUNDARY,
            goes_on=goes_on,
            symbols=inputs,
        )
