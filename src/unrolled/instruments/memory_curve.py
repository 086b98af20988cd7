"""How far back the input can be read off a state: a linear readout of the input k steps back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from unrolled.drawing.panels import Curve, Panel
from unrolled.instruments.opened import Batches, open_layer, stream
from unrolled.instruments.reading import (
    Split,
    as_labels,
    input_read,
    measured,
    spread_symbols,
    states_read,
    steps_of,
    symbols_of,
)
from unrolled.instruments.readout import Array, Kind, Reservoir, Score, defined, fit, is_value, score
from unrolled.instruments.result import Result, labelled
from unrolled.intervals import Interval, number, with_interval


@dataclass(frozen=True, eq=False, repr=False)
class MemoryCurve(Result):
    """What is known of the input k steps back.

    Variables of `data`, by what is read ("hidden", "cell", "both", "input") and lag:
        score, score_low, score_high (read, lag): balanced accuracy for symbols, R² for values, on sequences the readout
            was not fitted to; bootstrap interval over those.
        control (read, lag): the same for the input at the same place of another sequence, which no state can know; NaN
            where nothing is asked for there.
        chance (lag): 1 / number of symbols that occur, or 0.
    """

    @property
    def lags(self) -> tuple[int, ...]:
        return tuple(map(int, self.data["lag"].values))

    @property
    def reads(self) -> list[str]:
        return [str(read) for read in self.data["read"].values]

    def scores(self, read: str) -> tuple[float, ...]:
        """The score of what is read at each lag."""
        return tuple(map(float, self.data["score"].sel(read=read).values))

    def controls(self, read: str) -> tuple[float, ...]:
        """That of the control at each lag."""
        return tuple(map(float, self.data["control"].sel(read=read).values))

    def interval(self, read: str, lag: int) -> Interval:
        """The score at one lag."""
        at = self.data.sel(read=read, lag=lag)
        return Interval(float(at["score"]), float(at["score_low"]), float(at["score_high"]), 0)

    def total(self, read: str) -> float:
        """For values, the sum of R² over the lags: the memory capacity of Jaeger (2001) as far as lags were asked for.

        R² below 0, of a readout worse than the mean, counts as nothing.
        """
        return float(np.maximum(self.data["score"].sel(read=read).values, 0).sum())

    def reach(self, read: str) -> int:
        """The longest lag up to which every score is above the control by more than its interval; -1 if none is."""
        at = self.data.sel(read=read)
        known = at["score_low"].values > np.fmax(at["control"].values, self.data["chance"].values)
        return int(self.lags[int(np.argmin(known)) - 1]) if not known.all() and known[0] else self._end(bool(known[0]))

    def _end(self, known: bool) -> int:
        return self.lags[-1] if known else -1

    def summary(self) -> str:
        metric, last = self.data.attrs["metric"], self.lags[-1]
        said = []
        for read in self.reads:
            at = self.interval(read, last)
            reach = self.reach(read)
            far = f"as far as lag {reach}" if reach >= 0 else "at no lag"
            said.append(f"{read}: {far}, {with_interval(at.mean, at.low, at.high)} at lag {last}")
        chance = number(float(self.data["chance"].values[-1]))
        return f"The input k steps back, read linearly ({metric}, chance {chance}): {'; '.join(said)}."

    def panels(self) -> Sequence[Panel]:
        curves = []
        for read in self.reads:
            at = self.data.sel(read=read)
            mean, low, high = (tuple(map(float, at[n].values)) for n in ("score", "score_low", "score_high"))
            curves.append(Curve(read, "input" if read == "input" else "lstm", read, self.lags, mean, low, high))
        control = self.controls(self.reads[0])
        gap = (math.nan,) * len(control)
        curves.append(Curve("control", "control", self.reads[0], self.lags, control, gap, gap))
        title, metric = "Input k steps back, read from the states", str(self.data.attrs["metric"])
        return (Panel(title, "lag k (steps back)", metric, tuple(curves)),)


def memory_curve(
    model: nn.Module,
    inputs: Batches,
    lags: Sequence[int],
    *,
    past: Any = None,
    layer: str | None = None,
    kind: Kind | None = None,
    test_share: float = 0.4,
    max_steps: int = 4000,
    penalty: float = 1.0,
    seed: int = 0,
) -> MemoryCurve:
    """Decode the input k steps back from the states at each step (Jaeger 2001 for values).

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I) or (B, T), what the model is called with; or an iterable of them, or of (inputs, past). What
            is kept of a stream does not grow with it.
        lags: the k to try, each less than T.
        past: (B, T) what is asked for: symbols as whole numbers, -1 where one is not to be asked for, or values, NaN
            likewise. Omitted, it is the input itself: its symbols where it has some, its value where I is 1.
        layer: the recorded layer; may be omitted where there is one.
        kind: of readout; "ridge" for symbols and "linear" for values if omitted.
        test_share: share of the sequences kept for testing.
        max_steps: at most this many steps, drawn at random, are fitted to and as many tested on, at each lag.
        penalty: strength of the penalty.
        seed: of the draws.

    Raises:
        ValueError: a lag is longer than the sequences, or it is not clear what the input is.
    """
    opened = open_layer(model, layer)
    chosen = sorted({int(lag) for lag in lags})
    if not chosen:
        raise ValueError("lags: none were given")
    random = np.random.default_rng(seed + 1)
    split = Split(test_share, seed)
    parts = [(Reservoir(max_steps, random), Reservoir(max_steps, random)) for _ in chosen]
    reads: list[str] = []
    for x, asked in _asked(inputs, past):
        length = x.size(1)
        for lag in chosen:
            if not 0 <= lag < length:
                raise ValueError(f"lags: {lag} does not fit sequences of {length} steps; expected 0 to {length - 1}")
        with measured(model):
            columns = states_read(model, opened, x)
        columns["input"] = input_read(x)
        reads = list(columns)
        if len(asked) < 2:
            raise ValueError(
                "inputs: a batch of 1 sequence has no other to be the control; expected batches of 2 or more"
            )
        testing, numbers = split.next(len(asked))
        for lag, both in zip(chosen, parts, strict=True):
            back = asked[:, : length - lag]
            later = {name: values[:, lag:] for name, values in columns.items()}
            later["other"] = np.roll(back, 1, axis=0)
            for part, which in zip(both, (~testing, testing), strict=True):
                part.add(steps_of(later, back, which, numbers))
    split.check()
    for lag, both in zip(chosen, parts, strict=True):
        _check(both, lag)
        spread_symbols(both)
    scores = {read: [_score(p, read, "label", kind, penalty) for p in parts] for read in reads}
    controls = [[_control(p, read, kind, penalty) for p in parts] for read in reads]
    intervals = [[one.interval(seed) for one in scores[read]] for read in reads]
    first = scores[reads[0]]
    variables = {
        "score": (("read", "lag"), np.array([[i.mean for i in row] for row in intervals])),
        "score_low": (("read", "lag"), np.array([[i.low for i in row] for row in intervals])),
        "score_high": (("read", "lag"), np.array([[i.high for i in row] for row in intervals])),
        "control": (("read", "lag"), np.array(controls)),
        "chance": (("lag",), np.array([one.chance for one in first])),
    }
    coords = {"read": reads, "lag": chosen}
    return MemoryCurve(labelled(variables, coords, layer=opened.name, metric=first[0].metric))


def _asked(inputs: Batches, past: Any) -> Iterator[tuple[Tensor, Array]]:
    """Batches with what is asked for at each step."""
    for batch in stream(inputs):
        x, rest = batch.inputs, batch.rest if past is None else (past,)
        if rest:
            yield x, as_labels(rest[0], x, "past")
            continue
        symbols = symbols_of(x)
        if symbols is None and (x.dim() != 3 or x.size(-1) != 1):
            raise ValueError(
                f"past: inputs of shape {tuple(x.shape)} are neither symbols nor single values; "
                "give past=, (B, T), what is to be asked for"
            )
        yield x, symbols if symbols is not None else x[..., 0].double().numpy(force=True)


def _check(parts: tuple[Reservoir, Reservoir], lag: int) -> None:
    if not all(map(len, parts)):
        raise ValueError(f"past: at lag {lag} nothing is asked for in the sequences to fit to, or in those to test on")
    labels = parts[0]["label"]
    if not is_value(labels) and len(np.unique(labels)) < 2:
        raise ValueError(f"past: at lag {lag} fewer than two symbols are asked for in the sequences to fit to")


def _control(parts: tuple[Reservoir, Reservoir], read: str, kind: Kind | None, penalty: float) -> float:
    there = all(defined(part["other"]).any() for part in parts)
    return _score(parts, read, "other", kind, penalty).value if there else math.nan


def _score(parts: tuple[Reservoir, Reservoir], read: str, label: str, kind: Kind | None, penalty: float) -> Score:
    fitting, testing = parts
    there, tested = defined(fitting[label]), defined(testing[label])
    labels = fitting[label][there]
    kind = kind or ("linear" if is_value(labels) else "ridge")
    readout = fit(fitting[read][there], labels, kind, penalty=penalty)
    return score(readout, testing[read][tested], testing[label][tested], testing["sequence"][tested])
