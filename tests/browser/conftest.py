"""A headless Chromium for the tests of the page, and what each of them holds: no error, no request to elsewhere.

Without Chromium or Playwright the tests are skipped; where UNROLLED_REQUIRE_BROWSER is set they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from driving import Driver, Watch
from processes import Viewing, viewing
from trained_run import trained_on_code

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
# A sandbox cannot be had as root, which is what a container's user is.
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
MILLISECONDS = 20_000


def lacking(why: str) -> NoReturn:
    """Skip the test, or fail it where a browser has to be there."""
    if os.environ.get("UNROLLED_REQUIRE_BROWSER"):
        pytest.fail(f"UNROLLED_REQUIRE_BROWSER is set, and {why}")
    pytest.skip(why)


# Playwright holds the thread's event loop while it runs, and other tests of this process need theirs: so by module,
# which costs about a second each.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        from playwright.sync_api import expect, sync_playwright
    except ModuleNotFoundError:
        lacking("Playwright is not installed")
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        lacking("there is no Chromium")
    expect.set_options(timeout=MILLISECONDS)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield found
        found.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Driver]]:
    """Opens an address in a page of its own: opened(url, width=, height=, scheme=)."""
    with ExitStack() as ending:
        watches = []

        def go(url: str, *, width: int = 1400, height: int = 1000, scheme: Any = "light", wait: bool = True) -> Driver:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            ending.callback(context.close)
            context.set_default_timeout(MILLISECONDS)
            page = context.new_page()
            watch = Watch(page)
            watches.append(watch)
            driver = Driver(page, watch)
            page.goto(url)
            if wait:
                driver.drawn()
            return driver

        yield go
        for watch in watches:
            assert watch.wrong == []
            assert watch.dialogs == []
            assert watch.elsewhere == []


@pytest.fixture(scope="session")
def code_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network that was trained on source code, once for all processes that test."""
    base = tmp_path_factory.getbasetemp()
    return trained_on_code(base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base)


@pytest.fixture(scope="session")
def code_viewing(code_run: Path) -> Iterator[Viewing]:
    """`unrolled view` of that network, as a process."""
    with viewing(code_run) as found:
        yield found
