"""Delayed recall: a cue, distractors, and a query at which the cue must be named."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch

from .draws import Span, check_integer, check_span, draw, ends, integers, one_hot, spread, stream
from .task import Baseline, Batch, Split, Task


@dataclass(frozen=True, kw_only=True)
class Recall(Task):
    """One of `symbols` cues, `lag` distractor steps, then a query: name the cue.

    Symbols are numbered cues first, then distractors, then the query: the cue's number is its class. Distractors are
    drawn anew at every step and are never cues, so that the cue is known from its one step only.

    Attributes:
        lag: distractor steps between cue and query, or an inclusive range from which each batch draws its one lag.
        symbols: number of cues.
        distractors: number of distinct distractor symbols; 0 puts one blank symbol at every step between.
        length: T of every sequence; the cue stands at length - 2 - lag, with distractors before it. Without it the cue
            comes first and T = lag + 2.
    """

    name: ClassVar[str] = "recall"
    summary: ClassVar[str] = "name a symbol seen some steps ago, past distractors"
    metric: ClassVar[Literal["mse", "accuracy", "bits"]] = "accuracy"
    telling: ClassVar[str] = "lag"

    lag: Span = (1, 40)
    symbols: int = 8
    distractors: int = 8
    length: int | None = None

    def __post_init__(self) -> None:
        check_span(self.name, "lag", self.lag, 1)
        check_integer(self.name, "symbols", self.symbols, 2)
        check_integer(self.name, "distractors", self.distractors, 0)
        if self.length is not None:
            check_integer(self.name, "length", self.length, 3)
            _, top = ends(self.lag)
            if top > self.length - 2:
                raise ValueError(
                    f"task {self.name}: lag is {top} but length is {self.length}; "
                    f"the lag may be at most length - 2 = {self.length - 2}"
                )

    @property
    def query(self) -> int:
        """The query's symbol, the last one."""
        return self.symbols + max(1, self.distractors)

    @property
    def input_size(self) -> int:
        return self.query + 1

    @property
    def output_size(self) -> int:
        return self.symbols

    def batch(self, size: int, *, seed: int, split: Split = "train") -> Batch:
        """`size` sequences at one lag.

        targets: (B, T) int64, the cue at the last step and zero before it. labels: "cue", the cue's number from its
        step on, -1 before. marks: "store" the cue's step, "load" the query's.
        """
        check_integer(self.name, "size", size, 1)
        rng = stream(self.name, split=split, seed=seed)
        lag = draw(rng, self.lag)
        length = lag + 2 if self.length is None else self.length
        start = length - 2 - lag

        cue = integers(rng, 0, self.symbols, size, 1)  # (B, 1)
        symbols = integers(rng, self.symbols, self.query, size, length)
        symbols[:, start : start + 1] = cue
        symbols[:, -1] = self.query

        at = torch.arange(length).expand(size, -1)
        held = cue.expand(-1, length)  # (B, T)
        return Batch(
            inputs=one_hot(symbols, self.input_size),
            targets=torch.where(at == length - 1, held, 0),
            scored=at == length - 1,
            symbols=symbols,
            labels={"cue": torch.where(at >= start, held, -1)},
            marks={"store": at == start, "load": at == length - 1},
        )

    def baseline(self) -> Baseline:
        return Baseline(1 / self.symbols, f"guessing one of the symbols: 1/{self.symbols}")

    @property
    def lags(self) -> tuple[int, ...]:
        """1/4, 1/2, 1, 2 and 4 times the longest training lag, as far as `length` allows."""
        lags = spread(self.lag, quarters=(1, 2, 4, 8, 16), least=1)
        return tuple(lag for lag in lags if self.length is None or lag <= self.length - 2)

    def longest(self) -> Self:
        return self.at_lag(ends(self.lag)[1])

    def at_lag(self, lag: int) -> Self:
        """The same task with `lag` distractor steps in every sequence."""
        return dataclasses.replace(self, lag=lag)
