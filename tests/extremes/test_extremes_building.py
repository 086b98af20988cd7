"""Blocks are written with a recording or built later, and are whole or begun anew where that was cut off."""

from __future__ import annotations

import gc
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor, nn

import unrolled
from extremes_by_hand import T, by_hand, calls, chunk_files, files, live, walks, without_extremes
from killed import Killed, replacements
from unrolled.recording import Appending, Stored, UnfinishedRecording, layout, save
from unrolled.recording.extremes import Extremes, build, has_extremes

# Cut off


def shown(path: Path, values: Tensor, *, unfinished: bool = False) -> None:
    """Windows show the steps that are there, all of them and no others."""
    source = Stored(path, unfinished=unfinished)
    for name in source.names:
        steps = source.form(name).steps
        for columns in (1, steps):
            window = Extremes(source).window(name, sequence=1, start=0, stop=steps, columns=columns)
            low, high = by_hand(values[1, :steps], window.span, 0, steps)
            assert np.array_equal(window.low, low)
            assert np.array_equal(window.high, high)


@pytest.mark.usefixtures("small")
def test_a_recording_cut_off_before_any_of_its_files_shows_its_whole_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = walks(batch=2, steps=330, units=2)

    def written(path: Path) -> None:
        with Appending(path, ["l0.cell"]) as into:
            for call in calls({"cell": values}, cut=130):
                into.add("l0.", call, frozenset({"cell"}))

    with monkeypatch.context() as patch:
        total = replacements(patch, 10**6)
        written(tmp_path / "whole.zarr")
    shown(tmp_path / "whole.zarr", values)
    for allowed in range(1, total[0]):
        path = tmp_path / f"{allowed}.zarr"
        with monkeypatch.context() as patch:
            replacements(patch, allowed)
            with pytest.raises(Killed):
                written(path)
        assert not has_extremes(path)
        with pytest.raises(UnfinishedRecording):
            build(path)
        shown(path, values, unfinished=True)


@pytest.mark.usefixtures("small")
def test_building_cut_off_before_any_of_its_files_leaves_the_recording_and_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = walks(batch=2, steps=330, units=2)
    path = save(live({"cell": values}), tmp_path / "run.zarr")
    whole = files(path)
    without_extremes(path)
    old = files(path)
    with monkeypatch.context() as patch:
        total = replacements(patch, 10**6)
        build(path)
    assert total[0] > 5
    for allowed in range(total[0]):
        without_extremes(path)
        with monkeypatch.context() as patch:
            replacements(patch, allowed)
            with pytest.raises(Killed):
                build(path)
        assert {file: content for file, content in files(path).items() if "extremes" not in file.parts} == old
        assert not has_extremes(path)
        shown(path, values)
        build(path)
        assert has_extremes(path)
        shown(path, values)
        assert files(path) == whole


# Built later


@pytest.mark.usefixtures("small")
def test_blocks_that_are_built_later_are_those_that_saving_writes(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.LSTM(2, 3, num_layers=2, batch_first=True), "b": nn.GRUCell(2, 3)})
    with torch.no_grad(), unrolled.record(model) as trace:
        model["a"](torch.randn(2, 300, 2))
        for _ in range(40):
            model["b"](torch.randn(1, 2))
    path = trace.save(tmp_path / "run.zarr")
    whole = files(path)
    for layer in ("a.l0", "a.l1", "b"):
        shutil.rmtree(path / layer / "extremes")
        assert not has_extremes(path)
    told: list[tuple[int, int]] = []
    build(path, lambda done, total: told.append((done, total)))
    assert has_extremes(path)
    assert files(path) == whole
    assert told == sorted(told)
    assert {total for _, total in told} == {640}
    assert told[0][0] == 0
    assert told[-1][0] == 640


@pytest.mark.usefixtures("small")
def test_only_what_is_lacking_is_built(tmp_path: Path) -> None:
    path = save(live({"cell": walks()}), tmp_path / "run.zarr")
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    told: list[tuple[int, int]] = []
    build(path, lambda done, total: told.append((done, total)))
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
    assert told == [(0, 0)]


@pytest.mark.usefixtures("small")
def test_two_may_build_at_once(tmp_path: Path) -> None:
    path = save(live({"cell": walks(), "hidden": walks()}), tmp_path / "run.zarr")
    shutil.copytree(path, tmp_path / "whole.zarr")
    for _ in range(5):
        without_extremes(path)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(build, [path] * 3))
        assert has_extremes(path)
        assert files(path) == files(tmp_path / "whole.zarr")


@pytest.mark.usefixtures("small")
def test_a_recording_that_is_open_while_blocks_are_built_uses_them(tmp_path: Path) -> None:
    path = without_extremes(save(live({"cell": walks()}), tmp_path / "run.zarr"))
    source = Stored(path)
    assert source.spans("l0.cell") == ()
    build(path)
    assert source.spans("l0.cell") == (16, 64, 256, 1024)


@pytest.mark.usefixtures("small")
def test_unfinished_blocks_in_other_chunks_are_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = walks(batch=2)
    path = save(live({"cell": values}), tmp_path / "run.zarr")
    zarr.open_group(path, mode="r+")["l0/extremes"].update_attributes({"complete": False})
    monkeypatch.setattr(layout, "CHUNK_BYTES", 4000)
    build(path)
    for file in chunk_files(path, "l0", "cell"):
        file.unlink()
    window = Extremes(Stored(path)).window("l0.cell", sequence=1, start=0, stop=T, columns=40)
    assert np.array_equal(window.low, by_hand(values[1], window.span, 0, T)[0])


def test_building_keeps_memory_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 2**16)
    path = save(live({"cell": torch.randn(2, 40_000, 64)}), tmp_path / "run.zarr")
    without_extremes(path)
    build(path)
    without_extremes(path)
    gc.collect()
    tracemalloc.start()
    try:
        build(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All of it is 20 MiB, and its shortest blocks are 2.5.
    assert most < 2**21


@pytest.mark.usefixtures("small")
def test_a_damaged_recording_is_not_built(tmp_path: Path) -> None:
    path = without_extremes(save(live({"cell": walks()}), tmp_path / "run.zarr"))
    next(iter(chunk_files(path, "l0", "cell"))).unlink()
    with pytest.raises(ValueError, match=r"run\.zarr is damaged: 'l0\.cell' cannot be read .*; record it again"):
        build(path)
    assert not has_extremes(path)
