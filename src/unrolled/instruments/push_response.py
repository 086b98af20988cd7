"""How long a push on one state alone can still be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.drawing.panels import Panel, bare
from unrolled.edits import Patch, Push
from unrolled.instruments.opened import as_exact, course, course_of, exact, open_layer
from unrolled.instruments.readout import RESAMPLES
from unrolled.instruments.result import Result, labelled
from unrolled.intervals import Interval
from unrolled.interventions import intervene
from unrolled.trace import record

Figures = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class PushResponse(Result):
    """What is left of a push j steps after it, as a share of the push.

    Variables of `data`:
        states (lag): distance of all states together from the course that was not pushed; median over the others.
        output (lag): distance of the hidden state alone, which is the layer's output; likewise.
        left (direction, sequence, lag): that of all states, for each direction of the push and each sequence.
    """

    @property
    def lags(self) -> Figures:
        """(J + 1,) steps after the push, from 0."""
        return np.asarray(self.data["lag"].values, dtype=np.float64)

    @property
    def states(self) -> Figures:
        """(J + 1,)."""
        return np.asarray(self.data["states"].values, dtype=np.float64)

    @property
    def output(self) -> Figures:
        """(J + 1,)."""
        return np.asarray(self.data["output"].values, dtype=np.float64)

    def half_life(self) -> float:
        """Steps until less than half of the push is left in the states for good, interpolated; J if not seen."""
        return half_life(self.lags, self.states)

    def half_life_interval(self, seed: int = 0) -> Interval:
        """The half-life with its bootstrap interval over sequences."""
        left = self.data["left"].values  # (D, B, J + 1)
        random = np.random.default_rng(seed)
        batch = left.shape[1]
        drawn = [
            half_life(self.lags, np.median(left[:, random.integers(batch, size=batch)], axis=(0, 1)))
            for _ in range(RESAMPLES // 5)
        ]
        return Interval.resampled(self.half_life(), drawn, batch)

    def summary(self) -> str:
        life, state, at = self.half_life_interval(), self.data.attrs["state"], self.data.attrs["at"]
        end = " (the end of the sequences)" if life.mean >= self.lags[-1] else ""
        return f"Half of a push on the {state} state alone at step {at} is gone after {life.text} steps{end}."

    def panels(self) -> Sequence[Panel]:
        curves = (
            bare("all states", "lstm", "cell", self.lags, self.states),
            bare("the layer's output", "lstm", "hidden", self.lags, self.output),
        )
        title = f"What is left of a push on the {self.data.attrs['state']} state"
        return (Panel(title, "steps after the push", "distance, as a share of the push", curves, (("half", 0.5),)),)


def half_life(lags: Figures, left: Figures) -> float:
    """Steps until less than half is left for good, the decay between two steps taken as exponential."""
    below = left < 0.5
    if below[-1] and not below[0]:
        first = len(below) - int(np.argmin(below[::-1]))  # the first step after the last one above half
        before, after = left[first - 1], left[first]
        return float(lags[first - 1] + math.log(before / 0.5) / math.log(before / max(after, 1e-12)))
    return 0.0 if below[0] else float(lags[-1])


def push_response(
    model: nn.Module,
    inputs: Tensor,
    *,
    state: str,
    at: int,
    layer: str | None = None,
    size: float = 0.1,
    directions: int = 4,
    seed: int = 0,
) -> PushResponse:
    """Push one state after step `at` and follow the difference to the end of the sequence.

    The push is on `state` alone: the others keep their values at that step. Pushing the hidden state is seen by the
    output at that step and by the next step; pushing the cell state by the next step. In float64, on a copy of the
    model in eval mode.

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I), what the model is called with.
        state: "hidden", or "cell" for an LSTM.
        at: the step after which to push; it has to leave a step to follow.
        layer: the recorded layer; may be omitted where there is one.
        size: norm of the push as a fraction of that state's norm at that step.
        directions: how many random directions are tried.
        seed: of the directions.

    Raises:
        ValueError: no such state, it is zero at that step, `size` is not above 0, or `at` leaves no step to follow.
    """
    model = exact(model)
    opened = open_layer(model, layer)
    states = opened.cell.states
    if state not in states:
        raise ValueError(f"state: {state!r} is not a state of this layer; expected one of {', '.join(states)}")
    if not size > 0:
        raise ValueError(f"size: given {size}, expected more than 0")
    x = as_exact(inputs)
    with torch.no_grad(), record(model, names=f"{opened.prefix}*", detach=True) as trace:
        model(x)
    plain = course_of(trace, opened).after
    length = plain[0].size(1)
    first, last = (1, length - 1) if opened.reverse else (0, length - 2)
    if not first <= at <= last:
        raise ValueError(f"at: step {at} leaves nothing to follow in {length} steps; expected {first} to {last}")
    place = length - 1 - at if opened.reverse else at
    which = states.index(state)
    reached = plain[which][:, place]
    if not bool(reached.any(-1).all()):
        raise ValueError(
            f"at: the {state} state of a sequence is zero at step {at}, and so is a push in proportion to it"
        )
    generator = torch.Generator().manual_seed(seed)
    left, seen = [], []
    for _ in range(directions):
        push = torch.randn(reached.shape, generator=generator, dtype=torch.float64).to(reached.device)
        push *= size * reached.norm(dim=-1, keepdim=True) / push.norm(dim=-1, keepdim=True)
        # An edit of the cell is seen by the hidden state of its step, which a push after the step is not.
        others = [Patch(opened.prefix + name, source=trace, steps=at) for name in states if name != state]
        with torch.no_grad(), intervene(model, Push(opened.prefix + state, push, steps=at), *others):
            moved = course(model, x, opened).after
        scale = push.norm(dim=-1, keepdim=True)  # (B, 1)
        apart = [(a - b)[:, place:] for a, b in zip(moved, plain, strict=True)]
        left.append(torch.cat(apart, dim=-1).norm(dim=-1) / scale)
        seen.append(apart[0].norm(dim=-1) / scale)
    by_direction = torch.stack(left)
    variables = {
        "states": (("lag",), torch.cat(left).quantile(0.5, dim=0).numpy(force=True)),
        "output": (("lag",), torch.cat(seen).quantile(0.5, dim=0).numpy(force=True)),
        "left": (("direction", "sequence", "lag"), by_direction.numpy(force=True)),
    }
    lags = np.arange(length - place)
    coords = {"lag": lags, "direction": np.arange(directions), "sequence": np.arange(len(reached))}
    return PushResponse(labelled(variables, coords, layer=opened.name, state=state, at=at, size=size))
