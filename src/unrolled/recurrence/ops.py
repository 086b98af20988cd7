"""The native kernels as torch operators: `unrolled::recurrence` and its backward, for autograd and for graphs.

`unroll` is what layers call. It goes straight to the kernels; while a graph is captured, the operator stands in it. A
backward that is to be differentiated itself, or is asked for under a transform of torch.func, is computed by the
reference.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from unrolled.recurrence import cpu, reference
from unrolled.recurrence.cells import CELLS, Cell, States, Weights
from unrolled.recurrence.result import Steps, Unrolled

_ARGUMENTS = (
    "Tensor x, Tensor hidden, Tensor? cell, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, "
    "Tensor? lengths, str mode, bool reverse"
)
_library = Library("unrolled", "DEF")
_library.define(
    f"recurrence({_ARGUMENTS}, bool keep) "
    "-> (Tensor output, Tensor final_hidden, Tensor final_cell, Tensor cells, Tensor gates)"
)
_library.define(
    f"recurrence_backward({_ARGUMENTS}, Tensor output, Tensor cells, Tensor gates, Tensor? grad_output, "
    "Tensor? grad_final_hidden, Tensor? grad_final_cell, Tensor? grad_cells, Tensor? grad_gates, bool need_x, "
    "bool need_weights) -> (Tensor x, Tensor hidden, Tensor cell, Tensor weight_ih, Tensor weight_hh, Tensor bias_ih, "
    "Tensor bias_hh)"
)


def _fitting(call: cpu.Call) -> cpu.Call:
    reason, lengths = cpu.misfit(call), call.lengths
    if reason is None and lengths is not None and not ((lengths >= 0) & (lengths <= call.x.size(0))).all():
        reason = f"lengths must be from 0 to the {call.x.size(0)} steps of x, given {lengths.tolist()}"
    if reason is not None:
        raise ValueError(f"unrolled::recurrence: {reason}")
    return call


def _forward_kernel(*arguments: Any) -> tuple[Tensor, ...]:
    return cpu.forward(_fitting(cpu.Call(*arguments[:10])), arguments[10])


def _forward_shapes(*arguments: Any) -> tuple[Tensor, ...]:
    call, keep = cpu.Call(*arguments[:10]), arguments[10]
    steps, batch, hidden_size = cpu.sizes(call)
    empty, stored = call.x.new_empty, cpu.KERNELS[call.mode].stored
    return (
        empty((steps, batch, hidden_size)),
        empty((batch, hidden_size)),
        empty((batch, hidden_size) if call.cell is not None else (0,)),
        empty((steps, batch, hidden_size) if call.cell is not None and keep else (0,)),
        empty((steps, batch, stored * hidden_size) if stored and keep else (0,)),
    )


def _backward_kernel(*arguments: Any) -> tuple[Tensor, ...]:
    call, kept, grads, (need_x, need_weights) = (
        _fitting(cpu.Call(*arguments[:10])),
        arguments[10:13],
        arguments[13:18],
        arguments[18:],
    )
    found = cpu.backward(call, kept, grads, need_x=need_x, need_weights=need_weights, need_totals=False)
    return tuple(call.x.new_empty(0) if gradient is None else gradient for gradient in found[:7])


def _backward_shapes(*arguments: Any) -> tuple[Tensor, ...]:
    call, need_x, need_weights = cpu.Call(*arguments[:10]), arguments[18], arguments[19]
    empty = call.x.new_empty

    def like(tensor: Tensor | None, wanted: bool = True) -> Tensor:
        return empty(tensor.shape if tensor is not None and wanted else (0,))

    return (
        like(call.x, need_x),
        like(call.hidden),
        like(call.cell),
        *(like(weight, need_weights) for weight in call[3:7]),
    )


class Taps:
    """A stand-in for the states and gates of one call, by which the gradient along all paths can be asked for.

    It enters the graph as an input of the call that adds nothing to it. Its gradient costs time and memory, so the
    backward forms it only inside `asked`.

    Attributes:
        tensor: (N,) zeros: hidden states, cells and gates of all steps, one after the other.
    """

    def __init__(self, call: cpu.Call) -> None:
        self.sizes = cpu.total_sizes(call)
        self.tensor = call.x.new_zeros(()).expand(sum(map(math.prod, self.sizes))).requires_grad_()
        self.wanted = False

    @contextmanager
    def asked(self) -> Iterator[None]:
        before, self.wanted = self.wanted, True
        try:
            yield
        finally:
            self.wanted = before

    def part(self, index: int, units: slice | None, tensor: Tensor) -> Tensor:
        """Hidden states, cells or gates (0, 1, 2) in a tensor like `tensor`: (..., N) -> (..., T, B, ·)."""
        first = sum(map(math.prod, self.sizes[:index]))
        size = self.sizes[index]
        found: Tensor = tensor[..., first : first + math.prod(size)].unflatten(-1, size)
        return found if units is None else found[..., units]

    def by_name(self, call: cpu.Call) -> dict[str, Tensor]:
        """The zeros that stand for each state and gate: name -> (T, B, H)."""
        cell, hidden_size = CELLS[call.mode], call.hidden.size(1)
        found = {name: self.part(index, None, self.tensor) for index, name in enumerate(cell.states)}
        return found | {gate: self.part(2, cell.rows(gate, hidden_size), self.tensor) for gate in cell.gates}


class _Recurrence(torch.autograd.Function):
    """The operator with its gradient. Where `open_`, cells and gates are outputs, and the taps' tensor is an input."""

    @staticmethod
    def forward(ctx: Any, direct: bool, open_: bool, taps: Taps | None, *inputs: Any) -> tuple[Tensor, ...]:
        arguments = inputs[:10]
        if direct:
            result: tuple[Tensor, ...] = cpu.forward(cpu.Call(*arguments), keep=True)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                result = torch.ops.unrolled.recurrence(*arguments, True)
        output, final_hidden, final_cell, cells, gates = result
        ctx.save_for_backward(*arguments[:8], output, cells, gates)
        ctx.mode, ctx.reverse, ctx.direct, ctx.taps = arguments[8], arguments[9], direct, taps
        ctx.set_materialize_grads(False)
        if open_:
            ctx.mark_non_differentiable(*(tensor for tensor in (final_cell, cells, gates) if tensor.dim() == 1))
            return tuple(result)
        return (output, final_hidden) if arguments[2] is None else (output, final_hidden, final_cell)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad[3:]
        call, kept = cpu.Call(*(*saved[:8], ctx.mode, ctx.reverse)), saved[8:]
        grads = grads + (None,) * (5 - len(grads))
        totals = ctx.taps is not None and ctx.taps.wanted
        if torch.is_grad_enabled() or any(map(_wrapped, grads)) or (totals and not ctx.direct):
            gradients = _by_reference(call, grads, needs, ctx.taps)
        else:
            need_x, need_weights = needs[0], any(needs[3:7])
            if ctx.direct:
                found: tuple[Tensor | None, ...] = cpu.backward(
                    call, kept, grads, need_x=need_x, need_weights=need_weights, need_totals=totals
                )
            else:
                found = torch.ops.unrolled.recurrence_backward(*call, *kept, *grads, need_x, need_weights)
            gradients = tuple(gradient if need else None for gradient, need in zip(found[:7], needs, strict=False))
            if totals:
                gradients += (None, None, None, found[7])
        return None, None, None, *gradients, *(None,) * (len(needs) - len(gradients))


