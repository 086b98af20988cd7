"""How far back a gradient reaches: the norm of d loss_t / d s_(t-k) against the lag k, for each state s."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.structure import cell_of
from unrolled.trace import record, recordable

Figures = NDArray[np.float64]


@dataclass(frozen=True)
class GradientFlow:
    """Gradients of a loss at the last step with respect to earlier states.

    Attributes:
        lags: (K + 1,) 0, 1, ..., K steps before the last.
        norms: state -> (K + 1,) geometric mean over sequences of the gradient's Euclidean norm over units.
        direct: (K + 1,) the part of the cell's own path, mean over units and sequences of the product of the forget
            gates
            after step t - k (d c_t / d c_(t-k) with all gates held fixed; Hochreiter & Schmidhuber 1997, Levy et al.
            2018); None for a cell without forget gates.
    """

    lags: Figures
    norms: dict[str, Figures]
    direct: Figures | None

    def rate(self, state: str) -> float:
        """Growth of the norm per step in nats (below 0: it vanishes), a least-squares line over lags 1 to K.

        Minus infinity where the gradient is exactly zero from lag 2 on, NaN where K is 1 and there is no line.
        """
        norms = self.norms[state][1:]
        if len(norms) < 2:
            return math.nan
        usable = norms > 0
        if usable.sum() < 2:
            return -math.inf
        return float(np.polyfit(self.lags[1:][usable], np.log(norms[usable]), 1)[0])

    def half_life(self, state: str) -> float:
        """Steps back in which the gradient halves, infinite where it does not shrink, NaN where there is no rate."""
        rate = self.rate(state)
        if math.isnan(rate):
            return math.nan
        return math.log(2) / -rate if rate < 0 else math.inf

    def fold(self, state: str) -> float:
        """Powers of ten by which the norm changes from lag 1 to lag K; below 0 it shrinks."""
        norms = self.norms[state]
        return float(np.log10(norms[-1] / norms[1])) if norms[-1] > 0 and norms[1] > 0 else -math.inf


def gradient_flow(
    model: nn.Module,
    inputs: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    layer: str | None = None,
    max_lag: int | None = None,
) -> GradientFlow:
    """Measure how a loss at the last step depends on the states before it.

    Computed in float64 on a copy of the model, so that small gradients are not lost. What is measured is the
    derivative along every path, through gates and hidden state alike (Pascanu et al. 2013 for the plain RNN).

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I), what the model is called with.
        loss: the model's output -> (B,) loss of each sequence, of the last step only.
        layer: the recorded layer, such as "encoder.l0"; may be omitted where there is one.
        max_lag: K; all T - 1 if omitted.

    Raises:
        ValueError: K is longer than the sequence allows, or the layer is not in the model.
    """
    length = inputs.size(1)
    last = length - 1 if max_lag is None else max_lag
    if not 1 <= last < length:
        raise ValueError(f"max_lag: {last} does not fit sequences of {length} steps; expected 1 to {length - 1}")
    prefix = one_layer(model, layer)
    model = copy.deepcopy(model).double()
    module = recordable(model)[f"{prefix}hidden"][0]
    states = cell_of(module).states
    forgets = "forget_gate" in cell_of(module).gates
    with record(model, names=f"{prefix}*") as trace:
        total = loss(model(inputs.double())).sum()
    gradients = torch.autograd.grad(total, [trace[prefix + name] for name in states], materialize_grads=True)
    norms = {
        # A gradient of exactly zero makes the geometric mean zero, as it should.
        name: gradient.norm(dim=-1).flip(1)[:, : last + 1].log().mean(0).exp().numpy(force=True)
        for name, gradient in zip(states, gradients, strict=True)
    }
    direct = None
    if forgets:
        gates = trace[prefix + "forget_gate"].detach().flip(1)[:, :last]  # (B, K, H), the last step first
        products = torch.cat([torch.ones_like(gates[:, :1]), gates.cumprod(1)], dim=1)
        direct = products.mean((0, 2)).numpy(force=True)
    return GradientFlow(np.arange(last + 1, dtype=np.float64), norms, direct)


def one_layer(model: nn.Module, layer: str | None) -> str:
    """The prefix, dot included, of the names of one recorded layer of a model.

    Raises:
        ValueError: the model has several and none is named, or has none of this name.
    """
    prefixes = list(dict.fromkeys(name.rpartition(".")[0] for name in recordable(model)))
    if layer is None:
        if len(prefixes) != 1:
            raise ValueError(
                f"layer: the model has {len(prefixes)} recurrent layers; expected one of {', '.join(prefixes)}"
            )
        layer = prefixes[0]
    if layer not in prefixes:
        raise ValueError(f"layer: {layer!r} is not in the model; expected one of {', '.join(prefixes)}")
    return f"{layer}." if layer else ""
