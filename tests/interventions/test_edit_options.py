"""Edits under every option of the layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import unrolled
from edited import (
    LENGTHS,
    NAMES,
    TOLERANCE,
    B,
    H,
    Hand,
    I,
    T,
    agree,
    at,
    before,
    both,
    drawing_noise_in_float32,
    drawn,
    dtypes,
    every_mode,
    every_name,
    given,
    made,
)
from exact import VARIANTS, close, finals, wild
from unrolled import Apply, Push, Scale
from unrolled.recurrence import cpu
from unrolled.recurrence.cells import CELLS


@dtypes
@every_mode
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_stack_of_layers_equals_the_hand_written_one(
    mode: str, bidirectional: bool, batch_first: bool, dtype: torch.dtype
) -> None:
    module = made(mode, num_layers=2, bidirectional=bidirectional, batch_first=batch_first, dtype=dtype)
    exact = copy.deepcopy(module).double()
    x, exact_x = (drawn(T, B, I, dtype=one) for one in (dtype, torch.float64))
    push, exact_push = (drawn(H, seed=5, dtype=one) for one in (dtype, torch.float64))
    states, exact_states = before(module), before(exact)
    name = NAMES[mode][-1]
    edits = [Push("l0.hidden", push, steps=0), Scale(f"l1*.{name}", push, steps=[4, 8], rows=1)]
    change = both(
        at("l0.hidden", [0], lambda v, n, t: v + exact_push),
        at(f"l1*.{name}", [4, 8], lambda v, n, t: v * exact_push, rows=[1]),
    )
    with unrolled.intervene(module, *edits):
        output, final = module(x.transpose(0, 1) if batch_first else x, given(states))
    found = (output.transpose(0, 1) if batch_first else output, final)
    agree(
        found,
        Hand(exact, exact_x, exact_states, change).result,
        [x, push, *states, *module.parameters()],
        [exact_x, exact_push, *exact_states, *exact.parameters()],
        TOLERANCE[dtype],
    )


@dtypes
@every_mode
@pytest.mark.parametrize("bias", [False, True])
def test_one_sequence_without_a_batch_is_a_batch_of_one(mode: str, bias: bool, dtype: torch.dtype) -> None:
    module = made(mode, bias=bias, dtype=dtype)
    exact, x, exact_x = copy.deepcopy(module).double(), drawn(T, I, dtype=dtype), drawn(T, I)
    with unrolled.intervene(module, Push("*.hidden", 0.5, steps=4, rows=0)):
        output, final = module(x)
    zeros = [torch.zeros(1, 1, H).double()] * (2 if mode == "LSTM" else 1)
    hand = Hand(exact, exact_x.unsqueeze(1), zeros, at("*.hidden", [4], lambda v, n, t: v + 0.5))
    states = final if isinstance(final, tuple) else (final,)
    agree(
        (output.unsqueeze(1), given([s.unsqueeze(1) for s in states])),
        hand.result,
        [x, *module.parameters()],
        [exact_x, *exact.parameters()],
        TOLERANCE[dtype],
    )


@dtypes
@pytest.mark.parametrize("name", NAMES["LSTM"])
def test_a_projected_lstm_equals_the_hand_written_one(name: str, dtype: torch.dtype) -> None:
    module = made(proj_size=2, bidirectional=True, dtype=dtype)
    exact, x, exact_x = copy.deepcopy(module).double(), drawn(T, B, I, dtype=dtype), drawn(T, B, I)
    width = 2 if name == "hidden" else H
    push, exact_push = (drawn(width, seed=5, dtype=one) for one in (dtype, torch.float64))
    states, exact_states = before(module), before(exact)
    with unrolled.intervene(module, Push(f"*.{name}", push, steps=[4])):
        found = module(x, states)
    agree(
        found,
        Hand(exact, exact_x, exact_states, at(f"*.{name}", [4], lambda v, n, t: v + exact_push)).result,
        [x, push, *states, *module.parameters()],
        [exact_x, exact_push, *exact_states, *exact.parameters()],
        TOLERANCE[dtype],
    )


@dtypes
@every_name
@pytest.mark.parametrize("packed", [False, True])
def test_sequences_of_unequal_length_are_edited_as_each_alone(
    mode: str, name: str, packed: bool, dtype: torch.dtype
) -> None:
    module = made(mode, bidirectional=True, num_layers=2, dtype=dtype)
    exact = copy.deepcopy(module).double()
    x, exact_x = drawn(T, B, I, dtype=dtype), drawn(T, B, I)
    push, exact_push = (drawn(B, H, seed=5, dtype=one) for one in (dtype, torch.float64))
    states, exact_states = before(module), before(exact)
    steps = [1, 4, 8]
    edit = Push(f"*.{name}", push, steps=steps, rows=[0, 2])
    if packed:
        with unrolled.intervene(module, edit), unrolled.record(module) as trace:
            output, final = module(pack_padded_sequence(x, LENGTHS, enforce_sorted=False), given(states))
        output = pad_packed_sequence(output)[0]
    else:
        unrolled.convert(module)
        with unrolled.intervene(module, edit), unrolled.record(module) as trace:
            output, final = module(x, given(states), lengths=LENGTHS)
    found, values = (output, final), [trace[f"l1.{name}"], trace[f"l0_reverse.{name}"]]
    rows: list[list[Tensor]] = []
    for row, length in enumerate(LENGTHS.tolist()):

        def how(v: Tensor, n: str, t: int, row: int = row) -> Tensor:
            return v + exact_push[row] if row in (0, 2) else v

        alone = [s[:, row : row + 1] for s in exact_states]
        hand = Hand(exact, exact_x[:length, row : row + 1], alone, at(f"*.{name}", steps, how))
        fill = (0, 0, 0, 0, 0, T - length)
        seen = [
            nn.functional.pad(hand.joined(one).transpose(0, 1), fill) for one in (f"l1.{name}", f"l0_reverse.{name}")
        ]
        rows.append([nn.functional.pad(hand.result[0], fill), *finals(hand.result), *seen])
    output, *ends, one, other = (torch.cat(parts, 1) for parts in zip(*rows, strict=True))
    close(values, [one.transpose(0, 1), other.transpose(0, 1)], TOLERANCE[dtype])
    agree(
        found,
        (output, given(ends)),
        [x, push, *states, *module.parameters()],
        [exact_x, exact_push, *exact_states, *exact.parameters()],
        TOLERANCE[dtype],
    )


@dtypes
@every_mode
def test_resets_and_edits_of_the_same_and_other_steps(mode: str, dtype: torch.dtype) -> None:
    module = unrolled.convert(made(mode, num_layers=2, dtype=dtype))
    exact = copy.deepcopy(module).double()
    x, exact_x = drawn(T, B, I, dtype=dtype), drawn(T, B, I)
    reset = torch.zeros(T, B, dtype=torch.bool)
    for t, b in [(0, 1), (3, 0), (4, 0), (5, 2), (5, 1), (8, 0)]:
        reset[t, b] = True
    states, exact_states = before(module), before(exact)
    with unrolled.intervene(module, Push("*.hidden", 0.5, steps=[4])):
        found = module(x, given(states), reset=reset)
    agree(
        found,
        Hand(exact, exact_x, exact_states, at("*.hidden", [4], lambda v, n, t: v + 0.5), reset).result,
        [x, *states, *module.parameters()],
        [exact_x, *exact_states, *exact.parameters()],
        TOLERANCE[dtype],
    )


@every_mode
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_edited_in_float32_inside(mode: str, dtype: torch.dtype) -> None:
    module = made(mode, bidirectional=True).to(dtype)
    single, x = copy.deepcopy(module).float(), drawn(T, B, I, dtype=dtype, grad=False)
    seen: list[torch.dtype] = []
    edit = Apply("*.hidden", lambda state, t: seen.append(state.dtype) or state * 1.5, steps=4)
    with unrolled.intervene(module, edit):
        output, _ = module(x)
    with unrolled.intervene(single, edit):
        wanted, _ = single(x.float())
    assert set(seen) == {torch.float32}
    assert torch.equal(output, wanted.to(dtype))


def test_under_autocast_edits_are_made_in_float32_and_the_outputs_are_halves() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    edit = Push("l0.cell", drawn(H, dtype=torch.float64), steps=4)
    with unrolled.intervene(module, edit):
        wanted, _ = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, _ = module(x)
    assert output.dtype is torch.bfloat16
    close(output, wanted, 0.01)


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
@every_mode
def test_without_gradients_the_results_are_the_same(mode: str, without: Any) -> None:
    module, x = made(mode), drawn(T, B, I, dtype=torch.float32)
    for layer in (module, unrolled.convert(copy.deepcopy(module))):
        with unrolled.intervene(layer, Push("*.hidden", 0.5, steps=4)):
            wanted = layer(x)
            with without():
                found = layer(x)
        assert not found[0].requires_grad
        close([found[0], *finals(found)], [wanted[0], *finals(wanted)])


def test_dropout_between_layers_draws_the_same_numbers_when_edited() -> None:
    module, x = made(num_layers=2, dropout=0.5).train(), drawn(T, B, I, dtype=torch.float32)
    torch.manual_seed(1)
    plain, _ = module(x)
    torch.manual_seed(1)
    with unrolled.intervene(module, Scale("l0.cell", 1.0, steps=4)):
        close(module(x)[0], plain)


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_a_variant_in_pieces_equals_its_reference_under_the_same_seed(kind: str, training: bool) -> None:
    module = getattr(unrolled, kind)(I, H, 2, bidirectional=True).train(training)
    states, x = (drawn(4, B, H, seed=1), drawn(4, B, H, seed=2)), drawn(T, B, I)
    vector = drawn(H, seed=3)
    for name in CELLS[module.mode].names:
        found = []
        for one, backend in ((module, "cpu"), (copy.deepcopy(module).double(), "reference")):
            dtype = one.weight_ih_l0.dtype
            leaves = [t.detach().to(dtype).requires_grad_() for t in (x, vector, *states)]
            edit = Push(f"*.{name}", leaves[1], steps=[4], units=slice(1, 4), rows=[0, 2])
            torch.manual_seed(5)
            if cpu.missing() is not None:
                backend = "reference"
            with drawing_noise_in_float32(type(one)), unrolled.backend(backend), unrolled.intervene(one, edit):
                result = one(leaves[0], (leaves[2], leaves[3]))
            gradients = torch.autograd.grad(wild(result), [*leaves, *one.parameters()], materialize_grads=True)
            found.append([result[0], *result[1], *gradients])
        # What is nearly constant is normalised by a small number, which makes much of a rounding, edited or not.
        close(found[0], found[1], 2e-3 if kind == "LayerNormLSTM" else 1e-4)
