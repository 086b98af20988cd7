"""Claim `contents`: the cell state carries the far past, the hidden state the immediate past."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
    number,
    settings_of,
)
from unrolled.drawing.panels import Panel
from unrolled.instruments.carries import carries
from unrolled.instruments.memory_curve import memory_curve
from unrolled.instruments.probe import probe
from unrolled.intervals import Interval
from unrolled.intervals import number as written
from unrolled.storage import finite
from unrolled.structure import cell_of
from unrolled.tasks import Batch
from unrolled.verdicts import Claim, Finding, Table

Labels = NDArray[np.int64]

_SEQUENCES = 480
_LAGS = (0, 1, 2, 3, 5, 8, 12, 18, 26)
_NEAR = 1  # lags up to this are the immediate past
_FAR = 8  # lags from this on are the far past
_COUNTS = 0.01  # differences in accuracy below this are no difference
# Differences in what is left of an exchanged label below this are no difference.
_LEFT = 0.1
# What is true of the source at each character, and is not the character itself.
_LABELS = ("in_string", "in_comment", "bracket_depth", "indentation")

# Of these carries() is asked too: they hold for many steps, so there is something to carry.
_HELD = ("in_string", "indentation")
_WORDS = {"in_string": "being inside a string", "indentation": "the indentation"}


def _measure(subject: Subject) -> Figures | None:
    batch = subject.task.longest().batch(_SEQUENCES, seed=subject.seed, split="test")
    # A past that is not far cannot tell the states apart.
    if batch.symbols is None or batch.symbols.size(1) <= _FAR:
        return None
    symbols = batch.symbols.numpy()
    length = symbols.shape[1]
    lags = [lag for lag in _LAGS if lag < length]
    # Where the task says which symbol is to be kept, the far past is that symbol; else it is any symbol.
    past, held = symbols, {label: batch.labels[label].numpy() for label in _HELD if label in batch.labels}
    if "store" in batch.marks:
        past = np.where(batch.marks["store"].numpy(), symbols, -1)
        lags = sorted({*lags, length - 1})
        held = {"the cue": symbols[np.arange(len(symbols)), (past >= 0).argmax(1)]}
    result: Figures = {"lags": lags, "curves": {}, "labels": {}, "carries": {}}
    for prefix, model in (("", subject.model), ("untrained ", subject.untrained)):
        near, far = (
            memory_curve(model, batch.inputs, chosen, past=asked, seed=subject.seed)
            for asked, chosen in (
                (symbols, [lag for lag in lags if lag <= _NEAR]),
                (past, [lag for lag in lags if lag > _NEAR]),
            )
        )
        for read in near.reads:
            name = read if read == "input" else prefix + read
            result["curves"][name] = {
                "accuracy": [*near.scores(read), *far.scores(read)],
                "control": [*near.controls(read), *far.controls(read)],
            }
    for label in _LABELS:
        if label in batch.labels:
            found = probe(
                subject.model, batch.inputs, batch.labels[label], untrained=subject.untrained, seed=subject.seed
            )
            result["labels"][label] = {
                str(read): {
                    "accuracy": found.score(read).mean,
                    "selectivity": found.selectivity(read).mean,
                    "chance": found.chance,
                }
                for read in found.data["read"].values
            }
    for label, truth in held.items():
        result["carries"][label] = {
            state: _carries(subject, batch, truth, state) for state in cell_of(subject.model.recurrent).states
        }
    return result


def _carries(subject: Subject, batch: Batch, truth: Labels, state: str) -> Figures:
    found = carries(
        subject.model, batch.inputs, truth, state=state, horizon=_FAR, untrained=subject.untrained, seed=subject.seed
    )
    return {
        "carried": found.carried,
        "decodable": found.decodable,
        "used": found.used,
        "persistent": found.persistent,
        "score": float(found.data["score"]),
        "gain": finite(float(found.data["gain"].min())),
        "effect": finite(found.effect.mean),
        "left": finite(found.left.mean),
    }


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
            findings += _findings_of_carrying(setting, lstm)
            findings.append(
                Finding(
                    setting,
                    f"LSTM: the input 0 to {_NEAR} steps back is read better from the hidden state than from the cell",
                    Interval.over(_advantage(f, "hidden", "cell", far=False) for f in lstm.values()),
                    _COUNTS,
                    "balanced accuracy",
                )
            )
            far = Interval.over(_advantage(f, "cell", "hidden", far=True) for f in lstm.values())
            remarks.append(
                f"{setting}: the input {_FAR} or more steps back is read better from the LSTM's cell than from its "
                f"hidden state by {far.text} in balanced accuracy; that it can be read does not say which carries it"
            )
        tables.append(_table_of_carrying(setting, by_cell))
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
        "A linear readout (a probe) is fitted to tell the input symbol k steps back from the hidden state, "
        "from the cell state and from both, and is tested on other sequences; where the task says which "
        "symbol must be kept, the far past is that symbol. Beside it stand the same readout of an untrained "
        "network, of the input alone and, as a control, for labels that the states cannot know. A state "
        "carries what holds for many steps if it can be read beyond these, if the network's answers change "
        "more when the state is exchanged for one with another label than for one with the same, and if at "
        f"least half of the exchanged label is left {_FAR} steps later.",
        tuple(findings),
        tuple(panels),
        tuple(remarks),
        tuple(tables),
    )


def _findings_of_carrying(setting: str, lstm: dict[int, Figures]) -> list[Finding]:
    """That the cell carries a label has three parts, and that the hidden state does not is a fourth."""
    findings = []
    for label in next(iter(lstm.values()))["carries"]:
        states = [f["carries"][label] for f in lstm.values()]
        words = _WORDS.get(label, label)
        cell = [s["cell"] for s in states]
        apart = [number(s["cell"]["left"]) - number(s["hidden"]["left"]) for s in states]
        findings += [
            Finding(
                setting,
                f"LSTM: {words} is read better from the cell state than from all that it is compared with",
                Interval.over(number(c["gain"]) for c in cell),
                _COUNTS,
                "balanced accuracy",
            ),
            Finding(
                setting,
                f"LSTM: exchanging {words} in the cell state moves the answers",
                Interval.over(number(c["effect"]) for c in cell),
                _COUNTS,
                "share of the way between the labels' answers",
            ),
            Finding(
                setting,
                f"LSTM: of {words}, exchanged in the cell state, at least half is left {_FAR} steps later",
                Interval.over(number(c["left"]) for c in cell),
                0.5,
                "share left",
            ),
            Finding(
                setting,
                f"LSTM: of {words}, exchanged in one state alone, more is left {_FAR} steps later in the cell than in "
                "the hidden state",
                Interval.over(apart),
                _LEFT,
                "share left",
            ),
        ]
    return findings


def _table_of_carrying(setting: str, by_cell: dict[str, dict[int, Figures]]) -> Table:
    rows = []
    for cell, measured in by_cell.items():
        for label in next(iter(measured.values()))["carries"] if measured else ():
            for state in next(iter(measured.values()))["carries"][label]:
                found = [f["carries"][label][state] for f in measured.values()]
                counts = [f"{sum(f[part] for f in found)} of {len(found)}" for part in _PARTS]
                means = [Interval.over(number(f[figure]) for f in found).mean for figure in ("score", "effect", "left")]
                words = _WORDS.get(label, label)
                rows.append((words, f"{NAMES[cell]} {state}", *counts, *(written(mean, 2) for mean in means)))
    return Table(
        f"Which state carries what, in how many of the networks: {setting}",
        ("label", "state", *_PARTS, "balanced accuracy", "effect on the answers (share)", f"left after {_FAR} steps"),
        tuple(rows),
    )


_PARTS = ("decodable", "used", "persistent", "carried")


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
        selectivities.append((words, *(_with_half([r["selectivity"] for r in rs], "+") for rs in results)))
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
