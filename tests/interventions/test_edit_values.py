"""Every edit of every state and gate against a loop written out by hand, and the order inside a step."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import unrolled
from edited import (
    KINDS_OF_EDIT,
    NAMES,
    ROWS,
    STEPS,
    TOLERANCE,
    UNITS,
    B,
    Drawn,
    H,
    Hand,
    I,
    T,
    agree,
    at,
    before,
    changed_steps,
    drawn,
    dtypes,
    every_name,
    given,
    made,
    others_of,
)
from exact import close, wild
from unrolled import Clamp, Push, Scale

# Every edit of every name


@dtypes
@pytest.mark.parametrize("edit", KINDS_OF_EDIT)
@every_name
def test_every_edit_of_every_name_equals_the_hand_written_loop_in_results_and_all_gradients(
    mode: str, name: str, edit: str, dtype: torch.dtype
) -> None:
    module = made(mode, bidirectional=True, dtype=dtype)
    exact = copy.deepcopy(module).double()
    make, by_hand = KINDS_OF_EDIT[edit]
    mine, theirs = Drawn(name, dtype), Drawn(name, torch.float64)
    x, exact_x = drawn(T, B, I, dtype=dtype), drawn(T, B, I)
    states, exact_states = before(module), before(exact)
    if "resampled" in edit:
        theirs.others = others_of(edit, module, x, given(states), mine)
        assert "source" in edit or not (theirs.others == torch.arange(B)).any()
    with unrolled.intervene(module, make(f"*.{name}", mine)):
        found = module(x, given(states))
    hand = Hand(exact, exact_x, exact_states, at(f"*.{name}", STEPS, partial(by_hand, theirs), units=UNITS, rows=ROWS))
    leaves = [x, *states, *module.parameters(), *mine.leaves]
    exact_leaves = [exact_x, *exact_states, *exact.parameters(), *theirs.leaves]
    agree(found, hand.result, leaves, exact_leaves, TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("edit", ["zero", "mean", "clamp units", "push", "patch"])
@every_name
def test_what_is_recorded_and_gradients_by_it_equal_the_hand_written_loop_before_at_and_after_the_edit(
    mode: str, name: str, edit: str, dtype: torch.dtype
) -> None:
    module = made(mode, bidirectional=True, batch_first=True, dtype=dtype)
    exact = copy.deepcopy(module).double()
    make, by_hand = KINDS_OF_EDIT[edit]
    x, mine, theirs = drawn(B, T, I, dtype=dtype), Drawn(name, dtype), Drawn(name, torch.float64)
    with unrolled.record(module) as trace, unrolled.intervene(module, make(f"*.{name}", mine)):
        found = module(x)
    hand = Hand(
        exact,
        x.double().transpose(0, 1),
        [torch.zeros(2, B, H).double()] * (2 if mode == "LSTM" else 1),
        at(f"*.{name}", STEPS, partial(by_hand, theirs), units=UNITS, rows=ROWS),
    )
    assert set(trace) == set(hand.nodes)
    close([trace[one] for one in trace], [hand.joined(one) for one in trace], TOLERANCE[dtype])
    loss = wild((found[0].transpose(0, 1), found[1]))
    gradients = torch.autograd.grad(loss, [trace[one] for one in trace])
    close(gradients, [hand.gradient(wild(hand.result), one) for one in trace], TOLERANCE[dtype])


# Order inside a step


def test_an_edit_of_the_cell_is_seen_by_the_hidden_state_of_the_same_step(plain_and_edited: Any) -> None:
    plain, trace, _, output = plain_and_edited(Push("l0.cell", 1.0, steps=4))
    assert changed_steps(plain["l0.cell"], trace["l0.cell"])[0] == 4
    assert changed_steps(plain["l0.output_gate"], trace["l0.output_gate"])[0] == 5
    close(trace["l0.cell"][:, 4], plain["l0.cell"][:, 4] + 1)
    close(trace["l0.hidden"][:, 4], trace["l0.output_gate"][:, 4] * torch.tanh(plain["l0.cell"][:, 4] + 1))
    assert torch.equal(output, trace["l0.hidden"])


def test_an_edit_of_the_hidden_state_is_seen_by_the_output_of_its_step_and_by_the_next(plain_and_edited: Any) -> None:
    plain, trace, before_output, output = plain_and_edited(Push("l0.hidden", 1.0, steps=4))
    for name in NAMES["LSTM"][1:]:
        assert changed_steps(plain[f"l0.{name}"], trace[f"l0.{name}"])[0] == 5
    close(output[:, 4], before_output[:, 4] + 1)


def test_an_edit_of_a_gate_is_seen_by_the_cell_of_the_same_step(plain_and_edited: Any) -> None:
    plain, trace, _, _ = plain_and_edited(Clamp("l0.forget_gate", 0.0, steps=4))
    close(trace["l0.cell"][:, 4], plain["l0.input_gate"][:, 4] * plain["l0.candidate"][:, 4])


def test_an_edit_of_the_last_step_is_in_the_final_states(plain_and_edited: Any) -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(module, Clamp("l0.cell", 0.5, steps=T - 1)):
        output, (hidden, cell) = module(x)
    assert torch.equal(cell, torch.full_like(cell, 0.5))
    assert torch.equal(hidden[0], output[-1])


def test_edits_of_one_name_are_made_in_the_order_in_which_they_are_given() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    push, scale = Push("l0.hidden", 1.0, steps=4), Scale("l0.hidden", 2.0, steps=4)
    plain = module(x)[0][4]
    with unrolled.intervene(module, push, scale):
        close(module(x)[0][4], (plain + 1) * 2)
    with unrolled.intervene(module, scale, push):
        close(module(x)[0][4], plain * 2 + 1)


def test_nested_contexts_edit_from_the_outer_to_the_inner_and_leave_one_by_one() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    plain = module(x)[0][4]
    with unrolled.intervene(module, Push("l0.hidden", 1.0, steps=4)):
        with unrolled.intervene(module, Scale("l0.hidden", 2.0, steps=4)):
            close(module(x)[0][4], (plain + 1) * 2)
        close(module(x)[0][4], plain + 1)
    assert torch.equal(module(x)[0][4], plain)


def test_contexts_of_a_model_and_of_a_part_of_it_are_both_at_work() -> None:
    model, x = nn.Sequential(made()), drawn(T, B, I, dtype=torch.float32)
    plain = model(x)[0]
    with (
        unrolled.intervene(model, Push("0.l0.hidden", 1.0, steps=8)),
        unrolled.intervene(model[0], Scale("l0.hidden", 2.0, steps=8)),
    ):
        close(model(x)[0][8], (plain[8] + 1) * 2)


@pytest.mark.parametrize("inside", [False, True])
def test_a_record_inside_or_outside_shows_what_the_step_goes_on_with(inside: bool) -> None:
    module, x = made(batch_first=True), drawn(B, T, I, dtype=torch.float32)
    edit = unrolled.intervene(module, Clamp("*.cell", 0.5, steps=[0, 6]))
    record = unrolled.record(module)
    with edit if inside else record as first, record if inside else edit as second:
        output, _ = module(x)
    trace = second if inside else first
    assert torch.equal(trace["l0.cell"][:, [0, 6]], torch.full((B, 2, H), 0.5))
    assert torch.equal(trace["l0.hidden"], output)
    assert not (trace["l0.cell"][:, 5] == 0.5).any()
