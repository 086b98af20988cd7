"""Running a trained network again from its page, beside the same in Python: gradients, changes, instruments."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from driving import Driver, expect, number
from processes import Viewing
from unrolled.viewer.opening import open_path
from unrolled.viewer.recorded import Recorded
from unrolled.viewer.replaying.effects import Change, effect
from unrolled.viewer.replaying.gradients import gradient
from unrolled.viewer.service import Opened

STEP = 320


@pytest.fixture(scope="module")
def run(code_run: Path) -> Opened:
    found = open_path(code_run)
    assert isinstance(found, Recorded)
    return Opened(found)


@pytest.fixture
def marked(opened: Callable[..., Driver], code_viewing: Viewing) -> Driver:
    """The page with a step marked by a click on its character."""
    page = opened(code_viewing.url)
    page.page.locator(f"#text span[data-step='{STEP}']").click()
    expect(page["reading"]).to_have_text(re.compile(f"Step {STEP}, character"))
    return page


def test_gradient_of_the_marked_step_is_drawn_and_is_that_of_python(marked: Driver, run: Opened) -> None:
    page = marked
    page.tab("replaying")
    expect(page["run-gradient"]).to_be_enabled()
    page["gradient-back"].fill("40")
    page["run-gradient"].click()
    said = page.said("gradient-said", f"at step {STEP}")
    found = gradient(run.replay, sequence=0, step=STEP, output=None, back=40)
    drawn = page.curves("gradient")
    expected = [*found.curves.values(), *found.direct.values()]
    assert len(drawn) == len(expected)
    for ours, theirs in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(ours, np.where(theirs > 0, theirs, np.nan), rtol=1e-5)
    assert page.visible("gradient")
    assert f"gradient of {found.output} at step {STEP}" in page.title("gradient")
    assert said.startswith(f"{found.output} at step {STEP} is")
    assert number(said.partition(" is ")[2]) == pytest.approx(found.value, abs=6e-5)
    # Of a chosen output too, by key.
    page["gradient-output"].select_option("3")
    page["maps"].focus()
    page.press("g")
    other = gradient(run.replay, sequence=0, step=STEP, output=3, back=40)
    # A space at the end would not be seen.
    page.said("gradient-said", re.escape(re.sub(r" $", "\u00b7", other.output)))
    np.testing.assert_allclose(page.curves("gradient")[0], next(iter(other.curves.values())), rtol=1e-5)
    # The steps before are in view, and those that are marked are where they were.
    start, end = page.view
    assert start <= found.start < found.stop <= end


def test_effect_of_an_ablated_unit_is_drawn_and_is_that_of_python(marked: Driver, run: Opened) -> None:
    page = marked
    page["pick-unit"].fill("17")
    page["pick-unit"].press("Enter")
    page.tab("replaying")
    page["change-after"].fill("30")
    page["run-effect"].click()
    said = page.said("effect-said", "Over")
    state = page["pick-state"].input_value()
    name = next(name for name in run.recorded.trace if name.endswith(f".{state}"))
    change = Change(kind="ablate", name=name, units=(17,), steps=(STEP, STEP + 1))
    found = effect(run.replay, [change], sequence=0, after=30, at=STEP)
    for ours, theirs in zip(page.curves("effect"), (found.original, found.changed, found.divergence), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert f"Over {found.stop - found.start} steps" in said
    for (_, before, after), a, b in zip(page.rows("answers"), found.top.before, found.top.after, strict=True):
        assert [number(before), number(after)] == pytest.approx([100 * a, 100 * b], abs=0.006)
    # Another kind of change asks for its own fields, and a wrong one is told.
    page["change-kind"].select_option("patch")
    expect(page["patch-fields"]).to_be_visible()
    page["patch-step"].fill("123456")
    page["run-effect"].click()
    expect(page["effect-running"].get_by_role("alert")).to_contain_text("source_start")
    page.watch.expected("400 (Bad Request)")
    page["change-kind"].select_option("clamp")
    page["change-value"].fill("2.5")
    page["run-effect"].click()
    clamped = effect(
        run.replay,
        [Change(kind="clamp", name=name, units=(17,), steps=(STEP, STEP + 1), value=2.5)],
        sequence=0,
        after=30,
        at=STEP,
    )
    expect(page["effect-running"]).to_be_hidden()
    np.testing.assert_allclose(page.curves("effect")[1], clamped.changed, rtol=1e-4, atol=1e-6)


def test_instrument_shows_its_figure_and_says_what_it_found(marked: Driver) -> None:
    page = marked
    page.tab("measuring")
    of = page.page.locator("article", has_text="How much of the past is used")
    of.get_by_role("button", name="measure").click()
    expect(of.locator(".found figure canvas").first).to_be_visible()
    expect(of.locator(".found")).to_contain_text("Took")
    expect(of.locator(".running")).to_be_hidden()
    # What cannot be measured here says why, and cannot be asked for.
    never = page.page.locator("article", has_text="Not here:").first
    expect(never.get_by_role("button")).to_be_disabled()


def test_instrument_tells_how_far_it_is_and_can_be_stopped(marked: Driver) -> None:
    page = marked
    page.tab("measuring")
    slow = page.page.locator("article", has=page.page.get_by_label("measure: Where the network comes to rest"))
    slow.get_by_role("button", name="measure").click()
    expect(slow.get_by_role("progressbar")).to_be_visible()
    expect(slow.locator(".running")).to_contain_text(re.compile(r"\d s"))
    slow.get_by_role("button", name="stop").click()
    expect(slow.locator(".running")).to_have_text("Stopped.")
    expect(slow.locator(".found")).to_be_empty()
    # Another is measured after it.
    of = page.page.locator("article", has_text="How much of the past is used")
    of.get_by_role("button", name="measure").click()
    expect(of.locator(".found")).to_contain_text("Took", timeout=120_000)
