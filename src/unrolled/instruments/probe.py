"""Probes: what a linear readout can tell from a state, beside what it could tell without the state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from unrolled.drawing.panels import Dots
from unrolled.instruments.opened import Batches, open_layer, stream
from unrolled.instruments.reading import (
    Split,
    as_labels,
    input_read,
    measured,
    only_units,
    prefixed,
    spread_symbols,
    states_read,
    steps_of,
    symbols_of,
    untrained_copy,
)
from unrolled.instruments.readout import (
    Array,
    Figures,
    Kind,
    Reservoir,
    Score,
    defined,
    fit,
    is_value,
    score,
)
from unrolled.instruments.result import Result, labelled
from unrolled.intervals import LEVEL, Interval, number

Control = Literal["symbols", "sequences"]
OVERS = ("control", "untrained", "input")


@dataclass(frozen=True, eq=False, repr=False)
class ProbeResult(Result):
    """What can be read off each state, and off what it is compared with.

    Variables of `data`, by what is read ("hidden", "cell", "both", "untrained hidden", ..., "input"):
        score, score_low, score_high (read): balanced accuracy for classes (mean over classes of the share found), R²
            for values, on sequences the readout was not fitted to; bootstrap interval over those. Of untrained networks
            it is the mean.
        control (read, deal): the same for control labels, dealt several times; of untrained networks each is of another
            network.
        gain, gain_low, gain_high (read, over): the score less that of the control (selectivity, Hewitt & Liang 2019),
            of the same state of untrained networks, and of the input alone; NaN where there is none to compare with.
        unit_score (unit_of, unit): score of each unit alone, if asked for; `unit_of` is the state.
    Attributes of `data`: metric, chance, steps tested, kind, and how the control was dealt.
    """

    @property
    def chance(self) -> float:
        return float(self.data.attrs["chance"])

    def score(self, read: str) -> Interval:
        """The score of what is read."""
        at = self.data.sel(read=read)
        return Interval(float(at["score"]), float(at["score_low"]), float(at["score_high"]), self._tested)

    def gain(self, read: str, over: str) -> Interval:
        """The score less that of the "control", the "untrained" network or the "input"."""
        at = self.data.sel(read=read, over=over)
        return Interval(float(at["gain"]), float(at["gain_low"]), float(at["gain_high"]), self._tested)

    def selectivity(self, read: str) -> Interval:
        """What is in the state beyond what the readout itself can learn."""
        return self.gain(read, "control")

    @property
    def _tested(self) -> int:
        return int(self.data.attrs["sequences"])

    def summary(self) -> str:
        states = [str(read) for read in self.data["read"].values if " " not in str(read) and read != "input"]
        said = [f"{read} {self.score(read).text}, selectivity {self.selectivity(read).text}" for read in states]
        metric = self.data.attrs["metric"]
        return f"{metric[0].upper()}{metric[1:]} (chance {number(self.chance)}) on other sequences: {'; '.join(said)}."

    def panels(self) -> Sequence[Dots]:
        reads = tuple(map(str, self.data["read"].values))
        mean, low, high = (tuple(map(float, self.data[n].values)) for n in ("score", "score_low", "score_high"))
        lines = (("chance", self.chance),)
        return (Dots("What a linear readout tells", str(self.data.attrs["metric"]), reads, mean, low, high, lines),)


def probe(
    model: nn.Module,
    inputs: Batches,
    labels: Any = None,
    *,
    layer: str | None = None,
    kind: Kind = "ridge",
    untrained: nn.Module | Sequence[nn.Module] | None = None,
    control: Control | None = None,
    deals: int = 5,
    units: bool = False,
    names: Sequence[str] | None = None,
    only: Sequence[int] | None = None,
    test_share: float = 0.4,
    max_steps: int = 8000,
    penalty: float = 1.0,
    seed: int = 0,
) -> ProbeResult:
    """Fit a linear readout of labels from every state of a layer, and test it on other sequences.

    Beside it stand the same readout of an untrained network, of the input alone, and for control labels: what can be
    read there need not be anything the network has learnt. Sequences, never single steps, are divided between fitting
    and testing.

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I) or (B, T), what the model is called with; or an iterable of (inputs, labels). What is kept
            of a stream does not grow with it.
        labels: (B, T), or (B,) for the last step: whole numbers are classes, -1 where there is none; floating point
            values, NaN where there is none.
        layer: the recorded layer; may be omitted where there is one.
        kind: of readout: "ridge", "linear" (least squares) or "logistic" (for classes), scikit-learn's.
        untrained: the network before training, or several such; if omitted as many as `deals` are drawn by its modules'
            `reset_parameters`. Over several the gain is that over one more of them; over one, over that very one.
        control: "symbols" deals each input symbol one label at random, with the labels' own frequencies (Hewitt &
            Liang 2019), the default where the input is symbols; "sequences" takes the labels of another sequence.
        deals: how many times control labels are dealt and untrained networks drawn; their spread is part of the
            intervals of what is gained over them.
        units: score each unit alone too.
        names: states or gates to read; each state and both together if omitted.
        only: the units of each that are read; all if omitted.
        test_share: share of the sequences kept for testing.
        max_steps: at most this many steps, drawn at random, are fitted to and as many tested on.
        penalty: strength of the penalty of ridge, and one over logistic's C.
        seed: of all draws.

    Raises:
        ValueError: labels that do not fit, too few sequences, states that are not finite, or fewer than two classes.
    """
    opened = open_layer(model, layer)
    fresh = _networks(untrained, model, deals, seed)
    fresh_layers = [open_layer(network, opened.name) for network in fresh]
    if deals < 2:
        raise ValueError(f"deals: given {deals}, expected 2 or more, since their spread is part of the interval")
    random = np.random.default_rng(seed + 1)
    split, parts = Split(test_share, seed), (Reservoir(max_steps, random), Reservoir(max_steps, random))
    for x, truth in _labelled(inputs, labels):
        with measured(model, *fresh):
            reads = states_read(model, opened, x, names)
            own = list(reads)
            for i, (network, at) in enumerate(zip(fresh, fresh_layers, strict=True)):
                reads |= prefixed(states_read(network, at, x, names), f"untrained {i}")
        reads = {name: only_units(values, only) for name, values in reads.items()} if only is not None else reads
        reads["input"] = input_read(x)
        for name, values in reads.items():
            if not np.isfinite(values).all():
                raise ValueError(f"{name}: holds NaN or infinity")
        symbols = symbols_of(x)
        control = control or ("symbols" if symbols is not None else "sequences")
        if control == "symbols":
            if symbols is None:
                raise ValueError("control: 'symbols' needs an input of symbols: whole numbers (B, T), or one-hot")
            columns = reads | {"dealt": symbols}
        else:
            if len(truth) <= deals:
                raise ValueError(f"deals: {deals} needs batches of more sequences than that, given {len(truth)}")
            columns = reads | {"dealt": np.stack([np.roll(truth, 1 + i, axis=0) for i in range(deals)], axis=-1)}
        testing, numbers = split.next(len(truth))
        for part, chosen in zip(parts, (~testing, testing), strict=True):
            part.add(steps_of(columns, truth, chosen, numbers))
    split.check()
    columns_of = {read: [read] for read in own}
    columns_of |= {f"untrained {read}": [f"untrained {i} {read}" for i in range(len(fresh))] for read in own}
    result = _result(parts, columns_of | {"input": ["input"]}, kind, penalty, str(control), deals, seed)
    return _with_units(result, parts, names or opened.cell.states, only, kind, penalty) if units else result


def _networks(
    untrained: nn.Module | Sequence[nn.Module] | None, model: nn.Module, deals: int, seed: int
) -> list[nn.Module]:
    if untrained is None:
        return [untrained_copy(model, int(one)) for one in np.random.SeedSequence(seed).generate_state(deals)]
    return [untrained] if isinstance(untrained, nn.Module) else list(untrained)


def _labelled(inputs: Batches, labels: Any) -> Iterator[tuple[Tensor, Array]]:
    """Batches with labels that fit."""
    for batch in stream(inputs):
        rest = batch.rest if labels is None else (labels,)
        if not rest:
            raise ValueError("labels: none were given; expected labels, or an iterable of (inputs, labels)")
        yield batch.inputs, as_labels(rest[0], batch.inputs)


def _result(
    parts: tuple[Reservoir, Reservoir],
    columns_of: dict[str, list[str]],
    kind: Kind,
    penalty: float,
    control: str,
    deals: int,
    seed: int,
) -> ProbeResult:
    fitting, testing = parts
    if not len(fitting) or not len(testing):
        raise ValueError("labels: no step of the sequences to fit to, or of those to test on, has one")
    if not is_value(fitting["label"]) and len(np.unique(fitting["label"])) < 2:
        raise ValueError("labels: fewer than two classes to tell apart in the sequences to fit to")
    spread_symbols(parts)
    dealt = control_labels(fitting, testing, control, deals, seed)
    truth = fitting["label"], testing["label"]
    reads = list(columns_of)
    found = {
        read: [_scored(fitting, testing, column, *truth, kind, penalty) for column in columns]
        for read, columns in columns_of.items()
    }
    on_control = {
        read: [
            _scored(fitting, testing, columns[i % len(columns)], *labels, kind, penalty)
            for i, labels in enumerate(dealt)
        ]
        for read, columns in columns_of.items()
    }
    score_of = {read: mean_of(scores, seed) for read, scores in found.items()}
    gains = np.full((3, len(reads), len(OVERS)), math.nan)
    for index, read in enumerate(reads):
        others = [on_control[read]]
        if f"untrained {read}" in found:
            others += [found[f"untrained {read}"], found["input"]]
        for place, other in enumerate(others):
            over = beyond(found[read], other, seed)
            gains[:, index, place] = over.mean, over.low, over.high
    by_control = np.array([[one.value for one in on_control[read]] for read in reads])
    variables: dict[str, tuple[Sequence[str], Any]] = {
        "score": (("read",), np.array([score_of[read].mean for read in reads])),
        "score_low": (("read",), np.array([score_of[read].low for read in reads])),
        "score_high": (("read",), np.array([score_of[read].high for read in reads])),
        "control": (("read", "deal"), by_control),
        "gain": (("read", "over"), gains[0]),
        "gain_low": (("read", "over"), gains[1]),
        "gain_high": (("read", "over"), gains[2]),
    }
    coords = {"read": reads, "over": list(OVERS), "deal": np.arange(deals)}
    first = found[reads[0]][0]
    attributes = {
        "metric": first.metric,
        "chance": first.chance,
        "steps": first.steps,
        "sequences": len(first.tally),
        "kind": kind,
        "control": control,
    }
    return ProbeResult(labelled(variables, coords, **attributes))


def _with_units(
    result: ProbeResult,
    parts: tuple[Reservoir, Reservoir],
    states: Sequence[str],
    only: Sequence[int] | None,
    kind: Kind,
    penalty: float,
) -> ProbeResult:
    """The result with the score of each unit alone."""
    alone = [_each_unit(*parts, state, kind, penalty) for state in states]
    width = max(map(len, alone))
    padded = np.array([np.pad(a, (0, width - len(a)), constant_values=math.nan) for a in alone])
    coords = {"unit_of": list(states), "unit": np.arange(width) if only is None else list(only)}
    return ProbeResult(result.data.assign_coords(coords).assign(unit_score=(("unit_of", "unit"), padded)))


def _scored(
    fitting: Reservoir, testing: Reservoir, read: str, first: Array, second: Array, kind: Kind, penalty: float
) -> Score:
    """The score on labels `second` of a readout fitted to labels `first`."""
    there, tested = defined(first), defined(second)
    if not there.any() or not tested.any():
        raise ValueError("control: no other sequence has a label at the same step; expected labels at more steps")
    readout = fit(fitting[read][there], first[there], kind, penalty=penalty)
    return score(readout, testing[read][tested], second[tested], testing["sequence"][tested])


def _each_unit(fitting: Reservoir, testing: Reservoir, read: str, kind: Kind, penalty: float) -> Figures:
    """(H,) the score of each unit alone."""
    scores = []
    for unit in range(fitting[read].shape[1]):
        readout = fit(fitting[read][:, [unit]], fitting["label"], kind, penalty=penalty)
        scores.append(score(readout, testing[read][:, [unit]], testing["label"], testing["sequence"]).value)
    return np.array(scores)


def control_labels(
    fitting: Reservoir, testing: Reservoir, control: str, deals: int, seed: int
) -> list[tuple[Array, Array]]:
    """Control labels of the steps to fit to and to test on, several times.

    By "symbols" each symbol is dealt one label, with the labels' own frequencies, and every class at least once where
    there are enough symbols for the two tasks to be equally hard, first to those that are both fitted to and tested
    on. By "sequences" they stand ready.
    """
    if control == "sequences":
        return [(fitting["dealt"][:, i], testing["dealt"][:, i]) for i in range(deals)]
    random = np.random.default_rng(seed + 2)
    symbols = np.concatenate([fitting["dealt"], testing["dealt"]])
    labels = np.concatenate([fitting["label"], testing["label"]])
    both = np.intersect1d(fitting["dealt"], testing["dealt"])
    one = np.setxor1d(fitting["dealt"], testing["dealt"])
    found = []
    for _ in range(deals):
        table: Array
        if is_value(labels):
            table = random.choice(labels, size=int(symbols.max()) + 1)
        else:
            classes, counts = np.unique(labels, return_counts=True)
            table = random.choice(classes, size=int(symbols.max()) + 1, p=counts / counts.sum())
            order = np.concatenate([random.permutation(both), random.permutation(one)])
            table[order[: len(classes)]] = random.permutation(classes)[: len(order)]
        found.append((table[fitting["dealt"]], table[testing["dealt"]]))
    return found


def mean_of(scores: Sequence[Score], seed: int) -> Interval:
    """The mean of scores on the same sequences, with its interval over these."""
    values = [one.value for one in scores]
    resampled = np.mean([one.resampled(seed) for one in scores], axis=0)
    return Interval.resampled(float(np.mean(values)), resampled, len(scores[0].tally))


def beyond(first: Sequence[Score], others: Sequence[Score], seed: int) -> Interval:
    """The mean of scores less the mean of others.

    Over one other it is the interval of the difference over resampled sequences. Over several, drawn in one way, it
    asks whether the first is better than one more of them would be: to the spread over sequences comes that over draws,
    as in predicting one more (Student's t).
    """
    from scipy.stats import norm, t

    values = np.array([one.value for one in others])
    figure = float(np.mean([one.value for one in first]) - values.mean())
    count = len(first[0].tally)
    paired = all(len(one.tally) == count for one in others)
    own = np.mean([one.resampled(seed) for one in first], axis=0)
    theirs = [one.resampled(seed) if paired else one.resampled(seed + 1 + i) for i, one in enumerate(others)]
    gains = own - np.mean(theirs, axis=0)
    if len(others) == 1:
        return Interval.resampled(figure, gains, count)
    by_sequences = float(norm.ppf(0.5 + LEVEL / 2)) * float(np.nanstd(gains))
    draws = len(values)
    by_draws = float(t.ppf(0.5 + LEVEL / 2, draws - 1)) * float(values.std(ddof=1)) * math.sqrt(1 + 1 / draws)
    half = math.hypot(by_sequences, by_draws)
    return Interval(figure, figure - half, figure + half, count)
