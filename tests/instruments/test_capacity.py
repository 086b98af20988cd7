"""Bias and variance of estimators that have both by construction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from unrolled.instruments import capacity

Predict = Callable[[Tensor], Tensor]
EXAMPLES = 400


def inputs() -> Tensor:
    return torch.linspace(-1, 1, EXAMPLES).unsqueeze(1)


def truth() -> Tensor:
    return inputs()[:, 0].square()


def estimator(bias: float, spread: float) -> Callable[[int], Predict]:
    """Off by `bias` everywhere, and by normal noise that depends on the number of the training set."""

    def train(number: int) -> Predict:
        noise = spread * torch.randn(EXAMPLES, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        return lambda x: x[:, 0].double().square() + bias + noise

    return train


@pytest.mark.parametrize("sets", [2, 5, 40])
@pytest.mark.parametrize(("bias", "spread"), [(0.0, 1.0), (0.5, 0.2), (1.0, 0.0), (0.3, 2.0)])
def test_known_bias_and_variance_are_recovered(bias: float, spread: float, sets: int) -> None:
    found = capacity(estimator(bias, spread), inputs(), truth(), sets=sets)
    # A sample variance of R normal draws has a standard deviation of σ² √(2 / (R - 1)); the mean of 400 a 20th of that.
    error = spread**2 * np.sqrt(2 / (sets - 1)) / 20
    assert found.part("variance").mean == pytest.approx(spread**2, abs=4 * error + 1e-12)
    # The squared mean's own: 2 bias σ / √R, and σ² √2 / R of the noise alone, a 20th of each.
    off = (2 * bias * spread / np.sqrt(sets) + spread**2 * np.sqrt(2) / sets) / 20 + error / sets
    assert found.part("bias").mean == pytest.approx(bias**2, abs=4 * off + 1e-6)


def test_bias_is_not_inflated_by_the_few_sets_it_is_measured_on() -> None:
    # The plain squared distance of a mean of two would be half the variance.
    found = capacity(estimator(0.0, 1.0), inputs(), truth(), sets=2)
    assert found.part("bias").low < 0 < found.part("bias").high


@pytest.mark.parametrize("sets", [2, 3, 7])
def test_bias_and_variance_sum_to_the_error_in_every_example(sets: int) -> None:
    data = capacity(estimator(0.4, 0.9), inputs(), truth(), sets=sets).data
    np.testing.assert_allclose(data["bias"] + data["variance"], data["error"], rtol=1e-12)


def test_the_error_is_the_mean_squared_error_over_sets() -> None:
    data = capacity(estimator(0.4, 0.9), inputs(), truth(), sets=4).data
    squared = (data["prediction"].sel(output=0) - truth().numpy()) ** 2
    np.testing.assert_allclose(data["error"], squared.mean("set"), rtol=1e-6)
    assert data["prediction"].dims == ("set", "example", "output")


def test_two_sets_worked_out_by_hand() -> None:
    # Predictions of 1 and 3 for a truth of 1: a mean of 2, a variance of 2, an error of (0 + 4) / 2.
    found = capacity(lambda number: lambda x: torch.full((3,), 1.0 + 2 * number), inputs()[:3], torch.ones(3), sets=2)
    assert (found.data["variance"] == 2).all()
    assert (found.data["bias"] == 1 - 2 / 2).all()
    assert (found.data["error"] == 2).all()


def test_the_error_of_classes_is_the_brier_score() -> None:
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    found = capacity(lambda number: lambda x: shares, inputs()[:2], torch.tensor([0, 1]), sets=2)
    np.testing.assert_allclose(found.data["error"], [0.3**2 + 0.2**2 + 0.1**2, 0.1**2 + 0.9**2 + 0.8**2], rtol=1e-6)
    np.testing.assert_allclose(found.data["bias"], found.data["error"])
    np.testing.assert_allclose(found.data["variance"], 0, atol=1e-12)


def test_sure_answers_that_change_with_the_set_are_all_variance() -> None:
    # Of two classes each is answered by half of the sets: a mean of (½, ½), which is off by ½ twice.
    def train(number: int) -> Predict:
        return lambda x: torch.eye(2)[torch.full((5,), number % 2)]

    found = capacity(train, inputs()[:5], torch.zeros(5, dtype=torch.long), sets=4)
    variance = 2 * 0.25 * 4 / 3
    np.testing.assert_allclose(found.data["variance"], variance)
    np.testing.assert_allclose(found.data["error"], (0 + 2 + 0 + 2) / 4)
    np.testing.assert_allclose(found.data["bias"], 1 - variance)


def test_truths_may_be_bools() -> None:
    shares = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = capacity(lambda number: lambda x: shares, inputs()[:2], torch.tensor([True, False]), sets=2)
    assert (found.data["error"] == 0).all()


def test_every_training_set_is_asked_for_by_its_number_without_gradients_kept() -> None:
    numbers: list[int] = []
    weight = torch.ones(1, requires_grad=True)

    def train(number: int) -> Predict:
        assert torch.is_grad_enabled()
        numbers.append(number)

        def predict(x: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            return x[:, 0] * weight

        return predict

    told: list[tuple[int, int]] = []
    capacity(train, inputs(), truth(), sets=3, on_progress=lambda *done: told.append(done))
    assert numbers == [0, 1, 2]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_summary_says_both_parts_and_their_sum() -> None:
    found = capacity(estimator(0.5, 0.2), inputs(), truth(), sets=5)
    parts = [found.part(name).text for name in ("bias", "variance", "error")]
    assert found.summary() == (
        f"Over 5 training sets: bias² {parts[0]} and variance {parts[1]} make an error of {parts[2]}."
    )


# Errors


def test_one_set_has_no_variance_and_is_refused() -> None:
    with pytest.raises(ValueError, match="sets: given 1, expected 2 or more, since variance is over them"):
        capacity(estimator(0, 1), inputs(), truth(), sets=1)


@pytest.mark.parametrize("shape", [(EXAMPLES, 1), (EXAMPLES - 1,), ()])
def test_predictions_that_do_not_fit_values_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"train: predictions are of shape .* for targets \(400,\); expected \(N,\) v"):
        capacity(lambda number: lambda x: torch.zeros(shape), inputs(), truth())


@pytest.mark.parametrize("shape", [(3,), (4, 2), (3, 2, 1)])
def test_predictions_that_do_not_fit_classes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, K\) probabilities of classes"):
        capacity(lambda number: lambda x: torch.zeros(shape), inputs()[:3], torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_classes_that_are_not_predicted_by_probabilities_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="train: predictions for classes have to be probabilities"):
        capacity(lambda number: lambda x: torch.full((3, 2), value), inputs()[:3], torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("target", [-1, 2])
def test_a_class_that_is_not_predicted_is_refused(target: int) -> None:
    with pytest.raises(ValueError, match="targets: expected classes from 0 to 1, as many as are predicted"):
        capacity(lambda number: lambda x: torch.full((1, 2), 0.5), inputs()[:1], torch.tensor([target]))


def test_targets_of_more_than_one_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets: of shape \(400, 1\); expected \(N,\)"):
        capacity(estimator(0, 1), inputs(), truth().unsqueeze(1))
