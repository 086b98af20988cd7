"""Claim `overwrite`: the hidden state is overwritten at every step; the cell state is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unrolled.claims.evidence import NAMES, Figures, Measurement, Run, Subject, curve, figures, settings_of
from unrolled.drawing.panels import Panel
from unrolled.instruments.push_response import push_response
from unrolled.intervals import Interval
from unrolled.structure import cell_of
from unrolled.verdicts import Claim, Finding

_SEQUENCES = 64


def _measure(subject: Subject) -> Figures | None:
    batch = subject.task.longest().batch(_SEQUENCES, seed=subject.seed, split="test")
    length = batch.inputs.size(1)
    if length < 8:
        return None
    result: Figures = {}
    for state in cell_of(subject.model.recurrent).states:
        response = push_response(subject.model, batch.inputs, state=state, at=length // 4, seed=subject.seed)
        result[state] = {
            "lags": response.lags.tolist(),
            "states": response.states.tolist(),
            "output": response.output.tolist(),
            "half_life": response.half_life(),
        }
    return result


def _judge(runs: Sequence[Run]) -> Claim:
    findings, panels, remarks = [], [], []
    for setting in settings_of(runs, "overwrite"):
        by_cell = {cell: figures(runs, "overwrite", setting, cell) for cell in NAMES}
        lstm = by_cell["lstm"]
        if not lstm:
            continue
        findings.append(
            Finding(
                setting,
                "LSTM: one step after a push on the hidden state alone, more than half of it is gone",
                Interval.over(1 - f["hidden"]["states"][1] for f in lstm.values()),
                0.5,
                "share gone",
            )
        )
        findings.append(
            Finding(
                setting,
                "LSTM: a push on the cell state lives longer than one on the hidden state",
                Interval.over(
                    math.log2(max(f["cell"]["half_life"], 0.1) / max(f["hidden"]["half_life"], 0.1))
                    for f in lstm.values()
                ),
                0.0,
                "doublings of the half-life",
            )
        )
        for seen, title in (("states", "all states"), ("output", "the output")):
            curves = [
                curve(
                    f"{NAMES[cell]}, push on {state}",
                    cell,
                    state,
                    next(iter(measured.values()))[state]["lags"],
                    [f[state][seen] for f in measured.values()],
                )
                for cell, measured in by_cell.items()
                if measured
                for state in next(iter(measured.values()))
            ]
            panels.append(
                Panel(
                    f"What is left of a push in {title}: {setting}",
                    "steps after the push",
                    "distance, as a share of the push",
                    tuple(curves),
                    (("half", 0.5),),
                )
            )
        lives = []
        for cell, measured in by_cell.items():
            for state in next(iter(measured.values())) if measured else ():
                over = Interval.over(f[state]["half_life"] for f in measured.values())
                horizon = next(iter(measured.values()))[state]["lags"][-1]
                mark = " (the end of the sequence)" if over.mean >= horizon else ""
                lives.append(f"{NAMES[cell]} {state} {over.mean:.1f}{mark}")
        remarks.append(f"{setting}: half-life of a push in steps: {', '.join(lives)}")
    return Claim(
        "overwrite",
        "The hidden state is overwritten at every step; the cell state is kept.",
        "At a quarter of the sequence the hidden state alone, or the cell state alone, is pushed by a tenth of its "
        "own length, and the "
        "network is run on beside its undisturbed twin. "
        "The distance between the two, as a share of the push, shows for how many steps the push survives.",
        tuple(findings),
        tuple(panels),
        tuple(remarks),
    )


MEASUREMENT = Measurement("overwrite", _measure, _judge)
