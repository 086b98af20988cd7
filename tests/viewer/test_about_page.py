"""What a page is told of a recording: its layers, their colours, its labels, and what is usual for a unit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from planted_traces import random

pytest.importorskip("bokeh")

from unrolled.views import about

NAMES = ["m.l0.hidden", "m.l0.cell", "m.l0.input_gate", "m.l1.hidden"]


def test_cell_comes_first_then_hidden_then_gates_as_recorded() -> None:
    samples = {name: random(0, 9, 3) for name in NAMES}
    first, second = about.layers(samples)
    assert (first["name"], first["title"], first["units"]) == ("m.l0", "m.l0", 3)
    assert [state["state"] for state in first["states"]] == ["cell", "hidden", "input_gate"]
    assert about.remembering(first) == "m.l0.cell"
    assert about.remembering(second) == "m.l1.hidden"


def test_state_is_shown_in_its_own_colours() -> None:
    samples = {
        "l0.hidden": random(0, 9, 3) / 9,
        "l0.cell": 40 * np.ones((9, 3), np.float32),
        "l0.forget_gate": random(0, 9, 3),
    }
    (layer,) = about.layers(samples)
    shown = {state["state"]: (state["palette"], state["bottom"], state["top"]) for state in layer["states"]}
    assert shown["hidden"] == ("diverging", -1, 1)
    assert shown["forget_gate"] == ("sequential", 0, 1)
    assert shown["cell"] == ("diverging", -40, 40)


def test_projected_state_is_a_layer_of_its_own_with_its_own_units() -> None:
    samples = {"l0.cell": random(0, 9, 5), "l0.hidden": random(0, 9, 2), "l0.output_gate": random(0, 9, 5)}
    found = about.layers(samples)
    assert [(layer["name"], layer["units"]) for layer in found] == [("l0 (cell, output_gate)", 5), ("l0 (hidden)", 2)]
    assert found[0]["title"] == found[0]["name"]


def test_bare_cell_has_a_title_though_it_has_no_name() -> None:
    (layer,) = about.layers({"hidden": random(0, 9, 2)})
    assert (layer["name"], layer["title"]) == ("", "the cell")
    split = about.layers({"hidden": random(0, 9, 2), "cell": random(0, 9, 3)})
    assert len({one["name"] for one in split}) == 2


@pytest.mark.parametrize(
    ("values", "names", "band", "binary", "most"),
    [
        ([0, 0, 1, 1, 1, 0], None, True, True, 1),
        ([0, 1, 2, 3, 4, 5], None, False, False, 5),
        ([2, 2, 2, 3, 3, 3], None, True, False, 3),
        ([1, 1, 1, 1, 1, 1], ("a", "b"), False, False, 1),
        ([0, 0, 0, 1, 1, 1], ("a", "b"), True, False, 1),
        ([-1, -1, -1, -1, -1, -1], None, True, True, 0),
    ],
    ids=str,
)
def test_label_that_holds_for_some_steps_is_a_band(
    values: list[int], names: tuple[str, ...] | None, band: bool, binary: bool, most: int
) -> None:
    found = about.label("x", np.array([values], np.int64), names)
    assert (found["band"], found["binary"], found["most"]) == (band, binary, most)
    assert found["names"] == (None if names is None else list(names))


def test_followed_is_json_whatever_the_values() -> None:
    state = random(0, 40, 5)
    state[3, 0], state[4, 1], state[5, 2], state[:, 3] = np.nan, np.inf, -np.inf, 7
    labels = {
        "yes": np.arange(40) % 2,
        "number": np.arange(40) % 5,
        "still": np.ones(40, int),
        "none": -np.ones(40, int),
    }
    found = about.followed(state, labels)
    assert json.dumps(found, allow_nan=False)
    assert found["labels"].keys() == {"yes", "number"}
    assert found["labels"]["yes"]["best"] in (1, 2, 4)
    assert found["labels"]["number"]["best"] == 4
    assert found["memory"][:4] == [None] * 4


def test_one_step_is_followed_by_nothing() -> None:
    found = about.followed(np.ones((1, 2), np.float32), {"yes": np.array([1])})
    assert found == {"steps": 1, "memory": [None, None], "labels": {}}


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64]),
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=7),
        elements=st.floats(width=32),
    )
)
def test_usual_is_the_median_of_the_finite_values(values: np.ndarray) -> None:
    found = about.usual(values)
    assert found.dtype == np.float32
    for unit, usual in enumerate(found):
        column = values[:, unit]
        there = column[np.isfinite(column)].astype(np.float64)
        expected = np.float32(np.median(there)) if len(there) else 0
        np.testing.assert_allclose(usual, expected, rtol=1e-6)


def test_usual_of_double_precision_is_a_single_number() -> None:
    assert np.isfinite(about.usual(np.full((3, 2), [1e300, -1e300]))).all()


def test_figures_for_json_know_no_nan() -> None:
    assert about.rounded(np.array([1.23456, np.nan, np.inf, -0.0])) == [1.2346, None, None, 0.0]
