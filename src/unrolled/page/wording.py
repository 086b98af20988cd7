"""How figures and verdicts read on the page."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unrolled.verdicts import Claim, Finding, Interval

MINUS = "\N{MINUS SIGN}"
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


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


def number(value: float, decimals: int | None = None) -> str:
    """A figure to three significant digits, or to `decimals` places.

    >>> number(0.12345), number(12345.6), number(-2.5e-7)
    ('0.123', '12,346', '−2.5 × 10⁻⁷')
    """
    if not math.isfinite(value):
        return "not measured" if math.isnan(value) else ("∞" if value > 0 else f"{MINUS}∞")
    size = abs(value)
    if size != 0 and not 1e-3 <= size < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        short = mantissa.rstrip("0").rstrip(".").replace("-", MINUS)
        return f"{short} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    if decimals is None:
        places = 0 if size == 0 else max(0, 2 - math.floor(math.log10(size)))
        text = f"{value:,.{places}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:,.{decimals}f}"
    return text.replace("-", MINUS) if float(text.replace(",", "")) != 0 else text.lstrip("-")


def decimals_for(*values: float) -> int | None:
    """How many places show three digits of the largest of `values` and two of the distance between them."""
    finite = [v for v in values if math.isfinite(v)]
    largest = max((abs(v) for v in finite), default=0.0)
    if largest == 0 or not 1e-3 <= largest < 1e6:
        return None
    places = 2 - math.floor(math.log10(largest))
    spread = max(finite) - min(finite)
    if spread > 0:
        places = max(places, 1 - math.floor(math.log10(spread)))
    return min(max(places, 0), 6)


def with_interval(mean: float, low: float, high: float) -> str:
    """A figure with its interval, to as many places as the interval deserves.

    >>> with_interval(0.5, 0.25, 0.75), with_interval(0.5, math.nan, math.nan)
    ('0.500 (0.250 to 0.750)', '0.5')
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return number(mean)
    places = decimals_for(mean, low, high)
    fixed = None if any(0 < abs(v) < 1e-3 for v in (mean, low, high)) and places is None else places
    # At a fixed number of places a small bound beside large ones is written plainly, not with an exponent.
    parts = [f"{v:,.{fixed}f}".replace("-", MINUS) if fixed is not None else number(v) for v in (mean, low, high)]
    return f"{parts[0]} ({parts[1]} to {parts[2]})"


def measured(interval: Interval) -> str:
    """An interval as text: the figure, its bounds if there are any."""
    return with_interval(interval.mean, interval.low, interval.high)


def seeds(interval: Interval) -> str:
    """Over how many seeds a figure was taken, and what is missing if no interval could be."""
    counted = f"{interval.n} seed" if interval.n == 1 else f"{interval.n} seeds"
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        return counted
    return f"{counted}, no interval"


def spoken(name: str) -> str:
    """A recorded name in words: "in_string" -> "in string"."""
    return name.replace("_", " ")
