"""Blocks lie beside the states they belong to, and no more of a recording is read than a window needs."""

from __future__ import annotations

import gc
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
import zarr
from torch import nn

import unrolled
from extremes_by_hand import (
    SOURCES,
    WINDOWS,
    B,
    T,
    U,
    by_hand,
    calls,
    chunk_files,
    files,
    live,
    walks,
    without_extremes,
)
from unrolled.recording import Appending, Stored, blocks, extremes, layout, save
from unrolled.recording.extremes import Extremes, build, has_extremes

# What is on disk


def test_blocks_get_longer_while_there_are_many() -> None:
    assert blocks.spans(100_000) == (16, 64, 256)
    assert blocks.spans(4096) == (16,)
    assert blocks.spans(8000) == (16, 64)
    assert blocks.spans(4095) == blocks.spans(1) == ()


@pytest.mark.usefixtures("small")
def test_blocks_are_arrays_with_named_dimensions_beside_their_states(tmp_path: Path) -> None:
    values = {"hidden": walks(), "cell": walks()}
    group = zarr.open_group(save(live(values), tmp_path / "run.zarr"), mode="r")["l0/extremes"]
    spans = [16, 64, 256, 1024]
    assert sorted(group) == sorted(f"{state}_{span}" for state in values for span in spans)
    for span in spans:
        array = group[f"cell_{span}"]
        assert array.metadata.dimension_names == ("bound", "sequence", f"block_{span}", "unit")
        for sequence in range(B):
            assert np.array_equal(array[:, sequence], by_hand(values["cell"][sequence], span, 0, T))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("cut", [1, 7, 16, 33, 400, T])
def test_blocks_written_as_the_model_is_called_are_those_of_the_whole(cut: int, tmp_path: Path) -> None:
    values = {"cell": walks()}
    with Appending(tmp_path / "run.zarr", ["l0.cell"]) as written:
        for call in calls(values, cut=cut):
            written.add("l0.", call, frozenset(values))
    group = zarr.open_group(tmp_path / "run.zarr", mode="r")["l0/extremes"]
    assert sorted(group) == ["cell_1024", "cell_16", "cell_256", "cell_64"]
    for span in (16, 64, 256, 1024):
        for sequence in range(B):
            assert np.array_equal(group[f"cell_{span}"][:, sequence], by_hand(values["cell"][sequence], span, 0, T))


def test_a_short_recording_has_no_blocks_and_lacks_none(tmp_path: Path) -> None:
    path = save(live({"cell": walks()}), tmp_path / "run.zarr")
    assert not (path / "l0" / "extremes").exists()
    assert has_extremes(path)
    before = files(path)
    build(path)
    assert files(path) == before


def test_a_short_recording_of_many_sequences_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks fill chunks before it is known to be short."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 2000)
    values = {"cell": walks(batch=50, steps=100)}
    with Appending(tmp_path / "run.zarr", ["l0.cell"]) as written:
        for call in calls(values, cut=30):
            written.add("l0.", call, frozenset(values))
    window = Extremes(Stored(tmp_path / "run.zarr")).window("l0.cell", sequence=49, start=0, stop=100, columns=1)
    assert np.array_equal(window.high, by_hand(values["cell"][49], window.span, 0, 100)[1])


def test_chunks_hold_one_sequence_unless_they_would_be_tiny() -> None:
    # 512 units in single precision, and 128.
    assert layout.extremes_chunk_shape(1, 6250, 4096) == (1, 1024)
    assert layout.extremes_chunk_shape(1, 391, 4096) == (1, 391)
    assert layout.extremes_chunk_shape(64, None, 1024) == (1, 256)
    assert layout.extremes_chunk_shape(1000, None, 1024) == (16, 16)
    assert layout.extremes_chunk_shape(10**6, None, 1024) == (256, 1)
    assert layout.extremes_chunk_shape(1, None, 2**30) == (1, 1)


