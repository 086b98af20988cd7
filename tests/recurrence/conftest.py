"""Tests of the kernels can ask which calls reached them, and have both ways of summing the weights' gradients taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from unrolled.recurrence import cpu


@dataclass
class Reached:
    """What of the kernels was called: `keep` of every forward, `need_totals` of every backward."""

    forward: list[bool] = field(default_factory=list)
    backward: list[bool] = field(default_factory=list)
    returned: list[cpu.Forward] = field(default_factory=list)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Reached:
    """The calls that reach the kernels while the test runs."""
    if cpu.missing() is not None:
        pytest.skip("the kernels were not built")
    reached, forward, backward = Reached(), cpu.forward, cpu.backward

    def seen_forward(call: cpu.Call, keep: bool) -> cpu.Forward:
        reached.forward.append(keep)
        reached.returned.append(forward(call, keep))
        return reached.returned[-1]

    def seen_backward(*args: Any, **kwargs: Any) -> cpu.Gradients:
        reached.backward.append(kwargs["need_totals"])
        return backward(*args, **kwargs)

    monkeypatch.setattr(cpu, "forward", seen_forward)
    monkeypatch.setattr(cpu, "backward", seen_backward)
    return reached


@pytest.fixture(params=["kernels sum", "torch sums"])
def sums(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights' gradients are summed by the kernels, as in small layers, or by torch, as in large ones."""
    if request.param == "torch sums":
        monkeypatch.setattr(cpu.Kernels, "accumulates", lambda *_: False)
        monkeypatch.setattr(cpu, "_spare", [])
