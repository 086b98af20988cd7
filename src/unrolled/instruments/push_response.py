"""How long a push on one state alone can still be seen."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.structure import cell_of
from unrolled.trace import record

Figures = NDArray[np.float64]


@dataclass(frozen=True)
class PushResponse:
    """What is left of a push j steps after it, as a fraction of the push.

    Attributes:
        lags: (J + 1,) steps after the push, from 0.
        states: (J + 1,) distance of all states together from the trajectory that was not pushed.
        output: (J + 1,) distance of the hidden state alone, which is the layer's output.

    Each is a median over sequences and directions of the push.
    """

    lags: Figures
    states: Figures
    output: Figures

    def half_life(self) -> float:
        """Steps until less than half of the push is left in the states for good, interpolated; J if not seen."""
        below = self.states < 0.5
        if below[-1] and not below[0]:
            first = len(below) - int(np.argmin(below[::-1]))  # the first step after the last one above half
            before, after = self.states[first - 1], self.states[first]
            # Between two steps the decay is taken as exponential.
            part = math.log(before / 0.5) / math.log(before / max(after, 1e-12))
            return float(self.lags[first - 1] + part)
        return 0.0 if below[0] else float(self.lags[-1])


def push_response(
    layer: nn.RNNBase,
    inputs: Tensor,
    *,
    state: str,
    at: int,
    size: float = 0.1,
    directions: int = 4,
    seed: int = 0,
) -> PushResponse:
    """Push one state after step `at` and follow the difference to the end of the sequence.

    The push is on `state` alone: the others keep their values at that step. Pushing the hidden state is seen by the
    output at
    that step and by the next step; pushing the cell state is seen by the next step.

    Args:
        layer: one layer, one direction.
        inputs: (B, T, I), what the layer is driven with.
        state: "hidden", or "cell" for an LSTM.
        at: the step after which to push, 0 to T - 2.
        size: norm of the push as a fraction of that state's norm at that step.
        directions: how many random directions are tried.
        seed: of the directions.

    Raises:
        ValueError: several layers or directions, no such state, or `at` leaves no step to follow.
    """
    if layer.num_layers != 1 or layer.bidirectional:
        raise ValueError(
            f"layer: a push is followed in one layer in one direction, given {layer.num_layers} layers"
            f"{' in two directions' if layer.bidirectional else ''}"
        )
    states = cell_of(layer).states
    if state not in states:
        raise ValueError(f"state: {state!r} is not a state of this layer; expected one of {', '.join(states)}")
    length = inputs.size(1)
    if not 0 <= at < length - 1:
        raise ValueError(f"at: step {at} leaves nothing to follow in {length} steps; expected 0 to {length - 2}")
    layer = copy.deepcopy(layer).double()
    layer.batch_first = True
    x = inputs.double()
    generator = torch.Generator().manual_seed(seed)
    which = states.index(state)
    with torch.no_grad():
        _, reached = layer(x[:, : at + 1])
        before = list(reached) if isinstance(reached, tuple) else [reached]
        plain = _follow(layer, x[:, at + 1 :], before)
        left, seen = [], []
        for _ in range(directions):
            push = torch.randn(before[which].shape, generator=generator, dtype=torch.float64).to(inputs.device)
            push *= size * before[which].norm(dim=-1, keepdim=True) / push.norm(dim=-1, keepdim=True)
            pushed = [value + push if index == which else value for index, value in enumerate(before)]
            moved = _follow(layer, x[:, at + 1 :], pushed)
            scale = push[0].norm(dim=-1, keepdim=True).clamp_min(1e-300)  # (B, 1)
            difference = [a - b for a, b in zip(moved, plain, strict=True)]
            left.append(torch.cat(difference, dim=-1).norm(dim=-1) / scale)
            seen.append(difference[0].norm(dim=-1) / scale)
    return PushResponse(
        np.arange(length - at, dtype=np.float64),
        torch.cat(left).median(0).values.numpy(force=True),
        torch.cat(seen).median(0).values.numpy(force=True),
    )


def _follow(layer: nn.RNNBase, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    """The states from here on, the given ones first: each (B, 1 + T, H)."""
    with record(layer, names=[f"l0.{name}" for name in cell_of(layer).states], detach=True) as trace:
        layer(x, tuple(states) if len(states) > 1 else states[0])
    names = cell_of(layer).states
    return [
        torch.cat([first.transpose(0, 1), trace[f"l0.{name}"]], dim=1)
        for first, name in zip(states, names, strict=True)
    ]
