"""Driving the page as its reader does: pointing at a step and a unit, reading the tip, dragging, keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Dialog, Locator, Page, Request


def expect(locator: Locator) -> Any:
    """Playwright's, which is imported when there is a page: without it tests are skipped, not broken."""
    from playwright.sync_api import expect as expected

    return expected(locator)


# A model of the views by its name; a page may have other documents of Bokeh's.
_MODEL = (
    """const model = (name) => Bokeh.documents.find((one) => one.get_model_by_name("steps")).get_model_by_name(name);"""
)
# Where a place of a plot stands on the screen: of the named figure, at (x, y) of its axes.
_WHERE = f"""([name, x, y]) => {{
  {_MODEL}
  const view = Bokeh.index.find_one(model(name));
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)];
}}"""
_RANGE = f"(name) => {{ {_MODEL} return [model(name).start, model(name).end]; }}"
_SET = f"([name, start, end]) => {{ {_MODEL} model(name).setv({{ start, end }}); }}"
_DATA = f"([name, column]) => {{ {_MODEL} return Array.from(model(name).data[column], (one) => Array.from(one)); }}"
_TITLE = f"(name) => {{ {_MODEL} return model(name).text.text; }}"
_VISIBLE = f"(name) => {{ {_MODEL} return model(name).visible; }}"


class Watch:
    """What went wrong in a page, and what it asked for."""

    def __init__(self, page: Page) -> None:
        self.wrong: list[str] = []
        self.dialogs: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrong.append(f"page error: {error.stack or error}"))
        page.on("dialog", self._dialog)
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        # Of what is asked for faster than it is answered the server drops the older part; a browser tells of every one.
        if message.type in ("error", "warning") and "409 (Conflict)" not in message.text:
            self.wrong.append(f"console {message.type}: {message.text}")

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        self.asked.append(request.url)

    def expected(self, part: str) -> None:
        """Something that was meant to go wrong: it has, and is not held against the page."""
        assert any(part in one for one in self.wrong), self.wrong
        self.wrong = [one for one in self.wrong if part not in one]

    @property
    def elsewhere(self) -> list[str]:
        """Requests that left this machine."""
        here = ("127.0.0.1", "localhost", None)
        return [
            url
            for url in self.asked
            if urlsplit(url).scheme not in ("data", "blob", "file") and urlsplit(url).hostname not in here
        ]


class Driver:
    """A page with a recording in it."""

    def __init__(self, page: Page, watch: Watch) -> None:
        self.page, self.watch = page, watch

    # what there is

    def __getitem__(self, identifier: str) -> Locator:
        return self.page.locator(f"#{identifier}")

    def said(self, identifier: str, pattern: str = r"\S", *, seconds: float = 60) -> str:
        """The text of an element, once it matches."""
        expect(self[identifier]).to_have_text(re.compile(pattern, re.DOTALL), timeout=1000 * seconds)
        return self[identifier].inner_text()

    def rows(self, identifier: str) -> list[list[str]]:
        """The cells of a table's body, once it is shown."""
        expect(self[identifier]).to_be_visible()
        rows: list[list[str]] = self[identifier].evaluate(
            "(table) => Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells, (cell) => cell.textContent))"
        )
        return rows

    @property
    def view(self) -> tuple[float, float]:
        """The steps in view."""
        start, end = self.page.evaluate(_RANGE, "steps")
        return start, end

    def curves(self, name: str) -> list[list[float]]:
        """Heights of a plot's curves, None where there is no number."""
        found: list[list[float]] = self.page.evaluate(_DATA, [f"{name}-curves", "ys"])
        return found

    def title(self, name: str) -> str:
        """The title of a plot."""
        return str(self.page.evaluate(_TITLE, f"{name}-title"))

    def visible(self, name: str) -> bool:
        """Whether a plot, a line or a box is shown."""
        return bool(self.page.evaluate(_VISIBLE, name))

    # waiting

    def drawn(self, start: float | None = None, end: float | None = None) -> None:
        """Wait until the maps are drawn: those in view, or of these steps."""
        maps = self["maps"]
        if start is None or end is None:
            maps.and_(self.page.locator("[data-drawn]")).wait_for()
            self.settled()
            return
        expect(maps).to_have_attribute("data-drawn", re.compile(rf"\d+:{start:g}:{end:g}$"))

    def settled(self) -> None:
        """Wait until what is drawn is what is in view."""
        maps = self["maps"]
        for _ in range(100):
            start, end = self.view
            drawn = (maps.get_attribute("data-drawn") or "0:nan:nan").split(":")
            if (float(drawn[1]), float(drawn[2])) == (start, end):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{self.view} is in view, and drawn is {maps.get_attribute('data-drawn')}")

    # doing

    def show(self, start: float, end: float) -> None:
        """Bring steps into view, as a drag or a wheel would, to the step."""
        self.page.evaluate(_SET, ["steps", start, end])
        self.settled()

    def at(self, plot: str, step: float, height: float) -> tuple[float, float]:
        """Where a place of a plot stands in the window, brought into it."""
        x, y = self.page.evaluate(_WHERE, [plot, step, height])
        high = self.page.viewport_size["height"] if self.page.viewport_size else 0
        if not 0 <= y < high:
            self.page.evaluate("(by) => scrollBy(0, by)", y - high / 2)
            x, y = self.page.evaluate(_WHERE, [plot, step, height])
        return x, y

    def point(self, plot: str, step: float, height: float) -> list[str]:
        """Hold the pointer over a place; the lines of the tip that comes."""
        x, y = self.at(plot, step, height)
        self.page.mouse.move(x - 3, y)
        self["tip"].evaluate("(tip) => { tip.textContent = ''; }")
        self.page.mouse.move(x, y)
        expect(self["tip"]).not_to_be_empty()
        self.page.wait_for_timeout(60)
        return self["tip"].inner_text().split("\n")

    def click(self, plot: str, step: float, height: float) -> None:
        """Click a place of a plot."""
        self.page.mouse.click(*self.at(plot, step, height))

    def drag(self, plot: str, start: float, end: float, height: float) -> None:
        """Drag from one step to another."""
        x, y = self.at(plot, start, height)
        to, _ = self.at(plot, end, height)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move((x + to) / 2, y, steps=4)
        self.page.mouse.move(to, y, steps=4)
        self.page.mouse.up()

    def select_text(self, start: int, stop: int) -> None:
        """Select characters of the text with the mouse, from the middle of the first to that of the last."""
        first, last = (self.page.locator(f"#text span[data-step='{step}']") for step in (start, stop - 1))
        first.scroll_into_view_if_needed()
        a, b = first.bounding_box(), last.bounding_box()
        assert a is not None
        assert b is not None
        self.page.mouse.move(a["x"] + 1, a["y"] + a["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(b["x"] + b["width"] / 2, b["y"] + b["height"] / 2, steps=5)
        self.page.mouse.move(b["x"] + b["width"] - 1, b["y"] + b["height"] / 2, steps=2)
        self.page.mouse.up()

    def tab(self, name: str) -> None:
        """Open one of the tabs below the plots."""
        self[f"tab-{name}"].click()

    def press(self, *keys: str) -> None:
        """Press keys, one after another."""
        for key in keys:
            self.page.keyboard.press(key)

    def wide(self) -> tuple[int, int]:
        """The page's width and the window's."""
        found: Any = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        return found[0], found[1]


def number(text: str) -> float:
    """A figure as the page writes it."""
    found = re.search(r"[-\u2212]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", text.replace("\u2212", "-"))
    assert found is not None, text
    return float(found[0].replace(",", ""))
