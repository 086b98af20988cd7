"""How small changes of the states before a step appear in the states after it, in closed form for every cell.

Each formula is the derivative of the cell's step in the table of cells, with gates and states as they were recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.instruments.opened import OpenLayer
from unrolled.recurrence.cells import States, Weights

_EPSILON = 1e-5  # of torch's layer normalisation

# before, after, gates, weights, module, tangents of each state (B, ·, k) -> tangents of each state after the step.
Rule = Callable[[States, States, tuple[Tensor, ...], Weights, Any, States], States]


def carry(layer: OpenLayer, before: States, after: States, gates: tuple[Tensor, ...], tangents: States) -> States:
    """Tangent vectors of one step.

    Args:
        layer: whose step it is.
        before, after: the states, each (B, ·).
        gates: (B, H) each, in the table's order.
        tangents: of each state before the step, (B, ·, k).

    Returns:
        Of each state after it, (B, ·, k).
    """
    return _RULES[layer.mode](before, after, gates, layer.weights, layer.module, tangents)


def _column(value: Tensor) -> Tensor:
    """(B, H) beside tangents (B, H, k)."""
    return value.unsqueeze(-1)


def _slope(gate: Tensor) -> Tensor:
    """Of the logistic function, from its value."""
    return _column(gate * (1 - gate))


def _tanh_slope(value: Tensor) -> Tensor:
    return _column(1 - value.square())


def _rnn_tanh(before: States, after: States, gates: Any, weights: Weights, module: Any, tangents: States) -> States:
    return (_tanh_slope(after[0]) * (weights.hh @ tangents[0]),)


def _rnn_relu(before: States, after: States, gates: Any, weights: Weights, module: Any, tangents: States) -> States:
    return (_column((after[0] > 0).to(after[0])) * (weights.hh @ tangents[0]),)


def _gru(before: States, after: States, gates: Any, weights: Weights, module: Any, tangents: States) -> States:
    (hidden,), (d,) = before, tangents
    reset, update, candidate = gates
    d_reset, d_update, d_candidate = (weights.hh @ d).chunk(3, dim=1)
    size = hidden.size(-1)
    bias = None if weights.bias_hh is None else weights.bias_hh[2 * size :]
    recurrent = F.linear(hidden, weights.hh[2 * size :], bias)
    d_candidate = _tanh_slope(candidate) * (_column(reset) * d_candidate + _column(recurrent) * _slope(reset) * d_reset)
    change = _column(hidden - candidate) * _slope(update) * d_update
    return (_column(1 - update) * d_candidate + change + _column(update) * d,)


def _written(cell: Tensor, gates: tuple[Tensor, ...], d_gates: tuple[Tensor, ...], d_cell: Tensor) -> Tensor:
    """Tangent of f c' + i g."""
    i, f, g, _ = gates
    d_i, d_f, d_g, _ = d_gates
    from_gates = _column(cell) * _slope(f) * d_f + _column(g) * _slope(i) * d_i + _column(i) * _tanh_slope(g) * d_g
    return _column(f) * d_cell + from_gates


def _read(cell: Tensor, output_gate: Tensor, d_output: Tensor, d_cell: Tensor) -> Tensor:
    """Tangent of o tanh(c)."""
    let_out = torch.tanh(cell)
    return _column(let_out) * _slope(output_gate) * d_output + _column(output_gate) * _tanh_slope(let_out) * d_cell


def _lstm(before: States, after: States, gates: Any, weights: Weights, module: Any, tangents: States) -> States:
    d_gates = (weights.hh @ tangents[0]).chunk(4, dim=1)
    d_cell = _written(before[1], gates, d_gates, tangents[1])
    d_hidden = _read(after[1], gates[3], d_gates[3], d_cell)
    return (d_hidden if weights.hr is None else weights.hr @ d_hidden), d_cell


def _peephole(before: States, after: States, gates: Any, weights: Weights, module: Any, tangents: States) -> States:
    assert weights.peephole is not None
    see_i, see_f, see_o = map(_column, weights.peephole.chunk(3))
    i, f, g, o = (weights.hh @ tangents[0]).chunk(4, dim=1)
    d_gates = (i + see_i * tangents[1], f + see_f * tangents[1], g, o)
    d_cell = _written(before[1], gates, d_gates, tangents[1])
    return _read(after[1], gates[3], o + see_o * d_cell, d_cell), d_cell


def _coupled(before: States, after: States, gates: Any, weights: Weights, module: Any, tangents: States) -> States:
    forget, candidate, output_gate = gates
    d_forget, d_candidate, d_output = (weights.hh @ tangents[0]).chunk(3, dim=1)
    d_cell = (
        _column(forget) * tangents[1]
        + _column(before[1] - candidate) * _slope(forget) * d_forget
        + _column(1 - forget) * _tanh_slope(candidate) * d_candidate
    )
    return _read(after[1], output_gate, d_output, d_cell), d_cell


def _normalised(value: Tensor, tangent: Tensor, gain: Tensor) -> Tensor:
    """Tangent of layer normalisation of value: (B, n), tangent: (B, n, k)."""
    scale = (value.var(-1, correction=0, keepdim=True) + _EPSILON).rsqrt()
    centred = _column((value - value.mean(-1, keepdim=True)) * scale)
    along = tangent - tangent.mean(1, keepdim=True) - centred * (centred * tangent).mean(1, keepdim=True)
    return _column(gain * scale) * along


def _layer_norm(before: States, after: States, gates: Any, weights: Weights, module: Any, tangents: States) -> States:
    assert weights.norm_hh is not None
    assert weights.norm_cell is not None
    recurrent = F.linear(before[0], weights.hh)
    d_gates = _normalised(recurrent, weights.hh @ tangents[0], weights.norm_hh).chunk(4, dim=1)
    d_cell = _written(before[1], gates, d_gates, tangents[1])
    cell = F.layer_norm(after[1], after[1].shape[-1:], weights.norm_cell, weights.norm_bias)
    return _read(cell, gates[3], d_gates[3], _normalised(after[1], d_cell, weights.norm_cell)), d_cell


def _zoneout(before: States, after: States, gates: Any, weights: Weights, module: Any, tangents: States) -> States:
    """Outside of training, where each zone is as wide as its probability."""
    fresh_cell = gates[1] * before[1] + gates[0] * gates[2]
    fresh = _lstm(before, (after[0], fresh_cell), gates, weights, module, tangents)
    kept = (float(module.zoneout_hidden), float(module.zoneout_cell))
    d_hidden, d_cell = (p * old + (1 - p) * new for p, old, new in zip(kept, tangents, fresh, strict=True))
    return d_hidden, d_cell


_RULES: dict[str, Rule] = {
    "RNN_TANH": _rnn_tanh,
    "RNN_RELU": _rnn_relu,
    "GRU": _gru,
    "LSTM": _lstm,
    "LSTM_PEEPHOLE": _peephole,
    "LSTM_COUPLED": _coupled,
    "LSTM_LAYER_NORM": _layer_norm,
    "LSTM_ZONEOUT": _zoneout,
    # Their masks are ones outside of training.
    "LSTM_VARIATIONAL_DROPOUT": _lstm,
    "LSTM_RECURRENT_DROPOUT": _lstm,
}
