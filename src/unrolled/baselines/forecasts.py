"""Forecasts without a network: the last value, the value one season before, and a linear map of the whole window.

Windows are (N, W, C), of which the first K channels are the targets; forecasts are (N, horizon, K).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

# Around 1, which is how much a standardised feature varies.
PENALTIES = tuple(10.0**power for power in range(-6, 3))


def persistence(history: Array, horizon: int, targets: int) -> Array:
    """The last value of each target, held: the naive method of Hyndman & Athanasopoulos (2021, section 5.2).

    Args:
        history: (N, W, C) windows.
        horizon: steps to forecast.
        targets: K.

    Returns:
        (N, horizon, K) in the dtype of `history`.

    Raises:
        ValueError: the shape does not fit the numbers, or one of these is below 1.
    """
    return seasonal_naive(history, horizon, targets, season=1)


def seasonal_naive(history: Array, horizon: int, targets: int, season: int) -> Array:
    """Each target's value whole seasons before, the last that is known: Hyndman & Athanasopoulos (2021, section 5.2).

    The forecast of h steps ahead, h = 1, 2, ..., is y[T + h - m (k + 1)] for the season m and k = (h - 1) // m.

    Args:
        history: (N, W, C) windows.
        horizon: steps to forecast.
        targets: K.
        season: m, its length in steps, such as 24 for hours of a day; at most W.

    Returns:
        (N, horizon, K) in the dtype of `history`.

    Raises:
        ValueError: the shape does not fit the numbers, or one of these is below 1.
    """
    if history.ndim != 3:
        raise ValueError(f"history: expected (N, W, C) windows, given shape {history.shape}")
    _, window, channels = history.shape
    if horizon < 1:
        raise ValueError(f"horizon: must be at least 1, given {horizon}")
    if not 1 <= targets <= channels:
        raise ValueError(f"targets: must be from 1 to the {channels} channels of history, given {targets}")
    if not 1 <= season <= window:
        raise ValueError(f"season: must be from 1 to the {window} steps of history, given {season}")
    steps = window - season + np.arange(horizon) % season  # (horizon,)
    return history[:, steps, :targets]


class Ridge:
    """Every value of the forecast as a linear function of all W * C values of the window (Hoerl & Kennard 1970).

    Minimises, over the training windows, the mean squared error plus penalty * |weights|², summed over the horizon
    and targets. Features are standardised (mean 0, standard deviation 1 over the training windows; one that varies by
    no more than float32 rounds off is left out) and the intercept is not penalised. The penalty is the one of a grid
    with the least squared error on the validation windows. With N windows, scikit-learn's `alpha` is N * penalty.

    Sums of products are kept in float64, not the windows: memory is that of a few (W * C)² matrices whatever N is.

    Args:
        penalties: the grid; all above 0.

    Attributes:
        penalty: the one chosen by `fit`.
        errors: for each penalty, its mean squared error on the validation windows.

    Raises:
        ValueError: the grid is empty, or a penalty is not above 0.
    """

    penalty: float
    errors: dict[float, float]

    def __init__(self, *, penalties: Sequence[float] = PENALTIES) -> None:
        if not penalties or not all(0 < penalty < math.inf for penalty in penalties):
            raise ValueError(f"penalties: expected one or more finite numbers above 0, given {list(penalties)}")
        self._penalties = tuple(float(penalty) for penalty in penalties)

    def fit(self, batches: Iterable[tuple[Array, Array]], validation_batches: Iterable[tuple[Array, Array]]) -> Ridge:
        """Fit the weights and choose the penalty; each batch is looked at once.

        Windows with a NaN among their answers are left out.

        Args:
            batches: (history, answers) of the training windows: (N, W, C) and (N, horizon, K). Sizes may differ in N.
            validation_batches: those of the validation windows.

        Raises:
            ValueError: a shape does not fit the ones before, a history has a value that is not finite, an answer is
                infinite, or no window is left.
        """
        sums = _Sums()
        for history, answers in _read("batches", batches, None, None):
            sums.add(history.reshape(len(history), -1), answers.reshape(len(answers), -1))
            self._window, self._answer = history.shape[1:], answers.shape[1:]
        if not sums.windows:
            raise ValueError("batches: have no window with all of its answers; give one or more")
        self._mean, self._answer_mean = sums.mean()
        self._scale, correlations, shared = sums.standardised()
        values, vectors = np.linalg.eigh(correlations)
        # A Gram matrix has no eigenvalue below 0 but for rounding.
        values = np.maximum(values, 0)
        within = vectors.T @ shared  # (features, outputs)

        def weights(penalty: float) -> Floats:
            found: Floats = vectors @ (within / (values + penalty)[:, None])
            return found

        candidates = {penalty: weights(penalty) for penalty in self._penalties}
        squares, answered = dict.fromkeys(self._penalties, 0.0), 0
        for history, answers in _read("validation_batches", validation_batches, self._window, self._answer):
            features = self._features(history)
            truth = answers.reshape(len(answers), -1) - self._answer_mean
            answered += truth.size
            for penalty, candidate in candidates.items():
                squares[penalty] += float(((features @ candidate - truth) ** 2).sum())
        if not answered:
            raise ValueError("validation_batches: have no window with all of its answers; give one or more")
        self.errors = {penalty: total / answered for penalty, total in squares.items()}
        self.penalty = min(self.errors, key=lambda penalty: self.errors[penalty])
        self._weights = candidates[self.penalty]
        return self

    def predict(self, history: Array) -> Floats:
        """Forecast from (N, W, C) windows: (N, horizon, K) float64.

        Raises:
            ValueError: windows have another shape than those of `fit`, or a value that is not finite.
            RuntimeError: `fit` was not called.
        """
        if not hasattr(self, "_weights"):
            raise RuntimeError("Ridge has no weights yet; call fit(batches, validation_batches) first")
        _check_history("history", history, self._window)
        found: Floats = self._features(history) @ self._weights + self._answer_mean
        return found.reshape(len(history), *self._answer)

    def _features(self, history: Array) -> Floats:
        """(N, features) standardised."""
        features: Floats = (history.reshape(len(history), -1).astype(np.float64) - self._mean) * self._scale
        return features


class _Sums:
    """Sums over windows, of which means and products of deviations from the mean are made.

    Everything is counted from the first batch's mean: far from 0, sums of squares would lose what varies.
    """

    windows = 0

    def add(self, features: Array, answers: Array) -> None:
        """Add (n, features) and (n, outputs)."""
        joint = np.concatenate((features, answers), axis=1, dtype=np.float64)
        if not self.windows:
            self._features = features.shape[1]
            self._origin = joint.mean(0)
            self._sum = np.zeros(joint.shape[1])
            self._products = np.zeros((self._features, joint.shape[1]))
        joint -= self._origin
        self.windows += len(joint)
        self._sum += joint.sum(0)
        self._products += joint[:, : self._features].T @ joint

    def mean(self) -> tuple[Floats, Floats]:
        """(features,) and (outputs,)"""
        mean = self._origin + self._sum / self.windows
        return mean[: self._features], mean[self._features :]

    def standardised(self) -> tuple[Floats, Floats, Floats]:
        """What features are multiplied by (features,); their correlations (features, features) and their mean products
        with the answers (features, outputs), once multiplied."""
        mean = self._sum / self.windows
        products = self._products / self.windows - np.outer(mean[: self._features], mean)
        variance = np.diagonal(products)
        # Scaled up, what float32 rounds off would be a feature whose next change is a million deviations.
        varies = variance > (np.finfo(np.float32).eps * self._origin[: self._features]) ** 2
        scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0)
        products *= scale[:, None]
        return scale, products[:, : self._features] * scale, products[:, self._features :]


def _read(
    name: str, batches: Iterable[tuple[Array, Array]], window: tuple[int, ...] | None, answer: tuple[int, ...] | None
) -> Iterator[tuple[Array, Array]]:
    """The batches, checked, without windows that lack an answer."""
    for number, (history, answers) in enumerate(batches):
        where = f"{name}: history of batch {number}"
        if history.ndim != 3 or answers.ndim != 3 or len(history) != len(answers):
            raise ValueError(
                f"{name}: batch {number} has shapes {history.shape} and {answers.shape}; expected (N, W, C) and "
                "(N, horizon, K)"
            )
        window, answer = window or history.shape[1:], answer or answers.shape[1:]
        _check_history(where, history, window)
        if answers.shape[1:] != answer:
            raise ValueError(
                f"{name}: answers of batch {number} have shape {answers.shape}; expected (N, {answer[0]}, {answer[1]}) "
                "as before"
            )
        if np.isinf(answers).any():
            raise ValueError(f"{name}: answers of batch {number} are infinite; expected numbers, or NaN where missing")
        whole = ~np.isnan(answers).any((1, 2))
        if whole.any():
            yield history[whole], answers[whole]


def _check_history(where: str, history: Array, window: tuple[int, ...]) -> None:
    if history.ndim != 3 or history.shape[1:] != window:
        raise ValueError(f"{where}: has shape {history.shape}; expected (N, {window[0]}, {window[1]}) as before")
    finite = np.isfinite(history)
    if not finite.all():
        row, step, channel = (int(at) for at in np.argwhere(~finite)[0])
        raise ValueError(
            f"{where}: has {history[row, step, channel]} in window {row}, step {step}, channel {channel}; fill in what "
            "is missing first"
        )
