"""How far back a gradient reaches: the norm of d loss_t / d s_(t-k) against the lag k, for each state s."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.drawing.panels import Panel, bare
from unrolled.instruments.opened import Batches, Loss, OpenLayer, as_exact, check_whole, exact, open_layer, stream
from unrolled.instruments.result import Result, Variable, labelled
from unrolled.intervals import Interval, number, with_interval
from unrolled.trace import record

Figures = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class GradientFlow(Result):
    """Gradients of a loss at the last step with respect to earlier states.

    Variables of `data`, by state (hidden, cell, and both side by side where there are both) and lag 0 to K:
        norm (state, lag): geometric mean over sequences of the gradient's Euclidean norm over units, along every path.
            The cell's includes what its own step's hidden state sees of it.
        direct_norm (lag): the same of the gradient along the kept state's own path alone: that at lag 0 times the
            gates that keep, all gates held fixed.
        direct (lag): mean over units and sequences of the product of the gates that keep after step t - k, which is
            d c_t / d c_(t-k) along that path (Hochreiter & Schmidhuber 1997, Levy et al. 2018).
        rate (state, sequence): growth of log norm per step, a least-squares line over lags 1 to K, in nats.
    The direct ones are left out for a cell without a gate that keeps.
    """

    @property
    def lags(self) -> Figures:
        """(K + 1,) 0, 1, ..., K steps before the last."""
        return np.asarray(self.data["lag"].values, dtype=np.float64)

    @property
    def states(self) -> list[str]:
        return [str(state) for state in self.data["state"].values]

    def norms(self, state: str) -> Figures:
        """(K + 1,) norm of the gradient to one state."""
        return np.asarray(self.data["norm"].sel(state=state).values, dtype=np.float64)

    @property
    def direct(self) -> Figures | None:
        """(K + 1,) the product of the gates that keep, None for a cell without."""
        return np.asarray(self.data["direct"].values, dtype=np.float64) if "direct" in self.data else None

    def rate(self, state: str) -> float:
        """Growth of the norm per step in nats (below 0: it vanishes), a least-squares line over lags 1 to K.

        Minus infinity where the gradient is exactly zero from lag 2 on, NaN where K is 1 and there is no line.
        """
        return float(_slopes(self.norms(state)[None])[0])

    def rate_interval(self, state: str) -> Interval:
        """The mean of the sequences' own rates, with its interval over sequences."""
        return Interval.over(self.data["rate"].sel(state=state).values)

    def half_life(self, state: str) -> float:
        """Steps back in which the gradient halves, infinite where it does not shrink, NaN where there is no rate."""
        return _half_life(self.rate(state))

    def half_life_interval(self, state: str) -> Interval:
        """The half-life of the mean rate, and those of the two ends of the rate's interval."""
        rate = self.rate_interval(state)
        return Interval(_half_life(rate.mean), _half_life(rate.low), _half_life(rate.high), rate.n)

    def fold(self, state: str) -> float:
        """Powers of ten by which the norm changes from lag 1 to lag K; below 0 it shrinks."""
        norms = self.norms(state)
        return float(np.log10(norms[-1] / norms[1])) if norms[-1] > 0 and norms[1] > 0 else -math.inf

    def summary(self) -> str:
        said = []
        for state in self.states:
            rate, life = self.rate_interval(state), self.half_life_interval(state)
            to = "both states together" if state == "both" else f"the {state} state"
            if np.isneginf(self.data["rate"].sel(state=state).values).all():
                said.append(f"to {to} it is exactly zero from lag 2 on")
                continue
            halves = (
                "does not shrink"
                if life.mean == math.inf
                else f"halves every {with_interval(life.mean, life.low, life.high)} steps"
            )
            said.append(f"to {to} it grows by {rate.text} nats a step ({halves})")
        direct = self.direct
        along = "" if direct is None else f"; {number(float(direct[-1]))} is left of the direct path at the last"
        return f"The gradient of the last loss, over lags 1 to {self.lags.size - 1}: {', '.join(said)}{along}."

    def panels(self) -> Sequence[Panel]:
        curves = [bare(state, "lstm", state, self.lags, self.norms(state)) for state in self.states]
        if "direct_norm" in self.data:
            curves.append(bare("direct path alone", "direct", "cell", self.lags, self.data["direct_norm"].values))
        return (
            Panel(
                "Gradient of the last loss",
                "lag k (steps back)",
                "norm of the gradient at t - k",
                tuple(curves),
                log_y=True,
            ),
        )


