"""Claim `capacity`: the added state lowers bias and raises variance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unrolled.claims.evidence import NAMES, Figures, Measurement, Run, Subject, figures, paired, settings_of
from unrolled.instruments.capacity import capacity
from unrolled.intervals import Interval
from unrolled.model import SequenceModel, count_parameters, matched_hidden_size
from unrolled.tasks import Batch, Task
from unrolled.training import deterministic, fit
from unrolled.verdicts import Claim, Finding, Table

_SETS = 4
_BATCHES, _BATCH_SIZE = 16, 32  # of a training set
_STEPS = 800  # at most; no more than the network itself was trained
_EXAMPLES = 256
_LONGEST = 50  # steps of the mean sequence; longer ones would take the time of the whole study
# Differences below this share of the error without skill are no difference.
_COUNTS = 0.01

_MATCHES = {"parameters": "an equal number of parameters", "hidden_size": "an equal hidden size"}


def _measure(subject: Subject) -> Figures | None:
    task = subject.task
    lengths = [task.batch(1, seed=seed).inputs.size(1) for seed in range(32)]
    if sum(lengths) / len(lengths) > _LONGEST:
        return None
    own = int(subject.model.recurrent.hidden_size)
    budget = count_parameters(subject.model)
    as_lstm = matched_hidden_size("lstm", task.input_size, task.output_size, budget)
    sizes = {"parameters": own, "hidden_size": as_lstm}
    batch = task.longest().batch(_EXAMPLES, seed=subject.seed, split="test")
    targets = batch.targets[batch.scored]
    by_size = {}
    for size in sorted(set(sizes.values())):
        found = capacity(_trainer(subject, task, size, batch), batch.inputs, targets, sets=_SETS)
        by_size[size] = {name: found.part(name).mean for name in ("bias", "variance", "error")}
    return {
        "no_skill": _no_skill(targets, task),
        "sizes": sizes,
        **{match: by_size[size] for match, size in sizes.items()},
    }


def _trainer(
    subject: Subject, task: Task, hidden_size: int, batch: Batch
) -> Callable[[int], Callable[[Tensor], Tensor]]:
    def train(number: int) -> Callable[[Tensor], Tensor]:
        seed = subject.seed * _SETS + number
        with deterministic(seed):
            model = SequenceModel(subject.cell, task.input_size, hidden_size, task.output_size)
        steps = min(subject.budget.steps, _STEPS)
        # One look at the end: choosing weights by a validation set would make that a part of the training set.
        budget = replace(
            subject.budget,
            steps=steps,
            batch_size=_BATCH_SIZE,
            validate_every=steps,
            validation_size=_BATCH_SIZE,
            patience=None,
            seconds=None,
        )
        fit(model, task, budget, seed=seed, draw=partial(_batch_of_set, seed))

        def predict(inputs: Tensor) -> Tensor:
            answers: Tensor = model(inputs)[batch.scored]
            return answers.squeeze(-1) if task.regression else answers.softmax(-1)

        return predict

    return train


def _batch_of_set(number: int, step: int) -> int:
    """The seed of a step's batch: a training set has no more than a few batches, each met again and again."""
    return 1_000_000_007 + number * _BATCHES + (number * 1_000_003 + step) % _BATCHES


def _no_skill(targets: Tensor, task: Task) -> float:
    """The error of the best answer that does not look at the input."""
    if task.regression:
        return float(targets.double().var(correction=0))
    shares = torch.bincount(targets, minlength=task.output_size).double() / len(targets)
    return float(1 - shares.square().sum())


def _share(measured: Figures, match: str, part: str) -> float:
    return float(measured[match][part] / measured["no_skill"])


def _apart(match: str, part: str, sign: int, first: Figures, second: Figures) -> float:
    return sign * (_share(first, match, part) - _share(second, match, part))


def _judge(runs: Sequence[Run]) -> Claim:
    findings, rows = [], []
    for setting in settings_of(runs, "capacity"):
        by_cell = {cell: figures(runs, "capacity", setting, cell) for cell in NAMES}
        rnn, lstm = by_cell["rnn"], by_cell["lstm"]
        if not rnn or not lstm:
            continue
        for match, words in _MATCHES.items():
            for part, sign, statement in (("bias", -1, "lower bias"), ("variance", 1, "higher variance")):
                findings.append(
                    Finding(
                        setting,
                        f"the LSTM has {statement} than the RNN at {words}",
                        paired(lstm, rnn, partial(_apart, match, part, sign)),
                        _COUNTS,
                        "share of the error without skill",
                    )
                )
            for cell, measured in by_cell.items():
                if measured:
                    rows.append(_row(setting, words, cell, measured, match))
    return Claim(
        "capacity",
        "The added state lowers bias and raises variance.",
        f"Each cell is trained {_SETS} times from scratch, each time on another {_BATCHES * _BATCH_SIZE} "
        f"sequences for {_STEPS} steps at most, and the error on new sequences is split into bias, what the mean "
        "answer is off by, and variance, what the answers differ by. It is done at an equal number of "
        "parameters and again at an equal hidden size, where the LSTM has four times the RNN's recurrent "
        "weights.",
        tuple(findings),
        (),
        tables=(_table(rows),) if rows else (),
    )


def _row(setting: str, words: str, cell: str, measured: dict[int, Figures], match: str) -> tuple[str, ...]:
    parts = [Interval.over(_share(f, match, part) for f in measured.values()) for part in ("bias", "variance", "error")]
    units = next(iter(measured.values()))["sizes"][match]
    return (setting, words, f"{NAMES[cell]} ({units} units)", *(part.text for part in parts))


def _table(rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(
        "Bias, variance and their sum, as shares of the error without skill, with 95 % interval over seeds",
        ("setting", "at", "cell", "bias²", "variance", "error"),
        tuple(rows),
    )


MEASUREMENT = Measurement("capacity", _measure, _judge)
