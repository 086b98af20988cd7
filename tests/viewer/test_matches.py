"""From units to spans elsewhere in which they are on and around which they are off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unrolled
from planted_traces import off, planted, random
from unrolled.recording import layout
from unrolled.trace import Trace
from unrolled.viewer.searching.candidates import DIGITS
from unrolled.viewer.searching.search import Match, Place, Unit, matches, suggested, units_on

CELL = ["l0.cell"]
SELECTED = Place(0, 20, 26)


def two_units(*places: Place, steps: int = 200, sequences: int = 1) -> np.ndarray[Any, Any]:
    """Unit 0 is high in the places, unit 2 low, unit 1 nothing."""
    values = off(steps, 3, sequences)
    for place in places:
        values[place.sequence, place.start : place.stop] = [1, 0, -1]
    return values


BOTH = [Unit("l0.cell", 0, 1), Unit("l0.cell", 2, -1)]


def alike(place: Place, selected: Place = SELECTED) -> float:
    shorter, longer = sorted(one.stop - one.start for one in (place, selected))
    return (shorter / longer) ** 0.5


def scored(place: Place, score: float, on: int, selected: Place = SELECTED) -> Match:
    """The match of a place whose shares on differ by `score`."""
    return Match(place, round(score * alike(place, selected), DIGITS), on)


def score(trace: Trace, units: list[Unit], place: Place, threshold: float, around: int, length: int) -> float:
    """The formula, step by step."""

    def share(steps: list[int]) -> float:
        on = [u.sign * float(trace[u.name][place.sequence, t, u.number]) >= threshold for t in steps for u in units]
        return sum(on) / len(on) if on else 0.0

    inside = list(range(place.start, place.stop))
    near = range(max(0, place.start - around), min(length, place.stop + around))
    return max(0.0, share(inside) - share([t for t in near if t not in inside])) * alike(place)


def test_every_span_in_which_the_units_are_on_is_found_and_those_of_its_length_first() -> None:
    elsewhere = [Place(0, 60, 66), Place(1, 0, 9), Place(0, 100, 101), Place(1, 150, 200)]
    trace = planted(two_units(SELECTED, *elsewhere, sequences=2))
    found = matches(trace, BOTH, SELECTED, threshold=0.5)
    assert found == [scored(place, 1.0, 2) for place in elsewhere]
    assert [match.score for match in found] == pytest.approx([1, (6 / 9) ** 0.5, (1 / 6) ** 0.5, (6 / 50) ** 0.5])


def test_selected_span_scores_one_when_another_is_selected() -> None:
    trace = planted(two_units(SELECTED, Place(0, 60, 70)))
    assert matches(trace, BOTH, Place(0, 60, 70), threshold=0.5) == [scored(SELECTED, 1.0, 2, Place(0, 60, 70))]


def test_the_loop_leads_from_one_span_to_its_like() -> None:
    values = 0.1 * random(0, 1, 400, 40)
    like = [Place(0, 20, 30), Place(0, 90, 97), Place(0, 200, 240), Place(0, 330, 335)]
    for place in like:
        values[0, place.start : place.stop, [3, 17]] += 1
        values[0, place.start : place.stop, 30] -= 1
    trace = planted(values)
    threshold = suggested(trace, CELL, like[0])
    units = [found.unit for found in units_on(trace, CELL, like[0], threshold=threshold)]
    assert {(unit.number, unit.sign) for unit in units} >= {(3, 1), (17, 1), (30, -1)}
    best = matches(trace, units, like[0], threshold=threshold)[:3]
    assert sorted((match.place for match in best), key=lambda place: place.start) == like[1:]


def test_span_in_which_one_of_two_units_is_on_scores_half() -> None:
    values = two_units(SELECTED)
    values[0, 60:70, 0] = 1
    assert matches(planted(values), BOTH, SELECTED, threshold=0.5) == [scored(Place(0, 60, 70), 0.5, 1)]


def test_span_is_scored_less_for_what_is_on_around_it() -> None:
    values = two_units(SELECTED, Place(0, 60, 70))
    values[0, [52, 75, 78], 0] = 1
    found = matches(planted(values), BOTH, SELECTED, threshold=0.5, limit=1)
    assert found == [scored(Place(0, 60, 70), 1 - 3 / 40, 2)]


def test_unit_that_flickers_off_for_a_step_does_not_cut_a_span() -> None:
    values = two_units(SELECTED, Place(0, 60, 80))
    values[0, 70] = 0
    found = matches(planted(values), BOTH, SELECTED, threshold=0.5)
    assert found == [scored(Place(0, 60, 80), 0.95, 2)]


def test_no_match_overlaps_the_selected_span() -> None:
    trace = planted(two_units(Place(0, 20, 40), Place(0, 60, 66)))
    assert [match.place for match in matches(trace, BOTH, SELECTED, threshold=0.5)] == [Place(0, 60, 66)]


def test_spans_beside_the_selected_one_may_touch_it() -> None:
    values = two_units(SELECTED)
    values[0, 26:29, 0] = 1
    trace = planted(values)
    beside = Place(0, 26, 29)
    assert matches(trace, [Unit("l0.cell", 2, -1)], beside, threshold=0.5) == [scored(SELECTED, 1.0, 1, beside)]


def test_steps_after_a_sequences_end_are_neither_on_nor_around() -> None:
    values = two_units(SELECTED, Place(1, 150, 200), sequences=2)
    for trace, lengths in ((planted(values), [200, 160]), (planted(values, lengths=[200, 160]), None)):
        found = matches(trace, BOTH, SELECTED, threshold=0.5, lengths=lengths)
        assert found == [scored(Place(1, 150, 160), 1.0, 2)]
    assert matches(planted(values), BOTH, SELECTED, threshold=0.5, lengths=[200, 0]) == []


def test_nothing_elsewhere_is_an_empty_list() -> None:
    assert matches(planted(two_units(SELECTED)), BOTH, SELECTED, threshold=0.5) == []
    assert matches(planted(off(1, 3)), BOTH, Place(0, 0, 1), threshold=0.5) == []
    assert matches(planted(np.ones((50, 3))), BOTH[:1], SELECTED, threshold=0.5) == []


@pytest.mark.parametrize("seed", range(6))
def test_matches_keep_their_promises_on_random_values(seed: int) -> None:
    lengths = [120, 90, 1, 0]
    trace = planted(random(seed, 4, 120, 8))
    units = [Unit("l0.cell", number, 1 - 2 * (number % 2)) for number in range(seed + 1)]
    found = matches(trace, units, SELECTED, threshold=0.8, around=4, limit=12, lengths=lengths)
    assert 0 < len(found) <= 12
    assert [-m.score for m in found] == sorted(-m.score for m in found)
    assert found == sorted(found, key=lambda m: (-m.score, m.place.sequence, m.place.start))
    steps = [(SELECTED.sequence, step) for step in range(SELECTED.start, SELECTED.stop)]
    for match in found:
        place = match.place
        assert 0 <= place.start < place.stop <= lengths[place.sequence]
        steps += [(place.sequence, step) for step in range(place.start, place.stop)]
        expected = score(trace, units, place, 0.8, 4, lengths[place.sequence])
        assert match.score == pytest.approx(expected, abs=1e-9)
        span = trace["l0.cell"][place.sequence, place.start : place.stop]
        assert match.on == sum(float((u.sign * span[:, u.number] >= 0.8).double().mean()) >= 0.5 for u in units)
    assert len(set(steps)) == len(steps)


def test_limit_keeps_the_first_of_equals() -> None:
    places = [Place(0, start, start + 3) for start in range(40, 190, 20)]
    found = matches(planted(two_units(SELECTED, *places)), BOTH, SELECTED, threshold=0.5, limit=3)
    assert [match.place for match in found] == places[:3]


def test_many_units_of_several_names_are_matched_together() -> None:
    values = off(200, 70)
    values[0, 20:26] = values[0, 60:63] = 1
    trace = planted(l0__cell=values, l0__hidden=-values)
    units = [Unit("l0.hidden", number, -1) for number in range(70)] + [Unit("l0.cell", n, 1) for n in range(70)]
    assert matches(trace, units[::-1], SELECTED, threshold=0.5) == [scored(Place(0, 60, 63), 1.0, 140)]


@pytest.mark.parametrize("stored", [False, True], ids=["live", "stored"])
def test_span_across_portions_of_a_long_recording_is_found_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 4 * 3 * 50)  # portions of 100 steps
    places = [Place(0, 95, 105), Place(1, 100, 330), Place(5, 300, 401)]
    values = two_units(SELECTED, *places, steps=401, sequences=6)
    trace = planted(values)
    if stored:
        trace = unrolled.Trace.load(trace.save(tmp_path / "trace.zarr"))
    told: list[tuple[int, int]] = []
    found = matches(trace, BOTH, SELECTED, threshold=0.5, tell=lambda done, of: told.append((done, of)))
    assert found == [scored(place, 1.0, 2) for place in (places[0], places[2], places[1])]
    assert told == [(done, len(told)) for done in range(1, len(told) + 1)]
    assert len(told) > 10
    if not stored:
        assert trace._source.largest <= 2 * 100 * 3


def test_search_is_ended_by_what_is_raised_when_told() -> None:
    def stop(done: int, of: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        matches(planted(two_units(SELECTED)), BOTH, SELECTED, threshold=0.5, tell=stop)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"units": []}, "units: none given"),
        ({"units": [Unit("l0.cell", 3)]}, "units: 'l0.cell' has units 0 to 2, given unit 3"),
        ({"units": [Unit("l0.cell", -1)]}, "given unit -1"),
        ({"units": [Unit("l1.cell", 0)]}, "'l1.cell' was not recorded"),
        ({"place": Place(0, 7, 7)}, "place: given steps 7 to 7"),
        ({"limit": 0}, "limit: given 0, expected 1 or more"),
        ({"around": -3}, "around: given -3"),
        ({"threshold": float("inf")}, "threshold: given inf"),
    ],
)
def test_search_refuses_what_makes_no_sense(changes: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"units": BOTH, "place": SELECTED, "threshold": 0.5} | changes
    with pytest.raises(ValueError, match=said):
        matches(planted(off(60, 3)), given.pop("units"), given.pop("place"), **given)


def test_sign_of_a_unit_is_one_or_minus_one() -> None:
    with pytest.raises(ValueError, match="sign: given 0 for unit 3 of 'l0.cell', expected 1 or -1"):
        Unit("l0.cell", 3, 0)


def test_module_names_with_brackets_are_names_and_not_patterns() -> None:
    values = two_units(SELECTED, Place(0, 60, 66))
    trace = planted(**{"net[0]__cell": values})
    units = [Unit("net[0].cell", 0), Unit("net[0].cell", 2, -1)]
    assert matches(trace, units, SELECTED, threshold=0.5) == [Match(Place(0, 60, 66), 1.0, 2)]
