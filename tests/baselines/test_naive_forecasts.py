from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unrolled.baselines.forecasts import persistence, seasonal_naive


def counted(windows: int, steps: int, channels: int) -> NDArray[np.float32]:
    """All values differ: 100 * window + 10 * step + channel."""
    n, t, c = np.ogrid[:windows, :steps, :channels]
    return np.asarray(100 * n + 10 * t + c, dtype=np.float32)


def test_persistence_holds_the_last_value_of_each_target() -> None:
    found = persistence(counted(2, 4, 3), 3, 2)
    assert found.shape == (2, 3, 2)
    assert found.dtype == np.float32
    assert found[0].tolist() == [[30, 31]] * 3
    assert found[1].tolist() == [[130, 131]] * 3


def test_seasonal_naive_goes_on_with_the_last_season_over_and_over() -> None:
    found = seasonal_naive(counted(2, 6, 3), 5, 1, season=3)
    assert found[0, :, 0].tolist() == [30, 40, 50, 30, 40]
    assert found[1, :, 0].tolist() == [130, 140, 150, 130, 140]


def test_seasonal_naive_is_exact_on_what_repeats() -> None:
    series = np.tile(np.arange(7.0), 8)
    history, answers = series[None, :30, None], series[None, 30:47, None]
    np.testing.assert_array_equal(seasonal_naive(history, 17, 1, season=7), answers)
    np.testing.assert_array_equal(seasonal_naive(history, 17, 1, season=14), answers)


@pytest.mark.parametrize(
    ("shape", "horizon", "targets", "season", "message"),
    [
        ((4, 3), 1, 1, 1, r"history: expected \(N, W, C\) windows, given shape \(4, 3\)"),
        ((1, 4, 3), 0, 1, 1, "horizon: must be at least 1, given 0"),
        ((1, 4, 3), 1, 4, 1, "targets: must be from 1 to the 3 channels of history, given 4"),
        ((1, 4, 3), 1, 1, 5, "season: must be from 1 to the 4 steps of history, given 5"),
        ((1, 4, 3), 1, 1, 0, "season: must be from 1"),
    ],
)
def test_wrong_arguments_are_named(shape: Any, horizon: int, targets: int, season: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seasonal_naive(np.zeros(shape), horizon, targets, season)
