"""What a page asks for is taken as it is or refused by name, whatever it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.viewer.asked import Asked

# Whatever JSON can hold, and what no JSON holds besides.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
READINGS: dict[str, Callable[[Asked], Any]] = {
    "whole": lambda asked: asked.whole("x", -2, 7),
    "figure": lambda asked: asked.figure("x"),
    "text": lambda asked: asked.text("x", 3),
    "one": lambda asked: asked.one("x", ["a", ""]),
    "some": lambda asked: asked.some("x", ["a", ""]),
    "wholes": lambda asked: asked.wholes("x", -2, 7),
    "parts": lambda asked: asked.parts("x"),
}


def fits(kind: str, value: Any) -> bool:
    """What each reading takes, said another way."""
    if kind == "whole":
        return not isinstance(value, bool) and isinstance(value, int) and value in range(-2, 8)
    if kind == "figure":
        return not isinstance(value, bool) and isinstance(value, (int, float)) and abs(value) <= 1.7e308
    if kind == "text":
        return isinstance(value, str) and len(value) in (1, 2, 3)
    if kind == "one":
        return isinstance(value, str) and value in ("a", "")
    inner = {"some": "one", "wholes": "whole"}.get(kind)
    listed = isinstance(value, list) and len(value) > 0
    return listed and all(isinstance(v, dict) if inner is None else fits(inner, v) for v in value)


@given(value=ANYTHING)
@pytest.mark.parametrize("kind", READINGS)
def test_anything_is_taken_or_refused_by_name(kind: str, value: Any) -> None:
    if not fits(kind, value):
        with pytest.raises(ValueError, match=r"^x: given "):
            READINGS[kind](Asked({"x": value}))
        return
    found = READINGS[kind](Asked({"x": value}))
    if kind == "parts":
        assert len(found) == len(value)
    else:
        assert found == value
        assert type(found) is (float if kind == "figure" else type(value))


@pytest.mark.parametrize("kind", READINGS)
def test_what_is_absent_is_refused_by_name(kind: str) -> None:
    with pytest.raises(ValueError, match="^x: given None"):
        READINGS[kind](Asked({}))


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize("kind", READINGS)
@pytest.mark.parametrize(
    "value",
    [10**400, 10**5000, deep(50_000), "\ud800" * 4, "a" * 100_000, math.nan, -math.inf, True],
    ids=["digits", "more digits", "deep", "surrogates", "long", "nan", "infinite", "true"],
)
def test_monsters_are_refused_in_one_short_line(kind: str, value: Any) -> None:
    if kind in ("wholes", "some", "parts") and isinstance(value, list):
        value = [value]
    with pytest.raises(ValueError, match="^x: given ") as error:
        READINGS[kind](Asked({"x": value}))
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


def test_lists_are_bounded() -> None:
    assert Asked({"x": [1] * 5}).wholes("x", 0, 1, most=5) == [1] * 5
    for ask in (lambda a: a.wholes("x", 0, 1, most=5), lambda a: a.parts("x", most=5)):
        with pytest.raises(ValueError, match="^x: given .* list of 1 to 5"):
            ask(Asked({"x": [1] * 6}))


def test_parts_are_read_as_they_stand_and_name_what_is_wrong_in_them() -> None:
    first, second = Asked({"units": [{"n": 1}, {"n": 9}]}).parts("units")
    assert first.whole("n", 0, 5) == 1
    with pytest.raises(ValueError, match="^n: given 9, expected a whole number from 0 to 5"):
        second.whole("n", 0, 5)


def test_null_is_as_if_nothing_were_given() -> None:
    assert "x" not in Asked({"x": None})
    assert "x" not in Asked({})
    assert "x" in Asked({"x": 0})


@given(start=st.integers(-2, 12), stop=st.integers(-2, 12), length=st.integers(1, 10))
def test_span_lies_within_the_sequence(start: int, stop: int, length: int) -> None:
    asked = Asked({"start": start, "stop": stop})
    if 0 <= start < stop <= length:
        assert asked.span(length) == (start, stop)
    else:
        with pytest.raises(ValueError, match="^(start|stop): given"):
            asked.span(length)


def test_sequence_without_steps_has_no_span() -> None:
    with pytest.raises(ValueError, match="^stop: given 1"):
        Asked({"start": 0, "stop": 1}).span(0)
