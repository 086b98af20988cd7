"""What claims are measured on and judged from: a trained network, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unrolled.drawing.panels import Curve
from unrolled.intervals import Interval
from unrolled.model import SequenceModel
from unrolled.tasks import Task
from unrolled.training import Budget
from unrolled.verdicts import Claim

# Below this mean skill a network has not learnt its task, and what its states hold says nothing about learning.
LEARNT = 0.2

NAMES = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}

Figures = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A trained network, the same network before training, the task it was trained on, and how."""

    cell: str
    model: SequenceModel
    untrained: SequenceModel
    task: Task
    seed: int
    budget: Budget


@dataclass(frozen=True)
class Run:
    """What is kept of one trained network.

    Attributes:
        setting: its task, as written on the command line.
        cell: "rnn", "gru" or "lstm".
        seed: of its weights and data.
        hidden_size: H.
        parameters: trainable figures.
        value: the task's metric on the test split.
        skill: `value` between no skill (0) and perfect (1).
        measured: claim id -> the figures measured for it; a claim on which the task says nothing is left out.
    """

    setting: str
    cell: str
    seed: int
    hidden_size: int
    parameters: int
    value: float
    skill: float
    measured: Mapping[str, Figures]


@dataclass(frozen=True)
class Measurement:
    """One claim: how to measure it on a network, and how to judge it from many.

    Attributes:
        id: its name.
        measure: a subject -> figures that JSON can hold, or None where the task says nothing about the claim.
        judge: finished runs -> the claim with its findings.
    """

    id: str
    measure: Callable[[Subject], Figures | None]
    judge: Callable[[Sequence[Run]], Claim]


def settings_of(runs: Sequence[Run], claim: str) -> list[str]:
    """The settings in which a claim was measured, in the order of the runs."""
    return list(dict.fromkeys(run.setting for run in runs if claim in run.measured))


def figures(runs: Sequence[Run], claim: str, setting: str, cell: str) -> dict[int, Figures]:
    """What was measured for a claim in a setting with a cell: seed -> figures."""
    return {
        run.seed: run.measured[claim]
        for run in runs
        if run.setting == setting and run.cell == cell and claim in run.measured
    }


def learnt(runs: Sequence[Run], setting: str, cell: str) -> bool:
    """Whether the networks with this cell have learnt this setting on average over seeds."""
    skills = [run.skill for run in runs if run.setting == setting and run.cell == cell]
    return bool(skills) and sum(skills) / len(skills) >= LEARNT


def left_out(setting: str) -> str:
    """The remark on a setting that has no say because its LSTM has not learnt it."""
    return f"{setting}: left out of the verdict, since the LSTM did not learn this task (skill below {LEARNT})"


def paired(
    first: Mapping[int, Figures], second: Mapping[int, Figures], difference: Callable[[Figures, Figures], float]
) -> Interval:
    """The interval of a difference between two cells over the seeds that both have."""
    return Interval.over(difference(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys()))


def number(value: float | None) -> float:
    """A figure read back from JSON, where None stands for not a number."""
    return math.nan if value is None else value


def curve(
    label: str, cell: str, state: str, x: Sequence[float], rows: Iterable[Sequence[float | None]], *, log: bool = False
) -> Curve:
    """A line over x with its interval over seeds; with `log` mean and interval are taken of the logarithms."""
    seeds = [[number(value) for value in row] for row in rows]
    intervals = []
    for column in zip(*seeds, strict=True):
        if log:
            over = Interval.over(math.log(v) if v > 0 else math.nan for v in column)
            intervals.append(Interval(math.exp(over.mean), math.exp(over.low), math.exp(over.high), over.n))
        else:
            intervals.append(Interval.over(column))
    return Curve(
        label,
        cell,
        state,
        tuple(float(v) for v in x),
        tuple(i.mean for i in intervals),
        tuple(i.low for i in intervals),
        tuple(i.high for i in intervals),
    )
