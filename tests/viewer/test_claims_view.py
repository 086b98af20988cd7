"""The page is given what the report shows of a study's claims, as plain data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bokeh")

from unrolled.drawing.panels import Curve, Dots, HeatMap, Panel
from unrolled.intervals import Interval
from unrolled.page.page import shown_claim
from unrolled.study import Study
from unrolled.verdicts import Claim, Finding, Table
from unrolled.viewer.measuring.claims import claims
from unrolled.viewer.measuring.plotted import embedded

EVIL = "</script><script>alert('run')</script>"


def finding(setting: str, mean: float, *, half: float = 0.1, unit: str = "steps") -> Finding:
    return Finding(setting, f"what {setting} says", Interval(mean, mean - half, mean + half, 5), 0.5, unit)


def curve(label: str, cell: str = "lstm", state: str = "cell") -> Curve:
    nan = math.nan
    return Curve(label, cell, state, (0.0, 1.0, 2.0), (1.0, nan, 0.1), (0.9, nan, -0.1), (1.1, nan, 0.3))


def panel(**options: Any) -> Panel:
    return Panel("a panel", "lag", "accuracy", (curve("LSTM cell"), curve(EVIL, "gru")), (("chance", 0.25),), **options)


def claim(*findings: Finding, id: str = "contents") -> Claim:
    table = Table("a table", ("what", "how much"), (("one", "1"), ("two", EVIL)))
    return Claim(id, "the cell remembers", "Measured so.", findings, (panel(),), ("a remark",), (table,))


def study(*found: Claim) -> Study:
    return Study(Path("nowhere"), (), (), found, 0.0)


def test_every_claim_is_there_in_order_and_as_json() -> None:
    found = claims(study(claim(finding("a", 1)), claim(finding("a", 0), id="gradient")))
    assert [one["id"] for one in found] == ["contents", "gradient"]
    json.dumps(found, allow_nan=False)
    assert (found[0]["text"], found[0]["how"], found[0]["remarks"]) == (
        "the cell remembers",
        "Measured so.",
        ["a remark"],
    )


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ((finding("a", 1),), {"word": "supported", "shape": "supported"}),
        ((finding("a", 0),), {"word": "contradicted", "shape": "contradicted"}),
        ((finding("a", 0.5),), {"word": "undecided", "shape": "undecided"}),
        ((finding("a", 1), finding("b", 0)), {"word": "depends on the setting", "shape": "depends"}),
        ((), {"word": "undecided", "shape": "undecided"}),
    ],
    ids=["supported", "contradicted", "undecided", "depends", "nothing"],
)
def test_the_verdict_is_a_word_and_a_shape(findings: tuple[Finding, ...], verdict: dict[str, str]) -> None:
    assert claims(study(claim(*findings)))[0]["verdict"] == verdict


def test_a_setting_has_the_finding_that_settles_it() -> None:
    (found,) = claims(study(claim(finding("a", 1), finding("a", 0, unit="bits"), finding("b", 1))))
    assert found["settings"] == [
        {
            "name": "a",
            "verdict": {"word": "contradicted", "shape": "contradicted"},
            "statement": "what a says",
            "figure": "0.000 (−0.100 to 0.100)",
            "unit": "bits",
            "seeds": "5 seeds",
        },
        {
            "name": "b",
            "verdict": {"word": "supported", "shape": "supported"},
            "statement": "what b says",
            "figure": "1.00 (0.90 to 1.10)",
            "unit": "steps",
            "seeds": "5 seeds",
        },
    ]
    assert found["statement"] is None
    assert claims(study(claim(finding("a", 1))))[0]["statement"] == "what a says"


def test_a_finding_has_its_interval_its_threshold_and_its_place_in_the_gauge() -> None:
    unknown = Finding("a", "it is", Interval(math.nan, math.nan, math.inf, 1), 0.5, "steps")
    known, missing = claims(study(claim(finding("a", 1), unknown)))[0]["findings"]
    assert known["interval"] == {"mean": 1, "low": 0.9, "high": 1.1, "threshold": 0.5}
    assert (known["threshold"], known["seeds"], known["verdict"]["word"]) == ("0.5", "5 seeds", "supported")
    assert known["gauge"]["threshold"] < known["gauge"]["low"] < known["gauge"]["mean"] < known["gauge"]["high"] <= 150
    assert missing["interval"] == {"mean": None, "low": None, "high": None, "threshold": 0.5}
    assert missing["seeds"] == "1 seed, no interval"
    assert missing["gauge"]["mean"] is None


def test_tables_are_rows_of_text() -> None:
    assert claims(study(claim(finding("a", 1))))[0]["tables"] == [
        {"title": "a table", "columns": ["what", "how much"], "rows": [["one", "1"], ["two", EVIL]]}
    ]


def test_plots_have_names_of_their_own_and_the_reports_legend() -> None:
    found = claims(study(claim(finding("a", 1)), claim(finding("a", 1))))
    plots = [one["panels"][0] for one in found]
    assert [one["name"] for one in plots] == ["claim-1-panel-1", "claim-2-panel-1"]
    shown = shown_claim(claim(finding("a", 1)), "claim-1").panels[0]
    assert [(e["index"], e["label"], e["colour"], e["dash"]) for e in plots[0]["legend"]] == [
        (i, label, look.colour, look.svg_dash) for i, label, look in shown.legend
    ]
    assert [(line["label"], line["value"], line["dash"]) for line in plots[0]["lines"]] == shown.lines
    assert '"claim-1-panel-1-1-line"' in json.dumps(plots[0]["doc"])


def test_words_stay_what_they_are_without_markup() -> None:
    (found,) = claims(study(claim(finding("a", 1))))
    assert found["panels"][0]["legend"][1]["label"] == EVIL


def test_what_a_logarithmic_axis_leaves_out_is_said() -> None:
    drawn = embedded(panel(log_x=True, log_y=True), "one")
    assert (drawn["left_out"], drawn["bottomless"]) == (2, True)
    assert (embedded(panel(), "one")["left_out"], embedded(panel(), "one")["bottomless"]) == (0, False)


@pytest.mark.parametrize(
    "shape",
    [
        HeatMap("a map", "step", "units", (0.0, 1.0), ("0", "1"), ((0.1, math.nan), (0.2, 1.0)), 0.0, 1.0),
        Dots("some dots", "score", ("one", "two"), (0.1, math.nan), (0.0, math.nan), (0.2, math.nan), (("half", 0.5),)),
    ],
    ids=["heat map", "dots"],
)
def test_other_plots_leave_their_title_to_the_page_and_fill_its_width(shape: HeatMap | Dots) -> None:
    drawn = embedded(shape, "one")
    json.dumps(drawn, allow_nan=False)
    attributes = drawn["doc"]["roots"][0]["attributes"]
    assert (drawn["title"], attributes["sizing_mode"]) == (shape.title, "stretch_width")
    assert shape.title not in json.dumps(drawn["doc"])
    assert drawn["legend"] == []
