"""The recurrence as torch operators: `unrolled::recurrence` and its backward, for autograd and for graphs.

`unroll` is what layers call. It goes straight to the kernels; while a graph is captured, the operator stands in it,
which computes by the kernels what they take and by the reference the rest. A backward that is to be differentiated
itself, or is asked for under a transform of torch.func, is computed by the reference.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.library import Library

from unrolled.recurrence import cpu, dispatch, reference
from unrolled.recurrence.cells import CELLS, NO_MASKS, Cell, Masks, States, Weights
from unrolled.recurrence.gpu import available
from unrolled.recurrence.result import Steps, Unrolled

_ARGUMENTS = (
    "Tensor x, Tensor hidden, Tensor? cell, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, "
    "Tensor? lengths, str mode, bool reverse"
)
_EXTRAS = Weights._fields[4:]
_REST = ", ".join(f"Tensor? {name}=None" for name in ("reset", *_EXTRAS, *(f"{name}_mask" for name in Masks._fields)))
_library = Library("unrolled", "DEF")
_library.define(
    f"recurrence({_ARGUMENTS}, bool keep, {_REST}) "
    "-> (Tensor output, Tensor final_hidden, Tensor final_cell, Tensor cells, Tensor gates)"
)
_library.define(
    f"recurrence_backward({_ARGUMENTS}, Tensor output, Tensor cells, Tensor gates, Tensor? grad_output, "
    "Tensor? grad_final_hidden, Tensor? grad_final_cell, Tensor? grad_cells, Tensor? grad_gates, bool need_x, "
    f"bool need_weights, {_REST}) -> Tensor[]"
)

# What of a call can be differentiated for comes first: x, states and weights.
_LEADING = 7


def _call(arguments: Sequence[Any], rest: Sequence[Any]) -> cpu.Call:
    """A call from the operator's arguments; trailing ones that are None may be missing."""
    reset, *others = rest or (None,)
    others += [None] * (len(_EXTRAS) + len(Masks._fields) - len(others))
    extras, masks = tuple(others[: len(_EXTRAS)]), tuple(others[len(_EXTRAS) :])
    return cpu.Call._make((*arguments[:10], reset, _some(extras), _some(masks)))


