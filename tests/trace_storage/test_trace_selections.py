"""A selection of a trace is that part of it, live or loaded, and reads no more of it from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from torch import Tensor

import unrolled
from by_hand import GATES, B, I, T, inputs, layer
from stored_traces import bare_cell, packed, recorded, resetting, same

# Selections


def live(tmp_path: Path) -> unrolled.Trace:
    return recorded(layer(num_layers=2), packed(inputs()), inputs())


def loaded(tmp_path: Path) -> unrolled.Trace:
    return unrolled.Trace.load(live(tmp_path).save(tmp_path / "run.zarr"))


@pytest.fixture(params=[live, loaded])
def whole(request: pytest.FixtureRequest, tmp_path: Path, small_chunks: None) -> Iterator[unrolled.Trace]:
    return request.param(tmp_path)


CHOICES: list[tuple[Any, list[int]]] = [
    (2, [2]),
    (-1, [-1]),
    (np.int64(1), [1]),
    (slice(None), slice(None)),  # type: ignore[list-item]
    (slice(1, None), slice(1, None)),  # type: ignore[list-item]
    (slice(0, 100, 2), slice(0, 100, 2)),  # type: ignore[list-item]
    (slice(None, None, -1), [2, 1, 0]),
    (range(2), [0, 1]),
    (range(2, -1, -1), [2, 1, 0]),
    ([0, 2], [0, 2]),
    ((2, -3, 2), [2, 0, 2]),
    (np.array([1, 0]), [1, 0]),
    (torch.tensor([1, 0]), [1, 0]),
    (torch.tensor(1), [1]),
]


@pytest.mark.parametrize(("choice", "numbers"), CHOICES)
def test_sequences_steps_and_units_are_chosen_by_every_kind_of_number(
    whole: unrolled.Trace, choice: Any, numbers: Any
) -> None:
    whole = whole.select(steps=slice(3), units=slice(3))
    for axis, argument in enumerate(["sequences", "steps", "units"]):
        part = whole.select(**{argument: choice})
        for name in whole:
            expected = whole[name][(*(slice(None),) * axis, numbers)]
            assert torch.equal(part[name], expected)
            assert part[name].dim() == 3


def test_choices_along_all_dimensions_apply_together(whole: unrolled.Trace) -> None:
    part = whole.select("l1.*", sequences=[2, 0], steps=[7, 1, 3], units=[3, 3, 0])
    for name in part:
        assert torch.equal(part[name], whole[name][[2, 0]][:, [7, 1, 3]][:, :, [3, 3, 0]])
        assert repr(part).count("(2, 3, 3)") == len(part)


def test_a_selection_of_a_selection_counts_within_it(whole: unrolled.Trace) -> None:
    part = whole.select(steps=range(1, 9, 2), units=[3, 1]).select(
        steps=[-1, 0], units=1, sequences=slice(None, None, 2)
    )
    assert torch.equal(part["l0.cell"], whole["l0.cell"][::2, [7, 1]][..., [1]])
    node = part.to_xarray()["l0"]
    assert node["step"].values.tolist() == [7, 1]
    assert node["unit"].values.tolist() == [1]
    assert node["sequence"].values.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"names": "*.cell"}, ["l0.cell", "l1.cell"]),
        ({"names": ["l1.hidden", "l0.c*l"]}, ["l0.cell", "l1.hidden"]),
        ({"layers": "l1"}, [f"l1.{name}" for name in GATES["LSTM"]]),
        ({"names": "*_gate", "layers": ["*0"]}, ["l0.input_gate", "l0.forget_gate", "l0.output_gate"]),
    ],
)
def test_names_and_layers_are_chosen_by_patterns(
    whole: unrolled.Trace, arguments: dict[str, Any], expected: list[str]
) -> None:
    part = whole.select(**arguments)
    assert list(part) == expected
    assert len(part) == len(expected)
    assert torch.equal(part[expected[0]], whole[expected[0]])
    with pytest.raises(KeyError, match="is not in this trace; it has"):
        part["l9.cell"]


def test_the_layer_of_a_bare_cell_has_an_empty_name() -> None:
    trace = bare_cell()
    assert list(trace.select("cell", layers="")) == ["cell"]
    assert list(trace.select(layers="*")) == GATES["LSTM"]


def test_initial_states_of_a_selection_are_those_of_its_names_sequences_and_units(whole: unrolled.Trace) -> None:
    part = whole.select(["l0.cell", "l1.*_gate"], sequences=[2, 1], steps=3, units=[0, 3])
    assert list(part.initial) == ["l0.cell"]
    assert torch.equal(part.initial["l0.cell"], whole.initial["l0.cell"][[2, 1]][:, [0, 3]])
    assert list(whole.select(layers="l1").initial) == ["l1.hidden", "l1.cell"]


def test_lengths_of_a_selection_count_its_steps(whole: unrolled.Trace) -> None:
    # Five packed steps of lengths 2, 5, 3, then five steps of all.
    assert whole.lengths("l0.cell").tolist() == [7, 10, 8]
    assert whole.select(steps=range(2, 7)).lengths("l1.hidden").tolist() == [2, 5, 3]
    assert whole.select(steps=[4, 0], sequences=[1, 0]).lengths("l0.cell").tolist() == [2, 1]


def test_resets_of_a_selection_are_those_of_its_sequences_and_steps() -> None:
    trace = resetting()
    resets = trace.resets("l0.cell")
    part = trace.select(sequences=[2, 0], steps=slice(1, 4), units=0)
    assert torch.equal(part.resets("l0.cell"), resets[[2, 0], 1:4])


def test_a_selection_is_saved_and_turned_into_xarray_with_the_numbers_of_the_whole(
    whole: unrolled.Trace, tmp_path: Path
) -> None:
    part = whole.select(["*.hidden", "*.cell"], sequences=[2, 0], steps=slice(2, None, 3), units=[3, 1])
    again = unrolled.Trace.load(part.save(tmp_path / "part.zarr"))
    same(again, part)
    xarray.testing.assert_identical(again.to_xarray(), part.to_xarray())
    node = again.to_xarray()["l1"]
    assert node["sequence"].values.tolist() == [2, 0]
    assert node["step"].values.tolist() == [2, 5, 8]
    assert node["unit"].values.tolist() == [3, 1]
    label = {"sequence": 2, "step": 5, "unit": 1}
    assert node["cell"].sel(label).item() == whole["l1.cell"][2, 5, 1].item()
    assert again.select(steps=-1).to_xarray()["l0"]["step"].values.tolist() == [8]


def test_a_selection_of_a_live_trace_is_in_the_graph_and_keeps_its_steps() -> None:
    model = layer(num_layers=2)
    with unrolled.record(model) as trace:
        output, _ = model(inputs())
    part = trace.select("l0.cell", sequences=[2, 0], steps=slice(1, None, 2), units=[3, 0])
    loss = output.square().sum()
    (whole,) = torch.autograd.grad(loss, trace["l0.cell"], retain_graph=True)
    (found,) = torch.autograd.grad(loss, part["l0.cell"], retain_graph=True)
    assert torch.equal(found, whole[[2, 0]][:, 1::2][..., [3, 0]])
    assert found.any()
    part["l0.cell"].sum().backward()
    assert model.weight_ih_l0.grad.any()


def test_a_selection_first_read_without_gradients_is_in_the_graph_all_the_same() -> None:
    model = layer()
    with unrolled.record(model) as trace:
        output, _ = model(inputs())
    with torch.no_grad():
        part = trace.select(steps=[3])["l0.cell"]
    (found,) = torch.autograd.grad(output.sum(), part, retain_graph=True)
    (whole,) = torch.autograd.grad(output.sum(), trace["l0.cell"])
    assert torch.equal(found, whole[:, [3]])


def test_a_selection_of_a_detached_trace_holds_plain_tensors() -> None:
    part = recorded(layer(), inputs(), detach=True).select(steps=1)
    assert type(part["l0.cell"]) is Tensor
    assert not part["l0.cell"].requires_grad


def chunk_files(path: Path) -> set[Path]:
    return {file for file in path.rglob("*") if file.is_file() and "c" in file.relative_to(path).parts[:-1]}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ({"sequences": 1}, {"c/1/0/0", "c/1/1/0", "c/1/2/0", "c/1/3/0"}),
        ({"steps": range(3, 6)}, {"c/0/1/0", "c/1/1/0", "c/2/1/0"}),
        ({"sequences": [0, 2], "steps": [0, 10], "units": [1]}, {"c/0/0/0", "c/0/3/0", "c/2/0/0", "c/2/3/0"}),
        ({"sequences": [2], "steps": slice(-1, None)}, {"c/2/3/0"}),
    ],
)
def test_reading_a_selection_touches_only_its_chunks(choice: dict[str, Any], kept: set[str], tmp_path: Path) -> None:
    model, calls = layer(), [inputs(B, 4, I) for _ in range(3)]
    trace, path = recorded(model, *calls), tmp_path / "run.zarr"
    recorded(model, *calls, to=path)
    for file in chunk_files(path):
        state = file.relative_to(path).parts[1]
        if state in GATES["LSTM"] and not (state == "cell" and file.relative_to(path / "l0/cell").as_posix() in kept):
            file.unlink()
    part = unrolled.Trace.load(path).select(**choice)
    assert torch.equal(part["l0.cell"], trace.select(**choice)["l0.cell"])
    with pytest.raises(ValueError, match=r"'l0\.hidden' cannot be read \(a part of hidden, .* is missing\)"):
        part["l0.hidden"]
    with pytest.raises(ValueError, match="is damaged"):
        unrolled.Trace.load(path)["l0.cell"]


def test_loading_selecting_and_describing_read_no_values(tmp_path: Path) -> None:
    trace = recorded(layer(), packed(inputs()))
    path = trace.save(tmp_path / "run.zarr")
    for file in chunk_files(path):
        file.unlink()
    loaded = unrolled.Trace.load(path)
    part = loaded.select("*.cell", steps=slice(1, 3))
    assert list(part) == ["l0.cell"]
    assert "l0.cell: (3, 2, 4)" in repr(part)
    assert repr(loaded) == repr(trace)
    with pytest.raises(ValueError, match="is damaged"):
        part["l0.cell"]


def test_every_read_of_a_loaded_trace_is_a_tensor_of_its_own(tmp_path: Path) -> None:
    trace = recorded(layer(), inputs())
    loaded = unrolled.Trace.load(trace.save(tmp_path / "run.zarr"))
    loaded["l0.cell"].zero_()
    assert torch.equal(loaded["l0.cell"], trace["l0.cell"])


# Selections that are refused


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"names": "*.cells"},
            ValueError,
            r"select: names='\*\.cells' matches nothing in the trace; it has l0\.hidden",
        ),
        ({"names": ["*", "x"]}, ValueError, r"select: names='x' matches nothing"),
        ({"layers": "l2"}, ValueError, r"select: layers='l2' matches nothing in the trace; it has l0, l1$"),
        ({"names": []}, ValueError, r"select: no name is matched by names=\[\] in layers=None"),
        ({"names": "l0.*", "layers": "l1"}, ValueError, r"no name is matched by names='l0\.\*' in layers='l1'"),
        ({"steps": 10}, IndexError, r"select: steps: 10 is out of range for 'l0\.hidden', which has 10 steps \(0 to 9"),
        ({"steps": -11}, IndexError, r"-11 is out of range .* or -10 to -1 from the end\)"),
        ({"sequences": [0, 3]}, IndexError, r"select: sequences: 3 is out of range .* which has 3 sequences"),
        ({"units": range(5)}, IndexError, r"select: units: 4 is out of range .* which has 4 units"),
        (
            {"steps": slice(10, None)},
            ValueError,
            r"select: steps=slice\(10, None, None\) selects nothing of 'l0\.hidden'",
        ),
        ({"units": []}, ValueError, r"select: units=\[\] selects nothing"),
        ({"steps": "1"}, TypeError, r"steps must be an int, a slice, a range or a sequence of ints, given '1' \(str\)"),
        ({"steps": 1.0}, TypeError, r"given 1\.0 \(float\)"),
        ({"steps": True}, TypeError, r"given True \(bool\)"),
        ({"units": [True, False]}, TypeError, r"given \[True, False\] \(list\)"),
        ({"units": torch.ones(4, dtype=torch.bool)}, TypeError, r"\(Tensor\)"),
        ({"sequences": [[0]]}, TypeError, r"given \[\[0\]\] \(list\)"),
    ],
)
def test_a_selection_that_cannot_be_made_says_why(
    whole: unrolled.Trace, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        whole.select(**arguments)


def test_units_that_only_some_of_the_names_have_are_refused_with_the_name() -> None:
    trace = recorded(layer(proj_size=2), inputs())
    with pytest.raises(IndexError, match=r"units: 3 is out of range for 'l0\.hidden', which has 2 units"):
        trace.select(units=[0, 3])
    part = trace.select("*.cell", units=[0, 3])
    assert list(part.initial) == ["l0.cell"]
    assert trace.select(units=[-1])["l0.hidden"].shape == trace.select(units=[-1])["l0.cell"].shape
    node = trace.select(units=[-1]).to_xarray()["l0"]
    assert node["output_unit"].values.tolist() == [1]
    assert node["unit"].values.tolist() == [3]


def test_a_selection_keeps_the_initial_states_that_were_not_recorded_unless_units_are_chosen() -> None:
    trace = recorded(layer(proj_size=2), inputs(), names="*.cell")
    assert list(trace.select(steps=0).initial) == ["l0.hidden", "l0.cell"]
    assert list(trace.select(units=3).initial) == ["l0.cell"]


def test_a_selection_of_a_trace_whose_batches_differ_is_refused() -> None:
    trace = recorded(layer(), inputs(2, T, I), inputs(3, T, I))
    with pytest.raises(ValueError, match=r"'l0\.hidden': its layer was called with batches of 2 and of 3"):
        trace.select(steps=0)


def test_a_selection_of_an_empty_trace_is_refused() -> None:
    with pytest.raises(ValueError, match=r"names='\*' matches nothing in the trace; it has nothing"):
        recorded(layer()).select()
