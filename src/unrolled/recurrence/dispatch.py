"""Which backend computes a call, and why no better one does.

Backends, best first: "cpu", the native kernels; "triton", the kernels for GPUs, which are only taken where they are
asked for; "torch", torch's own fused layer, on a GPU and under torch.jit, and only for what it has; "reference", which
takes everything. One of them can be forced by `backend`, or by the environment variable UNROLLED_BACKEND.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.recurrence import cpu
from unrolled.recurrence.cells import CELLS, Weights
from unrolled.recurrence.gpu import available

BACKENDS = ("cpu", "triton", "torch", "reference")

_forced: ContextVar[str | None] = ContextVar("unrolled_backend", default=None)


class Call(NamedTuple):
    """What the choice depends on.

    Attributes:
        x: the input, of any layout.
        weights: of each layer and direction.
        opened: whether states or gates are recorded.
        mode: of the cell, as in the table of cells.
        beyond_torch: what of the call torch's layers do not have, as in "lengths", None if they have all of it.
    """

    x: Tensor
    weights: Sequence[Weights]
    opened: bool
    mode: str = "LSTM"
    beyond_torch: str | None = None


class ReferenceWarning(UserWarning):
    """A derivative that the kernels can't take was computed by the reference: right, and slower."""


_noted: set[str] = set()


def note(reason: str) -> None:
    """Say once that the reference computes what the kernels would have, were it not for `reason`."""
    if reason not in _noted:
        _noted.add(reason)
        warnings.warn(
            f"unrolled: {reason}, so plain PyTorch computes it step by step, which is right and slower; "
            "unrolled.explain(layer, x) tells what computes a call and why (said once)",
            ReferenceWarning,
            stacklevel=3,
        )


def _named(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}: given {name!r}, expected one of {', '.join(BACKENDS)}")
    return name


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Compute every call of a layer in this thread with one backend inside the context.

    Args:
        name: "cpu", "triton", "torch" or "reference". A call that this backend can't take raises a ValueError that
            says why.

    Raises:
        ValueError: there is no backend of that name.

    >>> import torch, unrolled
    >>> lstm = unrolled.LSTM(3, 4)
    >>> with unrolled.backend("reference"):
    ...     output, _ = lstm(torch.zeros(5, 2, 3))
    """
    token = _forced.set(_named(name, "backend"))
    try:
        yield
    finally:
        _forced.reset(token)


def forced() -> str | None:
    """The backend that is asked for by `backend` or by UNROLLED_BACKEND, None if none is."""
    name = _forced.get()
    if name is None and (given := os.environ.get("UNROLLED_BACKEND")):
        return _named(given, "UNROLLED_BACKEND")
    return name


def refusal(name: str, call: Call) -> str | None:
    """Why a backend can't take a call; None if it can."""
    if name == "cpu":
        return _cpu_refusal(call)
    if name == "triton":
        return _triton_refusal(call)
    return _torch_refusal(call) if name == "torch" else None


def _cpu_refusal(call: Call) -> str | None:
    x = call.x
    if not x.is_cpu:
        return f"the input is on {x.device}, the kernels compute on the CPU"
    return _beyond_kernels(call) or cpu.missing()


def _triton_refusal(call: Call) -> str | None:
    if call.mode not in available.MODES:
        return f"there is no kernel in Triton for the {CELLS[call.mode].name}"
    width = call.weights[0].hh.size(-1)
    if width > available.WIDEST:
        return f"the hidden size is {width}, Triton's kernels take up to {available.WIDEST}"
    return _beyond_kernels(call) or available.refusal(call.x.device)


def _beyond_kernels(call: Call) -> str | None:
    """What of a call no kernel has, on the CPU or a GPU; None if they have all of it."""
    x = call.x
    for dtype in (x.dtype, call.weights[0].ih.dtype):
        if dtype not in _FLOATS:
            return f"the kernels compute float32, the call is {dtype}".replace("torch.", "")
    if call.mode not in cpu.KERNELS:
        return f"there is no kernel for the {CELLS[call.mode].name}"
    if call.weights[0].hr is not None:
        return "the layer projects its hidden state (proj_size)"
    if torch._C._get_tracing_state() is not None:
        return "the model is being traced by torch.jit"
    if x.layout is not torch.strided:
        return f"the input's layout is {x.layout}, not torch.strided"
    return _transform()


# What the kernels take: halves are computed in float32 on the CPU.
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def _transform() -> str | None:
    """What asks for derivatives that the kernels do not have; None if nothing does."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a transform of torch.func is at work (vmap, grad, jvp, ...)"
    if torch.autograd.forward_ad._current_level >= 0:
        return "derivatives are taken forward"
    return None


def unhindered() -> bool:
    """Whether nothing stands between a call of plain float32 tensors on the CPU and the kernels."""
    return (
        _transform() is None
        and torch._C._get_tracing_state() is None
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._is_any_autocast_enabled()
        and cpu.missing() is None
        and forced() in (None, "cpu")
    )


def _torch_refusal(call: Call) -> str | None:
    if call.opened:
        return "states are opened, torch's layer does not show them"
    if call.beyond_torch is not None:
        return f"torch's layer has no {call.beyond_torch}"
    return None


def _prefers_torch(call: Call) -> bool:
    """Where torch's own layer is better: on a GPU, and under torch.jit, which would keep a loop's every step."""
    return (call.x.is_cuda or torch._C._get_tracing_state() is not None) and _torch_refusal(call) is None


def choose(call: Call) -> str:
    """The backend that computes a call.

    Raises:
        ValueError: one is forced that can't.
    """
    chosen = _chosen(call)
    if chosen == "reference" and forced() is None:
        transform = _transform()
        if transform is not None and _cpu_refusal(call) == transform:
            note(transform)
    return chosen


def _chosen(call: Call) -> str:
    name = forced()
    if name is not None:
        reason = refusal(name, call)
        if reason is not None:
            raise ValueError(f"backend {name!r} was asked for, but can't take this call: {reason}")
        return name
    if _prefers_torch(call):
        return "torch"
    return "cpu" if _cpu_refusal(call) is None else "reference"


def reasons(call: Call) -> list[tuple[str, str, bool]]:
    """For each backend, best first: its name, what is to be said of it for this call, and whether it is chosen."""
    chosen, name = _chosen(call), forced()
    lines = []
    for backend_name in BACKENDS:
        reason = refusal(backend_name, call)
        if backend_name == chosen:
            said = f"asked for; {described(backend_name)}" if name else described(backend_name)
        elif reason is None and name is not None:
            reason = f"{name!r} was asked for"
            said = f"no: {reason}"
        elif reason is None and backend_name == "triton":
            said = 'no: how fast it is was not measured; unrolled.backend("triton") asks for it'
        elif reason is None:
            said = "no: on the CPU the kernels and the reference compute" if backend_name == "torch" else "not needed"
        else:
            said = f"no: {reason}"
        lines.append((backend_name, said, backend_name == chosen))
    return lines


def described(name: str) -> str:
    """What a backend is, on this machine."""
    if name == "torch":
        return "torch's own layer"
    if name == "triton":
        return available.described()
    if name == "reference":
        return "plain PyTorch, one step after another; every dtype, device and derivative"
    kernels, threads = cpu.kernels(), torch.get_num_threads()
    counted = f"{threads} thread{'s' if threads > 1 else ''}" if kernels.threaded else "1 thread"
    return f"native kernels, {kernels.build} build, {counted}"
