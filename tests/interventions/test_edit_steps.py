"""Cells in a user's loop, and how steps are counted."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unrolled
from edited import (
    KINDS_OF_EDIT,
    ROWS,
    STEPS,
    TOLERANCE,
    UNITS,
    B,
    Drawn,
    H,
    Hand,
    I,
    Loop,
    T,
    Twice,
    agree,
    at,
    changed_steps,
    clamp,
    drawn,
    dtypes,
    edited_at,
    every_mode,
    every_name,
    given,
    layer_like,
    made,
)
from exact import close, finals, wild
from unrolled import Clamp, Push

# Cells in a user's loop


@dtypes
@pytest.mark.parametrize("edit", ["zero", "mean", "clamp units", "scale", "push", "patch"])
@every_name
def test_a_cell_in_a_users_loop_equals_the_hand_written_loop(
    mode: str, name: str, edit: str, dtype: torch.dtype
) -> None:
    model = Loop(mode, dtype=dtype)
    exact = layer_like(model.cell, mode)
    make, by_hand = KINDS_OF_EDIT[edit]
    mine, theirs = Drawn(name, dtype), Drawn(name, torch.float64)
    mine.source = {f"cell.{name}": mine.source[f"l0.{name}"]}
    x, exact_x = drawn(T, B, I, dtype=dtype), drawn(T, B, I)
    count = 2 if mode == "LSTM" else 1
    states = [drawn(B, H, seed=1 + i, dtype=dtype) for i in range(count)]
    exact_states = [drawn(B, H, seed=1 + i) for i in range(count)]
    with unrolled.intervene(model, make(f"cell.{name}", mine)):
        found = model(x, states)
    hand = Hand(
        exact,
        exact_x,
        [s.unsqueeze(0) for s in exact_states],
        at(f"l0.{name}", STEPS, partial(by_hand, theirs), units=UNITS, rows=ROWS),
    )
    output, final = hand.result
    agree(
        found,
        (output, given([s[0] for s in finals((output, final))])),
        [x, *states, *model.cell.parameters(), mine.few, mine.row, mine.batch, *mine.source.values()],
        [exact_x, *exact_states, *exact.parameters(), *theirs.leaves[:4]],
        TOLERANCE[dtype],
    )


def test_a_cell_is_recorded_as_it_is_edited_and_gradients_by_its_states_are_found() -> None:
    model = Loop(dtype=torch.float64)
    exact, x, states = layer_like(model.cell, "LSTM"), drawn(T, B, I), [drawn(B, H, seed=1), drawn(B, H, seed=2)]
    with unrolled.intervene(model, Clamp("cell.cell", 0.3, steps=4)), unrolled.record(model) as trace:
        result = model(x, states)
    hand = Hand(exact, x, [s.unsqueeze(0) for s in states], at("l0.cell", [4], lambda v, n, t: torch.full_like(v, 0.3)))
    output, final = hand.result
    gradients = torch.autograd.grad(wild(result), [trace[one] for one in trace])
    loss = wild((output, given([s[0] for s in finals((output, final))])))
    close(gradients, [hand.gradient(loss, one.replace("cell.", "l0.", 1)) for one in trace])


def test_one_sequence_without_a_batch_goes_through_an_edited_cell() -> None:
    cell, x = nn.GRUCell(I, H), drawn(I, dtype=torch.float32)
    with unrolled.intervene(cell, Push("hidden", 1.0, units=2)):
        edited = cell(x)
    wanted = cell(x).clone()
    wanted[2] += 1
    close(edited, wanted)


@pytest.mark.parametrize("edit", [Clamp("cell.hidden", 0.5), Clamp("cell.hidden", torch.full((B, H), 0.5))])
def test_states_that_were_edited_can_be_changed_in_place_by_the_user(edit: Any) -> None:
    model = Loop("GRU")
    with torch.no_grad(), unrolled.intervene(model, edit):
        _, state = model(drawn(T, B, I, dtype=torch.float32), [torch.zeros(B, H)])
    state[0, 0] = 7.0
    assert state[0].tolist() == [7.0, 0.5, 0.5, 0.5, 0.5]
    assert (state[1:] == 0.5).all()
    assert not isinstance(edit.value, Tensor) or (edit.value == 0.5).all()


# Counting steps


def test_steps_begin_at_0_with_every_call_of_the_model() -> None:
    model, x = nn.Sequential(made()), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(model, clamp("0.l0.cell", 3)), unrolled.record(model) as trace:
        model(x)
        model(x)
    assert edited_at(trace, "0.l0.cell") == [3, T + 3]


def test_steps_are_counted_over_the_calls_of_a_cell_within_one_call_of_the_model() -> None:
    model, x = Loop("GRU"), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(model, clamp("cell.hidden", [0, 7])), unrolled.record(model) as trace:
        model(x, [torch.zeros(B, H)])
        model(x, [torch.zeros(B, H)])
    assert edited_at(trace, "cell.hidden") == [0, 7, T, T + 7]


@pytest.mark.parametrize("steps", [0, 3, 4, 8, [3, 4], slice(2, 6), slice(1, None, 3)])
def test_steps_are_counted_over_the_calls_of_a_layer_within_one_call_of_the_model(steps: Any) -> None:
    model, x = Twice(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(model, Push("lstm.l0.cell", 1.0, steps=steps)):
        found = model(x)
    with unrolled.intervene(model.lstm, Push("l0.cell", 1.0, steps=steps)):
        wanted, _ = model.lstm(x)
    close(found, wanted)
    assert changed_steps(found.transpose(0, 1), model(x).transpose(0, 1))


def test_a_bare_layer_goes_on_from_the_call_before_where_it_is_given_states() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(module, clamp("l0.cell", 5)), unrolled.record(module) as trace:
        for sequence in (x, 2 * x):
            states = None
            for piece in sequence.split(3):
                _, states = module(piece, states)
        for piece in x.split(3):
            states = None if piece.data_ptr() == x.data_ptr() else states
            _, states = module(piece, hx=states)
    assert edited_at(trace, "l0.cell") == [5, T + 5, 2 * T + 5]


def test_a_bare_layer_that_is_given_no_states_begins_anew() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(module, clamp("l0.cell", 5)), unrolled.record(module) as trace:
        module(x)
        module(x, None)
        module(x, hx=None)
    assert edited_at(trace, "l0.cell") == [5, T + 5, 2 * T + 5]


@every_mode
def test_a_bare_cell_goes_on_where_it_is_given_states(mode: str) -> None:
    cell, x = Loop(mode).cell, drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(cell, clamp("hidden", [0, 2])), unrolled.record(cell) as trace:
        for _ in range(2):
            state = None
            for step in x[:4]:
                state = cell(step, state)
    assert edited_at(trace, "hidden") == [0, 2, 4, 6]


def test_a_part_that_is_called_without_its_model_goes_on_counting() -> None:
    model, x = nn.ModuleDict({"lstm": made()}), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(model, clamp("lstm.l0.cell", [3, T + 2])), unrolled.record(model) as trace:
        model["lstm"](x)
        model["lstm"](x)
    assert edited_at(trace, "lstm.l0.cell") == [3, T + 2]


def test_steps_of_the_backward_direction_are_those_of_the_sequence() -> None:
    module, x = made(bidirectional=True), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(module, clamp("*.cell", 2)), unrolled.record(module) as trace:
        module(x)
    assert edited_at(trace, "l0.cell") == edited_at(trace, "l0_reverse.cell") == [2]