def _wrapped(tensor: Tensor | None) -> bool:
    """Whether a transform, such as the one behind `is_grads_batched`, has wrapped a tensor."""
    functorch = torch._C._functorch
    return tensor is not None and (
        functorch.is_functorch_wrapped_tensor(tensor)
        or functorch.is_legacy_batchedtensor(tensor)
        or tensor._is_zerotensor()
    )


def _by_reference(
    call: cpu.Call, grads: tuple[Tensor | None, ...], needs: tuple[bool, ...], taps: Taps | None
) -> tuple[Tensor | None, ...]:
    """The gradients of the call's tensors and of the taps, by the reference: they can be differentiated.

    The taps' zeros are added even where their gradient is not asked for now: it may be asked of the result.
    """
    cell, inputs, again = CELLS[call.mode], call[:7], torch.is_grad_enabled()
    with torch.enable_grad():
        # New nodes, so that no gradient takes a way from one input to another outside of this call.
        x, hidden, state, *weights = new = [
            tensor.view_as(tensor) if tensor is not None and need else tensor
            for tensor, need in zip(inputs, needs[:7], strict=True)
        ]
        assert x is not None
        assert hidden is not None
        added = taps.by_name(call) if taps else {}
        result = reference.unroll(
            cell,
            x,
            (hidden,) if state is None else (hidden, state),
            Weights(*weights),  # type: ignore[arg-type]
            reverse=call.reverse,
            lengths=call.lengths,
            keep=cell.names,
            edit=(lambda t, name, value: value + added[name][t]) if taps else None,
        )
        final_cell = result.final[1] if len(result.final) > 1 else None
        cells = result.steps["cell"].values if final_cell is not None else None
        outputs = [result.output, result.final[0], final_cell, cells]
        pairs = list(zip(outputs, grads[:4], strict=True))
        if grads[4] is not None:
            # The operator's fourth block of a GRU is no gate. No layer shows it, and the reference does not have it.
            if not _wrapped(grads[4]) and grads[4][..., len(cell.gates) * hidden.size(1) :].any():
                raise NotImplementedError(
                    "unrolled::recurrence: no second derivative by the fourth block of a GRU's gates"
                )
            for gate in cell.gates:
                pairs.append((result.steps[gate].values, grads[4][..., cell.rows(gate, hidden.size(1))]))
        # Without weights or inputs that want gradients, some outputs may depend on nothing that does.
        used = [(one, grad) for one, grad in pairs if one is not None and grad is not None and one.requires_grad]
        wanted = [tensor for tensor, need in zip(new, needs[:7], strict=True) if tensor is not None and need]
        if taps and taps.wanted:
            wanted.append(taps.tensor)
        found: Iterator[Tensor | None] = iter(
            torch.autograd.grad(
                [tensor for tensor, _ in used],
                wanted,
                [grad for _, grad in used],
                create_graph=again,
                allow_unused=True,
            )
            if used
            else [None] * len(wanted)
        )
    gradients = (*(next(found) if need else None for need in needs[:7]), None, None, None)
    return (*gradients, next(found)) if taps and taps.wanted else gradients


