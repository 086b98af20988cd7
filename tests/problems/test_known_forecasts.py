"""Series whose best forecast is known: what is learnt, which baseline is exact, and who is named the best."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panels import panel, walk
from small_runs import csv_of, series_job, trained
from unrolled.baselines.forecasts import Ridge
from unrolled.data.panel import load_panel
from unrolled.evaluation import Evaluation, evaluate
from unrolled.predictions import forecast
from unrolled.runs import Run

LEARN: dict[str, Any] = {
    "steps": 300,
    "batch_size": 32,
    "validate_every": 100,
    "learning_rate": 0.01,
    "schedule": "cosine",
}


def test_sine_without_noise_is_learnt_and_goes_on_after_the_end_of_the_file(tmp_path: Path) -> None:
    def sine(steps: np.ndarray) -> np.ndarray:
        return 20 + 5 * np.sin(2 * np.pi * steps / 17.3)

    job = series_job(csv_of(tmp_path / "s.csv", sine(np.arange(600))), hidden=16, horizon=8, window=24, **LEARN)
    run = trained(job, tmp_path / "run")
    found = evaluate(run).figures
    assert found["network"]["scaled_rmse"] < 0.05
    assert found["persistence"]["scaled_rmse"] > 1
    (coming,) = forecast(run, load_panel(tmp_path / "s.csv"))
    truth = sine(np.arange(600, 608))
    np.testing.assert_allclose(coming.values[:, 0], truth, atol=5 * 0.15)
    assert coming.times.tolist() == list(range(1, 9))


def test_nothing_beats_the_last_value_of_a_random_walk(tmp_path: Path) -> None:
    job = series_job(csv_of(tmp_path / "w.csv", walk(4000)), hidden=8, **{**LEARN, "steps": 200})
    found = evaluate(trained(job, tmp_path / "run")).figures
    # The errors of h steps ahead are sums of h draws: of the 600 test steps, some 200 tell as much. Their mean square
    # is known within 3 * sqrt(2 / 200) of itself; both forecasts share most of that, so a tenth of it is generous.
    chance = 0.1 * 3 * (2 / 200) ** 0.5
    for name in ("network", "ridge"):
        assert found[name]["rmse"] ** 2 > found["persistence"]["rmse"] ** 2 * (1 - chance), name
    assert found["persistence"]["rmse"] == pytest.approx(np.sqrt(2), rel=0.1)  # of variances 1, 2 and 3


def test_season_before_is_exact_where_every_season_is_the_same(tmp_path: Path) -> None:
    season = walk(6, seed=3)
    job = series_job(csv_of(tmp_path / "s.csv", np.tile(season, 50)), season=6)
    found = evaluate(trained(job, tmp_path / "run"))
    assert found.figures["seasonal naive (6 steps)"]["rmse"] < 1e-6
    assert found.winner == "seasonal naive (6 steps)"
    assert found.figures["persistence"]["rmse"] > 0.1


def test_ridge_is_exact_where_the_next_value_is_a_linear_function_of_those_before(tmp_path: Path) -> None:
    # Two sines: each value is a linear function of the four before it (two of each frequency).
    steps = np.arange(800)
    values = np.sin(steps / 3) + 0.5 * np.sin(steps / 7.7)
    found = evaluate(trained(series_job(csv_of(tmp_path / "r.csv", values)), tmp_path / "run"))
    assert found.figures["ridge"]["rmse"] < 0.02
    assert found.winner == "ridge"


def test_ridge_is_fitted_on_the_training_part_and_its_penalty_chosen_on_the_validation_part(tmp_path: Path) -> None:
    values = walk(300)
    found = evaluate(trained(series_job(csv_of(tmp_path / "r.csv", values)), tmp_path / "run")).figures["ridge"]

    def part(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows of 8 and the 3 values after them, from an origin to one before another."""
        origins = range(first, last)
        windows = np.stack([values[at - 7 : at + 1] for at in origins])
        return windows[:, :, None], np.stack([values[at + 1 : at + 4] for at in origins])[:, :, None]

    # Steps 0 to 209 are for training, to 254 for validation, to 299 for test.
    ridge = Ridge().fit([part(7, 207)], [part(209, 252)])
    windows, truth = part(254, 297)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((ridge.predict(windows) - truth) ** 2)), rel=1e-3)


