"""Traces on disk, as labelled arrays and in part: equal to the live ones, read lazily, never half of one as whole."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
import zarr
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import unrolled
from by_hand import GATES, KINDS, LENGTHS, B, H, I, Loop, T, inputs, layer
from unrolled.calls import Calls
from unrolled.observation import Opened
from unrolled.recording import Appending, UnfinishedRecording, layout
from unrolled.recurrence.result import Steps


def recorded(model: nn.Module, *calls: Any, **options: Any) -> unrolled.Trace:
    with unrolled.record(model, **options) as trace:
        for call in calls:
            model(*call) if type(call) is tuple else model(call)
    return trace


def same(actual: unrolled.Trace, expected: unrolled.Trace) -> None:
    """All that a trace tells is what the other tells, bit for bit, in plain tensors."""
    assert list(actual) == list(expected)
    assert sorted(actual.initial) == sorted(expected.initial)
    pairs = [(actual[name], expected[name]) for name in expected]
    pairs += [(actual.initial[name], value) for name, value in expected.initial.items()]
    for ask in ("lengths", "resets"):
        pairs += [(getattr(actual, ask)(name), getattr(expected, ask)(name)) for name in expected]
    for found, wanted in pairs:
        if wanted is None:
            assert found is None
        else:
            assert type(found) is Tensor
            assert not found.requires_grad
            assert found.dtype == wanted.dtype
            assert torch.equal(found, wanted.detach())


def packed(x: Tensor) -> Any:
    return pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)


def resetting() -> unrolled.Trace:
    model = unrolled.LSTM(I, H, batch_first=True)
    with unrolled.record(model) as trace:
        model(torch.randn(B, T, I), reset=torch.rand(B, T) < 0.5)
        model(torch.randn(B, T, I))
    return trace


def states_given() -> unrolled.Trace:
    return recorded(layer(), (inputs(), (inputs(1, B, H), inputs(1, B, H))))


def opened(dtype: torch.dtype) -> Opened:
    """A call as a layer would show it that computes in this dtype; ours compute halves in single precision."""
    hidden = torch.randn(T, B, H, dtype=dtype)
    return Opened({"hidden": Steps(hidden, (hidden,))}, {"hidden": torch.randn(B, H, dtype=dtype)})


def halves(dtype: torch.dtype) -> unrolled.Trace:
    calls = Calls(["l0.hidden"], detach=True)
    calls.add("l0.", opened(dtype), frozenset({"hidden"}))
    return unrolled.Trace(calls.names, calls)


def branches() -> unrolled.Trace:
    model = nn.ModuleDict({"en/coder": nn.ModuleDict({"lstm": layer()}), "decoder": Loop("GRU")})
    with unrolled.record(model) as trace:
        model["en/coder"]["lstm"](inputs())
        model["decoder"](inputs(B, T + 2, I))
    return trace


def bare_cell() -> unrolled.Trace:
    cell = nn.LSTMCell(I, H)
    return recorded(cell, torch.randn(B, I), torch.randn(B, I))


TRACES: dict[str, Callable[[], unrolled.Trace]] = {
    **{kind: lambda kind=kind: recorded(layer(kind), inputs()) for kind in KINDS},
    "stack in both directions": lambda: recorded(layer(num_layers=2, bidirectional=True), inputs()),
    "projection": lambda: recorded(layer(proj_size=2), inputs()),
    "only the cell of a projection": lambda: recorded(layer(proj_size=2), inputs(), names="*.cell"),
    "only the hidden state of a projection": lambda: recorded(layer(proj_size=2), inputs(), names="*.hidden"),
    "cell in a loop": lambda: recorded(Loop(), inputs()),
    "bare cell": bare_cell,
    "two layers with a slash in a name": branches,
    "packed": lambda: recorded(layer(bidirectional=True), packed(inputs())),
    "packed after padded": lambda: recorded(layer(), inputs(), packed(inputs())),
    "resets": resetting,
    "states given": states_given,
    "float16": lambda: halves(torch.float16),
    "bfloat16": lambda: halves(torch.bfloat16),
    "detached": lambda: recorded(layer(), inputs(), detach=True),
    "no call": lambda: recorded(layer()),
}


@pytest.fixture(params=TRACES)
def trace(request: pytest.FixtureRequest) -> unrolled.Trace:
    return TRACES[request.param]()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one sequence and three steps of H numbers in float64."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 3 * H * 8)


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


def bare(tree: xarray.DataTree) -> xarray.DataTree:
    """A tree without attributes."""
    return tree.map_over_datasets(lambda dataset: dataset.drop_attrs() if dataset.variables else xarray.Dataset())


# Recorded to disk


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


# Cut off


@pytest.mark.usefixtures("small_chunks")
def test_an_exception_leaves_the_recording_unfinished_with_the_steps_before_it(tmp_path: Path) -> None:
    model, x, traces = layer(), inputs(), []
    path = tmp_path / "run.zarr"

    def failing() -> None:
        with unrolled.record(model, to=path) as trace:
            traces.append(trace)
            model(x)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert type(model) is nn.LSTM
    message = r"run\.zarr is an unfinished recording: .* 5 whole steps; Trace\.load\('.*run\.zarr', unfinished=True\)"
    with pytest.raises(UnfinishedRecording, match=message):
        unrolled.Trace.load(path)
    with pytest.raises(UnfinishedRecording, match=message):
        traces[0]["l0.cell"]
    part = unrolled.Trace.load(path, unfinished=True)
    same(part, recorded(model, x))
    xarray.testing.assert_identical(part.to_xarray(), recorded(model, x).to_xarray())


def test_an_unfinished_recording_is_a_value_error() -> None:
    assert issubclass(UnfinishedRecording, ValueError)


def test_a_finished_recording_is_also_read_where_an_unfinished_one_is_allowed(tmp_path: Path) -> None:
    trace = recorded(layer(), inputs())
    same(unrolled.Trace.load(trace.save(tmp_path / "run.zarr"), unfinished=True), trace)


@pytest.mark.parametrize("caught", [False, True])
def test_a_batch_of_another_size_is_refused_at_the_call_and_leaves_the_recording_unfinished(
    caught: bool, tmp_path: Path
) -> None:
    model, path = layer(), tmp_path / "run.zarr"
    message = r"record: l0 was called with a batch of 2 after one of 3, but .*run\.zarr joins calls along time"
    if caught:
        with unrolled.record(model, to=path):
            model(inputs())
            with pytest.raises(ValueError, match=message):
                model(inputs(2, T, I))
    else:
        with pytest.raises(ValueError, match=message):
            recorded(model, inputs(), inputs(2, T, I), to=path)
    with pytest.raises(UnfinishedRecording, match=r"5 whole steps"):
        unrolled.Trace.load(path)
    assert unrolled.Trace.load(path, unfinished=True)["l0.cell"].shape == (B, T, H)


def test_a_call_in_another_dtype_is_refused_at_the_call(tmp_path: Path) -> None:
    cell = nn.GRUCell(I, H)
    message = r"record: the cell was called with a dtype of torch\.float64 after one of torch\.float32"
    with unrolled.record(cell, to=tmp_path / "run.zarr"):
        cell(torch.zeros(B, I))
        with pytest.raises(ValueError, match=message):
            cell.double()(torch.zeros(B, I, dtype=torch.float64))


class Killed(OSError):
    """Stands for the end of the process: nothing is written from here on."""


def replacements(monkeypatch: pytest.MonkeyPatch, allowed: int) -> list[int]:
    """Let so many files come to stand; every file of a recording comes to stand by os.replace."""
    original, done = os.replace, [0]

    def replace(*args: Any, **options: Any) -> None:
        if done[0] >= allowed:
            raise Killed
        done[0] += 1
        original(*args, **options)

    monkeypatch.setattr(os, "replace", replace)
    return done


@pytest.mark.usefixtures("small_chunks")
def test_a_recording_cut_off_before_any_of_its_files_is_unfinished_and_its_whole_steps_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls = layer("GRU", num_layers=2), [packed(inputs()), inputs(B, 3, I)]
    names = ["*.hidden"]
    expected = recorded(model, *calls, names=names)
    with monkeypatch.context() as patch:
        total = replacements(patch, 10**6)
        recorded(model, *calls, names=names, to=tmp_path / "whole.zarr")
    same(unrolled.Trace.load(tmp_path / "whole.zarr"), expected)
    seen = set()
    for allowed in range(total[0]):
        path = tmp_path / f"{allowed}.zarr"
        with monkeypatch.context() as patch:
            replacements(patch, allowed)
            with pytest.raises(Killed):
                recorded(model, *calls, names=names, to=path)
        if not allowed:
            with pytest.raises(ValueError, match="is not a recording"):
                unrolled.Trace.load(path)
            continue
        with pytest.raises(UnfinishedRecording):
            unrolled.Trace.load(path)
        part = unrolled.Trace.load(path, unfinished=True)
        for name in part:
            steps = part[name].size(1)
            assert steps > 0
            seen.add(steps)
            assert torch.equal(part[name], expected[name][:, :steps].detach())
            assert torch.equal(part.initial[name], expected.initial[name].detach())
            assert torch.equal(part.lengths(name), expected.select(steps=slice(steps)).lengths(name))
    assert seen == {3, 6, 8}


CHILD = """
import sys, torch, unrolled
from unrolled.recording import layout

