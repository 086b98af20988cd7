"""Recordings looked at from any distance: what a window shows is what its steps hold, wherever it is read from."""

from __future__ import annotations

import gc
import os
import shutil
import tracemalloc
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
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
from unrolled.calls import Calls
from unrolled.observation import Opened
from unrolled.recording import Appending, Stored, UnfinishedRecording, blocks, extremes, layout, save
from unrolled.recording.extremes import Extremes, build, has_extremes
from unrolled.recurrence.result import Steps
from unrolled.selection import Region
from unrolled.source import Selected, Source

B, T, U = 3, 1003, 5


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several lengths of blocks, and several chunks of each, in a recording of a thousand steps of a few units."""
    monkeypatch.setattr(blocks, "SHORTEST", blocks.FINEST + 1)
    monkeypatch.setattr(blocks, "FEWEST", 4)
    monkeypatch.setattr(layout, "CHUNK_BYTES", 2000)


def calls(values: Mapping[str, Tensor], *, cut: int | None = None) -> list[Opened]:
    """State -> (B, T, U) as calls of one layer, of `cut` steps each."""
    steps = next(iter(values.values())).size(1)
    found = []
    for start in range(0, steps, cut or steps):
        part = {name: value[:, start : start + (cut or steps)].transpose(0, 1) for name, value in values.items()}
        found.append(Opened({name: Steps(value, (value,)) for name, value in part.items()}, {}))
    return found


def live(values: Mapping[str, Tensor]) -> Calls:
    source = Calls([f"l0.{name}" for name in values], detach=True)
    for call in calls(values):
        source.add("l0.", call, frozenset(values))
    return source


def walks(*, batch: int = B, steps: int = T, units: int = U, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, steps, units).cumsum(1).to(dtype)


def by_hand(values: Tensor, span: int, start: int, stop: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The lows and highs of one sequence's steps (T, U) in columns of `span`, one column after the other."""
    columns = [values[first : min(first + span, stop)].double() for first in range(start, stop, span)]
    # torch's own amin gives NaN where there is one.
    low, high = (torch.stack([f(column, dim=0) for column in columns]) for f in (torch.amin, torch.amax))
    return low.float().numpy(), high.float().numpy()


def without_extremes(path: Path) -> Path:
    shutil.rmtree(path / "l0" / layout.EXTREMES)
    return path


def selected(source: Source) -> Source:
    """The steps from the third on, backwards sequences, some units."""
    name = source.names[0]
    form = source.form(name)
    region = Region(range(form.batches[0] - 1, -1, -1), range(3, form.steps), (3, 0, 4))
    return Selected(source, {name: region}, ())


SOURCES: dict[str, Callable[[Calls, Path], Source]] = {
    "on disk": lambda source, path: Stored(save(source, path)),
    "on disk without blocks": lambda source, path: Stored(without_extremes(save(source, path))),
    "in memory": lambda source, path: source,
    "selected in memory": lambda source, path: selected(source),
    "selected on disk": lambda source, path: selected(Stored(save(source, path))),
}
WINDOWS = [
    *[(0, T, columns) for columns in (1, 2, 3, 7, 50, 200, 250, 251, 5000)],
    *[(17, 999, columns) for columns in (1, 10, 100, 300)],
    *[(500, 501, 1), (999, 1000, 4), (15, 17, 1), (3, 700, 2), (64, 128, 1), (0, 16, 1), (0, 10, 2)],
]


# What is shown


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", SOURCES)
def test_a_window_has_the_lowest_and_highest_value_of_each_column(kind: str, tmp_path: Path) -> None:
    source = SOURCES[kind](live({"cell": walks()}), tmp_path / "run.zarr")
    looked_at, values = Extremes(source), source.values("l0.cell")
    for sequence, (start, stop, columns) in product((0, B - 1), WINDOWS):
        stop = min(stop, values.size(1))
        window = looked_at.window("l0.cell", sequence=sequence, start=start, stop=stop, columns=columns)
        low, high = by_hand(values[sequence], window.span, window.start, window.stop)
        assert window.low.dtype == window.high.dtype == np.float32
        assert np.array_equal(window.low, low)
        assert np.array_equal(window.high, high)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", SOURCES)