def _some(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """Nothing where there is none."""
    return () if all(tensor is None for tensor in tensors) else tensors


def _rest(call: cpu.Call) -> tuple[Tensor | None, ...]:
    """The operator's last arguments."""
    return (call.reset, *(call.extras or (None,) * len(_EXTRAS)), *call.masks)


def _differentiable(call: cpu.Call) -> tuple[Tensor | None, ...]:
    leading: Any = call[:_LEADING]
    return (*leading, *call.extras)


class Kernels(Protocol):
    """What computes calls by kernels: `cpu`, or `gpu.launch`."""

    def misfit(self, call: cpu.Call) -> str | None: ...

    def forward(self, call: cpu.Call, keep: bool) -> cpu.Forward: ...

    def backward(
        self,
        call: cpu.Call,
        kept: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        *,
        need_x: bool,
        need_weights: bool,
        need_totals: bool,
    ) -> cpu.Gradients: ...


def kernels_of(name: str) -> Kernels:
    """The kernels of a backend, "cpu" or "triton". Those of Triton take half a second to import."""
    if name == "triton":
        from unrolled.recurrence.gpu import launch

        return launch
    return cpu


def _chosen(call: cpu.Call) -> Kernels | None:
    """The kernels by which the operator computes a call; None if the reference does."""
    projects, forced = bool(call.extras) and call.extras[0] is not None, dispatch.forced()
    if projects or forced == "reference" or (call.mode in CELLS and call.mode not in cpu.KERNELS):
        return None
    if forced == "triton" and available.refusal(call.x.device) is None:
        kernels = kernels_of("triton")
        if kernels.misfit(call) is None:
            return kernels
    return cpu if call.x.dtype is torch.float32 and call.x.is_cpu and cpu.missing() is None else None


def _fitting(call: cpu.Call, kernels: Kernels | None) -> cpu.Call:
    reason, lengths, steps = kernels.misfit(call) if kernels else None, call.lengths, call.x.size(0)
    # On a GPU they are checked by the layers, without waiting for it.
    in_reach = None if lengths is None or lengths.is_cuda else lengths
    if reason is None and in_reach is not None and not ((in_reach >= 0) & (in_reach <= steps)).all():
        reason = f"lengths must be from 0 to the {steps} steps of x, given {in_reach.tolist()}"
    if reason is not None:
        raise ValueError(f"unrolled::recurrence: {reason}")
    return call


def _stored(mode: str) -> int:
    """How many blocks of gates are kept."""
    return cpu.KERNELS[mode].stored if mode in cpu.KERNELS else len(CELLS[mode].gates)


def _width(call: cpu.Call) -> int:
    """H; the hidden state may be projected to another size."""
    return call.weight_hh.size(0) // CELLS[call.mode].blocks


def _forward_kernel(*arguments: Any) -> tuple[Tensor, ...]:
    call, keep = _call(arguments, arguments[11:]), arguments[10]
    kernels = _chosen(call)
    _fitting(call, kernels)
    if kernels:
        return kernels.forward(call, keep)
    with torch.no_grad():
        return _reference_forward(call, keep)


def _unrolled(call: cpu.Call, tensors: Sequence[Any], **options: Any) -> Unrolled:
    """The call by the reference, with other tensors in the place of `_differentiable(call)`.

    Halves are computed in float32, as what is kept of their steps is.
    """
    given = call.x.dtype
    inside = _kept_dtype(given)
    x, hidden, cell, *weights = (one.to(inside) if one is not None and one.dtype is given else one for one in tensors)
    result = reference.unroll(
        CELLS[call.mode],
        x,
        (hidden,) if cell is None else (hidden, cell),
        Weights(*weights),
        reverse=call.reverse,
        lengths=call.lengths,
        reset=call.reset,
        masks=Masks(*(None if mask is None else mask.to(inside) for mask in call.masks)),
        **options,
    )
    if inside is given:
        return result
    return replace(result, output=result.output.to(given), final=tuple(state.to(given) for state in result.final))


def _kept_dtype(given: torch.dtype) -> torch.dtype:
    """Of cells and gates."""
    return torch.float32 if given in (torch.bfloat16, torch.float16) else given


def _reference_forward(call: cpu.Call, keep: bool) -> tuple[Tensor, ...]:
    cell = CELLS[call.mode]
    result = _unrolled(call, _differentiable(call), keep=cell.names if keep else ())
    nothing = call.x.new_empty(0, dtype=_kept_dtype(call.x.dtype))
    cells = result.steps["cell"].values if keep and "cell" in cell.states else nothing
    gates = nothing
    if keep and cell.gates:
        blocks = [result.steps[gate].values for gate in cell.gates]
        blocks += [torch.zeros_like(blocks[0])] * (_stored(call.mode) - len(blocks))
        gates = torch.cat(blocks, dim=-1)
    final_cell = result.final[1].clone() if len(result.final) > 1 else call.x.new_empty(0)
    return result.output, result.final[0].clone(), final_cell, cells, gates


def _forward_shapes(*arguments: Any) -> tuple[Tensor, ...]:
    if "torch.onnx._internal.exporter" in sys.modules and torch.onnx.is_in_onnx_export():
        # An exporter that was refused tries other ways of tracing, in some of which a layer can't tell that it is one.
        raise ValueError("ONNX has no operator for this call of a recurrent layer; torch.export takes it")
    call, keep = _call(arguments, arguments[11:]), arguments[10]
    (steps, batch, _), hidden_size = call.x.shape, call.hidden.size(1)
    empty, stored, width, kept = call.x.new_empty, _stored(call.mode), _width(call), _kept_dtype(call.x.dtype)
    return (
        empty((steps, batch, hidden_size)),
        empty((batch, hidden_size)),
        empty((batch, width) if call.cell is not None else (0,)),
        empty((steps, batch, width) if call.cell is not None and keep else (0,), dtype=kept),
        empty((steps, batch, stored * width) if stored and keep else (0,), dtype=kept),
    )


def _backward_kernel(*arguments: Any) -> list[Tensor]:
    call, kept, grads, (need_x, need_weights) = (
        _call(arguments, arguments[20:]),
        arguments[10:13],
        arguments[13:18],
        arguments[18:20],
    )
    kernels = _chosen(call)
    _fitting(call, kernels)
    found: Sequence[Tensor | None]
    if kernels:
        gradients = kernels.backward(call, kept, grads, need_x=need_x, need_weights=need_weights, need_totals=False)
        found = (*gradients[:_LEADING], *gradients.extras(call))
    else:
        with torch.no_grad():
            needs = (need_x, True, True) + (need_weights,) * (4 + len(call.extras))
            found = _by_reference(call, grads, needs, None)
    # No two results may share memory.
    return [
        call.x.new_empty(0) if gradient is None else gradient if kernels else gradient.clone() for gradient in found
    ]


def _backward_shapes(*arguments: Any) -> list[Tensor]:
    call, need_x, need_weights = _call(arguments, arguments[20:]), arguments[18], arguments[19]
    empty = call.x.new_empty

    def like(tensor: Tensor | None, wanted: bool = True) -> Tensor:
        return empty(tensor.shape if tensor is not None and wanted else (0,))

    return [
        like(call.x, need_x),
        like(call.hidden),
        like(call.cell),
        *(like(weight, need_weights) for weight in _differentiable(call)[3:]),
    ]


class Taps:
    """A stand-in for the states and gates of one call, by which the gradient along all paths can be asked for.

    It enters the graph as an input of the call that adds nothing to it. Its gradient costs time and memory, so the
    backward forms it only inside `asked`.

    Attributes:
        tensor: (N,) zeros: hidden states, cells and gates of all steps, one after the other.
    """

    def __init__(self, call: cpu.Call) -> None:
        self.sizes = cpu.total_sizes(call)
        zero = call.x.new_zeros((), dtype=_kept_dtype(call.x.dtype))
        self.tensor = zero.expand(sum(map(math.prod, self.sizes))).requires_grad_()
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

    def of_sources(self, index: int, units: slice | None, gradients: Sequence[Tensor]) -> Tensor:
        """`part` of the gradient of the one source."""
        return self.part(index, units, gradients[0])

    def by_name(self, call: cpu.Call) -> dict[str, Tensor]:
        """The zeros that stand for each state and gate: name -> (T, B, H)."""
        cell, hidden_size = CELLS[call.mode], call.hidden.size(1)
        found = {name: self.part(index, None, self.tensor) for index, name in enumerate(cell.states)}
        return found | {gate: self.part(2, cell.rows(gate, hidden_size), self.tensor) for gate in cell.gates}


class _Recurrence(torch.autograd.Function):
    """The operator with its gradient. Where `open_`, cells and gates are outputs, and the taps' tensor is an input.

    `direct` are the kernels that are called without the operator, None if it is called; `inputs` are what can be
    differentiated for, `rest` is the rest of the call.
    """

    @staticmethod
    def forward(
        ctx: Any, direct: Kernels | None, open_: bool, taps: Taps | None, tap: Tensor | None, rest: _Rest, *inputs: Any
    ) -> tuple[Tensor, ...]:
        call = _joined(inputs, rest)
        if direct:
            result: tuple[Tensor, ...] = direct.forward(call, True)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                result = torch.ops.unrolled.recurrence(*call[:10], True, *_rest(call))
        output, final_hidden, final_cell, cells, gates = result
        ctx.save_for_backward(*inputs, call.lengths, call.reset, *call.masks, output, cells, gates)
        ctx.mode, ctx.reverse, ctx.direct, ctx.taps, ctx.masks = call.mode, call.reverse, direct, taps, len(call.masks)
        ctx.set_materialize_grads(False)
        if open_:
            ctx.mark_non_differentiable(*(tensor for tensor in (final_cell, cells, gates) if tensor.dim() == 1))
            return tuple(result)
        return (output, final_hidden) if call.cell is None else (output, final_hidden, final_cell)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad[_BEFORE:]
        count, saved = len(needs), ctx.saved_tensors
        lengths, reset, *masks = saved[count : count + 2 + ctx.masks]
        call = _joined(saved[:count], (lengths, ctx.mode, ctx.reverse, reset, tuple(masks)))
        kept = saved[count + 2 + ctx.masks :]
        grads = grads + (None,) * (5 - len(grads))
        totals = ctx.taps is not None and ctx.taps.wanted
        total: Tensor | None = None
        gradients: Sequence[Tensor | None]
        if torch.is_grad_enabled() or any(map(_wrapped, grads)) or (totals and not ctx.direct):
            dispatch.note("a derivative is taken through a backward (create_graph, vmap, ...)")
            *gradients, total = (*_by_reference(call, grads, needs, ctx.taps), None)[: count + 1]
        else:
            need_x, need_weights = needs[0], any(needs[3:])
            if ctx.direct:
                found = ctx.direct.backward(
                    call, kept, grads, need_x=need_x, need_weights=need_weights, need_totals=totals
                )
                gradients, total = (*found[:_LEADING], *found.extras(call)), found.totals
            else:
                gradients = torch.ops.unrolled.recurrence_backward(
                    *call[:10], *kept, *grads, need_x, need_weights, *_rest(call)
                )
            gradients = tuple(gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
        return None, None, None, total if totals else None, None, *gradients


_BEFORE = 5  # arguments of `_Recurrence` before those that can be differentiated for

# lengths, mode, reverse, reset, masks
_Rest = tuple[Tensor | None, str, bool, Tensor | None, tuple[Tensor | None, ...]]


def _joined(inputs: Sequence[Any], rest: _Rest) -> cpu.Call:
    """The call of what can be differentiated for and the rest."""
    return cpu.Call._make((*inputs[:_LEADING], *rest[:4], tuple(inputs[_LEADING:]), rest[4]))


def _wrapped(tensor: Tensor | None) -> bool:
    """Whether a transform, such as the one behind `is_grads_batched`, has wrapped a tensor."""
    functorch = torch._C._functorch
    return tensor is not None and (
        functorch.is_functorch_wrapped_tensor(tensor)
        or functorch.is_legacy_batchedtensor(tensor)
        or tensor._is_zerotensor()
    )


def _by_reference(
    call: cpu.Call, grads: Sequence[Tensor | None], needs: Sequence[bool], taps: Taps | None
) -> tuple[Tensor | None, ...]:
    """The gradients of what can be differentiated for, and of the taps, by the reference: they can be differentiated.

    The taps' zeros are added even where their gradient is not asked for now: it may be asked of the result.
    """
    cell, again = CELLS[call.mode], torch.is_grad_enabled()
    with torch.enable_grad():
        # New nodes, so that no gradient takes a way from one input to another outside of this call.
        new = [
            (tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_())
            if tensor is not None and need
            else tensor
            for tensor, need in zip(_differentiable(call), needs, strict=True)
        ]
        added = taps.by_name(call) if taps else {}
        result = _unrolled(
            call, new, keep=cell.names, edit=(lambda t, name, value: value + added[name][t]) if taps else None
        )
        final_cell = result.final[1] if len(result.final) > 1 else None
        cells = result.steps["cell"].values if final_cell is not None else None
        outputs = [result.output, result.final[0], final_cell, cells]
        pairs = list(zip(outputs, grads[:4], strict=True))
        if grads[4] is not None:
            width = _width(call)
            # The operator's fourth block of a GRU is no gate. No layer shows it, and the reference does not have it.
            if not _wrapped(grads[4]) and grads[4][..., len(cell.gates) * width :].any():
                raise NotImplementedError(
                    "unrolled::recurrence: no second derivative by the fourth block of a GRU's gates"
                )
            for gate in cell.gates:
                pairs.append((result.steps[gate].values, grads[4][..., cell.rows(gate, width)]))
        # Without weights or inputs that want gradients, some outputs may depend on nothing that does.
        used = [(one, grad) for one, grad in pairs if one is not None and grad is not None and one.requires_grad]
        wanted = [tensor for tensor, need in zip(new, needs, strict=True) if tensor is not None and need]
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
    gradients = tuple(
        next(found) if tensor is not None and need else None for tensor, need in zip(new, needs, strict=True)
    )
    return (*gradients, next(found)) if taps and taps.wanted else gradients


def _apply(direct: Kernels | None, open_: bool, taps: Taps | None, call: cpu.Call) -> tuple[Tensor, ...]:
    rest = (*call[_LEADING:10], call.reset, call.masks)
    tap = taps.tensor if taps else None
    result: tuple[Tensor, ...] = _Recurrence.apply(direct, open_, taps, tap, rest, *_differentiable(call))  # type: ignore[no-untyped-call]
    return result


def _autograd(*arguments: Any) -> tuple[Tensor, ...]:
    call = _call(arguments, arguments[11:])
    if torch.is_grad_enabled() and _wants_gradient(call):
        return _apply(None, True, None, call)
    with torch._C._AutoDispatchBelowAutograd():
        return tuple(torch.ops.unrolled.recurrence(*arguments))


def _wants_gradient(call: cpu.Call) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in _differentiable(call))


_library.impl("recurrence", _forward_kernel, "CompositeExplicitAutograd")
_library.impl("recurrence", _autograd, "Autograd")
_library.impl("recurrence_backward", _backward_kernel, "CompositeExplicitAutograd")
torch.library.register_fake("unrolled::recurrence", _forward_shapes, lib=_library)
torch.library.register_fake("unrolled::recurrence_backward", _backward_shapes, lib=_library)

_PLAIN = {Tensor, torch.nn.Parameter}


def unroll(
    mode: str,
    x: Tensor,
    initial: States,
    weights: Weights,
    *,
    reverse: bool,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    masks: Masks = NO_MASKS,
    keep: Collection[str] = (),
    by: Kernels = cpu,
) -> Unrolled:
    """Take a layer over a sequence by the kernels: as `reference.unroll`, with the key of the table for its row."""
    cell = CELLS[mode]
    call = cpu.Call(
        x,
        initial[0],
        initial[1] if len(initial) > 1 else None,
        *weights[:4],
        lengths=lengths,
        mode=mode,
        reverse=reverse,
        reset=reset,
        extras=_some(weights[4:]),
        masks=() if masks is NO_MASKS else masks,
    )
    result: tuple[Tensor, ...]
    if torch.compiler.is_compiling():
        result = torch.ops.unrolled.recurrence(*call[:10], False, *_rest(call))
        return Unrolled(result[0], result[1 : 1 + len(initial)], {})
    # While a graph is captured, and for tensors of other classes, the operator has to be seen.
    seen = torch._C._len_torch_dispatch_stack() or any(
        tensor is not None and type(tensor) not in _PLAIN for tensor in _differentiable(call)
    )
    direct = None if seen else by
    if direct and direct.misfit(call) is not None:
        # Weights that were replaced by others: what can be done with them, or the error, is the reference's.
        return reference.unroll(
            cell, x, initial, weights, reverse=reverse, lengths=lengths, reset=reset, masks=masks, keep=keep
        )
    taps = None
    if torch.is_grad_enabled() and _wants_gradient(call):
        if keep:
            taps = Taps(call)
            result = _apply(direct, True, taps, call)
        elif direct:
            result = _apply(direct, False, None, call)
        else:
            result = torch.ops.unrolled.recurrence(*call[:10], True, *_rest(call))
    else:
        store = any(name != "hidden" for name in keep)
        result = (
            direct.forward(call, store) if direct else torch.ops.unrolled.recurrence(*call[:10], store, *_rest(call))
        )
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
            found[name] = Steps(whole, (taps.tensor,), units, partial(taps.of_sources, index, units), taps.asked)
    return found
