"""The page is one file that opens anywhere, shows all it is given, and runs nothing it is given."""

from __future__ import annotations

import html
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from unrolled.drawing.panels import Curve, Panel
from unrolled.intervals import Interval, number
from unrolled.verdicts import Claim, Finding

pytest.importorskip("bokeh")

from unrolled.drawing.colours import scale_of
from unrolled.drawing.plots import comparison_lines, drawable, left_out, looks, plot
from unrolled.page import Excerpt, write_page
from unrolled.page.wording import badge
from unrolled.units import auc, correlation, memory

EVIL = "</script><script>alert('run')</script><img src=x onerror=alert(1)>&\"'"
LOADING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "formaction"}


class Tags(HTMLParser):
    """Every tag with its attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: dict[str, str] = {}
        self._within = ""
        self._id = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within, self._id = tag, dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts[self._id] = self.scripts.get(self._id, "") + data
        elif self._within != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def finding(setting: str, mean: float, *, half: float = 0.1, threshold: float = 0.5, n: int = 5) -> Finding:
    return Finding(
        setting, f"what {setting} says at {mean}", Interval(mean, mean - half, mean + half, n), threshold, "steps"
    )


def curve(label: str = "LSTM cell", cell: str = "lstm", state: str = "cell") -> Curve:
    nan = math.nan
    return Curve(
        label, cell, state, (0.0, 1.0, 2.0, 3.0), (1.0, 0.5, nan, 0.1), (0.9, nan, nan, -0.1), (1.1, nan, nan, 0.3)
    )


def claim(*findings: Finding, id: str = "contents", text: str = "the cell remembers") -> Claim:
    panel = Panel("a panel", "lag", "accuracy", (curve(), curve("LSTM hidden", "lstm", "hidden")), (("chance", 0.25),))
    return Claim(id, text, "First sentence. Second sentence.", findings, (panel,), ("a remark",))


def excerpt(text: str = "x = 'a'  # b\n", title: str = "LSTM", units: int = 5) -> Excerpt:
    steps = len(text)
    random = np.random.default_rng(0)
    cell = random.normal(size=(steps, units)).astype(np.float32)
    inside = (np.arange(steps) % 3 == 0).astype(int)
    cell[:, 3] = inside * 2 - 1
    gate = random.uniform(size=(steps, units)).astype(np.float32)
    states = {"cell": cell, "hidden": np.tanh(cell), "forget_gate": gate}
    return Excerpt(title, text, states, {"in_string": inside, "column": np.arange(steps)})


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def write(path: Path, **changes: object) -> Tags:
    given: dict[str, object] = {
        "title": "a title",
        "answer": "an answer",
        "claims": [claim(finding("recall", 2.0))],
        "table": [{"task": "recall", "cell": "lstm"}, {"task": "code", "score": "0.93"}],
        "excerpts": [excerpt()],
        "setup": ["three seeds"],
    }
    assert write_page(path, **(given | changes)) == path  # type: ignore[arg-type]
    return Tags(path.read_text(encoding="utf-8"))


def test_page_is_one_file_that_loads_nothing(made: Path) -> None:
    tags = write(made).tags
    assert os.listdir(made.parent) == [made.name]
    for tag, attributes in tags:
        for name in LOADING & attributes.keys():
            assert (attributes[name] or "").startswith(("#", "data:")), (tag, attributes)
        assert tag not in {"base", "iframe", "object", "embed"}
    assert re.findall(r"""(?:src|href)\s*=\s*["'`]?https?:""", made.read_text()) == []
    style = re.search(r"<style>(.*?)</style>", made.read_text(), re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_page_forbids_the_browser_every_connection(made: Path) -> None:
    policy = next(a["content"] for t, a in write(made).tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_script_in_any_given_text_is_shown_and_not_run(made: Path) -> None:
    harmless = [tag for tag, _ in write(made).tags]
    evil = Finding(EVIL, EVIL, Interval(1.0, 0.9, 1.1, 3), 0.5, EVIL)
    panel = Panel(EVIL, EVIL, EVIL, (curve(EVIL, EVIL, EVIL), curve(EVIL, "lstm", "cell")), ((EVIL, 0.25),))
    page = write(
        made,
        title=EVIL,
        answer=EVIL,
        claims=[Claim(EVIL, EVIL, EVIL, (evil,), (panel,), (EVIL,))],
        table=[{EVIL: EVIL, "cell": EVIL, "score": EVIL}, {"cell": EVIL}],
        excerpts=[Excerpt(EVIL, EVIL, excerpt(EVIL).states, {EVIL: np.arange(len(EVIL)) % 2})],
        setup=[EVIL],
    )
    assert sorted(tag for tag, _ in page.tags) == sorted(harmless)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert html.escape(EVIL).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in made.read_text()
    data = json.loads(page.scripts["inside-data"])
    (inside,) = data
    assert inside["text"] == inside["about"]["title"] == EVIL
    assert [label["name"] for label in inside["about"]["labels"]] == [*inside["labels"]] == [EVIL]
    assert json.loads(page.scripts["models"])


def test_every_claim_finding_and_remark_appears(made: Path) -> None:
    claims = [
        claim(finding("recall", 2.0), finding("code", 0.0625), id="a", text="first claim"),
        claim(finding("adding", -7.5), id="b", text="second claim"),
    ]
    text = write(made, claims=claims, setup=["a line of setup"]).text
    for each in claims:
        for words in (each.text, each.how, *each.remarks, *(p.title for p in each.panels)):
            assert words in text
        for one in each.findings:
            for words in (one.setting, one.statement, f"{one.interval.text} {one.unit}", number(one.threshold)):
                assert words in text
    for words in (
        "an answer",
        "a line of setup",
        "0.93",
        "Hewitt & Liang (2019)",
        "How do the cell state and the hidden",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("means", "word"),
    [
        ({"recall": 2.0, "code": 1.0}, "supported"),
        ({"recall": 0.2, "code": 0.1}, "contradicted"),
        ({"recall": 0.5, "code": 0.5}, "undecided"),
        ({"recall": 2.0, "code": 0.5}, "undecided"),
        ({"recall": 2.0, "code": 0.1}, "depends on the setting"),
    ],
)
def test_verdict_word_follows_the_data(made: Path, means: dict[str, float], word: str) -> None:
    given = claim(*(finding(setting, mean) for setting, mean in means.items()))
    page = write(made, claims=[given])
    section = made.read_text().split('<section class="claim"')[1].split("</section>")[0]
    overall = Tags(section.split('<p class="overall">')[1].split("</p>")[0])
    assert overall.text.strip().startswith(word)
    assert badge(given).word == word
    shown = [a["class"] for t, a in page.tags if t == "span" and (a.get("class") or "").startswith("badge")]
    settings = [f"badge {given.settings[s]}" for s in means]
    assert shown[1 : 1 + len(means)] == settings


def test_verdict_has_a_shape_beside_its_colour(made: Path) -> None:
    write(made)
    for mark in re.findall(r'<span class="badge (\w+)">(.*?)</span>', made.read_text()):
        assert f'href="#shape-{mark[0]}"' in mark[1]


def test_one_seed_has_no_interval_and_says_so(made: Path) -> None:
    given = claim(Finding("recall", "it is so", Interval.over([1.25]), 0.5, "steps"))
    text = write(made, claims=[given]).text
    assert "1.25 steps" in text
    assert "1 seed, no interval" in text
    assert "undecided" in text


def test_page_without_anything_to_show_is_still_a_page(made: Path) -> None:
    page = write(made, claims=[], table=[], excerpts=[], setup=[])
    assert "No claim was measured." in page.text
    assert "Look inside" not in page.text


def test_claim_without_findings_is_undecided(made: Path) -> None:
    assert "nothing was measured" in write(made, claims=[Claim("x", "a claim", "How.", (), ())]).text


def test_folder_that_does_not_exist_is_made(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "report.html"
    write(target)
    assert target.is_file()


def test_folder_that_cannot_be_made_gives_one_line_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / "report.html"
    with pytest.raises(OSError, match="cannot write") as error:
        write(target)
    assert str(target) in str(error.value)
    assert "\n" not in str(error.value)


def test_failed_write_leaves_the_old_page_and_no_other_file(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left on device"):
        write(made)
    assert os.listdir(made.parent) == [made.name]
    assert made.read_text() == "old"


def test_lone_surrogate_does_not_cost_the_page(made: Path) -> None:
    text = "a\ud800b\x00\t<"
    (inside,) = json.loads(write(made, excerpts=[excerpt(text)]).scripts["inside-data"])
    assert inside["text"] == text


def test_excerpt_whose_parts_do_not_fit_is_refused_by_name() -> None:
    cell = np.zeros((4, 2))
    with pytest.raises(ValueError, match="its text has 4 characters, and its states 3 steps"):
        Excerpt("t", "abcd", {"cell": np.zeros((3, 2))})
    with pytest.raises(ValueError, match=r"hidden is \(3, 2\), expected 4 steps"):
        Excerpt("t", "abcd", {"cell": cell, "hidden": np.zeros((3, 2))})
    with pytest.raises(ValueError, match=r"hidden is \(4,\), expected 4 steps"):
        Excerpt("t", "abcd", {"cell": cell, "hidden": np.zeros(4)})
    with pytest.raises(ValueError, match=r"label column is \(3,\), expected \(4,\)"):
        Excerpt("t", "abcd", {"cell": cell}, {"column": np.zeros(3)})
    with pytest.raises(ValueError, match=r"values is \(4, 2\), expected \(4, 1\)"):
        Excerpt("t", None, {"cell": cell}, values=np.zeros((4, 2), np.float32), channels=("a",))
    for states in ({}, {"cell": np.zeros((0, 2))}):
        with pytest.raises(ValueError, match="needs at least one step and one state"):
            Excerpt("t", None, states)


def test_unit_that_follows_strings_is_chosen_first(made: Path) -> None:
    (data,) = json.loads(write(made).scripts["inside-data"])
    assert {name: data["about"]["start"][name] for name in ("state", "unit")} == {"state": "cell", "unit": 3}
    assert data["about"]["start"]["layer"] == data["about"]["layers"][0]["name"]
    assert data["follows"]["cell"]["labels"]["in_string"]["auc"][3] == 1.0
    assert data["follows"]["cell"]["labels"]["in_string"]["best"] == 3


def test_auc_counts_ordered_pairs_and_half_of_ties() -> None:
    state = np.array([[0.0, 3], [1, 2], [1, 1], [2, 0]])
    np.testing.assert_allclose(auc(state, np.array([0, 0, 1, 1])), [7 / 8, 0.0])
    assert np.isnan(auc(state, np.zeros(4, dtype=int))).all()


def test_correlation_matches_numpy_and_is_nan_for_a_constant_unit() -> None:
    state = np.random.default_rng(1).normal(size=(50, 3))
    state[:, 2] = 4.0
    label = np.arange(50) % 7
    found = correlation(state, label)
    np.testing.assert_allclose(found[:2], [np.corrcoef(state[:, u], label)[0, 1] for u in range(2)])
    assert np.isnan(found[2])


def test_memory_of_a_slow_unit_is_its_time_constant() -> None:
    random = np.random.default_rng(0)
    state = np.zeros((40_000, 2))
    keep = np.exp(-1 / np.array([3.0, 20.0]))
    for t in range(1, len(state)):
        state[t] = keep * state[t - 1] + np.sqrt(1 - keep**2) * random.normal(size=2)
    np.testing.assert_allclose(memory(state), [3.0, 20.0], rtol=0.15)
    assert np.isnan(memory(np.ones((9, 1)))).all()


def test_logarithmic_axes_leave_out_what_they_cannot_show() -> None:
    panel = Panel("p", "x", "y", (curve(),), (("zero", 0.0), ("half", 0.5)), log_x=True, log_y=True)
    assert [p is not None for p in drawable(panel.curves[0], log_x=True, log_y=True)] == [False, True, False, True]
    assert left_out(panel) == 1
    assert [text for text, _, _ in comparison_lines(panel)] == ["half"]
    figure = plot(panel, "p")
    assert figure.y_range.start > 0


def test_empty_panel_is_drawn() -> None:
    nothing = Curve("none", "rnn", "hidden", (1.0,), (math.nan,), (math.nan,), (math.nan,))
    for log in (False, True):
        assert plot(Panel("p", "x", "y", (nothing,), log_x=log, log_y=log), "p").name == "p"


def test_colour_tells_the_cell_type_and_dash_the_state() -> None:
    cells = [curve(cell=c, state=s) for c in ("rnn", "gru", "lstm") for s in ("cell", "hidden", "direct")]
    found = looks(cells)
    assert len({look.colour for look in found}) == 3
    assert [look.dash for look in found[:3]] == ["solid", "dashed", "dotted"]


def test_curves_of_one_cell_and_state_can_be_told_apart() -> None:
    first, second = looks([curve("trained"), curve("untrained")])
    assert first.colour == second.colour
    assert first != second


def test_scale_of_a_state_is_even_about_zero_and_of_a_gate_from_zero_to_one() -> None:
    palette, low, high = scale_of("cell", np.full((5, 4), -3.2))
    assert palette == "diverging"
    assert low == -high
    assert high >= 3.2
    assert scale_of("forget_gate", np.zeros((2, 2))) == ("sequential", 0.0, 1.0)


def test_one_unit_that_counts_upwards_does_not_stretch_the_scale_of_the_others() -> None:
    cells = np.ones((50, 20))
    cells[:, 0] = np.arange(50)
    assert scale_of("cell", cells)[2] < 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (12345.6, "12,346"), (-2.5e-7, "−2.5 × 10⁻⁷"), (0.0, "0"), (100.0, "100"), (math.inf, "∞")],
)
def test_number_reads_as_expected(value: float, text: str) -> None:
    assert number(value) == text
