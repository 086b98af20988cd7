"""bf16 and fp16 in the Triton kernels: dtypes of what they return, and errors that rounding explains."""

from __future__ import annotations

import math

import pytest
import torch

import rounding
from against_reference import Case, drawn, uneven_lengths
from by_triton import MODES, ON_GPU, assert_within, by_triton, call_of, incoming, launch
from unrolled.recurrence.call import KERNELS
from unrolled.recurrence.cells import CELLS

HALVES = [torch.bfloat16, torch.float16]
halves = pytest.mark.parametrize("dtype", HALVES, ids=["bf16", "fp16"])
modes = pytest.mark.parametrize("mode", MODES)


def limits(dtype: torch.dtype) -> tuple[rounding.Rounding, float]:
    """How a dtype's numbers are rounded and by how much at most; Triton's interpreter cuts bfloat16 off."""
    if dtype is torch.bfloat16 and not ON_GPU:
        return rounding.cut_off(16), 2.0**-7
    return rounding.to_nearest(dtype), torch.finfo(dtype).eps / 2


def cases(mode: str) -> list[Case]:
    number = MODES.index(mode)
    small = Case(mode, 3, 5, 2, 9, number % 2 == 1, uneven_lengths(3, 5) if number % 3 else None, number % 4 > 0, True)
    return [small, Case(mode, 6, 3, 4, 33, number % 2 == 0)]


@modes
@halves
def test_halves_are_as_near_to_float64_as_their_rounding_allows(mode: str, dtype: torch.dtype) -> None:
    rounded, unit = limits(dtype)
    for case in cases(mode):
        tensors = rounding.in_dtype(drawn(case), dtype)
        exact, bounds = rounding.expected(case, tensors, rounded, unit, stored=True)
        assert_within(case, by_triton(case, tensors, dtype), exact, bounds)


@modes
@halves
def test_bounds_of_halves_are_no_wider_than_a_few_roundings(mode: str, dtype: torch.dtype) -> None:
    rounded, unit = limits(dtype)
    for case in cases(mode):
        _, bounds = rounding.expected(case, rounding.in_dtype(drawn(case), dtype), rounded, unit, stored=True)
        assert max(bounds.values()) < 8 * unit, bounds


@modes
@halves
def test_halves_keep_their_dtype_and_what_is_recorded_is_float32(mode: str, dtype: torch.dtype) -> None:
    case = Case(mode, 2, 3, 2, 5)
    tensors = drawn(case)
    call = call_of(case, tensors, dtype)
    result = launch.forward(call, keep=True)
    cell, stored = CELLS[mode], KERNELS[mode].stored
    assert result.output.dtype is result.final_hidden.dtype is dtype
    if "cell" in cell.states:
        assert result.final_cell.dtype is dtype
        assert result.cells.dtype is torch.float32
    if stored:
        assert result.gates.dtype is torch.float32
    kept = (result.output, result.cells, result.gates)
    found = launch.backward(
        call, kept, incoming(call, tensors.weighing), need_x=True, need_weights=True, need_totals=True
    )
    for name, gradient in found._asdict().items():
        if gradient is not None:
            assert gradient.dtype is (torch.float32 if name == "totals" else dtype), name


@halves
def test_states_are_carried_in_float32(dtype: torch.dtype) -> None:
    """A forget gate of one adds up what a state in the dtype of the call would lose."""
    step, steps = 2.0**-8, 100
    case = Case("LSTM", steps, 1, 1, 1)
    call = call_of(case, drawn(case), dtype)
    like = call.x.new_tensor
    call = call._replace(
        x=torch.full_like(call.x, step),
        hidden=like([[0.0]]),
        cell=like([[1.0]]),
        weight_ih=like([[0.0], [0.0], [1.0], [0.0]]),
        weight_hh=torch.zeros_like(call.weight_hh),
        bias_ih=like([20.0, 20.0, 0.0, 20.0]),  # all gates are open
        bias_hh=torch.zeros_like(call.bias_hh),
    )
    result = launch.forward(call, keep=True)
    assert result.cells[-1].item() == pytest.approx(1 + steps * math.tanh(step), rel=1e-5)
