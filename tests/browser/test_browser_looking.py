"""The views themselves: exact values under the pointer, orders, maps, curves, keys, dark and light, and every width."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from driving import Driver, expect, number
from processes import Viewing
from unrolled.trace import Trace
from unrolled.viewer.asked import Asked
from unrolled.viewer.looking import Looking
from unrolled.viewer.opening import open_path
from unrolled.viewer.recorded import Recorded

UNITS = 128
STATES = ("cell", "hidden", "input_gate", "forget_gate", "candidate", "output_gate")


@pytest.fixture(scope="module")
def recorded(code_run: Path) -> Recorded:
    found = open_path(code_run)
    assert isinstance(found, Recorded)
    return found


@pytest.fixture
def page(opened: Callable[..., Driver], code_viewing: Viewing) -> Driver:
    return opened(code_viewing.url)


def values(trace: Trace, state: str) -> NDArray[np.float32]:
    """(T, H)"""
    found: NDArray[np.float32] = next(trace[name] for name in trace if name.endswith(f".{state}"))[0].numpy()
    return found


def as_shown(value: float) -> object:
    """A value to the digits that are shown: four, or three significant ones of what is smaller."""
    return pytest.approx(value, abs=5.1e-5 if abs(value) >= 5e-5 else 0.006 * abs(value))


def told(lines: list[str], name: str) -> float:
    found = [line for line in lines if line.startswith(f"{name}: ")]
    assert len(found) == 1, lines
    return number(found[0].partition(": ")[2])


def order_of(page: Driver, by: str) -> None:
    """Choose an order of units, and wait for the answer: one that was not asked for before takes its time."""
    with page.page.expect_response("**/api/order"):
        page["pick-order"].select_option(by)
    page.page.wait_for_timeout(150)
    page.settled()


@pytest.mark.parametrize(
    ("step", "unit"), [(0, 0), (0, UNITS - 1), (9999, 0), (9999, UNITS - 1), (500, 37), (7123, 64)], ids=str
)
def test_pointer_shows_the_recorded_values_of_one_step_of_one_unit(
    page: Driver, recorded: Recorded, step: int, unit: int
) -> None:
    order_of(page, "index")
    start = min(max(step - 30, 0), 9940)
    page.show(start, start + 60)
    lines = page.point("upper", step + 0.5, UNITS - 1 - unit + 0.5)
    assert lines[0].startswith(f"step {step:,}")
    its = int(number(next(line for line in lines if line.startswith("unit "))))
    assert abs(its - unit) <= 1  # a unit is about a pixel high
    for state in STATES:
        assert told(lines, state.replace("_", " ")) == as_shown(float(values(recorded.trace, state)[step, its]))
    for label in recorded.labels:
        value = label.values[0, step]
        assert f"{label.name.replace('_', ' ')}: {value if value >= 0 else 'not defined'}" in lines


def test_pointer_shows_the_extremes_of_what_a_dot_stands_for(page: Driver, recorded: Recorded) -> None:
    order_of(page, "index")
    page["zoom-whole"].click()
    page.drawn(0, 10_000)
    for plot, state in (("upper", "cell"), ("lower", "hidden")):
        for step, unit in ((40, 3), (5000, 64), (9990, 120)):
            lines = page.point(plot, step, UNITS - 1 - unit + 0.5)
            found = re.match(r"steps ([\d,]+)\u2013([\d,]+)", lines[0])
            assert found is not None, lines
            start, last = (int(part.replace(",", "")) for part in found.groups())
            assert start <= step <= last + 1
            units = [int(part) for part in re.findall(r"\d+", lines[1])]
            part = values(recorded.trace, state)[start : last + 1][:, units]
            for line, best in ((lines[2], part.min()), (lines[3], part.max())):
                said = re.fullmatch(r"(?:lowest|highest) (\S+) \(step ([\d,]+), unit (\d+)\)", line)
                assert said is not None, line
                assert number(said[1]) == as_shown(float(best))
                at, its = int(said[2].replace(",", "")), int(said[3])
                assert values(recorded.trace, state)[at, its] == best
                assert start <= at <= last
                assert its in units


def test_pointer_shows_the_unit_of_its_row_in_every_order(page: Driver, recorded: Recorded) -> None:
    looking = Looking(recorded)
    layer = looking.layers[0]["name"]
    page.show(400, 460)
    for by in ("timescale", "similarity", "index"):
        order_of(page, by)
        order = looking.order(Asked({"layer": layer, "by": by}))
        assert sorted(order) == list(range(UNITS))
        lines = page.point("upper", 420.5, UNITS - 1 - 50 + 0.5)
        unit = int(number(lines[1]))
        assert abs(order.index(unit) - 50) <= 1
        assert told(lines, "cell") == as_shown(float(values(recorded.trace, "cell")[420, unit]))
    looking.close()


def test_click_marks_a_step_and_chooses_the_unit_and_state_of_its_map(page: Driver) -> None:
    order_of(page, "index")
    page.click("lower", 600.5, UNITS - 1 - 20 + 0.5)
    expect(page["pick-state"]).to_have_value("hidden")
    unit = int(page["pick-unit"].input_value())
    assert abs(unit - 20) <= 1
    step = int(number(page["gradient-step"].text_content() or ""))
    assert abs(step - 600) <= 1
    assert page.visible("upper-step")
    assert page.visible("unit-step")


def test_drag_over_the_input_chooses_a_span_and_drag_over_a_map_moves_along(page: Driver) -> None:
    page.show(100, 200)
    page.drag("track", 120.5, 140.5, 0.5)
    expect(page["span-start"]).to_have_value("120")
    expect(page["span-stop"]).to_have_value("140")
    page.drag("upper", 180, 130, 64)
    page.settled()
    start, end = page.view
    assert start == pytest.approx(150, abs=1)
    assert end - start == pytest.approx(100, abs=0.01)


def test_third_map_shows_the_state_that_is_chosen(page: Driver, recorded: Recorded) -> None:
    order_of(page, "index")
    page.show(400, 460)
    for state in ("output_gate", "input_gate"):
        page["pick-third"].select_option(state)
        expect(page["maps"]).to_be_visible()
        page.page.wait_for_timeout(300)
        assert page.title("third").startswith(state.replace("_", " "))
        lines = page.point("third", 430.5, 60.5)
        unit = int(number(lines[1]))
        assert told(lines, state.replace("_", " ")) == as_shown(float(values(recorded.trace, state)[430, unit]))


def test_curves_of_the_states_are_shown_and_those_of_the_gates_when_asked_for(page: Driver) -> None:
    assert len(page.curves("unit")) == 2
    button = page["unit-legend"].get_by_role("button", name="forget gate")
    for pressed, count in (("true", 3), ("false", 2)):
        button.click()
        expect(button).to_have_attribute("aria-pressed", pressed)
        assert len(page.curves("unit")) == count


def test_curves_of_the_unit_are_its_recorded_values(page: Driver, recorded: Recorded) -> None:
    page.show(400, 460)
    page["pick-unit"].fill("77")
    page["pick-unit"].press("Enter")
    for state in STATES[2:]:
        button = page["unit-legend"].get_by_role("button", name=state.replace("_", " "))
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
    page.page.wait_for_timeout(300)
    xs = page.page.evaluate("() => Array.from(Bokeh.documents[0].get_model_by_name('unit-curves').data.xs[0])")
    steps = np.floor(xs).astype(int)
    assert steps[0] <= 400 < 459 <= steps[-1]
    for drawn, state in zip(page.curves("unit"), STATES, strict=True):
        np.testing.assert_array_equal(np.float32(drawn), values(recorded.trace, state)[steps, 77])


def test_plots_are_reached_and_moved_by_keys(page: Driver) -> None:
    page["maps"].focus()
    page.press("Home")
    page.press("ArrowRight", "Shift+ArrowRight", "ArrowLeft")
    expect(page["gradient-step"]).to_have_text("at step 10")
    page.press("[", "ArrowRight", "ArrowRight", "]")
    expect(page["span-start"]).to_have_value("10")
    expect(page["span-stop"]).to_have_value("12")
    start, end = page.view
    page.press("+")
    page.settled()
    assert page.view[1] - page.view[0] == pytest.approx((end - start) / 2, rel=0.01)
    page.press("-")
    page.settled()
    assert page.view[1] - page.view[0] == pytest.approx(end - start, rel=0.01)
    page.press("End")
    page.settled()
    expect(page["gradient-step"]).to_have_text("at step 9,999")
    assert page.view[1] == 10_000
    page.press("PageUp")
    page.settled()
    assert page.view[1] == pytest.approx(10_000 - (end - start))
    page.press("0")
    page.settled()
    assert page.view == (0, 10_000)
    unit = page["pick-unit"].input_value()
    page.press("ArrowDown")
    expect(page["pick-unit"]).not_to_have_value(unit)
    page.press("ArrowUp")
    expect(page["pick-unit"]).to_have_value(unit)
    page.press("Escape")
    expect(page["span-start"]).to_have_value("")
    assert not page.visible("upper-step")
    # Every key is told on the page.
    page["keys-summary"].click()
    for key in ("f", "m", "n", "g", "e", "Home", "Esc", "["):
        assert page["keys"].get_by_text(key, exact=True).count() == 1


def test_tabs_are_moved_between_by_arrow_keys_in_a_ring(page: Driver) -> None:
    page["tab-reading"].focus()
    for name in ("finding", "replaying", "measuring", "reading"):
        page.press("ArrowRight")
        expect(page[f"tab-{name}"]).to_be_focused()
        expect(page[f"panel-{name}"]).to_be_visible()
        assert page.page.locator("[role=tabpanel]:visible").count() == 1
    page.press("ArrowLeft")
    expect(page["tab-measuring"]).to_be_focused()


def ground(page: Driver) -> float:
    """How light the page's ground is, and that of its plots, 0 to 255: the mean over a corner of a plot's side."""
    x, y = page.at("unit", page.view[0], 0)
    shot = page.page.screenshot(clip={"x": x - 60, "y": y - 4, "width": 3, "height": 3})
    from io import BytesIO

    from PIL import Image

    return float(np.asarray(Image.open(BytesIO(shot)).convert("L")).mean())


def test_dark_and_light_follow_the_system_and_then_the_reader(
    opened: Callable[..., Driver], code_viewing: Viewing
) -> None:
    for scheme, dark in (("dark", True), ("light", False)):
        page = opened(code_viewing.url, scheme=scheme)
        root = page.page.locator("html")
        expect(root).to_have_attribute("data-scheme", scheme)
        assert (ground(page) < 80) == dark
        page.page.get_by_role("button", name="dark or light").click()
        other = "light" if dark else "dark"
        expect(root).to_have_attribute("data-scheme", other)
        page.page.wait_for_timeout(300)
        assert (ground(page) < 80) != dark
        # What the reader chose is kept.
        page.page.reload()
        page.drawn()
        expect(root).to_have_attribute("data-scheme", other)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [700, 1400])
def test_every_tab_fits_into_the_window(
    opened: Callable[..., Driver], code_viewing: Viewing, width: int, scheme: str
) -> None:
    page = opened(code_viewing.url, width=width, scheme=scheme)
    page.select_text(40, 50)
    for name in ("reading", "finding", "replaying", "measuring"):
        page.tab(name)
        page.page.wait_for_timeout(150)
        shown, there = page.wide()
        assert shown <= there, name
    page["maps"].focus()
    page.press("f")
    page.said("units-count")
    page["find-followers"].evaluate("(one) => one.click()")
    page.said("followers-said")
    page.press("m")
    page.tab("finding")
    page.page.wait_for_timeout(300)
    shown, there = page.wide()
    assert shown <= there


@pytest.mark.parametrize("width", [700, 1400])
def test_text_in_the_track_does_not_overlap(opened: Callable[..., Driver], code_viewing: Viewing, width: int) -> None:
    page = opened(code_viewing.url, width=width)
    for step in range(8):
        page["zoom-close" if step == 0 else "zoom-out"].click()
        page.settled()
        wide = page.page.evaluate(
            """() => {
              const doc = Bokeh.documents[0];
              const data = doc.get_model_by_name("characters").data;
              const view = Bokeh.index.find_one(doc.get_model_by_name("track"));
              const brush = document.createElement("canvas").getContext("2d");
              brush.font = "13px 'DejaVu Sans Mono', monospace";
              const width = (text) => brush.measureText(text).width;
              const spots = Array.from(data.x, (x, i) => [view.frame.x_scale.compute(x), width(data.text[i])]);
              return spots.slice(1).map(([x, w], i) => x - w / 2 - (spots[i][0] + spots[i][1] / 2));
            }"""
        )
        assert all(gap >= -0.5 for gap in wide), (step, min(wide))
