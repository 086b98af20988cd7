"""FlashRNN's kernels (Pöppel et al. 2024), which are given a projected input and return every state, but no gates.

Written for flashrnn 1.0.8, whose interface is `flashrnn(Wx, R, b, config=...)`: Wx (T, B, G, N, D) with N heads of D
units, R (G, N, D, D) from the last index to the third, b (G, N, D), and back (S, T, B, N, D). One head is a whole
layer. Its own formula has one bias where torch.nn has two. A GRU there has three gates with a product, of which the
candidate's stands first, and four biases: the candidate's inside the reset gate, the two gates', the candidate's
outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.bench.composed import Entered, Steps, enter, suffixes
from unrolled.bench.dtypes import DTYPES
from unrolled.bench.numbers import Numbers

_FUNCTIONS = {"rnn": "elman", "gru": "gru", "lstm": "lstm"}


class _Leaves(NamedTuple):
    """The parameters of one layer in one direction, laid out as FlashRNN takes them."""

    weight_ih: Tensor  # (G * H, I)
    recurrent: Tensor  # (G, 1, H, H)
    bias: Tensor  # (G, 1, H), of a GRU (4, 1, H)


def refusal(numbers: Numbers) -> str | None:
    """Why it does not enter; None if it does."""
    if DTYPES[numbers.dtype].tf32 and _backend(numbers) != "cuda_fused":
        return "FlashRNN's kernels for a GRU and for H that is no multiple of 16 have no tf32"
    return None


def kernels(numbers: Numbers, phase: str, threads: int) -> Entered:
    """Its fused kernels where it has them, else those that alternate with matrix products."""
    module: Any = import_module("flashrnn")
    row, dtype = numbers.row, str(numbers.x.dtype).removeprefix("torch.")
    config = module.FlashRNNConfig(
        backend=_backend(numbers),
        function=_FUNCTIONS[numbers.cell],
        num_heads=1,
        head_dim=row.hidden,
        batch_size=row.batch,
        # Of the orders it documents the one that is this bench's. Its fused kernels take gates last, which
        # it lays out itself: that is part of its time, as for everyone who calls it.
        input_shape="TBGHD",
        output_shape="STBHD",
        dtype=dtype,
        dtype_w=dtype,
        dtype_r=dtype,
        dtype_b=dtype,
    )
    leaves = {suffix: _leaves(numbers, suffix) for suffix in suffixes(numbers)}

    def run(x: Tensor, suffix: str) -> Mapping[str, Tensor]:
        weight_ih, recurrent, bias = leaves[suffix]
        projected = F.linear(x, weight_ih).view(row.steps, row.batch, -1, 1, row.hidden)
        states, _ = module.flashrnn(projected, recurrent, bias, config=config)
        return {name: state.squeeze(2) for name, state in zip(("hidden", "cell"), states, strict=False)}

    def gradients() -> Mapping[str, Tensor | None]:
        found: dict[str, Tensor | None] = {}
        for suffix, of_leaves in leaves.items():
            found |= {f"{name}_{suffix}": grad for name, grad in _gradients(numbers, of_leaves).items()}
        return found

    return enter(numbers, phase, Steps(run, [leaf for each in leaves.values() for leaf in each], gradients))


def _backend(numbers: Numbers) -> str:
    # The fused ones multiply float32 in tf32 only, take 16 units at a time, and there are none for a GRU.
    fused = numbers.cell != "gru" and numbers.row.hidden % 16 == 0 and numbers.dtype != "float32"
    return "cuda_fused" if fused else "cuda"


def _leaves(numbers: Numbers, suffix: str) -> _Leaves:
    weight_ih, weight_hh, bias_ih, bias_hh = (
        numbers.weights[f"{name}_{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    hidden = numbers.row.hidden
    recurrent = weight_hh.view(-1, 1, hidden, hidden)
    bias = (bias_ih + bias_hh).view(-1, 1, hidden)
    if numbers.cell == "gru":
        recurrent = recurrent.roll(1, 0)
        of_input, of_hidden = bias_ih.view(3, 1, hidden), bias_hh.view(3, 1, hidden)
        bias = torch.cat((of_hidden[2:], of_input[:2] + of_hidden[:2], of_input[2:]))
    return _Leaves(*(leaf.detach().clone().requires_grad_() for leaf in (weight_ih, recurrent, bias)))


def _gradients(numbers: Numbers, leaves: _Leaves) -> Mapping[str, Tensor | None]:
    """By torch.nn's names."""
    ih, recurrent, bias = (leaf.grad for leaf in leaves)
    if recurrent is None or bias is None:
        return {"weight_ih": ih}
    hh, of_input, of_hidden = recurrent, bias, bias
    if numbers.cell == "gru":
        hh, of_input, of_hidden = recurrent.roll(-1, 0), bias[1:], bias[[1, 2, 0]]
    return {
        "weight_ih": ih,
        "weight_hh": hh.reshape(-1, numbers.row.hidden),
        "bias_ih": of_input.reshape(-1),
        "bias_hh": of_hidden.reshape(-1),
    }
