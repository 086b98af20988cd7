"""A training that was stopped goes on exactly: weights, optimiser, random numbers and metrics, bit for bit."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from short_trainings import (
    Log,
    at_step,
    differing,
    interrupt,
    longer,
    on_cpu,
    outcome,
    task_job,
    terminate,
    text_job,
    undisturbed,
    write_texts,
)
from unrolled.jobs import Job, Network
from unrolled.model import LAYERS
from unrolled.problems.opening import open_problem
from unrolled.problems.problem import ALL
from unrolled.runs import Run
from unrolled.training import train as train_module
from unrolled.training.checkpoints import checkpoints
from unrolled.training.train import Interrupted

PASS = 15  # steps of a pass over the text of `write_texts`


class Lost(Exception):
    pass


def lose() -> None:
    raise Lost


def goes_on_exactly(job: Job, folder: Path, *steps: int, act: Callable[[], object] = interrupt) -> None:
    """Stop a job after each of some steps, let it end, and hold it to the one that nothing happened to."""
    whole = undisturbed(job, folder / "whole")
    stopped = folder / "stopped"
    for step in steps:
        with pytest.raises(Interrupted, match=f"stopped at step {step} of {job.budget.steps}"):
            on_cpu(job, stopped, resume=True, display=Log(at_step(step, act)))
        assert not Run.open(stopped).finished
    on_cpu(job, stopped, resume=True)
    assert differing(whole, outcome(stopped)) == []


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts")


@pytest.mark.parametrize("step", [1, 5, 6, 7, PASS - 1, PASS, PASS + 1, 23])
def test_text_goes_on_from_a_step_around_a_validation_or_a_pass(tmp_path: Path, texts: Path, step: int) -> None:
    goes_on_exactly(text_job(texts), tmp_path, step)


def test_terminated_training_goes_on_as_an_interrupted_one_does(tmp_path: Path, texts: Path) -> None:
    goes_on_exactly(text_job(texts), tmp_path, 4, 9, act=terminate)


def test_the_text_of_these_tests_has_a_pass_of_fifteen_steps(tmp_path: Path, texts: Path) -> None:
    """Else the steps above would not be where they are said to be."""
    problem = open_problem(text_job(texts))
    begins = [step for step in range(1, 33) if not problem.batch(step, ALL)[0].goes_on]
    assert begins == [1, PASS + 1, 2 * PASS + 1]


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("carry", [True, False])
def test_every_cell_goes_on_in_two_layers_with_dropout(tmp_path: Path, texts: Path, cell: str, carry: bool) -> None:
    network = Network(cell=cell, hidden_size=5, embedding_size=4, layers=2, dropout=0.3)  # type: ignore[arg-type]
    goes_on_exactly(text_job(texts, network, carry=carry), tmp_path, 3, 13)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_optimizer_goes_on_along_its_schedule(tmp_path: Path, optimizer: str, schedule: str) -> None:
    job = task_job(optimizer=optimizer, schedule=schedule, warmup=9, weight_decay=0.01)
    goes_on_exactly(job, tmp_path, 4, 8, 13)


@pytest.mark.parametrize("stop", [3, 9, 10])
def test_training_that_patience_ends_goes_on_to_the_same_end(tmp_path: Path, stop: int) -> None:
    # The weights stay as they were, so that the second validation is no better than the first.
    job = task_job(Network(hidden_size=4), learning_rate=1e-30, patience=1, steps=60)
    goes_on_exactly(job, tmp_path, stop)
    assert outcome(tmp_path / "stopped")["fit"]["stopped"] == "patience"
    assert outcome(tmp_path / "stopped")["step"] == 12


def test_stopping_after_every_step_changes_nothing(tmp_path: Path, texts: Path) -> None:
    goes_on_exactly(text_job(texts), tmp_path, *range(1, 24))


def test_asked_to_stop_at_the_last_step_it_ends_as_ever(tmp_path: Path) -> None:
    job = task_job()
    whole = undisturbed(job, tmp_path / "whole")
    on_cpu(job, tmp_path / "asked", display=Log(at_step(24, interrupt)))
    assert differing(whole, outcome(tmp_path / "asked")) == []


@pytest.mark.parametrize("step", [1, 6, 7, 17])
def test_training_that_fails_between_checkpoints_goes_on_from_the_last_one(
    tmp_path: Path, texts: Path, step: int
) -> None:
    job = text_job(texts)
    whole = undisturbed(job, tmp_path / "whole")
    # A checkpoint after every step; what fails at this one comes before its own.
    with pytest.raises(Lost):
        on_cpu(job, tmp_path / "failed", checkpoint_every=1e-9, display=Log(at_step(step, lose)))
    log = Log()
    on_cpu(job, tmp_path / "failed", resume=True, display=log)
    assert log.steps[0] == step
    assert differing(whole, outcome(tmp_path / "failed")) == []


def test_lines_of_metrics_after_the_last_checkpoint_are_written_anew_and_not_twice(tmp_path: Path) -> None:
    job = task_job()
    whole = undisturbed(job, tmp_path / "whole")
    with pytest.raises(Interrupted):
        on_cpu(job, tmp_path / "failed", display=Log(at_step(7, interrupt)))
    with pytest.raises(Lost):
        on_cpu(job, tmp_path / "failed", resume=True, display=Log(at_step(20, lose)))
    assert [row["step"] for row in Run.open(tmp_path / "failed").metrics()] == [6, 12, 18]
    on_cpu(job, tmp_path / "failed", resume=True)
    assert [row["step"] for row in Run.open(tmp_path / "failed").metrics()] == [6, 12, 18, 24]
    assert differing(whole, outcome(tmp_path / "failed")) == []


@pytest.mark.parametrize(
    "budget", [{"patience": 1, "learning_rate": 1e-30}, {"seconds": 1e-9}, {}], ids=["patience", "seconds", "steps"]
)
def test_training_that_was_lost_after_its_last_step_takes_no_further_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: dict[str, Any]
) -> None:
    job = task_job(Network(hidden_size=4), **budget)
    whole = undisturbed(job, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(train_module, "write_json", lambda path, data: lose())
        with pytest.raises(Lost):
            on_cpu(job, tmp_path / "lost")
    log = Log()
    run = on_cpu(job, tmp_path / "lost", resume=True, display=log)
    assert log.steps == []
    assert run.finished
    assert differing(whole, outcome(tmp_path / "lost")) == []


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt) as caught:
        on_cpu(task_job(), tmp_path / "run", display=Log(at_step(3, twice)))
    assert not isinstance(caught.value, Interrupted)
    assert checkpoints(tmp_path / "run" / "checkpoints") == []


def test_handlers_of_signals_and_random_numbers_are_as_they_were_before(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    generator = torch.get_rng_state()
    with pytest.raises(Interrupted):
        on_cpu(task_job(), tmp_path / "run", display=Log(at_step(3, interrupt)))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_training_does_not_depend_on_how_often_checkpoints_are_written(tmp_path: Path, texts: Path) -> None:
    job = text_job(texts)
    whole = undisturbed(job, tmp_path / "whole")
    on_cpu(job, tmp_path / "often", checkpoint_every=1e-9)
    assert differing(whole, outcome(tmp_path / "often")) == []


def test_another_seed_makes_another_training(tmp_path: Path) -> None:
    """Else equality would say nothing."""
    one, other = (undisturbed(task_job(seed=seed), tmp_path / str(seed)) for seed in (1, 2))
    assert {"weights/head.weight", "metrics", "generators", "optimizer/0/exp_avg"} <= set(differing(one, other))


def test_a_step_more_or_less_would_be_seen(tmp_path: Path) -> None:
    job = task_job()
    one, other = (undisturbed(longer(job, steps=steps), tmp_path / str(steps)) for steps in (24, 25))
    assert "model/head.weight" in differing(one, other)
