"""The copying memory problem: hold a string of symbols over a delay, then repeat it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch

from .draws import Span, check_integer, check_span, draw, ends, integers, one_hot, spread, stream
from .task import Baseline, Batch, Split, Task


@dataclass(frozen=True, kw_only=True)
class Copy(Task):
    """Arjovsky, Shah & Bengio (2016), section 5.1; after Hochreiter & Schmidhuber (1997).

    input:  `items` symbols, lag - 1 blanks, the delimiter, `items` blanks
    target: lag + items blanks, then the symbols

    so T = lag + 2 items, and the first symbol is answered one step after the delimiter, lag + items steps after it was
    seen. The symbols are 0, ..., symbols - 1, then the blank, then the delimiter. Every step is scored; the metric is
    the mean cross-entropy per step in bits.

    Attributes:
        symbols: number of symbols to choose from.
        items: number of symbols to hold.
        lag: the paper's delay T, or an inclusive range from which each batch draws its one lag.
    """

    name: ClassVar[str] = "copy"
    summary: ClassVar[str] = "hold a string of symbols over a delay and repeat it"
    metric: ClassVar[Literal["mse", "accuracy", "bits"]] = "bits"
    telling: ClassVar[str] = "lag"

    symbols: int = 8
    items: int = 10
    lag: Span = 20

    def __post_init__(self) -> None:
        check_integer(self.name, "symbols", self.symbols, 2)
        check_integer(self.name, "items", self.items, 1)
        check_span(self.name, "lag", self.lag, 1)

    @property
    def blank(self) -> int:
        return self.symbols

    @property
    def delimiter(self) -> int:
        return self.symbols + 1

    @property
    def input_size(self) -> int:
        return self.symbols + 2

    @property
    def output_size(self) -> int:
        return self.symbols + 1

    def batch(self, size: int, *, seed: int, split: Split = "train") -> Batch:
        """`size` sequences at one lag.

        labels: "item", the first symbol, from its step until the step at which it must be answered, both included; -1
        after. marks: "store" the steps of the symbols, "load" the steps at which they are answered.
        """
        check_integer(self.name, "size", size, 1)
        rng = stream(self.name, split=split, seed=seed)
        lag = draw(rng, self.lag)
        length = lag + 2 * self.items
        answer = lag + self.items

        items = integers(rng, 0, self.symbols, size, self.items)
        symbols = torch.full((size, length), self.blank)
        symbols[:, : self.items] = items
        symbols[:, answer - 1] = self.delimiter
        targets = torch.full((size, length), self.blank)
        targets[:, answer:] = items

        at = torch.arange(length).expand(size, -1)
        return Batch(
            inputs=one_hot(symbols, self.input_size),
            targets=targets,
            scored=torch.ones(size, length, dtype=torch.bool),
            symbols=symbols,
            labels={"item": torch.where(at <= answer, items[:, :1], -1)},
            marks={"store": at < self.items, "load": at >= answer},
        )

    def baseline(self) -> Baseline:
        low, high = ends(self.lag)
        bits = self.items * math.log2(self.symbols)
        formula = (
            f"blanks, then a uniform guess of the symbols: items log2(symbols) / (lag + 2 items) bits per step "
            f"= {self.items} log2({self.symbols}) / ({'lag' if low < high else low} + {2 * self.items})"
            f"; in nats items ln(symbols) / (lag + 2 items)"
        )
        if low < high:
            formula += f", the mean over lags {low}-{high}"
        lags = range(low, high + 1)
        return Baseline(sum(bits / (lag + 2 * self.items) for lag in lags) / len(lags), formula)

    @property
    def lags(self) -> tuple[int, ...]:
        """A quarter and a half of the longest training lag, that lag, and 2 and 4 times it."""
        return spread(self.lag, quarters=(1, 2, 4, 8, 16), least=1)

    def longest(self) -> Self:
        return self.at_lag(ends(self.lag)[1])

    def at_lag(self, lag: int) -> Self:
        """The same task with a delay of `lag` in every sequence."""
        return dataclasses.replace(self, lag=lag)
