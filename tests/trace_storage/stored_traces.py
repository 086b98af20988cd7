"""Traces of every kind that can be stored, and what makes two of them the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import xarray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import unrolled
from by_hand import KINDS, LENGTHS, B, H, I, Loop, T, inputs, layer
from unrolled.calls import Calls
from unrolled.observation import Opened
from unrolled.recurrence.result import Steps


def recorded(model: nn.Module, *calls: Any, **options: Any) -> unrolled.Trace:
    with unrolled.record(model, **options) as trace:
        for call in calls:
            model(*call) if type(call) is tuple else model(call)
    return trace


def same(actual: unrolled.Trace, expected: unrolled.Trace) -> None:
    """All that a trace tells is what the other tells, bit for bit, in plain tensors."""
    assert list(actual) == list(expected)
    assert sorted(actual.initial) == sorted(expected.initial)
    pairs = [(actual[name], expected[name]) for name in expected]
    pairs += [(actual.initial[name], value) for name, value in expected.initial.items()]
    for ask in ("lengths", "resets"):
        pairs += [(getattr(actual, ask)(name), getattr(expected, ask)(name)) for name in expected]
    for found, wanted in pairs:
        if wanted is None:
            assert found is None
        else:
            assert type(found) is Tensor
            assert not found.requires_grad
            assert found.dtype == wanted.dtype
            assert torch.equal(found, wanted.detach())


def packed(x: Tensor) -> Any:
    return pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)


def resetting() -> unrolled.Trace:
    model = unrolled.LSTM(I, H, batch_first=True)
    with unrolled.record(model) as trace:
        model(torch.randn(B, T, I), reset=torch.rand(B, T) < 0.5)
        model(torch.randn(B, T, I))
    return trace


def states_given() -> unrolled.Trace:
    return recorded(layer(), (inputs(), (inputs(1, B, H), inputs(1, B, H))))


def opened(dtype: torch.dtype) -> Opened:
    """A call as a layer would show it that computes in this dtype; ours compute halves in single precision."""
    hidden = torch.randn(T, B, H, dtype=dtype)
    return Opened({"hidden": Steps(hidden, (hidden,))}, {"hidden": torch.randn(B, H, dtype=dtype)})


def halves(dtype: torch.dtype) -> unrolled.Trace:
    calls = Calls(["l0.hidden"], detach=True)
    calls.add("l0.", opened(dtype), frozenset({"hidden"}))
    return unrolled.Trace(calls.names, calls)


def branches() -> unrolled.Trace:
    model = nn.ModuleDict({"en/coder": nn.ModuleDict({"lstm": layer()}), "decoder": Loop("GRU")})
    with unrolled.record(model) as trace:
        model["en/coder"]["lstm"](inputs())
        model["decoder"](inputs(B, T + 2, I))
    return trace


def bare_cell() -> unrolled.Trace:
    cell = nn.LSTMCell(I, H)
    return recorded(cell, torch.randn(B, I), torch.randn(B, I))


TRACES: dict[str, Callable[[], unrolled.Trace]] = {
    **{kind: lambda kind=kind: recorded(layer(kind), inputs()) for kind in KINDS},
    "stack in both directions": lambda: recorded(layer(num_layers=2, bidirectional=True), inputs()),
    "projection": lambda: recorded(layer(proj_size=2), inputs()),
    "only the cell of a projection": lambda: recorded(layer(proj_size=2), inputs(), names="*.cell"),
    "only the hidden state of a projection": lambda: recorded(layer(proj_size=2), inputs(), names="*.hidden"),
    "cell in a loop": lambda: recorded(Loop(), inputs()),
    "bare cell": bare_cell,
    "two layers with a slash in a name": branches,
    "packed": lambda: recorded(layer(bidirectional=True), packed(inputs())),
    "packed after padded": lambda: recorded(layer(), inputs(), packed(inputs())),
    "resets": resetting,
    "states given": states_given,
    "float16": lambda: halves(torch.float16),
    "bfloat16": lambda: halves(torch.bfloat16),
    "detached": lambda: recorded(layer(), inputs(), detach=True),
    "no call": lambda: recorded(layer()),
}


def bare(tree: xarray.DataTree) -> xarray.DataTree:
    """A tree without attributes."""
    return tree.map_over_datasets(lambda dataset: dataset.drop_attrs() if dataset.variables else xarray.Dataset())
