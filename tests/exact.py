"""The same layer twice: in float32, where the kernels compute it, and in float64, where the reference does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import unrolled
from unrolled import variants

KINDS = ["RNN", "GRU", "LSTM"]
# The LSTM's, the noisy ones last.
VARIANTS = [kind.__name__ for kind in variants.VARIANTS.values()]
MODES = ["RNN_TANH", "RNN_RELU", "GRU", "LSTM"]
T, B, I, H = 6, 3, 4, 5  # noqa: E741


def pair(mode: str = "LSTM", **options: Any) -> tuple[Any, Any]:
    """A layer in float32 and its copy in float64."""
    kind, _, nonlinearity = mode.partition("_")
    if nonlinearity:
        options["nonlinearity"] = nonlinearity.lower()
    fast = getattr(unrolled, kind)(I, H, **options)
    return fast, copy.deepcopy(fast).double()


def dtype_of(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype


def drawn(layer: Any, *shape: int, seed: int = 0) -> Tensor:
    """Numbers of the layer's dtype, the same for both layers of a pair."""
    return torch.randn(shape or (T, B, I), generator=torch.Generator().manual_seed(seed)).to(dtype_of(layer))


def states_of(layer: Any, *, seed: int = 1) -> tuple[Tensor, ...]:
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    count = 2 if isinstance(layer, nn.LSTM) else 1
    return tuple(drawn(layer, rows, B, H, seed=seed + index) for index in range(count))


def given(states: tuple[Tensor, ...]) -> Any:
    """Initial states as the layer takes them."""
    return states if len(states) > 1 else states[0]


def finals(result: Any) -> tuple[Tensor, ...]:
    """The final states in what a layer returns."""
    states = result[1]
    return states if isinstance(states, tuple) else (states,)


def wild(result: Any) -> Tensor:
    """A loss of everything that a layer returns, whose gradient differs at every element and is not constant."""
    output = result[0].data if isinstance(result[0], nn.utils.rnn.PackedSequence) else result[0]
    loss = torch.zeros((), dtype=output.dtype)
    for index, tensor in enumerate((output, *finals(result))):
        weight = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7 + index)).to(tensor.dtype)
        loss = loss + (weight * tensor).sum() + tensor.pow(3).sum()
    return loss


def flat(value: Any) -> list[Tensor]:
    if value is None:
        return []
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in (value.values() if isinstance(value, dict) else value) for tensor in flat(part)]


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Tensors of any dtype, in any nesting, are equal to a tolerance, and there is something to compare."""
    found, wanted = flat(actual), flat(expected)
    assert len(found) == len(wanted) > 0
    assert any(tensor.abs().sum() > 0 for tensor in wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance)


def assert_agree(compute: Callable[[Any], Any], mode: str = "LSTM", *, tolerance: float = 1e-5, **options: Any) -> None:
    """What `compute` finds with the layer of float32 is what it finds with the one of float64."""
    fast, exact = pair(mode, **options)
    close(compute(fast), compute(exact), tolerance)
