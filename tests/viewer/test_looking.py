"""What the track, the text and the words are given is what was recorded: exact, and to the end of each sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from looked_at import asked, looking
from planted_traces import planted, random

pytest.importorskip("bokeh")
pytest.importorskip("scipy")

from unrolled.viewer import looking as module
from unrolled.viewer.asked import Asked
from unrolled.viewer.looking import Looking
from unrolled.viewer.recorded import Characters, Label, Values
from unrolled.viewer.serving.packing import pack, unpack

NAN = np.float32("nan")


def read_by(values: Any, channels: Sequence[str] = ("a", "b"), **more: Any) -> Looking:
    steps = values.shape[1]
    return looking(
        planted(random(0, *values.shape[:2], 2)), [steps] * len(values), read=Values(values, tuple(channels), **more)
    )


class TestTrack:
    def test_label_of_a_column_is_its_highest_value(self) -> None:
        depth = np.random.default_rng(0).integers(-1, 6, (1, 100))
        look = looking(planted(random(0, 1, 100, 2)), [100], labels=(Label("depth", depth),))
        for start, stop, columns in ((0, 100, 10), (3, 98, 7), (99, 100, 1), (0, 100, 4096), (50, 51, 40)):
            found = look.track(asked(start=start, stop=stop, columns=columns))
            span = found["span"]
            assert found["start"] == start // span * span
            expected = [depth[0, at : min(at + span, stop)].max() for at in range(found["start"], stop, span)]
            assert found["labels"]["depth"].tolist() == expected
            assert len(expected) <= columns + 1

    def test_characters_are_those_of_the_steps(self) -> None:
        text = "a<b>\n\t\f\x00é😀\ud800" * 3
        look = looking(planted(random(0, 1, len(text), 2)), [len(text)], read=Characters((text,)))
        assert look.track(asked(start=4, stop=17))["text"] == text[4:17]
        assert look.track(asked(stop=len(text), columns=2))["text"] == text

    def test_text_too_long_to_be_read_is_left_out(self) -> None:
        most = module.MOST_CHARACTERS
        look = looking(planted(random(0, 1, most + 1, 1)), [most + 1], read=Characters(("x" * (most + 1),)))
        assert look.track(asked(stop=most + 1))["text"] is None
        assert look.track(asked(start=1, stop=most + 1))["text"] == "x" * most

    def test_channels_are_in_their_own_spread(self) -> None:
        values = np.stack([np.arange(100.0), 1e6 + np.arange(100.0) % 2], -1)[None].astype(np.float32)
        found = read_by(values).track(asked(stop=100, columns=100))["channels"]
        assert found["names"] == ["a", "b"]
        np.testing.assert_array_equal(found["low"], found["high"])
        np.testing.assert_allclose(found["low"].std(1), 1, rtol=1e-5)
        np.testing.assert_allclose(found["low"].mean(1), 0, atol=1e-5)
        few = read_by(values).track(asked(stop=100, columns=10))
        assert few["channels"]["low"].shape == (2, 10)
        np.testing.assert_allclose(few["channels"]["low"][1], -1, atol=1e-5)
        np.testing.assert_allclose(few["channels"]["high"][1], 1, atol=1e-5)

    def test_missing_values_are_left_out_of_spread_and_columns(self) -> None:
        values = np.stack([np.arange(100.0) % 2, np.full(100, np.nan)], -1)[None].astype(np.float32)
        values[0, 10:25, 0] = np.nan
        channels = read_by(values).track(asked(stop=100, columns=10))["channels"]
        for bound, value in (("low", -1), ("high", 1)):
            assert np.isnan(channels[bound][1]).all()
            # Only the column of steps 10 to 19 has nothing at all.
            assert np.flatnonzero(np.isnan(channels[bound][0])).tolist() == [1]
            # 42 ones of 85.
            np.testing.assert_allclose(channels[bound][0, 2:], value, atol=0.02)

    def test_columns_of_channels_are_those_of_labels(self) -> None:
        values = np.arange(100, dtype=np.float32)[None, :, None]
        look = looking(
            planted(random(0, 1, 100, 1)),
            [100],
            read=Values(values, ("a",)),
            labels=(Label("step", np.arange(100)[None]),),
        )
        found = look.track(asked(start=13, stop=98, columns=10))
        assert (found["start"], found["span"]) == (9, 9)
        for bound, step in (("low", np.arange(9, 98, 9)), ("high", found["labels"]["step"])):
            shown = found["channels"][bound][0] * values.std() + values.mean()
            np.testing.assert_allclose(shown, step, atol=1e-3)

    def test_channel_that_never_changes_lies_at_zero(self) -> None:
        values = np.full((1, 50, 1), 0.1, np.float32)
        found = read_by(values, ["a"]).track(asked(stop=50))["channels"]
        assert not found["low"].any()
        assert not found["high"].any()

    def test_what_stands_after_the_end_does_not_count(self) -> None:
        values = np.zeros((2, 20, 1), np.float32)
        values[0, ::2] = 1
        values[1, 10:] = 1e6
        look = looking(planted(random(0, 2, 20, 2)), [20, 10], read=Values(values, ("a",)))
        # A third of all steps are ones.
        shown = look.track(asked(columns=20))["channels"]["high"][0]
        np.testing.assert_allclose(shown[:2], [2**0.5, -(0.5**0.5)], rtol=1e-6)


class TestText:
    def test_values_are_exact_and_the_range_is_of_the_whole_sequence(self) -> None:
        values = random(7, 2, 500, 3)
        texts = ("ab" * 250, "c" * 77)
        look = looking(planted(values, lengths=[500, 77]), [500, 77], read=Characters(texts))
        for sequence, start, stop in ((0, 100, 200), (1, 70, 77), (1, 0, 1)):
            found = look.text(asked(sequence=sequence, start=start, stop=stop, name="l0.cell", unit=2))
            assert found["text"] == texts[sequence][start:stop]
            np.testing.assert_array_equal(found["values"], values[sequence, start:stop, 2])
            part = values[sequence, : len(texts[sequence]), 2]
            assert (found["low"], found["high"]) == (part.min(), part.max())

    def test_one_missing_value_does_not_hide_the_range(self) -> None:
        values = random(8, 1, 5000, 2)
        values[0, 17, 0] = NAN
        values[0, :, 1] = NAN
        look = looking(planted(values), [5000], read=Characters(("x" * 5000,)))
        found = look.text(asked(name="l0.cell", unit=0))
        assert (found["low"], found["high"]) == (np.nanmin(values[0, :, 0]), np.nanmax(values[0, :, 0]))
        nothing = look.text(asked(name="l0.cell", unit=1))
        assert (nothing["low"], nothing["high"]) == (0, 0)
        assert np.isnan(nothing["values"]).all()

    def test_recording_that_read_no_text_says_so(self) -> None:
        with pytest.raises(ValueError, match="^text: what this recording read is not known as text"):
            looking(planted(random(0, 1, 20, 2)), [20]).text(asked(name="l0.cell", unit=0))

    def test_text_is_bounded(self) -> None:
        most = module.MOST_CHARACTERS
        look = looking(planted(random(0, 1, most + 1, 1)), [most + 1], read=Characters(("x" * (most + 1),)))
        with pytest.raises(ValueError, match=f"^stop: {most + 1} steps from start, expected {most} at most"):
            look.text(asked(stop=most + 1, name="l0.cell", unit=0))


class TestFind:
    @pytest.fixture
    def look(self) -> Looking:
        texts = ("ab<b>ab😀\nab", "ab")
        return looking(planted(random(0, 2, 11, 2), lengths=[11, 2]), [11, 2], read=Characters(texts))

    @pytest.mark.parametrize(
        ("text", "after", "step"),
        [
            ("ab", -1, 0),
            ("ab", 0, 5),
            ("ab", 5, 9),
            ("ab", 9, 0),
            ("ab", 11, 0),
            ("<b>", 8, 2),
            ("😀\n", -1, 7),
            ("abx", -1, None),
        ],
    )
    def test_next_place_is_found_around_the_end(self, look: Looking, text: str, after: int, step: int | None) -> None:
        assert look.find(Asked({"sequence": 0, "text": text, "after": after})) == {"step": step}

    def test_only_the_sequence_is_searched(self, look: Looking) -> None:
        assert look.find(Asked({"sequence": 1, "text": "ab", "after": 0})) == {"step": 0}
        assert look.find(Asked({"sequence": 1, "text": "b<", "after": 0})) == {"step": None}

    def test_recording_that_read_no_text_says_so(self) -> None:
        with pytest.raises(ValueError, match="^text: what this recording read is not known as text"):
            looking(planted(random(0, 1, 20, 2)), [20]).find(Asked({"sequence": 0, "text": "a", "after": 0}))

    def test_text_that_is_looked_for_is_bounded(self, look: Looking) -> None:
        asked = {"sequence": 0, "after": -1}
        assert look.find(Asked(asked | {"text": "x" * module.MOST_SOUGHT})) == {"step": None}
        for text in ("", "x" * (module.MOST_SOUGHT + 1), None, 3, ["a"]):
            with pytest.raises(ValueError, match="^text: given .* expected a text of 1 to"):
                look.find(Asked(asked | {"text": text}))


class TestExact:
    def test_one_step_of_one_unit_has_every_state_and_label(self) -> None:
        cell, hidden = random(0, 1, 20, 3), random(1, 1, 20, 3)
        labels = (Label("depth", np.arange(20)[None]), Label("kind", np.full((1, 20), -1), ("x",)))
        labels += (Label("class", np.ones((1, 20), np.int64), ("left", "right")),)
        text = "abcdefghijklmnopqrst"
        look = looking(planted(l0__cell=cell, l0__hidden=hidden), [20], labels=labels, read=Characters((text,)))
        found = look.exact(asked(start=7, stop=8, units=[2]))
        assert found["values"] == {"cell": float(cell[0, 7, 2]), "hidden": float(hidden[0, 7, 2])}
        assert found["labels"] == {"depth": "7", "kind": "not defined", "class": "right"}
        assert found["text"] == "h"

    def test_one_step_has_the_values_read_and_their_time(self) -> None:
        values = np.float32([[[1.5, np.nan], [2.5, 3.5]]])
        look = read_by(values, times=(("monday", "<tuesday>"),))
        assert look.exact(asked(start=1, stop=2)) == {
            "text": None,
            "labels": {},
            "channels": {"a": 1.5 + 1, "b": 3.5},
            "time": "<tuesday>",
        }
        first = unpack(pack(look.exact(asked(start=0, stop=1))))["channels"]
        assert math.isnan(first["b"])
        assert "time" in read_by(values).exact(asked(start=1, stop=2))

    @given(
        start=st.integers(0, 599),
        steps=st.integers(1, 600),
        units=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    )
    def test_extremes_of_several_are_where_they_are_said_to_be(self, start: int, steps: int, units: list[int]) -> None:
        values = random(9, 1, 600, 4)
        values[0, 100:103] = NAN
        stop = min(600, start + steps)
        if stop - start == len(units) == 1:
            return
        look = looking(planted(values), [600])
        found = look.exact(asked(start=start, stop=stop, units=units, name="l0.cell"))
        part = values[0, start:stop][:, units]
        if np.isnan(part).all():
            assert math.isnan(found["low"])
            assert math.isnan(found["high"])
            return
        for bound, value in (("low", np.nanmin(part)), ("high", np.nanmax(part))):
            step, unit = found[f"{bound}_at"]
            assert found[bound] == value == values[0, step, unit]
            assert start <= step < stop
            assert unit in units

    def test_extremes_of_more_steps_than_are_read_at_once(self) -> None:
        steps = 2 * module.FOR_ORDERS + 3
        values = random(0, 1, steps, 2)
        values[0, -1, 1], values[0, module.FOR_ORDERS, 0] = 50, -50
        values[0, : module.FOR_ORDERS] = NAN
        found = looking(planted(values), [steps]).exact(asked(stop=steps, units=[1, 0], name="l0.cell"))
        assert (found["high"], found["high_at"]) == (50, [steps - 1, 1])
        assert (found["low"], found["low_at"]) == (-50, [module.FOR_ORDERS, 0])


class TestAbout:
    def test_page_is_told_what_there_is(self) -> None:
        labels = (
            Label("in_string", np.zeros((2, 20), np.int64)),
            Label("kind", np.ones((2, 20), np.int64), ("a", "b")),
        )
        look = looking(
            planted(random(0, 2, 20, 3), lengths=[20, 8]), [20, 8], labels=labels, read=Characters(("x" * 20, "y" * 8))
        )
        found = unpack(pack(look.about()))
        assert found["kind"] == "characters"
        assert found["sequences"] == [{"length": 20, "title": "0: b"}, {"length": 8, "title": "1: b"}]
        assert [label["name"] for label in found["labels"]] == ["in_string", "kind"]
        assert found["labels"][0]["binary"]
        assert found["labels"][1]["names"] == ["a", "b"]
        assert {name: found["start"][name] for name in ("layer", "state", "stop")} == {
            "layer": "l0",
            "state": "cell",
            "stop": 20,
        }
        assert not found["model"]

    def test_long_text_opens_at_its_beginning_and_figures_as_a_whole(self) -> None:
        steps = 3000
        trace = planted(random(0, 1, steps, 1))
        for read, stop in (
            (Characters(("x" * steps,)), module.AT_FIRST),
            (Values(random(0, 1, steps, 1), ("a",)), steps),
            (None, steps),
        ):
            assert looking(trace, [steps], read=read).about()["start"]["stop"] == stop

    def test_sequence_without_steps_is_listed_and_has_no_window(self) -> None:
        labels = (Label("class", np.zeros((2, 5), np.int64), ("a",)),)
        look = looking(planted(random(0, 2, 5, 2), lengths=[5, 0]), [5, 0], labels=labels)
        assert [one["title"] for one in look.about()["sequences"]] == ["0: a", "1"]
        with pytest.raises(ValueError, match="^stop: given 5"):
            look.window(asked(sequence=1, stop=5))
