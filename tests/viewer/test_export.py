"""The exported page stands alone, shows whatever stands in a recording, and its values are those recorded."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from planted_traces import planted, random

pytest.importorskip("bokeh")

import unrolled
from unrolled.viewer import export as module
from unrolled.viewer.export import cut, export
from unrolled.viewer.opening import StudyFolder, of_trace
from unrolled.viewer.recorded import Characters, Label, Recorded, Values
from unrolled.views.excerpt import MISSING, Excerpt, embedded

EVIL = "</script></title><script>alert('run')</script><img src=x onerror=alert(1)><!--&\"'\u2028"
LOADING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "formaction"}


class Tags(HTMLParser):
    """Every tag with its attributes, and what stands in each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            name = self.tags[-1][1].get("id") or ""
            self.scripts[name] = self.scripts.get(name, "") + data


def recording(text: str = "x = 'a'  # b\n", title: str = "a test", **more: Any) -> Recorded:
    values = random(0, 1, len(text), 3)
    return Recorded(title=title, trace=planted(values), lengths=(len(text),), read=Characters((text,)), **more)


def written(found: Recorded, path: Path, **options: Any) -> tuple[Tags, dict[str, Any]]:
    assert export(found, path, **options) == path
    tags = Tags(path.read_text(encoding="utf-8"))
    (inside,) = json.loads(tags.scripts["inside-data"])
    return tags, inside


def unpacked(state: dict[str, Any], width: int) -> np.ndarray[Any, Any]:
    """Values as the page's script has them: low + level * step, in single precision."""
    levels = np.frombuffer(base64.b64decode(state["levels"]), "<u2").astype(np.float64)
    values = np.where(levels == MISSING, np.nan, state["low"] + levels * state["step"])
    return values.astype(np.float32).reshape(-1, width)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "page.html"


def test_page_is_one_file_that_loads_nothing(path: Path) -> None:
    tags, _ = written(recording(), path)
    assert os.listdir(path.parent) == [path.name]
    for tag, attributes in tags.tags:
        for name in LOADING & attributes.keys():
            assert (attributes[name] or "").startswith(("#", "data:")), (tag, attributes)
        assert tag not in {"base", "iframe", "object", "embed"}
    assert re.findall(r"""(?:src|href)\s*=\s*["'`]?https?:""", path.read_text()) == []
    style = re.search(r"<style>(.*?)</style>", path.read_text(), re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_page_forbids_the_browser_every_connection(path: Path) -> None:
    tags, _ = written(recording(), path)
    (policy,) = [a["content"] or "" for t, a in tags.tags if t == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_script_in_text_title_and_labels_is_shown_and_not_run(path: Path) -> None:
    harmless, _ = written(recording("x" * len(EVIL)), path)
    labels = (Label(EVIL, (np.arange(len(EVIL)) % 2)[None], (EVIL, "b")),)
    page, inside = written(recording(EVIL, EVIL, labels=labels), path)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert inside["text"] == EVIL
    assert inside["about"]["title"].startswith(EVIL)
    assert inside["about"]["labels"][0]["name"] == EVIL
    assert inside["about"]["labels"][0]["names"] == [EVIL, "b"]
    assert [*inside["labels"]] == [EVIL]
    # Without scripts the text is there too.
    assert html.escape(EVIL).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in path.read_text(encoding="utf-8")


def test_lone_surrogate_does_not_cost_the_page(path: Path) -> None:
    _, inside = written(recording("a\ud800b\x00\t<"), path)
    assert inside["text"] == "a\ud800b\x00\t<"


def test_stretch_is_that_of_the_recording(path: Path) -> None:
    depth = np.stack([np.arange(90) % 4, np.arange(90) % 3])
    values = random(1, 2, 90, 3)
    found = Recorded(
        title="a <title>",
        trace=planted(l0__cell=values, l0__hidden=random(2, 2, 90, 3), lengths=[90, 40]),
        lengths=(90, 40),
        read=Characters(("ab" * 45, "cdef" * 10)),
        labels=(Label("depth", depth),),
    )
    _, inside = written(found, path, sequence=1, start=5, stop=31)
    assert inside["text"] == ("cdef" * 10)[5:31]
    assert inside["labels"] == {"depth": depth[1, 5:31].tolist()}
    assert inside["about"]["first"] == 5
    assert inside["about"]["title"] == "a <title>, steps 5 to 30"
    assert inside["about"]["sequences"][0]["length"] == 26
    state = inside["states"]["l0.cell"]
    np.testing.assert_allclose(unpacked(state, 3), values[1, 5:31], atol=0.6 * state["step"])
    # Left out, the stretch goes as far as the sequence.
    assert written(found, path, sequence=1)[1]["text"] == "cdef" * 10


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
    )
)
def test_values_are_within_one_step_of_those_recorded(values: np.ndarray[Any, Any]) -> None:
    inside = embedded(Excerpt("t", None, {"cell": values}))
    assert json.loads(json.dumps(inside, allow_nan=False)) == inside
    state = inside["states"]["cell"]
    back = unpacked(state, values.shape[1])
    finite = np.isfinite(values)
    np.testing.assert_array_equal(np.isnan(back), ~finite)
    apart = np.abs(back[finite].astype(np.float64) - values[finite])
    # And what single precision adds to that.
    assert (apart <= state["step"] + 1e-7 * np.abs(values[finite])).all()
    if finite.any():
        reach = float(values[finite].max()) - float(values[finite].min())
        assert state["step"] <= reach / 65000 or reach == 0


