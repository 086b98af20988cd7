"""Traces saved and loaded, and as labelled arrays, are equal to the live ones."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from torch import nn

import unrolled
from by_hand import GATES, LENGTHS, B, H, I, T, inputs, layer
from stored_traces import bare, bare_cell, branches, packed, recorded, same
from unrolled.recording import layout

# Saved and loaded


def test_loaded_trace_is_the_saved_one(trace: unrolled.Trace, tmp_path: Path) -> None:
    assert trace.save(tmp_path / "run.zarr") == tmp_path / "run.zarr"
    same(unrolled.Trace.load(tmp_path / "run.zarr"), trace)


@pytest.mark.usefixtures("small_chunks")
def test_loaded_trace_is_the_saved_one_in_many_chunks(trace: unrolled.Trace, tmp_path: Path) -> None:
    trace.save(str(tmp_path / "run.zarr"))
    same(unrolled.Trace.load(str(tmp_path / "run.zarr")), trace)


def test_repr_of_a_loaded_trace_is_that_of_the_saved_one(tmp_path: Path) -> None:
    trace = recorded(layer(proj_size=2), inputs())
    assert repr(unrolled.Trace.load(trace.save(tmp_path / "run.zarr"))) == repr(trace)


def test_a_loaded_trace_can_be_saved_again(tmp_path: Path) -> None:
    trace = recorded(layer(), packed(inputs()))
    loaded = unrolled.Trace.load(trace.save(tmp_path / "first.zarr"))
    same(unrolled.Trace.load(loaded.save(tmp_path / "second.zarr")), trace)


def test_values_that_are_zero_or_not_finite_come_back_as_they_were(tmp_path: Path) -> None:
    model = nn.LSTM(I, H, batch_first=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    trace = recorded(model, torch.zeros(B, T, I), torch.full((B, T, I), torch.nan))
    loaded = unrolled.Trace.load(trace.save(tmp_path / "run.zarr"))
    assert not loaded["l0.cell"][:, :T].any()
    assert loaded["l0.cell"][:, T:].isnan().all()
    assert torch.equal(loaded["l0.input_gate"].nan_to_num(7), trace["l0.input_gate"].detach().nan_to_num(7))


def test_a_loaded_trace_answers_for_names_as_a_live_one(tmp_path: Path) -> None:
    loaded = unrolled.Trace.load(recorded(layer("GRU"), inputs()).save(tmp_path / "run.zarr"))
    with pytest.raises(KeyError, match=r"'l0\.cell' is not in this trace; it has l0\.hidden, l0\.reset_gate"):
        loaded["l0.cell"]
    assert "l0.hidden" in loaded
    assert "l0.cell" not in loaded


def test_saving_over_something_is_refused_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run.zarr").write_text("mine")
    trace = recorded(layer(), inputs())
    with pytest.raises(FileExistsError, match=r"run\.zarr exists already and is left as it is; choose another path"):
        trace.save(tmp_path / "run.zarr")
    with (
        pytest.raises(FileExistsError, match="exists already"),
        unrolled.record(layer(), to=tmp_path / "run.zarr"),
    ):
        pass
    assert (tmp_path / "run.zarr").read_text() == "mine"
    assert os.listdir(tmp_path) == ["run.zarr"]


def test_batches_of_different_sizes_cannot_be_saved_and_leave_no_file(tmp_path: Path) -> None:
    trace = recorded(layer(), inputs(2, T, I), inputs(3, T, I))
    with pytest.raises(ValueError, match=r"'l0\.hidden': its layer was called with batches of 2 and of 3"):
        trace.save(tmp_path / "run.zarr")
    with pytest.raises(ValueError, match="batches of 2 and of 3"):
        trace.to_xarray()
    assert os.listdir(tmp_path) == []


def test_chunks_are_of_a_few_mebibytes_and_cut_long_recordings_along_sequences_and_steps() -> None:
    for batch, steps, step_bytes in [(64, 100_000, 512), (64, None, 512), (3, 10**6, 4096), (1, None, 512)]:
        sequences, length = layout.chunk_shape(batch, steps, step_bytes)
        assert 2**21 <= sequences * length * step_bytes <= 2**22
        assert sequences <= max(1, batch / 3)
        assert length < 10**6
    assert layout.chunk_shape(64, 100, 512) == (64, 100)
    assert layout.chunk_shape(10_000, 2, 512) == (4096, 2)
    assert layout.chunk_shape(2, None, 2**23) == (1, 1)


# As xarray


def test_tree_holds_the_values_by_layer_and_dimension() -> None:
    trace = recorded(layer(num_layers=2, bidirectional=True), inputs())
    tree = trace.to_xarray()
    assert list(tree.children) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    node = tree["l1_reverse"]
    assert set(node.data_vars) == {*GATES["LSTM"], "initial_hidden", "initial_cell"}
    for state in GATES["LSTM"]:
        assert node[state].dims == ("sequence", "step", "unit")
        assert np.array_equal(node[state].values, trace[f"l1_reverse.{state}"].detach().numpy())
    assert node["initial_cell"].dims == ("sequence", "unit")
    for dimension, size in (("sequence", B), ("step", T), ("unit", H)):
        assert node[dimension].values.tolist() == list(range(size))


def test_tree_of_a_bare_cell_is_its_root() -> None:
    tree = bare_cell().to_xarray()
    assert not tree.children
    assert tree["cell"].sizes == {"sequence": B, "step": 2, "unit": H}


def test_tree_names_layers_as_the_trace_does() -> None:
    model = nn.ModuleDict({"encoder": nn.ModuleDict({"lstm": layer()})})
    with unrolled.record(model) as trace:
        model["encoder"]["lstm"](inputs())
    assert list(trace.to_xarray().children) == ["encoder.lstm.l0"]
    # To xarray and zarr a slash would be a level of the tree.
    assert list(branches().to_xarray().children) == ["en%2Fcoder.lstm.l0", "decoder.cell"]


@pytest.mark.parametrize("names", ["*", "*.hidden"])
def test_units_of_a_projected_hidden_state_are_a_dimension_of_their_own(names: str) -> None:
    node = recorded(layer(proj_size=2), inputs(), names=names).to_xarray()["l0"]
    assert node["hidden"].sizes == {"sequence": B, "step": T, "output_unit": 2}
    assert node["initial_hidden"].sizes == {"sequence": B, "output_unit": 2}
    assert node["initial_cell"].sizes == {"sequence": B, "unit": H}


def test_tree_tells_lengths_and_resets_where_there_are_any() -> None:
    model, reset = unrolled.LSTM(I, H, batch_first=True), torch.rand(B, T) < 0.5
    node = recorded(layer(), packed(inputs())).to_xarray()["l0"]
    assert node["lengths"].dims == ("sequence",)
    assert node["lengths"].values.tolist() == LENGTHS.tolist()
    assert node["taken"].values.tolist() == (torch.arange(T) < LENGTHS.unsqueeze(1)).tolist()
    assert "reset" not in node
    with unrolled.record(model) as trace:
        model(torch.randn(B, T, I), reset=reset)
    node = trace.to_xarray()["l0"]
    assert node["reset"].dims == ("sequence", "step")
    assert np.array_equal(node["reset"].values, reset.numpy())
    assert "lengths" not in node


def test_xarray_opens_a_saved_trace_as_the_tree_that_the_trace_gives(trace: unrolled.Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "run.zarr")
    tree = trace.to_xarray()
    with xarray.open_datatree(tmp_path / "run.zarr", engine="zarr", consolidated=False) as opened:
        xarray.testing.assert_identical(bare(opened), tree)
        assert opened.attrs["complete"] is True
    xarray.testing.assert_identical(unrolled.Trace.load(tmp_path / "run.zarr").to_xarray(), tree)


# What is not installed, and what is not imported


@pytest.mark.parametrize(
    ("missing", "use"),
    [
        ("zarr", lambda trace, path: trace.save(path)),
        ("zarr", lambda trace, path: unrolled.Trace.load(path)),
        ("zarr", lambda trace, path: recorded(layer(), to=path)),
        ("xarray", lambda trace, path: trace.to_xarray()),
    ],
)
def test_a_missing_extra_is_told_with_the_command_that_installs_it(
    missing: str, use: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = recorded(layer(), inputs())
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        use(trace, tmp_path / "run.zarr")
    assert f"needs {missing}, which is not installed: pip install 'unrolled[trace]'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recording_in_memory_imports_neither_zarr_nor_xarray() -> None:
    code = textwrap.dedent(
        """
        import sys, torch, unrolled

        model = torch.nn.GRU(2, 3)
        with unrolled.record(model) as trace:
            model(torch.zeros(4, 1, 2))
        trace.select(steps=0)["l0.hidden"]
        print({"zarr", "xarray"} & set(sys.modules))
        """
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
