"""How figures and verdicts read on the page."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unrolled.intervals import Interval
from unrolled.verdicts import Claim, Finding


@dataclass(frozen=True)
class Badge:
    """A verdict as shown: a word, and the name of the shape and colour that go with it."""

    word: str
    shape: str


def badge(claim: Claim) -> Badge:
    """The verdict over all settings; a claim that holds in one and fails in another says so."""
    if claim.depends:
        return Badge("depends on the setting", "depends")
    return Badge(claim.verdict, claim.verdict)


def setting_badge(verdict: str) -> Badge:
    """The verdict in one setting, or on one finding."""
    return Badge(verdict, verdict)


def settling(claim: Claim, setting: str) -> Finding:
    """The finding a setting's verdict rests on: the first that says what the verdict says."""
    verdict = claim.settings[setting]
    return next(f for f in claim.findings if f.setting == setting and f.verdict == verdict)


def seeds(interval: Interval) -> str:
    """Over how many seeds a figure was taken, and what is missing if no interval could be."""
    counted = f"{interval.n} seed" if interval.n == 1 else f"{interval.n} seeds"
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        return counted
    return f"{counted}, no interval"


def spoken(name: str) -> str:
    """A recorded name in words: "in_string" -> "in string"."""
    return name.replace("_", " ")
