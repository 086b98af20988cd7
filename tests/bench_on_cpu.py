"""A bench on a GPU, taken on the CPU: the same contestants and dtypes in little work, Triton in its interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from unrolled.bench import Result, Row, alternation, bench, machine, measure
from unrolled.bench.devices import DEVICES, Device

GPU = {"gpu": "A GPU", "compute_capability": "9.0", "driver": "570.1", "multiprocessors": 132, "gpu_memory": 1 << 36}
TINY = Row(2, 3, 3, 4)


def gpu_on_cpu(synchronise: Callable[[], object] = lambda: None) -> Device:
    return replace(DEVICES["cuda"], place=torch.device("cpu"), synchronise=synchronise, facts=_facts)


def _facts(threads: int, packages: Iterable[str]) -> dict[str, Any]:
    return machine.facts(threads, packages) | GPU


def work_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "GPU_PRODUCT_SIZE", 64)
    monkeypatch.setattr(alternation, "FEWEST_SLOTS", 2)


def measured(**options: Any) -> Result:
    """One small row of a GRU in training in float32, no peers, unless something else is asked for."""
    taken = {"cells": ["gru"], "phases": ["training"], "dtypes": ["float32"], "peers": (), "seconds": 0.001}
    return bench([TINY], **{"device": gpu_on_cpu(), "threads": 1, **taken, **options})


def refuse_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's kernels refuse, as where Triton is not installed."""
    monkeypatch.setattr("unrolled.bench.torch_layers.available.refusal", lambda device: "Triton is not installed")
