"""What the options of a training start from: for each kind of work a first look and a result."""

from __future__ import annotations

from typing import Any, Literal, get_args

from unrolled.budget import Budget
from unrolled.jobs import DATA, Job, Kind, Network

Preset = Literal["small", "base"]
PRESETS: tuple[Preset, ...] = get_args(Preset)

# What each kind of work starts from; `small` is for a first look, in a minute or less on two cores.
_DEFAULTS: dict[tuple[Kind, Preset], tuple[Network, Budget, dict[str, Any]]] = {
    ("text", "small"): (
        Network(cell="gru", hidden_size=192, embedding_size=32),
        Budget(steps=800, batch_size=32, learning_rate=8e-3, schedule="cosine", warmup=50, optimizer="adamw"),
        {"validation_characters": 50_000},
    ),
    ("text", "base"): (
        Network(hidden_size=512, embedding_size=64, dropout=0.1),
        Budget(
            steps=1600,
            batch_size=64,
            learning_rate=5e-3,
            schedule="cosine",
            warmup=200,
            optimizer="adamw",
            weight_decay=0.05,
            validate_every=400,
        ),
        {},
    ),
    ("series", "small"): (
        Network(hidden_size=32),
        Budget(steps=500, batch_size=32, learning_rate=3e-3, schedule="cosine", warmup=50, optimizer="adamw"),
        {},
    ),
    ("series", "base"): (
        Network(hidden_size=64, dropout=0.2),
        Budget(
            steps=2000,
            batch_size=64,
            learning_rate=2e-3,
            schedule="cosine",
            warmup=50,
            optimizer="adamw",
            weight_decay=0.01,
            validate_every=50,
            patience=10,
        ),
        {},
    ),
    ("classify", "small"): (
        Network(hidden_size=64, bidirectional=True, dropout=0.2),
        Budget(steps=600, batch_size=32, learning_rate=5e-3, schedule="cosine", optimizer="adamw", validate_every=50),
        {},
    ),
    ("classify", "base"): (
        Network(hidden_size=96, bidirectional=True, dropout=0.4),
        Budget(
            steps=1500,
            batch_size=32,
            learning_rate=3e-3,
            schedule="cosine",
            optimizer="adamw",
            weight_decay=0.01,
            validate_every=50,
        ),
        {},
    ),
    ("task", "small"): (Network(hidden_size=32), Budget(steps=500, batch_size=64), {}),
    ("task", "base"): (Network(hidden_size=64), Budget(steps=3000, batch_size=64), {}),
}


def preset(kind: Kind, name: Preset, path: str) -> Job:
    """The job that a preset makes of data.

    Raises:
        ValueError: no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: given {name!r}, expected one of {', '.join(PRESETS)}")
    network, budget, data = _DEFAULTS[kind, name]
    return Job(data=DATA[kind](path=path, **data), network=network, budget=budget)
