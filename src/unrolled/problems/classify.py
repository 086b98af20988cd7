"""The class of a sequence, of any length."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unrolled.problems.problem import Problem, Shape, Share, Shuffled, evenly
from unrolled.tasks.draws import named
from unrolled.tasks.task import Batch, Split

if TYPE_CHECKING:
    from unrolled.data.labelled import Labelled

Array = NDArray[Any]

_CHUNK = 256  # sequences of a piece


class Classify(Problem):
    """Name the class of each sequence from the mean of its states.

    Channels are scaled to mean 0 and standard deviation 1 over the steps of the training part.

    Args:
        parts: the sequences of each split.
        seed: decides their order.
        batch_size: sequences of a batch.
        name: what the data are, for messages.

    Attributes:
        scaled: the sequences of each split as the network reads them.
    """

    kind: ClassVar[str] = "classify"
    # The accuracy of few validation sequences takes few values; their cross-entropy tells more.
    metric: ClassVar[str] = "nats"
    width: ClassVar[int] = 3

    def __init__(self, parts: Mapping[Split, Labelled], *, seed: int, batch_size: int, name: str = "sequences") -> None:
        self.parts, self.name, self._batch_size = parts, name, batch_size
        train = parts["train"]
        self.classes = tuple(sorted(set(train.labels)))
        if len(self.classes) < 2:
            raise ValueError(f"{name}: its training part has one class, {self.classes[0]!r}; expected 2 or more")
        for split, part in parts.items():
            unknown = sorted(set(part.labels) - set(self.classes))
            if unknown:
                raise ValueError(
                    f"{name}: the class {unknown[0]!r} is in its {split} part and not in its training part"
                )
        steps = np.concatenate(train.sequences)
        spread = steps.std(0, dtype=np.float64)
        self._mean, self._std = steps.mean(0, dtype=np.float64), np.where(spread > 0, spread, 1)
        self._order = Shuffled(len(train.sequences), batch_size, seed)
        self.scaled = {
            split: [scaled(s, self._mean, self._std) for s in part.sequences] for split, part in parts.items()
        }
        number = {label: index for index, label in enumerate(self.classes)}
        self._labels = {split: np.array([number[label] for label in part.labels]) for split, part in parts.items()}

    @property
    def title(self) -> str:
        return f"{len(self.classes)} classes of {self.name}"

    @property
    def shape(self) -> Shape:
        return Shape(len(self.parts["train"].channels), len(self.classes), readout="mean")

    def batch(self, step: int, share: Share) -> tuple[Batch, int]:
        numbers = self._order.rows(step)
        return self._made("train", numbers[share.rows(len(numbers))]), len(numbers)

    def pieces(self, split: Split, share: Share) -> Iterator[Batch]:
        count = len(self._labels[split])
        for index, at in enumerate(range(0, count, _CHUNK)):
            if index % share.of == share.part:
                yield self._made(split, np.arange(at, min(at + _CHUNK, count)))

    def sample(self, split: Split, sequences: int, steps: int | None = None) -> Iterator[Batch]:
        """Sequences spread evenly over the split, in one piece, with their "class" as a label."""
        batch = self._made(split, evenly(len(self._labels[split]), sequences))
        assert batch.lengths is not None
        inside = torch.arange(batch.inputs.size(1)) < batch.lengths.unsqueeze(1)
        classes = torch.where(inside, batch.targets.unsqueeze(1), -1)
        yield dataclasses.replace(batch, labels={"class": classes})

    def loss(self, answers: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(answers, batch.targets, reduction="sum")

    def sums(self, answers: Tensor, batch: Batch) -> Tensor:
        nats = F.cross_entropy(answers.double(), batch.targets, reduction="sum")
        right = (answers.argmax(-1) == batch.targets).sum()
        return torch.stack((nats, right.double(), nats.new_tensor(len(batch.targets))))

    def figures(self, sums: Tensor) -> dict[str, float]:
        return {"nats": float(sums[0] / sums[2]), "accuracy": float(sums[1] / sums[2])}

    def learnt(self) -> dict[str, Any]:
        return {
            "classes": list(self.classes),
            "channels": list(self.parts["train"].channels),
            "mean": self._mean.tolist(),
            "std": self._std.tolist(),
        }

    def digest(self) -> str:
        whole = hashlib.sha256()
        for split, part in sorted(self.parts.items()):
            whole.update(f"{split} {part.channels} {part.labels}".encode())
            for sequence in part.sequences:
                whole.update(f"{sequence.shape}".encode())
                whole.update(sequence.tobytes())
        return whole.hexdigest()

    def _made(self, split: Split, numbers: Array) -> Batch:
        inputs, lengths = padded([self.scaled[split][number] for number in numbers])
        return Batch(
            inputs=inputs,
            targets=torch.from_numpy(self._labels[split][numbers]),
            scored=torch.ones(len(numbers), dtype=torch.bool),
            lengths=lengths,
        )


def scaled(sequence: Array, mean: Array, std: Array) -> Array:
    """A sequence: (T, C) as the network reads it."""
    return ((sequence - mean) / std).astype(np.float32)


def padded(sequences: Sequence[Array]) -> tuple[Tensor, Tensor]:
    """(B, T, C) sequences with zeros after their ends, and (B,) their lengths."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    together = torch.zeros(len(sequences), int(lengths.max()), sequences[0].shape[1])
    for row, sequence in zip(together, sequences, strict=True):
        row[: len(sequence)] = torch.from_numpy(sequence)
    return together, lengths


def divided(labelled: Labelled, shares: Mapping[Split, float]) -> dict[Split, Labelled]:
    """Sequences divided at random, always in the same way, so that every class is in every part where it can be.

    Args:
        labelled: the sequences.
        shares: of each part but the training part, which has what is left.
    """
    labels = np.array(labelled.labels)
    order = named("division", len(labels)).permutation(len(labels))
    chosen: dict[Split, list[int]] = {split: [] for split in ("train", *shares)}
    for label in sorted(set(labelled.labels)):
        members = order[labels[order] == label]
        taken = 0
        for split, share in shares.items():
            # One at least stays to train on.
            count = min(round(share * len(members)), len(members) - taken - 1)
            chosen[split] += members[taken : taken + count].tolist()
            taken += count
        chosen["train"] += members[taken:].tolist()
    parts = {split: _some(labelled, sorted(numbers)) for split, numbers in chosen.items()}
    for split, part in parts.items():
        if not part.labels:
            raise ValueError(
                f"{labelled.path}: {len(labels)} sequences are too few for a {split} part; give more, or a larger share"
            )
    return parts


def _some(labelled: Labelled, numbers: Sequence[int]) -> Labelled:
    return dataclasses.replace(
        labelled,
        sequences=tuple(labelled.sequences[number] for number in numbers),
        labels=tuple(labelled.labels[number] for number in numbers),
    )
