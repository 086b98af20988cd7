"""For how many steps each unit remembers: from its bias, from its gate, and from how it moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.drawing.panels import Panel, bare
from unrolled.instruments.opened import Batches, OpenLayer, open_layer, stream
from unrolled.instruments.reading import measured, over_steps
from unrolled.instruments.result import Result, labelled
from unrolled.intervals import with_interval
from unrolled.recurrence.cells import Weights
from unrolled.trace import record

Figures = NDArray[np.float64]


def timescale_of(bias: Figures | float) -> Any:
    """T = 1 / log(1 + exp(-b)): in so many steps a unit whose gate keeps by bias b falls to 1/e (Mahto et al. 2021).

    >>> timescale_of(0.0)
    1.4426950408889634
    """
    with np.errstate(divide="ignore"):
        found = 1 / np.logaddexp(0, -np.asarray(bias, dtype=np.float64))
    return float(found) if found.ndim == 0 else found


def bias_of(timescale: Figures | float) -> Any:
    """b = -log(exp(1 / T) - 1), the bias that keeps for T steps; about log T for large T (Tallec & Ollivier 2018).

    >>> round(bias_of(timescale_of(2.5)), 12)
    2.5
    """
    with np.errstate(divide="ignore"):
        rate = 1 / np.asarray(timescale, dtype=np.float64)
        found = -rate - np.log(-np.expm1(-rate))  # exp(1 / T) itself may not be a number
    return float(found) if found.ndim == 0 else found


@dataclass(frozen=True, eq=False, repr=False)
class Timescales(Result):
    """Timescales in steps, by unit.

    Variables of `data`:
        bias (unit): from the bias of the gate that keeps, as if nothing else moved it.
        gate (unit): from the gate as it was, -1 over the mean of its logarithm; infinite where it was always open.
        autocorrelation (state, unit): -1 / log of the state's correlation from one step to the next, as of a
            first-order process; NaN where a unit does not move, 0 where the correlation is not above 0.
    The first two are left out for a cell without a gate that keeps, `bias` for a layer without biases too.
    """

    def of(self, source: str, state: str | None = None) -> Figures:
        """(H,) the timescales from "bias", "gate", or of a state's "autocorrelation"."""
        found = self.data[source] if state is None else self.data[source].sel(state=state)
        return np.asarray(found.values, dtype=np.float64)

    def chrono_t_max(self) -> float:
        """The T_max of the chrono initialisation that these biases look most like.

        There b = log U(1, T_max - 1) (Tallec & Ollivier 2018). Of H draws from U(1, M) the largest is on average
        1 + (M - 1) H / (H + 1), which is solved for M.
        """
        drawn = np.exp(bias_of(self.of("bias")))
        return float(1 + (drawn.max() - 1) * (len(drawn) + 1) / len(drawn) + 1)

    def summary(self) -> str:
        said = []
        for name in ("bias", "gate"):
            if name in self.data:
                said.append(f"by the {name} {_spread(self.of(name))}")
        if "autocorrelation" in self.data:
            for state in map(str, self.data["state"].values):
                said.append(f"by the {state} state's autocorrelation {_spread(self.of('autocorrelation', state))}")
        return f"Timescales in steps, median (quartiles) over units: {'; '.join(said)}."

    def panels(self) -> Sequence[Panel]:
        curves = []
        for name in ("bias", "gate"):
            if name in self.data:
                curves.append(_sorted(name, "gru" if name == "bias" else "lstm", name, self.of(name)))
        if "autocorrelation" in self.data:
            for state in map(str, self.data["state"].values):
                values = self.of("autocorrelation", state)
                curves.append(_sorted(f"autocorrelation, {state}", "rnn", state, values))
        return (Panel("Timescales", "unit, the slowest first", "steps", tuple(curves), log_y=True),)


def _spread(values: Figures) -> str:
    known = values[~np.isnan(values)]
    if not len(known):
        return "unknown"
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75], method="nearest")
    return with_interval(float(middle), float(low), float(high))


def _sorted(label: str, cell: str, state: str, values: Figures) -> Any:
    known = np.sort(values[np.isfinite(values)])[::-1]
    return bare(label, cell, state, np.arange(len(known)), known)


