"""Linear probes: what a linear readout can tell from a state, beside what it could tell without the state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Figures = NDArray[np.float32] | NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ProbeResult:
    """Balanced accuracy (mean over classes of the share found) of a linear probe on sequences it was not fitted to.

    Attributes:
        accuracy: on the labels.
        control: on the control labels, None if there were none.
        chance: 1 / number of classes seen in the test sequences, what answering one class gets.
        steps: how many steps it was tested on.
    """

    accuracy: float
    control: float | None
    chance: float
    steps: int

    @property
    def selectivity(self) -> float | None:
        """accuracy - control (Hewitt & Liang 2019): what is in the state beyond what the probe itself can learn."""
        return None if self.control is None else self.accuracy - self.control


def probe(
    features: Figures,
    labels: Labels,
    *,
    control: Labels | None = None,
    test_share: float = 0.4,
    max_steps: int = 8000,
    ridge: float = 1.0,
    seed: int = 0,
) -> ProbeResult:
    """Fit a linear classifier from features to labels and test it on other sequences.

    The classifier is ridge regression on balanced one-hot targets (scikit-learn's RidgeClassifier) over features
    standardised on the fitting sequences. Sequences, never single steps, are split into fitting and testing.

    Args:
        features: (B, T, F) a state, several side by side, or the raw input.
        labels: (B, T) classes; -1 where there is none.
        control: (B, T) labels of a control task, see `control_labels`.
        test_share: share of the sequences kept for testing.
        max_steps: at most this many steps, drawn at random, are fitted to and as many tested on.
        ridge: strength of the penalty.
        seed: of the draws.

    Raises:
        ValueError: shapes that do not fit, too few sequences, NaN, or fewer than two classes to tell apart.
    """
    if features.ndim != 3 or labels.shape != features.shape[:2]:
        raise ValueError(
            f"labels: shape {labels.shape} does not fit features {features.shape}; expected (B, T) and (B, T, F)"
        )
    if not np.isfinite(features).all():
        raise ValueError("features: hold NaN or infinity")
    batch = features.shape[0]
    tested = max(1, round(test_share * batch))
    if batch - tested < 1:
        raise ValueError(
            f"features: {batch} sequences are too few to fit on some and test on others; expected 2 or more"
        )
    order = np.random.default_rng(seed).permutation(batch)
    fitting, testing = order[tested:], order[:tested]
    accuracy, chance, steps = _accuracy(features, labels, fitting, testing, max_steps, ridge, seed)
    on_control = None
    if control is not None:
        on_control = _accuracy(features, control, fitting, testing, max_steps, ridge, seed)[0]
    return ProbeResult(accuracy, on_control, chance, steps)


def control_labels(symbols: Labels, labels: Labels, *, seed: int = 0) -> Labels:
    """The control task of Hewitt & Liang (2019): each symbol is dealt one label at random, with the labels' own
    frequencies.

    Args:
        symbols: (B, T) the input symbol that a control label depends on.
        labels: (B, T) the labels of the task itself; -1 where there is none.
    """
    random = np.random.default_rng(seed)
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    dealt = random.choice(classes, size=int(symbols.max()) + 1, p=counts / counts.sum())
    # Every class has to occur for the two tasks to be equally hard.
    present = np.unique(symbols)
    dealt[random.permutation(present)[: len(classes)]] = classes[: len(present)]
    return np.where(labels >= 0, dealt[symbols], -1)


def _accuracy(
    features: Figures, labels: Labels, fitting: Labels, testing: Labels, max_steps: int, ridge: float, seed: int
) -> tuple[float, float, int]:
    from sklearn.linear_model import RidgeClassifier

    random = np.random.default_rng(seed + 1)

    def gather(sequences: Labels) -> tuple[Figures, Labels]:
        x, y = features[sequences], labels[sequences]
        x, y = x[y >= 0], y[y >= 0]
        if len(y) > max_steps:
            chosen = random.choice(len(y), max_steps, replace=False)
            x, y = x[chosen], y[chosen]
        # In float64: states of a trained network are often nearly dependent.
        return x.astype(np.float64), y

    (x, y), (x_test, y_test) = gather(fitting), gather(testing)
    if len(np.unique(y)) < 2 or len(y_test) == 0:
        raise ValueError("labels: fewer than two classes to tell apart in the fitting sequences, or none in the others")
    mean, spread = x.mean(0), x.std(0)
    # A feature that never changes tells nothing; dividing by its spread would make noise of it.
    spread = np.where(spread > 1e-8, spread, np.inf)
    classifier = RidgeClassifier(alpha=ridge, class_weight="balanced").fit((x - mean) / spread, y)
    right = classifier.predict((x_test - mean) / spread) == y_test
    classes = np.unique(y_test)
    return float(np.mean([right[y_test == c].mean() for c in classes])), 1 / len(classes), len(y_test)