@pytest.mark.usefixtures("small")
def test_blocks_are_no_part_of_a_trace(tmp_path: Path) -> None:
    source = live({"cell": walks(), "hidden": walks()})
    trace = unrolled.Trace.load(save(source, tmp_path / "run.zarr"))
    assert list(trace) == ["l0.cell", "l0.hidden"]
    assert "extremes" not in repr(trace)
    xarray.testing.assert_identical(trace.to_xarray(), unrolled.Trace(source.names, source).to_xarray())
    assert not trace.to_xarray()["l0"].children


@pytest.mark.usefixtures("small")
def test_xarray_opens_a_recording_with_blocks_as_further_nodes(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.LSTM(2, 4, proj_size=3), "b": nn.GRUCell(2, 3)})
    with torch.no_grad(), unrolled.record(model, to=tmp_path / "run.zarr") as trace:
        model["a"](torch.randn(100, 2, 2))
        for _ in range(40):
            model["b"](torch.randn(2, 2))
    with xarray.open_datatree(tmp_path / "run.zarr", engine="zarr", consolidated=False) as opened:
        assert set(opened["a.l0"].children) == set(opened["b"].children) == {"extremes"}
        node = opened["a.l0/extremes"]
        assert node["hidden_64"].sizes == {"bound": 2, "sequence": 2, "block_64": 2, "output_unit": 3}
        assert node["cell_16"].sizes == {"bound": 2, "sequence": 2, "block_16": 7, "unit": 4}
        assert node["cell_16"][0, 1, 0].values.tolist() == trace["a.l0.cell"][1, :16].amin(0).tolist()


# What is read


@pytest.mark.usefixtures("small")
def test_from_afar_no_step_is_read(tmp_path: Path) -> None:
    values = walks()
    path = save(live({"cell": values}), tmp_path / "run.zarr")
    for file in chunk_files(path, "l0", "cell"):
        file.unlink()
    looked_at = Extremes(Stored(path))
    for start, stop, columns in [(0, T, 1), (0, T, 8), (0, T, 100), (200, 400, 10)]:
        window = looked_at.window("l0.cell", sequence=0, start=start, stop=stop, columns=columns)
        assert np.array_equal(window.high, by_hand(values[0], window.span, window.start, window.stop)[1])
    with pytest.raises(
        ValueError, match=r"is damaged: 'l0\.cell' cannot be read \(a part of cell, .* is missing\); rec"
    ):
        looked_at.window("l0.cell", sequence=0, start=0, stop=50, columns=50)


@pytest.mark.usefixtures("small")
def test_the_longest_blocks_that_make_up_a_column_are_read(tmp_path: Path) -> None:
    values = walks()
    path = save(live({"cell": values}), tmp_path / "run.zarr")
    for span in (16, 64):
        for file in chunk_files(path, "l0", "extremes", f"cell_{span}"):
            file.unlink()
    window = Extremes(Stored(path)).window("l0.cell", sequence=0, start=0, stop=T, columns=4)
    assert window.span == 256
    assert np.array_equal(window.high, by_hand(values[0], 256, 0, T)[1])


@pytest.mark.usefixtures("small")
def test_only_the_chunks_of_a_window_are_read_and_what_was_read_is_kept(tmp_path: Path) -> None:
    path = save(live({"cell": walks(batch=1)}), tmp_path / "run.zarr")
    looked_at, length = Extremes(Stored(path)), Stored(path).chunk("l0.cell")[1]
    assert length == 100
    before = looked_at.exact("l0.cell", sequence=0, start=150, stop=350)
    for number in (1, 2, 3, 5):
        (path / "l0" / "cell" / "c" / "0" / str(number) / "0").unlink()
    assert np.array_equal(looked_at.exact("l0.cell", sequence=0, start=100, stop=400)[50:250], before)
    assert len(looked_at.exact("l0.cell", sequence=0, start=320, stop=500)) == 180
    with pytest.raises(ValueError, match="is missing"):
        looked_at.exact("l0.cell", sequence=0, start=450, stop=501)


