"""The native kernels: their library, and the forward and backward of one layer in one direction through them.

Everything here takes plain float32 tensors on the CPU; `misfit` says of other tensors why the kernels can't take them.
Tensors are passed as addresses, so nothing here may be given a tensor that a transform of torch has wrapped.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unrolled.recurrence import library
from unrolled.recurrence.cells import CELLS, NO_MASKS, Masks, Weights


class Kernel(NamedTuple):
    """A cell as native/unrolled.h knows it: its number, and how many blocks of H numbers stand in what.

    Attributes:
        rows: blocks in the rows of the weights.
        stored: blocks that the forward keeps of each step.
        pre: blocks in the gradient of a step's pre-activations.
    """

    number: int
    rows: int
    stored: int
    pre: int


KERNELS = {
    "RNN_TANH": Kernel(0, rows=1, stored=0, pre=1),
    "RNN_RELU": Kernel(1, rows=1, stored=0, pre=1),
    "GRU": Kernel(2, rows=3, stored=4, pre=4),
    "LSTM": Kernel(3, rows=4, stored=4, pre=4),
    "LSTM_PEEPHOLE": Kernel(4, rows=4, stored=4, pre=4),
    "LSTM_ZONEOUT": Kernel(4, rows=4, stored=4, pre=4),
    "LSTM_VARIATIONAL_DROPOUT": Kernel(4, rows=4, stored=4, pre=4),
    "LSTM_RECURRENT_DROPOUT": Kernel(4, rows=4, stored=4, pre=4),
    "LSTM_COUPLED": Kernel(5, rows=3, stored=3, pre=3),
    "LSTM_LAYER_NORM": Kernel(6, rows=4, stored=8, pre=8),
}


def _numbers(*names: str) -> list[tuple[str, type]]:
    """Fields of a structure of native/unrolled.h: sizes and addresses, all of 64 bits."""
    return [(name, ctypes.c_int64) for name in names]


class _LayerCall(ctypes.Structure):
    _fields_ = _numbers(
        *("cell", "steps", "batch", "input_size", "hidden_size", "reverse", "threads", "lengths", "reset"),
        *("x", "x_step", "x_row", "weight_ih", "weight_hh", "bias_ih", "bias_hh"),
        *("initial_hidden", "initial_cell", "output", "cells", "gates"),
        *("peephole", "norm_hh", "norm_cell", "norm_bias"),
        *(f"{mask}{part}" for mask in Masks._fields for part in ("", "_step", "_row")),
    )


class _ForwardCall(ctypes.Structure):
    _fields_ = [("layer", _LayerCall), *_numbers("final_hidden", "final_cell")]


class _BackwardCall(ctypes.Structure):
    _fields_ = [
        ("layer", _LayerCall),
        *_numbers("grad_output", "grad_output_step", "grad_output_row", "grad_final_hidden", "grad_final_cell"),
        *_numbers("grad_cells", "grad_gates", "grad_initial_hidden", "grad_initial_cell"),
        *_numbers("grad_bias_ih", "grad_bias_hh", "grad_weight_ih", "grad_weight_hh", "grad_x", "grad_pre"),
        *_numbers("total_hidden", "total_cells", "total_gates", "grad_norm_hh", "grad_norm_cell", "grad_norm_bias"),
    ]


class Kernels:
    """The loaded library and the build of it that runs."""

    def __init__(self, file: Path) -> None:
        native = ctypes.CDLL(str(file))
        for name in ("builds", "build_runs_here", "run_forward", "run_backward", "accumulates"):
            getattr(native, f"unrolled_{name}").restype = ctypes.c_int64
        native.unrolled_build_name.restype = ctypes.c_char_p
        native.unrolled_set_threads.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        names = [native.unrolled_build_name(build).decode() for build in range(native.unrolled_builds())]
        self.builds = {
            name: build for build, name in enumerate(names) if native.unrolled_build_runs_here(ctypes.c_int64(build))
        }
        self.build = os.environ.get("UNROLLED_BUILD") or next(iter(self.builds))
        if self.build not in self.builds:
            raise ValueError(
                f"UNROLLED_BUILD: given {self.build!r}; the builds that run here are {', '.join(self.builds)}"
            )
        self.native = native
        self._forward, self._backward = native.unrolled_run_forward, native.unrolled_run_backward
        parallel_for = _torch_parallel_for()
        openmp = "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()
        native.unrolled_set_threads(parallel_for, openmp)
        self.threaded = parallel_for is not None

    def forward(self, call: _ForwardCall) -> None:
        _check(self._forward(ctypes.c_int64(self.builds[self.build]), ctypes.byref(call)))

    def forward_packed(self, call: bytes) -> None:
        """`forward` of a call given as the bytes of a `_ForwardCall`."""
        _check(self._forward(ctypes.c_int64(self.builds[self.build]), ctypes.c_char_p(call)))

    def backward(self, call: _BackwardCall) -> None:
        _check(self._backward(ctypes.c_int64(self.builds[self.build]), ctypes.byref(call)))

    def accumulates(self, call: _LayerCall) -> bool:
        """Whether the backward of this call sums the weights' gradients itself."""
        return bool(self.native.unrolled_accumulates(ctypes.c_int64(self.builds[self.build]), ctypes.byref(call)))

    def activate(self, name: str, x: Tensor) -> Tensor:
        """sigmoid or tanh as the kernels compute it, for tests."""
        y = torch.empty_like(x)
        self.native.unrolled_activate(
            *map(ctypes.c_int64, (self.builds[self.build], ("sigmoid", "tanh").index(name))),
            *map(ctypes.c_void_p, (x.data_ptr(), y.data_ptr())),
            ctypes.c_int64(x.numel()),
        )
        return y

    def poison(self, on: bool) -> None:
        """Fill scratch memory with NaN before every use, for tests."""
        self.native.unrolled_set_poison(ctypes.c_int64(on))


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("unrolled: no memory for the kernels' scratch space")


