"""The runs of a study: what each is, and how many parameters and steps it gets unless it is told."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch

from unrolled import __version__
from unrolled.budget import Budget
from unrolled.model import LAYERS, matched_hidden_size
from unrolled.tasks import Task, parse

# The settings of the default study: two in which the folk answer was expected to hold, two in which trials saw it fail.
DEFAULT_TASKS = ("adding:length=50", "recall:lag=1-40", "recall:lag=60", "code:length=100")
CELLS = ("rnn", "gru", "lstm")


@dataclass(frozen=True)
class Plan:
    """One run: everything that decides its outcome."""

    setting: str
    cell: str
    seed: int
    parameters: int
    budget: Budget
    forget_bias: float = 1.0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Its folder's name: readable, and another one for every other plan."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]
        readable = "".join(c if c.isalnum() else "-" for c in self.setting)[:40]
        return f"{readable}--{self.cell}--seed{self.seed}--{digest}"

    @property
    def title(self) -> str:
        return f"{self.setting} {self.cell.upper()} seed {self.seed}"


def versions() -> dict[str, str]:
    """What decides a run's outcome beside its plan, as it is installed here."""
    return {"unrolled": __version__, "torch": torch.__version__, "python": platform.python_version()}


def default_parameters(task: Task) -> int:
    """Parameters of a network for a task: 6,100 for the small synthetic ones, 48,000 for source code."""
    return 48_000 if task.name == "code" else 6_100


def default_budget(task: Task) -> Budget:
    """Training of the default study, chosen for a study of five minutes on two cores.

    Synthetic tasks get 1,500 steps, and half as many where sequences are longer than 50, so that these take no longer.
    """
    if task.name == "code":
        return Budget(steps=500, batch_size=32, learning_rate=1e-2, validate_every=50, validation_size=96)
    lengths = [task.batch(1, seed=seed).inputs.size(1) for seed in range(32)]
    long = sum(lengths) / len(lengths) > 50
    return Budget(steps=750 if long else 1500, batch_size=64, validate_every=50, validation_size=256)


def plan(
    tasks: Sequence[str | Task],
    cells: Sequence[str],
    seeds: int,
    *,
    parameters: int | None = None,
    steps: int | None = None,
) -> tuple[Plan, ...]:
    """The runs of a study, seed by seed, so that an interrupted study has whole seeds first.

    Raises:
        ValueError: an unknown task or cell, or a number that makes no study.
    """
    for name, value in (("seeds", seeds), ("steps", steps), ("parameters", parameters)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}: must be a whole number of at least 1, given {value}")
    if not tasks:
        raise ValueError("tasks: none given; expected at least one, such as 'recall:lag=40'")
    if not cells:
        raise ValueError(f"cells: none given; expected some of {', '.join(CELLS)}")
    for cell in cells:
        if cell not in LAYERS:
            raise ValueError(f"cells: unknown cell {cell!r}; expected some of {', '.join(CELLS)}")
    parsed = [parse(task) if isinstance(task, str) else task for task in tasks]
    budgets = [default_budget(task) for task in parsed]
    if steps is not None:
        budgets = [replace(b, steps=steps, validate_every=min(b.validate_every, steps)) for b in budgets]
    sizes = [parameters or default_parameters(task) for task in parsed]
    for task, size in zip(parsed, sizes, strict=True):
        for cell in cells:
            # Asked for now, so that a size no cell can have is told before anything is trained.
            matched_hidden_size(cell, task.input_size, task.output_size, size)
    plans = [
        Plan(task.spec(), cell, seed, size, budget, versions=versions())
        for seed in range(seeds)
        for task, budget, size in zip(parsed, budgets, sizes, strict=True)
        for cell in cells
    ]
    # A task or cell named twice is one run, not two in one folder.
    return tuple({plan.folder: plan for plan in plans}.values())
