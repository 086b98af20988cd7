"""Training: the same seed gives the same weights, the best are kept, and nothing else is left changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from unrolled.model import SequenceModel
from unrolled.tasks import Adding, Baseline, Batch, Recall, Task
from unrolled.tasks.task import Split
from unrolled.training import Budget, Diverged, Progress, as_row, deterministic, evaluate, fit

TASK = Recall(lag=3, symbols=3, distractors=2)
SHORT = Budget(steps=6, batch_size=8, validate_every=2, validation_size=16)

Metric = Literal["mse", "accuracy", "bits"]


@dataclass(frozen=True, kw_only=True)
class Fixed(Task):
    """Two scored steps of three, whose targets are known: in training `train`, elsewhere `other`."""

    name: ClassVar[str] = "fixed"
    summary: ClassVar[str] = "targets chosen by the test"
    telling: ClassVar[str] = "train"
    metric: ClassVar[Metric] = "mse"

    train: float = 1
    other: float = 1
    inputs: float = 0.0

    input_size: ClassVar[int] = 1  # type: ignore[assignment]
    output_size: ClassVar[int] = 1  # type: ignore[assignment]

    def batch(self, size: int, *, seed: int, split: Split = "train") -> Batch:
        target = self.train if split == "train" else self.other
        scored = torch.tensor([[False, True, True]]).expand(size, -1)
        targets = torch.full((size, 3), float(target))
        targets[:, 0] = 1000  # not scored
        if not self.regression:
            targets = targets.clamp(max=7).long()
        return Batch(inputs=torch.full((size, 3, 1), float(self.inputs)), targets=targets, scored=scored)

    def baseline(self) -> Baseline:
        return Baseline(1, "none")


class FixedAccuracy(Fixed):
    metric: ClassVar[Metric] = "accuracy"


class FixedBits(Fixed):
    metric: ClassVar[Metric] = "bits"


class Constant(nn.Module):
    """Answers its one weight at every step."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.value.expand(*inputs.shape[:2], 1)


class Table(nn.Module):
    """Answers the same logits (T, K) for every sequence."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits.expand(inputs.size(0), -1, -1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only cost time on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(seed: int = 0, cell: str = "gru") -> SequenceModel:
    torch.manual_seed(seed)
    return SequenceModel(cell, TASK.input_size, 6, TASK.output_size)


def trained(seed: int) -> dict[str, Tensor]:
    model = network()
    fit(model, TASK, SHORT, seed=seed)
    return model.state_dict()


def test_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    first = trained(1)
    torch.rand(100)  # what was drawn before does not matter
    again = trained(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(value, network().state_dict()[name]) for name, value in first.items())


def test_another_seed_gives_other_weights() -> None:
    first, other = trained(1), trained(2)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dropout_follows_from_the_seed_too() -> None:
    def run(seed: int) -> Tensor:
        model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        model.load_state_dict(start)
        fit(model, Adding(length=4), SHORT, seed=seed)
        return model[0].weight.detach()

    start = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)).state_dict()
    assert torch.equal(run(1), run(1))


# Which weights are kept


def drift(**budget: Any) -> tuple[Constant, Any, list[float]]:
    """A weight that training moves from 0 towards 1, a tenth at a time at first, while 0.32 is best on validation."""
    model, seen = Constant(), []
    result = fit(
        model,
        Fixed(train=1, other=0.32),
        Budget(**{"steps": 8, "batch_size": 1, "learning_rate": 0.1, "validate_every": 1, "clip": 100.0} | budget),
        seed=0,
        on_progress=lambda _: seen.append(float(model.value.detach())),
    )
    return model, result, seen


def test_weights_of_the_best_validation_are_restored() -> None:
    model, result, seen = drift()
    assert len(seen) == 8
    assert abs(seen[2] - 0.32) == min(abs(value - 0.32) for value in seen)  # the third step is the best
    assert result.best_step == 3
    assert float(model.value.detach()) == seen[2] != seen[-1]
    assert result.best_value == pytest.approx((seen[2] - 0.32) ** 2)
    assert result.stopped == "steps"
    assert not model.training


def test_higher_is_better_for_accuracy_and_lower_for_the_others() -> None:
    model, easy = network(cell="lstm"), Recall(lag=1, symbols=3, distractors=2)
    result = fit(model, easy, Budget(steps=80, batch_size=16, learning_rate=0.05, validate_every=20), seed=0)
    assert result.best_value == max(line.value for line in result.metrics) > 0.95
    assert evaluate(model, easy) > 0.95  # and so it has learnt
    _, result, _ = drift()
    assert result.best_value == min(line.value for line in result.metrics)


def test_metrics_say_where_training_stands() -> None:
    _, result, seen = drift(steps=5, validate_every=2)
    assert [line.step for line in result.metrics] == [2, 4, 5]
    assert [line.value for line in result.metrics] == pytest.approx([(value - 0.32) ** 2 for value in seen])
    assert result.metrics[0].loss == pytest.approx((1 + (1 - 0.1) ** 2) / 2, rel=1e-4)  # weights 0, then 0.1
    last = result.metrics[-1]
    assert last.seconds_left == 0
    assert last.speed == pytest.approx(5 / last.seconds)
    assert as_row(last)["best"] == result.best_value


def test_patience_ends_training_that_does_not_get_better() -> None:
    _, result, seen = drift(steps=100, patience=2)
    assert result.stopped == "patience"
    assert result.best_step == 3
    assert len(seen) == 5


def test_seconds_end_training_at_the_next_validation() -> None:
    _, result, seen = drift(steps=100, validate_every=4, seconds=1e-9)
    assert result.stopped == "seconds"
    assert len(seen) == 1
    assert result.metrics[-1].step == 4


def test_gradient_is_clipped_to_its_norm() -> None:
    # Adam's first step is rate * g / (|g| + 1e-8): a gradient cut to 1e-8 makes half of a step, an uncut one a whole.
    cut, _, _ = drift(steps=1, clip=1e-8)
    uncut, _, _ = drift(steps=1)
    assert float(cut.value.detach()) == pytest.approx(0.05, rel=1e-3)
    assert float(uncut.value.detach()) == pytest.approx(0.1, rel=1e-3)


# What training leaves as it was


@pytest.fixture(params=[(False, False), (True, False), (True, True)])
def determinism(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    enabled, warn_only = request.param
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    yield request.param
    torch.use_deterministic_algorithms(False)


def is_as(determinism: tuple[bool, bool]) -> bool:
    now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return now == determinism


def test_random_state_and_determinism_are_as_before_training(determinism: tuple[bool, bool]) -> None:
    model = network()
    before = torch.get_rng_state()
    fit(model, TASK, SHORT, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert is_as(determinism)


def test_random_state_and_determinism_are_as_before_a_failed_training(determinism: tuple[bool, bool]) -> None:
    class Stop(Exception):
        pass

    def stop(_: Progress) -> None:
        assert torch.are_deterministic_algorithms_enabled()
        raise Stop

    model = network()
    before = torch.get_rng_state()
    with pytest.raises(Stop):
        fit(model, TASK, SHORT, seed=3, on_progress=stop)
    assert torch.equal(torch.get_rng_state(), before)
    assert is_as(determinism)


def test_random_numbers_inside_follow_from_the_seed() -> None:
    with deterministic(5):
        first = torch.rand(3)
    with deterministic(5):
        assert torch.equal(torch.rand(3), first)
    with deterministic(6):
        assert not torch.equal(torch.rand(3), first)


# When it goes wrong


@pytest.mark.parametrize(("task", "name"), [(Fixed(inputs=math.nan), "inputs"), (Fixed(train=math.inf), "targets")])
def test_data_that_are_not_numbers_are_refused(task: Task, name: str) -> None:
    with pytest.raises(ValueError, match=f"task fixed.*: its {name} hold NaN or infinity"):
        fit(Constant(), task, SHORT, seed=0)


@pytest.mark.parametrize("task", [TASK, Adding(length=5)])
def test_absurd_learning_rate_is_said_to_diverge(task: Task) -> None:
    model = SequenceModel("rnn", task.input_size, 6, task.output_size)
    with pytest.raises(Diverged, match=rf"training on {task.name}.* step [24]; lower learning_rate \(1e\+37\)"):
        fit(model, task, Budget(steps=4, batch_size=8, validate_every=2, learning_rate=1e37), seed=0)


def test_model_that_answers_nan_is_said_to_diverge() -> None:
    with pytest.raises(Diverged, match="the loss is nan by step 2"):
        fit(Constant(math.nan), Fixed(), SHORT, seed=0)


class SpoiltByTheStep(nn.Module):
    """Answers well, with a gradient that is not a number: the square root's at 0, times 0."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(8))

    def forward(self, inputs: Tensor) -> Tensor:
        answers: Tensor = self.logits + 0 * self.logits.abs().sqrt()
        return answers.expand(*inputs.shape[:2], -1)


