"""Training on a task in memory, as studies do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from unrolled.budget import Budget
from unrolled.problems.problem import summed
from unrolled.problems.synthetic import Synthetic
from unrolled.tasks import Task
from unrolled.tasks.task import Split
from unrolled.training.loop import Fit, Progress, Training, deterministic
from unrolled.training.world import Alone


def evaluate(
    model: nn.Module, task: Task, *, split: Split = "test", size: int = 256, seed: int = 0, chunk: int = 128
) -> float:
    """The task's metric (mean squared error, accuracy, or bits per answer) on `size` sequences of a split."""
    problem = Synthetic(task, seed=seed, batch_size=chunk, sizes={split: size}, chunk=chunk)
    return problem.figures(summed(model, problem, split))[problem.metric]


def fit(
    model: nn.Module,
    task: Task,
    budget: Budget,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    draw: Callable[[int], int] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Fit:
    """Train `model` in place on `task` and leave it with the weights of its best validation.

    Args:
        model: maps inputs (B, T, I) to answers (B, T, K).
        task: where batches come from.
        budget: how long, and with what.
        seed: decides the batches and everything random in the model.
        device: where to train; the data are the same on every device.
        draw: the seed of a step's batch, from step 1; by default every step has a new one.
        on_progress: called after every validation.

    Raises:
        Diverged: the loss or the weights became NaN or infinite; names the step.
        ValueError: the first batch holds NaN or infinity.
    """
    problem = Synthetic(
        task, seed=seed, batch_size=budget.batch_size, sizes={"validation": budget.validation_size}, draw=draw
    )
    with deterministic(seed):
        result = Training(model, problem, budget, world=Alone(device)).run(on_progress)
    assert result is not None
    return result
