"""Runs that are trained for a moment, in folders of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unrolled.budget import Budget
from unrolled.jobs import ClassifyData, Job, Network, SeriesData, TextData
from unrolled.runs import Run
from unrolled.training.train import train


def csv_of(path: Path, *columns: Any, names: str = "y") -> str:
    """A file with these columns of numbers."""
    rows = (",".join(f"{float(value):.9g}" for value in row) for row in zip(*columns, strict=True))
    path.write_text("\n".join([names, *rows]) + "\n")
    return str(path)


def series_job(path: str, *, hidden: int = 4, horizon: int = 3, window: int = 8, **options: Any) -> Job:
    named = {"target", "time", "group", "covariates", "season", "validation", "test"}
    data = {name: options.pop(name) for name in named & options.keys()}
    budget = {"steps": 4, "batch_size": 16, "validate_every": 2, "learning_rate": 0.01, **options}
    return Job(
        data=SeriesData(path=path, horizon=horizon, window=window, **data),
        network=Network(hidden_size=hidden),
        budget=Budget(**budget),
    )


def labelled_csv(path: Path, sequences: int = 40, *, seed: int = 0) -> str:
    """Sequences of 3 to 9 steps and two channels, of which the first says the class."""
    drawn = np.random.default_rng(seed)
    lines = ["id,label,a,b"]
    for number in range(sequences):
        label = number % 2
        for _ in range(drawn.integers(3, 10)):
            a, b = drawn.standard_normal(2)
            lines.append(f"{number},{('left', 'right')[label]},{2 * label - 1 + a:.4f},{b:.4f}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def classify_job(path: str, **budget: Any) -> Job:
    return Job(
        data=ClassifyData(path=path, id="id", label="label"),
        network=Network(hidden_size=4, bidirectional=True),
        budget=Budget(**{"steps": 4, "batch_size": 8, "validate_every": 2, "learning_rate": 0.01, **budget}),
    )


def text_job(path: str, **budget: Any) -> Job:
    return Job(
        data=TextData(path=path, length=10),
        network=Network(hidden_size=8, embedding_size=4),
        budget=Budget(**{"steps": 4, "batch_size": 4, "validate_every": 2, "learning_rate": 0.01, **budget}),
    )


def trained(job: Job, folder: Path) -> Run:
    return train(job, folder, device="cpu", checkpoint_every=1e9)
