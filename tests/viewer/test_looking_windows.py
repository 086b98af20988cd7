"""What the maps are given: of every dot the value farthest from what is usual, whatever the zoom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from looked_at import asked, looking
from planted_traces import planted, random

pytest.importorskip("bokeh")
pytest.importorskip("scipy")

import unrolled
from unrolled.viewer import looking as module
from unrolled.viewer.asked import Asked
from unrolled.viewer.looking import Looking
from unrolled.viewer.opening.of_trace import of_trace

NAN = np.float32("nan")


def farthest(
    values: np.ndarray[Any, Any], usual: np.ndarray[Any, Any], found: dict[str, Any], stop: int, length: int
) -> list[list[float]]:
    """Rows of dots, each looked for among all of its values. values: (T, U) in the order of the rows."""
    start, span, group = found["start"], found["span"], found["group"]
    rows = []
    for first in range(0, values.shape[1], group):
        row = []
        for begin in range(start, stop, span):
            dots = values[begin : min(begin + span, length), first : first + group]
            apart = np.abs(dots.astype(np.float64) - usual[first : first + group])
            row.append(math.nan if np.isnan(dots).any() else float(apart.max()))
        rows.append(row)
    return rows


def check_window(look: Looking, values: np.ndarray[Any, Any], ask: Asked, units: Sequence[int]) -> dict[str, Any]:
    """Every dot of a window is a value of its own steps and units, and none of those is farther from what is usual."""
    found = look.window(ask)
    sequence, stop = ask.whole("sequence", 0, 9), ask.whole("stop", 0, 10**9)
    length = look.lengths[sequence]
    shown, usual = values[sequence][:, units], look._usual["l0.cell"][list(units)]
    distances = farthest(shown, usual, found, stop, length)
    image = found["maps"]["l0.cell"]
    assert image.dtype == np.float32
    assert image.shape == (len(distances), len(distances[0]))
    for r, row in enumerate(distances):
        for c, apart in enumerate(row):
            begin = found["start"] + c * found["span"]
            own = slice(r * found["group"], (r + 1) * found["group"])
            dots = shown[begin : min(begin + found["span"], length), own]
            if math.isnan(apart):
                assert np.isnan(image[r, c])
                continue
            places = np.argwhere(dots == image[r, c])
            assert len(places), "a dot is none of its values"
            assert any(abs(float(image[r, c]) - usual[own][unit]) == pytest.approx(apart) for _, unit in places)
    return found


class TestWindow:
    @pytest.mark.parametrize("height", [9.0, -9.0, NAN], ids=["high", "low", "nan"])
    def test_spike_of_one_step_in_20_000_is_in_the_picture(self, height: float) -> None:
        values = random(0, 1, 20_000, 70) / 9
        values[0, 12_345, 41] = height
        look = looking(planted(values), [20_000])
        found = look.window(asked(stop=20_000, columns=300, last=70, rows=9))
        image = found["maps"]["l0.cell"]
        at = (41 // found["group"], 12_345 // found["span"])
        assert found["group"] == 8
        assert found["span"] > 16
        np.testing.assert_equal(image[at], height)
        image[at] = 0
        assert np.abs(image).max() < 1

    def test_spike_is_seen_against_what_is_usual_for_its_own_unit(self) -> None:
        values = np.zeros((1, 400, 3), np.float32) + np.float32([0.9, 0.9, 0.1])
        values[0, 200, 0] = 0.2
        # 0.7 from what is usual for it is farther than what is usual for it is from zero.
        image = looking(planted(values), [400]).window(asked(stop=400, last=3))["maps"]["l0.cell"]
        assert image.max() == np.float32(0.9)
        assert (image == np.float32(0.2)).sum() == 1

    @given(
        start=st.integers(0, 99),
        steps=st.integers(1, 100),
        columns=st.integers(1, 40),
        first=st.integers(0, 6),
        count=st.integers(1, 7),
        rows=st.integers(1, 9),
        sequence=st.integers(0, 1),
    )
    def test_dot_is_the_farthest_of_its_values(
        self, start: int, steps: int, columns: int, first: int, count: int, rows: int, sequence: int
    ) -> None:
        values = random(1, 2, 100, 7)
        values[0, 50, 3], values[1, 7, 0] = NAN, np.inf
        # What stands after the end is far from everything, and never shown.
        lengths = [100, 37]
        values[1, 37:] = 100
        length = lengths[sequence]
        start = min(start, length - 1)
        stop, last = min(length, start + steps), min(7, first + count)
        ask = asked(sequence=sequence, start=start, stop=stop, columns=columns, first=first, last=last, rows=rows)
        look = looking(planted(values, lengths=lengths), lengths)
        found = check_window(look, values, ask, range(first, last))
        assert found["group"] == -(-(last - first) // rows)
        assert found["start"] <= start < found["start"] + found["span"]
        look.close()

    def test_last_group_of_rows_may_be_smaller(self) -> None:
        values = random(2, 1, 20, 7)
        found = check_window(looking(planted(values), [20]), values, asked(last=7, rows=3, columns=20), range(7))
        assert found["group"] == 3
        np.testing.assert_array_equal(found["maps"]["l0.cell"][2], values[0, :, 6])

    @pytest.mark.parametrize("order", module.ORDERS)
    def test_order_and_first_and_last_choose_the_units(self, order: str) -> None:
        values = np.stack([np.sin(np.arange(200) / slow) for slow in (1, 30, 3, 10, 1.01)], 1)[None].astype(np.float32)
        look = looking(planted(values), [200])
        units = look.order(Asked({"layer": "l0", "by": order}))
        assert sorted(units) == list(range(5))
        if order == "timescale":
            assert units[:3] == [1, 3, 2]
        if order == "similarity":
            assert abs(units.index(0) - units.index(4)) == 1
        if order == "index":
            assert units == list(range(5))
        for first, last in ((0, 5), (1, 3), (4, 5)):
            found = look.window(asked(stop=200, columns=200, order=order, first=first, last=last, rows=100))
            assert found["span"] == found["group"] == 1
            np.testing.assert_array_equal(found["maps"]["l0.cell"], values[0].T[units[first:last]])

    def test_sequence_is_shown_to_its_end_and_not_beyond(self) -> None:
        model = unrolled.LSTM(2, 4, batch_first=True)
        with torch.no_grad(), unrolled.record(model, detach=True) as trace:
            model(torch.randn(3, 50, 2), lengths=torch.tensor([50, 13, 1]))
        look = Looking(of_trace(trace))
        values = trace["l0.cell"].numpy()
        for sequence, length in enumerate((50, 13, 1)):
            ask = asked(sequence=sequence, stop=length, columns=2, last=4, rows=4)
            found = check_window(look, values, ask, range(4))
            assert found["maps"]["l0.cell"].shape == (4, -(-length // found["span"]))
            one = look.unit(asked(sequence=sequence, stop=length, columns=2, unit=2))
            assert one["low"]["l0.cell"].min() == values[sequence, :length, 2].min()
            assert one["high"]["l0.cell"].max() == values[sequence, :length, 2].max()
        # After the end zeros are recorded, which are no states.
        assert (values[1, 13:] == 0).all()
        assert look.unit(asked(sequence=1, start=12, stop=13, columns=1, unit=0))["high"]["l0.cell"] != 0

    def test_states_of_a_layer_share_their_columns(self) -> None:
        names = {"l0__cell": random(3, 1, 333, 4), "l0__hidden": random(4, 1, 333, 4)}
        look = looking(planted(**names), [333])
        found = look.window(asked(start=10, stop=333, columns=20, names=["l0.hidden", "l0.cell"], last=4, rows=4))
        assert {image.shape for image in found["maps"].values()} == {(4, -(-333 // found["span"]))}
        for name, values in names.items():
            image = found["maps"][name.replace("__", ".")]
            assert image[1, -1] in values[0, -(-333 // found["span"]) * found["span"] - found["span"] :, 1]

    def test_highest_numbers_there_are_are_shown(self) -> None:
        values = np.full((1, 20, 2), 3.3e38, np.float32)
        values[0, ::2] = -3.3e38
        image = looking(planted(values), [20]).window(asked(last=2))["maps"]["l0.cell"]
        assert set(image.ravel().tolist()) <= {float(np.float32(3.3e38)), float(np.float32(-3.3e38))}

    @pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 1), (1, 1, 5)], ids=str)
    def test_smallest_recordings_are_shown(self, shape: tuple[int, int, int]) -> None:
        values = random(5, *shape)
        look = looking(planted(values), [shape[1]])
        assert look.about()["layers"][0]["units"] == shape[2]
        for order in module.ORDERS:
            found = look.window(asked(stop=shape[1], last=shape[2], rows=9, order=order))
            np.testing.assert_array_equal(np.sort(found["maps"]["l0.cell"], 0), np.sort(values[0].T, 0))


class TestUnit:
    @pytest.mark.parametrize("columns", [3, 400])
    def test_lowest_and_highest_value_in_every_column(self, columns: int) -> None:
        values = random(6, 1, 333, 3)
        found = looking(planted(values), [333]).unit(asked(start=5, stop=333, columns=columns, unit=2))
        for c in range(len(found["low"]["l0.cell"])):
            begin = found["start"] + c * found["span"]
            part = values[0, begin : begin + found["span"], 2]
            assert found["low"]["l0.cell"][c] == part.min()
            assert found["high"]["l0.cell"][c] == part.max()

    def test_states_share_their_columns(self) -> None:
        look = looking(planted(l0__cell=random(0, 1, 90, 2), l0__hidden=random(1, 1, 90, 2)), [90])
        found = look.unit(asked(stop=90, columns=5, names=["l0.cell", "l0.hidden"], unit=1))
        assert found["low"].keys() == found["high"].keys() == {"l0.cell", "l0.hidden"}
        assert {bound.shape for side in ("low", "high") for bound in found[side].values()} == {
            (-(-90 // found["span"]),)
        }