def test_weights_spoilt_by_the_last_step_are_not_kept() -> None:
    # The loss before the step is a number, and the accuracy after it too.
    with pytest.raises(Diverged, match="by step 1"):
        fit(SpoiltByTheStep(), FixedAccuracy(), Budget(steps=1, batch_size=2), seed=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("clip", math.inf),
        ("validate_every", 0),
        ("validation_size", 0),
        ("patience", 0),
        ("seconds", 0.0),
        ("seconds", math.nan),
    ],
)
def test_budget_refuses_what_cannot_be_trained_with(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: must be above 0.*given {value}"):
        Budget(**{name: value})


# Evaluation


def test_mean_squared_error_of_a_constant_answer() -> None:
    assert evaluate(Constant(0.25), Fixed(other=1)) == pytest.approx(0.75**2)


def test_accuracy_counts_the_scored_steps_only() -> None:
    first, second, third = [9.0, 0.0], [0.0, 9.0], [9.0, 0.0]
    assert evaluate(Table([first, second, third]), FixedAccuracy(other=1)) == 0.5
    assert evaluate(Table([first, second, second]), FixedAccuracy(other=1)) == 1


def test_even_answer_among_eight_costs_three_bits() -> None:
    assert evaluate(Table([[0.0] * 8] * 3), FixedBits(other=1)) == pytest.approx(3)
    quarter = [math.log(1 / 4), math.log(3 / 4)]
    assert evaluate(Table([quarter] * 3), FixedBits(other=0)) == pytest.approx(2, rel=1e-6)


def test_evaluation_is_the_metric_over_all_its_batches() -> None:
    model, task = network(), Recall(lag=(1, 5), symbols=3, distractors=2)
    right = []
    for index, size in enumerate((16, 16, 8)):
        batch = task.batch(size, seed=1000 * 7 + index, split="test")
        right.append(model(batch.inputs)[:, -1].argmax(-1) == batch.targets[:, -1])
    expected = float(torch.cat(right).double().mean())
    assert evaluate(model, task, size=40, seed=7, chunk=16) == expected


def test_evaluation_leaves_the_model_as_it_was() -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    evaluate(model, TASK)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not evaluate_failing(model.eval()).training


def evaluate_failing(model: SequenceModel) -> SequenceModel:
    with pytest.raises((RuntimeError, ValueError)):
        evaluate(model, Fixed())  # inputs of another width
    return model
