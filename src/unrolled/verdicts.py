"""How a claim comes out: the rule that turns intervals over seeds into a verdict, and what a page needs to show it.

A verdict is never assumed. `Finding.verdict` compares an interval with the smallest effect that counts, and
`combine` joins findings, so every claim can come out supported, contradicted or undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unrolled.drawing.panels import Panel
from unrolled.intervals import Interval

Verdict = Literal["supported", "contradicted", "undecided"]


@dataclass(frozen=True)
class Finding:
    """One figure of one setting, held against the smallest effect that counts.

    Attributes:
        setting: the task it was measured on, as written on the command line.
        statement: what is true if the figure is above the threshold, in a few plain words.
        interval: the figure over seeds.
        threshold: the smallest figure for which the statement counts as true.
        unit: what the figure is measured in.
    """

    setting: str
    statement: str
    interval: Interval
    threshold: float
    unit: str

    @property
    def verdict(self) -> Verdict:
        """Supported if the whole interval is above the threshold, contradicted if it is below, else undecided."""
        if self.interval.low > self.threshold:
            return "supported"
        if self.interval.high < self.threshold:
            return "contradicted"
        return "undecided"


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a statement with several parts: one contradicted part is enough to contradict it."""
    if "contradicted" in verdicts:
        return "contradicted"
    if verdicts and all(v == "supported" for v in verdicts):
        return "supported"
    return "undecided"


def across(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict over several settings: a claim that holds in one and fails in another is undecided as it stands."""
    if verdicts and all(v == verdicts[0] for v in verdicts):
        return verdicts[0]
    return "undecided"


@dataclass(frozen=True)
class Table:
    """Figures that no curve shows: a title, column names, and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Claim:
    """One part of the folk answer, as measured.

    Attributes:
        id: its short name.
        text: the claim in words.
        how: how it was measured, in two sentences.
        findings: the figures the verdict rests on, grouped by setting in the order measured.
        panels: the plots.
        remarks: figures beside the verdict that a reader should know, a sentence each.
        tables: figures beside the verdict that want rows and columns.
    """

    id: str
    text: str
    how: str
    findings: tuple[Finding, ...]
    panels: tuple[Panel, ...]
    remarks: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def settings(self) -> dict[str, Verdict]:
        """The verdict in each setting."""
        by_setting: dict[str, list[Verdict]] = {}
        for finding in self.findings:
            by_setting.setdefault(finding.setting, []).append(finding.verdict)
        return {setting: all_of(verdicts) for setting, verdicts in by_setting.items()}

    @property
    def verdict(self) -> Verdict:
        """The verdict over all settings."""
        return across(list(self.settings.values()))

    @property
    def depends(self) -> bool:
        """Whether the claim holds in one setting and fails in another."""
        verdicts = set(self.settings.values())
        return {"supported", "contradicted"} <= verdicts
