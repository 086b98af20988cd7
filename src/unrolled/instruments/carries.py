"""Whether a state carries something: whether it can be read from it, is used, and stays.

A readout alone cannot tell: what is decodable need not be used (Hewitt & Liang 2019; Ravichander et al. 2021), and what
is used at one step may be gone at the next. All three are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.drawing.panels import Curve, Panel
from unrolled.edits import Apply
from unrolled.instruments.opened import open_layer
from unrolled.instruments.probe import OVERS, probe
from unrolled.instruments.reading import as_labels, measured, only_units
from unrolled.instruments.readout import RESAMPLES, Array, Kind, Readout, defined, fit, is_value
from unrolled.instruments.result import Result, labelled
from unrolled.intervals import Interval, number
from unrolled.interventions import intervene
from unrolled.trace import Trace, record

Figures = NDArray[np.float64]
Behaviour = Callable[[Any], Tensor]

_STEPS = 3  # at which states are exchanged, if none are named
_FITTED = 8000  # steps a readout is fitted to at most


@dataclass(frozen=True, eq=False, repr=False)
class Carries(Result):
    """The three parts of the verdict that a state carries a label.

    Variables of `data`:
        score (): of a linear readout of the label from the state (metric and chance are attributes).
        gain, gain_low, gain_high (over): that score less the one of control labels, of untrained networks' state, and
            of the input alone.
        used (sequence): how far the behaviour moves, along the line between the mean behaviours of the two labels, when
            the state is exchanged for that of a sequence with another label, less the same for a sequence with the same
            label, as a share of the distance between these means.
        kept, kept_low, kept_high (lag): what is still read of the exchanged label so many steps later, as a share of
            what is read at once.
    """

    @property
    def decodable(self) -> bool:
        """Whether the readout is better than all that it is compared with, by more than the intervals."""
        return bool((self.data["gain_low"].values > 0).all())

    @property
    def used(self) -> bool:
        """Whether the exchange of the label moves the behaviour by more than the smallest effect that counts."""
        return bool(self.effect.low > float(self.data.attrs["smallest"]))

    @property
    def persistent(self) -> bool:
        """Whether at the horizon at least half of the exchanged label is left."""
        return bool(self.left.low > 0.5)

    @property
    def carried(self) -> bool:
        """All three."""
        return self.decodable and self.used and self.persistent

    @property
    def effect(self) -> Interval:
        """How far the exchange of the label moves the behaviour, as a share of the way between the labels' own."""
        values = self.data["used"].values
        return Interval.over(values[np.isfinite(values)])

    @property
    def left(self) -> Interval:
        """What is left of the exchanged label at the horizon."""
        at = self.data.isel(lag=-1)
        return Interval(float(at["kept"]), float(at["kept_low"]), float(at["kept_high"]), self.effect.n)

    def gain(self, over: str) -> Interval:
        """The readout's score less that of the "control", the "untrained" network or the "input"."""
        at = self.data.sel(over=over)
        return Interval(float(at["gain"]), float(at["gain_low"]), float(at["gain_high"]), 0)

    def half_life(self) -> float:
        """Steps until less than half of the exchanged label is left; the horizon if that is not seen.

        NaN where the label was not there to be read in the first place.
        """
        if np.isnan(self.data["kept"].values).any():
            return math.nan
        below = self.data["kept"].values < 0.5
        return float(self.data["lag"].values[int(np.argmax(below))] if below.any() else self.data["lag"].values[-1])

    def summary(self) -> str:
        state, horizon = self.data.attrs["state"], int(self.data["lag"].values[-1])
        verdicts = [
            f"{'decodable' if self.decodable else 'not decodable'} beyond its controls "
            f"({self.data.attrs['metric']} {number(float(self.data['score']))}, "
            + ", ".join(f"{self.gain(over).text} over the {over}" for over in OVERS)
            + ")",
            f"{'used' if self.used else 'not used'} (exchanging it moves the behaviour by {self.effect.text} of "
            "the way between the labels' own, more than exchanging states of the same label does)",
            f"{'persistent' if self.persistent else 'not persistent'} ({self.left.text} of it is left after {horizon} "
            "steps)",
        ]
        return f"The {state} {'carries' if self.carried else 'does not carry'} the label: {'; '.join(verdicts)}."

    def panels(self) -> Sequence[Panel]:
        at = {name: tuple(map(float, self.data[name].values)) for name in ("lag", "kept", "kept_low", "kept_high")}
        label = str(self.data.attrs["state"])
        curve = Curve(label, "lstm", "cell", at["lag"], at["kept"], at["kept_low"], at["kept_high"])
        title = "What is left of a label that was exchanged"
        return (Panel(title, "steps after the exchange", "share still read", (curve,), (("half", 0.5),)),)


