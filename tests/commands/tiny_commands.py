"""Commands with networks that are trained for a moment, and what they say when they cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from unrolled.cli import main

TINY = ["--preset", "small", "--hidden-size", "4", "--steps", "4", "--validate-every", "2", "--batch-size", "4"]
ALONE = ["--device", "cpu", "--threads", "1"]
WINDOWS = ["--window", "8", "--horizon", "3"]

KINDS = ["text", "series", "classify", "task"]
TABLE = ["--time", "t", "--target", "y"]
DATA = {"text": "texts", "series": "s.csv", "classify": "g.csv", "task": "recall:lag=3"}
OPTIONS: dict[str, list[str]] = {
    "text": [],
    "series": TABLE,
    "classify": ["--id", "id", "--label", "label"],
    "task": [],
}


def train(kind: str, path: str | Path, out: Path, *more: str) -> int:
    """unrolled train KIND PATH with a tiny budget; options of `more` go before."""
    usual = {"series": WINDOWS, "text": ["--length", "10"]}.get(kind, [])
    return main(["train", kind, str(path), *TINY, *ALONE, *usual, "--out", str(out), *more])


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr, with which a command fails, less its beginning."""
    capsys.readouterr()
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.count("unrolled: ") == 1
    line = captured.err.splitlines()[-1]
    assert line.startswith("unrolled: ")
    return line.removeprefix("unrolled: ")


def words(folder: Path) -> Path:
    """A folder of three short texts."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"the cat sat on the mat {number}. " * 20)
    return folder


def noisy_sine(path: Path, rows: int = 200) -> Path:
    """A CSV of hours."""
    drawn = np.random.default_rng(0)
    hours = np.datetime64("2024-01-01T00") + np.arange(rows) * np.timedelta64(1, "h")
    values = np.sin(np.arange(rows) / 5) + 0.1 * drawn.standard_normal(rows)
    path.write_text("\n".join(["t,y", *(f"{hour},{value:.4f}" for hour, value in zip(hours, values, strict=True))]))
    return path


def gestures(path: Path, sequences: int = 40) -> Path:
    """A CSV of labelled sequences of 5 to 8 steps and two channels."""
    drawn = np.random.default_rng(0)
    lines = ["id,label,a,b"]
    for number in range(sequences):
        for _ in range(5 + number % 4):
            a, b = drawn.standard_normal(2)
            lines.append(f"{number},{('left', 'right')[number % 2]},{2 * (number % 2) - 1 + a:.4f},{b:.4f}")
    path.write_text("\n".join(lines) + "\n")
    return path


def copy(place: Path, kind: str, to: Path) -> Path:
    """A run of a kind that may be spoilt."""
    return Path(shutil.copytree(place / kind, to / kind))


def ran(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints when it succeeds."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out