layout.CHUNK_BYTES = 4096
torch.manual_seed(0)
model = torch.nn.LSTM(3, 8, batch_first=True)
with torch.no_grad(), unrolled.record(model, to=sys.argv[1]):
    while True:
        model(torch.randn(2, 10, 3))
        print("called", flush=True)
"""


@pytest.mark.parametrize("calls", [1, 8, 60])
def test_a_recording_whose_process_was_killed_is_unfinished_and_its_whole_steps_are_right(
    calls: int, tmp_path: Path
) -> None:
    path = tmp_path / "run.zarr"
    with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(calls):
            assert child.stdout.readline() == "called\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    with pytest.raises(UnfinishedRecording, match=r"\d+ whole steps"):
        unrolled.Trace.load(path)
    part = unrolled.Trace.load(path, unfinished=True)
    steps = part["l0.cell"].size(1) if part else 0
    assert steps % 128 == 0
    assert steps >= 10 * calls - 128
    torch.manual_seed(0)
    model = nn.LSTM(3, 8, batch_first=True)
    with torch.no_grad(), unrolled.record(model) as expected:
        for _ in range(-(-steps // 10)):
            model(torch.randn(2, 10, 3))
    for name in part:
        torch.testing.assert_close(part[name], expected[name][:, :steps], rtol=1e-6, atol=1e-6)
    if part:
        assert part.to_xarray()["l0"].sizes["step"] == steps
        same(unrolled.Trace.load(part.save(tmp_path / "saved.zarr")), part)


def test_an_unfinished_recording_of_layers_with_different_numbers_of_steps_tells_the_fewest_and_the_most(
    tmp_path: Path,
) -> None:
    model = nn.ModuleDict({"a": layer(), "b": layer("GRU")})

    def failing() -> None:
        with unrolled.record(model, to=tmp_path / "run.zarr"):
            model["a"](inputs())
            model["a"](inputs())
            model["b"](inputs())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    with pytest.raises(UnfinishedRecording, match="5 to 10 whole steps, by layer"):
        unrolled.Trace.load(tmp_path / "run.zarr")


# What is no recording, or a damaged one


def test_a_path_where_there_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no recording at .*run\.zarr"):
        unrolled.Trace.load(tmp_path / "run.zarr")


def another_zarr(path: Path) -> None:
    zarr.create_group(path, attributes={"complete": True})


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_text("mine"), another_zarr])
def test_what_is_no_recording_is_refused(make: Callable[[Path], Any], tmp_path: Path) -> None:
    make(tmp_path / "run.zarr")
    with pytest.raises(
        ValueError, match=r"run\.zarr is not a recording: Trace\.save and record\(to=\.\.\.\) make those"
    ):
        unrolled.Trace.load(tmp_path / "run.zarr")


def test_a_recording_of_another_format_is_refused(tmp_path: Path) -> None:
    path = recorded(layer(), inputs()).save(tmp_path / "run.zarr")
    zarr.open_group(path, mode="r+").update_attributes({"unrolled_format": 99, "unrolled_version": "7.0"})
    with pytest.raises(ValueError, match=r"run\.zarr is a recording of format 99, made by unrolled 7\.0; .* format 1"):
        unrolled.Trace.load(path)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *(("c/1/1/0", damage) for damage in (Path.unlink, truncate, flip, empty)),
        *(("zarr.json", damage) for damage in (Path.unlink, truncate, empty)),
    ],
)
def test_a_damaged_state_is_refused_and_the_others_are_read(
    file: str, damage: Callable[[Path], Any], tmp_path: Path, small_chunks: None
) -> None:
    trace = recorded(layer(), inputs())
    path = trace.save(tmp_path / "run.zarr")
    damage(path / "l0" / "cell" / file)
    loaded = unrolled.Trace.load(path)
    assert torch.equal(loaded["l0.hidden"], trace["l0.hidden"])
    with pytest.raises(ValueError, match=r"run\.zarr is damaged: 'l0\.cell' cannot be read \(.*\); record it again"):
        loaded["l0.cell"]


@pytest.mark.parametrize("file", ["zarr.json", "l0/zarr.json"])
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_recording_with_a_damaged_description_is_refused(
    damage: Callable[[Path], Any], file: str, tmp_path: Path
) -> None:
    path = recorded(layer(), inputs()).save(tmp_path / "run.zarr")
    damage(path / file)
    message = (
        "is not a recording" if (file, damage) == ("zarr.json", Path.unlink) else r"run\.zarr is damaged: its desc"
    )
    with pytest.raises(ValueError, match=message):
        unrolled.Trace.load(path)


def test_a_state_with_fewer_steps_than_its_layer_is_damaged(tmp_path: Path) -> None:
    path = recorded(layer(), inputs()).save(tmp_path / "run.zarr")
    file = path / "l0" / "cell" / "zarr.json"
    description = json.loads(file.read_text())
    description["shape"][1] = T - 1
    file.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"'l0\.cell' cannot be read \(cell has 4 of 5 steps\)"):
        unrolled.Trace.load(path)["l0.cell"]


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
