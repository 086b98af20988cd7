"""TorchRL's Triton kernels for LSTM and GRU, which project the input themselves and return every state, but no gates.

Written for torchrl 0.14.1, whose LSTMModule and GRUModule with recurrent_backend="triton" call these functions with
their weights: `lstm_triton(x, hidden, cell, w_ih, w_hh, b_ih, b_hh, is_init, compute_dtype, input_precision=)` and
`gru_triton` without `cell`. They are called here without the modules, which carry the states to and from a TensorDict
and set them to zero but at the ends. x: (B, T, I); hidden, cell: (B, T, H), of which the first step's is the initial
state and others count where is_init (B, T) is true.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from unrolled.bench.composed import Entered, Steps, enter
from unrolled.bench.dtypes import DTYPES
from unrolled.bench.numbers import Numbers

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def refusal(numbers: Numbers) -> str | None:
    """Why it does not enter; None if it does."""
    if numbers.cell == "rnn":
        return "TorchRL has no kernels for an RNN"
    if numbers.x.dtype is not torch.float32:
        return f"TorchRL's kernels take float32, the row is {numbers.dtype}"
    return None


def kernels(numbers: Numbers, phase: str, threads: int) -> Entered:
    """One call for each layer and direction."""
    module: Any = import_module("torchrl.modules.tensordict_module._rnn_triton")
    row = numbers.row
    leaves = {name: weight.detach().clone().requires_grad_() for name, weight in numbers.weights.items()}
    precision = "tf32" if DTYPES[numbers.dtype].tf32 else "ieee"
    zeros = numbers.x.new_zeros(row.batch, row.steps, row.hidden)
    is_init = torch.zeros(row.batch, row.steps, dtype=torch.bool, device=zeros.device)

    def run(x: Tensor, suffix: str) -> Mapping[str, Tensor]:
        weights = [leaves[f"{name}_{suffix}"] for name in _NAMES]
        # A direction that is taken backwards comes flipped, which `flip` lays out without gaps, as they need it.
        if numbers.cell == "gru":
            hidden, _ = module.gru_triton(x, zeros, *weights, is_init, torch.float32, input_precision=precision)
            return {"hidden": hidden}
        hidden, cells, _, _ = module.lstm_triton(
            x, zeros, zeros, *weights, is_init, torch.float32, input_precision=precision
        )
        return {"hidden": hidden, "cell": cells}

    def gradients() -> Mapping[str, Tensor | None]:
        return {name: leaf.grad for name, leaf in leaves.items()}

    return enter(numbers, phase, Steps(run, list(leaves.values()), gradients, batch_first=True))
