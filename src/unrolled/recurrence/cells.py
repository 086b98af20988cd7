"""The table of cells: for each its states, its gates in the order of the weights' rows, and its update.

Layers, traces and instruments read this table; nothing else knows what a cell consists of. A step computes the gates
(after their activation), then the cell state, then the hidden state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

States = tuple[Tensor, ...]
Gates = tuple[Tensor, ...]


class Weights(NamedTuple):
    """The parameters of one layer in one direction, with G gates, hidden size H, input size I and output size P.

    P is H unless the layer projects its hidden state (LSTM only); `hr` is that projection. Those after it are what only
    some cells have: the table says which, and of how many blocks of H.
    """

    ih: Tensor  # (G * H, I)
    hh: Tensor  # (G * H, P)
    bias_ih: Tensor | None = None  # (G * H,)
    bias_hh: Tensor | None = None  # (G * H,)
    hr: Tensor | None = None  # (P, H)
    peephole: Tensor | None = None  # (3 * H,): of the input, the forget and the output gate
    norm_ih: Tensor | None = None  # (G * H,) gains of the normalised input's part
    norm_hh: Tensor | None = None  # (G * H,) gains of the normalised recurrent part
    norm_cell: Tensor | None = None  # (H,) gains of the normalised cell state
    norm_bias: Tensor | None = None  # (H,) shifts of it


class Masks(NamedTuple):
    """Random factors of one layer in one direction, for all steps (T, B, H) or for one (B, H); None changes nothing."""

    hidden: Tensor | None = None  # of the hidden state before its product with the weights; the same at every step
    candidate: Tensor | None = None
    hidden_zone: Tensor | None = None  # the part of the hidden state that stays as it was
    cell_zone: Tensor | None = None

    def at(self, t: int) -> Masks:
        """The masks of one step."""
        return Masks(*(None if mask is None else mask[t] for mask in self))


NO_MASKS = Masks()


# Is shown every gate and state of a step, by name and in the order in which they are computed, and returns what the
# step goes on with.
Edit = Callable[[str, Tensor], Tensor]


def unedited(name: str, value: Tensor) -> Tensor:
    """The edit that changes nothing."""
    return value


def separate(value: Tensor, computed: Tensor | None = None) -> Tensor:
    """The same value as a node of its own, so that what is differentiated with respect to it is what it enters.

    PyTorch forms the derivative of an activation from its result. Were that the node, a second derivative with respect
    to it would take a gate for the variable on which the slope of its own activation depends.

    Where `value` was put in the place of what was `computed` and has no graph of its own, it begins one: the loss still
    depends on it.
    """
    if computed is not None and computed.requires_grad and not value.requires_grad:
        return value.detach().requires_grad_()
    return value.view_as(value)


class Step(Protocol):
    def __call__(
        self, x: Tensor, states: States, weights: Weights, edit: Edit = unedited, masks: Masks = NO_MASKS
    ) -> tuple[States, Gates]: ...


Project = Callable[[Tensor, Weights], Tensor]


def _project(x: Tensor, weights: Weights) -> Tensor:
    """W_ih x with both biases."""
    bias = weights.bias_ih
    if bias is not None and weights.bias_hh is not None:
        bias = bias + weights.bias_hh
    return F.linear(x, weights.ih, bias)


def _project_input_bias(x: Tensor, weights: Weights) -> Tensor:
    """W_ih x with the input's bias; the recurrent one takes part inside the step."""
    return F.linear(x, weights.ih, weights.bias_ih)


def _project_normalised(x: Tensor, weights: Weights) -> Tensor:
    """Layer normalisation of W_ih x over all gates, Ba et al. (2016); the input's bias is its shift."""
    return F.layer_norm(F.linear(x, weights.ih), weights.ih.shape[:1], weights.norm_ih, weights.bias_ih)


