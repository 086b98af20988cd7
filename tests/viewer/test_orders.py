"""The order in which units are shown: slowest first, like beside like, or by number."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from planted_traces import random
from unrolled.viewer.orders import By, order, timescales


def kept(seed: int, steps: int, times: list[float]) -> np.ndarray[Any, Any]:
    """Units that forget with the given time constants, (T, H)."""
    keep = np.exp(-1 / np.array(times))
    noise = random(seed, steps, len(times)).astype(np.float64)
    values = np.zeros((steps, len(times)))
    for t in range(1, steps):
        values[t] = keep * values[t - 1] + noise[t] * np.sqrt(1 - keep**2)
    return values


def test_slowest_units_stand_first() -> None:
    values = kept(0, 20_000, [3, 100, 1, 20])
    assert order(values, "timescale").tolist() == [1, 3, 0, 2]
    np.testing.assert_allclose(timescales(values), [3, 100, 1, 20], rtol=0.2)


@pytest.mark.parametrize("steps", [2, 7, 64, 513])
def test_timescale_is_that_of_the_autocorrelation_written_out(steps: int) -> None:
    values = kept(1, steps, [4.0] * 40)
    found = timescales(values)
    for unit in range(40):
        course = values[:, unit] - values[:, unit].mean()
        decay = np.array([course[: steps - lag] @ course[lag:] for lag in range(steps)]) / (course @ course)
        after = int(np.argmax(decay < 1 / np.e))
        between = (decay[after - 1] - 1 / np.e) / (decay[after - 1] - decay[after])
        assert found[unit] == pytest.approx(after - 1 + between, rel=1e-6)


def test_shortest_course_with_a_timescale_has_two_steps() -> None:
    # Its autocorrelation is 1 at lag 0 and -1/2 at lag 1.
    assert timescales(np.array([[0.0], [1.0]])) == pytest.approx((1 - 1 / np.e) / 1.5)
    assert np.isnan(timescales(np.zeros((1, 2)))).all()


def test_units_that_are_alike_or_opposite_stand_side_by_side() -> None:
    courses = random(2, 500, 3)
    values = np.stack([sign * courses[:, kind] for kind, sign in ((0, 1), (1, 1), (2, 1), (0, -2), (1, -1), (2, 5))], 1)
    found = (order(values + 0.01 * random(3, 500, 6), "similarity") % 3).tolist()
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert found[4] == found[5]


@pytest.mark.parametrize("by", ["timescale", "similarity"])
def test_units_that_do_not_vary_or_are_not_finite_stand_last(by: By) -> None:
    values = kept(4, 300, [5.0] * 8)
    values[:, 0] = 0.1
    values[7, 2] = np.nan
    values[9, 3] = np.inf
    assert order(values, by)[5:].tolist() == [0, 2, 3]
    assert np.isnan(timescales(values)[[0, 2, 3]]).all()


@pytest.mark.parametrize("by", get_args(By))
@pytest.mark.parametrize("shape", [(50, 1), (50, 2), (50, 3), (1, 5), (0, 4), (5, 0), (50, 33), (2, 20)])
def test_every_order_has_every_unit_once(shape: tuple[int, int], by: By) -> None:
    assert sorted(order(random(5, *shape), by).tolist()) == list(range(shape[1]))


@pytest.mark.parametrize("by", get_args(By))
def test_values_of_any_size_are_ordered(by: By) -> None:
    values = kept(6, 200, [2.0, 30.0, 8.0, 1.0])
    for scale in (1e-4, 1e100):
        assert order(values * scale, by).tolist() == order(values, by).tolist()
    assert sorted(order(values * 1e300, by).tolist()) == [0, 1, 2, 3]


def test_more_units_than_leaves_can_be_ordered_for_are_clustered_all_the_same() -> None:
    courses = random(7, 100, 310)
    values = np.concatenate([courses, -courses], axis=1)
    found = (order(values, "similarity") % 310).reshape(310, 2)
    assert (found[:, 0] == found[:, 1]).all()


def test_index_is_by_number() -> None:
    assert order(random(8, 10, 4), "index").tolist() == [0, 1, 2, 3]


def test_unknown_order_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="by: given 'size', expected one of timescale, similarity, index"):
        order(random(9, 10, 4), "size")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"values: given shape \(2, 10, 4\), expected \(T, H\)"):
        timescales(random(9, 2, 10, 4))
