"""An LSTM without and with edits, and a count of who takes its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import unrolled
from edited import (
    B,
    I,
    T,
    drawn,
    made,
)
from unrolled.recurrence import cpu, ops, reference


@pytest.fixture
def plain_and_edited() -> Callable[..., tuple[Any, Any, Tensor, Tensor]]:
    """The traces and outputs of an LSTM without and with edits."""

    def run(*edits: Any) -> tuple[Any, Any, Tensor, Tensor]:
        module, x = made(batch_first=True), drawn(B, T, I, dtype=torch.float32)
        with unrolled.record(module, detach=True) as plain:
            output, _ = module(x)
        with unrolled.record(module, detach=True) as trace, unrolled.intervene(module, *edits):
            edited, _ = module(x)
        return plain, trace, output, edited

    return run


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Who took how many steps, call by call."""
    if cpu.missing() is not None:
        pytest.skip("the kernels were not built")
    calls: list[tuple[str, int]] = []
    by_kernels, by_reference = ops.unroll, reference.unroll

    def fused(mode: str, x: Tensor, *args: Any, **options: Any) -> Any:
        calls.append(("kernels", len(x)))
        return by_kernels(mode, x, *args, **options)

    def plain(cell: Any, x: Tensor, *args: Any, **options: Any) -> Any:
        calls.append(("reference", len(x)))
        return by_reference(cell, x, *args, **options)

    monkeypatch.setattr(ops, "unroll", fused)
    monkeypatch.setattr(reference, "unroll", plain)
    return calls
