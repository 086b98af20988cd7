"""The numbers of one row, the same for every contestant: weights, input and the gradient of the output.

They are drawn on the CPU in float32, and then rounded and moved: the same on every device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.bench.dtypes import DTYPES
from unrolled.bench.rows import TRAINING_TO_INPUT, Row

Layer = nn.RNN | nn.GRU | nn.LSTM
LAYERS: dict[str, type[Layer]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@dataclass(frozen=True)
class Numbers:
    """What a row is computed from.

    Attributes:
        cell: "rnn" (with tanh), "gru" or "lstm".
        weights: torch.nn's parameters by name, as torch.nn draws them.
        x: (T, B, I) input.
        target: (T, B, D * H); the gradient of the output, or what the loss `squares` compares it with.
        dtype: of the table of dtypes: all tensors are rounded to it.
    """

    cell: str
    row: Row
    weights: Mapping[str, Tensor]
    x: Tensor
    target: Tensor
    dtype: str = "float32"

    def layer(self, kind: type[Layer], dtype: torch.dtype | None = None) -> Layer:
        """A torch.nn or unrolled layer of this row with these weights, as a user would construct it."""
        row, dtype = self.row, dtype or self.x.dtype
        # Its own initialisation is overwritten and must not move the user's random numbers.
        with torch.random.fork_rng(devices=[]):
            made: Any = kind(
                row.inputs, row.hidden, num_layers=row.layers, bidirectional=row.bidirectional, dtype=dtype
            )
        made.load_state_dict(self.weights)
        placed: Layer = made.to(self.x.device)
        return placed

    def input(self, phase: str, dtype: torch.dtype | None = None) -> Tensor:
        """x: (T, B, I) as a leaf of its own, in the phase's need of a gradient."""
        return self.x.detach().to(dtype or self.x.dtype, copy=True).requires_grad_(phase == TRAINING_TO_INPUT)


def draw(cell: str, row: Row, dtype: str = "float32", place: torch.device | None = None) -> Numbers:
    """The numbers of a row: the same at every call. They are put on the CPU if `place` is None."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: Any = LAYERS[cell](row.inputs, row.hidden, num_layers=row.layers, bidirectional=row.bidirectional)
        x = torch.randn(row.steps, row.batch, row.inputs)
        target = torch.randn(row.steps, row.batch, row.hidden * row.directions)
    weights = {name: value.detach() for name, value in made.named_parameters()}

    def put(value: Tensor) -> Tensor:
        return value.to(place or value.device, DTYPES[dtype].stored)

    return Numbers(cell, row, {name: put(value) for name, value in weights.items()}, put(x), put(target), dtype)


def backward(loss: str, output: Tensor, target: Tensor) -> None:
    """The backward pass from a loss of the output; output, target: (T, B, D * H).

    The first two give the gradient itself, so that a loss costs nothing and the gradient is dense as in practice.
    """
    if loss == "every":
        output.backward(target)
    elif loss == "last":
        output[-1].backward(target[-1])
    elif loss == "sum":
        output.sum().backward()
    else:
        F.mse_loss(output, target).backward()