def _apply(*inputs: Any) -> tuple[Tensor, ...]:
    result: tuple[Tensor, ...] = _Recurrence.apply(*inputs)  # type: ignore[no-untyped-call]
    return result


def _autograd(*arguments: Any) -> tuple[Tensor, ...]:
    if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments):
        return _apply(False, True, None, *arguments[:10])
    with torch._C._AutoDispatchBelowAutograd():
        return tuple(torch.ops.unrolled.recurrence(*arguments))


_library.impl("recurrence", _forward_kernel, "CPU")
_library.impl("recurrence", _autograd, "Autograd")
_library.impl("recurrence_backward", _backward_kernel, "CPU")
torch.library.register_fake("unrolled::recurrence", _forward_shapes, lib=_library)
torch.library.register_fake("unrolled::recurrence_backward", _backward_shapes, lib=_library)

_PLAIN = {Tensor, torch.nn.Parameter}


def unroll(
    cell: Cell,
    mode: str,
    x: Tensor,
    initial: States,
    weights: Weights,
    *,
    reverse: bool,
    lengths: Tensor | None,
    keep: Collection[str],
) -> Unrolled:
    """Take a layer over a sequence by the kernels: as `reference.unroll`, with the cell's torch mode beside it."""
    call = cpu.Call(
        x,
        initial[0],
        initial[1] if len(initial) > 1 else None,
        *weights[:4],
        lengths=lengths,
        mode=mode,
        reverse=reverse,
    )
    # While a graph is captured, and for tensors of other classes, the operator has to be seen.
    direct = (
        not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and all(tensor is None or type(tensor) in _PLAIN for tensor in call[:7])
    )
    if direct and cpu.misfit(call) is not None:
        # Weights that were replaced by others: what can be done with them, or the error, is the reference's.
        return reference.unroll(cell, x, initial, weights, reverse=reverse, lengths=lengths, keep=keep)
    taps = None
    result: tuple[Tensor, ...]
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in call[:7]):
        if keep:
            taps = Taps(call)
            result = _apply(direct, True, taps, *call, taps.tensor)
        elif direct:
            result = _apply(True, False, None, *call)
        else:
            result = torch.ops.unrolled.recurrence(*call, True)
    else:
        store = any(name != "hidden" for name in keep)
        result = cpu.forward(call, keep=store) if direct else torch.ops.unrolled.recurrence(*call, store)
    final = result[1:3] if len(initial) > 1 else result[1:2]
    steps = _steps(cell, call.hidden.size(1), keep, result[0], result[3], result[4], taps) if keep else {}
    return Unrolled(result[0], tuple(final), steps)


def _steps(
    cell: Cell, hidden_size: int, keep: Collection[str], output: Tensor, cells: Tensor, gates: Tensor, taps: Taps | None
) -> dict[str, Steps]:
    found: dict[str, Steps] = {}
    for name in keep:
        index = 2 if name in cell.gates else cell.states.index(name)
        # The output is the user's, who may change it in place.
        whole = (output.clone() if index == 0 else cells) if index < 2 else gates
        units = cell.rows(name, hidden_size) if index == 2 else None
        if taps is None:
            found[name] = Steps(whole, (whole,), units)
        else:
            found[name] = Steps(whole, (taps.tensor,), units, partial(taps.part, index, units), taps.asked)
    return found
