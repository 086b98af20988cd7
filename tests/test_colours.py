"""Colours of states: even in steps seen, told apart in colour blindness, and neutral where a value is zero."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

pytest.importorskip("bokeh")

from unrolled.drawing.colours import PALETTES, blended, channels, lab, scale_of
from unrolled.views.resources import VIEWS, resource

DIVERGING = ("diverging", "diverging-dark")

# What is seen of linear red, green and blue: the matrices for severity 1.0 of Machado, Oliveira & Fernandes (2009), "A
# physiologically-based model for simulation of color vision deficiency", IEEE TVCG 15 (6).
SEEN = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def arms(name: str) -> list[list[str]]:
    """From the middle to either end."""
    colours = PALETTES[name]
    middle = len(colours) // 2
    return [colours[middle::-1], colours[middle:]]


def distances(colours: list[str]) -> np.ndarray:
    """CIE 1976 distances of neighbours."""
    return np.linalg.norm(np.diff(lab(channels(colours)), axis=0), axis=1)


def rounded_by(colours: list[str]) -> np.ndarray:
    """(N,) how far a colour can be from what it was before it was rounded to 8 bits."""
    given = channels(colours)
    corners = [given + half for half in itertools.product((-0.5, 0.5), repeat=3)]
    return np.max([np.linalg.norm(lab(corner.clip(0, 255)) - lab(given), axis=1) for corner in corners], axis=0)


def seen(kind: str, colours: list[str]) -> np.ndarray:
    """(N, 3) L*a*b* of what is seen with a deficiency, by way of linear light."""
    part = channels(colours) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    left = (linear @ np.array(SEEN[kind]).T).clip(0, 1)
    return lab(255 * np.where(left <= 0.0031308, 12.92 * left, 1.055 * left ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        # Lindbloom's colour calculator, sRGB and D65.
        ("#ffffff", (100, 0, 0)),
        ("#000000", (0, 0, 0)),
        ("#ff0000", (53.24, 80.09, 67.20)),
        ("#00ff00", (87.73, -86.18, 83.18)),
        ("#0000ff", (32.30, 79.19, -107.86)),
        ("#808080", (53.59, 0, 0)),
    ],
)
def test_lab_of_known_colours(colour: str, expected: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(lab(channels([colour]))[0], expected, atol=0.03)


@pytest.mark.parametrize("name", DIVERGING)
def test_steps_of_an_arm_look_equally_large(name: str) -> None:
    for arm in arms(name):
        # Of every eighth: a single step is hardly larger than what rounding to 8 bits does to it.
        steps, rounding = distances(arm[::8]), rounded_by(arm[::8])
        allowed = 0.01 * steps.mean() + rounding[:-1] + rounding[1:]
        assert (np.abs(steps - steps.mean()) < allowed).all(), steps
        assert steps.max() / steps.min() < 1.2


@pytest.mark.parametrize("name", DIVERGING)
def test_lightness_falls_or_rises_all_along_an_arm(name: str) -> None:
    for arm in arms(name):
        lightness = lab(channels(arm[::4]))[:, 0]
        changes = np.diff(lightness)
        assert (changes < 0).all() if name == "diverging" else (changes > 0).all()
        assert abs(lightness[-1] - lightness[0]) > 40


@pytest.mark.parametrize("name", DIVERGING)
def test_middle_is_neutral_and_single(name: str) -> None:
    colours = PALETTES[name]
    assert len(colours) == 255
    assert len(set(colours)) > 240
    _, a, b = lab(channels([colours[127]]))[0]
    assert np.hypot(a, b) < 6
    assert colours.count(colours[127]) == 1
    # On the page's own ground, light or dark.
    lightness = lab(channels([colours[127]]))[0, 0]
    assert lightness > 95 if name == "diverging" else lightness < 15


@pytest.mark.parametrize("kind", SEEN)
@pytest.mark.parametrize("name", DIVERGING)
def test_signs_are_told_apart_in_colour_blindness(name: str, kind: str) -> None:
    below, above = arms(name)
    # Also half-way and a quarter of the way to the ends, where both arms are equally light.
    for at in (32, 64, 96, 127):
        apart = np.linalg.norm(np.subtract(*seen(kind, [below[at], above[at]])))
        assert apart > 25, (at, apart)


@pytest.mark.parametrize("kind", SEEN)
@pytest.mark.parametrize("name", [*DIVERGING, "sequential"])
def test_size_is_told_in_colour_blindness(name: str, kind: str) -> None:
    whole = [PALETTES[name]] if name == "sequential" else arms(name)
    for arm in whole:
        lightness = seen(kind, arm[::8])[:, 0]
        changes = np.diff(lightness)
        assert (changes > 0).all() or (changes < 0).all()


def test_white_and_grey_are_seen_by_everybody_as_they_are() -> None:
    for kind in SEEN:
        np.testing.assert_allclose(seen(kind, ["#ffffff", "#808080"]), lab(channels(["#ffffff", "#808080"])), atol=0.05)


def test_blend_goes_from_the_first_to_the_last_through_every_anchor() -> None:
    assert blended(("#000000", "#ffffff"), 2) == ["#000000", "#ffffff"]
    greys = blended(("#000000", "#ffffff"), 11)
    np.testing.assert_allclose(lab(channels(greys))[:, 0], np.arange(0, 101, 10), atol=0.5)
    bent = channels(blended(("#ff0000", "#0000ff", "#00ff00"), 301))
    assert np.abs(bent - [0, 0, 255]).sum(axis=1).min() < 6


@pytest.mark.parametrize("name", [*DIVERGING, "sequential"])
def test_colours_are_written_as_browsers_read_them(name: str) -> None:
    for colour in PALETTES[name]:
        assert len(colour) == 7
        assert colour[0] == "#"
        int(colour[1:], 16)


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("name", "values", "scale"),
    [
        ("forget_gate", [[-3.0, 5.0]], ("sequential", 0, 1)),
        ("hidden", [[0.001, -0.5]], ("diverging", -1, 1)),
        ("candidate", [[1.0]], ("diverging", -1, 1)),
        ("cell", [[0.0]], ("diverging", -1, 1)),
        ("cell", [[NAN]], ("diverging", -1, 1)),
        ("cell", [[INF, -INF]], ("diverging", -1, 1)),
        ("hidden", [[NAN, 2.0]], ("diverging", -2, 2)),
        ("cell", [[0.28, -0.28]], ("diverging", -0.3, 0.3)),
        ("cell", [[1e-30]], ("diverging", -1e-30, 1e-30)),
        ("cell", [[-2.9e38]], ("diverging", -3e38, 3e38)),
        ("cell", np.zeros((0, 3)), ("diverging", -1, 1)),
    ],
    ids=str,
)
def test_scale_has_room_on_both_sides_of_zero(name: str, values: object, scale: tuple[str, float, float]) -> None:
    palette, bottom, top = scale_of(name, np.array(values, np.float32))
    assert palette == scale[0]
    assert (bottom, top) == pytest.approx(scale[1:], rel=1e-6)


@pytest.mark.parametrize("kind", ["nothing", *SEEN])
def test_lines_of_a_unit_differ_by_dash_where_colour_does_not_tell_them_apart(kind: str) -> None:
    script = resource("words.js", VIEWS)
    looks = re.findall(r'^    (\w+): \["(#[0-9a-f]{6})", (\[[^\]]*\])\],$', script, re.MULTILINE)
    assert {"cell", "hidden", "forget_gate", "update_gate"} <= {state for state, _, _ in looks}
    lstm = ["cell", "hidden", "input_gate", "forget_gate", "candidate", "output_gate"]
    gru = ["hidden", "reset_gate", "update_gate", "candidate"]
    of = {state: (colour, dash) for state, colour, dash in looks}
    for states in (lstm, gru):
        for one, other in itertools.combinations(states, 2):
            (first, dash), (second, other_dash) = of[one], of[other]
            colours = [first, second]
            apart = np.linalg.norm(np.subtract(*(lab(channels(colours)) if kind == "nothing" else seen(kind, colours))))
            assert dash != other_dash or apart > 30, (one, other)
