"""What a run foretells: texts, forecasts, probabilities."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from panels import HOUR, MONDAY, panel, walk
from small_runs import classify_job, csv_of, labelled_csv, series_job, text_job, trained
from unrolled.data.labelled import Labelled, load_labelled
from unrolled.data.panel import load_panel
from unrolled.predictions import continued, forecast, probabilities, scales_of
from unrolled.problems.opening import open_problem
from unrolled.problems.series import Series
from unrolled.problems.text import BOUNDARY, OTHER
from unrolled.runs import Run
from unrolled.storage import write_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def text(folder: Path) -> Run:
    (folder / "t.txt").write_text("".join(chr(97 + n * n % 7) for n in range(1500)))
    return trained(text_job(str(folder / "t.txt")), folder / "text")


@pytest.fixture(scope="module")
def series(folder: Path) -> Run:
    values = walk(400)
    values[50] = np.nan
    lines = [
        f"{MONDAY + row * HOUR},{'' if np.isnan(value) else value},{np.sin(row)},{10 * value}"
        for row, value in enumerate(values)
    ]
    (folder / "s.csv").write_text("\n".join(["t,y,x,z", *lines]))
    job = series_job(str(folder / "s.csv"), target=("y", "z"), covariates=("x",), time="t", steps=20)
    return trained(job, folder / "series")


@pytest.fixture(scope="module")
def classes(folder: Path) -> Run:
    return trained(classify_job(labelled_csv(folder / "c.csv")), folder / "classes")


class Logits:
    """The answer of a run that never changes."""

    def __init__(self, run: Run) -> None:
        self.run, self.weights = run, run.model().state_dict()
        self.weights["head.weight"].zero_()
        self.weights["head.bias"].fill_(-30.0)

    def __setitem__(self, symbol: int, value: float) -> None:
        self.weights["head.bias"][symbol] = value
        write_weights(self.run.weights, self.weights)


@pytest.fixture
def always(text: Run, tmp_path: Path) -> tuple[Run, Logits]:
    """A copy of the run whose answer never changes, and its logits to set."""
    shutil.copytree(text.folder, tmp_path / "copy")
    run = replace(text, folder=tmp_path / "copy")
    return run, Logits(run)


# Text


def test_the_same_seed_gives_the_same_text_and_another_one_another(text: Run) -> None:
    one, again, other = ("".join(continued(text, "ab", length=60, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_temperature_0_takes_the_likeliest_character_of_each_step(text: Run) -> None:
    model, vocabulary = text.model(), text.learnt["characters"]
    read = [BOUNDARY, *(vocabulary.index(character) + 2 for character in "abc")]
    for found in continued(text, "abc", length=20, temperature=0):
        with torch.no_grad():
            # All of it anew, so that states that were carried wrongly would show.
            logits = model(torch.tensor([read]))[0, -1]
        logits[OTHER] = -torch.inf
        assert found == vocabulary[int(logits.argmax()) - 2]
        read.append(int(logits.argmax()))
    assert len(read) == 24


def test_draws_follow_the_softmax_of_the_logits_over_the_temperature(always: tuple[Run, Logits]) -> None:
    run, logits = always
    logits[2] = 0.0
    logits[3] = 1.0
    drawn = "".join(continued(run, "", length=2000, temperature=0.5))
    # Of two characters, one with exp(2) times the other's chance; four standard deviations.
    share = 1 / (1 + np.exp(-2))
    assert set(drawn) == set(run.learnt["characters"][:2])
    assert abs(drawn.count(run.learnt["characters"][1]) / 2000 - share) < 4 * (share * (1 - share) / 2000) ** 0.5


def test_document_that_ends_ends_the_text(always: tuple[Run, Logits]) -> None:
    run, logits = always
    logits[BOUNDARY] = 50.0
    assert list(continued(run, "ab", length=20)) == []
    logits[2] = 50.0
    assert 0 < len(list(continued(run, "ab", length=1000, temperature=1))) < 100


def test_unknown_character_is_never_written(always: tuple[Run, Logits]) -> None:
    run, logits = always
    logits[OTHER] = 50.0
    logits[4] = 0.0
    assert set(continued(run, "", length=20)) == {run.learnt["characters"][2]}


def test_prompt_may_be_empty_or_have_unknown_characters(text: Run) -> None:
    assert len("".join(continued(text, "", length=5, temperature=0))) == 5
    one, other = ("".join(continued(text, prompt, length=5, temperature=0)) for prompt in ("Ωa\ud800", "字a~"))
    assert one == other


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 0}, "length: must be at least 1, given 0"),
        ({"length": 5, "temperature": -1.0}, "temperature: must be 0 or more, given -1.0"),
        ({"length": 5, "temperature": float("nan")}, "temperature: must be 0 or more, given nan"),
    ],
)
def test_options_out_of_range_are_named(text: Run, options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(continued(text, "", **options))  # type: ignore[arg-type]


# Series


def test_forecast_is_the_last_value_and_the_network_s_answer_in_the_data_s_units(series: Run, folder: Path) -> None:
    panel_ = load_panel(folder / "s.csv", target=["y", "z"], covariates=["x"], time="t")
    (found,) = forecast(series, panel_)
    made = open_problem(series.job)
    assert isinstance(made, Series)
    inputs = made.scales.scaled(panel_, 0).inputs[-8:]
    with torch.no_grad():
        answers = series.model()(torch.from_numpy(inputs).unsqueeze(0))[0, -1].view(3, 2).double().numpy()
    mean, std = np.array(made.scales.mean[""])[:2], np.array(made.scales.std[""])[:2]
    expected = panel_.values[0][-1, :2] + answers * std
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-4)
    assert (mean != 0).all()
    assert found.targets == ("y", "z")


def test_forecast_s_times_go_on_from_the_last_row(series: Run, folder: Path) -> None:
    (found,) = forecast(series, load_panel(folder / "s.csv", target=["y", "z"], covariates=["x"], time="t"))
    np.testing.assert_array_equal(found.times, MONDAY + (400 + np.arange(3)) * HOUR)


def test_interval_adds_the_residuals_quantiles_and_lies_between_those_that_are_kept(series: Run, folder: Path) -> None:
    panel_ = load_panel(folder / "s.csv", target=["y", "z"], covariates=["x"], time="t")
    stored = json.loads((series.folder / "residuals.json").read_text())
    units = np.array(series.learnt["std"][""])[:2]
    quantiles = np.array(stored["quantiles"])
    for interval, low, high in ((0.9, 0.05, 0.95), (0.5, 0.25, 0.75), (0.99, 0.005, 0.995)):
        (found,) = forecast(series, panel_, interval=interval)
        for end, level in ((found.lower, low), (found.upper, high)):
            kept = quantiles[stored["levels"].index(level)]
            np.testing.assert_allclose(end - found.values, kept * units, rtol=1e-4, atol=1e-5)
    (between,) = forecast(series, panel_, interval=0.85)
    (wide,) = forecast(series, panel_, interval=0.9)
    (narrow,) = forecast(series, panel_, interval=0.8)
    np.testing.assert_allclose(between.upper, (wide.upper + narrow.upper) / 2, rtol=1e-6)


def test_scales_come_back_from_the_run_s_folder(series: Run) -> None:
    made = open_problem(series.job)
    assert isinstance(made, Series)
    assert scales_of(Run.open(series.folder)) == made.scales


def test_series_too_short_for_the_window_is_named(series: Run) -> None:
    short = panel(np.ones((7, 3)), targets=["y", "z"], covariates=["x"], step=HOUR, names=["s"])
    with pytest.raises(ValueError, match="series 's' has 7 steps, and a forecast is made from 8"):
        forecast(series, short)


@pytest.mark.parametrize("interval", [0.0, 1.0, 0.995, -0.5, float("nan")])
def test_interval_out_of_range_is_named(series: Run, interval: float) -> None:
    with pytest.raises(ValueError, match="interval: must be above 0 and at most 0.99"):
        forecast(series, panel(np.ones((9, 3))), interval=interval)


def test_forecast_of_a_run_that_is_not_finished_says_how_to_go_on(series: Run, tmp_path: Path) -> None:
    shutil.copytree(series.folder, tmp_path / "copy")
    (tmp_path / "copy" / "residuals.json").unlink()
    with pytest.raises(FileNotFoundError, match="its training is not finished; --resume goes on with it"):
        forecast(replace(series, folder=tmp_path / "copy"), panel(np.ones((9, 3))))


def test_more_rows_give_a_later_forecast_by_the_scales_of_the_training(tmp_path: Path) -> None:
    values = walk(300)
    run = trained(series_job(csv_of(tmp_path / "s.csv", values[:200])), tmp_path / "run")
    (before,) = forecast(run, panel(values[:200]))
    (after,) = forecast(run, panel(values))
    (again,) = forecast(run, panel(np.concatenate((9999 * np.ones(50), values[192:200]))))
    np.testing.assert_allclose(again.values, before.values, rtol=1e-5)
    assert not np.allclose(after.values, before.values)


# Classes


def test_probabilities_are_the_softmax_of_each_sequence_alone_and_sum_to_one(classes: Run, folder: Path) -> None:
    whole = load_labelled(folder / "c.csv", id="id", label="label")
    names, found = probabilities(classes, whole)
    assert names == ("left", "right")
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)
    model, learnt = classes.model(), classes.learnt
    for sequence, row in zip(whole.sequences, found, strict=True):
        read = ((sequence - np.array(learnt["mean"])) / np.array(learnt["std"])).astype(np.float32)
        with torch.no_grad():
            alone = model(torch.from_numpy(read).unsqueeze(0))[0].double().softmax(0)
        np.testing.assert_allclose(row, alone.numpy(), atol=1e-6)


def test_channels_in_another_order_are_put_in_theirs(classes: Run, folder: Path) -> None:
    whole = load_labelled(folder / "c.csv", id="id", label="label")
    turned = replace(whole, channels=("b", "a"), sequences=tuple(s[:, ::-1] for s in whole.sequences))
    np.testing.assert_array_equal(probabilities(classes, turned)[1], probabilities(classes, whole)[1])


@pytest.mark.parametrize("channels", [("a",), ("a", "c"), ("a", "b", "c")])
def test_other_channels_are_refused_and_named(classes: Run, channels: tuple[str, ...]) -> None:
    sequences = (np.ones((4, len(channels)), np.float32),)
    other = Labelled(path="other.csv", channels=channels, sequences=sequences, labels=("left",))
    with pytest.raises(ValueError, match=rf"other.csv: has {len(channels)} channels .*trained on 2 \(a, b\)"):
        probabilities(classes, other)


def test_run_of_another_kind_is_named(text: Run, series: Run) -> None:
    with pytest.raises(ValueError, match="is a run of kind 'text'; this is for 'series'"):
        forecast(text, panel(np.ones((9, 3))))
    with pytest.raises(ValueError, match="is a run of kind 'series'; this is for 'text'"):
        list(continued(series, "", length=5))
    with pytest.raises(ValueError, match="is a run of kind 'text'; this is for 'classify'"):
        probabilities(text, Labelled(path="", channels=("a",), sequences=(), labels=()))
