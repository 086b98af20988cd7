"""One call of a layer through the kernels beside the reference in float64: every output, gradient and total.

All memory that the kernels are to fill holds NaN before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from unrolled.recurrence import cpu, ops, reference
from unrolled.recurrence.cells import CELLS, NO_MASKS, Masks, Weights

MODES = ["RNN_TANH", "RNN_RELU", "GRU", "LSTM"]
VARIANTS = [mode for mode in cpu.KERNELS if mode not in MODES]
BUILDS: list[str] = [] if cpu.missing() else list(cpu.kernels().builds)

# Outputs, states, gates, gradients and totals by name.
Values = dict[str, Tensor]

pytestmark_native = pytest.mark.skipif(cpu.missing() is not None, reason=f"no kernels: {cpu.missing()}")


@dataclass(frozen=True)
class Case:
    """A layer in one direction; `lengths` is how many steps of each sequence there are, None for all.

    With `reset`, some states are zeroed between steps, before the first and beyond the end of a sequence too.
    """

    mode: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    reverse: bool = False
    lengths: tuple[int, ...] | None = None
    bias: bool = True
    reset: bool = False

    def __str__(self) -> str:
        sizes = f"{self.mode}-T{self.steps}-B{self.batch}-I{self.inputs}-H{self.hidden}"
        options = {"reverse": self.reverse, "lengths": self.lengths is not None, "no_bias": not self.bias}
        options["reset"] = self.reset
        return sizes + "".join(f"-{name}" for name, on in options.items() if on)


def uneven_lengths(steps: int, batch: int) -> tuple[int, ...]:
    """Unsorted, with 1, `steps` and 0 among them as far as there is room."""
    return tuple((1, steps, 0, steps // 2, max(steps - 1, 0))[b % 5] for b in range(batch))


@contextmanager
def using(build: str, threads: int = 1) -> Iterator[None]:
    """Run a build on a number of threads."""
    kernels, number = cpu.kernels(), torch.get_num_threads()
    before, kernels.build = kernels.build, build
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        kernels.build = before
        torch.set_num_threads(number)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill the kernels' scratch memory and torch's new tensors with NaN."""
    filled = torch.utils.deterministic.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    cpu.kernels().poison(True)
    for spare in cpu._spare:
        spare.fill_(float("nan"))
    try:
        yield
    finally:
        cpu.kernels().poison(False)
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = filled


@dataclass(frozen=True)
class Tensors:
    """What a call is given, in float32, and what its results are weighed with to make a loss."""

    x: Tensor  # (T, B, I)
    initial: tuple[Tensor, ...]  # each (B, H)
    weights: Weights
    lengths: Tensor | None  # (B,)
    weighing: Values
    reset: Tensor | None = None  # (T, B)
    masks: Masks = NO_MASKS

    def to(self, dtype: torch.dtype) -> Masks:
        """The masks in a dtype, the very same where there are none."""
        if self.masks is NO_MASKS:
            return NO_MASKS
        return Masks(*(None if mask is None else mask.to(dtype) for mask in self.masks))


def drawn(case: Case) -> Tensors:
    """Random input, states and weights, the same for the same case."""
    random = torch.Generator().manual_seed(hash_of(case))
    cell = CELLS[case.mode]
    gates = cell.blocks

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=random) * 2 - 1) / case.hidden**0.5

    rows, states = gates * case.hidden, (case.steps, case.batch, case.hidden)
    weights = Weights(
        uniform(rows, case.inputs),
        uniform(rows, case.hidden),
        uniform(rows) if case.bias else None,
        uniform(rows) if case.bias else None,
        **{
            name: 3 * uniform(blocks * case.hidden)
            for name, blocks in cell.parameters.items()
            if case.bias or not name.endswith("bias")
        },
    )
    initial = tuple(0.5 * normal(case.batch, case.hidden) for _ in cell.states)
    weighing = {"output": normal(*states)}
    weighing |= {f"final {name}": normal(case.batch, case.hidden) for name in cell.states}
    weighing |= {f"step {name}": normal(*states) for name in cell.names}
    lengths = None if case.lengths is None else torch.tensor(case.lengths, dtype=torch.int64)
    if lengths is not None:
        taken = torch.arange(case.steps).unsqueeze(1) < lengths  # (T, B)
        for name, weigh in weighing.items():
            if name.startswith("step "):
                weigh.masked_fill_(~taken.unsqueeze(2), 0)
    x = normal(case.steps, case.batch, case.inputs)
    reset = torch.rand(case.steps, case.batch, generator=random) < 0.3 if case.reset else None
    masks = Masks(**{name: drawn_mask(name, case, random) for name in cell.masks}) if cell.masks else NO_MASKS
    return Tensors(x, initial, weights, lengths, weighing, reset, masks)


def drawn_mask(name: str, case: Case, random: torch.Generator) -> Tensor:
    """(T, B, H) factors: of every step, but one for all steps where that is what the cell takes; rows apart."""
    steps = 1 if name == "hidden" else case.steps
    wide = (torch.rand(steps, case.batch, case.hidden + 1, generator=random) < 0.6).float() * 0.75 + 0.125
    return wide[..., 1:].expand(case.steps, -1, -1)


def hash_of(case: Case) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(str(case))) % 2**31


def weighed(results: Values, weighing: Values) -> Tensor:
    return torch.stack([(results[name] * weigh).sum() for name, weigh in weighing.items()]).sum()