@dataclass(frozen=True)
class Cell:
    """One row of the table.

    Attributes:
        name: of the cell, as in "lstm".
        states: what is carried from step to step, in the order in which torch.nn passes them.
        gates: what is computed at a step besides, in the order of the weights' rows; empty for a plain RNN.
        opens: what the gates at work let through, meaning -> (gate, whether an open gate has the value 1 or 0).
            "write" lets the input into the state, "keep" lets the old state stay, "read" lets the state out.
        step: (B, G * H) projected input, states of the step before, weights, edit, masks of the step -> states, gates.
        project: the input's part of the pre-activations of all steps at once: (..., I), weights -> (..., G * H).
        parameters: what it has besides torch.nn's weights, field of `Weights` -> blocks of H; a field whose name ends
            in "bias" is left out of layers without biases.
        masks: the fields of `Masks` that are drawn for it.
    """

    name: str
    states: tuple[str, ...]
    gates: tuple[str, ...]
    opens: dict[str, tuple[str, int]]
    step: Step
    project: Project = _project
    parameters: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    masks: tuple[str, ...] = ()

    @property
    def blocks(self) -> int:
        """How many times H rows the weights have."""
        return max(1, len(self.gates))

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that can be recorded of this cell."""
        return self.states + self.gates

    def rows(self, gate: str, hidden_size: int) -> slice:
        """The rows of a weight or bias that compute `gate`."""
        first = self.gates.index(gate) * hidden_size
        return slice(first, first + hidden_size)


def _rnn_step(activation: Callable[[Tensor], Tensor]) -> Step:
    """h = activation(x + W_hh h'), Elman (1990)."""

    def step(
        x: Tensor, states: States, weights: Weights, edit: Edit = unedited, masks: Masks = NO_MASKS
    ) -> tuple[States, Gates]:
        (hidden,) = states
        return (edit("hidden", activation(torch.addmm(x, hidden, weights.hh.t()))),), ()

    return step


def _gru_step(
    x: Tensor, states: States, weights: Weights, edit: Edit = unedited, masks: Masks = NO_MASKS
) -> tuple[States, Gates]:
    """Cho et al. (2014) with the reset gate after the product, as in torch.nn; a high update gate keeps."""
    (hidden,) = states
    x_reset, x_update, x_candidate = x.chunk(3, dim=-1)
    h_reset, h_update, h_candidate = F.linear(hidden, weights.hh, weights.bias_hh).chunk(3, dim=-1)
    reset_gate = edit("reset_gate", torch.sigmoid(x_reset + h_reset))
    update_gate = edit("update_gate", torch.sigmoid(x_update + h_update))
    candidate = edit("candidate", torch.tanh(x_candidate + reset_gate * h_candidate))
    hidden = edit("hidden", (1 - update_gate) * candidate + update_gate * hidden)
    return (hidden,), (reset_gate, update_gate, candidate)


def _lstm_step(
    x: Tensor, states: States, weights: Weights, edit: Edit = unedited, masks: Masks = NO_MASKS
) -> tuple[States, Gates]:
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


def _peephole_step(
    x: Tensor, states: States, weights: Weights, edit: Edit = unedited, masks: Masks = NO_MASKS
) -> tuple[States, Gates]:
    """Gers & Schmidhuber (2000): the input and forget gates see the old cell state, the output gate the new one."""
    hidden, cell = states
    assert weights.peephole is not None
    see_i, see_f, see_o = weights.peephole.chunk(3)
    i, f, g, o = torch.addmm(x, hidden, weights.hh.t()).chunk(4, dim=-1)
    input_gate = edit("input_gate", torch.sigmoid(i + see_i * cell))
    forget_gate = edit("forget_gate", torch.sigmoid(f + see_f * cell))
    candidate = edit("candidate", torch.tanh(g))
    cell = edit("cell", forget_gate * cell + input_gate * candidate)
    output_gate = edit("output_gate", torch.sigmoid(o + see_o * cell))
    return (edit("hidden", output_gate * torch.tanh(cell)), cell), (input_gate, forget_gate, candidate, output_gate)


def _coupled_step(
    x: Tensor, states: States, weights: Weights, edit: Edit = unedited, masks: Masks = NO_MASKS
) -> tuple[States, Gates]:
    """One gate to keep and to write, i = 1 - f: CIFG in Greff et al. (2017)."""
    hidden, cell = states
    f, g, o = torch.addmm(x, hidden, weights.hh.t()).chunk(3, dim=-1)
    forget_gate, candidate = edit("forget_gate", torch.sigmoid(f)), edit("candidate", torch.tanh(g))
    output_gate = edit("output_gate", torch.sigmoid(o))
    cell = edit("cell", forget_gate * cell + (1 - forget_gate) * candidate)
    return (edit("hidden", output_gate * torch.tanh(cell)), cell), (forget_gate, candidate, output_gate)


def _normalised_step(
    x: Tensor, states: States, weights: Weights, edit: Edit = unedited, masks: Masks = NO_MASKS
) -> tuple[States, Gates]:
    """Ba et al. (2016), equations 20 to 22: the recurrent part over all gates and the cell state are normalised."""
    hidden, cell = states
    size = cell.shape[-1:]
    recurrent = F.layer_norm(F.linear(hidden, weights.hh), weights.hh.shape[:1], weights.norm_hh, weights.bias_hh)
    i, f, g, o = (x + recurrent).chunk(4, dim=-1)
    input_gate, forget_gate = edit("input_gate", torch.sigmoid(i)), edit("forget_gate", torch.sigmoid(f))
    candidate, output_gate = edit("candidate", torch.tanh(g)), edit("output_gate", torch.sigmoid(o))
    cell = edit("cell", forget_gate * cell + input_gate * candidate)
    hidden = output_gate * torch.tanh(F.layer_norm(cell, size, weights.norm_cell, weights.norm_bias))
    return (edit("hidden", hidden), cell), (input_gate, forget_gate, candidate, output_gate)


def _zoneout_step(
    x: Tensor, states: States, weights: Weights, edit: Edit = unedited, masks: Masks = NO_MASKS
) -> tuple[States, Gates]:
    """Krueger et al. (2017), section 3.2: some units of each state stay as they were; the rest is an LSTM's.

    The hidden state is formed from the cell state as it would be without zoneout, so that an edit of "cell", which is
    what is carried on, is first seen at the next step.
    """
    hidden, cell = states
    (fresh_hidden, fresh_cell), gates = _lstm_step(x, states, weights, _without(edit, "hidden", "cell"))
    if masks.cell_zone is not None:
        fresh_cell = masks.cell_zone * cell + (1 - masks.cell_zone) * fresh_cell
    if masks.hidden_zone is not None:
        fresh_hidden = masks.hidden_zone * hidden + (1 - masks.hidden_zone) * fresh_hidden
    cell = edit("cell", fresh_cell)
    return (edit("hidden", fresh_hidden), cell), gates


def _without(edit: Edit, *names: str) -> Edit:
    """The edit that leaves some names as they are."""
    return lambda name, value: value if name in names else edit(name, value)


def _variational_step(
    x: Tensor, states: States, weights: Weights, edit: Edit = unedited, masks: Masks = NO_MASKS
) -> tuple[States, Gates]:
    """Gal & Ghahramani (2016): the hidden state enters the gates with one mask for the whole sequence."""
    hidden, cell = states
    dropped = hidden if masks.hidden is None else hidden * masks.hidden
    return _lstm_step(x, (dropped, cell), weights, edit)


def _recurrent_dropout_step(
    x: Tensor, states: States, weights: Weights, edit: Edit = unedited, masks: Masks = NO_MASKS
) -> tuple[States, Gates]:
    """Semeniuta et al. (2016): only what is written is dropped, so the cell state's memory stays whole."""
    hidden, cell = states
    i, f, g, o = torch.addmm(x, hidden, weights.hh.t()).chunk(4, dim=-1)
    input_gate, forget_gate = edit("input_gate", torch.sigmoid(i)), edit("forget_gate", torch.sigmoid(f))
    candidate, output_gate = edit("candidate", torch.tanh(g)), edit("output_gate", torch.sigmoid(o))
    written = candidate if masks.candidate is None else candidate * masks.candidate
    cell = edit("cell", forget_gate * cell + input_gate * written)
    return (edit("hidden", output_gate * torch.tanh(cell)), cell), (input_gate, forget_gate, candidate, output_gate)


_RNN_TANH = Cell("rnn", ("hidden",), (), {}, _rnn_step(torch.tanh))
_RNN_RELU = Cell("rnn", ("hidden",), (), {}, _rnn_step(torch.relu))
_GRU = Cell(
    "gru",
    ("hidden",),
    ("reset_gate", "update_gate", "candidate"),
    {"write": ("update_gate", 0), "keep": ("update_gate", 1)},
    _gru_step,
    _project_input_bias,
)
_LSTM = Cell(
    "lstm",
    ("hidden", "cell"),
    ("input_gate", "forget_gate", "candidate", "output_gate"),
    {"write": ("input_gate", 1), "keep": ("forget_gate", 1), "read": ("output_gate", 1)},
    _lstm_step,
)
_COUPLED = Cell(
    "coupled lstm",
    ("hidden", "cell"),
    ("forget_gate", "candidate", "output_gate"),
    {"write": ("forget_gate", 0), "keep": ("forget_gate", 1), "read": ("output_gate", 1)},
    _coupled_step,
)

# By the mode that the layers carry; the first four are torch.nn's.
CELLS: dict[str, Cell] = {
    "RNN_TANH": _RNN_TANH,
    "RNN_RELU": _RNN_RELU,
    "GRU": _GRU,
    "LSTM": _LSTM,
    "LSTM_PEEPHOLE": replace(_LSTM, name="peephole lstm", step=_peephole_step, parameters={"peephole": 3}),
    "LSTM_COUPLED": _COUPLED,
    "LSTM_LAYER_NORM": replace(
        _LSTM,
        name="layer-normalised lstm",
        step=_normalised_step,
        project=_project_normalised,
        parameters={"norm_ih": 4, "norm_hh": 4, "norm_cell": 1, "norm_bias": 1},
    ),
    "LSTM_ZONEOUT": replace(_LSTM, name="zoneout lstm", step=_zoneout_step, masks=("hidden_zone", "cell_zone")),
    "LSTM_VARIATIONAL_DROPOUT": replace(
        _LSTM, name="lstm with variational dropout", step=_variational_step, masks=("hidden",)
    ),
    "LSTM_RECURRENT_DROPOUT": replace(
        _LSTM, name="lstm with recurrent dropout", step=_recurrent_dropout_step, masks=("candidate",)
    ),
}
