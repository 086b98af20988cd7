"""Claim `gradient`: an RNN's gradient vanishes or explodes with lag; the cell state is a highway for it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from unrolled.claims.evidence import NAMES, Figures, Measurement, Run, Subject, curve, figures, paired, settings_of
from unrolled.instruments import gradient_flow, lyapunov
from unrolled.storage import finite
from unrolled.verdicts import Claim, Finding, Interval, Panel

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
    return {
        "lags": flow.lags.tolist(),
        "norms": {state: norms.tolist() for state, norms in flow.norms.items()},
        "direct": None if flow.direct is None else flow.direct.tolist(),
        "rate": {state: finite(flow.rate(state)) for state in flow.norms},
        "half_life": {state: finite(flow.half_life(state)) for state in flow.norms},
        "fold": {state: finite(flow.fold(state)) for state in flow.norms},
        "untrained_rate": {state: finite(before.rate(state)) for state in before.norms},
        "exponent": finite(float(lyapunov(subject.model.recurrent, batch.inputs[:8], warm_up=5)[0])),
    }


def _size(value: float | None) -> float:
    # A gradient that is exactly zero further back has vanished without bound.
    return float("inf") if value is None else abs(value)


def _judge(runs: Sequence[Run]) -> Claim:
    findings, panels, remarks = [], [], []
    for setting in settings_of(runs, "gradient"):
        by_cell = {cell: figures(runs, "gradient", setting, cell) for cell in NAMES}
        rnn, lstm = by_cell["rnn"], by_cell["lstm"]
        if not rnn or not lstm:
            continue
        steps = int(next(iter(rnn.values()))["lags"][-1])
        findings.append(
            Finding(
                setting,
                f"RNN: over {steps} steps the gradient to the hidden state shrinks or grows more than tenfold",
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
                rows = [f["norms"][state] for f in measured.values()]
                curves.append(curve(f"{NAMES[cell]} {state}", cell, state, lags, rows, log=True))
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
        remarks.append(f"{setting}: " + "; ".join(_per_step(cell, measured) for cell, measured in by_cell.items() if measured))
    return Claim(
        "gradient",
        "An RNN's gradient vanishes or explodes with lag; the cell state is a highway for it.",
        "The loss at the last step is differentiated with respect to every earlier hidden and cell state of the trained "
        "network, and the length of that gradient is followed back through time. "
        "If the claim is right, the RNN's line falls or rises steeply while the LSTM's cell line stays nearly level.",
        tuple(findings),
        tuple(panels),
        tuple(remarks),
    )


def _per_step(cell: str, measured: dict[int, Figures]) -> str:
    parts = []
    for state in next(iter(measured.values()))["rate"]:
        trained = Interval.over(-_size(f["rate"][state]) if f["rate"][state] is None else f["rate"][state] for f in measured.values())
        untrained = Interval.over(-_size(f["untrained_rate"][state]) if f["untrained_rate"][state] is None else f["untrained_rate"][state] for f in measured.values())
        parts.append(f"{state} {trained.mean:+.3f} ({untrained.mean:+.3f} before training)")
    exponent = Interval.over(f["exponent"] if f["exponent"] is not None else float("nan") for f in measured.values())
    return (
        f"{NAMES[cell]} gradient growth in nats per step: {', '.join(parts)}, "
        f"top Lyapunov exponent of the full state {exponent.mean:+.3f}"
    )


MEASUREMENT = Measurement("gradient", _measure, _judge)
