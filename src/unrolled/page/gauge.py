"""An interval beside the threshold it is held against, as a small drawing in a table row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unrolled.verdicts import Finding

WIDTH = 150.0
MARGIN = 8.0


@dataclass(frozen=True)
class Gauge:
    """Positions in drawing units from 0 to WIDTH; None where there is no figure or no interval."""

    threshold: float
    mean: float | None
    low: float | None
    high: float | None


def gauges(findings: Sequence[Finding]) -> list[Gauge]:
    """One gauge per finding; findings in the same unit share a scale, so that their gauges can be compared."""
    scales = {unit: scale([f for f in findings if f.unit == unit]) for unit in {f.unit for f in findings}}
    found = []
    for finding in findings:
        start, end = scales[finding.unit]
        interval = finding.interval

        def place(value: float, start: float = start, end: float = end) -> float | None:
            if not math.isfinite(value):
                return None
            share = (value - start) / (end - start)
            return round(min(max(MARGIN + share * (WIDTH - 2 * MARGIN), 0.0), WIDTH), 2)

        found.append(
            Gauge(
                threshold=place(finding.threshold) or 0.0,
                mean=place(interval.mean),
                low=place(interval.low),
                high=place(interval.high),
            )
        )
    return found


def scale(findings: Sequence[Finding]) -> tuple[float, float]:
    """Where the shared scale starts and ends; an interval far wider than the rest runs out of it."""
    centres = [v for f in findings for v in (f.interval.mean, f.threshold) if math.isfinite(v)]
    ends = [v for f in findings for v in (f.interval.low, f.interval.high) if math.isfinite(v)]
    if not centres:
        return 0.0, 1.0
    bottom, top = min(centres), max(centres)
    span = top - bottom or abs(top) or 1.0
    start = max(min([bottom, *ends]), bottom - 1.5 * span)
    end = min(max([top, *ends]), top + 1.5 * span)
    return (start, end) if end > start else (start - span, end + span)
