"""The kernels against the reference in float64, over memory full of NaN: results, gradients and totals."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import unrolled
from against_reference import (
    BUILDS,
    MODES,
    Case,
    assert_matches_reference,
    by_kernels,
    drawn,
    expected,
    poisoned,
    pytestmark_native,
    relative_error,
    uneven_lengths,
    using,
)
from unrolled.recurrence import cpu, ops
from unrolled.recurrence.cells import CELLS, Weights

pytestmark = pytestmark_native
builds = pytest.mark.parametrize("build", BUILDS)
modes = pytest.mark.parametrize("mode", MODES)

# T, B, I, H: single ones, and on both sides of each build's vectors and panels.
ODD_SIZES = [
    (1, 1, 1, 1),
    (5, 3, 1, 1),
    (5, 1, 3, 7),
    (1, 4, 5, 15),
    (4, 2, 1, 16),
    (7, 5, 4, 17),
    (6, 3, 9, 33),
    (3, 9, 17, 65),
    (2, 4, 33, 130),
]
# More steps than the forward projects at once, and than the backward adds up at once.
MANY_STEPS = [(150, 1, 3, 5), (70, 3, 2, 9), (50, 20, 3, 33)]
# The same at sizes that take the reference long.
MANY_LARGE_STEPS = [(129, 2, 5, 130), (65, 9, 5, 100)]
# Weights whose gradients are left to large products.
LARGE = {
    "RNN_TANH": [(3, 2, 300, 700)],
    "RNN_RELU": [(3, 2, 300, 700)],
    "GRU": [(3, 2, 300, 380), (9, 5, 300, 342)],
    "LSTM": [(3, 2, 300, 300), (9, 5, 257, 300)],
}
# Threads share the units of all sequences, not the sequences.
BY_UNITS = {
    "RNN_TANH": [(12, 1, 5, 256), (7, 2, 9, 1030)],
    "RNN_RELU": [(12, 1, 5, 256), (7, 2, 9, 1030)],
    "GRU": [(12, 1, 5, 256), (7, 3, 9, 600)],
    "LSTM": [(12, 1, 5, 256), (7, 3, 9, 520), (7, 1, 300, 300)],
}
DIFFERENT = [
    (reverse, lengths, bias) for reverse in (False, True) for lengths in (False, True) for bias in (True, False)
]


def case(mode: str, sizes: tuple[int, int, int, int], reverse: bool, lengths: bool, bias: bool) -> Case:
    return Case(mode, *sizes, reverse, uneven_lengths(*sizes[:2]) if lengths else None, bias)


def in_turn(sizes: list[tuple[int, int, int, int]], mode: str) -> list[Case]:
    """Each size once, with the options taken by turns."""
    turn = itertools.cycle(DIFFERENT[MODES.index(mode) :] + DIFFERENT[: MODES.index(mode)])
    return [case(mode, size, *next(turn)) for size in sizes]


def all_options(sizes: list[tuple[int, int, int, int]], mode: str) -> list[Case]:
    return [case(mode, size, *options) for size in sizes for options in DIFFERENT]


# The builds stand innermost in each of these, so that the reference is asked once for a case.
@pytest.mark.parametrize("tested", [c for mode in MODES for c in in_turn(ODD_SIZES, mode)], ids=str)
@builds
def test_odd_sizes_match_the_reference(tested: Case, build: str) -> None:
    assert_matches_reference(tested, build)


@pytest.mark.parametrize("tested", [c for mode in MODES for c in all_options([(5, 6, 3, 19)], mode)], ids=str)
@builds
def test_every_direction_lengths_and_bias_match_the_reference(tested: Case, build: str) -> None:
    assert_matches_reference(tested, build)


@pytest.mark.parametrize("tested", [c for mode in MODES for c in in_turn(MANY_STEPS, mode)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
@builds
def test_more_steps_than_one_chunk_match_the_reference(tested: Case, build: str, threads: int) -> None:
    assert_matches_reference(tested, build, threads)


@pytest.mark.parametrize("tested", [c for mode in MODES for c in all_options(LARGE[mode][:1], mode)[::5]], ids=str)
@builds
def test_weights_too_large_for_the_cache_match_the_reference(tested: Case, build: str) -> None:
    assert_matches_reference(tested, build)


@pytest.mark.parametrize("tested", [c for mode in MODES for c in all_options(BY_UNITS[mode][:2], mode)[::5]], ids=str)
@builds
def test_threads_that_share_units_match_the_reference(tested: Case, build: str) -> None:
    assert_matches_reference(tested, build, threads=2)


ALL_SIZES = {mode: ODD_SIZES + MANY_STEPS + MANY_LARGE_STEPS + LARGE[mode] + BY_UNITS[mode] for mode in MODES}


@pytest.mark.slow
@pytest.mark.parametrize("tested", [c for mode in MODES for c in all_options(ALL_SIZES[mode], mode)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
@builds
def test_all_sizes_with_all_options_match_the_reference(tested: Case, build: str, threads: int) -> None:
    assert_matches_reference(tested, build, threads)


@given(data=st.data())
def test_drawn_sizes_match_the_reference(data: st.DataObject) -> None:
    def size(most: int) -> int:
        return data.draw(st.integers(1, most))

    mode, steps, batch = data.draw(st.sampled_from(MODES)), size(12), size(12)
    lengths = data.draw(st.none() | st.tuples(*[st.integers(0, steps)] * batch))
    drawn_case = Case(
        mode, steps, batch, size(40), size(70), data.draw(st.booleans()), lengths, data.draw(st.booleans())
    )
    assert_matches_reference(drawn_case, data.draw(st.sampled_from(BUILDS)), data.draw(st.sampled_from([1, 2])))


@modes
def test_large_weights_take_the_other_way_and_small_ones_do_not(mode: str) -> None:
    def accumulates(inputs: int, hidden: int) -> bool:
        layer = cpu._LayerCall(cpu.KERNELS[mode].number, 1, 1, inputs, hidden)
        return cpu.kernels().accumulates(layer)

    for _, _, inputs, hidden in LARGE[mode]:
        assert not accumulates(inputs, hidden)
    for _, _, inputs, hidden in ODD_SIZES:
        assert accumulates(inputs, hidden)


def test_new_tensors_are_poisoned() -> None:
    with poisoned():
        x = torch.zeros(2)
        for new in (torch.empty(3), x.new_empty((2, 2)), torch.empty_like(x)):
            assert new.isnan().all()
    assert torch.zeros(3).new_empty(3).shape == (3,)


@modes
@builds
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("hidden", [5, 800])
def test_empty_batch_gives_empty_results_and_gradients_of_zero(
    mode: str, build: str, reverse: bool, hidden: int
) -> None:
    empty = Case(mode, 4, 0, 3, hidden, reverse)
    with using(build, threads=2):
        found = by_kernels(empty, drawn(empty))
    assert found["output"].shape == (4, 0, hidden)
    assert found["gradient of x"].shape == (4, 0, 3)
    for name in ("ih", "hh", "bias_ih", "bias_hh"):
        assert (found[f"gradient of {name}"] == 0).all(), name


@modes
@builds
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hidden", [5, 130])
def test_no_steps_leave_the_initial_states(mode: str, build: str, threads: int, hidden: int) -> None:
    nothing = Case(mode, 0, 3, 2, hidden)
    tensors = drawn(nothing)
    initial = (*tensors.initial, None)[:2]
    call = cpu.Call(tensors.x, initial[0], initial[1], *tensors.weights[:4], None, mode, False)
    with using(build, threads), poisoned():
        result = cpu.forward(call, keep=True)
        gradient = torch.randn(3, hidden)
        grads = (None, gradient, None if initial[1] is None else 2 * gradient, None, None)
        kept = (result.output, result.cells, result.gates)
        found = cpu.backward(call, kept, grads, need_x=True, need_weights=True, need_totals=True)
    assert torch.equal(result.final_hidden, tensors.initial[0])
    assert torch.equal(found.hidden, gradient)
    if initial[1] is not None:
        assert torch.equal(result.final_cell, initial[1])
        assert found.cell is not None
        assert torch.equal(found.cell, 2 * gradient)
    for weight in (found.weight_ih, found.weight_hh, found.bias_ih, found.bias_hh):
        assert weight is not None
        assert (weight == 0).all()


@modes
@builds
def test_sequences_without_steps_pass_their_states_and_gradients_through(mode: str, build: str) -> None:
    none = Case(mode, 3, 4, 2, 9, lengths=(0, 0, 0, 0))
    tensors = drawn(none)
    with using(build):
        found = by_kernels(none, tensors)
    assert (found["output"] == 0).all()
    for number, name in enumerate(CELLS[mode].states):
        assert torch.equal(found[f"final {name}"], tensors.initial[number])
        assert torch.equal(found[f"gradient of initial {number}"], tensors.weighing[f"final {name}"])
    assert (found["gradient of x"] == 0).all()
    assert (found["gradient of hh"] == 0).all()


@modes
@builds
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_nothing_is_read_of_a_gradient_after_a_sequence_ended(mode: str, build: str, reverse: bool) -> None:
    lengths = (2, 5, 1)
    tensors = drawn(Case(mode, 5, 3, 2, 9, reverse, lengths))
    initial = (*tensors.initial, None)[:2]
    call = cpu.Call(tensors.x, initial[0], initial[1], *tensors.weights[:4], torch.tensor(lengths), mode, reverse)
    ended = torch.arange(5).unsqueeze(1) >= torch.tensor(lengths)  # (T, B)
    zeros, nans = torch.randn(5, 3, 9), torch.randn(5, 3, 9)
    nans[~ended] = zeros[~ended]
    zeros[ended], nans[ended] = 0, float("nan")
    with using(build):
        result = cpu.forward(call, keep=True)
        kept = (result.output, result.cells, result.gates)
        both = [
            cpu.backward(call, kept, (grad, None, None, None, None), need_x=True, need_weights=True, need_totals=True)
            for grad in (zeros, nans)
        ]
    for found, other in zip(*both, strict=True):
        assert (found is None) == (other is None)
        assert found is None or torch.equal(found, other)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def with_gaps(x: Tensor) -> Tensor:
    around = x.new_full([size + 3 for size in x.shape], float("nan"))
    inside = around[tuple(slice(1, size + 1) for size in x.shape)]
    inside.copy_(x)
    return inside


def every_other(x: Tensor) -> Tensor:
    around = x.new_full([2 * size for size in x.shape], float("nan"))
    inside = around[(slice(None, None, 2),) * x.dim()]
    inside.copy_(x)
    return inside


# Large enough, with few inputs, that the gradients of weights are left to large products.
LARGE_HIDDEN = {"RNN_TANH": 700, "RNN_RELU": 700, "GRU": 370, "LSTM": 320}

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": transposed,
    "gaps": with_gaps,
    "every other": every_other,
    "columns": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
}


def results(
    mode: str, build: str, x: Tensor, weighing: Tensor, changed: Callable[[Tensor], Tensor], hidden: int
) -> list[Tensor]:
    """A layer's output and gradients with weights, states and the output's gradient in another layout."""
    torch.manual_seed(1)
    weights = [torch.randn(size) * 0.1 for size in sizes_of_weights(mode, x.size(2), hidden)]
    initial = [torch.randn(x.size(1), hidden) for _ in CELLS[mode].states]
    inputs = [changed(tensor).detach().requires_grad_() for tensor in (*initial, *weights)]
    states, parameters = inputs[: len(initial)], inputs[len(initial) :]
    with using(build), poisoned():
        result = ops.unroll(mode, x, tuple(states), Weights(*parameters), reverse=False, lengths=None, keep=())
        wanted = [x, *inputs] if x.requires_grad else inputs
        return [result.output, *torch.autograd.grad(result.output, wanted, weighing)]


def sizes_of_weights(mode: str, inputs: int, hidden: int) -> list[tuple[int, ...]]:
    rows = {"GRU": 3, "LSTM": 4}.get(mode, 1) * hidden
    return [(rows, inputs), (rows, hidden), (rows,), (rows,)]


def assert_same(found: list[Tensor], plain: list[Tensor]) -> None:
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@modes
@builds
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_layout_of_the_input_and_of_the_outputs_gradient_is_free(
    mode: str, build: str, layout: str, large: bool
) -> None:
    hidden = LARGE_HIDDEN[mode] if large else 9
    x, weighing = torch.randn(4, 3, 5), torch.randn(4, 3, hidden)
    changed = LAYOUTS[layout]
    other = changed(x).requires_grad_()
    found = results(mode, build, other, changed(weighing), lambda tensor: tensor, hidden)
    assert_same(found, results(mode, build, x.requires_grad_(), weighing, lambda tensor: tensor, hidden))


@modes
@builds
@pytest.mark.parametrize("layout", ["gaps", "every other"])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_layout_of_weights_and_states_is_free(mode: str, build: str, layout: str, large: bool) -> None:
    hidden = LARGE_HIDDEN[mode] if large else 9
    x, weighing = torch.randn(4, 3, 5), torch.randn(4, 3, hidden)
    found = results(mode, build, x, weighing, LAYOUTS[layout], hidden)
    assert_same(found, results(mode, build, x, weighing, lambda tensor: tensor, hidden))


@modes
@builds
@pytest.mark.parametrize("dimension", [0, 1, 2])
def test_expanded_input_has_the_gradient_of_a_copied_one(mode: str, build: str, dimension: int) -> None:
    size = [4, 3, 5]
    size[dimension] = 1
    x, weighing = torch.randn(size).expand(4, 3, 5), torch.randn(4, 3, 9)
    found = results(mode, build, x.detach().requires_grad_(), weighing, lambda tensor: tensor, 9)
    assert_same(found, results(mode, build, x.clone().requires_grad_(), weighing, lambda tensor: tensor, 9))


@modes
@builds
@pytest.mark.parametrize("hidden", [1, 9])
def test_expanded_gradient_of_the_output_is_that_of_a_sum(mode: str, build: str, hidden: int) -> None:
    x, ones = torch.randn(4, 3, 5), torch.ones(4, 3, hidden)
    plain = results(mode, build, x, ones, lambda tensor: tensor, hidden)
    assert_same(results(mode, build, x, torch.ones(()).expand(4, 3, hidden), lambda t: t, hidden), plain)
    rows = torch.ones(hidden).expand(4, 3, hidden)  # no distance between steps and rows
    assert_same(results(mode, build, x, rows, lambda tensor: tensor, hidden), plain)


@pytest.mark.parametrize("inputs", [1, 3])
def test_input_that_is_stored_negated_is_read_with_its_sign(inputs: int) -> None:
    layer = unrolled.LSTM(inputs, 4)
    x = torch.randn(5, 2, inputs, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    torch.testing.assert_close(layer(x)[0], layer(x.clone())[0])


def test_gradient_that_is_stored_negated_is_read_with_its_sign() -> None:
    layer = unrolled.LSTM(3, 1)
    gradient = torch.randn(5, 2, 1, dtype=torch.complex64).conj().imag
    assert gradient.is_neg()
    x = torch.randn(5, 2, 3)
    found = torch.autograd.grad(layer(x)[0], list(layer.parameters()), gradient)
    for one, other in zip(
        found, torch.autograd.grad(layer(x)[0], list(layer.parameters()), gradient.clone()), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_weights_of_another_dtype_never_give_another_result(name: str) -> None:
    layer, x = unrolled.LSTM(3, 4), torch.randn(5, 2, 3)
    right, _ = layer(x)
    parameter = getattr(layer, name)
    parameter.data = parameter.data.double()
    try:
        found, _ = layer(x)
    except (RuntimeError, ValueError):
        return
    torch.testing.assert_close(found.float(), right)


@builds
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(("inputs", "hidden"), [(7, 19), (32, 64), (40, 128)])
def test_layers_are_within_a_millionth_of_float64(build: str, kind: str, inputs: int, hidden: int) -> None:
    layer = getattr(unrolled, kind)(inputs, hidden, num_layers=2, bidirectional=True)
    exact = getattr(torch.nn, kind)(inputs, hidden, num_layers=2, bidirectional=True).double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(30, 4, inputs)
    with using(build), torch.no_grad():
        output, final = layer(x)
        exact_output, exact_final = exact(x.double())
    if kind != "LSTM":
        final, exact_final = (final,), (exact_final,)
    for found, other in zip((output, *final), (exact_output, *exact_final), strict=True):
        assert relative_error(found, other) <= 1e-6


@builds
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_gradients_summed_over_many_rows_are_as_exact_as_those_of_torch(build: str, kind: str) -> None:
    """A weight's gradient is a sum of T * B = 12800 terms."""
    layer, torchs = getattr(unrolled, kind)(8, 24), getattr(torch.nn, kind)(8, 24)
    torchs.load_state_dict(layer.state_dict())
    exact = getattr(torch.nn, kind)(8, 24).double()
    exact.load_state_dict(layer.state_dict())
    x, weighing = torch.randn(100, 128, 8), torch.rand(100, 128, 24)

    def gradients(module: torch.nn.Module, dtype: torch.dtype) -> list[Tensor]:
        return list(torch.autograd.grad(module(x.to(dtype))[0], list(module.parameters()), weighing.to(dtype)))

    right = gradients(exact, torch.float64)
    with using(build):
        found = gradients(layer, torch.float32)
    for one, other, true in zip(found, gradients(torchs, torch.float32), right, strict=True):
        assert relative_error(one, true) <= max(1e-6, 3 * relative_error(other, true))


@modes
@builds
def test_same_call_gives_the_same_bits(mode: str, build: str) -> None:
    repeated = Case(mode, 20, 5, 6, 37, lengths=uneven_lengths(20, 5))
    tensors = drawn(repeated)
    with using(build, threads=2):
        first, second = by_kernels(repeated, tensors), by_kernels(repeated, tensors)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@modes
def test_builds_agree(mode: str) -> None:
    tested = Case(mode, 6, 3, 9, 33)
    exact, bounds = expected(tested)
    found = []
    for build in BUILDS:
        with using(build):
            found.append(by_kernels(tested, drawn(tested)))
    for one, other in itertools.combinations(found, 2):
        for name, value in one.items():
            assert relative_error(value - other[name] + exact[name], exact[name]) <= 2 * bounds[name]
