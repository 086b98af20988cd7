"""Training: from a problem to a fitted model, the same weights for the same seed."""

from unrolled.budget import Budget
from unrolled.training.fitting import evaluate, fit
from unrolled.training.loop import Diverged, Fit, Progress, Training, as_row, deterministic

__all__ = ["Budget", "Diverged", "Fit", "Progress", "Training", "as_row", "deterministic", "evaluate", "fit"]
