"""From a span to the units that are on in it and off around it, and the threshold that parts them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import unrolled
from planted_traces import off, planted, random
from unrolled.viewer.searching.search import Found, Place, Unit, suggested, units_on

CELL = ["l0.cell"]
SPAN = Place(0, 20, 26)


def numbers(found: list[Found]) -> list[tuple[int, int]]:
    return [(one.unit.number, one.unit.sign) for one in found]


def test_unit_that_is_on_in_the_span_only_is_found_and_others_are_not() -> None:
    values = off(60, 5)
    values[0, 20:26, 1] = 1  # on in the span
    values[0, :, 2] = 1  # always on
    values[0, 21:26, 3] = 1  # late by a step
    values[0, 20:30, 4] = 1  # goes on too long
    (found,) = units_on(planted(values), CELL, SPAN, threshold=0.5)
    assert found == Found(Unit("l0.cell", 1, 1), on=1.0, around=0.0, strength=1.0)


def test_unit_that_is_low_in_the_span_is_found_with_sign_minus_one() -> None:
    values = off(60, 2)
    values[0, 20:26, 1] = -2
    (found,) = units_on(planted(values), CELL, SPAN, threshold=0.5)
    assert found == Found(Unit("l0.cell", 1, -1), on=1.0, around=0.0, strength=2.0)


def test_value_at_the_threshold_is_on_in_the_precision_of_the_recording() -> None:
    values = off(60, 1)
    values[0, 20:26] = 0.7  # less than 0.7 in float32
    assert len(units_on(planted(values), CELL, SPAN, threshold=0.7)) == 1
    assert units_on(planted(values), CELL, SPAN, threshold=0.70001) == []


def test_threshold_is_not_rounded_to_half_precision() -> None:
    values = off(60, 1).astype(np.float16)
    values[0, 20:26] = 1
    assert units_on(planted(values), CELL, SPAN, threshold=1.0001) == []
    assert len(units_on(planted(torch.from_numpy(values).bfloat16()), CELL, SPAN, threshold=0.999)) == 1


def test_span_of_fewer_than_ten_steps_wants_every_step_and_a_longer_one_nine_of_ten() -> None:
    values = off(100, 2)
    values[0, 21:29, 0] = 1  # 8 of 9
    values[0, 21:30, 1] = 1  # 9 of 10
    trace = planted(values)
    assert units_on(trace, CELL, Place(0, 20, 29), threshold=0.5) == []
    (found,) = units_on(trace, CELL, Place(0, 20, 30), threshold=0.5)
    assert (found.unit.number, found.on) == (1, 0.9)


def test_around_the_span_one_step_in_ten_may_be_on() -> None:
    values = off(60, 2)
    values[0, 20:26] = 1
    values[0, [12, 30], 0] = 1  # 2 of 20
    values[0, [12, 14, 30], 1] = 1  # 3 of 20
    (found,) = units_on(planted(values), CELL, SPAN, threshold=0.5)
    assert (found.unit.number, found.around) == (0, 0.1)


def test_of_fewer_than_ten_steps_around_none_may_be_on() -> None:
    values = off(60, 1)
    values[0, :6] = values[0, 10] = 1
    assert units_on(planted(values), CELL, Place(0, 0, 6), threshold=0.5, around=9) == []
    assert len(units_on(planted(values), CELL, Place(0, 0, 6), threshold=0.5, around=10)) == 1


@pytest.mark.parametrize("around", [0, 1, 4])
def test_only_the_given_steps_around_are_looked_at(around: int) -> None:
    values = off(60, 1)
    values[0, 20:26] = 1
    values[0, [20 - 5, 26 + 4]] = 1
    assert len(units_on(planted(values), CELL, SPAN, threshold=0.5, around=around)) == 1
    assert units_on(planted(values), CELL, SPAN, threshold=0.5, around=5) == []


def test_span_at_an_edge_has_one_side_and_one_that_is_everything_has_none() -> None:
    values = off(12, 1)
    values[0, :6] = 2
    trace = planted(values)
    for place in (Place(0, 0, 6), Place(0, 0, 12)):
        found = units_on(trace, CELL, place, threshold=1.0 if place.stop == 6 else 0.0)
        assert numbers(found)[0] == (0, 1)
        assert found[0].around == 0
        assert found[0].strength == (2.0 if place.stop == 6 else 1.0)


def test_steps_after_a_sequences_end_are_not_around_it() -> None:
    values = off(60, 1, 2)
    values[1, 20:26] = 1
    values[1, 26:] = 1
    place = Place(1, 20, 26)
    assert units_on(planted(values), CELL, place, threshold=0.5) == []
    assert len(units_on(planted(values), CELL, place, threshold=0.5, lengths=[60, 26])) == 1
    assert len(units_on(planted(values, lengths=[60, 26]), CELL, place, threshold=0.5)) == 1


def test_units_are_ranked_by_shares_then_by_strength_then_by_place_in_the_trace() -> None:
    hidden, cell = off(60, 2), off(60, 3)
    cell[0, 20:26] = [1, 3, 3]
    cell[0, 12, 2] = 1
    hidden[0, 20:26] = [-2, 1]
    trace = planted(l0__cell=cell, l0__hidden=hidden)
    found = units_on(trace, ["l0.cell", "l0.hidden"], SPAN, threshold=0.5)
    assert [(one.unit.name, one.unit.number, one.unit.sign) for one in found] == [
        ("l0.cell", 1, 1),
        ("l0.hidden", 0, -1),
        ("l0.cell", 0, 1),
        ("l0.hidden", 1, 1),
        ("l0.cell", 2, 1),
    ]


def test_not_a_number_is_off_and_does_not_hide_other_units() -> None:
    values = off(60, 3)
    values[0, 20:26] = 1
    values[0, 22, 0] = np.nan  # in the span
    values[0, 30, 1] = np.nan  # around it
    found = units_on(planted(values), CELL, SPAN, threshold=0.5)
    assert numbers(found) == [(2, 1), (1, 1)]
    assert np.isnan(found[1].strength)


def test_infinite_values_are_on() -> None:
    values = off(60, 1)
    values[0, 20:26] = np.inf
    assert numbers(units_on(planted(values), CELL, SPAN, threshold=0.5)) == [(0, 1)]


@pytest.mark.parametrize("place", [Place(0, 0, 1), Place(0, 4, 5)])
def test_one_step_of_one_unit_can_be_selected(place: Place) -> None:
    values = off(5, 1)
    values[0, place.start] = 1
    assert numbers(units_on(planted(values), CELL, place, threshold=suggested(planted(values), CELL, place))) == [
        (0, 1)
    ]
    alone = planted(np.ones((1, 1, 1)))
    assert numbers(units_on(alone, CELL, Place(0, 0, 1), threshold=0.5)) == [(0, 1)]


def test_long_span_is_read_a_few_thousand_steps_at_a_time() -> None:
    values = off(20_000, 3)
    values[0, 50:19_950, 1] = 1
    trace = planted(values)
    place = Place(0, 50, 19_950)
    threshold = suggested(trace, CELL, place)
    assert numbers(units_on(trace, CELL, place, threshold=threshold)) == [(1, 1)]
    assert trace._source.largest <= 4096 * 3


def test_suggested_threshold_is_a_short_number_that_finds_most_units() -> None:
    values = off(60, 4)
    values[0, :, :] = 0.2
    values[0, 20:26] = [0.9, 0.8, -0.85, 0.1]
    threshold = suggested(planted(values), CELL, SPAN)
    assert threshold == 0.5
    assert len(units_on(planted(values), CELL, SPAN, threshold=threshold)) == 3


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("steps", [1, 6, 17])
def test_no_other_threshold_above_zero_finds_more_units_than_the_suggested(seed: int, steps: int) -> None:
    values = random(seed, 1, 70, 30)
    values[0, 30 : 30 + steps, ::2] += 2 * random(seed + 100, 15)
    values[0, 33, 4] = np.nan
    trace, place = planted(values), Place(0, 30, 30 + steps)
    best = len(units_on(trace, CELL, place, threshold=suggested(trace, CELL, place)))
    others = [len(units_on(trace, CELL, place, threshold=t)) for t in np.unique(np.abs(values[np.isfinite(values)]))]
    assert best == max(others)
    assert best > 0


def test_suggested_threshold_where_no_unit_parts_the_span_is_the_middle_magnitude() -> None:
    assert suggested(planted(np.full((60, 3), -4.0)), CELL, SPAN) == 4.0
    assert suggested(planted(off(60, 3)), CELL, SPAN) == 1.0
    assert suggested(planted(np.full((60, 3), np.nan)), CELL, SPAN) == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"place": Place(1, 0, 1)}, "place: given sequence 1, expected one from 0 to 0"),
        ({"place": Place(0, 5, 5)}, "place: given steps 5 to 5, expected one step or more of the 60"),
        ({"place": Place(0, 5, 61)}, "place: given steps 5 to 61"),
        ({"place": Place(0, -2, 5)}, "place: given steps -2 to 5"),
        ({"place": Place(0, 5, 50), "lengths": [40]}, "of the 40 of sequence 0"),
        ({"lengths": [61]}, r"lengths: given \[61\], expected 1 numbers of steps"),
        ({"threshold": float("nan")}, "threshold: given nan, expected a finite number"),
        ({"around": -1}, "around: given -1, expected 0 or more"),
        ({"names": []}, "names: given"),
        ({"names": "l0.cell"}, "names: given 'l0.cell', expected a list"),
        ({"names": ["l0.hidden"]}, "names: 'l0.hidden' was not recorded; the trace has l0.cell"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_was_given(changes: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"names": CELL, "place": SPAN, "threshold": 0.5} | changes
    with pytest.raises(ValueError, match=said):
        units_on(planted(off(60, 2)), given.pop("names"), given.pop("place"), **given)


def test_layers_of_different_numbers_of_steps_are_not_looked_at_together() -> None:
    trace = planted(a__cell=off(60, 2), b__cell=off(50, 2))
    with pytest.raises(ValueError, match=r"cannot be looked at together: 'a.cell' has 1 sequences of 60 steps and 'b"):
        units_on(trace, ["a.cell", "b.cell"], SPAN, threshold=0.5)


def test_live_trace_of_both_directions_is_searched_in_its_graph() -> None:
    model = torch.nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    with unrolled.record(model) as trace:
        model(torch.zeros(2, 30, 3))
    names = ["l0.cell", "l0_reverse.forget_gate"]
    assert trace["l0.cell"].requires_grad
    found = units_on(trace, names, Place(1, 0, 30), threshold=1e-6)
    assert {one.unit.name for one in found} == set(names)
