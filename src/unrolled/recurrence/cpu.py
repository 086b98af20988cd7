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
from typing import Any

import torch
from torch import Tensor

from unrolled.recurrence import library, products

# What a call is stands in a file of its own, and is reached from here too.
from unrolled.recurrence.call import KERNELS as KERNELS
from unrolled.recurrence.call import Call as Call
from unrolled.recurrence.call import Forward as Forward
from unrolled.recurrence.call import Gradients as Gradients
from unrolled.recurrence.call import contiguous, extra, projects_apart, rows_in_place
from unrolled.recurrence.call import misfit as misfit
from unrolled.recurrence.call import sizes as sizes
from unrolled.recurrence.call import total_sizes as total_sizes
from unrolled.recurrence.cells import NO_MASKS, Masks


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


def _starts(tensor: Tensor, counts: Sequence[int]) -> list[int]:
    """The addresses of parts of a tensor that stand one after the other; 0 for an empty one."""
    ends = list(accumulate(counts))
    first = tensor.data_ptr()
    return [
        first + (end - count) * tensor.element_size() if count else 0 for count, end in zip(counts, ends, strict=True)
    ]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _described(
    call: Call, output: Tensor, cells: Tensor | None, gates: Tensor | None
) -> tuple[_LayerCall, tuple[Tensor | None, ...]]:
    """The call as the library takes it, and the tensors that must live until it has been made."""
    x, rest = rows_in_place(call.x), tuple(map(contiguous, call[1:8]))
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


def _variation(call: Call) -> tuple[int, tuple[int, ...], tuple[Tensor | None, ...]]:
    """The address of `reset`, the numbers of a variation, and the tensors that must live for them."""
    if not (call.extras or call.masks or call.reset is not None):
        return 0, (), ()
    reset = contiguous(call.reset)
    extras = [contiguous(extra(call, name)) for name in ("peephole", "norm_hh", "norm_cell", "norm_bias")]
    masks = [None if mask is None else rows_in_place(mask) for mask in call.masks or NO_MASKS]
    numbers = [*map(_address, extras)]
    for mask in masks:
        numbers.extend((0, 0, 0) if mask is None else (mask.data_ptr(), *mask.stride()[:2]))
    return _address(reset), tuple(numbers), (reset, *extras, *masks)


def forward(call: Call, keep: bool) -> Forward:
    """All steps of a call; with `keep`, cells and gates of every step too."""
    steps, batch, hidden_size = sizes(call)
    empty, has_cell, stored = call.x.new_empty, call.cell is not None, KERNELS[call.mode].stored * keep
    output, final_hidden = empty((steps, batch, hidden_size)), empty((batch, hidden_size))
    final_cell = empty((batch, hidden_size) if has_cell else 0)
    cells = empty((steps, batch, hidden_size) if has_cell and keep else 0)
    gates = empty((steps, batch, stored * hidden_size) if stored else 0)
    projection = None
    if projects_apart(call):
        projection = _borrowed((steps, batch, KERNELS[call.mode].rows * hidden_size))
        products.projected(call, projection)
        call = call._replace(x=projection)
    layer, alive = _described(call, output, cells if has_cell and keep else None, gates if stored else None)
    kernels().forward(_ForwardCall(layer, final_hidden.data_ptr(), final_cell.data_ptr()))
    del alive
    if projection is not None:
        _give_back(projection)
    return Forward(output, final_hidden, final_cell, cells, gates)


# The last large buffer of a pass: one that is written anew costs twice as much for its fresh pages.
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


def _give_back(tensor: Tensor) -> None:
    """Keep what was borrowed, the whole of it where it was a part."""
    _spare[:] = [tensor if tensor._base is None else tensor._base]


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
        return products.nothing_seen(call, grads, need_x, need_weights, need_totals)
    grad_output = None if grads[0] is None else rows_in_place(grads[0])
    grad_final_hidden, grad_final_cell, grad_cells, grad_gates = map(contiguous, grads[1:])
    layer, alive = _described(call, output, cells if has_cell else None, gates if stored else None)
    grad_hidden = empty((batch, hidden_size))
    grad_cell = empty((batch, hidden_size)) if has_cell else None
    has_bias = need_weights and call.bias_ih is not None
    grad_bias_ih, grad_bias_hh = (empty(call.weight_ih.size(0)) if has_bias else None for _ in range(2))
    counts = [math.prod(size) for size in total_sizes(call)]
    totals = empty(sum(counts)) if need_totals else None
    total_addresses = (0, 0, 0) if totals is None else _starts(totals, counts)
    norms: dict[str, Any] = {name: None if (one := extra(call, name)) is None else empty(one.shape) for name in _NORMS}
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
            found = found._replace(
                **products.large_products(call, output, cells, pre, need_x=need_x, need_weights=need_weights)
            )
            if projects_apart(call):
                found = found._replace(
                    **products.through_projection(call, pre, need_x=need_x, need_weights=need_weights)
                )
                found = found._replace(**(norms if need_weights else {}))
        _give_back(pre)
    return found


_NORMS = ("norm_hh", "norm_cell", "norm_bias")
