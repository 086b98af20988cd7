"""The table of cells: for each its states, its gates in the order of the weights' rows, and its update.

Layers, traces and instruments read this table; nothing else knows what a cell consists of. A step computes the gates
(after their activation), then the cell state, then the hidden state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

States = tuple[Tensor, ...]
Gates = tuple[Tensor, ...]


class Weights(NamedTuple):
    """The parameters of one layer in one direction, with G gates, hidden size H, input size I and output size P.

    P is H unless the layer projects its hidden state (LSTM only); `hr` is that projection.
    """

    ih: Tensor  # (G * H, I)
    hh: Tensor  # (G * H, P)
    bias_ih: Tensor | None = None  # (G * H,)
    bias_hh: Tensor | None = None  # (G * H,)
    hr: Tensor | None = None  # (P, H)


# Is shown every gate and state of a step, by name and in the order in which they are computed, and returns what the
# step goes on with.
Edit = Callable[[str, Tensor], Tensor]


def unedited(name: str, value: Tensor) -> Tensor:
    """The edit that changes nothing."""
    return value


def separate(value: Tensor) -> Tensor:
    """The same value as a node of its own, so that what is differentiated with respect to it is what it enters.

    PyTorch forms the derivative of an activation from its result. Were that the node, a second derivative with respect
    to it would take a gate for the variable on which the slope of its own activation depends.
    """
    return value.view_as(value)


class Step(Protocol):
    def __call__(self, x: Tensor, states: States, weights: Weights, edit: Edit = unedited) -> tuple[States, Gates]: ...


@dataclass(frozen=True)
class Cell:
    """One row of the table.

    Attributes:
        name: "rnn", "gru" or "lstm".
        states: what is carried from step to step, in the order in which torch.nn passes them.
        gates: what is computed at a step besides, in the order of the weights' rows; empty for a plain RNN.
        opens: what the gates at work let through, meaning -> (gate, whether an open gate has the value 1 or 0).
            "write" lets the input into the state, "keep" lets the old state stay, "read" lets the state out.
        recurrent_bias: whether `bias_hh` takes part inside the step rather than in the input's projection.
        step: (B, G * H) projected input, states of the step before, weights, edit -> states, gates.
    """

    name: str
    states: tuple[str, ...]
    gates: tuple[str, ...]
    opens: dict[str, tuple[str, int]]
    recurrent_bias: bool
    step: Step

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that can be recorded of this cell."""
        return self.states + self.gates

    def rows(self, gate: str, hidden_size: int) -> slice:
        """The rows of a weight or bias that compute `gate`."""
        first = self.gates.index(gate) * hidden_size
        return slice(first, first + hidden_size)

    def project(self, x: Tensor, weights: Weights) -> Tensor:
        """The input's part of the pre-activations of all steps at once: (..., I) -> (..., G * H)."""
        bias = weights.bias_ih
        if bias is not None and weights.bias_hh is not None and not self.recurrent_bias:
            bias = bias + weights.bias_hh
        return F.linear(x, weights.ih, bias)


def _rnn_step(activation: Callable[[Tensor], Tensor]) -> Step:
    """h = activation(x + W_hh h'), Elman (1990)."""

    def step(x: Tensor, states: States, weights: Weights, edit: Edit = unedited) -> tuple[States, Gates]:
        (hidden,) = states
        return (edit("hidden", activation(torch.addmm(x, hidden, weights.hh.t()))),), ()

    return step


def _gru_step(x: Tensor, states: States, weights: Weights, edit: Edit = unedited) -> tuple[States, Gates]:
    """Cho et al. (2014) with the reset gate after the product, as in torch.nn; a high update gate keeps."""
    (hidden,) = states
    x_reset, x_update, x_candidate = x.chunk(3, dim=-1)
    h_reset, h_update, h_candidate = F.linear(hidden, weights.hh, weights.bias_hh).chunk(3, dim=-1)
    reset_gate = edit("reset_gate", torch.sigmoid(x_reset + h_reset))
    update_gate = edit("update_gate", torch.sigmoid(x_update + h_update))
    candidate = edit("candidate", torch.tanh(x_candidate + reset_gate * h_candidate))
    hidden = edit("hidden", (1 - update_gate) * candidate + update_gate * hidden)
    return (hidden,), (reset_gate, update_gate, candidate)


def _lstm_step(x: Tensor, states: States, weights: Weights, edit: Edit = unedited) -> tuple[States, Gates]:
    """Hochreiter & Schmidhuber (1997) with forget gates (Gers et al. 2000); projection as in Sak et al. (2014)."""
    hidden, cell = states
    i, f, g, o = torch.addmm(x, hidden, weights.hh.t()).chunk(4, dim=-1)
    input_gate, forget_gate = edit("input_gate", torch.sigmoid(i)), edit("forget_gate", torch.sigmoid(f))
    candidate, output_gate = edit("candidate", torch.tanh(g)), edit("output_gate", torch.sigmoid(o))
    cell = edit("cell", forget_gate * cell + input_gate * candidate)
    hidden = output_gate * torch.tanh(cell)
    if weights.hr is not None:
        hidden = F.linear(hidden, weights.hr)
    return (edit("hidden", hidden), cell), (input_gate, forget_gate, candidate, output_gate)


_RNN_TANH = Cell("rnn", ("hidden",), (), {}, False, _rnn_step(torch.tanh))
_RNN_RELU = Cell("rnn", ("hidden",), (), {}, False, _rnn_step(torch.relu))
_GRU = Cell(
    "gru",
    ("hidden",),
    ("reset_gate", "update_gate", "candidate"),
    {"write": ("update_gate", 0), "keep": ("update_gate", 1)},
    True,
    _gru_step,
)
_LSTM = Cell(
    "lstm",
    ("hidden", "cell"),
    ("input_gate", "forget_gate", "candidate", "output_gate"),
    {"write": ("input_gate", 1), "keep": ("forget_gate", 1), "read": ("output_gate", 1)},
    False,
    _lstm_step,
)

# By the mode that torch.nn's layers carry.
CELLS: dict[str, Cell] = {"RNN_TANH": _RNN_TANH, "RNN_RELU": _RNN_RELU, "GRU": _GRU, "LSTM": _LSTM}
