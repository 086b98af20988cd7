"""Every state and gate of a row in float64, which torch.nn does not show.

The steps are written out from the papers, so that recording is held to something that it does not compute itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unrolled.bench.numbers import Numbers

_Named = dict[str, Tensor]


def states(numbers: Numbers) -> _Named:
    """Everything that can be recorded: "l0.hidden", "l1_reverse.forget_gate" and so on -> (B, T, H)."""
    row, x, found = numbers.row, numbers.x.double(), dict[str, Tensor]()
    for layer in range(row.layers):
        outputs = []
        for direction in ("", "_reverse")[: row.directions]:
            suffix = f"l{layer}{direction}"
            opened = _stepped(numbers, x.flip(0) if direction else x, suffix)
            for name, value in opened.items():
                found[f"{suffix}.{name}"] = (value.flip(0) if direction else value).transpose(0, 1)
            outputs.append(found[f"{suffix}.hidden"].transpose(0, 1))
        x = torch.cat(outputs, dim=-1)
    return found


def _stepped(numbers: Numbers, x: Tensor, suffix: str) -> _Named:
    """One layer in one direction over x: (T, B, I) -> states and gates, each (T, B, H)."""
    ih, hh, bias_ih, bias_hh = (
        numbers.weights[f"{name}_{suffix}"].double() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    step = {"rnn": _rnn, "gru": _gru, "lstm": _lstm}[numbers.cell]
    zero = x.new_zeros(x.size(1), hh.size(1))
    taken = [{"hidden": zero, "cell": zero}]
    for now in x:
        taken.append(step(now @ ih.t() + bias_ih, taken[-1]["hidden"] @ hh.t() + bias_hh, taken[-1]))
    return {name: torch.stack([each[name] for each in taken[1:]]) for name in taken[-1]}


def _rnn(x: Tensor, h: Tensor, before: _Named) -> _Named:
    """Elman (1990). x, h: (B, H), the products with the input and with the hidden state before."""
    return {"hidden": torch.tanh(x + h)}


def _gru(x: Tensor, h: Tensor, before: _Named) -> _Named:
    """Cho et al. (2014), the reset gate after the product. x, h: (B, 3 * H)."""
    (x_reset, x_update, x_candidate), (h_reset, h_update, h_candidate) = x.chunk(3, -1), h.chunk(3, -1)
    reset, update = torch.sigmoid(x_reset + h_reset), torch.sigmoid(x_update + h_update)
    candidate = torch.tanh(x_candidate + reset * h_candidate)
    hidden = (1 - update) * candidate + update * before["hidden"]
    return {"hidden": hidden, "reset_gate": reset, "update_gate": update, "candidate": candidate}


def _lstm(x: Tensor, h: Tensor, before: _Named) -> _Named:
    """Hochreiter & Schmidhuber (1997) with forget gates (Gers et al. 2000). x, h: (B, 4 * H)."""
    i, f, g, o = (x + h).chunk(4, -1)
    names = ("input_gate", "forget_gate", "candidate", "output_gate")
    gates = dict(zip(names, (torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)), strict=True))
    cell = gates["forget_gate"] * before["cell"] + gates["input_gate"] * gates["candidate"]
    return {"hidden": gates["output_gate"] * torch.tanh(cell), "cell": cell, **gates}
