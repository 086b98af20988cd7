"""What else is opened besides a text: series, classes, tasks, a study; and a spike of one step among many."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from driving import Driver, expect
from unrolled.recording.writing import Writer
from unrolled.source import Form
from unrolled.study import compare
from unrolled.viewer.opening import open_path
from unrolled.viewer.recorded import Values
from unrolled.viewer.service import Service
from unrolled.viewer.serving.server import Server
from viewed import make_runs

STEPS, UNITS, SPIKE = 50_000, 64, (30_123, 20)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    make_runs(place)
    return place


@pytest.fixture
def served() -> Iterator[Callable[[Path], str]]:
    """Serves what is at a path; its link."""
    servers = []

    def serve(path: Path) -> str:
        servers.append(Server(Service(open_path(path))))
        servers[-1].start()
        return servers[-1].url

    yield serve
    for server in servers:
        server.stop()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (700, "dark")])
@pytest.mark.parametrize("kind", ["text", "series", "classify", "task"])
def test_every_kind_of_run_opens_and_fits(
    opened: Callable[..., Driver], served: Callable[[Path], str], runs: Path, kind: str, width: int, scheme: str
) -> None:
    page = opened(served(runs / kind), width=width, scheme=scheme)
    assert page.visible("values") == (kind == "series" or kind == "classify")
    assert page["source"].is_visible() == (kind in ("text", "task"))
    for tab in ("finding", "replaying", "measuring", "reading"):
        page.tab(tab)
        wide, room = page.wide()
        assert wide <= room, tab
    page["maps"].focus()
    # The last step is the one at which a task has an answer to give.
    page.press("End")
    page.tab("replaying")
    page["run-gradient"].click()
    page.said("gradient-said", "one step back")
    assert page.visible("gradient")


def test_channels_of_a_series_are_told_in_their_own_units(
    opened: Callable[..., Driver], served: Callable[[Path], str], runs: Path
) -> None:
    page = opened(served(runs / "series"))
    recorded = open_path(runs / "series")
    expect(page["values-legend"]).to_contain_text("y")
    assert "standard deviations" in page.title("values")
    assert isinstance(recorded.read, Values)
    assert f"y: {recorded.read.values[0, 2, 0]:.3f}" in page.point("upper", 2.5, 1.5)


def test_claims_of_a_study_fold_out_with_their_plots_and_a_network_is_opened(
    opened: Callable[..., Driver], served: Callable[[Path], str], tmp_path: Path
) -> None:
    study = compare("recall:lag=1-3", cells=["gru", "lstm"], seeds=2, parameters=300, steps=2, jobs=1, folder=tmp_path)
    page = opened(served(tmp_path), wait=False)
    claims = page.page.locator("details.claim")
    expect(claims).to_have_count(len(study.claims), timeout=60_000)
    for claim, shown in zip(study.claims, claims.all(), strict=True):
        shown.locator("summary").click()
        expect(shown).to_contain_text(claim.text)
        expect(shown.locator(".bk-Figure")).to_have_count(len(claim.panels))
        for finding in claim.findings:
            expect(shown.locator(".findings")).to_contain_text(finding.statement)
            expect(shown.locator(".findings")).to_contain_text(finding.interval.text)
        shown.locator("summary").click()
    page["pick-network"].select_option(label=study.plans[-1].title)
    page.drawn()
    expect(page["recording-title"]).to_contain_text("LSTM")
    first = page["recording-title"].inner_text()
    page["pick-network"].select_option(label=study.plans[0].title)
    expect(page["recording-title"]).to_contain_text("GRU")
    assert page["recording-title"].inner_text() != first


def test_spike_of_one_step_is_in_the_picture_of_fifty_thousand(
    opened: Callable[..., Driver], served: Callable[[Path], str], tmp_path: Path
) -> None:
    from PIL import Image

    step, unit = SPIKE
    values = torch.zeros(1, STEPS, UNITS)
    values[0, ::2] = 0.02
    values[0, step, unit] = 1
    path = tmp_path / "long.zarr"
    writer = Writer(path, ["l0.hidden"])
    form = Form((1,), STEPS, UNITS, torch.float32)
    piece = writer.begin("l0", {"hidden": form}, {"hidden": torch.zeros(1, UNITS)}, projected=False, steps=STEPS)
    for start in range(0, STEPS, piece):
        writer.append("l0", {"hidden": values[:, start : start + piece]}, None, None)
    writer.finish()
    page = opened(served(path))
    page["pick-order"].select_option("index")
    page["pick-unit"].fill("0")
    page["pick-unit"].press("Enter")
    page.show(0, STEPS)
    page.settled()
    picture = np.asarray(Image.open(io.BytesIO(page.page.screenshot())).convert("RGB"), dtype=int)

    def seen(at: float) -> np.ndarray:  # type: ignore[type-arg]
        x, y = page.at("lower", at, UNITS - unit - 0.5)
        return picture[round(y), round(x) - 2 : round(x) + 3]

    beside = seen(step - 2_000)
    apart = np.abs(seen(step)[:, None] - beside[None]).sum(-1)
    # Dark orange where it is, and nothing of it some pixels further.
    assert apart.min(1).max() > 150
    assert np.abs(beside - beside[0]).sum(-1).max() < 30
    assert seen(step)[apart.min(1).argmax(), 0] > seen(step)[apart.min(1).argmax(), 2]
