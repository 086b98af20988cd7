"""A recording written to disk as the model is called is the one kept in memory, without its memory."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from torch import Tensor, nn

import unrolled
from by_hand import GATES, KINDS, B, H, I, Loop, T, inputs, layer
from stored_traces import bare, halves, opened, packed, recorded, same
from unrolled.recording import Appending, UnfinishedRecording, layout


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", KINDS)
def test_recording_written_as_the_model_is_called_is_the_one_kept_in_memory(kind: str, tmp_path: Path) -> None:
    model, calls = layer(kind, num_layers=2, bidirectional=True), [inputs(B, steps, I) for steps in (1, 5, 2, 7, 3)]
    written = recorded(model, *calls, to=tmp_path / "run.zarr")
    same(written, recorded(model, *calls))
    same(unrolled.Trace.load(tmp_path / "run.zarr"), written)


@pytest.mark.parametrize("proj_size", [0, 2])
def test_recording_of_packed_and_padded_calls_keeps_lengths_and_order(proj_size: int, tmp_path: Path) -> None:
    model, states = layer(proj_size=proj_size), (inputs(1, B, proj_size or H), inputs(1, B, H))
    calls = [(packed(inputs()), states), inputs(), packed(inputs())]
    expected = recorded(model, *calls)
    same(recorded(model, *calls, to=tmp_path / "run.zarr"), expected)
    with xarray.open_datatree(tmp_path / "run.zarr", engine="zarr", consolidated=False) as opened:
        xarray.testing.assert_identical(bare(opened), expected.to_xarray())


@pytest.mark.usefixtures("small_chunks")
def test_recording_keeps_resets_and_initial_states(tmp_path: Path) -> None:
    model, x, reset = unrolled.GRU(I, H, batch_first=True), torch.randn(B, T, I), torch.rand(B, T) < 0.5
    traces = []
    for to in (None, tmp_path / "run.zarr"):
        with unrolled.record(model, to=to) as trace:
            model(x, torch.ones(1, B, H))
            model(x, reset=reset)
        traces.append(trace)
    assert traces[0].initial["l0.hidden"].all()
    same(traces[1], traces[0])


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_recording_in_halves_gives_halves_back(dtype: torch.dtype, tmp_path: Path) -> None:
    call, names = opened(dtype), frozenset({"hidden"})
    with Appending(tmp_path / "run.zarr", ["l0.hidden"]) as written:
        written.add("l0.", call, names)
    found = unrolled.Trace.load(tmp_path / "run.zarr")
    assert found["l0.hidden"].dtype is found.initial["l0.hidden"].dtype is dtype
    assert torch.equal(found["l0.hidden"], call.steps["hidden"].values.transpose(0, 1))


def test_layers_in_halves_are_recorded_as_in_memory(tmp_path: Path) -> None:
    model, x = nn.LSTM(I, H, batch_first=True, dtype=torch.bfloat16), torch.randn(B, T, I, dtype=torch.bfloat16)
    same(recorded(model, x, to=tmp_path / "run.zarr"), recorded(model, x))


def test_bfloat16_which_numpy_lacks_is_float32_in_xarray() -> None:
    trace = halves(torch.bfloat16)
    node = trace.to_xarray()["l0"]
    assert node["hidden"].dtype == np.float32
    assert np.array_equal(node["hidden"].values, trace["l0.hidden"].float().numpy())


def test_recording_of_a_users_loop_over_a_cell_is_joined_along_time(tmp_path: Path) -> None:
    model, x = Loop(), inputs()
    same(recorded(model, x, to=tmp_path / "run.zarr"), recorded(model, x))


def test_recording_of_only_some_names_holds_those(tmp_path: Path) -> None:
    model, x = layer(num_layers=2), inputs()
    written = recorded(model, x, names="l1.cell", to=tmp_path / "run.zarr")
    assert list(written) == ["l1.cell"]
    same(written, recorded(model, x, names="l1.cell"))


def test_recording_in_inference_mode_and_out_of_it_is_one(tmp_path: Path) -> None:
    model, x = layer(), inputs()
    with unrolled.record(model, to=tmp_path / "run.zarr") as trace:
        with torch.inference_mode():
            model(x)
        model(x)
    same(trace, recorded(model, x, x))


def test_layers_that_were_not_called_are_told_as_in_a_live_trace(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": layer(), "b": layer("GRU")})
    with unrolled.record(model, to=tmp_path / "run.zarr") as trace:
        model["a"](inputs())
    with pytest.raises(KeyError, match=r"'b\.l0\.hidden' was not recorded: its layer was not called"):
        trace["b.l0.hidden"]
    assert list(unrolled.Trace.load(tmp_path / "run.zarr")) == [f"a.l0.{name}" for name in GATES["LSTM"]]


def test_a_trace_that_is_being_written_tells_what_it_has_and_is_read_afterwards(tmp_path: Path) -> None:
    model = layer()
    with unrolled.record(model, to=tmp_path / "run.zarr") as trace:
        assert repr(trace) == "Trace of nothing yet"
        model(inputs())
        model(inputs())
        assert "l0.cell: (3, 10, 4)" in repr(trace)
        assert "l0.cell" in trace
        for read in (
            lambda: trace["l0.cell"],
            lambda: trace.lengths("l0.cell"),
            lambda: trace.resets("l0.cell"),
            lambda: trace.initial,
            trace.to_xarray,
            lambda: trace.save(tmp_path / "other.zarr"),
        ):
            with pytest.raises(ValueError, match=r"run\.zarr is being written; read it after the context"):
                read()
        with pytest.raises(UnfinishedRecording):
            unrolled.Trace.load(tmp_path / "run.zarr")
    assert trace["l0.cell"].shape == (B, 2 * T, H)


def test_memory_does_not_grow_with_a_recording_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 64 * 1024)
    model, x, call_bytes = nn.LSTM(8, 64), torch.randn(16, 8, 8), 6 * 16 * 8 * 64 * 4

    def growth(**options: Any) -> int:
        """Bytes in use after 120 calls that were not after 40."""
        found = []
        with torch.no_grad(), unrolled.record(model, detach=True, **options):
            for _ in range(3):
                for _ in range(40):
                    model(x)
                gc.collect()
                storages = {}
                for tensor in [item for item in gc.get_objects() if type(item) is Tensor]:
                    # Sparse and wrapped ones, left by other tests, have no memory of their own.
                    with suppress(RuntimeError, NotImplementedError):
                        storages[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
                found.append(tracemalloc.get_traced_memory()[0] + sum(storages.values()))
        return found[-1] - found[0]

    tracemalloc.start()
    try:
        written = growth(to=tmp_path / "run.zarr")
        kept = growth()
    finally:
        tracemalloc.stop()
    assert kept > 80 * call_bytes / 2
    assert written < call_bytes
