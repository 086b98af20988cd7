"""What a call of the Triton kernels may be: layouts, sizes of zero, and what of the results is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from against_reference import Case, drawn, uneven_lengths
from by_triton import call_of, incoming, launch, poisoned
from unrolled.recurrence.call import Call, Forward, Gradients
from unrolled.recurrence.cells import CELLS

# Each has something of its own in the kernels or beside them.
modes = pytest.mark.parametrize(
    "mode", ["RNN_TANH", "GRU", "LSTM_PEEPHOLE", "LSTM_ZONEOUT", "LSTM_VARIATIONAL_DROPOUT"]
)
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def computed(call: Call, grads: Any, **needed: bool) -> tuple[Forward, Gradients]:
    """Both ways, over memory full of NaN; everything is asked for but what is said not to be."""
    wanted = {"need_x": True, "need_weights": True, "need_totals": True} | needed
    with poisoned():
        result = launch.forward(call, keep=True)
        kept = (result.output, result.cells, result.gates)
        return result, launch.backward(call, kept, grads, **wanted)


def same(found: Any, other: Any) -> bool:
    """Whether two results hold the same bits wherever both have something."""
    return all(one is None or two is None or torch.equal(one, two) for one, two in zip(found, other, strict=True))


def prepared(mode: str, reverse: bool = False, *, lengths: bool = True) -> tuple[Call, tuple[Tensor | None, ...]]:
    case = Case(mode, 3, 4, 2, 7, reverse, uneven_lengths(3, 4) if lengths else None, reset=True)
    tensors = drawn(case)
    call = call_of(case, tensors)
    return call, incoming(call, tensors.weighing)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def columns(x: Tensor) -> Tensor:
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def with_gaps(x: Tensor) -> Tensor:
    around = x.new_full([size + 3 for size in x.shape], float("nan"))
    inside = around[tuple(slice(1, size + 1) for size in x.shape)]
    inside.copy_(x)
    return inside


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": transposed,
    "columns": columns,
    "gaps": with_gaps,
}


@modes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_results(mode: str, layout: str) -> None:
    def changed(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return tensor
        return with_gaps(tensor) if tensor.dim() == 1 else LAYOUTS[layout](tensor)

    call, grads = prepared(mode)
    extras = tuple(map(changed, call.extras))
    other = Call(*map(changed, call))._replace(extras=extras, masks=tuple(map(changed, call.masks)))
    result, found = computed(call, grads)
    for one, two in zip((result, found), computed(other, tuple(map(changed, grads))), strict=True):
        for first, second in zip(one, two, strict=True):
            assert first is None or torch.allclose(first, second, rtol=1e-5, atol=1e-6)


@modes
def test_marks_with_gaps_give_the_same_results(mode: str) -> None:
    call, grads = prepared(mode)
    assert call.lengths is not None
    assert call.reset is not None
    lengths = torch.stack((call.lengths, call.lengths + 100), 1)[:, 0]
    reset = torch.stack((call.reset, ~call.reset), 2)[:, :, 0]
    assert not lengths.is_contiguous()
    for one, two in zip(
        computed(call, grads), computed(call._replace(lengths=lengths, reset=reset), grads), strict=True
    ):
        assert same(one, two)


@modes
@both_directions
def test_expanded_gradient_of_the_output_is_that_of_a_sum(mode: str, reverse: bool) -> None:
    call, grads = prepared(mode, reverse)
    ones = torch.ones_like(call.x[..., :1]).expand(*call.x.shape[:2], 7)
    single = call.x.new_ones(()).expand(ones.shape)  # as that of output.sum()
    assert single.stride() == (0, 0, 0)
    _, expected = computed(call, (ones.contiguous(), *grads[1:]))
    for expanded in (ones, single):
        _, found = computed(call, (expanded, *grads[1:]))
        assert same(found, expected)


@modes
@both_directions
def test_only_what_is_asked_for_is_formed_and_it_is_the_same(mode: str, reverse: bool) -> None:
    call, grads = prepared(mode, reverse)
    _, everything = computed(call, grads)
    assert all(tensor is not None for tensor in (everything.x, everything.weight_ih, everything.totals))
    for name, missing in {
        "need_x": ("x",),
        "need_weights": ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "peephole"),
        "need_totals": ("totals",),
    }.items():
        _, found = computed(call, grads, **{name: False})
        assert same(found, everything)
        assert all(getattr(found, one) is None for one in missing)
        expected = {one for one, value in everything._asdict().items() if value is not None} - set(missing)
        assert {one for one, value in found._asdict().items() if value is not None} == expected


@modes
def test_gradients_that_do_not_come_in_count_as_zero(mode: str) -> None:
    call, grads = prepared(mode)
    for place, grad in enumerate(grads):
        if grad is None:
            continue
        without = (*grads[:place], None, *grads[place + 1 :])
        zeros = (*grads[:place], torch.zeros_like(grad), *grads[place + 1 :])
        _, found = computed(call, without)
        _, expected = computed(call, zeros)
        assert same(found, expected)


@modes
@both_directions
def test_without_keeping_output_and_final_states_are_the_same(mode: str, reverse: bool) -> None:
    call, _ = prepared(mode, reverse)
    with poisoned():
        kept, closed = launch.forward(call, keep=True), launch.forward(call, keep=False)
    assert same(kept[:3], closed[:3])
    assert closed.cells.numel() == closed.gates.numel() == 0


@modes
def test_arguments_are_left_as_they_were(mode: str) -> None:
    call, grads = prepared(mode)
    given = [*call[:8], call.reset, *call.extras, *call.masks, *grads]
    before = [None if tensor is None else tensor.clone() for tensor in given]
    computed(call, grads)
    assert same(given, before)


@modes
@both_directions
def test_empty_batch_gives_empty_results_and_gradients_of_zero(mode: str, reverse: bool) -> None:
    case = Case(mode, 3, 0, 2, 5, reverse)
    tensors = drawn(case)
    call = call_of(case, tensors)
    result, found = computed(call, incoming(call, tensors.weighing))
    assert result.output.shape == (3, 0, 5)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        assert (getattr(found, name) == 0).all(), name
        assert getattr(found, name).shape == getattr(call, name).shape


@modes
def test_no_steps_leave_the_initial_states(mode: str) -> None:
    case = Case(mode, 0, 3, 2, 5)
    tensors = drawn(case)
    call = call_of(case, tensors)
    grads = incoming(call, tensors.weighing)
    result, found = computed(call, grads)
    assert torch.equal(result.final_hidden, call.hidden)
    assert torch.equal(found.hidden, grads[1])
    if call.cell is not None:
        assert torch.equal(result.final_cell, call.cell)
        assert torch.equal(found.cell, grads[2])
    assert (found.weight_hh == 0).all()


@modes
@both_directions
def test_sequences_without_steps_pass_their_states_and_gradients_through(mode: str, reverse: bool) -> None:
    case = Case(mode, 3, 4, 2, 9, reverse, (0, 0, 0, 0), reset=True)
    tensors = drawn(case)
    call = call_of(case, tensors)
    grads = incoming(call, tensors.weighing)
    result, found = computed(call, grads)
    assert (result.output == 0).all()
    states = [result.final_hidden, result.final_cell][: len(CELLS[mode].states)]
    for state, gradient, initial, grad in zip(states, found[1:3], call[1:3], grads[1:3], strict=False):
        assert torch.equal(state, initial)
        assert torch.equal(gradient, grad)
    assert (found.x == 0).all()
    assert (found.weight_hh == 0).all()


@modes
@both_directions
def test_nothing_is_read_of_a_gradient_after_a_sequence_ended(mode: str, reverse: bool) -> None:
    call, grads = prepared(mode, reverse)
    ended = torch.arange(3, device=call.x.device).unsqueeze(1) >= call.lengths  # (T, B)
    filled = tuple(
        grad if grad is None or grad.dim() == 2 else grad.masked_fill(ended.unsqueeze(2), float("nan"))
        for grad in grads
    )
    _, expected = computed(call, grads)
    _, found = computed(call, filled)
    assert same(found, expected)


@modes
@both_directions
def test_two_runs_hold_the_same_bits(mode: str, reverse: bool) -> None:
    call, grads = prepared(mode, reverse, lengths=False)
    for one, two in zip(computed(call, grads), computed(call, grads), strict=True):
        assert same(one, two)