def carries(
    model: nn.Module,
    inputs: Tensor,
    labels: Any,
    *,
    state: str,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    horizon: int = 8,
    behaviour: Behaviour | None = None,
    smallest: float = 0.01,
    kind: Kind = "ridge",
    untrained: nn.Module | Sequence[nn.Module] | None = None,
    seed: int = 0,
) -> Carries:
    """Ask whether a state, or some of its units, carries a label.

    Decodable: a linear readout of the label does better than for labels of other sequences, on untrained networks, and
    on the input alone. Used: at a step, what tells the labels apart in the state is exchanged for what another
    sequence has there; where that sequence has another label, behaviour has to move further along the line between the
    labels' mean behaviours than where it has the same one. Persistent: after the exchange, at least half of the other
    label is still read from the state `horizon` steps later.

    What tells the labels apart are the directions in which the means of the state differ between classes, or for values
    that of its covariance with them; the rest of the state stays as it is (an interchange intervention in a linear
    subspace, Geiger et al. 2024). A label that changes behaviour only together with something else, and not in the
    mean, may not be seen to be used.

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I) or (B, T), what the model is called with.
        labels: (B, T) classes as whole numbers, -1 where there is none, or values, NaN likewise. (B,) stands for every
            step of a sequence.
        state: "hidden" or "cell", or a gate.
        layer: the recorded layer; may be omitted where there is one.
        units: which of its units; all if omitted.
        steps: at which states are exchanged; three that leave room for the horizon if omitted.
        horizon: steps over which the label has to stay.
        behaviour: the model's output -> (B, ...) what it does; the output itself, from the exchange on, if omitted.
        smallest: the smallest effect that counts, as a share of the difference in behaviour between labels.
        kind: of readout.
        untrained: the network before training, or several such; five drawn anew if omitted.
        seed: of all draws.

    Raises:
        ValueError: labels or steps that do not fit, no two sequences with different labels to exchange, or a layer that
            reads from the end.
    """
    opened = open_layer(model, layer)
    name = opened.prefix + state
    if state not in opened.cell.names:
        raise ValueError(f"state: {state!r} is not of this layer; expected one of {', '.join(opened.cell.names)}")
    if opened.reverse:
        raise ValueError(f"layer: {opened.name!r} reads from the end; expected one in which later steps come after")
    truth = as_labels(labels, inputs, every_step=True)
    found = probe(
        model,
        inputs,
        truth,
        layer=opened.name,
        kind=kind,
        untrained=untrained,
        control="sequences",
        only=units,
        names=[state],
        seed=seed,
    )
    length = inputs.size(1)
    chosen = _default_steps(truth, length, horizon) if steps is None else [int(t) for t in steps]
    for t in chosen:
        if not 0 <= t < length - horizon:
            raise ValueError(
                f"steps: {t} leaves no room for a horizon of {horizon} in {length} steps; "
                f"expected 0 to {length - horizon - 1}"
            )
    behaves = behaviour or _output
    with measured(model), record(model, names=name, detach=True) as trace:
        plain = behaves(model(inputs))
    values = _read(trace, name, units)
    reader = _reader(values, truth, kind, seed)
    random = np.random.default_rng(seed)
    basis = torch.from_numpy(_basis(values, truth))
    effects, moves = [], np.zeros((len(truth), horizon + 1))
    for t in chosen:
        other, same = _donors(truth[:, t], random)
        before = _from(plain, t, length)
        way = _way(before, truth[:, t], other)
        rows = (other >= 0) & (same >= 0)
        if not rows.any():
            continue
        size = np.linalg.norm(way, axis=1)
        along = way / np.where(size > 0, size, 1)[:, None]
        gone = []
        for donors in (other, same):
            exchange = Apply(name, partial(_exchanged, donors=donors, units=units, basis=basis), steps=t)
            with measured(model), intervene(model, exchange), record(model, names=name, detach=True) as exchanged:
                moved = _from(behaves(model(inputs)), t, length) - before
            gone.append(np.abs((moved * along).sum(1)) / max(size[rows].mean(), 1e-300))
            if donors is other:
                part = slice(t, t + horizon + 1)
                after = _read(exchanged, name, units)
                moves[rows] += _moved(reader, after[rows, part], values[rows, part], truth[:, t], donors, rows)
        effects.append(np.where(rows, gone[0] - gone[1], np.nan))
    if not effects:
        raise ValueError("labels: at no step are there two sequences with one label and a third with another")
    kept = _kept(moves[np.isfinite(effects).any(0)], seed)
    with np.errstate(invalid="ignore"):
        by_sequence = np.nansum(effects, axis=0) / np.isfinite(effects).sum(0)
    gains = found.data.sel(read=state)
    variables: dict[str, tuple[Sequence[str], Any]] = {
        "score": ((), float(gains["score"])),
        **{n: (("over",), gains[n].values) for n in ("gain", "gain_low", "gain_high")},
        "used": (("sequence",), by_sequence),
        "kept": (("lag",), kept[0]),
        "kept_low": (("lag",), kept[1]),
        "kept_high": (("lag",), kept[2]),
    }
    coords = {"over": list(OVERS), "sequence": np.arange(len(truth)), "lag": np.arange(horizon + 1)}
    said = f"{state} state" if state in opened.cell.states else state.replace("_", " ")
    if units is not None:
        said += f" (units {', '.join(map(str, units))})"
    attributes = {
        "state": said,
        "metric": found.data.attrs["metric"],
        "chance": found.chance,
        "smallest": smallest,
        "steps": chosen,
    }
    return Carries(labelled(variables, coords, **attributes))


