"""Jobs: what was asked for comes back from JSON, presets are whole, and what cannot be done is refused at once."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unrolled.budget import Budget
from unrolled.jobs import DATA, ClassifyData, Job, Kind, Network, SeriesData, TaskData, TextData
from unrolled.model import LAYERS
from unrolled.presets import PRESETS, preset
from unrolled.problems.problem import Shape
from unrolled.runs import build

KINDS: tuple[Kind, ...] = get_args(Kind)
# One value for every option that is neither its default nor a preset's.
OTHERS: dict[type, dict[str, Any]] = {
    TextData: {
        "path": "notes",
        "encoding": "latin-1",
        "pattern": "*.md",
        "characters": 1234,
        "length": 17,
        "carry": False,
        "symbols": 99,
        "validation_characters": 777,
        "validation": 0.21,
        "test": 0.22,
    },
    SeriesData: {
        "path": "t.csv",
        "target": ("a", "b"),
        "covariates": ("c",),
        "time": "t",
        "group": "g",
        "horizon": 5,
        "window": 19,
        "season": 7,
        "encoding": "utf-16",
        "delimiter": ";",
        "header": False,
        "validation": 0.21,
        "test": 0.22,
    },
    ClassifyData: {
        "path": "c.csv",
        "test_path": "d.csv",
        "label": "l",
        "id": "i",
        "encoding": "latin-1",
        "validation": 0.21,
        "test": 0.22,
    },
    TaskData: {"path": "recall:lag=3"},
    Network: {
        "cell": "gru",
        "hidden_size": 7,
        "layers": 3,
        "embedding_size": 5,
        "bidirectional": True,
        "dropout": 0.25,
        "init": "chrono",
        "t_max": 30.0,
        "forget_bias": 0.5,
    },
    Budget: {
        "steps": 11,
        "batch_size": 3,
        "learning_rate": 0.5,
        "clip": 2.5,
        "validate_every": 4,
        "validation_size": 9,
        "patience": 2,
        "seconds": 8.5,
        "optimizer": "rmsprop",
        "weight_decay": 0.125,
        "schedule": "linear",
        "warmup": 6,
    },
}


def test_the_table_of_other_values_has_every_option() -> None:
    assert set(OTHERS) == {*DATA.values(), Network, Budget}
    for part, values in OTHERS.items():
        options = {field.name: field.default for field in dataclasses.fields(part)}
        assert set(values) == set(options)
        assert not any(values[name] == default for name, default in options.items())


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_of_every_kind_comes_back_from_json(kind: Kind) -> None:
    network = {**OTHERS[Network], "bidirectional": kind in ("classify", "task")}
    job = Job(
        data=DATA[kind](**OTHERS[DATA[kind]]),
        network=Network(**network),
        budget=Budget(**OTHERS[Budget]),
        seed=5,
        precision="bf16-mixed",
    )
    again = Job.from_json(json.loads(json.dumps(job.as_json())))
    assert again == job
    assert again.kind == kind


@given(
    seed=st.integers(0, 2**63),
    rate=st.floats(1e-9, 1e3),
    path=st.text(),
    names=st.lists(st.text(), max_size=4),
    season=st.one_of(st.none(), st.integers(1, 168)),
    header=st.sampled_from([None, True, False]),
)
def test_any_value_comes_back_from_json(
    seed: int, rate: float, path: str, names: list[str], season: int | None, header: bool | None
) -> None:
    data = SeriesData(path=path, target=tuple(names), covariates=tuple(names), season=season, header=header)
    job = Job(data=data, budget=Budget(learning_rate=rate), seed=seed)
    assert Job.from_json(json.loads(json.dumps(job.as_json()))) == job


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_of_their_kind_and_can_be_built(kind: Kind, name: Any) -> None:
    job = preset(kind, name, "somewhere")
    assert job.kind == kind
    assert job.data.path == "somewhere"
    assert job.budget.validate_every <= job.budget.steps
    model = build(job, Shape(5, 3, symbols=kind == "text"))
    assert (model.embedding is not None) == (kind == "text")
    assert Job.from_json(json.loads(json.dumps(job.as_json()))) == job


def test_unknown_preset_is_named() -> None:
    with pytest.raises(ValueError, match="preset: given 'huge', expected one of small, base"):
        preset("text", "huge", "x")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["text", "series"])
def test_reading_from_the_end_is_refused_where_the_future_is_not_known(kind: Kind) -> None:
    with pytest.raises(ValueError, match=f"bidirectional: reads what {kind} is to foresee; expected False"):
        Job(data=DATA[kind](path="x"), network=Network(bidirectional=True))


def test_every_cell_of_the_options_is_a_layer_and_the_other_way_round() -> None:
    assert set(get_args(get_type_hints(Network)["cell"])) == set(LAYERS)


@pytest.mark.parametrize("init", ["torch", "orthogonal", "chrono"])
@pytest.mark.parametrize("cell", sorted(LAYERS))
def test_what_a_network_s_options_allow_can_be_built(cell: Any, init: Any) -> None:
    options: dict[str, Any] = {"cell": cell, "init": init, "t_max": 30.0 if init == "chrono" else None}
    if (cell, init) == ("rnn", "chrono"):
        with pytest.raises(ValueError, match="init: 'chrono' sets the biases of gates, and an rnn has none"):
            Network(**options)
        return
    job = Job(data=TaskData(path="x"), network=Network(hidden_size=4, layers=2, dropout=0.1, **options))
    model = build(job, Shape(3, 2))
    assert model(torch.zeros(1, 5, 3)).shape == (1, 5, 2)


@pytest.mark.parametrize(
    ("part", "options", "words"),
    [
        (Network, {"hidden_size": 0}, "hidden_size: must be at least 1, given 0"),
        (Network, {"layers": -1}, "layers: must be at least 1, given -1"),
        (Network, {"dropout": 1.0}, "dropout: must be from 0 to below 1, given 1.0"),
        (Network, {"init": "chrono"}, "t_max: init 'chrono' needs .* given None"),
        (Network, {"init": "chrono", "t_max": 2.0}, "t_max: .* above 2, given 2.0"),
        (Network, {"t_max": 9.0}, "t_max: is for init 'chrono', given with init 'torch'"),
        (TextData, {"path": "x", "length": 0}, "length: must be at least 1, given 0"),
        (TextData, {"path": "x", "characters": 0}, "characters: must be at least 1, given 0"),
        (TextData, {"path": "x", "validation": 0.0}, "validation: must be between 0 and 1, given 0.0"),
        (SeriesData, {"path": "x", "test": 1.0}, "test: must be between 0 and 1, given 1.0"),
        (SeriesData, {"path": "x", "test": float("nan")}, "test: must be between 0 and 1, given nan"),
        (SeriesData, {"path": "x", "validation": 0.5, "test": 0.4}, "0.5 and 0.4 leave too little to train on"),
        (SeriesData, {"path": "x", "horizon": 0}, "horizon: must be at least 1, given 0"),
        (SeriesData, {"path": "x", "window": 12, "season": 24}, "season: must be from 1 to window=12, given 24"),
        (Budget, {"steps": 0}, "steps: must be above 0, given 0"),
        (Budget, {"learning_rate": float("inf")}, "learning_rate: must be above 0, given inf"),
        (Budget, {"patience": 0}, "patience: must be above 0 or None, given 0"),
        (Budget, {"warmup": -1}, "warmup: must be 0 or more, given -1"),
        (Budget, {"schedule": "stairs"}, "schedule: given 'stairs', expected one of constant, linear, cosine"),
    ],
)
def test_option_out_of_range_is_named_with_what_was_given(part: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        part(**options)


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored.pop("budget"),
        lambda stored: stored.update(kind="speech"),
        lambda stored: stored["network"].update(depth=3),
        lambda stored: stored.update(data=None),
        lambda stored: stored["data"].pop("path"),
        lambda stored: stored["budget"].update(steps="many"),
    ],
)
def test_what_is_no_job_is_said_to_be_none(change: Any) -> None:
    stored = preset("text", "base", "x").as_json()
    change(stored)
    with pytest.raises(ValueError, match="is not what a training was asked for"):
        Job.from_json(stored)
