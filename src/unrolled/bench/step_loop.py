"""A loop over torch.nn's LSTMCell, GRUCell or RNNCell that keeps the states of every step.

This is how states are opened with torch alone. Gates it does not show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.bench.composed import Entered, Steps, enter, suffixes
from unrolled.bench.numbers import Numbers

_CELLS: dict[str, Any] = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}


def loop(numbers: Numbers, phase: str, threads: int) -> Entered:
    """One cell for each layer and direction."""
    cells = {suffix: _cell(numbers, suffix) for suffix in suffixes(numbers)}
    names = {
        f"{name}_{suffix}": parameter for suffix, cell in cells.items() for name, parameter in cell.named_parameters()
    }

    def run(x: Tensor, suffix: str) -> Mapping[str, Tensor]:
        cell, state, kept = cells[suffix], None, []
        for now in x:
            state = cell(now, state)
            kept.append(state)
        if numbers.cell != "lstm":
            return {"hidden": torch.stack(kept)}
        hidden, cells_of_steps = zip(*kept, strict=True)
        return {"hidden": torch.stack(hidden), "cell": torch.stack(cells_of_steps)}

    return enter(
        numbers,
        phase,
        Steps(run, list(names.values()), lambda: {name: leaf.grad for name, leaf in names.items()}),
    )


def _cell(numbers: Numbers, suffix: str) -> nn.Module:
    inputs = numbers.weights[f"weight_ih_{suffix}"].size(1)
    # Its own initialisation is overwritten and must not move the user's random numbers.
    with torch.random.fork_rng(devices=[]):
        cell: nn.Module = _CELLS[numbers.cell](inputs, numbers.row.hidden, dtype=numbers.x.dtype)
    cell.load_state_dict({name: numbers.weights[f"{name}_{suffix}"] for name, _ in cell.named_parameters()})
    return cell.to(numbers.x.device)
