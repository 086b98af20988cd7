"""What holds for every instrument that is given a model, whatever it measures."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bokeh.embed import file_html
from bokeh.models.ui.ui_element import UIElement
from torch import Tensor, nn

import unrolled
from networks import BATCH, Headed, Loop, forced_lstm, inputs_of, unchanged
from unrolled.instruments import (
    Result,
    decompose_cell,
    fixed_points,
    gate_openness,
    gradient_flow,
    jacobian,
    lyapunov,
    push_response,
    saturation,
    timescales,
)

LENGTH = 14
Measure = Callable[..., Result]


def last(output: Any) -> Tensor:
    """The loss of any of these models."""
    return output[0][:, -1].sum(-1) if isinstance(output, tuple) else output


def constant(model: nn.Module, x: Tensor, **options: Any) -> Result:
    return fixed_points(model, x, torch.zeros(2), starts=20, **options)


INSTRUMENTS: dict[str, Measure] = {
    "gradient_flow": lambda model, x, **options: gradient_flow(model, x, last, **options),
    "jacobian": jacobian,
    "lyapunov": lyapunov,
    "timescales": timescales,
    "saturation": saturation,
    "decompose_cell": decompose_cell,
    "push_response": lambda model, x, **options: push_response(model, x, state="hidden", at=4, **options),
    "fixed_points": constant,
}
every_instrument = pytest.mark.parametrize("measure", INSTRUMENTS.values(), ids=INSTRUMENTS)
# Those in which a unit's figures are followed from step to step.
FOLLOWING = ["gradient_flow", "jacobian", "lyapunov", "decompose_cell", "push_response"]


class Stacked(nn.Module):
    """torch.nn's own layers of two kinds, one after the other, in a model with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.GRU(2, 2, num_layers=2, batch_first=True, bidirectional=True, dropout=0.5)
        self.between = nn.Linear(4, 2)
        self.upper = nn.LSTM(2, 4, batch_first=True, proj_size=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(self.between(self.lower(x)[0]))[0][:, -1].sum(-1)


@every_instrument
@pytest.mark.parametrize("layer", ["lower.l0", "lower.l1", "upper.l0", "lower.l0_reverse"])
def test_layer_of_torchs_own_is_measured_where_it_is_named(measure: Measure, layer: str) -> None:
    model = Stacked()
    x = inputs_of(LENGTH).float()
    if layer.endswith("reverse") and measure is INSTRUMENTS["gradient_flow"]:
        with pytest.raises(ValueError, match="layer: 'lower.l0_reverse' reads from the end"):
            measure(model, x, layer=layer)
        return
    if layer == "lower.l1" and measure is INSTRUMENTS["fixed_points"]:
        with pytest.raises(ValueError, match=r"constant: shape \(2,\) does not fit the layer; expected \(4,\)"):
            measure(model, x, layer=layer)
        return
    assert measure(model, x, layer=layer).data.attrs["layer"] == layer


@every_instrument
def test_several_layers_ask_for_the_name_of_one(measure: Measure) -> None:
    with pytest.raises(ValueError, match=r"layer: the model has 5 recurrent layers; expected one of lower\.l0, "):
        measure(Stacked(), inputs_of(LENGTH).float())
    with pytest.raises(ValueError, match=r"layer: 'middle' is not in the model; expected one of lower\.l0, "):
        measure(Stacked(), inputs_of(LENGTH).float(), layer="middle")


@every_instrument
def test_what_is_no_recurrent_model_is_refused(measure: Measure) -> None:
    with pytest.raises(ValueError, match="model: Linear has no recurrent layer"):
        measure(nn.Linear(2, 2), inputs_of(LENGTH))
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module, given int"):
        measure(3, inputs_of(LENGTH))


@every_instrument
@pytest.mark.parametrize("training", [True, False])
def test_model_is_afterwards_what_it_was(measure: Measure, training: bool) -> None:
    model = Stacked().train(training)
    model.lower.eval()  # modules need not agree
    with unchanged(model):
        measure(model, inputs_of(LENGTH).float(), layer="upper.l0")


@every_instrument
def test_model_is_what_it_was_after_a_call_that_failed(measure: Measure) -> None:
    model = Stacked().train()
    with unchanged(model), pytest.raises(RuntimeError):
        measure(model, torch.randn(BATCH, LENGTH, 7), layer="upper.l0")


@every_instrument
def test_measuring_twice_gives_the_same(measure: Measure) -> None:
    model, x = Stacked().train(), inputs_of(LENGTH).float()
    first, second = (measure(model, x, layer="upper.l0") for _ in range(2))
    assert first.data.identical(second.data)


@every_instrument
def test_layer_of_torch_and_the_same_layer_converted_give_the_same(measure: Measure) -> None:
    model, x = Headed("LSTM").double(), inputs_of(LENGTH)
    theirs = measure(model, x)
    ours = measure(unrolled.convert(model), x)
    for name, values in theirs.data.data_vars.items():
        if values.dtype.kind in "fc":
            torch.testing.assert_close(
                torch.from_numpy(ours.data[name].values),
                torch.from_numpy(values.values),
                rtol=1e-6,
                atol=1e-9,
                equal_nan=True,
            )


@every_instrument
def test_model_of_symbols_is_measured(measure: Measure) -> None:
    result = measure(Headed("GRU", symbols=5), torch.randint(5, (BATCH, LENGTH)))
    assert result.data.attrs["layer"] == "encoder.core.l0"


@every_instrument
def test_loop_over_a_cell_is_measured(measure: Measure) -> None:
    assert measure(Loop("LSTM"), inputs_of(LENGTH).float()).data.attrs["layer"] == "cell"


class Resetting(nn.Module):
    """Forgets everything at step 6."""

    def __init__(self) -> None:
        super().__init__()
        self.core = forced_lstm(0.9)

    def forward(self, x: Tensor) -> Tensor:
        reset = torch.zeros(x.shape[:2], dtype=torch.bool)
        reset[:, 6] = True
        return self.core(x, reset=reset)[0][:, -1].sum(-1)


@pytest.mark.parametrize("name", [*FOLLOWING, "fixed_points"])
def test_sequences_that_are_reset_on_the_way_are_refused_where_steps_are_followed(name: str) -> None:
    with pytest.raises(ValueError, match=r"inputs: the sequences of 'core.l0' are of unequal length or are reset"):
        INSTRUMENTS[name](Resetting(), inputs_of(LENGTH))


def results() -> dict[str, Callable[[], Result]]:
    def gate() -> Result:
        marks = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
        marks[:, 3] = True
        return gate_openness(torch.rand(BATCH, LENGTH, 4), marks)

    model = Headed("LSTM")
    return {
        name: lambda measure=measure: measure(model, inputs_of(LENGTH).float()) for name, measure in INSTRUMENTS.items()
    } | {"gate_openness": gate}


@pytest.mark.parametrize("name", results())
def test_result_is_drawn_and_says_what_it_is(name: str) -> None:
    result = results()[name]()
    plot = result.plot()
    assert isinstance(plot, UIElement)
    page = file_html(plot, title=name)
    for panel in result.panels():
        assert panel.title in page
        assert panel.x_label in page
        assert all(curve.label in page for curve in panel.curves)
    assert repr(result) == f"{type(result).__name__}: {result.summary()}"
    assert re.search(r"\d", result.summary())
    assert "\n" not in result.summary()
    assert result.summary().endswith(".")


@pytest.mark.parametrize("name", results())
def test_every_dimension_of_a_result_has_its_coordinate(name: str) -> None:
    data = results()[name]().data
    assert set(data.coords) == set(data.dims)


def test_result_without_xarray_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ModuleNotFoundError, match=r"instruments needs xarray, .* pip install 'unrolled\[study\]'"):
        timescales(unrolled.LSTM(2, 3))


def test_plot_without_bokeh_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    result = timescales(unrolled.LSTM(2, 3))
    monkeypatch.setitem(sys.modules, "unrolled.drawing.standalone", None)
    with pytest.raises(ModuleNotFoundError, match=r"plot needs .* pip install 'unrolled\[view\]'"):
        result.plot()