@pytest.mark.usefixtures("small")
def test_what_was_used_longest_ago_is_dropped_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(live({"cell": walks(batch=1)}), tmp_path / "run.zarr")
    # Chunks of 100 steps of 5 units.
    monkeypatch.setattr(extremes, "MEMORY", 2 * 100 * U * 4)
    looked_at = Extremes(Stored(path))
    for start in (0, 100, 0, 200):
        looked_at.exact("l0.cell", sequence=0, start=start, stop=start + 1)
    for file in chunk_files(path, "l0", "cell"):
        file.unlink()
    for start in (0, 200):
        looked_at.exact("l0.cell", sequence=0, start=start, stop=start + 1)
    with pytest.raises(ValueError, match="is missing"):
        looked_at.exact("l0.cell", sequence=0, start=100, stop=101)


def test_memory_is_bounded_however_much_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extremes, "MEMORY", 2**20)
    monkeypatch.setattr(extremes, "MEMORY_OF_BLOCKS", 2**18)
    monkeypatch.setattr(layout, "CHUNK_BYTES", 2**16)
    path = save(live({"cell": torch.randn(2, 20_000, 64)}), tmp_path / "run.zarr")
    shutil.copytree(path, tmp_path / "old.zarr")
    without_extremes(tmp_path / "old.zarr")

    def look(path: Path) -> None:
        looked_at = Extremes(Stored(path))
        for sequence, start in product(range(2), range(0, 20_000, 1000)):
            looked_at.exact("l0.cell", sequence=sequence, start=start, stop=start + 1000)
            looked_at.window("l0.cell", sequence=sequence, start=0, stop=start + 1000, columns=50)

    for at in (path, tmp_path / "old.zarr"):
        look(at)
        gc.collect()
        tracemalloc.start()
        try:
            look(at)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # All of it is 10 MiB.
        assert most < 3 * 2**20


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("memory", [1, 1000])
def test_blocks_that_are_not_on_disk_and_too_many_to_keep_are_read_again(
    memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extremes, "MEMORY_OF_BLOCKS", memory)
    values = walks()
    looked_at = Extremes(Stored(without_extremes(save(live({"cell": values}), tmp_path / "run.zarr"))))
    for start, stop, columns in WINDOWS:
        window = looked_at.window("l0.cell", sequence=1, start=start, stop=stop, columns=columns)
        low, high = by_hand(values[1], window.span, window.start, window.stop)
        assert np.array_equal(window.low, low)
        assert np.array_equal(window.high, high)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", SOURCES)
def test_threads_may_share_it(kind: str, tmp_path: Path) -> None:
    source = SOURCES[kind](live({"cell": walks()}), tmp_path / "run.zarr")
    values, looked_at = source.values("l0.cell"), Extremes(source)

    def right(asked: tuple[int, tuple[int, int, int]]) -> bool:
        sequence, (start, stop, columns) = asked
        stop = min(stop, values.size(1))
        window = looked_at.window("l0.cell", sequence=sequence, start=start, stop=stop, columns=columns)
        return np.array_equal(window.high, by_hand(values[sequence], window.span, window.start, window.stop)[1])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, product(range(B), WINDOWS)))


@pytest.mark.usefixtures("small")
def test_what_is_returned_may_be_changed_without_harm(tmp_path: Path) -> None:
    values = walks()
    for source in (live({"cell": values}), Stored(save(live({"cell": values}), tmp_path / "run.zarr"))):
        looked_at = Extremes(source)
        for _ in range(2):
            for columns in (1, 20, 100, 1000):
                window = looked_at.window("l0.cell", sequence=0, start=0, stop=T, columns=columns)
                assert np.array_equal(window.low, by_hand(values[0], window.span, 0, T)[0])
                window.low.fill(7)
            looked_at.exact("l0.cell", sequence=0, start=0, stop=T).fill(7)