def test_exact_values_are_those_that_were_recorded(kind: str, tmp_path: Path) -> None:
    source = SOURCES[kind](live({"cell": walks()}), tmp_path / "run.zarr")
    looked_at, values = Extremes(source), source.values("l0.cell")
    for start, stop in [(0, 1), (5, 6), (0, 1000), (90, 310), (999, 1000)]:
        found = looked_at.exact("l0.cell", sequence=1, start=start, stop=stop)
        assert found.dtype == np.float32
        assert np.array_equal(found, values[1, start:stop].numpy())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("columns", [1, 4, 20, 70, 300])
def test_a_spike_of_one_step_is_seen_from_any_distance(columns: int, tmp_path: Path) -> None:
    values = walks()
    values[1, 777, 2] = 1e6
    window = Extremes(Stored(save(live({"cell": values}), tmp_path / "run.zarr"))).window(
        "l0.cell", sequence=1, start=0, stop=T, columns=columns
    )
    assert np.argwhere(window.high == 1e6).tolist() == [[777 // window.span, 2]]


@pytest.mark.parametrize(
    ("steps", "columns"), list(product([1, 2, 15, 16, 17, 63, 64, 100, 1000, 4097, T * 100], [1, 7, 300]))
)
def test_there_are_about_as_many_columns_as_asked_for_and_steps_while_they_are_few(steps: int, columns: int) -> None:
    source = live({"cell": torch.zeros(1, steps, 1)})
    window = Extremes(source).window("l0.cell", sequence=0, start=0, stop=steps, columns=columns)
    # Fewest where a column of 8 steps would be short enough, and one of 16 is the next there is.
    assert min(steps, 3 / 10 * columns) <= len(window.low) <= 6 / 5 * columns + 1
    assert (window.span == 1) == (steps <= 6 / 5 * columns)
    assert window.span in [2**power for power in range(30) if power != 3]
    assert len(window.low) == len(window.high) == -(-steps // window.span)


@pytest.mark.usefixtures("small")
def test_columns_begin_at_multiples_of_their_steps_and_stay_when_the_window_moves(tmp_path: Path) -> None:
    looked_at = Extremes(Stored(save(live({"cell": walks()}), tmp_path / "run.zarr")))
    seen: dict[int, list[float]] = {}
    for start in range(0, 500, 13):
        window = looked_at.window("l0.cell", sequence=0, start=start, stop=start + 480, columns=30)
        assert window.span == 16
        assert window.start == start // 16 * 16
        assert window.stop == min(-(-(start + 480) // 16) * 16, T)
        for column, low in enumerate(window.low.tolist()):
            assert seen.setdefault(window.start + 16 * column, low) == low


@pytest.mark.usefixtures("small")
def test_the_last_column_ends_with_the_recording(tmp_path: Path) -> None:
    looked_at = Extremes(Stored(save(live({"cell": walks()}), tmp_path / "run.zarr")))
    window = looked_at.window("l0.cell", sequence=0, start=900, stop=1001, columns=3)
    assert (window.start, window.span, window.stop) == (896, 32, T)
    assert len(window.low) == 4


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", SOURCES)
def test_what_is_not_a_number_is_not_hidden_and_infinities_stay(kind: str, tmp_path: Path) -> None:
    values = walks()
    values[:, 500, 3], values[:, 600, 0], values[:, 700, 4] = torch.nan, torch.inf, -torch.inf
    source = SOURCES[kind](live({"cell": values}), tmp_path / "run.zarr")
    looked_at, values = Extremes(source), source.values("l0.cell")
    for columns in (1, 5, 20, 100, 300):
        window = looked_at.window("l0.cell", sequence=0, start=0, stop=values.size(1), columns=columns)
        low, high = by_hand(values[0], window.span, window.start, window.stop)
        assert np.array_equal(np.isnan(window.low), np.isnan(window.high))
        assert np.isnan(window.low).sum() == 1
        assert np.array_equal(window.low, low, equal_nan=True)
        assert np.array_equal(window.high, high, equal_nan=True)
        assert (np.isposinf(window.high).sum(), np.isneginf(window.low).sum()) == (1, 1)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_of_every_dtype_are_shown_and_kept_as_their_state_is(dtype: torch.dtype, tmp_path: Path) -> None:
    values = walks(dtype=dtype)
    path = save(live({"cell": values}), tmp_path / "run.zarr")
    stored = zarr.open_group(path, mode="r")["l0"]
    assert stored["extremes/cell_16"].dtype == stored["cell"].dtype
    looked_at = Extremes(Stored(path))
    for columns in (2, 30, 100, 1000):
        window = looked_at.window("l0.cell", sequence=0, start=0, stop=T, columns=columns)
        low, high = by_hand(values[0], window.span, 0, T)
        assert np.array_equal(window.low, low)
        assert np.array_equal(window.high, high)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("columns", [1, 1000])
def test_a_number_too_large_for_single_precision_is_infinite(columns: int, tmp_path: Path) -> None:
    values = walks(dtype=torch.float64)
    values[0, 40, 1] = 1e300
    looked_at = Extremes(Stored(save(live({"cell": values}), tmp_path / "run.zarr")))
    assert np.isposinf(looked_at.window("l0.cell", sequence=0, start=0, stop=T, columns=columns).high).sum() == 1
    assert looked_at.exact("l0.cell", sequence=0, start=40, stop=41)[0, 1] == np.inf


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("batch", "steps", "units"), [(1, 1, 1), (1, 17, 1), (7, 16, 1), (2, 65, 3), (40, 129, 2)])
@pytest.mark.parametrize("kind", ["on disk", "in memory"])
def test_recordings_of_any_size_are_shown(kind: str, batch: int, steps: int, units: int, tmp_path: Path) -> None:
    source = SOURCES[kind](live({"cell": walks(batch=batch, steps=steps, units=units)}), tmp_path / "run.zarr")
    values, looked_at = source.values("l0.cell"), Extremes(source)
    for sequence, columns in product(range(batch), (1, 10)):
        window = looked_at.window("l0.cell", sequence=sequence, start=0, stop=steps, columns=columns)
        low, high = by_hand(values[sequence], window.span, 0, steps)
        assert np.array_equal(window.low, low)
        assert np.array_equal(window.high, high)


@pytest.mark.usefixtures("small")
def test_every_state_and_layer_of_a_model_is_shown_with_its_own_width(tmp_path: Path) -> None:
    model = nn.LSTM(2, 4, num_layers=2, bidirectional=True, proj_size=3, batch_first=True)
    path, lengths = tmp_path / "run.zarr", torch.tensor([30, 70])
    with torch.no_grad(), unrolled.record(model, to=path) as trace:
        model(pack_padded_sequence(torch.randn(2, 70, 2), lengths, batch_first=True, enforce_sorted=False))
        model(torch.randn(2, 5, 2))
    assert has_extremes(path)
    looked_at = Extremes(Stored(path))
    for name in trace:
        for sequence in range(2):
            window = looked_at.window(name, sequence=sequence, start=0, stop=75, columns=1)
            low, high = by_hand(trace[name][sequence], window.span, 0, 75)
            assert window.span == 64
            assert np.array_equal(window.low, low)
            assert np.array_equal(window.high, high)
    # After its end a sequence is zero.
    assert not looked_at.window("l0.cell", sequence=0, start=32, stop=64, columns=1).high.any()


@pytest.mark.usefixtures("small")
def test_a_bare_cell_has_its_blocks_at_the_root(tmp_path: Path) -> None:
    cell, path = nn.GRUCell(2, 3), tmp_path / "run.zarr"
    with torch.no_grad(), unrolled.record(cell, to=path) as trace:
        for _ in range(50):
            cell(torch.randn(1, 2))
    assert (path / "extremes" / "hidden_16").is_dir()
    window = Extremes(Stored(path)).window("hidden", sequence=0, start=0, stop=50, columns=3)
    assert np.array_equal(window.high, by_hand(trace["hidden"][0], 16, 0, 50)[1])


def test_a_trace_that_grows_is_shown_with_its_new_steps() -> None:
    values = walks(steps=200)
    source = live({"cell": values[:, :100]})
    looked_at = Extremes(source)
    for columns in (1, 100):
        looked_at.window("l0.cell", sequence=0, start=0, stop=100, columns=columns)
    source.add("l0.", calls({"cell": values[:, 100:]})[0], frozenset({"cell"}))
    for columns in (1, 200):
        window = looked_at.window("l0.cell", sequence=0, start=0, stop=200, columns=columns)
        assert np.array_equal(window.high, by_hand(values[0], window.span, 0, 200)[1])


def test_a_trace_in_the_graph_is_shown_without_it() -> None:
    model = nn.LSTM(2, 3, batch_first=True)
    with unrolled.record(model) as trace:
        model(torch.randn(1, 100, 2))
    window = Extremes(trace._source).window("l0.cell", sequence=0, start=0, stop=100, columns=2)
    assert np.array_equal(window.low, by_hand(trace["l0.cell"][0].detach(), window.span, 0, 100)[0])


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


def chunk_files(path: Path, *parts: str) -> set[Path]:
    return {file for file in path.joinpath(*parts).rglob("*") if file.is_file() and file.name != "zarr.json"}


def files(path: Path) -> dict[Path, bytes]:
    """What is in a recording, without what zarr leaves of a file that it could not finish."""
    return {
        file.relative_to(path): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.suffix != ".partial"
    }


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


# Cut off


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


# What is refused


@pytest.mark.parametrize("use", [has_extremes, build])
def test_what_is_no_recording_is_refused(use: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no recording at"):
        use(tmp_path / "run.zarr")
    (tmp_path / "run.zarr").mkdir()
    with pytest.raises(ValueError, match="is not a recording"):
        use(tmp_path / "run.zarr")


def unlink_a_chunk(path: Path) -> None:
    (path / "cell_16" / "c" / "0" / "1" / "0" / "0").unlink()


def unlink_an_array(path: Path) -> None:
    shutil.rmtree(path / "cell_16")


def shorten(path: Path) -> None:
    group = zarr.open_group(path, mode="r+")
    group["cell_16"].resize((2, B, 7, U))


def scribble(path: Path) -> None:
    (path / "zarr.json").write_text("{")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", [unlink_a_chunk, unlink_an_array, shorten, scribble])
def test_damaged_blocks_are_told_with_the_folder_to_delete(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = save(live({"cell": walks()}), tmp_path / "run.zarr")
    damage(path / "l0" / "extremes")
    message = r"is damaged: 'l0\.cell' cannot be read \(.*\); it is whole but for its extremes: delete .*/l0/extremes, "
    with pytest.raises(ValueError, match=message):
        Extremes(Stored(path)).window("l0.cell", sequence=1, start=0, stop=T, columns=40)
    build(without_extremes(path))
    assert has_extremes(path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "l0.hidden"}, KeyError, r"'l0\.hidden' is not in this trace; it has l0\.cell"),
        ({"sequence": B}, IndexError, r"sequence must be 0 to 2 of 'l0\.cell', given 3"),
        ({"sequence": -1}, IndexError, r"given -1"),
        (
            {"start": -1},
            ValueError,
            r"start and stop must be steps of 'l0\.cell' with 0 <= start < stop <= 20, given -1",
        ),
        ({"start": 5, "stop": 5}, ValueError, r"given 5 and 5"),
        ({"stop": 21}, ValueError, r"given 0 and 21"),
        ({"columns": 0}, ValueError, r"columns must be at least 1, given 0"),
    ],
)
def test_what_cannot_be_shown_is_told(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    looked_at = Extremes(live({"cell": walks(steps=20)}))
    asked = {"name": "l0.cell", "sequence": 0, "start": 0, "stop": 20, "columns": 10, **arguments}
    with pytest.raises(error, match=message):
        looked_at.window(**asked)
    if "columns" not in arguments:
        del asked["columns"]
        with pytest.raises(error, match=message):
            looked_at.exact(**asked)


def test_a_layer_called_with_batches_of_different_sizes_is_refused() -> None:
    source = live({"cell": walks()})
    source.add("l0.", calls({"cell": walks(batch=2)})[0], frozenset({"cell"}))
    with pytest.raises(ValueError, match=r"'l0\.cell': its layer was called with batches of 2 and of 3"):
        Extremes(source).window("l0.cell", sequence=0, start=0, stop=10, columns=10)