def _default_steps(truth: Array, length: int, horizon: int) -> list[int]:
    there = np.flatnonzero(defined(truth).any(0))
    usable = there[there < length - horizon]
    if not len(usable):
        raise ValueError(f"horizon: {horizon} steps leave no labelled step of {length} to begin at")
    places = np.linspace(0, len(usable) - 1, _STEPS + 2)[1:-1].round().astype(int)
    return sorted({int(usable[place]) for place in places})


def _output(output: Any) -> Tensor:
    """The first tensor in what a model returns."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output


def _from(behaviour: Tensor, t: int, length: int) -> Figures:
    """(B, N) behaviour, from step t on where it has steps."""
    if behaviour.dim() > 2 and behaviour.size(1) == length:
        behaviour = behaviour[:, t:]
    return np.asarray(behaviour.double().reshape(len(behaviour), -1).numpy(force=True))


def _way(behaviour: Figures, truth: Array, other: Array) -> Figures:
    """(B, N) the way from the mean behaviour of a sequence's own label to that of another's; 0 where there is none.

    For values it is the slope of behaviour on them times the difference.
    """
    rows, there = np.flatnonzero(other >= 0), defined(truth)
    way = np.zeros_like(behaviour)
    labels, theirs = truth[there], behaviour[there]
    if is_value(truth):
        centred = labels - labels.mean()
        slope = centred @ theirs / max(float(centred @ centred), 1e-300)
        way[rows] = (truth[other[rows]] - truth[rows])[:, None] * slope
        return way
    means = {label: theirs[labels == label].mean(0) for label in np.unique(labels)}
    for row in rows:
        way[row] = means[truth[other[row]]] - means[truth[row]]
    return way


def _donors(truth: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """(B,) for each sequence one with another label and one with the same; -1 where there is none.

    For values, another label is any other sequence's, and the same label the nearest other one.
    """
    there = np.flatnonzero(defined(truth))
    other, same = np.full(len(truth), -1), np.full(len(truth), -1)
    for row in there:
        rest = there[there != row]
        if is_value(truth):
            if len(rest):
                other[row], same[row] = random.choice(rest), rest[np.argmin(np.abs(truth[rest] - truth[row]))]
            continue
        unlike, like = rest[truth[rest] != truth[row]], rest[truth[rest] == truth[row]]
        if len(unlike) and len(like):
            other[row], same[row] = random.choice(unlike), random.choice(like)
    return other, same


def _read(trace: Trace, name: str, units: Sequence[int] | None) -> Array:
    """(B, T, F) the state, or the units in question."""
    return only_units(trace[name].float().numpy(force=True), units)


def _reader(values: Array, truth: Array, kind: Kind, seed: int) -> Readout:
    there = np.argwhere(defined(truth))
    random = np.random.default_rng(seed)
    there = there[random.permutation(len(there))[:_FITTED]]
    return fit(values[there[:, 0], there[:, 1]], truth[there[:, 0], there[:, 1]], kind)


def _basis(values: Array, truth: Array) -> Figures:
    """(F, r) orthonormal: the directions in which the means of the labels differ; of values, that of the covariance."""
    there = defined(truth)
    states, labels = values[there].astype(np.float64), truth[there]
    centred = states - states.mean(0)
    if is_value(truth):
        differences = (centred * (labels - labels.mean())[:, None]).mean(0)[None]
    else:
        differences = np.stack([centred[labels == label].mean(0) for label in np.unique(labels)])
    _, sizes, directions = np.linalg.svd(differences, full_matrices=False)
    return np.asarray(directions[sizes > 1e-6 * sizes.max(initial=1e-300)].T)


def _exchanged(state: Tensor, t: int, *, donors: Array, units: Sequence[int] | None, basis: Tensor) -> Tensor:
    """(B, H) the state in which what tells the labels apart is the donors'."""
    own = (state if units is None else state[:, list(units)]).double()
    theirs = own[torch.as_tensor(np.maximum(donors, 0))]
    moved = own + (theirs - own) @ basis.to(own) @ basis.to(own).mT
    if units is None:
        return moved.to(state)
    found = state.clone()
    found[:, list(units)] = moved.to(state)
    return found


