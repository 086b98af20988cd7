"""One call of a layer through the Triton kernels: every output, gradient and total, named as in `against_reference`.

All memory that torch hands out holds NaN before. Where there is no GPU, Triton's interpreter runs the kernels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import against_reference as reference
from against_reference import Case, Tensors, Values
from unrolled.recurrence.call import KERNELS, Call, total_sizes
from unrolled.recurrence.cells import CELLS, NO_MASKS, Weights
from unrolled.recurrence.gpu import available

if available.missing() is not None:
    if os.environ.get("UNROLLED_REQUIRE_TRITON") == "1":
        raise ModuleNotFoundError(f"UNROLLED_REQUIRE_TRITON=1, and {available.missing()}")
    pytest.skip(available.missing(), allow_module_level=True)

import triton as triton

from unrolled.recurrence.gpu import launch as launch

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
MODES = [mode for mode in KERNELS if mode != "LSTM_LAYER_NORM"]


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill torch's new tensors with NaN."""
    filled = torch.utils.deterministic.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def call_of(case: Case, tensors: Tensors, dtype: torch.dtype = torch.float32, device: str = DEVICE) -> Call:
    """The call that the kernels are given, with tensors in their own layouts."""

    def placed(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device, dtype)

    def moved(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    hidden, cell = (*map(placed, tensors.initial), None)[:2]
    extras = tuple(map(placed, tensors.weights[4:]))
    leading: Any = (placed(tensors.x), hidden, cell, *map(placed, tensors.weights[:4]))
    return Call(
        *leading,
        lengths=moved(tensors.lengths),
        mode=case.mode,
        reverse=case.reverse,
        reset=moved(tensors.reset),
        extras=() if all(extra is None for extra in extras) else extras,
        masks=() if tensors.masks is NO_MASKS else tuple(map(placed, tensors.masks)),
    )


def incoming(call: Call, weighing: Values) -> tuple[Tensor | None, ...]:
    """The gradients of output, final states, cells and gates that weighing makes; those of steps are float32."""
    cell, like = CELLS[call.mode], call.x
    output = (weighing["output"] + weighing["step hidden"]).to(like)
    final = [weighing[f"final {name}"].to(like) for name in cell.states]
    cells = weighing["step cell"].to(like.device) if "cell" in cell.states else None
    gates = [weighing[f"step {gate}"].to(like.device) for gate in cell.gates]
    # Nobody is shown the fourth block of a GRU.
    gates += [torch.zeros_like(gates[0])] * (KERNELS[call.mode].stored - len(gates)) if gates else []
    of_gates = torch.cat(gates, -1) if gates else None
    return (output, *final, *[None] * (2 - len(final)), cells, of_gates)


def by_triton(case: Case, tensors: Tensors, dtype: torch.dtype = torch.float32, device: str = DEVICE) -> Values:
    """Results by the kernels, gradients for the loss that `tensors.weighing` makes, totals along all paths."""
    call, cell = call_of(case, tensors, dtype, device), CELLS[case.mode]
    with poisoned():
        found = launch.forward(call, keep=True)
        grads = incoming(call, tensors.weighing)
        kept = (found.output, found.cells, found.gates)
        gradients = launch.backward(call, kept, grads, need_x=True, need_weights=True, need_totals=True)
    values = {"output": found.output}
    values |= {f"final {name}": state for name, state in zip(cell.states, found[1:3], strict=False)}
    assert gradients.totals is not None
    shapes = total_sizes(call)
    split = gradients.totals.split([math.prod(shape) for shape in shapes])
    parts = [part.view(shape) for part, shape in zip(split, shapes, strict=True)]
    for name in cell.names:
        steps, total = by_name(case, name, (found.output, found.cells, found.gates)), by_name(case, name, parts)
        values |= {f"step {name}": steps, f"total of {name}": total}
    states = (gradients.hidden, gradients.cell)
    values |= {f"gradient of initial {number}": state for number, state in enumerate(states) if state is not None}
    values |= {
        f"gradient of {short}": getattr(gradients, name)
        for short, name in {"x": "x", "ih": "weight_ih", "hh": "weight_hh"}.items()
    }
    for name in ("bias_ih", "bias_hh", "peephole"):
        if getattr(gradients, name) is not None:
            values[f"gradient of {name}"] = getattr(gradients, name)
    return {name: value.cpu() for name, value in values.items()}


def by_name(case: Case, name: str, wholes: Any) -> Tensor:
    """The states or a gate of all steps (T, B, H), of the output, the cells and the gates of all steps."""
    cell = CELLS[case.mode]
    if name in cell.states:
        found: Tensor = wholes[cell.states.index(name)]
        return found
    of_gate: Tensor = wholes[2][..., cell.rows(name, case.hidden)]
    return of_gate


def errors(case: Case, found: Values, exact: Values) -> dict[str, float]:
    """The relative error of each result."""
    assert found.keys() == exact.keys()
    return {
        name: reference.relative_error(
            reference.taken(case, name, found[name]), reference.taken(case, name, exact[name])
        )
        for name in exact
    }


def assert_within(case: Case, found: Values, exact: Values, bounds: dict[str, float]) -> None:
    wrong = {
        name: (error, bounds[name]) for name, error in errors(case, found, exact).items() if not error <= bounds[name]
    }
    assert not wrong, f"relative error and what is allowed: {wrong}"


def nudged(tensors: Tensors, draw: int) -> Tensors:
    """The same in float64, every number off by up to a unit in the last place of float32."""
    random = torch.Generator().manual_seed(draw)

    def off(tensor: Tensor) -> Tensor:
        by = 2 * torch.rand(tensor.shape, generator=random, dtype=torch.float64) - 1
        return tensor.double() * (1 + 2**-23 * by)

    weights = Weights(*(None if weight is None else off(weight) for weight in tensors.weights))
    return replace(tensors, x=off(tensors.x), initial=tuple(map(off, tensors.initial)), weights=weights)


def bounds_of_few_numbers(case: Case, exact: Values, bounds: dict[str, float]) -> dict[str, float]:
    """Of single numbers the reference's own error says little: it may be small by chance where terms cancel.

    There four times what it does to a result that all it is made of is off in the last place is allowed too: an
    activation may be off by two such units, and one stands inside another.
    """
    found = dict(bounds)
    for draw in range(4):
        moved = reference.by_reference(case, nudged(reference.drawn(case), draw), torch.float64)
        for name, error in errors(case, moved, exact).items():
            found[name] = max(found[name], 4 * error)
    return found


def assert_matches_reference(case: Case) -> None:
    """In float32, as near to float64 as the reference comes in float32; the GPU's exponentials are rounder."""
    exact, bounds = reference.expected(case)
    if case.batch * case.hidden < 8:
        bounds = bounds_of_few_numbers(case, exact, bounds)
    allowed = {name: max(3e-6, 4 * bound) for name, bound in bounds.items()} if ON_GPU else bounds
    assert_within(case, by_triton(case, reference.drawn(case)), exact, allowed)
