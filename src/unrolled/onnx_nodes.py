"""ONNX: while a model is exported, each layer is one standard node, RNN, GRU or LSTM, of the ONNX operator set.

Nothing else need be done by a user than `torch.onnx.export(model, ...)`. The order of gates and the layout of weights
are those of the operators' specification (https://onnx.ai/onnx/operators/, RNN-14, GRU-14 and LSTM-14).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unrolled.recurrence.cells import Cell, States

# For each row of the table: the node, and where each of its gates stands among torch's.
_NODES: dict[str, tuple[str, tuple[int, ...]]] = {
    "RNN_TANH": ("RNN", (0,)),
    "RNN_RELU": ("RNN", (0,)),
    "GRU": ("GRU", (1, 0, 2)),  # z, r, h
    "LSTM": ("LSTM", (0, 3, 1, 2)),  # i, o, f, c
}


def layer(
    run: Any,
    cell: Cell,
    first: int,
    x: Tensor,
    initial: States,
    lengths: Tensor | None,
    reset: Tensor | None,
    order: Tensor | None,
) -> tuple[Tensor, States]:
    """One layer, from place `first` on, in all its directions; as `layers._layer`.

    Raises:
        ValueError: the ONNX operators do not have what the layer does.
    """
    module, mode = run.module, run.module._quiet_mode
    if mode not in _NODES:
        raise ValueError(f"ONNX has no operator for the {cell.name}; torch.export takes it")
    if getattr(module, "proj_size", 0):
        raise ValueError("ONNX's LSTM has no projection (proj_size); torch.export takes it")
    if reset is not None:
        raise ValueError("ONNX's recurrent operators have no resets; torch.export takes them")
    if module.training and mode != module.mode:
        raise ValueError(f"ONNX has no operator for the {cell.name} in training mode; call model.eval() first")
    node, gates = _NODES[mode]
    directions, hidden_size = initial[0].size(0), int(module.hidden_size)
    weights = run.weights[first : first + directions]

    def stacked(blocks: list[Tensor]) -> Tensor:
        # By slices, which an exporter folds into the weights.
        parts = [[block[gate * hidden_size : (gate + 1) * hidden_size] for gate in gates] for block in blocks]
        return torch.stack([torch.cat(part) for part in parts])

    biases = None
    if module.bias:
        biases = torch.cat(
            (stacked([_given(w.bias_ih) for w in weights]), stacked([_given(w.bias_hh) for w in weights])), 1
        )
    attributes: dict[str, Any] = {
        "hidden_size": hidden_size,
        "direction": "bidirectional" if directions > 1 else "forward",
    }
    if node == "RNN":
        attributes["activations"] = [mode.removeprefix("RNN_").capitalize()] * directions
    if node == "GRU":
        attributes["linear_before_reset"] = 1
    steps, batch, _ = x.shape
    shapes: list[Any] = [(steps, directions, batch, hidden_size), *[(directions, batch, hidden_size)] * len(initial)]
    counted = None if lengths is None else lengths.to(torch.int32)
    output, *final = torch.onnx.ops.symbolic_multi_out(
        node,
        (x, stacked([w.ih for w in weights]), stacked([w.hh for w in weights]), biases, counted, *initial),
        attributes,
        dtypes=[x.dtype] * len(shapes),
        shapes=shapes,
        version=14,
    )
    # (T, D, B, H) -> (T, B, D * H)
    return output.transpose(1, 2).reshape(steps, batch, directions * hidden_size), tuple(final)


def _given(bias: Tensor | None) -> Tensor:
    assert bias is not None
    return bias
