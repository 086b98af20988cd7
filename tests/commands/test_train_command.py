"""unrolled train: its folder, what it says, and how it is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tiny_commands import ALONE, TINY, gestures, noisy_sine, refused, train, words
from unrolled.cli import main
from unrolled.runs import Run


def test_folder_of_a_run_is_named_for_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words(tmp_path / "my notes")
    assert main(["train", "text", "my notes/", *TINY, *ALONE, "--length", "10"]) == 0
    assert Run.open("runs/text-my-notes").finished
    assert main(["train", "task", "recall:lag=3", *TINY, *ALONE]) == 0
    assert Run.open("runs/task-recall-lag=3").finished


def test_folder_that_holds_a_run_is_refused_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = words(tmp_path / "t")
    out = tmp_path / "run"
    assert train("text", data, out) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    command = ["train", "text", str(data), *TINY, *ALONE, "--length", "10", "--out", str(out)]
    assert "holds a run already; --resume goes on with it" in refused(command, capsys)
    line = refused([*command, "--resume", "--hidden-size", "5"], capsys)
    assert "hidden_size was 4 and is now 5" in line
    (data / "0.txt").write_text("other words " * 30)
    assert "was started with other data" in refused([*command, "--resume"], capsys)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_finished_run_that_is_resumed_says_so_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = words(tmp_path / "t"), tmp_path / "run"
    assert train("text", data, out) == 0
    weights = (out / "weights.safetensors").read_bytes()
    capsys.readouterr()
    assert train("text", data, out, "--resume") == 0
    assert "is finished already; nothing is left to do" in capsys.readouterr().err
    assert (out / "weights.safetensors").read_bytes() == weights


def test_resume_without_a_run_starts_one(tmp_path: Path) -> None:
    assert train("series", noisy_sine(tmp_path / "s.csv"), tmp_path / "run", "--resume") == 0
    assert Run.open(tmp_path / "run").finished


def test_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    data = words(tmp_path / "t")
    out = tmp_path / "file" / "run"
    line = refused(["train", "text", str(data), *TINY, *ALONE, "--out", str(out)], capsys)
    assert line.startswith(f"cannot write {out}")


def test_folder_has_the_files_that_the_documentation_lists(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train("series", noisy_sine(tmp_path / "s.csv"), out) == 0
    assert main(["evaluate", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "weights.safetensors",
        "fit.json",
        "residuals.json",
        "evaluation.json",
    }
    assert not list(out.rglob("*.part"))
    config = json.loads((out / "config.json").read_text())
    assert config["job"]["data"]["path"].endswith("s.csv")
    assert config["learnt"]["targets"] == ["y"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert set(rows[0]["figures"]) >= {"scaled_rmse", "rmse", "mae", "states"}
    assert json.loads((out / "fit.json").read_text())["stopped"] == "steps"


def test_what_is_said_goes_to_stderr_and_names_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train("classify", gestures(tmp_path / "g.csv"), out, "--id", "id", "--label", "label") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert sum(line.startswith("step ") for line in lines) == 2
    assert lines[-1] == f"The run: {out}. Next: unrolled evaluate {out}"


def test_interrupt_says_that_resume_goes_on_and_it_does(tmp_path: Path) -> None:
    data, out = words(tmp_path / "t"), tmp_path / "run"
    command = [sys.executable, "-m", "unrolled", "train", "text", str(data), *TINY, *ALONE, "--length", "10"]
    command += ["--out", str(out), "--steps", "200000", "--validate-every", "50"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    begun = time.monotonic()
    while not (out / "metrics.jsonl").is_file() or not (out / "metrics.jsonl").stat().st_size:
        assert time.monotonic() - begun < 60
        assert child.poll() is None
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGINT)
    said, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert said == ""
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert re.fullmatch(
        r"stopped at step \d+ of 200000; --resume goes on from the last checkpoint, if there is one", last
    )
    stopped = int(last.split()[3])
    assert not Run.open(out).finished

    lines = []
    with subprocess.Popen([*command, "--resume"], stderr=subprocess.PIPE, text=True) as again:
        assert again.stderr is not None
        for line in again.stderr:
            lines.append(line)
            if line.startswith("step "):
                again.send_signal(signal.SIGTERM)
    assert again.returncode == 128 + signal.SIGTERM
    assert f"going on from step {stopped} of 200000\n" in lines


def test_tensorboard_s_events_are_the_lines_of_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    out = tmp_path / "run"
    assert train("series", noisy_sine(tmp_path / "s.csv"), out, "--tensorboard") == 0
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    rows = list(Run.open(out).metrics())

    def flat(value: Any, name: str = "") -> dict[str, float]:
        if isinstance(value, dict):
            return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}/{key}".strip("/")).items()}
        return {name: value} if isinstance(value, int | float) else {}

    wanted = [{k: v for k, v in flat(row).items() if k not in ("step", "steps")} for row in rows]
    assert set(events.Tags()["scalars"]) == set(wanted[0])
    assert any("forget_gate" in name for name in wanted[0])
    for name in wanted[0]:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [
            (row["step"], pytest.approx(line[name], rel=1e-6)) for row, line in zip(rows, wanted, strict=True)
        ]
