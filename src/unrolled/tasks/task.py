"""What a task is: batches with known truth, and the score of knowing nothing.

A task makes batches on the CPU from a seed, so that the same seed gives the same data on every device. Its labels
and marks say what is true at every step; instruments read them, training never does.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of sequences of one length.

    Attributes:
        inputs: (B, T, I) float32; symbols are one-hot.
        targets: (B, T) int64 classes, or (B, T) float32 values for a regression task.
        scored: (B, T) bool, the steps whose answers count.
        symbols: (B, T) int64, the input as symbols, or None where the input is not symbols.
        labels: what is true at each step, name -> (B, T) int64; -1 where the label is not defined.
        marks: the steps that matter, name ("store", "load") -> (B, T) bool.
    """

    inputs: Tensor
    targets: Tensor
    scored: Tensor
    symbols: Tensor | None = None
    labels: dict[str, Tensor] = field(default_factory=dict)
    marks: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with what training reads on another device; labels and marks stay on the CPU."""
        return dataclasses.replace(
            self, inputs=self.inputs.to(device), targets=self.targets.to(device), scored=self.scored.to(device)
        )


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
