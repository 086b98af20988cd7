"""Everything that the page asks for is answered, of every kind of run and of a study, through the server itself."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from planted_traces import planted, random
from served import Browser
from viewed import RUNS, make_runs, make_study

pytest.importorskip("bokeh")
pytest.importorskip("tornado")
pytest.importorskip("zarr")
pytest.importorskip("scipy")
pytest.importorskip("xarray")
pytest.importorskip("sklearn")

import unrolled
from unrolled.viewer import service as module
from unrolled.viewer.opening import StudyFolder, of_trace, open_path
from unrolled.viewer.recorded import Characters, Label, Recorded
from unrolled.viewer.service import Service
from unrolled.viewer.serving.server import Server

EVIL = "</title><script>alert('run')</script><img src=x onerror=alert(1)>&\"'"
KINDS = (*RUNS, "study")
NETWORKS = 5


@pytest.fixture(scope="session")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("views")
    make_runs(place)
    make_study(place / "study", NETWORKS)
    return place


class Page(Browser):
    """A browser that knows whom it asks about, and waits for slow answers."""

    kind: str
    about: dict[str, Any]
    network: dict[str, Any]

    def quickly(self, method: str, /, **arguments: Any) -> Any:
        return self.post(method, self.network | arguments).value

    def slowly(self, method: str, /, **arguments: Any) -> Any:
        job = self.quickly(method, **arguments)["job"]
        end = time.monotonic() + 60
        while self.quickly("progress", job=job)["state"] in ("waiting", "running"):
            assert time.monotonic() < end
            time.sleep(0.005)
        return self.quickly("result", job=job)


@pytest.fixture(scope="module", params=KINDS)
def page(request: pytest.FixtureRequest, views: Path) -> Iterator[Page]:
    with Server(Service(open_path(views / request.param))) as server:
        page = Page(server)
        page.visit()
        page.network = {"network": 2 if request.param == "study" else None}
        page.kind = request.param
        page.about = page.slowly("about")
        yield page


def whole(page: Page) -> dict[str, Any]:
    layer = page.about["layers"][0]
    length = page.about["sequences"][0]["length"]
    given = {"sequence": 0, "start": 0, "stop": length, "layer": layer["name"], "columns": 4096, "unit": 0, "first": 0}
    given |= {"names": [state["name"] for state in layer["states"]], "name": layer["states"][0]["name"]}
    return given | {"last": layer["units"], "rows": 50, "order": "index", "by": "timescale"}


def test_overview_says_what_there_is(page: Page) -> None:
    found = page.quickly("overview")
    if page.kind == "study":
        assert found["title"] == "study study"
        assert len(found["networks"]) == NETWORKS
    else:
        assert found == {"title": page.about["title"], "networks": None}


def test_every_view_is_filled(page: Page) -> None:
    given = whole(page)
    length, units = given["stop"], given["last"]
    window = page.quickly("window", **given)
    assert window["maps"].keys() == set(given["names"])
    assert all(image.shape == (units, length) for image in window["maps"].values())
    lines = page.quickly("unit", **given)
    np.testing.assert_array_equal(lines["low"][given["name"]], window["maps"][given["name"]][0])
    track = page.quickly("track", **given)
    assert {len(values) for values in track["labels"].values()} <= {length}
    assert (track["text"] is None) == (page.about["kind"] != "characters")
    assert (track["channels"] is None) == (page.about["kind"] != "values")
    exact = page.quickly("exact", **given | {"start": 1, "stop": 2, "units": [0]})
    np.testing.assert_array_equal(
        exact["values"][given["name"].rpartition(".")[2]], window["maps"][given["name"]][0, 1]
    )
    assert sorted(page.quickly("order", **given)) == list(range(units))
    assert page.quickly("follows", **given)["steps"] == length
    if page.about["kind"] == "characters":
        text = page.quickly("text", **given)
        assert len(text["text"]) == len(text["values"]) == length
        assert page.quickly("find", **given | {"text": text["text"][2:], "after": 0})["step"] == 2
    else:
        reply = page.post("text", page.network | given)
        assert (reply.status, reply.error.partition(":")[0]) == (400, "text")


def test_loop_is_answered(page: Page) -> None:
    given = whole(page) | {"start": 1, "stop": 3, "around": 3}
    given["threshold"] = page.quickly("suggested", **given)["threshold"]
    assert given["threshold"] > 0
    page.quickly("units_on", **given)
    given["units"] = [{"name": given["name"], "number": 0, "sign": 1}]
    selected = page.quickly("selected", **given)
    assert (selected["start"], selected["stop"]) == (1, 3)
    assert "matches" in page.slowly("matches", **given)
    for label in page.about["labels"][:2]:
        assert page.slowly("agreement", **given | {"label": label["name"]})["together"]["n"] > 0
        assert "followers" in page.slowly("followers", **given | {"label": label["name"]})
    if not page.about["labels"]:
        reply = page.post("progress", {"job": page.quickly("followers", **given | {"label": "in_string"})["job"]})
        assert reply.status == 200


def test_network_runs_again(page: Page) -> None:
    assert page.about["model"]
    given = whole(page)
    name = next(n for n in given["names"] if n.endswith("hidden"))
    last = given["stop"] - 1
    found = page.slowly("gradient", sequence=0, step=last, output=0, back=5)
    assert found["units"] is None
    assert found["start"] <= last < found["stop"]
    assert all(np.isfinite(curve).all() for curve in found["curves"].values())
    for change in (
        {"kind": "ablate"},
        {"kind": "mean"},
        {"kind": "clamp", "value": 3},
        {"kind": "patch", "source_sequence": 0, "source_start": 0},
    ):
        change |= {"name": name, "units": [0], "start": 1, "stop": 3}
        found = page.slowly("effect", sequence=0, changes=[change], after=4)
        assert len(found["original"]) == len(found["changed"]) == found["stop"] - found["start"]
        assert found["divergence"].max() >= 0
        assert found["top"]["names"]


def test_instruments_are_listed_and_one_is_measured(page: Page) -> None:
    found = {one["name"]: one for one in page.quickly("instruments")}
    assert found["timescales"]["needs"] is None
    measured = page.slowly("measure", name="timescales", sequence=0)
    assert measured["summary"]
    assert measured["figures"]


def test_claims_are_those_of_a_study(page: Page) -> None:
    if page.kind == "study":
        assert all(claim["verdict"]["word"] for claim in page.slowly("claims"))
        return
    job = page.quickly("claims")["job"]
    end = time.monotonic() + 20
    while page.quickly("progress", job=job)["state"] in ("waiting", "running"):
        assert time.monotonic() < end
    reply = page.post("result", {"job": job})
    assert (reply.status, reply.error) == (400, "claims: this is one recording; claims are judged of a study")


def test_nothing_that_is_served_is_left_untried() -> None:
    tried = {"overview", "window", "unit", "track", "text", "exact", "follows", "order", "find", "suggested"}
    tried |= {"units_on", "selected", "instruments", "about", "claims", "matches", "agreement", "followers", "gradient"}
    one = Service(of_trace(planted(random(0, 1, 9, 2))))
    assert one.quick.keys() | one.slow.keys() == tried | {"effect", "measure"}


@pytest.mark.parametrize(
    ("name", "arguments", "blamed"),
    [
        ("window", {"columns": 0}, "columns"),
        ("unit", {"unit": 4}, "unit"),
        ("exact", {"layer": "l9"}, "layer"),
        ("order", {"by": "beauty"}, "by"),
        ("units_on", {"threshold": "high"}, "threshold"),
        ("selected", {"units": []}, "units"),
    ],
)
def test_wrong_argument_is_a_bad_request_that_names_it(
    page: Page, name: str, arguments: dict[str, Any], blamed: str
) -> None:
    given = whole(page) | {"around": 3, "threshold": 0.5}
    if name == "selected":
        given |= {"start": 1, "stop": 2}
    reply = page.post(name, page.network | given | arguments)
    assert (reply.status, reply.error.partition(":")[0]) == (400, blamed)


class TestStudy:
    @pytest.mark.parametrize("number", [None, -1, NETWORKS, "0", 1.0, True, [0]], ids=str)
    def test_network_that_is_not_there_is_refused(self, views: Path, number: Any) -> None:
        service = Service(StudyFolder(views / "study"))
        for name, method in {**service.quick, **service.slow}.items():
            if name in ("overview", "claims"):
                continue
            more = (lambda done, of: None,) if name in service.slow else ()
            with pytest.raises(ValueError, match=f"^network: given .* from 0 to {NETWORKS - 1}"):
                method({"network": number, "sequence": 0}, *more)

    def test_only_so_many_networks_stay_open(self, views: Path) -> None:
        service = Service(StudyFolder(views / "study"))
        for number in [*range(NETWORKS), 1]:
            assert f"seed {number}" in service.slow["about"]({"network": number}, lambda done, of: None)["title"]
        assert list(service._networks) == [3, 4, 1]
        assert len(service._networks) == module.OPEN_AT_ONCE

    def test_network_that_makes_room_is_still_answered_to_who_looks_at_it(self, views: Path) -> None:
        service = Service(StudyFolder(views / "study"))
        first = service.opened(module.Asked({"network": 0}))
        for number in range(1, NETWORKS):
            service.opened(module.Asked({"network": number}))
        assert 0 not in service._networks
        layer = first.looking.layers[0]
        asked = {"sequence": 0, "start": 0, "stop": 3, "columns": 3, "layer": layer["name"], "unit": 0}
        asked["names"] = [layer["states"][0]["name"]]
        assert first.looking.unit(module.Asked(asked))["span"] == 1

    def test_one_network_is_opened_once_by_many_askers(self, views: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = []
        recorded = StudyFolder.recorded
        monkeypatch.setattr(StudyFolder, "recorded", lambda self, number: made.append(number) or recorded(self, number))
        service = Service(StudyFolder(views / "study"))
        asked = module.Asked({"network": 1})
        threads = [threading.Thread(target=service.opened, args=(asked,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made == [1]


def small(**more: Any) -> Service:
    return Service(Recorded(title=EVIL, trace=planted(random(0, 1, 9, 2)), lengths=(9,), **more))


def test_recording_without_a_network_says_how_to_have_one() -> None:
    service = small()
    change = {"name": "l0.cell", "units": [0], "start": 0, "stop": 1, "kind": "ablate"}
    for name, asked in (("gradient", {"step": 3, "back": 2}), ("effect", {"changes": [change], "after": 1})):
        with pytest.raises(ValueError, match="has no network with it; open the folder of its run"):
            service.slow[name]({"sequence": 0, **asked}, lambda done, of: None)


EFFECT: dict[str, Any] = {"kind": "clamp", "name": "l0.hidden", "units": [0], "start": 1, "stop": 3, "value": 1.0}


@pytest.mark.parametrize(
    ("change", "blamed"),
    [
        ({"kind": "burn"}, "kind"),
        ({"name": "l0.cell"}, "name"),
        ({"units": [3]}, "units"),
        ({"units": []}, "units"),
        ({"units": 0}, "units"),
        ({"stop": 1}, "stop"),
        ({"stop": 10}, "stop"),
        ({"value": None}, "value"),
        ({"value": "1"}, "value"),
        ({"kind": "patch"}, "source_sequence"),
        ({"kind": "patch", "source_sequence": 1, "source_start": 0}, "source_sequence"),
        ({"kind": "patch", "source_sequence": 0, "source_start": 9}, "source_start"),
        ({"kind": "patch", "source_sequence": 0, "source_start": 8}, "source"),
    ],
    ids=str,
)
def test_change_that_cannot_be_made_is_refused_by_name(change: dict[str, Any], blamed: str) -> None:
    model, inputs = unrolled.GRU(2, 3, batch_first=True), torch.randn(1, 9, 2)
    with torch.no_grad(), unrolled.record(model, detach=True) as trace:
        model(inputs)
    service = Service(of_trace(trace, inputs=inputs, model=model))
    with pytest.raises(ValueError, match=f"^{blamed}: "):
        service.slow["effect"]({"sequence": 0, "after": 2, "changes": [EFFECT | change]}, lambda done, of: None)


@pytest.mark.parametrize(
    ("method", "arguments", "blamed"),
    [
        ("gradient", {"step": 9, "back": 2}, "step"),
        ("gradient", {"step": "last", "back": 2}, "step"),
        ("gradient", {"step": 3, "back": -1}, "back"),
        ("gradient", {"step": 3, "back": 5001}, "back"),
        ("gradient", {"step": 3}, "back"),
        ("gradient", {"step": 3, "back": 2, "output": 4}, "output"),
        ("gradient", {"step": 3, "back": 2, "output": "first"}, "output"),
        ("gradient", {"step": 3, "back": 2, "sequence": 1}, "sequence"),
        ("gradient", {"step": 3, "back": 2}, "output"),
        ("effect", {"changes": [], "after": 2}, "changes"),
        ("effect", {"changes": [3], "after": 2}, "changes"),
        ("effect", {"changes": [EFFECT], "after": 2001}, "after"),
        ("effect", {"changes": [EFFECT]}, "after"),
        ("effect", {"changes": [EFFECT], "after": 2, "at": 9}, "at"),
        ("effect", {"changes": [EFFECT | {"stop": 2}], "after": 1, "at": 8}, "at"),
        ("measure", {"name": "horoscope"}, "name"),
        ("measure", {"name": "timescales", "layer": "l9"}, "layer"),
        ("measure", {"name": "probe", "label": "in_string"}, "label"),
        ("measure", {"name": "timescales", "step": 9}, "step"),
        ("measure", {"name": "timescales", "sequence": None}, "sequence"),
    ],
    ids=str,
)
def test_slow_method_refuses_a_wrong_argument_by_name(method: str, arguments: dict[str, Any], blamed: str) -> None:
    model, inputs = unrolled.GRU(2, 3, batch_first=True), torch.randn(1, 9, 2)
    with torch.no_grad(), unrolled.record(model, detach=True) as trace:
        model(inputs)
    service = Service(of_trace(trace, inputs=inputs, model=model))
    with pytest.raises(ValueError, match=f"^{blamed}: "):
        service.slow[method]({"sequence": 0} | arguments, lambda done, of: None)


class Tags(HTMLParser):
    """Every tag with its attributes, and what stands in scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.within: list[tuple[dict[str, str | None], str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.within.append((self.tags[-1][1], data))


class TestPage:
    def test_page_has_no_script_of_its_own_and_its_links_are_relative(self) -> None:
        tags = Tags(small().page())
        linked = []
        for tag, attributes in tags.tags:
            assert not any(name.startswith("on") for name in attributes), (tag, attributes)
            assert tag not in ("base", "iframe", "object", "embed")
            for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                if name in attributes and not (attributes[name] or "").startswith(("#", "data:")):
                    linked.append(attributes[name] or "")
        assert all(re.fullmatch(r"files/[a-z]+\.(js|css)", link) for link in linked)
        # Only data stand in the page: no script does.
        assert {attributes.get("type") for attributes, _ in tags.within} == {"application/json"}
        assert "javascript:" not in small().page()

    def test_every_link_is_served_and_nothing_else(self) -> None:
        service = small()
        links = re.findall(r'(?:src|href)="files/([^"]+)"', service.page())
        assert len(links) == len(set(links))
        for name in links:
            found = service.resource(name)
            assert found is not None
            assert found[0].strip()
            assert found[1] == ("text/css" if name.endswith(".css") else "text/javascript")
        # What is there beside them, in the packages they come from and above, is not.
        others = {"viewer.jinja", "export.jinja", "plots.jinja", "text.jinja", "embedded.js", "excerpts.js", "plots.js"}
        others |= {"__init__.py", "service.py", "../views/views.js", "views/views.js", "/etc/passwd", "page.jinja", ""}
        others |= {name.upper() for name in links} | {f"./{name}" for name in links} | {f"{name}\x00" for name in links}
        for name in others:
            assert service.resource(name) is None, name

    def test_every_installed_script_is_used(self) -> None:
        links = set(re.findall(r'(?:src|href)="files/([^"]+)"', small().page()))
        folders = [Path(module.__file__).parent / "files", Path(module.__file__).parents[1] / "views"]
        there = {path.name for folder in folders for path in folder.iterdir() if path.suffix in (".js", ".css")}
        assert there - links == {"embedded.js", "excerpts.js"}

    def test_served_files_are_those_that_are_installed(self, page: Page) -> None:
        for name in ("bokeh.js", "views.js", "viewer.css"):
            reply = page.ask("GET", f"/files/{name}")
            assert reply.status == 200
            assert reply.body
            assert reply.headers["Content-Type"].startswith("text/")
        for name in ("embedded.js", "nothing.js", "..%2fservice.py", "viewer.jinja"):
            assert page.ask("GET", f"/files/{name}").status == 404

    def test_bokeh_script_loads_nothing_from_elsewhere(self) -> None:
        script, _ = small().resource("bokeh.js") or (b"", "")
        assert len(script) > 100_000
        assert not re.search(rb"""\.(?:src|href)=["'`]https?:""", script)
        assert b"sourceMappingURL" not in script

    def test_title_with_markup_in_it_is_shown(self) -> None:
        page = small().page()
        assert EVIL not in page
        plain = Service(of_trace(planted(random(0, 1, 9, 2)))).page()
        assert [tag for tag, _ in Tags(page).tags] == [tag for tag, _ in Tags(plain).tags]
        assert "&lt;/title&gt;&lt;script&gt;" in page

    def test_evil_text_and_labels_travel_as_they_are(self) -> None:
        names = (EVIL, "b")
        labels = (Label(EVIL, np.zeros((1, len(EVIL)), np.int64), names),)
        trace = planted(random(0, 1, len(EVIL), 2))
        found = Service(
            Recorded(title=EVIL, trace=trace, lengths=(len(EVIL),), read=Characters((EVIL,)), labels=labels)
        )
        asked = {"sequence": 0, "start": 0, "stop": len(EVIL), "columns": 500}
        assert found.quick["track"](asked)["text"] == EVIL
        assert found.slow["about"]({}, lambda done, of: None)["labels"][0]["names"] == [*names]
        assert EVIL not in found.page()
