"""The gradients that are left to PyTorch after the kernels' loop: large products over all steps at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from unrolled.recurrence.call import KERNELS, Call, Gradients, extra, projects_apart, sizes, total_sizes
from unrolled.recurrence.cells import Weights

# Numbers of a piece of a large product: it stays in a core's cache, and no fresh pages are needed for the whole.
_PIECE = 1 << 18


def _pieces(call: Call) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """Some rows of the input (R, I) with their projection (R, G * H), and where they stand among all T * B rows."""
    x = call.x.reshape(-1, call.x.size(2))
    count = max(64, _PIECE // call.weight_ih.size(0))
    memory = x.new_empty((min(count, x.size(0)), call.weight_ih.size(0)))
    for first in range(0, x.size(0), count):
        rows = slice(first, min(first + count, x.size(0)))
        yield x[rows], torch.mm(x[rows], call.weight_ih.t(), out=memory[: rows.stop - first]), rows


def projected(call: Call, to: Tensor) -> None:
    """Fill (T, B, G * H) with the projected and normalised input, as `cells._project_normalised` forms it."""
    flat, shape = to.view(-1, to.size(2)), call.weight_ih.shape[:1]
    for _, product, rows in _pieces(call):
        flat[rows] = torch.native_layer_norm(product, shape, extra(call, "norm_ih"), call.bias_ih, 1e-5)[0]


def through_projection(call: Call, pre: Tensor, *, need_x: bool, need_weights: bool) -> dict[str, Any]:
    """The gradients of what the projected input was formed from; its product is formed again."""
    if not (need_x or need_weights):
        return {}
    gains, bias, shape = extra(call, "norm_ih"), call.bias_ih, call.weight_ih.shape[:1]
    grads = pre.view(-1, pre.size(2))[:, shape[0] :]
    wanted = (True, need_weights, need_weights and bias is not None)
    found: dict[str, Any] = {"x": torch.empty_like(call.x, memory_format=torch.contiguous_format)} if need_x else {}
    if need_weights:
        found |= {"weight_ih": torch.zeros_like(call.weight_ih), "norm_ih": torch.zeros_like(call.weight_ih[:, 0])}
        found["bias_ih"] = None if bias is None else torch.zeros_like(bias)
    for x, product, rows in _pieces(call):
        _, mean, scale = torch.native_layer_norm(product, shape, gains, bias, 1e-5)
        grad, *sums = torch.ops.aten.native_layer_norm_backward(
            grads[rows], product, shape, mean, scale, gains, bias, wanted
        )
        if need_x:
            torch.mm(grad, call.weight_ih, out=found["x"].view(-1, x.size(1))[rows])
        if need_weights:
            found["weight_ih"].addmm_(grad.t(), x)
            for name, one in zip(("norm_ih", "bias_ih"), sums, strict=True):
                if found[name] is not None:
                    found[name] += one
    return found


def large_products(
    call: Call, output: Tensor, cells: Tensor, pre: Tensor, *, need_x: bool, need_weights: bool
) -> dict[str, Any]:
    """The gradients of x and of the weights from that of the pre-activations, over all steps at once."""
    steps, batch, hidden_size = sizes(call)
    found: dict[str, Any] = {}
    if need_weights:
        of_hidden = pre[..., : KERNELS[call.mode].rows * hidden_size]
        found["weight_hh"] = _product_with_states_before(call, output, of_hidden)
        if extra(call, "peephole") is not None:
            found["peephole"] = _peephole_gradient(call, cells, pre)
    if projects_apart(call):
        return found
    rows = pre.view(steps * batch, -1)
    # A GRU's candidate has two parts: the recurrent one stands third, the input's fourth.
    gru = call.mode == "GRU"
    blocks = (2 * hidden_size, hidden_size) if gru else (rows.size(1),)
    of_input = (rows[:, : 2 * hidden_size], rows[:, 3 * hidden_size :]) if gru else (rows,)
    if need_x:
        first, *others = zip(of_input, call.weight_ih.split(blocks), strict=True)
        grad_x = torch.mm(*first)
        for part, weight in others:
            grad_x.addmm_(part, weight)
        found["x"] = grad_x.view(call.x.shape)
    if need_weights:
        x = call.x.reshape(steps * batch, -1)
        found["weight_ih"] = grad_ih = torch.empty_like(call.weight_ih)
        for part, to in zip(of_input, grad_ih.split(blocks), strict=True):
            torch.mm(part.t(), x, out=to)
    return found


def _product_with_states_before(call: Call, output: Tensor, pre: Tensor) -> Tensor:
    """The sum over all steps of pre (B, G * H) with the hidden state before the step (B, H)."""
    steps, batch, _ = sizes(call)
    mask = call.masks[0] if call.masks else None
    if mask is not None or call.reset is not None or (call.reverse and call.lengths is not None):
        before = _states_before(call, output, call.hidden)
        if mask is not None:
            before *= mask
        return torch.mm(pre.reshape(steps * batch, -1).t(), before.view(steps * batch, -1))
    later, earlier = (pre[:-1], output[1:]) if call.reverse else (pre[1:], output[:-1])
    grad = torch.mm(pre[-1 if call.reverse else 0].t(), call.hidden)
    return grad.addmm_(later.flatten(0, 1).t(), earlier.flatten(0, 1)) if steps > 1 else grad


def _states_before(call: Call, states: Tensor, initial: Tensor) -> Tensor:
    """(T, B, H) a state before each step, from that after it: a copy."""
    if not call.reverse:
        before = torch.cat((initial.unsqueeze(0), states[:-1]))
    elif call.lengths is None:
        before = torch.cat((states[1:], initial.unsqueeze(0)))
    else:
        # Sequences begin at their last step, each from its initial state.
        before = torch.cat((states[1:], torch.zeros_like(states[:1])))
        before[(call.lengths - 1).clamp(min=0), torch.arange(states.size(1), device=states.device)] = initial
    return before if call.reset is None else before.masked_fill_(call.reset.unsqueeze(-1), 0)


def _peephole_gradient(call: Call, cells: Tensor, pre: Tensor) -> Tensor:
    """(3 * H,): the input and forget gates saw the cell state before the step, the output gate the one after it."""
    assert call.cell is not None
    seen = _states_before(call, cells, call.cell.to(cells.dtype))
    into, forget, _, out = pre.chunk(4, dim=-1)
    return torch.cat([(grad * cell).sum((0, 1)) for grad, cell in ((into, seen), (forget, seen), (out, cells))])


def nothing_seen(
    call: Call, grads: Sequence[Tensor | None], need_x: bool, need_weights: bool, need_totals: bool
) -> Gradients:
    """The gradients of a call without steps or without sequences: those of the final states are the initial ones'."""

    def zeros(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else call.x.new_zeros(tensor.shape)

    hidden, cell = (
        zeros(state) if grad is None else grad.clone() for state, grad in zip(call[1:3], grads[1:3], strict=True)
    )
    assert hidden is not None
    ih, hh, bias_ih, bias_hh = (zeros(weight) if need_weights else None for weight in call[3:7])
    totals = call.x.new_zeros(sum(map(math.prod, total_sizes(call)))) if need_totals else None
    found = Gradients(zeros(call.x) if need_x else None, hidden, cell, ih, hh, bias_ih, bias_hh, totals)
    if not need_weights:
        return found
    own: dict[str, Any] = {name: zeros(extra(call, name)) for name in Weights._fields[5:]}  # all but the projection
    return found._replace(**own)
