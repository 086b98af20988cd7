"""A task with known truth, as a problem to train on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.problems.problem import Problem, Shape, Share
from unrolled.tasks import Batch, Task
from unrolled.tasks.task import Split


class Synthetic(Problem):
    """Batches of a task, a new one for every step.

    Args:
        task: where batches come from.
        seed: decides the batches.
        batch_size: sequences of a training batch.
        sizes: sequences of a split; those that are not named have 256.
        chunk: sequences of a piece of a split.
        draw: the seed of a step's batch; by default every step has its own.
    """

    kind: ClassVar[str] = "task"

    def __init__(
        self,
        task: Task,
        *,
        seed: int,
        batch_size: int,
        sizes: dict[Split, int] | None = None,
        chunk: int = 128,
        draw: Callable[[int], int] | None = None,
    ) -> None:
        self.task = task
        self._seed, self._batch_size, self._sizes, self._chunk = seed, batch_size, sizes or {}, chunk
        self._draw = draw or (lambda step: seed * 1_000_003 + step)
        # Accuracies are better when higher, errors and bits when lower.
        self.higher_is_better = task.metric == "accuracy"

    @property
    def title(self) -> str:
        return self.task.spec()

    @property
    def metric(self) -> str:
        return self.task.metric

    @property
    def shape(self) -> Shape:
        return Shape(self.task.input_size, self.task.output_size)

    def batch(self, step: int, share: Share) -> tuple[Batch, int]:
        batch = self.task.batch(self._batch_size, seed=self._draw(step))
        if step == 1:
            self._check(batch)
        count = int(batch.scored.sum())
        return (batch if share.of == 1 else batch.rows(share.rows(self._batch_size))), count

    def pieces(self, split: Split, share: Share) -> Iterator[Batch]:
        size = self._sizes.get(split, 256)
        for index, first in enumerate(range(0, size, self._chunk)):
            if index % share.of == share.part:
                count = min(self._chunk, size - first)
                yield self.task.batch(count, seed=1000 * self._seed + index, split=split)

    def loss(self, answers: Tensor, batch: Batch) -> Tensor:
        return self._losses(answers, batch).sum()

    def sums(self, answers: Tensor, batch: Batch) -> Tensor:
        if self.metric == "accuracy":
            figures = (answers[batch.scored].argmax(-1) == batch.targets[batch.scored]).double()
        else:
            figures = self._losses(answers, batch).double()
            if self.metric == "bits":
                figures = figures / math.log(2)
        return torch.stack((figures.sum(), figures.new_tensor(figures.numel())))

    def figures(self, sums: Tensor) -> dict[str, float]:
        return {self.metric: float(sums[0]) / float(sums[1])}

    def learnt(self) -> dict[str, Any]:
        return {}

    def digest(self) -> str:
        return hashlib.sha256(self.task.spec().encode()).hexdigest()

    def _losses(self, answers: Tensor, batch: Batch) -> Tensor:
        """answers: (B, T, K) -> (N,) loss at every scored step: squared error, or cross-entropy in nats."""
        at = batch.scored
        if self.task.regression:
            return (answers[at].squeeze(-1) - batch.targets[at]).square()
        return F.cross_entropy(answers[at], batch.targets[at], reduction="none")

    def _check(self, batch: Batch) -> None:
        for name in ("inputs", "targets"):
            tensor: Tensor = getattr(batch, name)
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise ValueError(f"task {self.title}: its {name} hold NaN or infinity; clean the data first")
