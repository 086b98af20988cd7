"""The adding problem: two numbers, far apart, marked among many; answer their sum at the end."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch

from .draws import Span, check_integer, check_span, draw, ends, integers, spread, stream
from .task import Baseline, Batch, Split, Task


@dataclass(frozen=True, kw_only=True)
class Adding(Task):
    """Hochreiter & Schmidhuber (1997), section 5.4, in the form of Le, Jaitly & Hinton (2015), section 4.1.

    inputs: (B, T, 2), a value from U(0, 1) and a marker of 0 or 1. One step is marked in the first half,
    0 <= t < T // 2, and one in the second; the target at the last step is the sum of the two marked values.

    The lag of this task is the length of its sequences.

    Attributes:
        length: T, at least 2, or an inclusive range from which each batch draws its one length.
    """

    name: ClassVar[str] = "adding"
    summary: ClassVar[str] = "add two marked numbers of a long sequence"
    metric: ClassVar[Literal["mse", "accuracy", "bits"]] = "mse"
    telling: ClassVar[str] = "length"

    length: Span = 50

    def __post_init__(self) -> None:
        check_span(self.name, "length", self.length, 2)

    @property
    def input_size(self) -> int:
        return 2

    @property
    def output_size(self) -> int:
        return 1

    def batch(self, size: int, *, seed: int, split: Split = "train") -> Batch:
        """`size` sequences of one length.

        targets: (B, T) float32, zero before the last step. labels: "marked", 1 at the two marked steps and 0 elsewhere.
        marks: "store" the two marked steps, "load" the last step.
        """
        check_integer(self.name, "size", size, 1)
        rng = stream(self.name, split=split, seed=seed)
        length = draw(rng, self.length)
        half = length // 2
        rows = torch.arange(size)

        values = torch.from_numpy(rng.random((size, length)).astype("float32"))
        marked = torch.zeros(size, length, dtype=torch.bool)
        marked[rows, integers(rng, 0, half, size)] = True
        marked[rows, integers(rng, half, length, size)] = True
        last = torch.zeros_like(marked)
        last[:, -1] = True

        total = (values * marked).sum(dim=1, keepdim=True)  # (B, 1)
        return Batch(
            inputs=torch.stack([values, marked.float()], dim=-1),
            targets=torch.where(last, total, torch.zeros(())),
            scored=last,
            labels={"marked": marked.long()},
            marks={"store": marked, "load": last.clone()},
        )

    def baseline(self) -> Baseline:
        return Baseline(2 / 12, "always answering 1: the variance of the sum of two U(0, 1), 2/12")

    @property
    def lags(self) -> tuple[int, ...]:
        """Half of the longest training length, that length, and 2 and 4 times it."""
        return spread(self.length, quarters=(2, 4, 8, 16), least=2)

    def longest(self) -> Self:
        return self.at_lag(ends(self.length)[1])

    def at_lag(self, lag: int) -> Self:
        """The same task with sequences of `lag` steps."""
        return dataclasses.replace(self, length=lag)
