"""A trained run as others use it: a plain module that can be recorded, edited and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import unrolled
from tiny_commands import KINDS
from unrolled.instruments import gradient_flow, saturation, timescales
from unrolled.runs import Run


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_model_is_a_plain_module_that_can_be_recorded_and_edited(kind: str, place: Path) -> None:
    model = unrolled.load(place / kind)
    assert isinstance(model, nn.Module)
    assert not model.training
    size = Run.open(place / kind).shape.input_size
    inputs = torch.randint(0, size, (2, 6)) if kind == "text" else torch.randn(2, 6, size)
    with torch.no_grad():
        before = model(inputs)
        with unrolled.record(model, names=["*.hidden"]) as trace:
            recorded = model(inputs)
        with unrolled.intervene(model, unrolled.Ablate("recurrent.l0.hidden")):
            edited = model(inputs)
    assert list(trace) == ["recurrent.l0.hidden"] + ["recurrent.l0_reverse.hidden"] * (kind == "classify")
    assert torch.equal(recorded, before)
    assert not torch.allclose(edited, before)
    assert torch.equal(model(inputs), before)


def test_three_instruments_take_a_trained_run(place: Path) -> None:
    model = unrolled.load(place / "series")
    inputs = torch.randn(8, 30, Run.open(place / "series").shape.input_size)
    with torch.no_grad(), unrolled.record(model) as trace:
        model(inputs)
    gates = saturation(model, inputs).data
    for name in ("forget_gate", "hidden"):
        expected = trace[f"recurrent.l0.{name}"].mean((0, 1))
        np.testing.assert_allclose(gates["mean"].sel(name=name), expected, rtol=1e-5, atol=1e-6)

    scales = timescales(model, inputs).data
    assert scales.sizes["unit"] == 4

    def loss(answers: Tensor) -> Tensor:
        return answers[:, -1].square().sum(-1)

    flow = gradient_flow(model, inputs, loss, max_lag=10).data
    assert all(np.isfinite(variable).all() for variable in flow.data_vars.values())
    assert flow.attrs["layer"] == "recurrent.l0"


@pytest.mark.parametrize("weights", ["best", "last"])
def test_loaded_weights_are_those_of_the_folder(weights: Any, place: Path) -> None:
    run = Run.open(place / "text")
    expected = load_file(run.weights) if weights == "best" else None
    found = unrolled.load(place / "text", weights=weights).state_dict()
    if expected is not None:
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert set(found) == set(load_file(run.weights))
