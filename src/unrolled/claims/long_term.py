"""Claim `long_term`: LSTMs handle long-term dependencies better than RNNs."""

from __future__ import annotations

from collections.abc import Sequence

from unrolled.claims.evidence import NAMES, Figures, Measurement, Run, Subject, curve, figures, paired, settings_of
from unrolled.drawing.panels import Panel
from unrolled.intervals import Interval
from unrolled.training import evaluate
from unrolled.verdicts import Claim, Finding

_SEQUENCES = 256

# Differences in skill below this are no difference.
_COUNTS = 0.02


def _measure(subject: Subject) -> Figures | None:
    task = subject.task
    if not task.lags:
        return None
    longest = task.longest()
    top = longest.skill(evaluate(subject.model, longest, size=_SEQUENCES, seed=subject.seed))
    values = [evaluate(subject.model, task.at_lag(lag), size=_SEQUENCES, seed=subject.seed) for lag in task.lags]
    skills = [task.at_lag(lag).skill(value) for lag, value in zip(task.lags, values, strict=True)]
    return {
        "lags": list(task.lags),
        "values": values,
        "skills": [_within(skill) for skill in skills],
        "longest_trained": _within(top),
    }


def _within(skill: float) -> float:
    # An answer worse than no skill is no skill: how much worse says nothing about memory.
    return min(max(skill, 0.0), 1.0)


def _mean(measured: Figures) -> float:
    return float(sum(measured["skills"]) / len(measured["skills"]))


def _judge(runs: Sequence[Run]) -> Claim:
    findings, panels, remarks = [], [], []
    for setting in settings_of(runs, "long_term"):
        by_cell = {cell: figures(runs, "long_term", setting, cell) for cell in NAMES}
        rnn, lstm = by_cell["rnn"], by_cell["lstm"]
        if not rnn or not lstm:
            continue
        lags = next(iter(lstm.values()))["lags"]
        findings.append(
            Finding(
                setting,
                "the LSTM has more skill than the RNN at the longest lag of training",
                paired(lstm, rnn, lambda a, b: float(a["longest_trained"] - b["longest_trained"])),
                _COUNTS,
                "skill (0 none, 1 perfect)",
            )
        )
        panels.append(
            Panel(
                f"Skill against lag: {setting}",
                "lag (steps)",
                "skill on test data (0 none, 1 perfect)",
                tuple(
                    curve(NAMES[cell], cell, "cell", lags, [f["skills"] for f in measured.values()])
                    for cell, measured in by_cell.items()
                    if measured
                ),
                (("no skill", 0.0), ("perfect", 1.0)),
                log_x=True,
            )
        )
        skills = ", ".join(
            f"{NAMES[cell]} {Interval.over(_mean(f) for f in measured.values()).mean:.2f}"
            for cell, measured in by_cell.items()
            if measured
        )
        sizes = ", ".join(
            f"{NAMES[run.cell]} {run.parameters} ({run.hidden_size} units)"
            for run in {run.cell: run for run in runs if run.setting == setting}.values()
        )
        remarks.append(
            f"{setting}: mean skill over lags {', '.join(map(str, lags))}: {skills}; trainable parameters {sizes}"
        )
    return Claim(
        "long_term",
        "LSTMs handle long-term dependencies better than RNNs.",
        "Networks with nearly the same number of parameters are trained on the same data and tested at several "
        "lags, longer ones "
        "than in training included. "
        "Skill is 0 for an answer that ignores the past and 1 for a perfect one; the claim needs the LSTM's to be "
        "higher by more "
        f"than {_COUNTS}.",
        tuple(findings),
        tuple(panels),
        tuple(remarks),
    )


MEASUREMENT = Measurement("long_term", _measure, _judge)
