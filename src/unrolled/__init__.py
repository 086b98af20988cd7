"""Recurrent networks with every step in view: the public surface and nothing else.

Names are imported when they are first used, so that `unrolled --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "RNN": "layers",
    "GRU": "layers",
    "LSTM": "layers",
    "RNNCell": "layers",
    "GRUCell": "layers",
    "CoupledLSTM": "variants",
    "LayerNormLSTM": "variants",
    "PeepholeLSTM": "variants",
    "RecurrentDropoutLSTM": "variants",
    "VariationalDropoutLSTM": "variants",
    "ZoneoutLSTM": "variants",
    "LSTMCell": "layers",
    "convert": "conversion",
    "backend": "recurrence.dispatch",
    "explain": "explanation",
    "record": "trace",
    "Trace": "trace",
    "intervene": "interventions",
    "Ablate": "edits",
    "Apply": "edits",
    "Clamp": "edits",
    "Patch": "edits",
    "Push": "edits",
    "Scale": "edits",
    "instruments": "",
    "tasks": "",
    "load": "runs",
    "compare": "study",
    "Study": "study",
    "report": "page",
}

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Ablate",
    "Apply",
    "Clamp",
    "CoupledLSTM",
    "GRUCell",
    "LSTMCell",
    "LayerNormLSTM",
    "Patch",
    "PeepholeLSTM",
    "Push",
    "RNNCell",
    "RecurrentDropoutLSTM",
    "Scale",
    "Study",
    "Trace",
    "VariationalDropoutLSTM",
    "ZoneoutLSTM",
    "__version__",
    "backend",
    "compare",
    "convert",
    "explain",
    "instruments",
    "intervene",
    "load",
    "record",
    "report",
    "tasks",
]

if TYPE_CHECKING:
    from unrolled import instruments, tasks
    from unrolled.conversion import convert
    from unrolled.edits import Ablate, Apply, Clamp, Patch, Push, Scale
    from unrolled.explanation import explain
    from unrolled.interventions import intervene
    from unrolled.layers import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
    from unrolled.page import report
    from unrolled.recurrence.dispatch import backend
    from unrolled.runs import load
    from unrolled.study import Study, compare
    from unrolled.trace import Trace, record
    from unrolled.variants import (
        CoupledLSTM,
        LayerNormLSTM,
        PeepholeLSTM,
        RecurrentDropoutLSTM,
        VariationalDropoutLSTM,
        ZoneoutLSTM,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unrolled' has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(f"unrolled.{home}"), name) if home else import_module(f"unrolled.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
