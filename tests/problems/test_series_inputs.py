"""Series as the network reads them: scales, missing values, the calendar; and what is refused."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panels import HOUR, MONDAY, panel, problem, walk, windows
from unrolled.problems.problem import Share
from unrolled.problems.series import Series
from unrolled.tasks.task import SPLITS

nan = float("nan")
ALONE = Share()


def all_inputs(series: Series) -> np.ndarray[Any, Any]:
    """(T, I) what is read of the only series."""
    return series.scales.scaled(series.panel, 0).inputs


# Scales


def test_columns_are_scaled_by_the_training_part_alone() -> None:
    values = np.stack((walk(200, 1) + 50, walk(200, 2) * 7), 1)
    made = problem(panel(values, targets=["y"], covariates=["x"]))
    np.testing.assert_allclose(made.scales.mean[""], values[:140].mean(0), rtol=1e-5)
    np.testing.assert_allclose(made.scales.std[""], values[:140].std(0), rtol=1e-5)
    np.testing.assert_allclose(all_inputs(made)[:140].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(all_inputs(made)[:140].std(0), 1, atol=1e-5)


@pytest.mark.parametrize("step", [None, HOUR])
def test_values_after_the_training_part_change_nothing_that_is_learnt_from_it(step: np.timedelta64 | None) -> None:
    values = walk(200)
    later = values.copy()
    later[140:] = nan
    later[150:160] = 1e6
    later[170:] = -1e6
    before, after = problem(panel(values, step=step)), problem(panel(later, step=step))
    assert before.learnt() == after.learnt()
    one, other = before.batch(5, ALONE)[0], after.batch(5, ALONE)[0]
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.targets, other.targets)


def test_every_series_has_its_own_scale() -> None:
    made = problem(panel(walk(100), 1000 + 50 * walk(100, 1), names=["small", "large"]))
    for name, values in zip(("small", "large"), made.panel.values, strict=True):
        np.testing.assert_allclose(made.scales.mean[name], values[:70].mean(), rtol=1e-4)
        np.testing.assert_allclose(made.scales.std[name], values[:70].std(), rtol=1e-4)


def test_series_that_begins_after_the_training_part_is_scaled_as_all_together() -> None:
    old, late = walk(200), 1 + walk(50)
    made = problem(panel(old, late, step=HOUR, starts=[0, 150], names=["old", "late"]))
    assert made.scales.mean["late"] == pytest.approx(made.scales.mean["old"])
    assert made.scales.std["late"] == pytest.approx(made.scales.std["old"])


def test_column_that_is_missing_in_all_of_a_series_training_part_is_scaled_as_in_the_others() -> None:
    whole, part = np.stack((walk(100), 5 + walk(100, 1)), 1), np.stack((walk(100, 2), 5 + walk(100, 3)), 1)
    part[:80, 1] = nan
    made = problem(panel(whole, part, covariates=["x"], names=["a", "b"]))
    assert made.scales.mean["b"][1] == pytest.approx(made.scales.mean["a"][1])
    assert made.scales.mean["b"][0] == pytest.approx(part[:70, 0].mean(), rel=1e-4)


def test_column_that_is_constant_in_the_training_part_is_not_divided_by_nothing() -> None:
    values = np.stack((walk(100), np.where(np.arange(100) < 80, 4.0, 5.0)), 1)
    made = problem(panel(values, covariates=["x"]))
    assert made.scales.std[""][1] == 1
    assert set(all_inputs(made)[:, 1]) == {0.0, 1.0}


def test_series_that_was_not_in_training_is_scaled_by_its_own_figures() -> None:
    made = problem(panel(walk(100)))
    values = 300 + 20 * walk(60, 4)
    fresh = made.scales.scaled(panel(values, names=["fresh"]), 0)
    np.testing.assert_allclose(fresh.targets.mean(), 0, atol=1e-4)
    np.testing.assert_allclose(fresh.targets[:, 0] * fresh.units + fresh.mean, values, rtol=1e-5)


# Missing values


@settings(max_examples=30)
@given(st.lists(st.one_of(st.none(), st.floats(-5, 5, width=32)), min_size=60, max_size=60))
def test_in_place_of_a_missing_value_stands_the_last_one_before_it(drawn: list[float | None]) -> None:
    values = np.array([nan if v is None else v for v in drawn])
    values[::9] = np.arange(7)  # something to learn from and to foretell
    values[1] = nan
    made = problem(panel(values), window=4, horizon=2)
    (mean,), (std,) = made.scales.mean[""], made.scales.std[""]
    last = mean
    for value, (read, mark) in zip(values, all_inputs(made), strict=True):
        last = last if np.isnan(value) else value
        assert read == pytest.approx((last - mean) / std, abs=1e-5)
        assert mark == np.isnan(value)


def test_before_the_first_value_stands_the_mean() -> None:
    values = walk(100)
    values[:3] = nan
    assert all_inputs(problem(panel(values)))[:3].tolist() == [[0, 1]] * 3


def test_only_columns_that_miss_values_in_the_training_part_have_marks() -> None:
    values = np.stack((walk(100), walk(100, 1), walk(100, 2)), 1)
    values[20, 1] = nan
    values[90, 2] = nan
    made = problem(panel(values, covariates=["gap", "later"]))
    assert made.scales.masked == ("gap",)
    assert made.shape.input_size == 4
    assert all_inputs(made)[:, 3].nonzero()[0].tolist() == [20]


def test_missing_targets_are_not_scored_and_known_ones_are() -> None:
    values = np.arange(200.0)
    values[[60, 61, 175]] = nan
    made = problem(panel(values))
    (mean,), (std,) = made.scales.mean[""], made.scales.std[""]
    for split in SPLITS:
        for batch in windows(made, split):
            origins = (batch.last[:, -1, 0] * std + mean).round()
            for origin, targets, scored in zip(origins, batch.targets[:, -1], batch.scored[:, -1], strict=True):
                # The last value there was is read where one is missing, so only known origins say where they are.
                if int(origin) in (59, 174):
                    continue
                coming = values[int(origin) + 1 : int(origin) + 4]
                assert scored[:, 0].tolist() == (~np.isnan(coming)).tolist()
                assert (targets[~scored] == 0).all()


# The calendar


def test_hours_read_the_time_of_the_day_and_of_the_week() -> None:
    made = problem(panel(walk(24 * 30), step=HOUR))
    assert (made.scales.daily, made.scales.weekly, made.scales.yearly) == (True, True, False)
    for row in (0, 1, 25, 500):
        moment = datetime.datetime.fromisoformat(str(MONDAY.astype("datetime64[s]"))) + datetime.timedelta(hours=row)
        day = 2 * np.pi * moment.hour / 24
        since_thursday = ((moment.weekday() - 3) % 7 + moment.hour / 24) / 7
        week = 2 * np.pi * since_thursday
        expected = [np.sin(day), np.cos(day), np.sin(week), np.cos(week)]
        np.testing.assert_allclose(all_inputs(made)[row, 1:], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("step", "rows", "told"),
    [
        (HOUR, 24 * 19, (True, False, False)),  # 13 days of training
        (HOUR, 24 * 21, (True, True, False)),
        (24 * HOUR, 400, (False, True, False)),
        (24 * HOUR, 1100, (False, True, True)),
        (24 * 7 * HOUR, 200, (False, False, True)),
        (None, 2000, (False, False, False)),
    ],
)
def test_the_calendar_is_read_where_the_training_part_can_tell_what_it_does(
    step: np.timedelta64 | None, rows: int, told: tuple[bool, ...]
) -> None:
    made = problem(panel(walk(rows), step=step))
    assert (made.scales.daily, made.scales.weekly, made.scales.yearly) == told
    assert made.shape.input_size == all_inputs(made).shape[1] == 1 + 2 * sum(told)


# Refusals and names


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (100, {"validation": 0.02}, "its validation part, of 2 steps of the longest series"),
        (20, {"horizon": 15}, "its train part, of 14 steps of the longest series"),
        (100, {"window": 75}, "a window of 75 and a horizon of 3 steps"),
        (100, {"test": 0.01}, "its test part, of 1 steps"),
    ],
)
def test_too_short_a_part_is_named_with_what_to_change(rows: int, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        problem(panel(walk(rows)), **options)
    assert "give more rows, or set window or horizon lower" in str(caught.value)


@pytest.mark.parametrize(("split", "first", "last"), [("train", 0, 70), ("validation", 70, 85), ("test", 85, 100)])
def test_part_without_a_value_to_foretell_is_named(split: str, first: int, last: int) -> None:
    values = walk(100)
    values[first:last] = nan
    with pytest.raises(ValueError, match=f"its {split} part has no value of y that could be forecast"):
        problem(panel(values))


def test_season_is_a_day_where_a_day_has_whole_steps() -> None:
    assert problem(panel(walk(100), step=HOUR)).season == 24
    assert problem(panel(walk(100), step=np.timedelta64(7, "h").astype("timedelta64[ns]"))).season is None
    assert problem(panel(walk(100), step=24 * HOUR)).season is None
    assert problem(panel(walk(100))).season is None
    assert problem(panel(walk(100), step=HOUR), season=5).season == 5


def test_digest_is_that_of_the_values_and_the_times() -> None:
    values = walk(100)
    changed = values.copy()
    changed[50] += 1
    found = {
        problem(of).digest()
        for of in (
            panel(values),
            panel(changed),
            panel(values, step=HOUR),
            panel(values, step=2 * HOUR),
            panel(values, targets=["z"]),
        )
    }
    assert len(found) == 5
    assert problem(panel(values)).digest() == problem(panel(values)).digest()
