"""Calls of the Triton kernels: what each is given, and what large products add.

`forward`, `backward` and `misfit` have the interface of those of `cpu`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from unrolled.recurrence import call as calls
from unrolled.recurrence import products
from unrolled.recurrence.call import (
    KERNELS,
    Call,
    Forward,
    Gradients,
    Kind,
    contiguous,
    extra,
    rows_in_place,
    sizes,
    total_sizes,
)
from unrolled.recurrence.cells import CELLS, NO_MASKS, Masks, Weights
from unrolled.recurrence.gpu.available import MODES, WIDEST
from unrolled.recurrence.gpu.backward import backward as backward_kernel
from unrolled.recurrence.gpu.forward import forward as forward_kernel
from unrolled.recurrence.gpu.shares import LEAST, Processors, share_out

_WARPS = 4
# Few, so that programs take several groups of sequences in turn at small sizes too.
_INTERPRETED = Processors(4, 64 << 10)


def _precision(x: Tensor) -> str:
    """Of products, as Triton names it; torch's own switch tells that of float32."""
    if x.is_cpu:
        return "interpreted"
    if x.dtype is not torch.float32:
        return "tf32"  # of no meaning for halves, whose products are exact
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _processors(device: torch.device) -> Processors:
    if device.type == "cpu":
        return _INTERPRETED
    found: Any = torch.cuda.get_device_properties(device)
    return Processors(found.multi_processor_count, found.shared_memory_per_block_optin)


def _launched(kernel: Any, call: Call, passed: int, **arguments: Any) -> None:
    """Run a kernel over all steps: in one launch where its programs can meet, in one for each step where not.

    Triton's interpreter runs one program after another, so that they cannot.
    """
    (steps, batch, width), x, precision = sizes(call), call.x, _precision(call.x)
    shared = share_out(call.mode, width, batch, x.dtype, precision, _processors(x.device), passed=passed)
    meets = x.is_cuda and shared.slices > 1
    if meets:
        arguments["launch_cooperative_grid"] = True
    alone = shared.slices == 1 or meets
    of_device: AbstractContextManager[Any] = torch.cuda.device(x.device) if x.is_cuda else nullcontext()
    with of_device:
        for first, count in [(0, steps)] if alone else [(step, 1) for step in range(steps)]:
            kernel[(shared.slices, shared.columns)](
                **arguments,
                first=first,
                count=count,
                steps=steps,
                batch=batch,
                groups=shared.groups,
                CELL=call.mode,
                BLOCKS=KERNELS[call.mode].rows,
                H=width,
                ROWS=shared.rows,
                UNITS=shared.units,
                BLOCK_K=shared.block_k,
                RESIDENT=shared.resident,
                MEETS=meets,
                REVERSE=call.reverse,
                PRECISION=precision,
                num_warps=_WARPS,
                num_stages=shared.stages,
            )


