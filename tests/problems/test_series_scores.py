"""How forecasts of series are scored, and what is kept of their errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from panels import panel, problem, walk
from unrolled.problems.problem import Share, summed
from unrolled.problems.series import LEVELS, RESIDUALS, Series, Windows

nan = float("nan")
ALONE = Share()


class Standing(torch.nn.Module):
    """Answers 0 everywhere: that the last value stays."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.unused, self.outputs = torch.nn.Parameter(torch.zeros(1)), outputs

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.new_zeros(*inputs.shape[:2], self.outputs)


def two_targets() -> tuple[Series, torch.nn.Module]:
    values = np.stack((walk(300), 1000 + 100 * walk(300, 1), walk(300, 2)), 1)
    values[[30, 31, 280], 0] = nan
    values[270:275, 1] = nan
    made = problem(panel(values, targets=["y", "z"], covariates=["x"]))
    return made, torch.nn.Linear(made.shape.input_size, made.shape.output_size)


def test_forecasts_are_the_last_value_and_the_answer() -> None:
    made, model = two_targets()
    batch, _ = made.batch(1, ALONE)
    assert isinstance(batch, Windows)
    answers = model(batch.inputs)
    forecasts = made.forecasts(answers, batch)
    for ahead in range(3):
        for target in range(2):
            expected = batch.inputs[:, :, target] + answers[:, :, 2 * ahead + target]
            torch.testing.assert_close(forecasts[:, :, ahead, target], expected)


def test_loss_is_the_sum_of_squares_over_what_is_scored() -> None:
    made, model = two_targets()
    for step in range(1, 30):
        batch, count = made.batch(step, ALONE)
        answers = model(batch.inputs).detach()
        total, scored = 0.0, 0
        for row, time, ahead, target in np.ndindex(*batch.targets.shape):
            if batch.scored[row, time, ahead, target]:
                foretold = batch.inputs[row, time, target] + answers[row, time, 2 * ahead + target]
                total += float((foretold - batch.targets[row, time, ahead, target]) ** 2)
                scored += 1
        assert float(made.loss(answers, batch)) == pytest.approx(total, rel=1e-4)
        assert count == scored
        if scored < 4 * 6 * 3 * 2:
            return
    raise AssertionError("no batch had a missing value")


def test_figures_are_in_the_units_of_the_data() -> None:
    made, _ = two_targets()
    found = made.figures(summed(Standing(6), made, "test"))
    values = made.panel.values[0].astype(np.float64)
    std = made.scales.std[""]
    scaled, there = [], 0
    for target, name in enumerate(("y", "z")):
        errors = []
        held = values[0, target]
        for origin in range(297):
            held = held if np.isnan(values[origin, target]) else values[origin, target]
            if origin + 1 >= 255:
                errors += [held - v for v in values[origin + 1 : origin + 4, target] if not np.isnan(v)]
        assert found[f"rmse {name}"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-4)
        assert found[f"mae {name}"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-4)
        scaled += [error / std[target] for error in errors]
        there += len(errors)
    assert there < 43 * 3 * 2
    assert found["scaled_rmse"] == pytest.approx(np.sqrt(np.mean(np.square(scaled))), rel=1e-4)


def test_one_target_s_figures_have_no_name() -> None:
    assert set(problem(panel(walk(100))).figures(torch.ones(5))) == {"scaled_rmse", "rmse", "mae"}


def test_residual_quantiles_are_those_of_the_validation_part_for_each_step_ahead() -> None:
    made = problem(panel(walk(1000)))
    stored = made.afterwards(Standing(3))[RESIDUALS]
    assert stored["levels"] == list(LEVELS)
    values = made.scales.scaled(made.panel, 0).targets[:, 0]
    for ahead in (1, 2, 3):
        # Origins from the one before the part to the last whose three values lie in it.
        errors = [values[origin + ahead] - values[origin] for origin in range(699, 847)]
        found = [level[ahead - 1][0] for level in stored["quantiles"]]
        np.testing.assert_allclose(found, np.quantile(errors, LEVELS), rtol=1e-4, atol=1e-5)


def test_target_that_is_missing_in_all_of_the_validation_part_has_no_quantiles() -> None:
    values = np.stack((walk(200), walk(200, 1)), 1)
    values[140:170, 1] = nan
    stored = problem(panel(values, targets=["y", "z"])).afterwards(Standing(6))[RESIDUALS]
    assert {step[1] for level in stored["quantiles"] for step in level} == {None}
    assert all(isinstance(step[0], float) for level in stored["quantiles"] for step in level)
