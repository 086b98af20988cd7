"""An edited sequence is taken in pieces, and only its edited steps by the reference."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given as drawing
from hypothesis import settings
from torch import Tensor

import unrolled
from edited import (
    B,
    H,
    I,
    T,
    Twice,
    calls,
    drawn,
    every_mode,
    made,
    spans,
    steps_of_a_sequence,
)
from exact import wild
from unrolled import Ablate, Apply
from unrolled.recurrence import cpu, ops, pieces, reference
from unrolled.recurrence.cells import CELLS


@pytest.mark.parametrize(
    ("edited", "length", "wanted"),
    [
        ([], 5, [(0, 5, False)]),
        ([0], 1, [(0, 1, True)]),
        ([0], 9, [(0, 1, True), (1, 9, False)]),
        ([8], 9, [(0, 8, False), (8, 9, True)]),
        ([4], 9, [(0, 4, False), (4, 5, True), (5, 9, False)]),
        ([2], 9, [(0, 3, True), (3, 9, False)]),
        ([3], 9, [(0, 3, False), (3, 4, True), (4, 9, False)]),
        ([6], 9, [(0, 6, False), (6, 9, True)]),
        ([5], 9, [(0, 5, False), (5, 6, True), (6, 9, False)]),
        ([10, 11], 30, [(0, 10, False), (10, 12, True), (12, 30, False)]),
        ([10, 13], 30, [(0, 10, False), (10, 14, True), (14, 30, False)]),
        ([10, 14], 30, [(0, 10, False), (10, 11, True), (11, 14, False), (14, 15, True), (15, 30, False)]),
        (list(range(9)), 9, [(0, 9, True)]),
    ],
)
def test_the_reference_takes_edited_steps_and_gaps_too_short_for_a_call(
    edited: list[int], length: int, wanted: list[tuple[int, int, bool]]
) -> None:
    assert spans(edited, length) == wanted


@drawing(steps_of_a_sequence)
def test_pieces_cover_the_sequence_in_turns_and_hold_every_edited_step(case: tuple[list[int], int]) -> None:
    edited, length = case
    found = spans(edited, length)
    assert [first for first, _, _ in found] + [length] == [0, *(end for _, end, _ in found)]
    assert all(first < end for first, end, _ in found)
    assert all(one[2] != other[2] for one, other in itertools.pairwise(found))
    by_reference = {t for first, end, changes in found if changes for t in range(first, end)}
    assert by_reference >= set(edited)
    for first, end, changes in found:
        if changes:
            assert any(first <= t < end for t in edited)
        else:
            assert end - first >= pieces._WORTH_A_CALL or length == end - first
    for t in by_reference - set(edited):
        assert any(abs(t - other) < pieces._WORTH_A_CALL + 1 for other in edited)


@settings(max_examples=60)
@drawing(calls())
def test_pieces_of_a_call_equal_the_reference_in_values_and_gradients(case: dict[str, Any]) -> None:
    cell, length = CELLS[case["mode"]], case["length"]
    if cpu.missing() is not None:
        pytest.skip("the kernels were not built")
    kind = {"LSTM_PEEPHOLE": "PeepholeLSTM", "LSTM_COUPLED": "CoupledLSTM"}.get(case["mode"])
    module = getattr(unrolled, kind)(I, H) if kind else unrolled.convert(made(case["mode"]))
    names = list(cell.names)
    reset = torch.rand(length, B, generator=torch.Generator().manual_seed(case["seed"])) < 0.2

    def run(dtype: torch.dtype) -> list[Tensor]:
        from unrolled.structure import weights_of

        layer = copy.deepcopy(module).to(dtype)
        x = drawn(length, B, I, dtype=dtype, seed=case["seed"])
        states = tuple(drawn(B, H, dtype=dtype, seed=1 + i) for i in range(len(cell.states)))
        vector = drawn(H, dtype=dtype, seed=3)

        def edit(t: int, name: str, value: Tensor) -> Tensor:
            return value + (1 + names.index(name)) * vector / 9 if t in case["edited"] else value

        way: Any = partial(reference.unroll, cell)
        if dtype is torch.float32:
            way = partial(pieces.unroll, partial(ops.unroll, case["mode"]), cell, edited=case["edited"])
        lengths = None if case["lengths"] is None else torch.tensor(case["lengths"])
        options = {"reverse": case["reverse"], "lengths": lengths, "reset": reset if case["reset"] else None}
        result = way(x, states, weights_of(layer, "l0"), edit=edit, keep=names, **options)
        assert list(result.steps) == names
        inside = torch.ones(length, B, dtype=torch.bool)
        if lengths is not None:
            inside = torch.arange(length).unsqueeze(1) < lengths
        kept = [result.steps[name].values.masked_fill(~inside.unsqueeze(-1), 0) for name in names]
        loss = sum((tensor.pow(3) + tensor).sum() for tensor in (result.output, *result.final, *kept))
        gradients = torch.autograd.grad(loss, [x, *states, vector, *layer.parameters()], materialize_grads=True)
        return [result.output, *result.final, *kept, *gradients]

    found, wanted = run(torch.float32), run(torch.float64)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@every_mode
def test_only_the_edited_step_of_a_long_sequence_is_taken_by_the_reference(
    mode: str, taken: list[tuple[str, int]]
) -> None:
    module, x = made(mode), drawn(1000, B, I, dtype=torch.float32)
    with unrolled.intervene(module, Ablate("*.hidden", steps=[400, 800])), unrolled.record(module):
        wild(module(x)).backward()
    assert taken == [("kernels", 400), ("reference", 1), ("kernels", 399), ("reference", 1), ("kernels", 199)]


def test_the_backward_direction_is_taken_from_its_end(taken: list[tuple[str, int]]) -> None:
    module, x = made(bidirectional=True), drawn(100, B, I, dtype=torch.float32)
    with unrolled.intervene(module, Ablate("*_reverse.hidden", steps=30)):
        module(x)
    assert taken == [("kernels", 100), ("kernels", 69), ("reference", 1), ("kernels", 30)]


def test_layers_and_calls_that_are_not_edited_are_taken_by_the_kernels_alone(taken: list[tuple[str, int]]) -> None:
    model, x = Twice(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(model, Ablate("lstm.l0.hidden", steps=[8])):
        model(x)
    assert taken == [("kernels", 4), ("kernels", 4), ("reference", 1)]


def test_steps_that_no_edit_reaches_are_never_shown_to_it() -> None:
    module, seen = made(), []
    edit = Apply("l0.hidden", lambda state, t: seen.append(t) or state, steps=[3, 5])
    with unrolled.intervene(module, edit):
        module(drawn(T, B, I, dtype=torch.float32))
    assert seen == [3, 5]
