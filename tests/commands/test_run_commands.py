"""train, evaluate, predict and record on runs of every kind."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import unrolled
from tiny_commands import DATA, KINDS, OPTIONS, TABLE, copy, noisy_sine, ran, refused, train
from unrolled.cli import main
from unrolled.commands.display import TrainingDisplay
from unrolled.runs import Run


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# train, interrupted and gone on with


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_training_that_is_resumed_ends_with_the_same_weights(
    kind: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(display: TrainingDisplay, step: int, steps: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    path = DATA[kind] if kind == "task" else place / DATA[kind]
    out, options = tmp_path / "run", OPTIONS[kind]
    with monkeypatch.context() as patched:
        patched.setattr(TrainingDisplay, "step", interrupt)
        assert train(kind, path, out, *options) == 130
    said = "stopped at step 3 of 4; --resume goes on from the last checkpoint, if there is one"
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert not Run.open(out).finished
    assert train(kind, path, out, *options, "--resume") == 0
    assert "going on from step 3 of 4" in capsys.readouterr().err
    for name in ("weights.safetensors", "fit.json", *(["residuals.json"] if kind == "series" else [])):
        assert (out / name).read_bytes() == (place / kind / name).read_bytes(), name


# evaluate


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("text", ["network", "5-gram", "xz", "xz that has read the training text"]),
        ("series", ["network", "persistence", "ridge"]),
        ("classify", ["network", "nearest neighbour (warped)"]),
        ("task", ["network", "no skill"]),
    ],
)
def test_evaluate_prints_the_network_beside_its_baselines_and_writes_the_same(
    kind: str, rows: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = ran("evaluate", place / kind, capsys=capsys)
    stored = json.loads((place / kind / "evaluation.json").read_text())
    assert list(stored["figures"]) == rows
    lines = printed.splitlines()
    assert lines[0] == stored["title"]
    columns = list(dict.fromkeys(name for row in stored["figures"].values() for name in row))
    assert lines[1].split() == columns
    for line, (name, figures) in zip(lines[2:], stored["figures"].items(), strict=False):
        assert line.startswith(name)
        assert line.removeprefix(name).split() == [f"{figures[c]:.4f}" for c in columns if c in figures]
    assert lines[2 + len(rows)].endswith(f"is better): {stored['winner']}")
    assert lines[3 + len(rows) :] == stored["remarks"]
    assert all(math.isfinite(value) for row in stored["figures"].values() for value in row.values())


def test_season_within_the_window_has_its_naive_forecast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    data = noisy_sine(tmp_path / "s.csv", 400)
    assert train("series", data, out, *TABLE, "--window", "30") == 0
    assert "seasonal naive (24 steps)" in ran("evaluate", out, capsys=capsys)


# predict


def test_text_is_the_same_for_a_seed_and_begins_with_the_prompt(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["predict", place / "text", "--prompt", "the ", "--length", "40"]
    one, again, other = (ran(*ask, "--seed", seed, capsys=capsys) for seed in (1, 1, 2))
    assert one == again != other
    assert one.startswith("the ")
    assert one.endswith("\n")
    assert len(one) <= 4 + 40 + 1


def test_text_without_temperature_needs_no_seed_and_takes_any_prompt(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["predict", place / "text", "--prompt", "Ωж字", "--length", "15", "--temperature", "0"]
    assert ran(*ask, "--seed", "1", capsys=capsys) == ran(*ask, "--seed", "2", capsys=capsys)
    assert ran(*ask, capsys=capsys).startswith("Ωж字")


def test_forecasts_are_a_table_with_a_row_for_each_step_and_target(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = ran("predict", place / "series", capsys=capsys)
    rows = table(printed)
    assert list(rows[0]) == ["series", "time", "target", "forecast", "lower", "upper"]
    first = np.datetime64("2024-01-01T00", "h") + 200
    assert [np.datetime64(row["time"]) for row in rows] == [first, first + 1, first + 2]
    assert {row["target"] for row in rows} == {"y"}
    for row in rows:
        assert float(row["lower"]) < float(row["upper"])
    out = tmp_path / "deep" / "f.csv"
    assert ran("predict", place / "series", "--out", out, capsys=capsys) == ""
    assert out.read_text() == printed
    wide = table(ran("predict", place / "series", "--interval", "0.98", capsys=capsys))
    for row, wider in zip(rows, wide, strict=True):
        assert row["forecast"] == wider["forecast"]
        assert float(wider["upper"]) > float(row["upper"])


def test_every_series_and_target_has_its_own_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        f"{row},{name},{level + row % 7},{-level + row % 5}"
        for name, level in (("here", 100), ("there", 5000))
        for row in range(100)
    ]
    path = tmp_path / "two.csv"
    path.write_text("\n".join(["n,place,up,down", *lines]))
    options = ["--time", "n", "--group", "place", "--target", "up", "down"]
    assert train("series", path, tmp_path / "run", *options) == 0
    rows = table(ran("predict", tmp_path / "run", capsys=capsys))
    assert [(row["series"], row["time"], row["target"]) for row in rows] == [
        (name, str(ahead), target) for name in ("here", "there") for ahead in (1, 2, 3) for target in ("up", "down")
    ]
    for row in rows:
        level = (100 if row["series"] == "here" else 5000) * (1 if row["target"] == "up" else -1)
        assert abs(float(row["forecast"]) - level) < 20


def test_other_rows_of_the_same_columns_are_forecast_from_their_end(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (place / "s.csv").read_text().splitlines()
    # Another order of columns, and one that nobody asked for.
    turned = ["extra,y,t", *(f"9,{line.split(',')[1]},{line.split(',')[0]}" for line in lines[1:151])]
    (tmp_path / "other.csv").write_text("\n".join(turned))
    rows = table(ran("predict", place / "series", "--data", tmp_path / "other.csv", capsys=capsys))
    assert np.datetime64(rows[0]["time"]) == np.datetime64("2024-01-01T00", "h") + 150


def test_classes_are_a_table_with_probabilities_that_sum_to_one(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = table(ran("predict", place / "classify", capsys=capsys))
    whole = table(ran("predict", place / "classify", "--data", place / "g.csv", capsys=capsys))
    assert list(whole[0]) == ["sequence", "label", "predicted", "p(left)", "p(right)"]
    assert len(whole) == 40
    assert len(test) == 6
    for row in whole:
        chances = {name: float(row[f"p({name})"]) for name in ("left", "right")}
        assert sum(chances.values()) == pytest.approx(1, abs=2e-6)
        assert row["predicted"] == max(chances, key=chances.__getitem__)
    known = {(row["label"], row["p(left)"]) for row in whole}
    assert all((row["label"], row["p(left)"]) in known for row in test)


def test_sequences_whose_classes_nobody_knows_are_named_too(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (place / "g.csv").read_text().splitlines()
    known, unknown = tmp_path / "known.csv", tmp_path / "unknown.csv"
    known.write_text("\n".join(lines))
    unknown.write_text("\n".join(",".join((cells := line.split(","))[:1] + cells[2:]) for line in lines))
    with_labels = table(ran("predict", place / "classify", "--data", known, capsys=capsys))
    without = table(ran("predict", place / "classify", "--data", unknown, capsys=capsys))
    assert {row["label"] for row in without} == {""}
    assert {row["label"] for row in with_labels} == {"left", "right"}
    assert [row["predicted"] for row in without] == [row["predicted"] for row in with_labels]


def test_a_run_is_evaluated_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy_sine(tmp_path / "s.csv")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert train("series", "s.csv", tmp_path / "run", *TABLE) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "ridge" in ran("evaluate", tmp_path / "run", capsys=capsys)


def test_reader_who_has_read_enough_is_no_error(place: Path) -> None:
    command = [sys.executable, "-m", "unrolled", "predict", str(place / "text"), "--length", "5000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read(1)
        child.stdout.close()
        assert child.stderr.read() == b""


@pytest.mark.parametrize("kind", ["text", "series", "classify"])
def test_help_of_predict_lists_the_options_of_the_run_s_kind(
    kind: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["predict", str(place / kind), "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    options = {"text": ["prompt", "temperature"], "series": ["data", "interval"], "classify": ["data", "out"]}
    for other, names in options.items():
        if other in (kind, "text") or kind == "text":
            assert all((f"--{name}" in text) == (other == kind) for name in names)


def test_only_the_answer_is_on_stdout(place: Path) -> None:
    for command in (["predict", place / "series"], ["predict", place / "classify"], ["evaluate", place / "task"]):
        done = subprocess.run([sys.executable, "-m", "unrolled", *map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout.splitlines()[0] in (
            "series,time,target,forecast,lower,upper",
            "sequence,label,predicted,p(left),p(right)",
            "recall:lag=3",
        )
        assert "unrolled:" not in done.stderr


# record


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_trace_is_what_the_model_does_on_the_inputs_beside_it(
    kind: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a trace.zarr"
    printed = ran("record", place / kind, "--out", out, "--sequences", "5", "--steps", "23", capsys=capsys)
    read = load_file(tmp_path / "a trace.inputs.safetensors")
    count, steps = read["inputs"].shape[:2]
    assert count == 5
    assert (
        steps == {"text": 23, "series": 8, "classify": int(read.get("lengths", torch.zeros(1)).max()), "task": 5}[kind]
    )
    assert printed.startswith(f"5 x {steps} steps in {out}")
    model = unrolled.load(place / kind)
    options = {"lengths": read["lengths"]} if kind == "classify" else {}
    if kind == "text":
        options["reset"] = read["inputs"] == 0
    with torch.no_grad(), unrolled.record(model) as plain:
        model(read["inputs"], **options)
    stored = unrolled.Trace.load(out)
    assert sorted(stored) == sorted(plain)
    for name in plain:
        torch.testing.assert_close(stored[name], plain[name], rtol=1e-5, atol=1e-6)


def test_trace_of_a_run_lies_in_its_folder_and_is_not_written_over(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(place, "series", tmp_path)
    ran("record", run, "--names", "*.hidden", "--split", "validation", capsys=capsys)
    assert list(unrolled.Trace.load(run / "trace.zarr")) == ["recurrent.l0.hidden"]
    assert (run / "trace.inputs.safetensors").is_file()
    assert "exists already and is left as it is" in refused(["record", str(run)], capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split", "tset"], "--split: given 'tset', expected one of train, validation, test"),
        (["--sequences", "0"], "--sequences: must be at least 1, given 0"),
        (["--steps", "-1"], "--steps: must be at least 1, given -1"),
        (["--names", "nothing*"], "matches nothing in the model; it has recurrent.l0.hidden"),
        (["--sequences", "100000"], "--sequences: the test part is shorter than 100000 steps; give fewer"),
    ],
)
def test_record_that_cannot_be_made_leaves_nothing(
    arguments: list[str], said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.zarr"
    assert said in refused(["record", str(place / "text"), "--out", str(out), *arguments], capsys)
    assert list(tmp_path.iterdir()) == []
