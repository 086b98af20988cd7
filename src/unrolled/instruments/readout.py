"""Linear readouts: fitted to some sequences, scored on others, with what an interval over sequences needs.

Sequences, never single steps, are divided between fitting and testing: steps of one sequence are too much alike. What
is kept of a stream of batches is a fixed number of steps, drawn evenly from all that came.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unrolled.intervals import Interval

Array = NDArray[Any]
Figures = NDArray[np.float64]
Kind = Literal["linear", "ridge", "logistic"]

RESAMPLES = 1000
_BLOCKS = 20  # in which resamples are computed, so that they take less memory than what they are of


class Reservoir:
    """At most `size` steps drawn evenly from all that are added (Vitter 1985, by random keys)."""

    def __init__(self, size: int, random: np.random.Generator) -> None:
        self._size = size
        self._random = random
        self._keys: Array = np.empty(0)
        self._columns: dict[str, Array] = {}

    def add(self, columns: dict[str, Array]) -> None:
        """columns: name -> (N, ...) of N steps."""
        count = len(next(iter(columns.values())))
        keys = self._random.random(count)
        if len(self._keys) == self._size:
            chosen = keys < self._keys.max()
            keys, columns = keys[chosen], {name: values[chosen] for name, values in columns.items()}
        if self._columns:
            columns = {name: np.concatenate([kept, columns[name]]) for name, kept in self._columns.items()}
            keys = np.concatenate([self._keys, keys])
        if len(keys) > self._size:
            first = np.argpartition(keys, self._size)[: self._size]
            keys, columns = keys[first], {name: values[first] for name, values in columns.items()}
        self._keys, self._columns = keys, {name: np.array(values) for name, values in columns.items()}

    def replace(self, name: str, values: Array) -> None:
        """Put other values of the steps that are kept in the place of a column."""
        self._columns[name] = values

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]


@lru_cache(maxsize=1)
def _draws(count: int, seed: int) -> Array:
    """(R, count) how often each sequence is drawn for each resample; scores that are compared all ask for the same."""
    random, evenly = np.random.default_rng(seed), np.full(count, 1 / count)
    blocks = [random.multinomial(count, evenly, size=RESAMPLES // _BLOCKS).astype(np.uint16) for _ in range(_BLOCKS)]
    return np.concatenate(blocks)


@dataclass(frozen=True)
class Score:
    """How well a readout does on sequences that it was not fitted to, and what resampling those needs.

    For classes it is balanced accuracy, the mean over classes of the share that is found; for values R², the share of
    their variance that is explained.

    Attributes:
        metric: "balanced accuracy" or "R²".
        chance: what knowing nothing gets: 1 / number of classes tested, or 0.
        steps: how many steps it was tested on.
        tally: (sequences, ·) sums from which the figure is computed: for classes found and counted of each class, for
            values, less their mean, count, sum, sum of squares, and sum of squared errors.
    """

    metric: str
    chance: float
    steps: int
    tally: Figures

    @property
    def value(self) -> float:
        return float(self._of(self.tally.sum(0)[None])[0])

    def resampled(self, seed: int) -> Figures:
        """(R,) the figure on bootstrap resamples of the sequences; equal seeds draw the same ones."""
        drawn = _draws(len(self.tally), seed)
        return self._of(np.concatenate([block @ self.tally for block in np.split(drawn, _BLOCKS)]))

    def interval(self, seed: int = 0) -> Interval:
        """The figure with its interval over the tested sequences."""
        return Interval.resampled(self.value, self.resampled(seed), len(self.tally))

    def _of(self, sums: Figures) -> Figures:
        if self.metric != "R²":
            found, counted = np.split(sums, 2, axis=1)
            shares = np.divide(found, counted, out=np.full_like(found, np.nan), where=counted > 0)
            return np.asarray(np.nanmean(shares, axis=1))
        count, total, squares, errors = sums.T
        spread = squares - total**2 / np.maximum(count, 1)
        return np.asarray(1 - errors / np.where(spread > 0, spread, np.nan))


@dataclass(frozen=True)
class Readout:
    """A fitted readout: (N, F) features -> (N, K) scores of the classes, or (N,) values."""

    mean: Figures
    spread: Figures
    weights: Figures
    bias: Figures
    classes: Array | None

    def scores(self, features: Array) -> Figures:
        return np.asarray((features - self.mean) / self.spread @ self.weights + self.bias)

    def answers(self, features: Array) -> Array:
        """(N,) classes or values."""
        scores = self.scores(features)
        return scores if self.classes is None else self.classes[scores.argmax(1)]


def fit(features: Array, labels: Array, kind: Kind = "ridge", *, penalty: float = 1.0) -> Readout:
    """Fit a readout; features are standardised, and classes count the same however rare they are.

    Args:
        features: (N, F).
        labels: (N,) whole numbers for classes, floating point for values.
        kind: "linear", least squares without a penalty; "ridge"; "logistic", for classes only.
        penalty: of ridge, and one over logistic's C.

    Where all labels are one class the readout always answers it.

    Raises:
        ValueError: a logistic readout of values.
    """
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
    from sklearn.utils.class_weight import compute_sample_weight

    # In float64: states of a trained network are often nearly dependent.
    x = features.astype(np.float64)
    mean, spread = x.mean(0), x.std(0)
    # A feature that never changes tells nothing; dividing by its spread would make noise of it.
    spread = np.where(spread > 1e-8, spread, np.inf)
    x = (x - mean) / spread
    if is_value(labels):
        if kind == "logistic":
            raise ValueError(
                "kind: 'logistic' tells classes apart, and the labels are values; expected ridge or linear"
            )
        found = (Ridge(alpha=penalty) if kind == "ridge" else LinearRegression()).fit(x, labels)
        return Readout(mean, spread, np.asarray(found.coef_), np.asarray(found.intercept_), None)
    classes = np.unique(labels)
    if len(classes) == 1:
        return Readout(mean, spread, np.zeros((x.shape[1], 1)), np.zeros(1), classes)
    if kind == "logistic":
        found = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=1000).fit(x, labels)
        weights, bias = np.asarray(found.coef_).T, np.asarray(found.intercept_)
        if len(classes) == 2:
            weights, bias = np.hstack([-weights, weights]), np.array([-bias[0], bias[0]])
        return Readout(mean, spread, weights, bias, classes)
    targets = np.where(labels[:, None] == classes, 1.0, -1.0)
    weights_of_steps = compute_sample_weight("balanced", labels)
    model = Ridge(alpha=penalty) if kind == "ridge" else LinearRegression()
    found = model.fit(x, targets, sample_weight=weights_of_steps)
    return Readout(mean, spread, np.asarray(found.coef_).T, np.asarray(found.intercept_), classes)


def score(readout: Readout, features: Array, labels: Array, sequences: Array) -> Score:
    """How a readout does on other sequences.

    Args:
        features: (N, F). labels: (N,). sequences: (N,) the sequence that each step is of.
    """
    answers = readout.answers(features.astype(np.float64))
    _, rows = np.unique(sequences, return_inverse=True)
    count = int(rows.max()) + 1
    if readout.classes is None:
        # Sums of squares far from zero would lose the spread.
        centred = labels.astype(np.float64) - labels.mean(dtype=np.float64)
        columns = [np.ones_like(answers), centred, centred**2, (labels - answers) ** 2]
        tally = np.stack([np.bincount(rows, column, count).astype(np.float64) for column in columns], axis=1)
        return Score("R²", 0.0, len(labels), tally)
    classes, which = np.unique(labels, return_inverse=True)
    cells = rows * len(classes) + which  # of a table of sequences and classes
    size = count * len(classes)
    found = np.bincount(cells, answers == labels, size).reshape(count, -1).astype(np.float64)
    counted = np.bincount(cells, minlength=size).reshape(count, -1).astype(np.float64)
    return Score("balanced accuracy", 1 / len(classes), len(labels), np.hstack([found, counted]))


def is_value(labels: Array) -> bool:
    """Whether labels are values; else they are classes."""
    return bool(np.issubdtype(labels.dtype, np.floating))


def defined(labels: Array) -> Array:
    """Where a label is there: classes from 0 on, values that are numbers."""
    return np.isfinite(labels) if is_value(labels) else labels >= 0
