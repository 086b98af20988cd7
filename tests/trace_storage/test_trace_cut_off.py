"""Half a recording is never taken for a whole one, nor is a damaged one, or what is none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray
import zarr
from torch import nn

import unrolled
from by_hand import B, H, I, T, inputs, layer
from killed import Killed, replacements
from stored_traces import packed, recorded, same
from unrolled.recording import UnfinishedRecording

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
