"""Claim `gradient`: an RNN's gradient vanishes or explodes with lag; the cell state is a highway for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from unrolled.claims.evidence import (
    NAMES,
    Figures,
    Measurement,
    Run,
    Subject,
    curve,
    figures,
    number,
    paired,
    settings_of,
)
from unrolled.drawing.panels import Panel
from unrolled.instruments.gradient_flow import gradient_flow
from unrolled.instruments.lyapunov import lyapunov
from unrolled.intervals import Interval
from unrolled.storage import finite
from unrolled.verdicts import Claim, Finding, Table

_SEQUENCES = 64


def _measure(subject: Subject) -> Figures | None:
    task = subject.task.longest()
    batch = task.batch(_SEQUENCES, seed=subject.seed, split="test")
    if not bool(batch.scored[:, -1].all()) or batch.inputs.size(1) < 8:
        return None

    def last_loss(answers: Tensor) -> Tensor:
        if task.regression:
            return (answers[:, -1, 0] - batch.targets[:, -1]).square()
        return F.cross_entropy(answers[:, -1], batch.targets[:, -1], reduction="none")

    flow = gradient_flow(subject.model, batch.inputs, last_loss)
    before = gradient_flow(subject.untrained, batch.inputs, last_loss)
    states = [state for state in flow.states if state != "both"]
    return {
        "lags": flow.lags.tolist(),
        "norms": {state: flow.norms(state).tolist() for state in states},
        "direct": None if flow.direct is None else flow.direct.tolist(),
        "rate": {state: finite(flow.rate(state)) for state in states},
        "half_life": {state: finite(flow.half_life(state)) for state in states},
        "fold": {state: finite(flow.fold(state)) for state in states},
        "untrained_rate": {state: finite(before.rate(state)) for state in states},
        "exponent": finite(float(lyapunov(subject.model, batch.inputs[:8], warm_up=5).exponents[0])),
    }


def _size(value: float | None) -> float:
    # A gradient that is exactly zero further back has vanished without bound.
    return float("inf") if value is None else abs(value)


def _judge(runs: Sequence[Run]) -> Claim:
    findings, panels, rows = [], [], []
    for setting in settings_of(runs, "gradient"):
        by_cell = {cell: figures(runs, "gradient", setting, cell) for cell in NAMES}
        rnn, lstm = by_cell["rnn"], by_cell["lstm"]
        if not rnn or not lstm:
            continue
        steps = int(next(iter(rnn.values()))["lags"][-1])
        findings.append(
            Finding(
                setting,
                f"RNN: over {steps - 1} steps the gradient to the hidden state shrinks or grows more than tenfold",
                Interval.over(_size(f["fold"]["hidden"]) for f in rnn.values()),
                1.0,
                "powers of ten",
            )
        )
        findings.append(
            Finding(
                setting,
                "the gradient to the LSTM's cell changes less per step than the one to the RNN's hidden state",
                paired(rnn, lstm, lambda a, b: _size(a["rate"]["hidden"]) - _size(b["rate"]["cell"])),
                0.0,
                "nats per step",
            )
        )
        curves = []
        for cell, measured in by_cell.items():
            for state in next(iter(measured.values()))["norms"] if measured else ():
                lags = next(iter(measured.values()))["lags"]
                norms = [f["norms"][state] for f in measured.values()]
                curves.append(curve(f"{NAMES[cell]} {state}", cell, state, lags, norms, log=True))
        lags = next(iter(lstm.values()))["lags"]
        direct = [f["direct"] for f in lstm.values()]
        curves.append(curve("LSTM forget gates alone", "lstm", "direct", lags, direct, log=True))
        panels.append(
            Panel(
                f"Gradient of the last loss: {setting}",
                "lag k (steps back)",
                "norm of the gradient at t - k",
                tuple(curves),
                log_y=True,
            )
        )
        rows += [row for cell, measured in by_cell.items() if measured for row in _rows(setting, cell, measured)]
    return Claim(
        "gradient",
        "An RNN's gradient vanishes or explodes with lag; the cell state is a highway for it.",
        "The loss at the last step is differentiated with respect to every earlier hidden and cell state of the "
        "trained "
        "network, and the length of that gradient is followed back through time. "
        "If the claim is right, the RNN's line falls or rises steeply while the LSTM's cell line stays nearly level.",
        tuple(findings),
        tuple(panels),
        (
            "Forget gates alone: the product of the forget gates between the two steps, which is the cell's own "
            "direct path; the cell's line "
            "beside it is along every path.",
        )
        if rows
        else (),
        (_table(rows),) if rows else (),
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(
        "How fast gradients shrink (growth below 0) or grow, means over seeds",
        (
            "setting",
            "gradient to",
            "growth per step (nats)",
            "before training",
            "halves every (steps)",
            "top Lyapunov exponent of the full state (nats per step)",
        ),
        tuple(rows),
    )


def _rows(setting: str, cell: str, measured: dict[int, Figures]) -> list[tuple[str, ...]]:
    def mean(figure: str, state: str | None = None) -> float:
        values = [f[figure] if state is None else f[figure][state] for f in measured.values()]
        return Interval.over(number(value) for value in values).mean

    rows: list[tuple[str, ...]] = []
    for state in next(iter(measured.values()))["rate"]:
        rate = mean("rate", state)
        halves = f"{math.log(2) / -rate:.1f}" if rate < 0 else "grows"
        figures = (f"{rate:+.3f}", f"{mean('untrained_rate', state):+.3f}", halves, f"{mean('exponent'):+.3f}")
        rows.append((setting, f"{NAMES[cell]} {state}", *figures))
    return rows


MEASUREMENT = Measurement("gradient", _measure, _judge)