def _moved(reader: Readout, after: Array, before: Array, own: Array, donors: Array, rows: Array) -> Figures:
    """(N, horizon + 1) by how much the exchange moves what is read towards the other label.

    after, before: (N, horizon + 1, F) what is read, with and without the exchange. own, donors, rows: (B,).
    """
    theirs = own[donors[rows]][:, None]
    shape = after.shape[:2]
    read = [reader.answers(values.reshape(-1, values.shape[-1])).reshape(shape) for values in (after, before)]
    if is_value(own):
        return np.asarray((read[0] - read[1]) * (theirs - own[rows][:, None]))
    return np.asarray((read[0] == theirs).astype(np.float64) - (read[1] == theirs))


def _kept(moves: Figures, seed: int) -> tuple[Figures, Figures, Figures]:
    """(J + 1,) each: what is left at each lag as a share of what is read at once, and its interval over sequences."""
    count = len(moves)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    resampled = weights @ moves / count
    mean = moves.mean(0)
    if mean[0] <= 0:
        nothing = np.full(moves.shape[1], math.nan)
        return nothing, nothing, nothing
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = resampled / np.where(resampled[:, :1] > 0, resampled[:, :1], np.nan)
    low, high = np.nanquantile(shares, [0.025, 0.975], axis=0)
    return mean / mean[0], low, high