def _torch_parallel_for() -> int | None:
    """The address of torch's own parallel loop, None where this torch does not export it."""
    try:
        torch_library = ctypes.CDLL(_torch_cpu_library())
        return ctypes.cast(torch_library.torch_parallel_for, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


def _torch_cpu_library() -> str:
    folder = Path(torch.__file__).parent / "lib"
    return str(next(folder.glob("libtorch_cpu.*"), folder / "libtorch_cpu.so"))


@cache
def _load() -> Kernels | str:
    """The kernels, or why there are none."""
    file = library.find()
    if file is None:
        return library.MISSING
    try:
        return Kernels(file)
    except OSError as error:
        return f"the native library does not load: {error}"


def missing() -> str | None:
    """Why the kernels are not there; None if they are."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def kernels() -> Kernels:
    """The kernels.

    Raises:
        RuntimeError: they are not there.
    """
    loaded = _load()
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    return loaded


class Forward(NamedTuple):
    """What the kernels return; what a cell has not, or was not kept, is an empty tensor (0,)."""

    output: Tensor  # (T, B, H)
    final_hidden: Tensor  # (B, H)
    final_cell: Tensor  # (B, H)
    cells: Tensor  # (T, B, H)
    gates: Tensor  # (T, B, S * H)


class Call(NamedTuple):
    """One layer in one direction over a sequence: the operator's arguments, in their order.

    What only some calls have stands last: `extras` are the fields of `cells.Weights` from `hr` on, `masks` those of
    `cells.Masks`; both are empty where there is none.
    """

    x: Tensor  # (T, B, I)
    hidden: Tensor  # (B, H)
    cell: Tensor | None  # (B, H)
    weight_ih: Tensor  # (G * H, I)
    weight_hh: Tensor  # (G * H, H)
    bias_ih: Tensor | None  # (G * H,)
    bias_hh: Tensor | None  # (G * H,)
    lengths: Tensor | None  # (B,) int64
    mode: str
    reverse: bool
    reset: Tensor | None = None  # (T, B) bool
    extras: tuple[Tensor | None, ...] = ()
    masks: tuple[Tensor | None, ...] = ()  # each (T, B, H)


def carries_cell(mode: str) -> bool:
    """Whether a cell carries a cell state beside its hidden state."""
    return len(CELLS[mode].states) > 1


def misfit(call: Call) -> str | None:
    """Why the kernels can't be given these tensors, whose memory they read unchecked; None if they can."""
    if call.mode not in KERNELS:
        return f"mode must be one of {', '.join(KERNELS)}, given {call.mode!r}"
    if call.x.dim() != 3 or call.hidden.dim() != 2:
        return f"x and hidden must be (T, B, I) and (B, H), given {tuple(call.x.shape)} and {tuple(call.hidden.shape)}"
    steps, batch, inputs = call.x.shape
    width = call.hidden.size(1)
    rows = KERNELS[call.mode].rows * width
    shapes = (
        (steps, batch, inputs),
        (batch, width),
        (batch, width),
        (rows, inputs),
        (rows, width),
        (rows,),
        (rows,),
    )
    tensors: tuple[Tensor | None, ...] = call[:7]
    for name, tensor, shape in zip(Call._fields, tensors, shapes, strict=False):
        if tensor is not None and not _fits(tensor, shape):
            return _told(name, tensor, shape)
    if call.extras or call.masks or call.reset is not None:
        reason = _misfit_of_the_rest(call, (steps, batch, width))
        if reason is not None:
            return reason
    if (call.cell is None) == carries_cell(call.mode):
        return f"cell is for an LSTM, and needed there; the mode is {call.mode}"
    if (call.bias_ih is None) != (call.bias_hh is None):
        return "bias_ih and bias_hh must be given both or neither"
    lengths = call.lengths
    if lengths is not None and not (lengths.shape == (batch,) and lengths.dtype is torch.int64 and lengths.is_cpu):
        kind = f"{lengths.dtype} on {lengths.device}".removeprefix("torch.")
        return f"lengths must be ({batch},), int64 on cpu, given {tuple(lengths.shape)}, {kind}"
    return None


def _fits(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    return (
        tensor.shape == shape
        and tensor.dtype is torch.float32
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor._is_zerotensor()
    )


def _told(name: str, tensor: Tensor, shape: tuple[int, ...]) -> str:
    kind = f"{tensor.dtype} on {tensor.device}".removeprefix("torch.")
    return f"{name} must be {shape}, float32 on cpu, given {tuple(tensor.shape)}, {kind}, {tensor.layout}"


def _misfit_of_the_rest(call: Call, states: tuple[int, int, int]) -> str | None:
    """The same for what only some calls have."""
    own = CELLS[call.mode].parameters
    for name, tensor in zip(Weights._fields[4:], call.extras or (None,) * len(Weights._fields[4:]), strict=True):
        if (tensor is None) != (name not in own or (name.endswith("bias") and call.bias_ih is None)):
            return f"{name} is for cells that have it; those of {call.mode} are {', '.join(own) or 'none'}"
        if tensor is not None and not _fits(tensor, (own[name] * states[2],)):
            return _told(name, tensor, (own[name] * states[2],))
    for name, mask in zip(Masks._fields, call.masks, strict=False):
        if mask is not None and not _fits(mask, states):
            return _told(f"the mask {name}", mask, states)
    drawn = {name for name, mask in zip(Masks._fields, call.masks, strict=False) if mask is not None}
    if drawn - set(CELLS[call.mode].masks):
        return (
            f"masks of {call.mode} are {', '.join(CELLS[call.mode].masks) or 'none'}, given {', '.join(sorted(drawn))}"
        )
    reset = call.reset
    if reset is not None and not (reset.shape == states[:2] and reset.dtype is torch.bool and reset.is_cpu):
        return f"reset must be {states[:2]}, bool on cpu, given {tuple(reset.shape)}, {reset.dtype} on {reset.device}"
    return None


def sizes(call: Call) -> tuple[int, int, int]:
    """T, B, H."""
    steps, batch, _ = call.x.shape
    return steps, batch, call.hidden.size(1)


def total_sizes(call: Call) -> tuple[tuple[int, int, int], ...]:
    """The shapes of the hidden states, cells and gates of all steps, with width 0 for what a cell has not."""
    steps, batch, width = sizes(call)
    return (
        (steps, batch, width),
        (steps, batch, width * (call.cell is not None)),
        (steps, batch, width * KERNELS[call.mode].stored),
    )


def _starts(tensor: Tensor, counts: Sequence[int]) -> list[int]:
    """The addresses of parts of a tensor that stand one after the other; 0 for an empty one."""
    ends = list(accumulate(counts))
    first = tensor.data_ptr()
    return [
        first + (end - count) * tensor.element_size() if count else 0 for count, end in zip(counts, ends, strict=True)
    ]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _rows_in_place(tensor: Tensor) -> Tensor:
    """(T, B, ·) whose last dimension stands without gaps; the distances between rows are free."""
    tensor = tensor.resolve_neg()
    return tensor if tensor.stride(2) == 1 or tensor.size(2) == 1 else tensor.contiguous()


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.resolve_neg().contiguous()


def _described(
    call: Call, output: Tensor, cells: Tensor | None, gates: Tensor | None
) -> tuple[_LayerCall, tuple[Tensor | None, ...]]:
    """The call as the library takes it, and the tensors that must live until it has been made."""
    x, rest = _rows_in_place(call.x), tuple(map(_contiguous, call[1:8]))
    reset, variation, others = _variation(call)
    steps, batch, inputs = x.shape
    x_step, x_row, _ = x.stride()
    hidden, cell, weight_ih, weight_hh, bias_ih, bias_hh, lengths = map(_address, rest)
    layer = _LayerCall(
        KERNELS[call.mode].number,
        steps,
        batch,
        inputs,
        call.hidden.size(1),
        call.reverse,
        torch.get_num_threads(),
        lengths,
        reset,
        x.data_ptr(),
        x_step,
        x_row,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        hidden,
        cell,
        output.data_ptr(),
        _address(cells),
        _address(gates),
        *variation,
    )
    return layer, (x, *rest, *others)


def _extra(call: Call, name: str) -> Tensor | None:
    return call.extras[Weights._fields.index(name) - 4] if call.extras else None


def _variation(call: Call) -> tuple[int, tuple[int, ...], tuple[Tensor | None, ...]]:
    """The address of `reset`, the numbers of a variation, and the tensors that must live for them."""
    if not (call.extras or call.masks or call.reset is not None):
        return 0, (), ()
    reset = _contiguous(call.reset)
    extras = [_contiguous(_extra(call, name)) for name in ("peephole", "norm_hh", "norm_cell", "norm_bias")]
    masks = [None if mask is None else _rows_in_place(mask) for mask in call.masks or NO_MASKS]
    numbers = [*map(_address, extras)]
    for mask in masks:
        numbers.extend((0, 0, 0) if mask is None else (mask.data_ptr(), *mask.stride()[:2]))
    return _address(reset), tuple(numbers), (reset, *extras, *masks)


def _projects_apart(call: Call) -> bool:
    """Whether the kernel is given the input's part projected: it is normalised over all units at once."""
    return call.mode == "LSTM_LAYER_NORM"


def _projected(call: Call) -> Tensor:
    """The input's part of all pre-activations, (T, B, G * H)."""
    return CELLS[call.mode].project(call.x, Weights(*call[3:7], *call.extras))


def forward(call: Call, keep: bool) -> Forward:
    """All steps of a call; with `keep`, cells and gates of every step too."""
    steps, batch, hidden_size = sizes(call)
    empty, has_cell, stored = call.x.new_empty, call.cell is not None, KERNELS[call.mode].stored * keep
    output, final_hidden = empty((steps, batch, hidden_size)), empty((batch, hidden_size))
    final_cell = empty((batch, hidden_size) if has_cell else 0)
    cells = empty((steps, batch, hidden_size) if has_cell and keep else 0)
    gates = empty((steps, batch, stored * hidden_size) if stored else 0)
    if _projects_apart(call):
        call = call._replace(x=_projected(call))
    layer, alive = _described(call, output, cells if has_cell and keep else None, gates if stored else None)
    kernels().forward(_ForwardCall(layer, final_hidden.data_ptr(), final_cell.data_ptr()))
    del alive
    return Forward(output, final_hidden, final_cell, cells, gates)


# The last large buffer of a backward: one that is written anew costs twice as much for its fresh pages.
_spare: list[Tensor] = []
_LARGEST_SPARE = 1 << 24  # numbers: 64 MiB


def _borrowed(shape: tuple[int, ...]) -> Tensor:
    """A tensor for the caller alone, to be put into `_spare` after use."""
    count = math.prod(shape)
    try:
        spare = _spare.pop()
    except IndexError:
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    if count <= spare.numel() <= _LARGEST_SPARE:
        return spare.view(-1)[:count].view(shape)
    return torch.empty(shape, dtype=torch.float32, device="cpu")


class Gradients(NamedTuple):
    """Gradients of a call's arguments, and of every state and gate along all paths; None where not asked for."""

    x: Tensor | None
    hidden: Tensor
    cell: Tensor | None
    weight_ih: Tensor | None
    weight_hh: Tensor | None
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    totals: Tensor | None  # hidden states, cells and gates of all steps, one after the other
    peephole: Tensor | None = None
    norm_ih: Tensor | None = None
    norm_hh: Tensor | None = None
    norm_cell: Tensor | None = None
    norm_bias: Tensor | None = None

    def extras(self, call: Call) -> tuple[Tensor | None, ...]:
        """Those of the call's extras, in their order."""
        return tuple(getattr(self, name, None) for name in Weights._fields[4:]) if call.extras else ()


def backward(
    call: Call,
    kept: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    *,
    need_x: bool,
    need_weights: bool,
    need_totals: bool,
) -> Gradients:
    """The gradients of a call.

    Args:
        call: as given to `forward`.
        kept: its output, cells and gates.
        grads: gradients of its output, final hidden, final cell, cells and gates; None is zero.
        need_x: whether the gradient of x is wanted.
        need_weights: whether those of weights and biases are.
        need_totals: whether those of all states and gates are.
    """
    (steps, batch, hidden_size), has_cell, stored = sizes(call), call.cell is not None, KERNELS[call.mode].stored
    output, cells, gates = (tensor.contiguous() for tensor in kept)
    empty = call.x.new_empty
    if steps * batch == 0:
        return _nothing_seen(call, grads, need_x, need_weights, need_totals)
    grad_output = None if grads[0] is None else _rows_in_place(grads[0])
    grad_final_hidden, grad_final_cell, grad_cells, grad_gates = map(_contiguous, grads[1:])
    layer, alive = _described(call, output, cells if has_cell else None, gates if stored else None)
    grad_hidden = empty((batch, hidden_size))
    grad_cell = empty((batch, hidden_size)) if has_cell else None
    has_bias = need_weights and call.bias_ih is not None
    grad_bias_ih, grad_bias_hh = (empty(call.weight_ih.size(0)) if has_bias else None for _ in range(2))
    counts = [math.prod(size) for size in total_sizes(call)]
    totals = empty(sum(counts)) if need_totals else None
    total_addresses = (0, 0, 0) if totals is None else _starts(totals, counts)
    norms: dict[str, Any] = {name: None if (one := _extra(call, name)) is None else empty(one.shape) for name in _NORMS}
    library = kernels()
    # Without weights or input to differentiate for, only the states' gradients are carried.
    alone = library.accumulates(layer)
    grad_x = empty(call.x.shape) if need_x and alone else None
    grad_ih, grad_hh = (empty(w.shape) if need_weights and alone else None for w in (call.weight_ih, call.weight_hh))
    pre = None if alone else _borrowed((steps, batch, KERNELS[call.mode].pre * hidden_size))
    library.backward(
        _BackwardCall(
            *(layer, _address(grad_output), *(grad_output.stride()[:2] if grad_output is not None else (0, 0))),
            *(_address(grad_final_hidden), _address(grad_final_cell), _address(grad_cells), _address(grad_gates)),
            *(grad_hidden.data_ptr(), _address(grad_cell), _address(grad_bias_ih), _address(grad_bias_hh)),
            *(_address(grad_ih), _address(grad_hh), _address(grad_x), _address(pre)),
            *total_addresses,
            *map(_address, norms.values()),
        )
    )
    del alive
    found = Gradients(grad_x, grad_hidden, grad_cell, grad_ih, grad_hh, grad_bias_ih, grad_bias_hh, totals)
    if pre is not None:
        with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
            found = found._replace(**_large_products(call, output, pre, need_x=need_x, need_weights=need_weights))
            if _extra(call, "peephole") is not None and need_weights:
                found = found._replace(peephole=_peephole_gradient(call, cells, pre))
            if _projects_apart(call):
                found = found._replace(**_through_projection(call, pre, need_x=need_x, need_weights=need_weights))
                found = found._replace(**(norms if need_weights else {}))
        _spare[:] = [pre]
    return found


_NORMS = ("norm_hh", "norm_cell", "norm_bias")


def _through_projection(call: Call, pre: Tensor, *, need_x: bool, need_weights: bool) -> dict[str, Any]:
    """The gradients of what the projected input was formed from; its product is formed again."""
    if not (need_x or need_weights):
        return {}
    rows = (call.x.size(0) * call.x.size(1), call.weight_ih.size(0))
    x = call.x.reshape(rows[0], -1)
    product = torch.mm(x, call.weight_ih.t())
    gains = _extra(call, "norm_ih")
    _, mean, scale = torch.native_layer_norm(product, rows[1:], gains, call.bias_ih, 1e-5)
    grad = pre[..., rows[1] :].reshape(rows)
    wanted = (need_x or need_weights, need_weights, need_weights and call.bias_ih is not None)
    grad_product, norm_ih, bias_ih = torch.ops.aten.native_layer_norm_backward(
        grad, product, rows[1:], mean, scale, gains, call.bias_ih, wanted
    )
    found = {"norm_ih": norm_ih, "bias_ih": bias_ih} if need_weights else {}
    if need_x:
        found["x"] = torch.mm(grad_product, call.weight_ih).view(call.x.shape)
    if need_weights:
        found["weight_ih"] = torch.mm(grad_product.t(), x)
    return found


def _nothing_seen(
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
    own: dict[str, Any] = {name: zeros(_extra(call, name)) for name in Weights._fields[5:]}  # all but the projection
    return found._replace(**own)


def _large_products(call: Call, output: Tensor, pre: Tensor, *, need_x: bool, need_weights: bool) -> dict[str, Any]:
    """The gradients of x, weight_ih and weight_hh from that of the pre-activations, over all steps at once."""
    steps, batch, hidden_size = sizes(call)
    found: dict[str, Any] = {}
    if need_weights:
        of_hidden = pre[..., : KERNELS[call.mode].rows * hidden_size]
        found["weight_hh"] = _product_with_states_before(call, output, of_hidden)
    if _projects_apart(call):
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
        before[(call.lengths - 1).clamp(min=0), torch.arange(states.size(1))] = initial
    return before if call.reset is None else before.masked_fill_(call.reset.unsqueeze(-1), 0)


def _peephole_gradient(call: Call, cells: Tensor, pre: Tensor) -> Tensor:
    """(3 * H,): the input and forget gates saw the cell state before the step, the output gate the one after it."""
    assert call.cell is not None
    seen = _states_before(call, cells, call.cell)
    into, forget, _, out = pre.chunk(4, dim=-1)
    return torch.cat([(grad * cell).sum((0, 1)) for grad, cell in ((into, seen), (forget, seen), (out, cells))])