def test_interval_holds_nine_of_ten_fresh_truths(tmp_path: Path) -> None:
    def ar(steps: int, seed: int) -> np.ndarray:
        drawn, values = np.random.default_rng(seed), np.zeros(steps)
        for step in range(1, steps):
            values[step] = 0.8 * values[step - 1] + drawn.standard_normal()
        return values

    job = series_job(csv_of(tmp_path / "a.csv", ar(6000, 0)), steps=60, learning_rate=0.01, validation=0.3)
    run = trained(job, tmp_path / "run")
    tries, inside, narrow = 400, np.zeros(3), np.zeros(3)
    for seed in range(tries):
        values = ar(60, 1 + seed)
        (one,) = forecast(run, panel(values[:57]), interval=0.9)
        (half,) = forecast(run, panel(values[:57]), interval=0.5)
        inside += (one.lower[:, 0] <= values[57:]) & (values[57:] <= one.upper[:, 0])
        narrow += (half.lower[:, 0] <= values[57:]) & (values[57:] <= half.upper[:, 0])
    # Four standard deviations of a binomial share: of the fresh truths, and of the 1,800 residuals of h steps ahead,
    # of which one in h tells something new.
    for share, count in ((0.9, inside), (0.5, narrow)):
        for ahead, found in enumerate(count / tries, start=1):
            spread = (share * (1 - share) * (1 / tries + ahead / 1800)) ** 0.5
            assert abs(found - share) < 4 * spread, (share, ahead, found)


# What evaluate() says


def two_columns(folder: Path) -> Run:
    path = csv_of(folder / "t.csv", walk(300), walk(300, 1) * 9, names="y,a_column_with_a_long_name")
    return trained(series_job(path, target=("y", "a_column_with_a_long_name")), folder / "run")


def test_evaluation_json_has_what_is_printed(tmp_path: Path) -> None:
    run = two_columns(tmp_path)
    found = evaluate(run)
    stored = json.loads((run.folder / "evaluation.json").read_text())
    assert stored == {**json.loads(json.dumps(asdict(found))), "winner": found.winner}
    lines = found.summary().splitlines()
    assert lines[0] == found.title
    header = lines[1].split("  ")
    columns = [column.strip() for column in header if column.strip()]
    assert columns == list(found.figures["network"])
    for line, (name, row) in zip(lines[2:], found.figures.items(), strict=False):
        assert line.startswith(name)
        assert line.removeprefix(name).split() == [f"{value:.4f}" for value in row.values()]
        assert len(line) == len(lines[1])
    assert f"Best by scaled_rmse (lower is better): {found.winner}" in lines


def test_winner_is_who_has_the_best_figure() -> None:
    rows = {"network": {"m": 0.5}, "one": {"m": 0.7, "other": 0.0}, "two": {"m": 0.3}, "none": {"m": float("nan")}}
    least = Evaluation(title="t", metric="m", higher_is_better=False, figures=rows)
    most = Evaluation(title="t", metric="m", higher_is_better=True, figures=rows)
    assert least.winner == "two"
    assert most.winner == "one"
    assert "lower is better): two" in least.summary()
    assert "higher is better): one" in most.summary()


def test_other_data_than_those_trained_on_are_refused(tmp_path: Path) -> None:
    run = two_columns(tmp_path)
    text = (tmp_path / "t.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join([*text[:-1], "1,2"]))
    with pytest.raises(ValueError, match="was trained on other data than .*t.csv has now"):
        evaluate(run)


def test_where_every_window_has_a_gap_there_is_no_ridge_and_it_is_said(tmp_path: Path) -> None:
    values = walk(300)
    path = csv_of(tmp_path / "g.csv", np.arange(300), values, names="t,y")
    lines = [line.split(",")[0] + "," if n % 4 == 3 else line for n, line in enumerate(Path(path).read_text().split())]
    Path(path).write_text("\n".join(lines))
    found = evaluate(trained(series_job(path, target=("y",), horizon=6), tmp_path / "run"))
    assert list(found.figures) == ["network", "persistence"]
    assert any("no window is followed by all of its values" in remark for remark in found.remarks)


def test_target_that_is_missing_in_the_test_part_has_no_figures_and_others_have(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "g.csv", walk(300), walk(300, 1), names="y,z")
    lines = Path(path).read_text().split()
    Path(path).write_text("\n".join(line.split(",")[0] + "," if n > 250 else line for n, line in enumerate(lines)))
    run = trained(series_job(path, target=("y", "z")), tmp_path / "run")
    found = evaluate(run)
    assert np.isnan(found.figures["network"]["rmse z"])
    assert np.isfinite(found.figures["network"]["rmse y"])
    assert json.loads((run.folder / "evaluation.json").read_text())["figures"]["network"]["rmse z"] is None
