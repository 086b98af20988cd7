"""Makes the pictures of docs/viewer.md: the viewer on a study that `make demo` has made, driven as the page tells it.

    python docs/screenshots.py runs/demo

Needs Chromium and Playwright's Python package. The network and the comment are those that the page speaks of; on
another Python, with another standard library, others may be worth a picture.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from unrolled.viewer.opening import open_path
from unrolled.viewer.service import Service
from unrolled.viewer.serving.server import Server

IMAGES = Path(__file__).parent / "images"
NETWORK = "code:length=100 GRU seed 1"
COMMENT = "# Explicitly break the reference cycle."
WIDTH = 1400


def picture(page: Page, name: str, first: str, last: str) -> None:
    """The part of the page from one element to another, in 256 colours."""
    page.evaluate("scrollTo(0, 0)")
    top = page.locator(first).first.bounding_box()
    end = page.locator(last).first.bounding_box()
    assert top is not None, first
    assert end is not None, last
    begin, stop = top["y"] - 12, end["y"] + end["height"] + 16
    whole = Image.open(io.BytesIO(page.screenshot()))
    part = whole.crop((60, int(begin), WIDTH - 60, int(min(stop, whole.height))))
    part.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(IMAGES / f"viewer-{name}.png", optimize=True)
    print(
        f"viewer-{name}.png: {part.width} x {part.height}, {(IMAGES / f'viewer-{name}.png').stat().st_size // 1024} kB"
    )


def look(page: Page) -> None:
    """The steps of the page, a picture after each."""
    expect(page.locator("details.claim")).to_have_count(6, timeout=60_000)
    page.locator("details.claim summary").first.click()
    page.wait_for_timeout(2_000)
    picture(page, "study", "#study h2", "details.claim .panels figure >> nth=1")
    page.locator("details.claim summary").first.click()

    page.locator("#pick-network").select_option(label=NETWORK)
    expect(page.locator("#maps")).to_have_attribute("data-drawn", "0:0:1200", timeout=60_000)
    page.fill("#go-to", COMMENT)
    page.press("#go-to", "Enter")
    page.click("#tab-finding")
    expect(page.locator("#span-text")).to_have_text(f"{len(COMMENT)} steps")
    page.click("#find-units")
    expect(page.locator("#units-found tbody tr").first).to_be_visible()
    page.click("#find-matches")
    expect(page.locator("#matches tbody tr").nth(1)).to_be_visible()
    page.select_option("#check-name", "in_comment")
    page.click("#check-label")
    expect(page.locator("#agreement")).to_be_visible()
    page.locator("#units-found button").first.click()
    page.wait_for_timeout(1_500)
    print(page.locator("#units-count").inner_text(), page.locator("#agreement-said").inner_text(), sep="\n")
    picture(page, "find", "#panel-finding", "#matches tbody tr >> nth=10")

    page.click("#tab-reading")
    page.wait_for_timeout(1_500)
    picture(page, "states", "#recording-title", "#panel-reading")

    page.click("#tab-replaying")
    page.locator("#maps").focus()
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    page.click("#run-gradient")
    expect(page.locator("#gradient-said")).not_to_be_empty(timeout=60_000)
    page.select_option("#change-kind", "mean")
    page.click("#run-effect")
    expect(page.locator("#answers")).to_be_visible(timeout=60_000)
    page.wait_for_timeout(1_500)
    print(page.locator("#gradient-said").inner_text(), page.locator("#effect-said").inner_text(), sep="\n")
    picture(page, "run-again", "#maps", "#panel-replaying")

    page.click("#tab-measuring")
    expect(page.locator(".instrument").first).to_be_visible(timeout=60_000)
    page.get_by_label("measure: How far gradients reach").click()
    expect(page.locator(".instrument figure").first).to_be_visible(timeout=120_000)
    page.wait_for_timeout(1_500)
    picture(page, "measure", "#panel-measuring", ".instrument >> nth=3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the study's folder, as `make demo` makes it in runs/demo")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    with Server(Service(open_path(options.study))) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 3600}, color_scheme="light")
        page.goto(server.url)
        look(page)
        browser.close()


if __name__ == "__main__":
    main()
