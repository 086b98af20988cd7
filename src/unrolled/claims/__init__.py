"""The folk answer as claims that can fail: the table of what is measured, and how each comes out."""

from collections.abc import Sequence

from unrolled.claims import capacity, contents, gradient, long_term, overwrite, storing
from unrolled.claims.evidence import Measurement, Run, Subject
from unrolled.verdicts import Claim

MEASUREMENTS: dict[str, Measurement] = {
    measurement.id: measurement
    for measurement in (
        gradient.MEASUREMENT,
        overwrite.MEASUREMENT,
        contents.MEASUREMENT,
        storing.MEASUREMENT,
        long_term.MEASUREMENT,
        capacity.MEASUREMENT,
    )
}


def judge(runs: Sequence[Run]) -> tuple[Claim, ...]:
    """Every claim as the measurements of finished runs bear it out."""
    return tuple(measurement.judge(runs) for measurement in MEASUREMENTS.values())


__all__ = ["MEASUREMENTS", "Claim", "Measurement", "Run", "Subject", "judge"]
