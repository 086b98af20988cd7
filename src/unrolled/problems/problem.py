"""What a kind of work is: batches to train on, a loss, and figures that say how good the answers are.

Every process of a training makes the same batches and takes its share of their rows, so that several processes do what
one would. A batch follows from the step's number alone: training can go on from any step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.model import Readout
from unrolled.tasks.draws import named
from unrolled.tasks.task import Batch, Split


@dataclass(frozen=True)
class Share:
    """Which rows of every batch one process takes: part `part` of `of` equal ones."""

    part: int = 0
    of: int = 1

    def rows(self, size: int) -> slice:
        """The rows of a batch of `size`."""
        return slice(size * self.part // self.of, size * (self.part + 1) // self.of)


ALL = Share()


@dataclass(frozen=True)
class Shape:
    """What a network for a problem takes and gives.

    Attributes:
        input_size: I, or the number of symbols.
        output_size: K.
        symbols: whether inputs are whole numbers, (B, T).
        readout: whether every step is answered, or the sequence.
    """

    input_size: int
    output_size: int
    symbols: bool = False
    readout: Readout = "every"


class Problem(ABC):
    """One problem with its data."""

    kind: ClassVar[str]
    higher_is_better: bool = False

    @property
    @abstractmethod
    def title(self) -> str:
        """What is learnt, in a few words."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """The name of the figure that says which weights are best."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """What a network for it takes and gives."""

    @property
    def width(self) -> int:
        """S, the number of sums; where it is 2, they are the sum of the metric and the number of answers."""
        return 2

    @abstractmethod
    def batch(self, step: int, share: Share) -> tuple[Batch, int]:
        """One process's rows of the batch of a step, and how many answers count in the whole batch.

        Args:
            step: from 1.
            share: which rows.
        """

    @abstractmethod
    def pieces(self, split: Split, share: Share) -> Iterator[Batch]:
        """One process's share of everything in a split that is looked at, in pieces; those that go on say so."""

    def sample(self, split: Split, sequences: int, steps: int | None = None) -> Iterator[Batch]:
        """A few sequences of a split to look at, in pieces that go on.

        Args:
            split: of which part.
            sequences: how many at most.
            steps: how long at most, where that is to choose.
        """
        yield next(self.pieces(split, ALL)).rows(slice(0, sequences))

    @abstractmethod
    def loss(self, answers: Tensor, batch: Batch) -> Tensor:
        """() the sum of the losses of all answers that count."""

    @abstractmethod
    def sums(self, answers: Tensor, batch: Batch) -> Tensor:
        """(S,) float64: what `figures` needs, as sums over the answers that count."""

    @abstractmethod
    def figures(self, sums: Tensor) -> dict[str, float]:
        """Named figures from sums over all pieces and processes; `metric` is among them."""

    @abstractmethod
    def learnt(self) -> dict[str, Any]:
        """What the training part decided, as JSON can hold it: scales, symbols, names of classes."""

    def afterwards(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        """What predictions need besides the trained network: file name -> facts as JSON can hold them."""
        return {}

    @abstractmethod
    def digest(self) -> str:
        """A name that other data would not have."""


def answer(model: nn.Module, batch: Batch, state: Any) -> tuple[Tensor, Any]:
    """A model's answers, and the states after the last step where the batch needs or leaves any.

    Args:
        model: a SequenceModel; any module that maps inputs to answers where the batch has neither lengths nor resets.
        batch: what it is asked.
        state: the states after the batch before.
    """
    if batch.lengths is None and batch.reset is None and not batch.goes_on:
        answers: Tensor = model(batch.inputs)
        return answers, None
    answers, state = model(
        batch.inputs, state if batch.goes_on else None, lengths=batch.lengths, reset=batch.reset, carry=True
    )
    return answers, state


def summed(model: nn.Module, problem: Problem, split: Split, share: Share = ALL) -> Tensor:
    """(S,) float64 the sums over one process's share of a split; the model is in eval mode meanwhile."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    total = torch.zeros(problem.width, dtype=torch.float64)
    state = None
    try:
        with torch.no_grad():
            for piece in problem.pieces(split, share):
                batch = piece.to(device)
                answers, state = answer(model, batch, state)
                total += problem.sums(answers, batch).cpu()
    finally:
        model.train(training)
    return total


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """`most` of `count` numbers from 0, spread evenly; all of them where there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


class Shuffled:
    """The rows of each batch where every pass over the data takes its examples in a new order.

    Args:
        examples: how many there are.
        batch_size: rows of a batch; at most all examples are in one.
        seed: decides every order.
    """

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        self._examples, self._size, self._seed = examples, min(batch_size, examples), seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def rows(self, step: int) -> NDArray[np.int64]:
        """(B,) which examples are in the batch of a step, from 1; what is left at the end of a pass is left out."""
        epoch, at = divmod(step - 1, self._examples // self._size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, named("order", self._seed, epoch).permutation(self._examples)
        return self._order[at * self._size : (at + 1) * self._size]
