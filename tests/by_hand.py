"""Models for tests of traces, and an LSTM written out by hand to hold them to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

GATES = {
    "RNN": ["hidden"],
    "GRU": ["hidden", "reset_gate", "update_gate", "candidate"],
    "LSTM": ["hidden", "cell", "input_gate", "forget_gate", "candidate", "output_gate"],
}
KINDS = list(GATES)
B, T, I, H = 3, 5, 2, 4  # noqa: E741

LENGTHS = torch.tensor([2, 5, 3])


def inputs(*shape: int) -> Tensor:
    return torch.randn(*(shape or (B, T, I)), dtype=torch.float64)


def layer(kind: str = "LSTM", **options: Any) -> Any:
    return getattr(nn, kind)(I, H, dtype=torch.float64, batch_first=True, **options)


class Loop(nn.Module):
    """A user's loop over a cell, with a linear head on the last hidden state."""

    def __init__(self, kind: str = "LSTM") -> None:
        super().__init__()
        self.cell = getattr(nn, f"{kind}Cell")(I, H, dtype=torch.float64)
        self.head = nn.Linear(H, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        states = None
        for step in x.unbind(1):
            states = self.cell(step, states)
        return self.head(states[0] if isinstance(states, tuple) else states)


class Hand(dict[str, list[Tensor]]):
    """One LSTM layer written out by hand; every step's state and gate is kept with its gradient."""

    def __init__(self, lstm: nn.LSTM, x: Tensor) -> None:
        super().__init__({name: [] for name in GATES["LSTM"]})
        hidden = cell = x.new_zeros(x.size(0), H)
        bias = lstm.bias_ih_l0 + lstm.bias_hh_l0
        for step in x.unbind(1):
            i, f, g, o = (step @ lstm.weight_ih_l0.t() + hidden @ lstm.weight_hh_l0.t() + bias).chunk(4, -1)
            # A gate is what enters the cell, not what the slope of its activation is formed from: a node of its own.
            i, f, g, o = (gate.clone() for gate in (i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()))
            cell = f * cell + i * g
            hidden = o * cell.tanh()
            for name, value in zip(GATES["LSTM"], (hidden, cell, i, f, g, o), strict=True):
                if value.requires_grad:
                    value.retain_grad()
                self[name].append(value)

    def joined(self, name: str) -> Tensor:
        return torch.stack(self[name], dim=1)

    def gradient(self, name: str) -> Tensor:
        return torch.stack([torch.zeros_like(s) if s.grad is None else s.grad for s in self[name]], dim=1)


def close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
