"""Every kind of layer and of recording is looked at, and what its units follow is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from looked_at import asked, looking
from planted_traces import planted, random

pytest.importorskip("bokeh")
pytest.importorskip("scipy")

import unrolled
from unrolled.recording import extremes
from unrolled.viewer import looking as module
from unrolled.viewer.asked import Asked
from unrolled.viewer.looking import Looking
from unrolled.viewer.opening.of_trace import of_trace
from unrolled.viewer.recorded import Label
from unrolled.viewer.serving.packing import pack


class TestFollows:
    def test_best_unit_is_the_one_that_follows(self) -> None:
        values = random(0, 1, 400, 6)
        string, depth = np.arange(400) % 20 < 5, np.arange(400) // 50
        values[0, :, 2] -= 4 * string
        values[0, :, 4] += 4 * depth
        labels = (Label("in_string", string[None].astype(np.int64)), Label("depth", depth[None]))
        labels += (Label("still", np.ones((1, 400), np.int64)), Label("none", np.full((1, 400), -1)))
        found = looking(planted(values), [400], labels=labels).follows(Asked({"name": "l0.cell", "sequence": 0}))
        assert found["labels"].keys() == {"in_string", "depth"}
        assert found["labels"]["in_string"]["best"] == 2
        assert found["labels"]["in_string"]["auc"][2] < 0.02
        assert found["labels"]["depth"]["best"] == 4
        assert found["labels"]["depth"]["auc"] is None
        assert (found["steps"], len(found["memory"])) == (400, 6)

    def test_steps_at_which_a_label_is_not_defined_do_not_count(self) -> None:
        truth = np.array([1, 0, 1, 0, -1, -1, -1, -1])
        values = np.float32([[[1], [0], [1], [0], [0], [0], [1], [1]]])
        found = looking(planted(values), [8], labels=(Label("x", truth[None]),)).follows(
            Asked({"name": "l0.cell", "sequence": 0})
        )
        assert found["labels"]["x"] == {"correlation": [1.0], "auc": [1.0], "best": 0}

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_unit_that_is_not_a_number_is_never_the_best(self, value: float) -> None:
        values = random(0, 1, 100, 2)
        truth = np.arange(100) % 2
        values[0, :, 0] = np.where(truth, 5, -5)
        values[0, 3, 0] = value
        found = looking(planted(values), [100], labels=(Label("x", truth[None]),)).follows(
            Asked({"name": "l0.cell", "sequence": 0})
        )
        assert found["memory"][0] is None
        assert found["labels"]["x"]["correlation"][0] is None
        if math.isnan(value):
            assert found["labels"]["x"]["auc"][0] is None
            assert found["labels"]["x"]["best"] == 1
        assert json.dumps(found, allow_nan=False)


def test_follows_and_orders_look_at_the_first_steps_only() -> None:
    steps = module.FOR_ORDERS + 500
    trace = planted(random(0, 1, steps, 2))
    look = looking(trace, [steps])
    assert look.follows(Asked({"name": "l0.cell", "sequence": 0}))["steps"] == module.FOR_ORDERS


def recorded_by(model: torch.nn.Module, inputs: torch.Tensor, **given: Any) -> tuple[Looking, unrolled.Trace]:
    with torch.no_grad(), unrolled.record(model, detach=True) as trace:
        model(inputs, **given)
    return Looking(of_trace(trace)), trace


LAYERS = {
    "rnn": lambda: unrolled.RNN(2, 4, batch_first=True),
    "gru": lambda: unrolled.GRU(2, 4, batch_first=True),
    "lstm": lambda: unrolled.LSTM(2, 4, batch_first=True),
    "one unit": lambda: unrolled.LSTM(2, 1, batch_first=True),
    "bidirectional": lambda: unrolled.LSTM(2, 4, num_layers=2, bidirectional=True, batch_first=True),
    "projected": lambda: unrolled.LSTM(2, 4, proj_size=3, batch_first=True),
    "torch": lambda: torch.nn.GRU(2, 4, num_layers=2, batch_first=True),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_state_of_every_layer_is_shown_as_it_was_recorded(kind: str) -> None:
    look, trace = recorded_by(LAYERS[kind](), torch.randn(2, 9, 2))
    assert sorted(look.names) == sorted(trace)
    for layer in look.about()["layers"]:
        units = layer["units"]
        for state in layer["states"]:
            values = trace[state["name"]].numpy()
            assert values.shape[2] == units
            ask = {"layer": layer["name"], "names": [state["name"]], "last": units, "rows": units}
            for order in module.ORDERS:
                found = look.window(asked(sequence=1, stop=9, **ask, order=order))
                by = look.order(Asked({"layer": layer["name"], "by": order}))
                np.testing.assert_array_equal(found["maps"][state["name"]], values[1].T[by])
            exact = look.exact(asked(start=4, stop=5, layer=layer["name"], units=[units - 1]))
            assert exact["values"][state["state"]] == values[0, 4, units - 1]
    assert pack(look.about())


def test_projected_hidden_state_is_listed_with_its_own_width() -> None:
    look, _ = recorded_by(LAYERS["projected"](), torch.randn(1, 9, 2))
    layers = {layer["name"]: (layer["units"], [s["state"] for s in layer["states"]]) for layer in look.layers}
    assert layers == {
        "l0 (hidden)": (3, ["hidden"]),
        "l0 (cell, input_gate, forget_gate, candidate, output_gate)": (
            4,
            ["cell", "input_gate", "forget_gate", "candidate", "output_gate"],
        ),
    }
    for name, (units, states) in layers.items():
        assert sorted(look.order(Asked({"layer": name, "by": "timescale"}))) == list(range(units))
        with pytest.raises(ValueError, match=f"^last: given 9, expected a whole number from 1 to {units}"):
            look.window(asked(stop=9, layer=name, names=[f"l0.{states[0]}"], last=9))


def test_layers_of_both_directions_have_names_of_their_own() -> None:
    look, _ = recorded_by(LAYERS["bidirectional"](), torch.randn(1, 9, 2))
    assert [layer["name"] for layer in look.layers] == ["l0", "l0_reverse", "l1", "l1_reverse"]
    assert look.layers[0]["states"][0]["state"] == "cell"


def test_bare_cell_is_the_layer_without_a_name() -> None:
    cell = unrolled.LSTMCell(2, 3)
    with torch.no_grad(), unrolled.record(cell, detach=True) as trace:
        state = None
        for _ in range(6):
            state = cell(torch.randn(1, 2), state)
    look = Looking(of_trace(trace))
    assert (look.layers[0]["name"], look.layers[0]["title"]) == ("", "the cell")
    found = look.window(asked(stop=6, layer="", names=["cell", "hidden"], last=3, rows=3))
    for name in ("cell", "hidden"):
        np.testing.assert_array_equal(found["maps"][name], trace[name][0].numpy().T)


def test_live_trace_in_its_graph_is_looked_at() -> None:
    model = unrolled.GRU(2, 3, batch_first=True)
    with unrolled.record(model) as trace:
        model(torch.randn(1, 5, 2))
    assert trace["l0.hidden"].requires_grad
    found = Looking(of_trace(trace)).window(asked(stop=5, names=["l0.hidden"], last=3, rows=3))
    np.testing.assert_array_equal(found["maps"]["l0.hidden"], trace["l0.hidden"][0].detach().numpy().T)


def test_stored_recording_is_shown_as_the_live_one_to_the_end_of_each_sequence(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    model = unrolled.GRU(2, 3, batch_first=True)
    with torch.no_grad(), unrolled.record(model, detach=True) as trace:
        model(torch.randn(2, 3000, 2), lengths=torch.tensor([3000, 1357]))
    trace.save(tmp_path / "t.zarr")
    extremes.build(tmp_path / "t.zarr")
    assert extremes.has_extremes(tmp_path / "t.zarr")
    live, stored = Looking(of_trace(trace)), Looking(of_trace(unrolled.Trace.load(tmp_path / "t.zarr")))
    for sequence, length in enumerate((3000, 1357)):
        for start, columns in ((0, 10), (0, 100), (length - 700, 9), (length - 1, 1)):
            ask = asked(
                sequence=sequence, start=start, stop=length, columns=columns, names=["l0.hidden"], last=3, unit=1
            )
            first, second = live.window(ask), stored.window(ask)
            assert (first["start"], first["span"]) == (second["start"], second["span"])
            np.testing.assert_array_equal(first["maps"]["l0.hidden"], second["maps"]["l0.hidden"])
            lines, part = stored.unit(ask), trace["l0.hidden"][sequence, second["start"] : length, 1]
            assert lines["low"]["l0.hidden"].min() == part.min()
            assert lines["high"]["l0.hidden"].max() == part.max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_shown_in_single(dtype: torch.dtype) -> None:
    values = torch.randn(1, 20, 2).to(dtype)
    look = looking(planted(values), [20])
    image = look.window(asked(last=2, rows=2, columns=20))["maps"]["l0.cell"]
    np.testing.assert_array_equal(image, values[0].float().numpy().T)
