"""torch.nn's layers and unrolled's, closed and recorded, called as users call them: layer(x) with x: (T, B, I)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

import unrolled
from unrolled.bench.numbers import LAYERS, Layer, Numbers, backward
from unrolled.bench.rows import INFERENCE
from unrolled.bench.truth import gradients
from unrolled.recurrence.gpu import available

_OURS: dict[str, type[Layer]] = {"rnn": unrolled.RNN, "gru": unrolled.GRU, "lstm": unrolled.LSTM}
_Returned = tuple[Tensor, Mapping[str, Tensor]]
_Entered = tuple[Callable[[], _Returned], Callable[[_Returned], dict[str, Tensor]]]


def theirs(numbers: Numbers, phase: str, threads: int) -> _Entered:
    """torch.nn's layer."""
    return _enter(LAYERS[numbers.cell], numbers, phase, opened=False)


def closed(numbers: Numbers, phase: str, threads: int) -> _Entered:
    """unrolled's layer, nothing recorded."""
    return _enter(_OURS[numbers.cell], numbers, phase, opened=False)


def opened(numbers: Numbers, phase: str, threads: int) -> _Entered:
    """unrolled's layer while every state and gate is recorded."""
    return _enter(_OURS[numbers.cell], numbers, phase, opened=True)


def triton_refusal(numbers: Numbers) -> str | None:
    """Why Triton's kernels do not enter; None if they do."""
    if numbers.row.hidden > available.WIDEST:
        return f"H is {numbers.row.hidden}, Triton's kernels take up to {available.WIDEST}"
    return available.refusal(numbers.x.device)


def triton_closed(numbers: Numbers, phase: str, threads: int) -> _Entered:
    """unrolled's layer by its Triton kernels, nothing recorded."""
    return _by_triton(closed(numbers, phase, threads))


def triton_opened(numbers: Numbers, phase: str, threads: int) -> _Entered:
    """unrolled's layer by its Triton kernels while every state and gate is recorded."""
    return _by_triton(opened(numbers, phase, threads))


def _by_triton(entered: _Entered) -> _Entered:
    work, read = entered

    def inside(work: Callable[[], _Returned]) -> _Returned:
        with unrolled.backend("triton"):
            return work()

    return partial(inside, work), read


def _enter(kind: type[Layer], numbers: Numbers, phase: str, *, opened: bool) -> _Entered:
    layer: Any = numbers.layer(kind).train(phase != INFERENCE)
    x, loss = numbers.input(phase), numbers.row.loss

    def call() -> _Returned:
        if not opened:
            return layer(x)[0], {}
        with unrolled.record(layer) as trace:
            output = layer(x)[0]
        # Reading is part of recording: what is only laid out when it is read would else seem to cost nothing.
        return output, dict(trace)

    def infer() -> _Returned:
        with torch.inference_mode():
            return call()

    def train() -> _Returned:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        output, states = call()
        backward(loss, output, numbers.target)
        return output, states

    def read(returned: _Returned) -> dict[str, Tensor]:
        output, states = returned
        return {"output": output.detach(), **{name: value.detach() for name, value in states.items()}} | (
            {} if phase == INFERENCE else gradients(layer, x)
        )

    return (infer if phase == INFERENCE else train), read
