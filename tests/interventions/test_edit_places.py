"""Steps, units, rows and names of an edit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import unrolled
from edited import (
    ALL_STEPS,
    ALL_UNITS,
    NAMES,
    B,
    H,
    I,
    T,
    clamp,
    drawn,
    edited_at,
    made,
    where_changed,
)
from unrolled import Clamp, Scale


@pytest.mark.parametrize(
    ("steps", "meant"),
    [
        (None, ALL_STEPS),
        (0, [0]),
        (T - 1, [8]),
        ([7, 2, 2], [2, 7]),
        ((1, 2), [1, 2]),
        (range(3, 6), [3, 4, 5]),
        (slice(None), ALL_STEPS),
        (slice(6, None), [6, 7, 8]),
        (slice(None, 2), [0, 1]),
        (slice(1, 8, 3), [1, 4, 7]),
        (slice(7, 100), [7, 8]),
        (torch.tensor([4, 5]), [4, 5]),
        (torch.tensor(4), [4]),
    ],
)
def test_steps_are_a_number_several_or_a_slice(steps: Any, meant: list[int]) -> None:
    assert where_changed(steps=steps, rows=1, units=2) == [[t, 1, 2] for t in meant]


@pytest.mark.parametrize(
    ("places", "meant"),
    [
        (None, [0, 1, 2]),
        (1, [1]),
        (-1, [2]),
        ([2, 0], [0, 2]),
        ((1,), [1]),
        (range(1, 3), [1, 2]),
        (slice(1, None), [1, 2]),
        (slice(None, -1), [0, 1]),
        ([True, False, True], [0, 2]),
        (torch.tensor([False, True, False]), [1]),
        (torch.tensor([0, 1]), [0, 1]),
        (torch.tensor(2), [2]),
        ([], []),
    ],
)
def test_rows_are_a_number_several_a_slice_or_a_mask(places: Any, meant: list[int]) -> None:
    assert where_changed(steps=4, rows=places, units=0) == [[4, row, 0] for row in meant]


@pytest.mark.parametrize(
    ("places", "meant"),
    [
        (None, ALL_UNITS),
        (3, [3]),
        (-2, [3]),
        ([4, 1], [1, 4]),
        (range(0, 5, 2), [0, 2, 4]),
        (slice(3, None), [3, 4]),
        ([True, False, False, False, True], [0, 4]),
        (torch.arange(H) > 2, [3, 4]),
        (torch.tensor(1), [1]),
    ],
)
def test_units_are_a_number_several_a_slice_or_a_mask(places: Any, meant: list[int]) -> None:
    assert where_changed(steps=4, rows=0, units=places) == [[4, 0, unit] for unit in meant]


@pytest.mark.parametrize("units", [[3, 0], slice(0, 4, 3), torch.tensor([True, False, False, True, False]), (3, -5)])
def test_one_number_for_each_of_the_chosen_units_is_in_their_order(units: Any) -> None:
    module = made("GRU")
    first, second = (5.0, 4.0) if isinstance(units, list | tuple) else (4.0, 5.0)
    for edit in (Clamp("l0.hidden", [first, second], units=units, steps=8), Clamp("l0.hidden", 4.0, units=0, steps=8)):
        with unrolled.intervene(module, edit):
            output, _ = module(torch.zeros(T, B, I))
        assert (output[8, :, 0] == 4).all()
    with unrolled.intervene(module, Clamp("l0.hidden", torch.tensor([[first, second]] * B), units=units, steps=8)):
        output, _ = module(torch.zeros(T, B, I))
    assert (output[8, :, 3] == 5).all()
    assert (output[8].abs() < 1)[:, [1, 2, 4]].all()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.cell", ["l0.cell", "l0_reverse.cell", "l1.cell", "l1_reverse.cell"]),
        ("l1.*", [f"l1.{name}" for name in NAMES["LSTM"]]),
        ("l?_reverse.*_gate", [f"l{i}_reverse.{gate}_gate" for i in (0, 1) for gate in ("input", "forget", "output")]),
        ("l0.candidate", ["l0.candidate"]),
        ("*", [f"l{i}{way}.{name}" for i in (0, 1) for way in ("", "_reverse") for name in NAMES["LSTM"]]),
    ],
)
def test_a_pattern_stands_for_every_name_that_it_matches(pattern: str, names: list[str]) -> None:
    module = made(num_layers=2, bidirectional=True)
    with unrolled.intervene(module, clamp(pattern, 4)), unrolled.record(module) as trace:
        module(drawn(T, B, I, dtype=torch.float32))
    assert [name for name in trace if edited_at(trace, name) == [4]] == names


def test_layers_that_no_edit_names_keep_their_class_inside_the_context() -> None:
    model = nn.ModuleDict({"a": made(), "b": made("GRU")})
    with unrolled.intervene(model, Scale("a.*", 1.0)):
        assert [type(model[name]) for name in "ab"] == [unrolled.LSTM, nn.GRU]
        model["a"](drawn(T, B, I, dtype=torch.float32))
