"""A study's claims as plain data: what the page shows of each, figures and verdicts already in words."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from unrolled.page.page import ShownFinding, ShownSetting, shown_claim
from unrolled.page.wording import Badge
from unrolled.study import Study
from unrolled.verdicts import Claim
from unrolled.viewer.measuring.plotted import embedded


def claims(study: Study) -> list[dict[str, Any]]:
    """Every claim of a study, in its order, as data that JSON can hold.

    Of each claim:

    - id, text, how: as in `Claim`,
    - verdict: {word, shape}; shape is "supported", "contradicted", "undecided" or "depends", for a claim that holds in
      one setting and fails in another,
    - statement: what the key figure of every setting says, None where settings rest on different ones,
    - settings: of each {name, verdict, statement, figure, unit, seeds}: its verdict and the finding that settles it,
    - findings: of each {setting, statement, figure, unit, seeds, threshold, verdict, interval, gauge}; interval is
      {mean, low, high, threshold} as numbers, None where there is none, and gauge the same as places in a drawing that
      is 150 wide, on a scale that findings in one unit share,
    - panels: its plots, as `plotted.embedded` gives them, with names that no other claim's have,
    - tables: of each {title, columns, rows}, in text,
    - remarks: a sentence each.
    """
    return [_plain(claim, f"claim-{index}") for index, claim in enumerate(study.claims, 1)]


def _plain(claim: Claim, anchor: str) -> dict[str, Any]:
    shown = shown_claim(claim, anchor)
    return {
        "id": claim.id,
        "text": claim.text,
        "how": claim.how,
        "verdict": _badge(shown.badge),
        "statement": shown.statement,
        "settings": [_setting(setting) for setting in shown.settings],
        "findings": [_finding(finding) for finding in shown.findings],
        "panels": [embedded(panel.panel, panel.name) for panel in shown.panels],
        "tables": [
            {"title": table.title, "columns": list(table.columns), "rows": [list(row) for row in table.rows]}
            for table in claim.tables
        ],
        "remarks": list(claim.remarks),
    }


def _badge(badge: Badge) -> dict[str, str]:
    return {"word": badge.word, "shape": badge.shape}


def _setting(setting: ShownSetting) -> dict[str, Any]:
    return {
        "name": setting.name,
        "verdict": _badge(setting.badge),
        "statement": setting.finding.statement,
        "figure": setting.figure,
        "unit": setting.finding.unit,
        "seeds": setting.seeds,
    }


def _finding(shown: ShownFinding) -> dict[str, Any]:
    interval = shown.finding.interval
    return {
        "setting": shown.finding.setting,
        "statement": shown.finding.statement,
        "figure": shown.figure,
        "unit": shown.finding.unit,
        "seeds": shown.seeds,
        "threshold": shown.threshold,
        "verdict": _badge(shown.badge),
        "interval": {
            "mean": _known(interval.mean),
            "low": _known(interval.low),
            "high": _known(interval.high),
            "threshold": _known(shown.finding.threshold),
        },
        "gauge": asdict(shown.gauge),
    }


def _known(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
