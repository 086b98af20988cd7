"""What a task is: batches with known truth, and the score of knowing nothing.

A task makes batches on the CPU from a seed, so that the same seed gives the same data on every device. Its labels
and marks say what is true at every step; instruments read them, training never does.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of sequences.

    Attributes:
        inputs: (B, T, I) float32; a task's symbols are one-hot. Texts are (B, T) int64.
        targets: (B, T) int64 classes, or (B, T) float32 values for a regression task; what else there is to answer
            says the problem that is learnt.
        scored: bool, shaped like the answers that there are: those that count.
        lengths: (B,) steps of each sequence, None where all have T.
        reset: (B, T) bool, the steps before which the states are zeroed, None where there are none.
        goes_on: whether the sequences go on from those of the batch before, and so do the states.
        symbols: (B, T) int64, the input as symbols, or None where the input is not symbols.
        labels: what is true at each step, name -> (B, T) int64; -1 where the label is not defined.
        marks: the steps that matter, name ("store", "load") -> (B, T) bool.
    """

    # The tensors that training reads, each with a row for every sequence.
    trained_on: ClassVar[tuple[str, ...]] = ("inputs", "targets", "scored", "lengths", "reset")

    inputs: Tensor
    targets: Tensor
    scored: Tensor
    lengths: Tensor | None = None
    reset: Tensor | None = None
    goes_on: bool = False
    symbols: Tensor | None = None
    labels: dict[str, Tensor] = field(default_factory=dict)
    marks: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with what training reads on another device; labels and marks stay on the CPU."""
        read = {name: getattr(self, name) for name in self.trained_on}
        moved = {name: tensor.to(device) for name, tensor in read.items() if tensor is not None}
        return dataclasses.replace(self, **moved)

    def rows(self, rows: slice) -> Batch:
        """Some of the sequences, with everything that is known of them."""
        chosen: dict[str, Any] = {}
        for own in dataclasses.fields(self):
            value = getattr(self, own.name)
            if isinstance(value, Tensor):
                chosen[own.name] = value[rows]
            elif isinstance(value, dict):
                chosen[own.name] = {name: tensor[rows] for name, tensor in value.items()}
        return dataclasses.replace(self, **chosen)


@dataclass(frozen=True)
class Baseline:
    """What an answer without skill scores: `value` in the task's metric, and the formula it comes from."""

    value: float
    formula: str


class Task(ABC):
    """One task with its settings; subclasses are frozen dataclasses whose fields are the settings."""

    name: ClassVar[str]
    summary: ClassVar[str]
    metric: ClassVar[Literal["mse", "accuracy", "bits"]]
    # The setting that a spec names even at its default, since a reader wants to know it.
    telling: ClassVar[str]

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Width I of the inputs."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """Number of classes, or 1 for a regression task."""

    @abstractmethod
    def batch(self, size: int, *, seed: int, split: Split = "train") -> Batch:
        """`size` sequences drawn from `split`; equal arguments give equal batches."""

    @abstractmethod
    def baseline(self) -> Baseline:
        """The score of an answer without skill, in closed form."""

    @property
    def lags(self) -> tuple[int, ...]:
        """Lags at which the trained network is tested; empty where the task has no lag to set."""
        return ()

    def at_lag(self, lag: int) -> Self:
        """The same task with every sequence at this one lag."""
        raise ValueError(f"task {self.name}: has no lag to set, given lag={lag}")

    def longest(self) -> Self:
        """The same task with every sequence at the longest lag it is trained on; itself where it has no lag."""
        return self

    @property
    def regression(self) -> bool:
        return self.metric == "mse"

    def skill(self, value: float) -> float:
        """`value` of the metric on a scale where 0 is no skill and 1 is perfect; below 0 is worse than no skill."""
        base = self.baseline().value
        if self.metric == "accuracy":
            return (value - base) / (1 - base)
        return 1 - value / base

    def spec(self) -> str:
        """The task as written on the command line: name, telling setting, and every other that is not the default."""
        settings = []
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.name == self.telling or value != f.default:
                settings.append(f"{f.name}={'-'.join(map(str, value)) if isinstance(value, tuple) else value}")
        return self.name + (":" + ",".join(settings) if settings else "")
