"""Calls without gradients by a short way to the kernels.

In serving or acting, one step at a time, all that stands around a kernel costs several times the kernel.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from unrolled.observation import observed
from unrolled.recurrence import cpu, dispatch
from unrolled.structure import parameter_names

_PLAIN = ("RNN_TANH", "RNN_RELU", "GRU", "LSTM")
_LAYER_NUMBERS = ctypes.sizeof(cpu._LayerCall) // 8
# As `cpu._ForwardCall`: what the layer has no use for here stays zero.
_UP_TO_OUTPUT = len(cpu._LayerCall._fields_[: [name for name, _ in cpu._LayerCall._fields_].index("cells")])
_CALL = struct.Struct(f"{_UP_TO_OUTPUT}q{8 * (_LAYER_NUMBERS - _UP_TO_OUTPUT)}x2q")


def infer(module: Any, x: Any, hx: Any, reset: Any) -> Any:
    """The result of a call of a plain layer without gradients; None if the call is another one.

    Args:
        module: a layer of unrolled.
        x: its input, (T, B, I), or (B, T, I) with batch_first.
        hx: its states, each (1, B, H), or None.
        reset: (T, B) or (B, T) bool, or None.

    Whatever is not as it mostly is goes the long way, which says what is wrong where something is.
    """
    mode = module.mode
    if type(x) is not Tensor or x.dim() != 3 or x.layout is not torch.strided or mode not in _PLAIN:
        return None
    if module.num_layers != 1 or module.bidirectional:
        return None
    steps, batch, inputs = x.shape
    step, row, gap = x.stride()
    if module.batch_first:
        steps, batch, step, row = batch, steps, row, step
    width = module.hidden_size
    if steps == 0 or batch == 0 or inputs != module.input_size or (gap != 1 and inputs != 1) or module.proj_size:
        return None
    # Before any tensor is looked into: those that a transform has wrapped have no memory.
    if not dispatch.unhindered() or observed():
        return None
    state = (1, batch, width)
    if hx is None:
        hidden, cell = x.new_zeros(state), x.new_zeros(state) if mode == "LSTM" else None
    elif mode != "LSTM":
        hidden, cell = hx, None
    elif type(hx) is tuple and len(hx) == 2:
        hidden, cell = hx
    else:
        return None
    parameters = module._parameters
    ih, hh, bias_ih, bias_hh, *_ = parameter_names(mode, "l0")
    weight_ih, weight_hh = parameters.get(ih), parameters.get(hh)
    rows = cpu.KERNELS[mode].rows * width
    tensors = [x, hidden, weight_ih, weight_hh]
    if module.bias:
        first, second = parameters.get(bias_ih), parameters.get(bias_hh)
        if type(first) is not Parameter or type(second) is not Parameter:
            return None
        if first.shape != (rows,) or second.shape != (rows,):
            return None
        tensors += (first, second)
    if cell is not None:
        tensors.append(cell)
    if (
        type(hidden) is not Tensor
        or hidden.shape != state
        or (cell is not None and (type(cell) is not Tensor or cell.shape != state))
        or type(weight_ih) is not Parameter
        or type(weight_hh) is not Parameter
        or weight_ih.shape != (rows, inputs)
        or weight_hh.shape != (rows, width)
    ):
        return None
    addresses = []
    for tensor in tensors:
        if (
            tensor.dtype is not torch.float32
            or not tensor.is_cpu
            or tensor.is_neg()
            or tensor._is_zerotensor()
            or (tensor is not x and not tensor.is_contiguous())
        ):
            return None
        addresses.append(tensor.data_ptr())
    if reset is not None:
        if type(reset) is not Tensor or reset.dtype is not torch.bool or not reset.is_cpu or reset.shape != x.shape[:2]:
            return None
        reset = (reset.t() if module.batch_first else reset).contiguous()
    output, final_hidden = x.new_empty((steps, batch, width)), torch.empty_like(hidden)
    final_cell = None if cell is None else torch.empty_like(cell)
    reset_at = 0 if reset is None else reset.data_ptr()
    layer = (cpu.KERNELS[mode].number, steps, batch, inputs, width, 0, torch.get_num_threads(), 0, reset_at)
    x_at, hidden_at, ih_at, hh_at, *rest = addresses
    cell_at = rest.pop() if cell is not None else 0
    biases_at = rest or (0, 0)
    places = (x_at, step, row, ih_at, hh_at, *biases_at, hidden_at, cell_at, output.data_ptr())
    ends = (final_hidden.data_ptr(), 0 if final_cell is None else final_cell.data_ptr())
    cpu.kernels().forward_packed(_CALL.pack(*layer, *places, *ends))
    output = output.transpose(0, 1) if module.batch_first else output
    return output, final_hidden if final_cell is None else (final_hidden, final_cell)
