"""Something of every kind that can be looked at: runs that were trained for a moment, and a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from unrolled import claims
from unrolled.budget import Budget
from unrolled.jobs import ClassifyData, Job, Network, SeriesData, TaskData, TextData
from unrolled.plans import Plan, plan
from unrolled.storage import write_json, write_weights
from unrolled.study import make
from unrolled.tasks import parse
from unrolled.training.train import train

RUNS = ("text", "series", "classify", "task")
SOURCE = 'def f():\n    """Say <script>alert(1)</script>."""\n    return [1, (2)]  # two\n\n\n'


def make_runs(place: Path) -> None:
    """A run in a folder of each name in `RUNS`."""
    (place / "source").mkdir()
    for number in range(3):
        (place / "source" / f"{number}.py").write_text(SOURCE * 12)
    hours = np.datetime64("2024-01-01T00") + np.arange(200) * np.timedelta64(1, "h")
    rows = [f"{hour},{20 + np.sin(number / 5):.3f}" for number, hour in enumerate(hours)]
    (place / "s.csv").write_text("\n".join(["t,y", *rows]))
    drawn = np.random.default_rng(0)
    lines = ["id,label,a,b"]
    for number in range(40):
        for a, b in drawn.standard_normal((5 + number % 4, 2)):
            lines.append(f"{number},{('left', '<b>right')[number % 2]},{100 + a:.3f},{b:.3f}")
    (place / "g.csv").write_text("\n".join(lines) + "\n")
    data = {
        "text": TextData(path=str(place / "source"), length=10),
        "series": SeriesData(path=str(place / "s.csv"), time="t", target=("y",), horizon=3, window=8),
        "classify": ClassifyData(path=str(place / "g.csv"), id="id", label="label"),
        "task": TaskData(path="recall:lag=3"),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for kind in RUNS:
        budget = Budget(steps=2, batch_size=4, validate_every=2, learning_rate=0.01)
        network = Network(hidden_size=4, bidirectional=kind == "classify", embedding_size=3)
        train(Job(data=data[kind], network=network, budget=budget), place / kind, device="cpu", checkpoint_every=1e9)
    torch.set_num_threads(threads)


def make_study(folder: Path, seeds: int) -> None:
    """A study of untrained networks, as many as seeds, of which nothing was measured."""
    write_study(folder, plan(["recall:lag=1-3"], ["gru"], seeds, parameters=300, steps=1))


def write_study(folder: Path, plans: Sequence[Plan]) -> None:
    """The study of these plans, whose networks are untrained and of which nothing was measured."""
    write_json(folder / "plan.json", {"plans": [asdict(one) for one in plans]})
    for one in plans:
        model, home = make(one, parse(one.setting)), folder / "runs" / one.folder
        write_weights(home / "weights.safetensors", model.state_dict())
        run = claims.Run(one.setting, one.cell, one.seed, model.recurrent.hidden_size, one.parameters, 1.0, 0.0, {})
        write_json(home / "plan.json", asdict(one))
        write_json(home / "run.json", asdict(run))
