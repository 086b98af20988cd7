"""A study's folder as what is looked at: any of its networks, recorded when it is asked for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unrolled.meanings import Meaning
from unrolled.readings import joined
from unrolled.tasks import Batch, Code, Task, parse
from unrolled.trace import record
from unrolled.viewer.opening.of_reading import recorded_of
from unrolled.viewer.recorded import Recorded

if TYPE_CHECKING:
    from unrolled.study import Study

CHARACTERS = 4_000  # of unseen source that a network on code reads
SEQUENCES = 32  # that a network on another task reads


@dataclass(frozen=True)
class StudyFolder:
    """A finished study.

    Attributes:
        folder: where it is.
    """

    folder: Path

    @cached_property
    def study(self) -> Study:
        """Its runs and claims.

        Raises:
            ValueError: it is not finished, or a file of it is damaged; names what is missing or which it is.
        """
        from unrolled.study import load

        return load(self.folder)

    def titles(self) -> list[str]:
        """Its networks, in their order."""
        return [plan.title for plan in self.study.plans]

    def recorded(self, index: int) -> Recorded:
        """One of its networks, recorded in memory on data that it was not trained on.

        On source code it reads one stretch of a file; on other tasks 32 sequences at the longest lag it was trained on.

        Raises:
            IndexError: there is no such network.
        """
        plans = self.study.plans
        if not 0 <= index < len(plans):
            raise IndexError(f"network {index}: the study has {len(plans)}, from 0")
        run = self.study.runs[index]
        model = self.study.model(run)
        task = parse(run.setting)
        batch = _batch(task, run.seed)
        with torch.no_grad(), record(model, detach=True) as trace:
            model(batch.inputs)
        title = f"{run.cell.upper()} with {run.hidden_size} units on {run.setting}, seed {run.seed}"
        meaning = Meaning.of_task(task, title=title)
        values = batch.inputs if meaning.channels else None
        reading = dataclasses.replace(joined([batch]), meaning=meaning, values=values)
        return recorded_of(trace, reading, title=title, model=partial(self.study.model, run))


def _batch(task: Task, seed: int) -> Batch:
    if not isinstance(task, Code):
        return task.longest().batch(SEQUENCES, seed=seed, split="test")
    length = CHARACTERS
    while length > task.length:
        try:
            return task.excerpt(length, seed)
        except ValueError:
            # No file is that long.
            length //= 2
    return task.excerpt(task.length, seed)