def test_series_has_its_channels_with_what_is_missing(path: Path) -> None:
    values = random(3, 1, 40, 2) * np.float32([1, 1e4])
    values[0, 3:6, 1] = np.nan
    found = Recorded(title="t", trace=planted(random(0, 1, 40, 3)), lengths=(40,), read=Values(values, ("wind", EVIL)))
    _, inside = written(found, path, start=2, stop=30)
    assert (inside["about"]["kind"], inside["text"]) == ("values", None)
    assert inside["channels"] == ["wind", EVIL]
    back = unpacked(inside["values"], 2)
    assert np.argwhere(np.isnan(back)).tolist() == [[1, 1], [2, 1], [3, 1]]
    np.testing.assert_allclose(back, values[0, 2:30], atol=inside["values"]["step"])


def test_recording_of_which_nothing_else_is_known_is_exported(path: Path) -> None:
    tags, inside = written(of_trace(planted(random(0, 1, 1, 1))), path)
    assert (inside["about"]["kind"], inside["text"], inside["values"]) == (None, None, None)
    assert inside["about"]["start"]["unit"] == 0
    assert tags.scripts["views-model"]


def test_too_many_steps_are_refused_with_the_number_that_fits(path: Path) -> None:
    long = Recorded(title="t", trace=planted(random(0, 1, 6000, 2)), lengths=(6000,))
    with pytest.raises(ValueError, match="^steps: 5001 steps of 2 values are more than a page holds; expected 5000 or"):
        export(long, path, stop=5001)
    assert cut(long).steps == cut(long, stop=5000).steps == module.MOST_STEPS
    assert cut(long, start=3000).steps == 3000
    # Of many units fewer steps fit: the values of all states are counted.
    wide = Recorded(
        title="t", trace=planted(l0__cell=np.zeros((1, 900, 4000)), l0__hidden=np.zeros((1, 900, 4000))), lengths=(900,)
    )
    with pytest.raises(ValueError, match="expected 500 or fewer"):
        export(wide, path, stop=501)
    assert cut(wide).steps == 500
    assert not path.exists()


@pytest.mark.parametrize(
    ("start", "stop"), [(-1, 3), (3, 3), (4, 3), (0, 21), (20, None), (20, 21), (0, 0), (None, -1)]
)
def test_steps_that_are_not_there_are_refused(path: Path, start: int | None, stop: int | None) -> None:
    with pytest.raises(ValueError, match="^steps: .* not in sequence 0, which has 20 steps"):
        export(Recorded(title="t", trace=planted(random(0, 1, 20, 2)), lengths=(20,)), path, start=start, stop=stop)


@pytest.mark.parametrize("sequence", [-1, 2])
def test_sequence_that_is_not_there_is_refused(path: Path, sequence: int) -> None:
    found = Recorded(title="t", trace=planted(random(0, 2, 20, 2)), lengths=(20, 0))
    with pytest.raises(ValueError, match=f"^sequence: given {sequence}, expected 0 to 1"):
        export(found, path, sequence=sequence)
    with pytest.raises(ValueError, match="^steps: 0 to 0 are not in sequence 1, which has 0 steps"):
        export(found, path, sequence=1)


def test_study_has_a_page_of_its_own(path: Path) -> None:
    with pytest.raises(ValueError, match="^export: a study has a page of its own"):
        export(StudyFolder(path.parent), path)


def test_older_page_is_replaced_once_the_new_one_is_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="No space left on device"):
            export(recording(), path)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]
    assert written(recording(), path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: unrolled.LSTM(2, 4, proj_size=3, num_layers=2, bidirectional=True, batch_first=True),
        lambda: unrolled.GRU(2, 4, batch_first=True),
        lambda: torch.nn.RNN(2, 1, batch_first=True),
    ],
    ids=["projected", "gru", "one unit"],
)
def test_every_layer_is_in_the_page(path: Path, make: Any) -> None:
    model, inputs = make(), torch.randn(1, 12, 2)
    with unrolled.record(model) as trace:
        model(inputs)
    _, inside = written(of_trace(trace, inputs=inputs), path)
    listed = {s["name"]: layer for layer in inside["about"]["layers"] for s in layer["states"]}
    assert sorted(listed) == sorted(inside["states"]) == sorted(inside["follows"]) == sorted(trace)
    for name, layer in listed.items():
        state = inside["states"][name]
        back = unpacked(state, layer["units"])
        np.testing.assert_allclose(back, trace[name][0].detach().numpy(), atol=state["step"])
        assert len(state["centres"]) == layer["units"]
        for units in inside["orders"][layer["name"]].values():
            assert sorted(units) == list(range(layer["units"]))


def test_order_by_a_label_leaves_out_the_steps_at_which_it_is_not_defined() -> None:
    truth = np.array([1, 0] * 5 + [-1] * 30)
    cell = np.zeros((40, 2), np.float32)
    # Unit 0 follows the label; unit 1 only where there is none.
    cell[:10, 0], cell[:, 1] = truth[:10], truth < 0
    inside = embedded(Excerpt("t", None, {"cell": cell}, {"kind": truth}))
    (orders,) = inside["orders"].values()
    assert orders["label:kind"] == [0, 1]
    still = embedded(Excerpt("t", None, {"cell": cell}, {"kind": np.where(truth < 0, -1, 1)}))
    (orders,) = still["orders"].values()
    assert "label:kind" not in orders


def test_what_is_usual_is_the_median_of_what_is_there_however_small() -> None:
    cell = np.float32([[np.nan, 1e-9], [np.nan, 3e-9], [5.0, 2e-9]])
    assert embedded(Excerpt("t", None, {"cell": cell}))["states"]["cell"]["centres"] == pytest.approx([5.0, 2e-9])
