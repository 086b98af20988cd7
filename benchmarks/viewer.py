"""The viewer at its size: a recording of 100,000 steps of 512 units in 6 states, in a headless Chromium.

    python benchmarks/viewer.py [--recording big.zarr] [--steps 100000]

Measured: from starting `unrolled view` to its first maps, from asking for the page to its first maps, and from a change
of the steps in view to the frame after the picture of them, 20 pans and 20 zooms at each of several scales. The
server's memory is read at the start and after 200 further pans and zooms. The values that the pointer shows at some
places are held to the formula they were written by in the same run: wrong values end it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unrolled.recording.writing import Writer
from unrolled.source import Form

LAYER, UNITS = "recurrent.l0", 512
STATES = ("hidden", "cell", "input_gate", "forget_gate", "candidate", "output_gate")
SPIKE = (54_321, 77, 25.0)
BLOCK = 1000
SCALES = (1.0, 0.3, 0.05, 0.01, 0.001)  # shares of the recording in view
TIMES = 20
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]

SET = """([start, end]) => new Promise((done) => {
  const maps = document.getElementById("maps");
  const wanted = `0:${start}:${end}`;
  const begun = performance.now();
  const seen = () => requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)));
  if (maps.dataset.drawn === wanted) return seen();
  const watch = new MutationObserver(() => {
    if (maps.dataset.drawn !== wanted) return;
    watch.disconnect();
    seen();
  });
  watch.observe(maps, { attributes: true, attributeFilter: ["data-drawn"] });
  Bokeh.documents[0].get_model_by_name("steps").setv({ start, end });
})"""
WHERE = """([name, x, y]) => {
  const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(name));
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)];
}"""


def block(number: int) -> dict[str, np.ndarray[Any, Any]]:
    """Values (BLOCK, UNITS) of every state at the steps of one block: smooth, each unit at its own pace, and noise."""
    random = np.random.default_rng([7, number])
    steps = np.arange(number * BLOCK, (number + 1) * BLOCK)[:, None]
    pace = 2 * np.pi / np.geomspace(8, 20_000, UNITS)
    found = {}
    for place, state in enumerate(STATES):
        waves = np.sin(pace * steps + place) + 0.3 * random.standard_normal((BLOCK, UNITS))
        found[state] = (1 / (1 + np.exp(-2 * waves)) if state.endswith("gate") else waves).astype(np.float32)
    step, unit, height = SPIKE
    if number == step // BLOCK:
        found["cell"][step % BLOCK, unit] = height
    return found


def write(path: Path, steps: int) -> None:
    """Write the recording, unless it is there."""
    if path.exists():
        return
    making = path.with_name(path.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    writer = Writer(making, [f"{LAYER}.{state}" for state in STATES])
    forms = {state: Form((1,), 0, UNITS, torch.float32) for state in STATES}
    initial = {state: torch.zeros(1, UNITS) for state in ("hidden", "cell")}
    piece = writer.begin(LAYER, forms, initial, projected=False, steps=steps)
    waiting = {state: np.empty((0, UNITS), np.float32) for state in STATES}
    for number in range(steps // BLOCK):
        more = block(number)
        waiting = {state: np.concatenate([waiting[state], more[state]]) for state in STATES}
        while len(waiting["cell"]) >= piece or (number == steps // BLOCK - 1 and len(waiting["cell"])):
            writer.append(LAYER, {s: torch.from_numpy(waiting[s][:piece])[None] for s in STATES}, None, None)
            waiting = {state: values[piece:] for state, values in waiting.items()}
    writer.finish()
    making.rename(path)


@contextmanager
def viewed(path: Path) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """The viewer as a process, its link, and when it was started."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "unrolled", "view", str(path), "--no-open"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().split()[-1], begun
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def memory(process: subprocess.Popen[str]) -> float:
    """Resident megabytes of a process."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("Linux tells the memory of a process")


def go(page: Any, start: float, end: float) -> float:
    """Bring steps into view; milliseconds until the frame in which they are drawn."""
    return float(page.evaluate(SET, [start, end]))


def tip(page: Any, plot: str, step: float, unit: int) -> str:
    """What the pointer shows, with the units in order of their number."""
    x, y = page.evaluate(WHERE, [plot, step + 0.5, UNITS - 0.5 - unit])
    page.locator("#tip").evaluate("(tip) => { tip.textContent = ''; }")
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    page.locator("#tip").filter(has_text=re.compile(r"\d")).wait_for()
    page.wait_for_timeout(100)
    return str(page.locator("#tip").inner_text()).replace("\u2212", "-").replace(",", "")


def check(page: Any, steps: int) -> int:
    """Hold what the pointer shows to the formula, close up and zoomed out; how many values were held."""
    page.locator("#pick-order").select_option("index")
    page.wait_for_timeout(500)
    held = 0
    for step in (0, steps // 2 + 17, steps - 1):
        start = min(max(0, step - 20), steps - 40)
        go(page, start, start + 40)
        for unit in (0, 250, UNITS - 1):
            said = tip(page, "upper", step, unit)
            there = re.search(r"units? (\d+)", said)
            at = re.match(r"steps? (\d+)", said)
            assert there is not None
            assert at is not None
            units = [int(part) for part in re.findall(r"\d+", said.splitlines()[1])]
            values = block(int(at[1]) // BLOCK)["cell"][int(at[1]) % BLOCK, units]
            for word, expected in (("lowest", values.min()), ("highest", values.max())) if len(units) > 1 else ():
                shown = re.search(rf"{word} (\S+)", said)
                if shown is None or abs(float(shown[1]) - expected) > 6e-5:
                    raise SystemExit(f"the pointer shows {said!r}, and the {word} value is {expected}")
                held += 1
            if len(units) == 1:
                shown = re.search(r"cell: (\S+)", said)
                if shown is None or abs(float(shown[1]) - values[0]) > 6e-5:
                    raise SystemExit(f"the pointer shows {said!r}, and the value is {values[0]}")
                held += 1
    go(page, 0, steps)
    step, unit, height = SPIKE
    if step < steps:
        found = tip(page, "upper", step, unit)
        if f"{height:.4f} (step {step} unit {unit})" not in found:
            raise SystemExit(f"a value of {height} at one step is not told zoomed out: {found!r}")
        held += 1
    return held


def moves(steps: int, share: float) -> Iterator[tuple[str, float, float]]:
    """Pans and zooms about one scale, to places no two of which are alike."""
    random = np.random.default_rng(int(1 / share))
    width = round(steps * share)
    for _ in range(TIMES):
        start = int(random.integers(0, max(1, steps - width)))
        yield "pan", start, start + width
    for _ in range(TIMES):
        wide = min(steps, max(8, round(width * random.uniform(0.5, 2))))
        start = int(random.integers(0, max(1, steps - wide + 1)))
        yield "zoom", start, start + wide


def measure(page: Any, process: subprocess.Popen[str], steps: int) -> None:
    print(f"  {'in view':>9} {'pan':>22} {'zoom':>22}   milliseconds: median, worst of {TIMES}")
    for share in SCALES:
        took: dict[str, list[float]] = {"pan": [], "zoom": []}
        for kind, start, end in moves(steps, share):
            took[kind].append(go(page, start, end))
        shown = "".join(f"{statistics.median(took[k]):15.0f} {max(took[k]):6.0f}" for k in took)
        print(f"  {share * steps:9,.0f} {shown}")
    before = memory(process)
    random = np.random.default_rng(1)
    for _ in range(200):
        width = int(steps ** random.uniform(0.4, 1))
        start = int(random.integers(0, steps - width + 1))
        go(page, start, start + width)
    print(f"  the server's memory: {before:.0f} MB after these, {memory(process):.0f} MB after 200 more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recording", type=Path, help="where the recording is, or is written and stays")
    parser.add_argument("--steps", type=int, default=100_000)
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        path = options.recording or Path(temporary) / "big.zarr"
        write(path, options.steps)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        print(f"{options.steps:,} steps of {UNITS} units in {len(STATES)} states, {os.cpu_count()} cores")
        with viewed(path) as (process, link, begun):
            listening = time.perf_counter() - begun
            asked = time.perf_counter()
            page.goto(link, wait_until="commit")
            page.locator("#maps[data-drawn]").wait_for()
            first = time.perf_counter()
            print(f"  from starting the process to its link {listening:.2f} s, to the first maps {first - begun:.2f} s")
            print(f"  from asking for the page to the first maps {first - asked:.2f} s")
            asked = time.perf_counter()
            page.goto(link.partition("?")[0], wait_until="commit")
            page.locator("#maps[data-drawn]").wait_for()
            print(f"  from asking for the page again to the first maps {time.perf_counter() - asked:.2f} s")
            print(f"  the server's memory: {memory(process):.0f} MB at the start")
            print(f"  {check(page, options.steps)} values under the pointer are those of the formula")
            measure(page, process, options.steps)
        browser.close()


if __name__ == "__main__":
    main()
