"""Claim `contents`: the cell state carries the far past, the hidden state the immediate past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray

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
from unrolled.instruments import memory_curve, probe
from unrolled.instruments.probe import control_labels
from unrolled.intervals import Interval
from unrolled.model import SequenceModel
from unrolled.tasks import Batch
from unrolled.trace import record
from unrolled.verdicts import Claim, Finding, Table

_SEQUENCES = 480
_LAGS = (0, 1, 2, 3, 5, 8, 12, 18, 26)
_NEAR = 1  # lags up to this are the immediate past
_FAR = 8  # lags from this on are the far past
_COUNTS = 0.01  # differences in accuracy below this are no difference
# What is true of the source at each character, and is not the character itself.
_LABELS = ("in_string", "in_comment", "bracket_depth", "indentation")

Features = dict[str, NDArray[np.float32]]


def _features(model: SequenceModel, batch: Batch) -> Features:
    """The states side by side as a probe takes them: state -> (B, T, F)."""
    with torch.no_grad(), record(model, names=["*.hidden", *(["*.cell"] if _has_cell(model) else [])]) as trace:
        model(batch.inputs)
    found = {name.rpartition(".")[2]: trace[name].numpy() for name in trace}
    if "cell" in found:
        found["both"] = np.concatenate([found["hidden"], found["cell"]], axis=-1)
    return found


def _has_cell(model: SequenceModel) -> bool:
    return model.recurrent.mode == "LSTM"


def _measure(subject: Subject) -> Figures | None:
    batch = subject.task.longest().batch(_SEQUENCES, seed=subject.seed, split="test")
    # A past that is not far cannot tell the states apart.
    if batch.symbols is None or batch.symbols.size(1) <= _FAR:
        return None
    symbols = batch.symbols.numpy()
    length = symbols.shape[1]
    lags = [lag for lag in _LAGS if lag < length]
    # Where the task says which symbol is to be kept, the far past is that symbol; else it is any symbol.
    past = symbols
    if "store" in batch.marks:
        past = np.where(batch.marks["store"].numpy(), symbols, -1)
        lags = sorted({*lags, length - 1})
    features = _features(subject.model, batch)
    features |= {f"untrained {state}": values for state, values in _features(subject.untrained, batch).items()}
    features["input"] = batch.inputs.numpy()
    result: Figures = {"lags": lags, "curves": {}, "labels": {}}
    for name, values in features.items():
        near = memory_curve(values, symbols, [lag for lag in lags if lag <= _NEAR], seed=subject.seed)
        far = memory_curve(values, past, [lag for lag in lags if lag > _NEAR], seed=subject.seed)
        result["curves"][name] = {
            "accuracy": [*near.accuracy, *far.accuracy],
            "control": [*near.control, *far.control],
        }
    for label in _LABELS:
        if label in batch.labels:
            truth = batch.labels[label].numpy()
            control = control_labels(symbols, truth, seed=subject.seed)
            result["labels"][label] = {
                name: asdict(probe(values, truth, control=control, seed=subject.seed))
                for name, values in features.items()
            }
    return result


def _advantage(measured: Figures, first: str, second: str, *, far: bool) -> float:
    """Mean over the far or the near lags of the accuracy from one state less that from the other."""
    curves = measured["curves"]
    chosen = [i for i, lag in enumerate(measured["lags"]) if (lag >= _FAR if far else lag <= _NEAR)]
    return float(np.mean([curves[first]["accuracy"][i] - curves[second]["accuracy"][i] for i in chosen]))


def _judge(runs: Sequence[Run]) -> Claim:
    findings, panels, tables, remarks = [], [], [], []
    for setting in settings_of(runs, "contents"):
        by_cell = {cell: figures(runs, "contents", setting, cell) for cell in NAMES}
        lstm = by_cell["lstm"]
        if not lstm:
            continue
        if not learnt(runs, setting, "lstm"):
            remarks.append(left_out(setting))
        else:
            findings.append(
                Finding(
                    setting,
                    f"LSTM: the input {_FAR} or more steps back is read better from the cell than from the hidden "
                    "state",
                    Interval.over(_advantage(f, "cell", "hidden", far=True) for f in lstm.values()),
                    _COUNTS,
                    "balanced accuracy",
                )
            )
            findings.append(
                Finding(
                    setting,
                    f"LSTM: the input 0 to {_NEAR} steps back is read better from the hidden state than from the cell",
                    Interval.over(_advantage(f, "hidden", "cell", far=False) for f in lstm.values()),
                    _COUNTS,
                    "balanced accuracy",
                )
            )
        panels.append(_curves_of_states(setting, lstm))
        panels.append(_curves_of_cells(setting, by_cell))
        if next(iter(lstm.values()))["labels"]:
            tables += _tables_of_labels(setting, by_cell)
            remarks.append(
                f"{setting}: selectivity (Hewitt & Liang 2019) below 0 means that a label dealt to each character "
                "is easier to read "
                "from a state than the label in question, since the state still holds the character itself; what a "
                "state adds is then seen "
                "beside the input alone and the untrained network"
            )
    return Claim(
        "contents",
        "The cell state carries the far past, the hidden state the immediate past.",
        "A linear readout (a probe) is fitted to tell the input symbol k steps back from the hidden state, from "
        "the cell state and from both, and "
        "is tested on other sequences; where the task says which symbol must be kept, the far past is that symbol. "
        "Beside it stand the same readout of an untrained network, of the input alone and, as a control, for "
        "labels that the states cannot know.",
        tuple(findings),
        tuple(panels),
        tuple(remarks),
        tuple(tables),
    )


def _curves_of_states(setting: str, lstm: dict[int, Figures]) -> Panel:
    lags = next(iter(lstm.values()))["lags"]
    names = {
        "cell": ("lstm", "cell"),
        "hidden": ("lstm", "hidden"),
        "both": ("lstm", "both"),
        "untrained cell": ("untrained", "cell"),
        "untrained hidden": ("untrained", "hidden"),
        "input": ("input", "hidden"),
    }
    curves = [
        curve(
            f"LSTM {name}" if name != "input" else "input alone",
            cell,
            state,
            lags,
            [f["curves"][name]["accuracy"] for f in lstm.values()],
        )
        for name, (cell, state) in names.items()
    ]
    control = [f["curves"]["cell"]["control"] for f in lstm.values()]
    curves.append(curve("LSTM cell, control labels", "control", "cell", lags, control))
    return Panel(
        f"Input k steps back, read from the LSTM: {setting}", "lag k (steps back)", "balanced accuracy", tuple(curves)
    )


def _curves_of_cells(setting: str, by_cell: dict[str, dict[int, Figures]]) -> Panel:
    curves = []
    for cell, measured in by_cell.items():
        for state in ("hidden", "cell"):
            rows = [f["curves"][state]["accuracy"] for f in measured.values() if state in f["curves"]]
            if rows:
                curves.append(curve(f"{NAMES[cell]} {state}", cell, state, next(iter(measured.values()))["lags"], rows))
    return Panel(f"Input k steps back, by cell: {setting}", "lag k (steps back)", "balanced accuracy", tuple(curves))


# Columns of the tables of labels: what is read, of which cell.
_READ = (
    ("input alone", "lstm", "input"),
    ("untrained LSTM, both", "lstm", "untrained both"),
    ("RNN hidden", "rnn", "hidden"),
    ("GRU hidden", "gru", "hidden"),
    ("LSTM hidden", "lstm", "hidden"),
    ("LSTM cell", "lstm", "cell"),
    ("LSTM both", "lstm", "both"),
)


def _tables_of_labels(setting: str, by_cell: dict[str, dict[int, Figures]]) -> list[Table]:
    lstm = list(by_cell["lstm"].values())
    columns = [(title, cell, name) for title, cell, name in _READ if by_cell[cell]]
    accuracies, selectivities = [], []
    for label in lstm[0]["labels"]:
        chance = Interval.over(f["labels"][label]["input"]["chance"] for f in lstm)
        results = [[f["labels"][label][name] for f in by_cell[cell].values()] for _, cell, name in columns]
        words = label.replace("_", " ")
        accuracies.append((words, f"{chance.mean:.2f}", *(_with_half([r["accuracy"] for r in rs]) for rs in results)))
        selectivities.append((words, *(_with_half([r["accuracy"] - r["control"] for r in rs], "+") for rs in results)))
    titles = [title for title, _, _ in columns]
    return [
        Table(
            f"Balanced accuracy of a linear probe for the tokenizer's labels, with 95 % interval over seeds: {setting}",
            ("label", "chance", *titles),
            tuple(accuracies),
        ),
        Table(
            "Selectivity: that accuracy less the accuracy on a control task, a label dealt at random to each "
            f"character: {setting}",
            ("label", *titles),
            tuple(selectivities),
        ),
    ]


def _with_half(values: list[float], sign: str = "") -> str:
    over = Interval.over(values)
    return f"{over.mean:{sign}.2f} ± {over.high - over.mean:.2f}"


MEASUREMENT = Measurement("contents", _measure, _judge)
