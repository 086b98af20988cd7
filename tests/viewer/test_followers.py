"""Whether units are on where a label says so, and which follow it best: known answers, and no flattery."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unrolled
from planted_traces import planted, random
from unrolled.recording import layout
from unrolled.units import auc
from unrolled.viewer.searching.following import Follower, Score, agreement, followers
from unrolled.viewer.searching.search import Unit

CELL = ["l0.cell"]


def label_of(*shape: int, seed: int = 0, run: int = 10) -> np.ndarray[Any, Any]:
    """A label that is 0 or 1 for runs of steps, as likely the one as the other."""
    draws = np.random.default_rng(seed).integers(0, 2, (*shape[:-1], -(-shape[-1] // run)))
    return np.repeat(draws, run, axis=-1)[..., : shape[-1]]


def test_agreement_counts_steps() -> None:
    label = np.array([[1, 1, 1, 0, 0, 0, 0, -1]])
    values = np.array([1, 1, 0, 1, 0, 0, 0, 1.0])[:, None]
    found = agreement(planted(values), [Unit("l0.cell", 0)], label, 1, threshold=0.5)
    assert found == Score(2 / 3, 2 / 3, 2 / 3, 0.5, true=3, predicted=3, both=2, n=7, prevalence=3 / 7)


def test_agreement_takes_at_least_half_of_the_units_for_on() -> None:
    values = np.array([[1, 1, -1], [1, 0, 0], [1, 0, -1], [0, 0, 0]])
    units = [Unit("l0.cell", 0), Unit("l0.cell", 1), Unit("l0.cell", 2, -1)]
    label = np.array([[1, 0, 1, 0]])
    assert agreement(planted(values * 1.0), units, label, 1, threshold=0.5).f1 == 1
    two = agreement(planted(values * 1.0), units[:2], label, 1, threshold=0.5)
    assert (two.predicted, two.both) == (3, 2)


def test_a_value_of_a_label_or_any_above_zero_is_asked_for() -> None:
    depth = np.array([[0, 1, 2, 2, -1, 0]])
    trace = planted(np.array([0, 0, 1, 1, 1, 0.0])[:, None])
    unit = [Unit("l0.cell", 0)]
    assert agreement(trace, unit, depth, 2, threshold=0.5).f1 == 1
    assert agreement(trace, unit, depth, None, threshold=0.5).recall == 2 / 3
    assert agreement(trace, unit, depth, 0, threshold=0.5).both == 0


def test_what_cannot_be_divided_is_not_a_number() -> None:
    trace, unit = planted(np.zeros((4, 1))), [Unit("l0.cell", 0)]
    never = agreement(trace, unit, np.array([[1, 1, 0, 0]]), 1, threshold=0.5)
    assert math.isnan(never.precision)
    assert (never.recall, never.f1, never.predicted) == (0, 0, 0)
    absent = agreement(trace, unit, np.zeros((1, 4), int), 1, threshold=-1)
    assert math.isnan(absent.recall)
    assert (absent.precision, absent.prevalence) == (0, 0)
    nothing = agreement(trace, unit, np.full((1, 4), -1), 1, threshold=0.5)
    assert math.isnan(nothing.f1)
    assert math.isnan(nothing.prevalence)
    assert nothing.n == 0


def test_agreement_ends_with_each_sequence() -> None:
    values, label = np.ones((2, 5, 1)), np.ones((2, 5), int)
    assert agreement(planted(values), [Unit("l0.cell", 0)], label, 1, threshold=0.5, lengths=[5, 2]).n == 7
    assert agreement(planted(values, lengths=[1, 2]), [Unit("l0.cell", 0)], label, 1, threshold=0.5).n == 3


def test_unit_that_is_the_label_follows_it_perfectly() -> None:
    label = label_of(1, 5000)
    values = random(1, 5000, 6)
    values[:, 4] = label[0]
    best, *others = followers(planted(values), CELL, label, 1)
    assert best.unit == Unit("l0.cell", 4, 1)
    assert 0.2 < best.threshold < 0.8  # not beside either of the two values
    assert (best.found.f1, best.held_out.precision, best.held_out.recall, best.auc) == (1, 1, 1, 1)
    assert best.found.n + best.held_out.n == 5000
    assert all(other.held_out.f1 < 0.75 for other in others)


def test_unit_that_is_low_where_the_label_holds_follows_it_with_sign_minus_one() -> None:
    label = label_of(1, 3000)
    values = np.stack([0.5 - 3 * label[0], np.zeros(3000)], axis=1)
    (best,) = followers(planted(values), CELL, label, 1)
    assert best.unit == Unit("l0.cell", 0, -1)
    assert -0.5 < best.threshold < 2.5
    assert (best.held_out.f1, best.auc) == (1, 1)


def test_unit_that_is_late_misses_the_first_steps_and_goes_on_after_the_last() -> None:
    label = np.tile(np.repeat([0, 1], 20), 250)[None]  # 10,000 steps, runs of 20
    values = np.roll(label[0], 3)[:, None] * 1.0
    (best,) = followers(planted(values), CELL, label, 1)
    assert best.held_out.recall == best.held_out.precision == pytest.approx(17 / 20, abs=0.002)
    assert best.auc == pytest.approx(0.85, abs=0.002)


def test_threshold_and_f1_are_those_of_a_search_of_all_thresholds() -> None:
    label = label_of(1, 4000)
    values = (label[0] + 0.7 * random(3, 4000))[:, None].astype(np.float32)
    (best,) = followers(planted(values), CELL, label, 1)
    deciding = np.arange(4000) // 500 % 2 == 0
    chosen, truth = values[deciding, 0], label[0, deciding] == 1
    highest = max(2 * (truth & (chosen >= t)).sum() / (truth.sum() + (chosen >= t).sum()) for t in chosen)
    assert highest - 0.003 < best.found.f1 <= highest
    assert best.auc == pytest.approx(auc(values[~deciding], label[0, ~deciding])[0], abs=0.001)


def test_reported_counts_are_those_of_agreement_at_the_threshold() -> None:
    label = label_of(2, 700, seed=2)
    label[1, 50:80] = -1
    values = random(4, 2, 700, 30) + label[..., None] * np.linspace(-1, 1, 30)
    trace = planted(values.astype(np.float32))
    found = followers(trace, CELL, label, 1, lengths=[700, 533])
    assert len(found) == 20
    for follower in found:
        whole = agreement(trace, [follower.unit], label, 1, threshold=follower.threshold, lengths=[700, 533])
        parts = (follower.found, follower.held_out)
        for count in ("true", "predicted", "both", "n"):
            assert sum(getattr(part, count) for part in parts) == getattr(whole, count)
    assert [f.found.f1 for f in found] == sorted((f.found.f1 for f in found), reverse=True)


def test_best_of_many_random_units_is_not_flattered_where_it_was_not_chosen() -> None:
    label = label_of(1, 800, run=40)
    found = followers(planted(random(5, 800, 400)), CELL, label, 1, limit=10)
    assert np.mean([f.found.f1 for f in found]) > 0.02 + np.mean([f.held_out.f1 for f in found])
    assert np.mean([f.auc for f in found]) == pytest.approx(0.5, abs=0.03)


def test_unit_that_follows_only_in_the_blocks_that_decide_is_found_out() -> None:
    label = label_of(1, 10_000)
    cheat = np.where(np.arange(10_000) // 1000 % 2 == 0, label[0], 1 - label[0])
    (best,) = followers(planted(cheat[:, None] * 1.0), CELL, label, 1)
    assert best.found.f1 == 1
    assert (best.held_out.f1, best.auc) == (0, 0)


def test_short_sequences_decide_by_turns() -> None:
    label = np.repeat(np.array([[1], [1], [0], [0]] * 10), 12, axis=1)  # a class for each of 40 sequences of 12 steps
    (best,) = followers(planted(label[..., None] * 2.0), CELL, label, 1)
    assert (best.found.f1, best.held_out.f1) == (1, 1)
    assert best.found.n == best.held_out.n == 240
    turned = np.where(np.arange(40)[:, None] % 2 == 0, label, 1 - label)
    (cheat,) = followers(planted(turned[..., None] * 2.0), CELL, label, 1)
    assert (cheat.found.f1, cheat.held_out.f1) == (1, 0)


@pytest.mark.parametrize(("scale", "shift"), [(1e-9, 0), (1e9, 0), (0.01, 100), (1, -1e4)])
def test_units_of_any_scale_are_parted(scale: float, shift: float) -> None:
    label = label_of(1, 3000)
    values = shift + scale * (label[0] + 0.1 * random(6, 3000).astype(np.float64))
    (best,) = followers(planted(values[:, None]), CELL, label, 1)
    assert best.held_out.f1 > 0.995


def test_rare_values_far_out_and_missing_ones_do_not_blur_a_unit() -> None:
    label = label_of(1, 3000)
    values = label[0] + 0.1 * random(7, 3000).astype(np.float64)
    values[[100, 700, 1500, 2900]] = [1e6, np.inf, -np.inf, np.nan]
    (best,) = followers(planted(values[:, None]), CELL, label, 1)
    assert best.held_out.f1 > 0.99


def test_label_that_is_rare_is_followed_too() -> None:
    label = np.zeros((1, 20_000), int)
    label[0, ::500] = 1
    values = random(8, 20_000, 3)
    values[:, 1] = 0.1 * values[:, 1] + label[0]
    best = followers(planted(values), CELL, label, 1)[0]
    assert best.unit.number == 1
    assert best.held_out.f1 == 1


def test_limit_is_over_all_names_and_a_unit_is_reported_once() -> None:
    label = label_of(1, 2000)
    both = [label[0][:, None] + noise * random(9, 2000, 4) for noise in (0.3, 0.1)]
    trace = planted(l0__cell=both[0], l0__hidden=both[1])
    found = followers(trace, ["l0.cell", "l0.hidden", "l0.cell"], label, 1, limit=6)
    assert [f.unit.name for f in found] == ["l0.hidden"] * 4 + ["l0.cell"] * 2
    assert len({(f.unit.name, f.unit.number) for f in found}) == 6


@pytest.mark.parametrize(
    "label",
    [np.zeros((1, 50), int), np.ones((1, 50), int), np.full((1, 50), -1), np.eye(1, 50, 6, int)],
    ids=["never", "always", "undefined", "held out only"],
)
def test_label_that_does_not_vary_where_it_decides_has_no_followers(label: np.ndarray[Any, Any]) -> None:
    assert followers(planted(random(0, 50, 3)), CELL, label, 1) == []


def test_units_that_never_vary_follow_nothing() -> None:
    told: list[tuple[int, int]] = []
    values = np.stack([np.full(100, 3.0), np.full(100, np.nan)], axis=1)
    found = followers(planted(values), CELL, label_of(1, 100), 1, tell=lambda *far: told.append(far))
    assert found == []
    assert told[-1] == (2, 2)


def test_one_step_has_no_followers() -> None:
    assert followers(planted(np.ones((1, 1, 1))), CELL, np.ones((1, 1), int), 1) == []


@pytest.mark.parametrize("stored", [False, True], ids=["live", "stored"])
def test_followers_do_not_depend_on_how_a_recording_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    label = label_of(5, 411, seed=3)
    values = (label[..., None] * np.linspace(-1, 1, 7) + random(10, 5, 411, 7)).astype(np.float32)
    values = np.concatenate([values, values[..., :1] * 3], axis=-1)
    trace = planted(values)
    whole = followers(trace, CELL, label, 1)
    monkeypatch.setattr(layout, "CHUNK_BYTES", 4 * 8 * 60)  # portions of 60 steps of two sequences
    if stored:
        trace = unrolled.Trace.load(trace.save(tmp_path / "trace.zarr"))
    told: list[tuple[int, int]] = []
    assert followers(trace, CELL, label, 1, tell=lambda *far: told.append(far)) == whole
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) > 30
    assert {of for _, of in told} == {told[-1][0]}


def test_long_recording_is_not_read_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 4 * 8 * 6000)
    label = label_of(1, 60_000)
    values = (label[..., None] + random(11, 1, 60_000, 8)).astype(np.float32)
    trace = planted(values)
    assert len(followers(trace, CELL, label, 1)) == 8
    assert trace._source.largest <= 12_000 * 8


def test_reading_is_ended_by_what_is_raised_when_told() -> None:
    def stop(done: int, of: int) -> None:
        raise InterruptedError

    for function, first in ((followers, CELL), (agreement, [Unit("l0.cell", 0)])):
        options = {} if function is followers else {"threshold": 0.5}
        with pytest.raises(InterruptedError):
            function(planted(random(0, 50, 3)), first, label_of(1, 50), 1, tell=stop, **options)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": np.zeros((1, 49), int)}, r"label: given int64 of shape \(1, 49\), expected whole numbers of shape"),
        ({"label": np.zeros(50, int)}, r"of shape \(50,\)"),
        ({"label": np.zeros((1, 50))}, "label: given float64"),
        ({"value": -1}, "value: given -1, which marks the steps that are left out"),
        ({"lengths": [51]}, "lengths: given"),
        ({"limit": 0}, "limit: given 0, expected 1 or more"),
        ({"names": ["l9.cell"]}, "'l9.cell' was not recorded"),
    ],
)
def test_question_that_makes_no_sense_is_refused(changes: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"names": CELL, "label": label_of(1, 50), "value": 1} | changes
    with pytest.raises(ValueError, match=said):
        followers(planted(random(0, 50, 3)), given.pop("names"), given.pop("label"), given.pop("value"), **given)


def test_follower_is_the_same_each_time() -> None:
    label, values = label_of(1, 500), random(12, 500, 40)
    first, second = (followers(planted(values), CELL, label, 1) for _ in range(2))
    assert first == second
    assert all(isinstance(follower, Follower) for follower in first)
