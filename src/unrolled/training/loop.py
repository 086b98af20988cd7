"""Training: from a task to a fitted model, the same weights for the same seed."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.tasks import Batch, Task
from unrolled.tasks.task import Split


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How a model is fitted.

    Attributes:
        steps: optimiser steps at most.
        batch_size: sequences a step.
        learning_rate: of Adam.
        clip: the gradient's norm is cut to this.
        validate_every: steps between validations; the weights of the best validation are kept.
        validation_size: sequences in the validation set.
        patience: stop after this many validations without a better one; None never stops early.
        seconds: stop at the first validation after this time; None sets no limit. A run it cuts short depends on the
            machine's speed and not on the seed alone.
    """

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 3e-3
    clip: float = 1.0
    validate_every: int = 100
    validation_size: int = 256
    patience: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "clip", "validate_every", "validation_size"):
            value = getattr(self, name)
            if not value > 0 or not math.isfinite(value):
                raise ValueError(f"{name}: must be above 0, given {value}")
        for name in ("patience", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: must be above 0 or None, given {value}")


@dataclass(frozen=True)
class Progress:
    """Where a fit stands; one line of its metrics. `value` is the task's metric on the validation set.

    `loss` is the training loss since the line before, in nats or squared units. `speed` is in steps a second.
    """

    step: int
    steps: int
    loss: float
    value: float
    best: float
    seconds: float

    @property
    def speed(self) -> float:
        return self.step / self.seconds if self.seconds > 0 else math.nan

    @property
    def seconds_left(self) -> float:
        return (self.steps - self.step) / self.speed if self.step else math.nan


@dataclass(frozen=True)
class Fit:
    """What came out: the metrics, the best validation, and why training ended ("steps", "patience" or "seconds")."""

    metrics: tuple[Progress, ...]
    best_step: int
    best_value: float
    stopped: str


class Diverged(RuntimeError):
    """The loss or the weights are no longer numbers."""


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Everything random follows from `seed`, and only deterministic algorithms run; both are undone afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    # cuBLAS reads this once, when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)


def losses(task: Task, answers: Tensor, batch: Batch) -> Tensor:
    """answers: (B, T, K) -> (N,) loss at every scored step: squared error, or cross-entropy in nats."""
    at = batch.scored
    if task.regression:
        return (answers[at].squeeze(-1) - batch.targets[at]).square()
    return F.cross_entropy(answers[at], batch.targets[at], reduction="none")


def evaluate(
    model: nn.Module, task: Task, *, split: Split = "test", size: int = 256, seed: int = 0, chunk: int = 128
) -> float:
    """The task's metric (mean squared error, accuracy, or bits per answer) on `size` sequences of a split."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for index, first in enumerate(range(0, size, chunk)):
                batch = task.batch(min(chunk, size - first), seed=1000 * seed + index, split=split).to(device)
                answers = model(batch.inputs)
                if task.metric == "accuracy":
                    figures = (answers[batch.scored].argmax(-1) == batch.targets[batch.scored]).double()
                else:
                    figures = losses(task, answers, batch).double()
                    if task.metric == "bits":
                        figures = figures / math.log(2)
                total += float(figures.sum())
                count += figures.numel()
    finally:
        model.train(training)
    return total / count


def fit(
    model: nn.Module,
    task: Task,
    budget: Budget,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    on_progress: Callable[[Progress], None] | None = None,
) -> Fit:
    """Train `model` in place on `task` with Adam and leave it with the weights of its best validation.

    Args:
        model: maps inputs (B, T, I) to answers (B, T, K).
        task: where batches come from.
        budget: how long, and with what.
        seed: decides the batches and everything random in the model.
        device: where to train; the data are the same on every device.
        on_progress: called after every validation.

    Raises:
        Diverged: the loss or the weights became NaN or infinite; names the step.
        ValueError: the first batch holds NaN or infinity.
    """
    with deterministic(seed):
        model.to(device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=budget.learning_rate)
        sign = 1 if task.metric == "accuracy" else -1  # errors and bits are better when lower
        best_step, best_value, best_weights = 0, math.nan, copy.deepcopy(model.state_dict())
        metrics: list[Progress] = []
        advice = f"; lower learning_rate ({budget.learning_rate}) or clip ({budget.clip})"
        stopped = "steps"
        recent: list[Tensor] = []
        start = time.perf_counter()
        for step in range(1, budget.steps + 1):
            batch = task.batch(budget.batch_size, seed=seed * 1_000_003 + step).to(device)
            if step == 1:
                _check(task, batch)
            loss = losses(task, model(batch.inputs), batch).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), budget.clip)
            optimizer.step()
            recent.append(loss.detach())
            if step % budget.validate_every and step < budget.steps:
                continue
            mean_loss = float(torch.stack(recent).mean())
            recent.clear()
            # A step can spoil the weights after its loss was taken; an accuracy would not show it.
            if not math.isfinite(mean_loss) or not all(bool(p.isfinite().all()) for p in model.parameters()):
                raise Diverged(f"training on {task.spec()} diverged: the loss is {mean_loss} by step {step}{advice}")
            value = evaluate(model, task, split="validation", size=budget.validation_size, seed=seed)
            if not math.isfinite(value):
                raise Diverged(
                    f"training on {task.spec()} diverged: the validation gives {value} at step {step}{advice}"
                )
            if math.isnan(best_value) or sign * value > sign * best_value:
                best_step, best_value, best_weights = step, value, copy.deepcopy(model.state_dict())
            seconds = time.perf_counter() - start
            metrics.append(Progress(step, budget.steps, mean_loss, value, best_value, seconds))
            if on_progress:
                on_progress(metrics[-1])
            if budget.patience is not None and step - best_step >= budget.patience * budget.validate_every:
                stopped = "patience"
                break
            if budget.seconds is not None and seconds > budget.seconds and step < budget.steps:
                stopped = "seconds"
                break
        model.load_state_dict(best_weights)
        model.eval()
    return Fit(tuple(metrics), best_step, best_value, stopped)


def _check(task: Task, batch: Batch) -> None:
    for name in ("inputs", "targets"):
        tensor: Tensor = getattr(batch, name)
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"task {task.spec()}: its {name} hold NaN or infinity; clean the data first")


def as_row(progress: Progress) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return asdict(progress)