def _given(call: Call) -> dict[str, Any]:
    """What both kernels are given of a call."""
    reset = contiguous(call.reset)
    found: dict[str, Any] = {
        "weight_hh": _aligned(call.weight_hh),
        "peephole": contiguous(extra(call, "peephole")),
        "lengths": contiguous(call.lengths),
        "reset": None if reset is None else reset.view(torch.uint8),
        "counters": torch.zeros(-(-call.x.size(1) // LEAST), dtype=torch.int32, device=call.x.device),
    }
    for name, mask in zip(Masks._fields, call.masks or NO_MASKS, strict=True):
        name = {"hidden": "hidden_mask", "candidate": "candidate_mask"}.get(name, name)
        rows = None if mask is None else rows_in_place(mask)
        step, row = (0, 0) if rows is None else rows.stride()[:2]
        found |= {name: rows, f"{name}_step": step, f"{name}_row": row}
    return found


def misfit(call: Call) -> str | None:
    """Why the kernels can't be given these tensors; None if they can."""
    if call.mode not in MODES or call.x.dim() != 3 or call.hidden.dim() != 2:
        return calls.misfit(call) or f"there is no kernel in Triton for {call.mode}"
    steps, batch, width = sizes(call)
    if call.x.dtype not in _FLOATS:
        return f"x must be float32, bfloat16 or float16, given {call.x.dtype}".replace("torch.", "")
    if width > WIDEST:
        return f"H can be {WIDEST} at most, given {width}"
    if max(steps * batch, batch * width) >= 1 << 31:
        return f"T * B and B * H must be below 2^31, given T = {steps}, B = {batch}, H = {width}"
    apart = {str(tensor.device) for tensor in (*call[:8], call.reset, *call.extras, *call.masks) if tensor is not None}
    if len(apart) > 1:
        return f"all tensors must be on one device, given {', '.join(sorted(apart))}"
    return calls.misfit(call, Kind(call.x.dtype, call.x.is_cuda))


_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def _aligned(tensor: Tensor) -> Tensor:
    """Contiguous from a multiple of 16 bytes on: for other places a slower kernel would be compiled."""
    found = tensor.resolve_neg().contiguous()
    return found.clone() if found.data_ptr() % 16 else found


def _float32(tensor: Tensor) -> Tensor:
    """A contiguous copy."""
    return tensor.resolve_neg().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def forward(call: Call, keep: bool) -> Forward:
    """All steps of a call; with `keep`, cells and gates of every step too, in float32."""
    (steps, batch, width), has_cell, stored = sizes(call), call.cell is not None, KERNELS[call.mode].stored * keep
    x, empty = call.x, call.x.new_empty
    # What is carried on past the product is in float32; other cells have their hidden state in what passes alone.
    hidden = _float32(call.hidden) if _carries_hidden(call) else None
    cell = None if call.cell is None else _float32(call.cell)
    output = empty((steps, batch, width))
    cells = empty((steps, batch, width), dtype=torch.float32) if has_cell and keep else None
    gates = empty((steps, batch, stored * width) if not steps * batch else 0, dtype=torch.float32)
    exchange = empty((2, batch, width))
    exchange[0].copy_(call.hidden)
    if steps * batch:
        weights = Weights(*call[3:7], *call.extras)
        with torch.autocast(x.device.type, enabled=False):
            gates_x = CELLS[call.mode].project(x, weights).contiguous()
        gates = _room_for_gates(gates_x, stored * width)
        _launched(
            forward_kernel,
            call,
            1,
            **_given(call),
            gates_x=gates_x,
            bias_hh=contiguous(call.bias_hh),
            hidden=hidden,
            cell=cell,
            exchange=exchange,
            output=output,
            cells=cells,
            gates=gates if stored else None,
            STORED=stored,
        )
    return Forward(
        output,
        exchange[steps % 2].clone(),
        empty(0) if cell is None else cell.to(x.dtype),
        empty(0, dtype=torch.float32) if cells is None else cells,
        gates if stored else empty(0, dtype=torch.float32),
    )


def _room_for_gates(gates_x: Tensor, columns: int) -> Tensor:
    """(T, B, columns) float32: where their pre-activations stand, if that is as large."""
    if gates_x.dtype is torch.float32 and gates_x.size(2) == columns:
        return gates_x
    return gates_x.new_empty((*gates_x.shape[:2], columns), dtype=torch.float32)


def _carries_hidden(call: Call) -> bool:
    """Whether the hidden state before a step goes into that after it by more than the product."""
    return call.mode in ("GRU", "LSTM_ZONEOUT")


def backward(
    call: Call,
    kept: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    *,
    need_x: bool,
    need_weights: bool,
    need_totals: bool,
) -> Gradients:
    """The gradients of a call: arguments as those of `cpu.backward`."""
    (steps, batch, width), has_cell = sizes(call), call.cell is not None
    if steps * batch == 0:
        return products.nothing_seen(call, grads, need_x, need_weights, need_totals)
    of_mode, x = KERNELS[call.mode], call.x
    # Without either, a gradient reaches the hidden state before a step through the product alone.
    carries = _carries_hidden(call) or call.lengths is not None
    output, cells, gates = (tensor.contiguous() for tensor in kept)
    grad_output = None if grads[0] is None else rows_in_place(grads[0])
    zeros = x.new_zeros((batch, width), dtype=torch.float32)
    grad_hidden = zeros if grads[1] is None else _float32(grads[1])
    grad_cell = None
    if has_cell:
        grad_cell = zeros.clone() if grads[2] is None else _float32(grads[2])
    grad_cells, grad_gates = map(contiguous, grads[3:])
    pre = x.new_empty((steps, batch, of_mode.pre * width))
    counts = [math.prod(shape) for shape in total_sizes(call)]
    totals = x.new_empty(sum(counts), dtype=torch.float32) if need_totals else None
    parts = [None] * 3 if totals is None else [part if part.numel() else None for part in totals.split(counts)]
    _launched(
        backward_kernel,
        call,
        of_mode.rows,
        **_given(call),
        initial_hidden=contiguous(call.hidden),
        initial_cell=contiguous(call.cell),
        output=output,
        cells=cells if has_cell else None,
        gates=gates if of_mode.stored else None,
        grad_output=grad_output,
        grad_output_step=0 if grad_output is None else grad_output.stride(0),
        grad_output_row=0 if grad_output is None else grad_output.stride(1),
        grad_cells=grad_cells,
        grad_gates=grad_gates,
        grad_hidden=grad_hidden,
        grad_cell=grad_cell,
        pre=pre,
        total_hidden=parts[0],
        total_cells=parts[1],
        total_gates=parts[2],
        STORED=of_mode.stored,
        PRE=of_mode.pre,
        CARRIES=carries,
    )
    with torch.autocast(x.device.type, enabled=False):
        found = products.large_products(call, output, cells, pre, need_x=need_x, need_weights=need_weights)
        through = _through_first_product(call, pre)
        grad_hidden = grad_hidden + through if carries else through
        if "peephole" in found:
            found["peephole"] = found["peephole"].to(x.dtype)  # its sums are formed with the cells, in float32
        if need_weights and call.bias_ih is not None:
            found |= _of_biases(call, pre)
    states = grad_hidden.to(x.dtype), None if grad_cell is None else grad_cell.to(x.dtype)
    return Gradients(None, *states, None, None, None, None, totals)._replace(**found)


def _through_first_product(call: Call, pre: Tensor) -> Tensor:
    """(B, H) of the initial hidden state: what the first step gives back through its product with the weights."""
    first = call.x.size(0) - 1 if call.reverse else 0
    given = torch.mm(pre[first, :, : call.weight_hh.size(0)], call.weight_hh)
    if call.masks and call.masks[0] is not None:
        given = given * call.masks[0][first]
    return given if call.reset is None else given.masked_fill(call.reset[first].unsqueeze(-1), 0)


def _of_biases(call: Call, pre: Tensor) -> dict[str, Tensor]:
    """Sums over all steps and sequences, in float32. A GRU's candidate has two parts: the input's stands last."""
    total = pre.sum((0, 1), dtype=torch.float32).to(pre.dtype)
    rows, width = call.weight_hh.size(0), call.hidden.size(1)
    of_input = torch.cat((total[: 2 * width], total[3 * width :])) if call.mode == "GRU" else total
    return {"bias_ih": of_input, "bias_hh": total[:rows].clone()}