def timescales(model: nn.Module, inputs: Batches | None = None, *, layer: str | None = None) -> Timescales:
    """Measure for how many steps each unit of a layer remembers.

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I), what the model is called with; or an iterable of batches. What is kept of a stream does not
            grow with it. Omitted, only the biases are looked at.
        layer: the recorded layer; may be omitted where there is one.

    Raises:
        ValueError: the layer is not in the model, or has no biases and no inputs are given.
    """
    opened = open_layer(model, layer)
    variables: dict[str, tuple[Sequence[str], Any]] = {}
    coords: dict[str, Any] = {}
    kept = opened.cell.opens.get("keep")
    bias = _bias(opened, opened.weights)
    if bias is not None:
        variables["bias"] = (("unit",), timescale_of(bias))
    if inputs is None:
        if not variables:
            raise ValueError(
                f"inputs: the {opened.cell.name} {opened.name!r} has no bias of a gate that keeps; give inputs"
            )
    else:
        states = opened.cell.states
        names = [*states, *([kept[0]] if kept else [])]
        moved = {state: _Correlation() for state in states}
        logs, steps = torch.zeros(()), 0
        for batch in stream(inputs):
            with measured(model), record(model, names=[opened.prefix + n for n in names], detach=True) as trace:
                model(batch.inputs)
            for state in states:
                moved[state].add(trace[opened.prefix + state], trace.lengths(opened.prefix + state))
            if kept:
                gate, lengths = trace[opened.prefix + kept[0]], trace.lengths(opened.prefix + kept[0])
                gate = gate if kept[1] else 1 - gate
                if lengths is not None:
                    after = torch.arange(gate.size(1)) >= lengths.unsqueeze(1)
                    gate = gate.masked_fill(after.to(gate.device).unsqueeze(-1), 1)  # whose logarithm is 0
                # A gate of exactly 1 or 0 is one that float32 could not tell from it.
                logs = logs + over_steps(gate.log()).cpu()
                steps += gate.size(0) * gate.size(1) if lengths is None else int(lengths.sum())
        if kept:
            with np.errstate(divide="ignore"):
                variables["gate"] = (("unit",), 1 / np.abs((logs / steps).numpy()))
        width = max(one.width for one in moved.values())
        rows = [np.pad(one.timescale(), (0, width - one.width), constant_values=math.nan) for one in moved.values()]
        variables["autocorrelation"] = (("state", "unit"), np.array(rows))
        coords["state"] = list(states)
    coords["unit"] = np.arange(max(values.shape[-1] for _, values in variables.values()))
    return Timescales(labelled(variables, coords, layer=opened.name))


def _bias(layer: OpenLayer, weights: Weights) -> Figures | None:
    """(H,) of the gate that keeps."""
    kept = layer.cell.opens.get("keep")
    if kept is None or weights.bias_ih is None:
        return None
    module: Any = layer.module
    rows = layer.cell.rows(kept[0], int(module.hidden_size))
    bias = weights.bias_ih[rows].double()
    if weights.bias_hh is not None:
        bias = bias + weights.bias_hh[rows].double()
    return (bias if kept[1] else -bias).numpy(force=True)


class _Correlation:
    """The correlation of a state between neighbouring steps, from sums over all pairs that came.

    Values are counted from the first that came, so that small movements about a large value are not lost.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums: Tensor | None = None  # (5, H): of x, y, x², y², xy for neighbours x, y
        self._origin: Tensor | None = None  # (H,)

    @property
    def width(self) -> int:
        return 0 if self._sums is None else self._sums.size(1)

    def add(self, values: Tensor, lengths: Tensor | None) -> None:
        """values: (B, T, H), zero after the ends. A pair counts the same in both directions."""
        if self._origin is None:
            self._origin = values[0, 0].double().cpu()
        values = values - self._origin.to(values)
        first, second = values[:, :-1], values[:, 1:]
        if lengths is None:
            pairs = first.size(0) * first.size(1)
        else:
            inside = torch.arange(1, values.size(1)) < lengths.unsqueeze(1)
            pairs = int(inside.sum())
            keep = inside.to(values.device).unsqueeze(-1)
            first, second = first * keep, second * keep
        if self._sums is None:
            self._sums = torch.zeros(5, values.size(-1), dtype=torch.float64)
        sums = (first, second, first.square(), second.square(), first * second)
        self._sums += torch.stack([over_steps(s) for s in sums]).cpu()
        self._count += pairs

    def timescale(self) -> Figures:
        """(H,) in steps."""
        assert self._sums is not None
        assert self._origin is not None
        x, y, xx, yy, xy = (self._sums / max(self._count, 1)).numpy()
        spread = np.sqrt(np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0))
        # What moves by less than a millionth of its value may be rounding.
        moves = spread > 1e-12 * np.square(x + self._origin.numpy())
        correlation = np.divide(xy - x * y, spread, out=np.full_like(x, np.nan), where=moves)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = -1 / np.log(np.clip(correlation, 0, 1))
        return np.asarray(np.where(np.isnan(correlation), np.nan, np.where(correlation <= 0, 0.0, found)))
