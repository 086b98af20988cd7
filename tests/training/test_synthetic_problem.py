"""A task as a problem: batches from the step alone, shares, loss and metric."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from unrolled.model import SequenceModel
from unrolled.problems.problem import ALL, Share, summed
from unrolled.problems.synthetic import Synthetic
from unrolled.tasks import Task, parse

SPECS = ["adding:length=8", "copy:lag=3,items=2", "recall:lag=3"]


def made(spec: str = "recall:lag=3", **options: Any) -> Synthetic:
    return Synthetic(parse(spec), **{"seed": 1, "batch_size": 12, "sizes": {"validation": 30}, "chunk": 8, **options})


def network(task: Task) -> SequenceModel:
    return SequenceModel("gru", task.input_size, 5, task.output_size).eval()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("of", [2, 3, 4])
def test_shares_of_processes_make_up_the_batch(spec: str, of: int) -> None:
    problem = made(spec)
    for step in (1, 7):
        whole, count = problem.batch(step, ALL)
        shares = [problem.batch(step, Share(part, of)) for part in range(of)]
        assert [its for _, its in shares] == [count] * of
        assert sum(int(batch.scored.sum()) for batch, _ in shares) == count
        for name in ("inputs", "targets", "scored"):
            assert torch.equal(torch.cat([getattr(batch, name) for batch, _ in shares]), getattr(whole, name))


@pytest.mark.parametrize("of", [1, 2, 5])
def test_pieces_of_all_processes_are_those_of_one(of: int) -> None:
    problem = made()
    whole = list(problem.pieces("validation", ALL))
    shared = [list(problem.pieces("validation", Share(part, of))) for part in range(of)]
    assert [len(piece.inputs) for piece in whole] == [8, 8, 8, 6]
    for index, piece in enumerate(whole):
        assert torch.equal(shared[index % of][index // of].inputs, piece.inputs)
    assert sum(map(len, shared)) == 4


def test_batch_of_a_step_is_the_same_whatever_was_asked_before() -> None:
    problem = made()
    batches = [problem.batch(step, ALL)[0].inputs for step in (5, 2, 5)]
    assert torch.equal(batches[0], batches[2])
    assert torch.equal(batches[0], made().batch(5, ALL)[0].inputs)
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], made(seed=2).batch(5, ALL)[0].inputs)


def test_validation_is_the_same_every_time_and_none_of_the_training() -> None:
    one, two = (next(made().pieces("validation", ALL)).inputs for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, next(made().pieces("test", ALL)).inputs)
    assert not torch.equal(one, made().batch(1, ALL)[0].inputs[:8])


@pytest.mark.parametrize("spec", SPECS)
def test_loss_and_metric_are_plain_means_over_the_scored_steps(spec: str) -> None:
    problem = made(spec)
    task = problem.task
    model = network(task)
    losses, values = [], []
    with torch.no_grad():
        for piece in problem.pieces("validation", ALL):
            answers = model(piece.inputs)
            own = []
            for row, step in piece.scored.nonzero().tolist():
                given, target = answers[row, step], piece.targets[row, step]
                if task.regression:
                    own.append(float((given[0] - target) ** 2))
                    values.append(own[-1])
                else:
                    own.append(float(F.cross_entropy(given, target)))
                    values.append(
                        float(given.argmax() == target) if task.metric == "accuracy" else own[-1] / math.log(2)
                    )
            assert float(problem.loss(answers, piece)) == pytest.approx(sum(own), rel=1e-5)
            losses += own
    figures = problem.figures(summed(model, problem, "validation"))
    assert figures == {task.metric: pytest.approx(sum(values) / len(values), rel=1e-5)}
    shares = sum(summed(model, problem, "validation", Share(part, 3)) for part in range(3))
    assert problem.figures(shares)[task.metric] == pytest.approx(figures[task.metric], rel=1e-6)


def test_accuracies_are_better_when_higher_and_errors_when_lower() -> None:
    assert {spec: made(spec).higher_is_better for spec in SPECS} == {
        spec: parse(spec).metric == "accuracy" for spec in SPECS
    }
