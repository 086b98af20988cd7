"""Recordings of small networks, and the replays of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import unrolled
from unrolled.model import SequenceModel
from unrolled.viewer.replaying.replay import Replay


def network(cell: str = "lstm", **options: Any) -> SequenceModel:
    """Two symbols' worth of inputs, 5 units, 3 outputs; weights large enough for states to move."""
    model = SequenceModel(cell, 2, 5, 3, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model.eval()


def recorded(model: torch.nn.Module, inputs: Tensor, *, names: str = "*", **given: Any) -> unrolled.Trace:
    """What a model does with inputs."""
    with torch.no_grad(), unrolled.record(model, names=names, detach=True) as trace:
        model(inputs, **given)
    return trace


def replay_of(
    model: torch.nn.Module, inputs: Tensor, *, names: str = "*", targets: Tensor | None = None, **given: Any
) -> Replay:
    """A model beside a recording of what it did with inputs; `given` are lengths and resets."""
    known = {"targets": targets} if targets is not None else {}
    return Replay(model, recorded(model, inputs, names=names, **given), inputs, **given, **known)


def inputs_of(steps: int, batch: int = 2) -> Tensor:
    """(B, T, 2)"""
    return torch.randn(batch, steps, 2)


def resets_at(steps: int, *places: tuple[int, int], batch: int = 2) -> Tensor:
    """(B, T) bool, True at each place: a sequence and a step."""
    reset = torch.zeros(batch, steps, dtype=torch.bool)
    for sequence, step in places:
        reset[sequence, step] = True
    return reset


# What the units of `carousel` do.
KEEPS, SHOWS_ONCE, IDLE = range(3)


def carousel(**options: Any) -> SequenceModel:
    """An LSTM written by hand: inputs (B, T, 2) are a value and whether it is to be stored.

    Unit KEEPS holds tanh of the last value that was stored in its cell, unit SHOWS_ONCE holds it for that step alone,
    unit IDLE nothing; each shows tanh of its cell. Answer k is the hidden state of unit k.
    """
    model = SequenceModel("lstm", 2, 3, 3, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        take_in, keep, _, show = model.recurrent.bias_ih_l0.view(4, 3)
        take_in[:], keep[:], show[:] = -100, -100, 100
        keep[KEEPS] = 100
        weights = model.recurrent.weight_ih_l0.view(4, 3, 2)
        weights[0, :IDLE, 1] = 200
        weights[1, KEEPS, 1] = -200
        weights[2, :IDLE, 0] = 1
        model.head.weight.copy_(torch.eye(3))
    return model.eval()


def stored(steps: int, places: dict[int, float]) -> Tensor:
    """(1, T, 2) inputs of `carousel` that store a value at some steps; other values are there, and are not stored."""
    inputs = torch.stack([torch.randn(steps), torch.zeros(steps)], -1)
    for step, value in places.items():
        inputs[step] = torch.tensor([value, 1.0])
    return inputs.unsqueeze(0)
