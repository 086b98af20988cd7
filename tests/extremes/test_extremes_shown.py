"""A window shows the lowest and highest value of each of its columns, wherever its steps are read from."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import unrolled
from extremes_by_hand import SOURCES, WINDOWS, B, T, by_hand, calls, live, walks
from unrolled.recording import Stored, save
from unrolled.recording.extremes import Extremes, has_extremes


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
