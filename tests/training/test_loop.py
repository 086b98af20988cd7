"""The loop against its formulas: learning rates, losses, the metric, the best weights, and what a state holds."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from short_trainings import Log, at_step, differing, interrupt, on_cpu, outcome, task_job, text_job, write_texts
from unrolled.budget import Budget
from unrolled.jobs import Network
from unrolled.model import SequenceModel
from unrolled.problems.opening import open_problem
from unrolled.problems.problem import ALL, answer, summed
from unrolled.problems.synthetic import Synthetic
from unrolled.runs import Run, build
from unrolled.tasks import parse
from unrolled.training.loop import Diverged, Progress, State, Training, deterministic
from unrolled.training.train import Interrupted

TASK = parse("adding:length=6")


def a_training(model: nn.Module, **budget: Any) -> Training:
    made = Budget(**{"steps": 12, "batch_size": 4, "validate_every": 3, "validation_size": 16, **budget})
    return Training(model, Synthetic(TASK, seed=0, batch_size=4, sizes={"validation": 16}), made)


def a_model(dropout: float = 0.0) -> SequenceModel:
    torch.manual_seed(5)
    return SequenceModel("gru", 2, 4, 1, dropout=dropout)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 1, 1, 1]),
        ({"warmup": 2}, [0.5, 1, 1, 1]),
        ({"warmup": 8}, [1 / 8, 2 / 8, 3 / 8, 4 / 8]),
        ({"schedule": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"schedule": "linear", "warmup": 4}, [0.25, 0.5 * 0.75, 0.75 * 0.5, 0.25]),
        # From 1 to a fiftieth: (1 + cos) / 2 of 0, 1/4, 1/2 and 3/4 of pi.
        ({"schedule": "cosine"}, [1, 0.02 + 0.98 * (2 + 2**0.5) / 4, 0.51, 0.02 + 0.98 * (2 - 2**0.5) / 4]),
    ],
)
def test_learning_rates_of_the_steps_are_those_of_the_schedule(options: dict[str, Any], expected: list[float]) -> None:
    training = a_training(a_model(), steps=4, learning_rate=0.02, optimizer="sgd", **options)
    rates: list[float] = []

    def look(training: Training) -> bool:
        rates.append(training.state().optimizer["param_groups"][0]["lr"])
        return False

    training.run(after_step=look)
    assert rates == pytest.approx([0.02 * share for share in expected])


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=0.01, weight_decay=0.1)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, momentum=0.9)),
    ],
)
def test_steps_are_those_of_a_plain_loop(name: str, made: Any) -> None:
    model, plain = a_model(), a_model()
    training = a_training(model, optimizer=name, learning_rate=0.01, weight_decay=0.1, clip=0.05)
    training.run(after_step=lambda training: training.step == 5)
    optimizer = made(plain.parameters())
    problem = Synthetic(TASK, seed=0, batch_size=4)
    for step in range(1, 6):
        batch, _ = problem.batch(step, ALL)
        optimizer.zero_grad()
        (plain(batch.inputs)[batch.scored].squeeze(-1) - batch.targets[batch.scored]).square().mean().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
        optimizer.step()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_text_is_trained_as_a_plain_loop_through_its_pieces_does(tmp_path: Any) -> None:
    job = text_job(write_texts(tmp_path / "texts"), Network(hidden_size=5, embedding_size=3), optimizer="sgd")
    run = on_cpu(job, tmp_path / "run")
    problem = open_problem(job)
    with deterministic(job.seed):
        model = build(job, problem.shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    state, losses, lines = None, [], []
    for step in range(1, 25):
        batch, _ = problem.batch(step, ALL)
        state = tuple(s.detach() for s in state) if state is not None and batch.goes_on else None
        logits, state = model(batch.inputs, state, reset=batch.reset, carry=True)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 6 == 0:
            lines.append((sum(losses) / 6, problem.figures(summed(model, problem, "validation"))["bits"]))
            losses.clear()
    for name, tensor in run.model("last").state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-5, atol=1e-6)
    assert [(row["loss"], row["value"]) for row in run.metrics()] == [pytest.approx(line, rel=1e-5) for line in lines]


def test_loss_of_a_line_is_the_mean_since_the_line_before_even_if_it_was_stopped_between(tmp_path: Any) -> None:
    whole = on_cpu(task_job(), tmp_path / "whole")
    for step in (2, 5, 8):
        with pytest.raises(Interrupted):
            on_cpu(task_job(), tmp_path / "run", resume=True, display=Log(at_step(step, interrupt)))
    run = on_cpu(task_job(), tmp_path / "run", resume=True)
    assert [row["loss"] for row in run.metrics()] == [row["loss"] for row in whole.metrics()]
    each = on_cpu(task_job(validate_every=1), tmp_path / "each")
    losses = [row["loss"] for row in each.metrics()]
    expected = [sum(losses[at : at + 6]) / 6 for at in range(0, 24, 6)]
    assert [row["loss"] for row in whole.metrics()] == pytest.approx(expected, rel=1e-6)


def test_best_is_the_best_value_so_far_and_its_weights_are_kept(tmp_path: Any) -> None:
    run = on_cpu(task_job(learning_rate=0.5, clip=100.0, steps=60), tmp_path / "run")
    rows = list(run.metrics())
    values = [row["value"] for row in rows]
    assert [row["best"] for row in rows] == [min(values[: at + 1]) for at in range(len(values))]
    found = outcome(run.folder)["fit"]
    assert found == {
        "best_step": rows[values.index(min(values))]["step"],
        "best_value": min(values),
        "stopped": "steps",
    }
    assert values[-1] > min(values)
    problem = open_problem(run.job)
    assert problem.figures(summed(run.model(), problem, "validation"))["mse"] == min(values)
    assert problem.figures(summed(run.model("last"), problem, "validation"))["mse"] == values[-1]


def test_run_that_diverges_says_so_and_keeps_its_checkpoints(tmp_path: Any) -> None:
    job = task_job(learning_rate=1e38, clip=1e30, optimizer="sgd")
    for resume in (False, True):
        with pytest.raises(Diverged, match=r"adding:length=10 diverged: .* step 6; lower learning_rate \(1e\+38\)"):
            on_cpu(job, tmp_path / "run", resume=resume, checkpoint_every=1e-9)
    assert not Run.open(tmp_path / "run").finished


def test_inspection_is_part_of_a_line() -> None:
    model = a_model()
    training = Training(
        model,
        Synthetic(TASK, seed=0, batch_size=4, sizes={"validation": 16}),
        Budget(steps=2, batch_size=4, validate_every=1),
        inspect=lambda model: {"mode": model.training},
    )
    seen: list[Progress] = []
    training.run(seen.append)
    assert [set(progress.figures) for progress in seen] == [{"mse", "mode"}] * 2


def test_training_in_memory_goes_on_from_a_state_in_another_model() -> None:
    whole = a_training(a_model(0.3))
    with deterministic(1):
        whole.run()
    states: list[State] = []

    def keep(training: Training) -> bool:
        if training.step == 7:
            states.append(copy.deepcopy(training.state()))
        return training.step == 7

    first = a_training(a_model(0.3))
    with deterministic(1):
        assert first.run(after_step=keep) is None
    model = a_model(0.3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3)
    second = a_training(model)
    with deterministic(99):
        second.restore(states[0])
        assert second.step == 7
        result = second.run()
    assert result is not None
    assert [progress.step for progress in result.metrics] == [9, 12]
    assert all(torch.equal(whole.model.state_dict()[name], value) for name, value in model.state_dict().items())


def test_state_of_other_processes_goes_on_with_the_mean_of_their_losses() -> None:
    training = a_training(a_model())
    training.run(after_step=lambda training: training.step == 5)
    state = copy.deepcopy(training.state())
    assert state.losses.shape == (1, 2)
    state.losses = torch.stack((state.losses[0] - 0.5, state.losses[0] + 0.5))
    state.generators = state.generators.repeat(2, 1)
    other, same = a_training(a_model()), a_training(a_model())
    other.restore(state)
    same.restore(copy.deepcopy(training.state()))
    lines = [next(iter(t.run().metrics)) for t in (other, same)]  # type: ignore[union-attr]
    assert lines[0].loss == pytest.approx(lines[1].loss)


def test_carried_states_carry_no_gradient_from_piece_to_piece(tmp_path: Any) -> None:
    job = text_job(write_texts(tmp_path / "texts"))
    problem = open_problem(job)
    training = Training(build(job, problem.shape), problem, job.budget)
    training.run(after_step=lambda training: training.step == 3)
    carried = training.state().carried
    assert len(carried) == 2
    assert not any(state.requires_grad for state in carried)
    assert not answer(training.model, problem.batch(4, ALL)[0], carried)[0].isnan().any()


def test_progress_tells_speed_and_what_is_left() -> None:
    progress = Progress(step=20, steps=100, loss=1.0, value=1.0, best=1.0, seconds=10.0)
    assert progress.speed == 2.0
    assert progress.seconds_left == 40.0
    begun = Progress(step=0, steps=100, loss=1.0, value=1.0, best=1.0, seconds=0.0)
    assert math.isnan(begun.speed)
    assert math.isnan(begun.seconds_left)


def test_comparison_of_these_tests_sees_a_single_bit() -> None:
    one = {"a": torch.zeros(2), "b": [{"c": 1.0}]}
    assert differing(one, copy.deepcopy(one)) == []
    assert differing(one, {**one, "a": torch.tensor([0.0, 1e-45])}) == ["a"]
    assert differing(one, {**one, "b": [{"c": 1.0 + 1e-15}]}) == ["b"]
    assert differing(one, {"a": one["a"]}) == ["b"]
