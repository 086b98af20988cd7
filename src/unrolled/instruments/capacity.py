"""Bias and variance of a way of training, over training sets drawn again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.drawing.panels import Dots
from unrolled.instruments.result import Result, labelled
from unrolled.intervals import Interval

Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class Capacity(Result):
    """The error of networks trained on different sets, in two parts that sum to it.

    Variables of `data`, by example:
        bias (example): squared distance of the mean prediction from the truth, less what the mean of so few sets adds
            to it by chance (so it can be a little below 0).
        variance (example): of the predictions over training sets, summed over outputs.
        error (example): mean squared error over training sets, which is bias + variance.
        prediction (set, example, output).
    """

    def part(self, name: str) -> Interval:
        """Mean of "bias", "variance" or "error" with its interval over examples."""
        return Interval.over(self.data[name].values)

    def summary(self) -> str:
        sets = self.data.sizes["set"]
        bias, variance, error = (self.part(name) for name in ("bias", "variance", "error"))
        return (
            f"Over {sets} training sets: bias² {bias.text} and variance {variance.text} make an error of {error.text}."
        )

    def panels(self) -> Sequence[Dots]:
        parts = [self.part(name) for name in ("bias", "variance", "error")]
        bounds = (tuple(p.mean for p in parts), tuple(p.low for p in parts), tuple(p.high for p in parts))
        return (Dots("Bias and variance over training sets", "squared error", ("bias²", "variance", "error"), *bounds),)


def capacity(
    train: Callable[[int], Predict],
    inputs: Tensor,
    targets: Tensor,
    *,
    sets: int = 5,
    on_progress: Callable[[int, int], None] | None = None,
) -> Capacity:
    """Train on several training sets and split the error of their predictions into bias and variance.

    For a squared error (Geman et al. 1992): the expected (f(x) - y)² is (mean f(x) - y)² + var f(x). For classes it is
    the same sum over the probabilities of all classes, whose squared error is Brier's score.

    Args:
        train: number of a training set, from 0 -> what was trained on it, a function from inputs to predictions: (N,)
            values, or (N, K) probabilities of classes. Everything that is drawn has to depend on the number.
        inputs: (N, ...), what predictions are made for; never part of a training set.
        targets: (N,) values as floating point, or classes as whole numbers.
        sets: how many training sets, 2 or more.
        on_progress: called with the sets done and the sets to do.

    Raises:
        ValueError: predictions that do not fit the targets, or fewer than two sets.
    """
    if sets < 2:
        raise ValueError(f"sets: given {sets}, expected 2 or more, since variance is over them")
    predictions = []
    for number in range(sets):
        predict = train(number)
        with torch.no_grad():
            predictions.append(_fitting(predict(inputs), targets))
        if on_progress:
            on_progress(number + 1, sets)
    values: NDArray[np.float64] = torch.stack(predictions).numpy(force=True)  # (R, N, K)
    truth = _as_outputs(targets, values.shape[-1])
    variance = values.var(0, ddof=1).sum(-1)
    bias = ((values.mean(0) - truth) ** 2).sum(-1) - variance / sets
    error = ((values - truth) ** 2).sum(-1).mean(0)
    variables: dict[str, tuple[Sequence[str], Any]] = {
        "bias": (("example",), bias),
        "variance": (("example",), variance),
        "error": (("example",), error),
        "prediction": (("set", "example", "output"), values),
    }
    coords = {
        "set": np.arange(sets),
        "example": np.arange(values.shape[1]),
        "output": np.arange(values.shape[2]),
    }
    return Capacity(labelled(variables, coords))


def _fitting(prediction: Tensor, targets: Tensor) -> Tensor:
    if targets.dim() != 1:
        raise ValueError(f"targets: of shape {tuple(targets.shape)}; expected (N,)")
    classes = not targets.is_floating_point()
    wanted = "(N, K) probabilities of classes" if classes else "(N,) values"
    fits = prediction.dim() == 2 if classes else prediction.shape == targets.shape
    if not fits or prediction.size(0) != targets.size(0):
        shapes = f"{tuple(prediction.shape)} for targets {tuple(targets.shape)}"
        raise ValueError(f"train: predictions are of shape {shapes}; expected {wanted}")
    if classes and not bool(((prediction >= 0) & (prediction <= 1)).all()):
        raise ValueError("train: predictions for classes have to be probabilities, from 0 to 1; apply a softmax")
    if classes and not bool(((targets >= 0) & (targets < prediction.size(1))).all()):
        raise ValueError(f"targets: expected classes from 0 to {prediction.size(1) - 1}, as many as are predicted")
    return prediction.double() if classes else prediction.double().unsqueeze(-1)


def _as_outputs(targets: Tensor, outputs: int) -> NDArray[np.float64]:
    """(N, K)"""
    if targets.is_floating_point():
        return np.asarray(targets.double().unsqueeze(-1).numpy(force=True))
    return np.asarray(np.eye(outputs)[targets.long().numpy(force=True)])