def gradient_flow(
    model: nn.Module, inputs: Batches, loss: Loss, *, layer: str | None = None, max_lag: int | None = None
) -> GradientFlow:
    """Measure how a loss at the last step depends on the states before it.

    Computed in float64 on a copy of the model in eval mode, so that small gradients are not lost. What is measured is
    the derivative along every path, through gates and hidden state alike (Pascanu et al. 2013 for the plain RNN).

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I), what the model is called with; or an iterable of batches, each a tensor or a tuple of one
            and what the loss needs besides. What is kept of a batch does not grow with its length.
        loss: the model's output, and the rest of the batch if there is one -> (B,) loss of each sequence, of the last
            step only.
        layer: the recorded layer, such as "encoder.l0"; may be omitted where there is one.
        max_lag: K; all T - 1 of the first batch if omitted.

    Raises:
        ValueError: K is longer than the sequences allow, which are of unequal length or reset on the way, or the layer
            is not in the model or reads from the end.
    """
    model = exact(model)
    opened = open_layer(model, layer)
    if opened.reverse:
        raise ValueError(
            f"layer: {opened.name!r} reads from the end, so that a loss at the last step depends on no state before it "
            "but the first taken; expected a layer that reads from the beginning"
        )
    states = list(opened.cell.states)
    names = [*states, "both"] if len(states) > 1 else states
    logs: Figures | None = None
    direct_logs: Figures | None = None
    products: Figures | None = None
    rates: list[Figures] = []
    last, sequences = max_lag, 0
    for batch in stream(inputs):
        gradients, keeps = _gradients(model, batch.inputs, lambda out, rest=batch.rest: loss(out, *rest), opened, last)
        last = gradients[0].size(1) - 1
        norms = torch.stack([g.norm(dim=-1) for g in gradients])  # (S, B, K + 1)
        if len(states) > 1:
            norms = torch.cat([norms, norms.square().sum(0, keepdim=True).sqrt()])
        # A gradient of exactly zero makes the geometric mean zero, as it should.
        logs = _added(logs, norms.log().sum(1))
        rates.append(np.stack([_slopes(n.numpy(force=True)) for n in norms]))
        if keeps is not None:
            products = _added(products, keeps.mean(-1).sum(0))
            direct_logs = _added(direct_logs, (gradients[-1][:, :1] * keeps).norm(dim=-1).log().sum(0))
        sequences += len(gradients[0])
    assert last is not None
    assert logs is not None
    variables: dict[str, Variable] = {
        "norm": (("state", "lag"), np.exp(logs / sequences)),
        "rate": (("state", "sequence"), np.concatenate(rates, axis=1)),
    }
    if products is not None and direct_logs is not None:
        variables["direct"] = (("lag",), products / sequences)
        variables["direct_norm"] = (("lag",), np.exp(direct_logs / sequences))
    coords = {"state": names, "lag": np.arange(last + 1), "sequence": np.arange(sequences)}
    return GradientFlow(labelled(variables, coords, layer=opened.name))


def _gradients(
    model: nn.Module, inputs: Tensor, loss: Loss, layer: OpenLayer, last: int | None
) -> tuple[list[Tensor], Tensor | None]:
    """Gradients by state, (B, K + 1, ·) the last step first, and the products of the gates that keep likewise."""
    kept = layer.cell.opens.get("keep")
    names = [*layer.cell.states, *([kept[0]] if kept else [])]
    with record(model, names=[layer.prefix + name for name in names]) as trace:
        output = model(as_exact(inputs))
        check_whole(trace, layer)
        batch, length, _ = trace[layer.prefix + names[0]].shape
        last = length - 1 if last is None else last
        if not 1 <= last < length:
            raise ValueError(f"max_lag: {last} does not fit sequences of {length} steps; expected 1 to {length - 1}")
        losses = loss(output)
    if losses.shape != (batch,):
        raise ValueError(f"loss: gave shape {tuple(losses.shape)}; expected one for each sequence, ({batch},)")
    found = torch.autograd.grad(
        losses.sum(), [trace[layer.prefix + name] for name in layer.cell.states], materialize_grads=True
    )
    gradients = [gradient.flip(1)[:, : last + 1] for gradient in found]
    if not kept:
        return gradients, None
    gates = trace[layer.prefix + kept[0]].detach().flip(1)[:, :last]  # (B, K, H), the last step first
    gates = gates if kept[1] else 1 - gates
    return gradients, torch.cat([torch.ones_like(gates[:, :1]), gates.cumprod(1)], dim=1)


def _added(total: Figures | None, more: Tensor) -> Figures:
    figures: Figures = more.detach().numpy(force=True)
    return figures if total is None else total + figures


def _slopes(norms: Figures) -> Figures:
    """(N, K + 1) norms -> (N,) growth of their logarithm per lag, over lags 1 to K."""
    if norms.shape[1] < 3:
        return np.full(len(norms), math.nan)
    slopes = np.empty(len(norms))
    lags = np.arange(1, norms.shape[1])
    for row, values in enumerate(norms[:, 1:]):
        usable = values > 0
        slopes[row] = np.polyfit(lags[usable], np.log(values[usable]), 1)[0] if usable.sum() > 1 else -math.inf
    return slopes


def _half_life(rate: float) -> float:
    if math.isnan(rate):
        return math.nan
    return math.log(2) / -rate if rate < 0 else math.inf