def leaves(tensors: Tensors, dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, ...], Weights]:
    """Copies that gradients are taken with respect to."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.to(dtype, copy=True).requires_grad_()

    ih, hh, *others = (None if weight is None else leaf(weight) for weight in tensors.weights)
    assert ih is not None
    assert hh is not None
    return leaf(tensors.x), tuple(map(leaf, tensors.initial)), Weights(ih, hh, *others)


def named(x: Tensor, initial: tuple[Tensor, ...], weights: Weights) -> Values:
    found = {"x": x} | {f"initial {number}": state for number, state in enumerate(initial)}
    return found | {name: weight for name, weight in weights._asdict().items() if weight is not None}


def by_reference(case: Case, tensors: Tensors, dtype: torch.dtype) -> Values:
    """Results and gradients by autograd through the reference; totals are those of zeros added at every step."""
    cell = CELLS[case.mode]
    x, initial, weights = leaves(tensors, dtype)
    states = (case.steps, case.batch, case.hidden)
    taps = {name: torch.zeros(states, dtype=dtype, requires_grad=True) for name in cell.names}
    result = reference.unroll(
        cell,
        x,
        initial,
        weights,
        reverse=case.reverse,
        lengths=tensors.lengths,
        reset=tensors.reset,
        masks=tensors.to(dtype),
        keep=cell.names,
        edit=lambda t, name, value: value + taps[name][t],
    )
    values = {"output": result.output}
    values |= {f"final {name}": state for name, state in zip(cell.states, result.final, strict=True)}
    values |= {f"step {name}": steps.values for name, steps in result.steps.items()}
    loss = weighed(values, {name: weigh.to(dtype) for name, weigh in tensors.weighing.items()})
    wanted = named(x, initial, weights)
    gradients = torch.autograd.grad(loss, [*wanted.values(), *taps.values()])
    names = [*(f"gradient of {name}" for name in wanted), *(f"total of {name}" for name in taps)]
    return {name: value.detach() for name, value in (values | dict(zip(names, gradients, strict=True))).items()}


def by_kernels(case: Case, tensors: Tensors) -> Values:
    """The same by the kernels."""
    cell = CELLS[case.mode]
    x, initial, weights = leaves(tensors, torch.float32)
    wanted = named(x, initial, weights)
    with poisoned():
        result = ops.unroll(
            case.mode,
            x,
            initial,
            weights,
            reverse=case.reverse,
            lengths=tensors.lengths,
            reset=tensors.reset,
            masks=tensors.masks,
            keep=cell.names,
        )
        values = {"output": result.output}
        values |= {f"final {name}": state for name, state in zip(cell.states, result.final, strict=True)}
        values |= {f"step {name}": steps.values for name, steps in result.steps.items()}
        loss = weighed(values, tensors.weighing)
        sources = {name: result.steps[name].sources[0] for name in cell.names}
        with result.steps["hidden"].asked():
            found = torch.autograd.grad(loss, [*wanted.values(), *sources.values()])
    gradients = dict(zip((f"gradient of {name}" for name in wanted), found, strict=False))
    totals = {
        f"total of {name}": result.steps[name].join([gradient])
        for name, gradient in zip(sources, found[len(wanted) :], strict=True)
    }
    return {name: value.detach() for name, value in (values | gradients | totals).items()}


def relative_error(found: Tensor, exact: Tensor) -> float:
    """The largest difference beside the largest magnitude; infinite where a NaN stands."""
    assert found.shape == exact.shape
    if not exact.numel():
        return 0.0
    if found.isnan().any():
        return float("inf")
    difference, largest = (found.double() - exact).abs().max().item(), exact.abs().max().item()
    if largest:
        return difference / largest
    return float("inf") if difference else 0.0


@lru_cache(maxsize=8)
def expected(case: Case) -> tuple[Values, dict[str, float]]:
    """Every result in float64, and how near to it one can be asked to come.

    That is 1e-6, except where float32 cannot: sums of many terms lose digits in any order. There the measure is PyTorch
    itself, which takes the same steps by its own products and activations in float32. Three times its error are
    allowed: rounding errors are random, and the largest of a few is not repeated by another order of summing.
    """
    tensors = drawn(case)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small products: on a busy machine threads would mostly wait for each other
    try:
        exact = by_reference(case, tensors, torch.float64)
        rounded = by_reference(case, tensors, torch.float32)
    finally:
        torch.set_num_threads(threads)
    return exact, {name: max(1e-6, 3 * relative_error(rounded[name], value)) for name, value in exact.items()}


def taken(case: Case, name: str, value: Tensor) -> Tensor:
    """Without the steps after a sequence's end, where cells and gates hold what nothing depends on."""
    if case.lengths is None or not name.startswith("step "):
        return value
    return value[torch.arange(case.steps).unsqueeze(1) < torch.tensor(case.lengths)]


def assert_matches_reference(case: Case, build: str, threads: int = 1) -> None:
    exact, bounds = expected(case)
    with using(build, threads):
        found = by_kernels(case, drawn(case))
    assert found.keys() == exact.keys()
    errors = {name: relative_error(taken(case, name, found[name]), taken(case, name, exact[name])) for name in exact}
    wrong = {name: (error, bounds[name]) for name, error in errors.items() if not error <= bounds[name]}
    assert not wrong, f"relative error and what is allowed: {wrong}"
