"""How a layer's parameters start: torch.nn's way, or by a scheme from the literature, chosen by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unrolled.structure import cell_of, layer_suffixes, weights_of

SCHEMES = ("torch", "orthogonal", "chrono")


def check(module: Any, init: str, t_max: float | None, forget_bias: float | None) -> None:
    """Refuse a scheme that does not fit a layer.

    Raises:
        ValueError: which argument does not fit, and why.
    """
    cell = cell_of(module)
    if init not in SCHEMES:
        raise ValueError(f"init: given {init!r}, expected one of {', '.join(map(repr, SCHEMES))}")
    if init == "chrono":
        if "keep" not in cell.opens:
            raise ValueError(f"init: 'chrono' sets the biases of gates, and a {cell.name} has none")
        if not isinstance(t_max, int | float) or t_max <= 2:
            raise ValueError(
                f"t_max: the longest dependency in steps, more than 2, is needed for 'chrono'; given {t_max!r}"
            )
        if forget_bias is not None:
            raise ValueError("forget_bias: 'chrono' sets the forget gate's bias itself; give one of the two")
    elif t_max is not None:
        raise ValueError(f"t_max: is for init='chrono', given with init={init!r}")
    if forget_bias is not None and "forget_gate" not in cell.gates:
        raise ValueError(f"forget_bias: a {cell.name} has no forget gate")
    if not module.bias and (init == "chrono" or forget_bias is not None):
        name = "init: 'chrono'" if init == "chrono" else "forget_bias:"
        raise ValueError(f"{name} sets a bias, and the layer has none (bias=False)")


@torch.no_grad()
def apply(module: Any, init: str, t_max: float | None, forget_bias: float | None) -> None:
    """Set the parameters of every layer and direction, in place; those that a scheme does not name stay as they are.

    Args:
        module: a layer of unrolled.
        init: "torch" changes nothing; "orthogonal" makes the recurrent weights of each gate an orthogonal matrix
            (Saxe et al. 2014); "chrono" draws how long each unit remembers from 1 to `t_max` steps: the bias of the
            gate that keeps is log U(1, t_max - 1), that of the gate that writes its negative (Tallec & Ollivier 2018,
            equation 16).
        t_max: T_max of "chrono", in steps.
        forget_bias: the forget gate's bias (Jozefowicz et al. 2015): both of torch's biases together.
    """
    cell, hidden_size = cell_of(module), int(module.hidden_size)
    for suffix in layer_suffixes(module):
        weights = weights_of(module, suffix)
        if weights.ih.is_meta:
            continue
        if init == "orthogonal":
            for block in weights.hh.split(hidden_size):
                torch.nn.init.orthogonal_(block)
        if init == "chrono":
            assert t_max is not None
            (keep, kept), (write, _) = cell.opens["keep"], cell.opens["write"]
            drawn = torch.empty(hidden_size).uniform_(1, t_max - 1).log_().to(weights.ih)
            _set_bias(weights.bias_ih, weights.bias_hh, cell.rows(keep, hidden_size), drawn if kept else -drawn)
            if write != keep:
                _set_bias(weights.bias_ih, weights.bias_hh, cell.rows(write, hidden_size), -drawn)
        if forget_bias is not None:
            _set_bias(weights.bias_ih, weights.bias_hh, cell.rows("forget_gate", hidden_size), forget_bias)


def _set_bias(bias_ih: Tensor | None, bias_hh: Tensor | None, rows: slice, value: Tensor | float) -> None:
    """Give a gate's two biases, which are added, one sum."""
    assert bias_ih is not None
    assert bias_hh is not None
    bias_ih[rows] = value
    bias_hh[rows] = 0.0
