"""Ridge is scikit-learn's on standardised features, chosen on validation windows, in memory that N does not change."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unrolled.baselines.forecasts import Ridge

Array = NDArray[Any]


def drawn(windows: int, *, seed: int, noise: float = 1.0, offset: float = 0.0) -> tuple[Array, Array]:
    """(N, 5, 3) windows of unlike scales and (N, 2, 2) answers that depend on them, with noise."""
    rng = np.random.default_rng(seed)
    history = rng.normal(size=(windows, 5, 3)) * [0.1, 1, 20] + [0, 5, -300] + offset
    weights = np.random.default_rng(99).normal(size=(15, 4)) * np.tile([10, 1, 0.05], 5)[:, None]
    answers = (history - offset).reshape(windows, -1) @ weights + 7 + noise * rng.normal(size=(windows, 4))
    return history.astype(np.float32), answers.reshape(windows, 2, 2).astype(np.float32)


def batches(history: Array, answers: Array, size: int = 32) -> Iterator[tuple[Array, Array]]:
    for at in range(0, len(history), size):
        yield history[at : at + size], answers[at : at + size]


def by_sklearn(history: Array, answers: Array, penalty: float, wanted: Array) -> Array:
    from sklearn.linear_model import Ridge as Reference
    from sklearn.preprocessing import StandardScaler

    def features(windows: Array) -> Array:
        return windows.reshape(len(windows), -1).astype(np.float64)

    scaler = StandardScaler().fit(features(history))
    reference = Reference(alpha=penalty * len(history), solver="cholesky")
    reference.fit(scaler.transform(features(history)), answers.reshape(len(answers), -1).astype(np.float64))
    found: Array = reference.predict(scaler.transform(features(wanted)))
    return found.reshape(len(wanted), *answers.shape[1:])


@pytest.mark.parametrize("penalty", [1e-5, 0.1, 10.0])
@pytest.mark.parametrize("offset", [0.0, 5_000.0])
def test_forecasts_are_those_of_sklearn_on_standardised_features(penalty: float, offset: float) -> None:
    history, answers = drawn(203, seed=0, offset=offset)
    wanted = drawn(40, seed=1, offset=offset)[0]
    ridge = Ridge(penalties=[penalty]).fit(batches(history, answers), batches(history, answers))
    found = ridge.predict(wanted)
    assert found.shape == (40, 2, 2)
    np.testing.assert_allclose(found, by_sklearn(history, answers, penalty, wanted), rtol=1e-9, atol=1e-7)


def test_penalty_is_the_one_that_is_best_on_validation_windows() -> None:
    train, validation = drawn(40, seed=0, noise=4.0), drawn(300, seed=1, noise=4.0)
    penalties = [1e-4, 1e-2, 0.3, 3.0, 100.0]
    ridge = Ridge(penalties=penalties).fit(batches(*train), batches(*validation))
    expected = {
        penalty: float(((by_sklearn(*train, penalty, validation[0]) - validation[1]) ** 2).mean())
        for penalty in penalties
    }
    assert ridge.errors == pytest.approx(expected, rel=1e-6)
    assert ridge.penalty == min(expected, key=lambda penalty: expected[penalty])
    # Few windows and much noise: neither end of the grid is best, or the choice would not be tested.
    assert ridge.penalty not in (1e-4, 100.0)
    np.testing.assert_allclose(
        ridge.predict(validation[0]), by_sklearn(*train, ridge.penalty, validation[0]), rtol=1e-7, atol=1e-7
    )


def test_linear_recursion_is_recovered() -> None:
    # y[t] = 1.6 y[t - 1] - y[t - 2] + 0.3, an oscillation that never dies.
    series = [0.0, 1.0]
    for _ in range(600):
        series.append(1.6 * series[-1] - series[-2] + 0.3)
    y = np.array(series)
    history = np.lib.stride_tricks.sliding_window_view(y[:-3], 4)[:, :, None]  # (N, 4, 1)
    answers = np.lib.stride_tricks.sliding_window_view(y[4:], 3)[:, :, None]  # (N, 3, 1)
    ridge = Ridge(penalties=[1e-12, 1.0]).fit(
        batches(history[:400], answers[:400]), batches(history[400:500], answers[400:500])
    )
    assert ridge.penalty == 1e-12
    np.testing.assert_allclose(ridge.predict(history[500:]), answers[500:], atol=1e-6)


def test_batch_sizes_do_not_matter() -> None:
    train, validation = drawn(100, seed=0), drawn(50, seed=1)
    one = Ridge().fit([train], [validation])
    many = Ridge().fit(batches(*train, size=7), batches(*validation, size=13))
    assert one.penalty == many.penalty
    np.testing.assert_allclose(one.predict(validation[0]), many.predict(validation[0]), rtol=1e-8)


@pytest.mark.parametrize(
    ("level", "wavers"), [(0.0, False), (0.1, False), (0.1, True), (1013.3, True), (-3e7, False), (-3e7, True)]
)
def test_channel_that_varies_by_rounding_only_is_left_out(level: float, wavers: bool) -> None:
    history, answers = drawn(200, seed=0)
    expected = Ridge(penalties=[0.01]).fit([(history[:, :, :2], answers)], [(history[:, :, :2], answers)])
    history[:, :, 2] = level
    if wavers:
        up = np.random.default_rng(0).random((200, 5)) < 0.5
        history[:, :, 2] += np.where(up, np.spacing(np.float32(level)), np.float32(0))
    ridge = Ridge(penalties=[0.01]).fit(batches(history, answers, size=13), batches(history, answers))
    history[:, :, 2] += 1
    np.testing.assert_allclose(ridge.predict(history), expected.predict(history[:, :, :2]), rtol=1e-9, atol=1e-9)


def test_windows_with_a_missing_answer_are_left_out() -> None:
    train, validation = drawn(100, seed=0), drawn(60, seed=1)
    expected = Ridge().fit(
        [(train[0][10:], train[1][10:])],
        [(validation[0][:-10], validation[1][:-10])],
    )
    train[1][:10, 1, 0] = np.nan
    validation[1][-10:, 0, 1] = np.nan
    found = Ridge().fit(batches(*train, size=10), batches(*validation))
    assert found.errors == pytest.approx(expected.errors)
    np.testing.assert_allclose(found.predict(validation[0]), expected.predict(validation[0]), rtol=1e-8)


def test_memory_does_not_grow_with_the_windows() -> None:
    def stream(count: int) -> Iterator[tuple[Array, Array]]:
        rng = np.random.default_rng(0)
        for _ in range(count):
            yield rng.normal(size=(64, 40, 5)), rng.normal(size=(64, 2, 1))

    def peak(count: int) -> int:
        tracemalloc.start()
        Ridge().fit(stream(count), stream(count))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)
    assert peak(40) < 1.1 * peak(4)


def test_validation_far_from_training_chooses_the_strongest_penalty() -> None:
    train, validation = drawn(100, seed=0), drawn(100, seed=1)
    # The dependence is turned round, so the less of it the better.
    turned = 2 * train[1].mean(0) - validation[1]
    assert Ridge(penalties=[0.01, 1.0, 100.0]).fit([train], [(validation[0], turned)]).penalty == 100


def test_predict_before_fit_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"call fit\(batches, validation_batches\) first"):
        Ridge().predict(np.zeros((1, 5, 3)))


@pytest.mark.parametrize("penalties", [[], [0.0], [1.0, -1.0], [float("nan")], [float("inf")]])
def test_penalty_that_is_not_above_zero_is_refused(penalties: list[float]) -> None:
    with pytest.raises(ValueError, match="penalties: expected one or more finite numbers above 0"):
        Ridge(penalties=penalties)


def spoilt(values: Array, at: tuple[int, ...], value: float) -> Array:
    values = values.copy()
    values[at] = value
    return values


X, Y = drawn(20, seed=0)


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ([], [(X, Y)], "batches: have no window with all of its answers"),
        ([(X, Y)], [], "validation_batches: have no window with all of its answers"),
        ([(X, Y * np.nan)], [(X, Y)], "batches: have no window with all of its answers"),
        ([(X, Y), (X[:, :4], Y)], [(X, Y)], r"batches: history of batch 1: has shape .*; expected \(N, 5, 3\)"),
        ([(X, Y)], [(X, Y[:, :1])], r"validation_batches: answers of batch 0 have shape .*; expected \(N, 2, 2\)"),
        ([(X, Y[:-1])], [(X, Y)], r"batches: batch 0 has shapes \(20, 5, 3\) and \(19, 2, 2\)"),
        (
            [(X, Y), (spoilt(X, (3, 2, 1), np.nan), Y)],
            [(X, Y)],
            "batches: history of batch 1: has nan in window 3, step 2, channel 1",
        ),
        ([(X, spoilt(Y, (0, 0, 0), np.inf))], [(X, Y)], "answers of batch 0 are infinite"),
    ],
)
def test_wrong_batches_are_named(train: Any, validation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ridge().fit(train, validation)


def test_windows_of_another_shape_cannot_be_forecast() -> None:
    with pytest.raises(ValueError, match=r"history: has shape \(20, 4, 3\); expected \(N, 5, 3\)"):
        Ridge().fit([(X, Y)], [(X, Y)]).predict(X[:, :4])
