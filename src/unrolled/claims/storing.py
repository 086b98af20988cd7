"""Claim `storing`: what to store and when to load is learnt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unrolled.claims.evidence import (
    NAMES,
    Figures,
    Measurement,
    Run,
    Subject,
    curve,
    figures,
    learnt,
    left_out,
    settings_of,
)
from unrolled.drawing.panels import Panel
from unrolled.instruments.gate_openness import gate_openness
from unrolled.intervals import Interval
from unrolled.structure import cell_of
from unrolled.trace import record
from unrolled.verdicts import Claim, Finding, Table

_SEQUENCES = 256
# Differences in openness below this are no difference.
_COUNTS = 0.01
_AROUND = range(-4, 9)

# Which gate acts at which kind of step.
_ACTS = {"store": "write", "load": "read"}


def _measure(subject: Subject) -> Figures | None:
    batch = subject.task.longest().batch(_SEQUENCES, seed=subject.seed, split="test")
    opens = cell_of(subject.model.recurrent).opens
    if not batch.marks or not opens:
        return None
    result: Figures = {}
    for name, model in (("trained", subject.model), ("untrained", subject.untrained)):
        with torch.no_grad(), record(model) as trace:
            model(batch.inputs)
        for mark, act in _ACTS.items():
            if mark in batch.marks and act in opens:
                gate, open_at = opens[act]
                recorded = trace[f"recurrent.l0.{gate}"]
                openness = gate_openness(recorded, batch.marks[mark], open_at=open_at)
                around = _aligned(recorded if open_at else 1 - recorded, batch.marks[mark])
                result.setdefault(mark, {"gate": gate})[name] = {
                    **{figure: getattr(openness, figure) for figure in ("matter", "rest", "difference", "effect")},
                    "around": around,
                }
    return result


def _aligned(openness: Tensor, marks: Tensor) -> list[float | None]:
    """Mean openness at each place around the marked steps; None where no sequence has such a place."""
    means = openness.mean(-1)  # (B, T)
    sequences, steps = marks.nonzero(as_tuple=True)
    line: list[float | None] = []
    for offset in _AROUND:
        at = steps + offset
        inside = (at >= 0) & (at < means.size(1))
        line.append(float(means[sequences[inside], at[inside]].mean()) if bool(inside.any()) else None)
    return line


def _judge(runs: Sequence[Run]) -> Claim:
    findings, panels, remarks, effects = [], [], [], []
    for setting in settings_of(runs, "storing"):
        by_cell = {cell: figures(runs, "storing", setting, cell) for cell in ("gru", "lstm")}
        lstm = by_cell["lstm"]
        if not lstm:
            continue
        if not learnt(runs, setting, "lstm"):
            remarks.append(left_out(setting))
        for mark in next(iter(lstm.values())):
            gate = next(iter(lstm.values()))[mark]["gate"]
            if learnt(runs, setting, "lstm"):
                findings.append(
                    Finding(
                        setting,
                        f"LSTM: training makes the {_words(gate)} tell the steps to {mark} from the others more "
                        "than before",
                        Interval.over(
                            f[mark]["trained"]["difference"] - f[mark]["untrained"]["difference"] for f in lstm.values()
                        ),
                        _COUNTS,
                        "openness (0 to 1)",
                    )
                )
            effects.append((setting, f"LSTM {_words(gate)}", mark, *_effects(lstm, mark)))
        curves = []
        for cell, measured in by_cell.items():
            for mark in next(iter(measured.values())) if measured else ():
                for name in ("trained", "untrained"):
                    gate = next(iter(measured.values()))[mark]["gate"]
                    rows = [f[mark][name]["around"] for f in measured.values()]
                    label = f"{NAMES[cell]} {_ACTS[mark]}s by {_words(gate)}, {name}"
                    curves.append(
                        (mark, curve(label, cell, "cell" if name == "trained" else "hidden", list(_AROUND), rows))
                    )
        for mark in ("store", "load"):
            chosen = tuple(line for m, line in curves if m == mark)
            if chosen:
                panels.append(
                    Panel(
                        f"Gates around the step to {mark}: {setting}",
                        f"steps from the step to {mark}",
                        "mean openness (solid: trained, dashed: untrained)",
                        chosen,
                    )
                )
    return Claim(
        "storing",
        "What to store and when to load is learnt.",
        "Each gate's openness at the steps that matter (a marked number, the cue, the question) is compared with "
        "its openness at the other steps, unit by unit. "
        "The claim needs this difference to be larger after training than in the same network before it.",
        tuple(findings),
        tuple(panels),
        tuple(remarks),
        (_table(effects),) if effects else (),
    )


def _effects(measured: dict[int, Figures], mark: str) -> tuple[str, ...]:
    """Openness at the steps that matter and at the rest when trained, and Cohen's d trained and untrained."""

    def mean(name: str, figure: str) -> float:
        return Interval.over(f[mark][name][figure] for f in measured.values()).mean

    openness = (mean("trained", "matter"), mean("trained", "rest"))
    effects = (mean("trained", "effect"), mean("untrained", "effect"))
    return tuple(f"{value:.2f}" for value in (*openness, *effects))


def _table(rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(
        "Effect sizes: each unit's difference in its own standard deviations (Cohen's d), mean over units and seeds",
        ("setting", "gate", "step to", "openness there", "openness elsewhere", "d trained", "d untrained"),
        tuple(rows),
    )


def _words(gate: str) -> str:
    return gate.replace("_", " ")


MEASUREMENT = Measurement("storing", _measure, _judge)
