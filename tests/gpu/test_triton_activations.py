"""Sigmoid and tanh of the Triton kernels against float64, and their values where those are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from by_triton import DEVICE, ON_GPU, triton
from unrolled.recurrence.gpu.arithmetic import sigmoid, tanh

tl = triton.language

SMALLEST = 2.0**-149  # float32's least number above zero
# The GPU's exponential is a power of two of a rounded product: its relative error grows with the argument,
# and it gives zero below 2^-126.
ULPS = 64 if ON_GPU else 4


@triton.jit
def _activated(x, to_sigmoid, to_tanh, N, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + place, mask=place < N, other=0.0)
    tl.store(to_sigmoid + place, sigmoid(value), mask=place < N)
    tl.store(to_tanh + place, tanh(value), mask=place < N)


def activated(x: Tensor) -> dict[str, Tensor]:
    x = x.float().to(DEVICE).contiguous()
    found = {"sigmoid": torch.empty_like(x), "tanh": torch.empty_like(x)}
    with np.errstate(all="ignore"):  # the interpreter's numbers are numpy's, which tells of overflow
        _activated[(triton.cdiv(x.numel(), 8192),)](x, found["sigmoid"], found["tanh"], x.numel(), BLOCK=8192)
    return {name: value.cpu() for name, value in found.items()}


INF, LARGE = math.inf, 3e38
# Argument and value.
KNOWN = {
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (INF, 1), (-INF, 0), (100.0, 1), (LARGE, 1), (-LARGE, 0), (SMALLEST, 0.5)],
    "tanh": [(0.0, 0), (-0.0, 0), (INF, 1), (-INF, -1), (100.0, 1), (-100.0, -1), (LARGE, 1), (-LARGE, -1)],
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_values_are_exact(name: str) -> None:
    arguments, values = zip(*KNOWN[name], strict=True)
    assert activated(torch.tensor(arguments))[name].tolist() == list(values)


@pytest.mark.parametrize("name", KNOWN)
def test_nan_stays_nan(name: str) -> None:
    assert activated(torch.tensor([math.nan, -math.nan]))[name].isnan().all()


def test_tanh_of_tiny_numbers_is_the_number() -> None:
    tiny = torch.tensor([1e-4, 1e-20, 1.2e-38, -1.2e-38, *([] if ON_GPU else [1e-40, SMALLEST, -SMALLEST])])
    assert torch.allclose(activated(tiny)["tanh"], tiny, rtol=1e-7, atol=0)


def everywhere() -> Tensor:
    """Both signs of every magnitude down to 1e-30, close together where the functions bend."""
    magnitudes = torch.cat(
        (torch.logspace(-30, 2, 20001), torch.linspace(0, 12, 60001), torch.linspace(0.49, 0.51, 20001))
    )
    return torch.cat((magnitudes, -magnitudes))


@pytest.mark.parametrize(("name", "exact"), [("sigmoid", torch.sigmoid), ("tanh", torch.tanh)], ids=["sigmoid", "tanh"])
def test_everywhere_within_a_few_units_in_the_last_place(name: str, exact: object) -> None:
    x = everywhere()
    assert callable(exact)
    right = exact(x.double())
    units = torch.ldexp(torch.ones_like(right), torch.frexp(right).exponent - 24).clamp(
        min=2.0**-126 if ON_GPU else SMALLEST
    )  # one, at each
    error = ((activated(x)[name].double() - right).abs() / units).max().item()
    assert error <= ULPS
    assert error > 0


@pytest.mark.parametrize("name", KNOWN)
def test_values_never_leave_their_range_and_never_fall(name: str) -> None:
    x = torch.cat((torch.tensor([-math.inf]), torch.linspace(-30, 30, 200001), torch.tensor([math.inf])))
    found = activated(x)[name]
    assert found.min() == (0 if name == "sigmoid" else -1)
    assert found.max() == 1
    assert (found.diff() >= -3e-7).all()
