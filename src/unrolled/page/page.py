"""The whole page: what its template is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from unrolled.drawing.panels import Panel
from unrolled.drawing.plots import Look, bottomless, comparison_lines, left_out, looks, plot
from unrolled.intervals import number
from unrolled.page import wording
from unrolled.page.gauge import Gauge, gauges
from unrolled.page.sources import SOURCES
from unrolled.verdicts import Claim, Finding
from unrolled.views.embedding import bokeh_script, item, script_json
from unrolled.views.excerpt import Excerpt, embedded
from unrolled.views.figures import views
from unrolled.views.resources import EXCERPT_SCRIPTS, VIEWS, resource, template

PACKAGE = "unrolled.page"

QUESTION = "How do the cell state and the hidden state differ, and what does each carry?"


@dataclass(frozen=True)
class ShownFinding:
    """A finding as a table row."""

    finding: Finding
    badge: wording.Badge
    figure: str
    seeds: str
    threshold: str
    gauge: Gauge


@dataclass(frozen=True)
class ShownSetting:
    """One setting of a claim in the table of verdicts: its verdict and the finding that settles it."""

    name: str
    badge: wording.Badge
    finding: Finding
    figure: str
    seeds: str


@dataclass(frozen=True)
class ShownPanel:
    """A panel with its legend; the plot itself is among the page's models, under the same name."""

    name: str
    panel: Panel
    legend: list[tuple[int, str, Look]]
    lines: list[tuple[str, str, str]]
    left_out: int
    bottomless: bool


@dataclass(frozen=True)
class ShownClaim:
    """A claim as a section."""

    anchor: str
    claim: Claim
    badge: wording.Badge
    settings: list[ShownSetting]
    statement: str | None
    findings: list[ShownFinding]
    panels: list[ShownPanel]


def render(
    *,
    title: str,
    answer: str,
    claims: Sequence[Claim],
    table: Sequence[Mapping[str, str]],
    excerpts: Sequence[Excerpt],
    setup: Sequence[str],
) -> str:
    """The page as HTML; the arguments are those of `write_page`."""
    shown = [shown_claim(claim, f"claim-{index}") for index, claim in enumerate(claims, 1)]
    models: dict[str, Any] = {
        panel.name: item(plot(panel.panel, panel.name)) for claim in shown for panel in claim.panels
    }
    columns = list(dict.fromkeys(column for row in table for column in row))
    return template(PACKAGE, "page.jinja").render(
        title=title,
        question=QUESTION,
        answer=answer,
        claims=shown,
        columns=columns,
        table=table,
        excerpts=excerpts,
        setup=setup,
        sources=SOURCES,
        style=Markup(resource("views.css", VIEWS) + resource("style.css", PACKAGE)),
        bokeh=bokeh_script() if models or excerpts else Markup(""),
        models=script_json(models),
        views=script_json(item(views()) if excerpts else None),
        inside=script_json([embedded(excerpt) for excerpt in excerpts]),
        scripts=[Markup(resource("plots.js", PACKAGE)), *(Markup(resource(name, VIEWS)) for name in EXCERPT_SCRIPTS)],
    )


def shown_claim(claim: Claim, anchor: str) -> ShownClaim:
    """A claim with everything the template shows of it."""
    settings = [shown_setting(claim, setting) for setting in claim.settings]
    statements = {s.finding.statement for s in settings}
    return ShownClaim(
        anchor=anchor,
        claim=claim,
        badge=wording.badge(claim),
        settings=settings,
        # Said once beside the claim if it is the same everywhere, else in each row.
        statement=statements.pop() if len(statements) == 1 else None,
        findings=[
            ShownFinding(
                finding=finding,
                badge=wording.setting_badge(finding.verdict),
                figure=finding.interval.text,
                seeds=wording.seeds(finding.interval),
                threshold=number(finding.threshold),
                gauge=gauge,
            )
            for finding, gauge in zip(claim.findings, gauges(claim.findings), strict=True)
        ],
        panels=[shown_panel(panel, f"{anchor}-panel-{index}") for index, panel in enumerate(claim.panels, 1)],
    )


def shown_setting(claim: Claim, setting: str) -> ShownSetting:
    """A setting's row in the table of verdicts."""
    finding = wording.settling(claim, setting)
    return ShownSetting(
        name=setting,
        badge=wording.setting_badge(claim.settings[setting]),
        finding=finding,
        figure=finding.interval.text,
        seeds=wording.seeds(finding.interval),
    )


def shown_panel(panel: Panel, name: str) -> ShownPanel:
    """A panel with its legend."""
    legend = [(i, c.label, look) for i, (c, look) in enumerate(zip(panel.curves, looks(panel.curves), strict=True))]
    lines = [(text, number(value), dash) for text, value, dash in comparison_lines(panel)]
    return ShownPanel(
        name=name, panel=panel, legend=legend, lines=lines, left_out=left_out(panel), bottomless=bottomless(panel)
    )
