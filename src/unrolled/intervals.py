"""A figure with its interval: over seeds, sequences or resamples; and how figures are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """One figure with its two-sided interval (level 0.95) over n seeds or sequences; low and high NaN without one."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def over(cls, values: Iterable[float]) -> Interval:
        """Mean and Student interval of `values`; any that is not finite makes the whole interval NaN.

        >>> Interval.over([1.0, 2.0, 3.0])
        Interval(mean=2, low=-0.48414, high=4.4841, n=3)
        """
        from scipy.stats import t

        figures = [float(v) for v in values]
        n = len(figures)
        if n == 0 or any(not math.isfinite(v) for v in figures):
            return cls(math.nan, math.nan, math.nan, n)
        mean = sum(figures) / n
        if n < 2:
            return cls(mean, math.nan, math.nan, n)
        spread = math.sqrt(sum((v - mean) ** 2 for v in figures) / (n - 1))
        half = float(t.ppf(0.5 + LEVEL / 2, n - 1)) * spread / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)

    @classmethod
    def resampled(cls, figure: float, resamples: Iterable[float], n: int) -> Interval:
        """The interval of a figure from its values on bootstrap resamples of n sequences (percentiles, Efron 1979)."""
        import numpy as np

        low, high = np.quantile(np.array(list(resamples)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(figure), float(low), float(high), n)

    @property
    def text(self) -> str:
        """The figure, with its bounds if there are any."""
        return with_interval(self.mean, self.low, self.high)

    def __repr__(self) -> str:
        return f"Interval(mean={self.mean:.5g}, low={self.low:.5g}, high={self.high:.5g}, n={self.n})"


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
