"""Networks whose weights are written by hand, so that what each unit holds, and what uses it, is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unrolled

# Symbols of `Circuits` and `Relay`: a bit, distractors, and a query at the end.
ZERO, ONE, QUERY, SYMBOLS = 0, 1, 4, 5

# What the units of `Circuits` do.
STORE, UNREAD, ECHO, FLEETING = range(4)


def one_hot(symbols: Tensor, kinds: int) -> Tensor:
    return F.one_hot(symbols, kinds).float()


def mirror(width: int) -> nn.RNN:
    """A network whose hidden state is its input, which must not be below 0."""
    layer = nn.RNN(width, width, nonlinearity="relu", bias=False, batch_first=True)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.eye(width))
        layer.weight_hh_l0.zero_()
    return layer


def shift_register(kinds: int, stages: int) -> nn.RNN:
    """A network whose hidden state is its last `stages` inputs (B, T, kinds) side by side, none below 0."""
    layer = nn.RNN(kinds, kinds * stages, nonlinearity="relu", bias=False, batch_first=True)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.eye(kinds * stages, kinds))
        layer.weight_hh_l0.copy_(torch.eye(kinds * stages).roll(kinds, 0))
        layer.weight_hh_l0[:kinds] = 0
    return layer


def latch(kinds: int, units: int = 4) -> nn.RNN:
    """A network whose unit 1 is 1 after symbol 1 and -1 after symbol 0 until the other comes; other units are 0."""
    layer = nn.RNN(kinds, units, bias=False, batch_first=True)
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_hh_l0.zero_()
        layer.weight_hh_l0[1, 1] = 3
        layer.weight_ih_l0[1, :2] = torch.tensor([-10.0, 10.0])
    return layer


class Linear(nn.Module):
    """h = W h' + w u for inputs u (B, T, 1), from rest: a ReLU network shifted by 1, which small inputs keep linear.

    Args:
        recurrent: W (H, H). drive: w (H,).
    """

    def __init__(self, recurrent: Tensor, drive: Tensor) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, len(drive), nonlinearity="relu", batch_first=True, dtype=torch.float64)
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(recurrent)
            self.rnn.weight_ih_l0.copy_(drive[:, None])
            self.rnn.bias_ih_l0.copy_(1 - recurrent.sum(1))
            self.rnn.bias_hh_l0.zero_()

    def forward(self, u: Tensor) -> Tensor:
        """(B, T, H)"""
        return self.rnn(u, u.new_ones(1, u.size(0), self.rnn.hidden_size))[0]


def _gates(layer: nn.RNNBase) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the input (4, H, I), recurrent weights (4, H, H) and biases (4, H) of an LSTM, all zero, to write to.

    Gates come in PyTorch's order: input, forget, candidate, output.
    """
    for parameter in layer.parameters():
        parameter.zero_()
    size = layer.hidden_size
    return (
        layer.weight_ih_l0.view(4, size, -1),
        layer.weight_hh_l0.view(4, size, size),
        layer.bias_ih_l0.view(4, size),
    )


class Circuits(nn.Module):
    """An LSTM in which four circuits hold a bit that is given once, at a step of its own choice.

    Unit STORE keeps the bit in its cell and shows it in its hidden state, which the head reads. Unit UNREAD keeps it
    too, and its output gate is shut. Unit ECHO shows it at its step alone. Unit FLEETING shows what ECHO showed one
    step before, and no longer; the head reads it, and answers it apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = unrolled.LSTM(SYMBOLS, 4, batch_first=True)
        self.head = nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            ih, hh, bias = _gates(self.lstm)
            bias[:] = torch.tensor([-20.0, 20.0, 0.0, 20.0])[:, None]  # keep what is there, take nothing in, show it
            for unit in (STORE, UNREAD, ECHO):
                ih[0, unit, [ZERO, ONE]] = 40
                ih[2, unit, [ZERO, ONE]] = torch.tensor([-2.0, 2.0])
            bias[1, [ECHO, FLEETING]] = -20
            bias[0, FLEETING] = 20
            hh[2, FLEETING, ECHO] = 2
            bias[3, UNREAD] = -200
            self.head.weight.zero_()
            self.head.weight[0, STORE] = self.head.weight[1, FLEETING] = 1

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T) symbols -> (B, T, 2) what is stored, and what came one step before."""
        answers: Tensor = self.head(self.lstm(one_hot(x, SYMBOLS))[0])
        return answers


class Relay(nn.Module):
    """An LSTM that keeps a bit in the cell of unit 1 and shows it at the query only, to a GRU that hands it on at once.

    Besides, the cell of unit 2 keeps the bit, and never shows it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(SYMBOLS, 4, batch_first=True, dtype=torch.float64)
        self.decoder = nn.GRU(4, 4, batch_first=True, dtype=torch.float64)
        with torch.no_grad():
            ih, _, bias = _gates(self.encoder)
            bias[:] = torch.tensor([-1000.0, 1000.0, 0.0, -1000.0])[:, None]
            ih[0, 1:3, [ZERO, ONE]] = 2000
            ih[2, 1:3, ZERO] = -2
            ih[2, 1:3, ONE] = 2
            ih[3, 1, QUERY] = 2000
            for parameter in self.decoder.parameters():
                parameter.zero_()
            self.decoder.bias_ih_l0[4:8] = -1000  # the update gate keeps nothing
            self.decoder.weight_ih_l0[8 + 3, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T) symbols -> (B, T) the bit at the query, 0 before."""
        shown = self.encoder(F.one_hot(x, SYMBOLS).double())[0]
        return self.decoder(shown)[0][..., 3]


class Keep(nn.Module):
    """An LSTM of one unit that keeps a value of its marked input: inputs (B, T, 2) are values and markers."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = unrolled.LSTM(2, 1, batch_first=True)
        with torch.no_grad():
            ih, _, bias = _gates(self.lstm)
            bias[:] = torch.tensor([-20.0, 20.0, 0.0, 20.0])[:, None]
            ih[0, 0, 1] = 40
            ih[2, 0, 0] = 0.5

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, 1) about half the value."""
        return self.lstm(x)[0]


def bits(batch: int, length: int, *, at: int = 0, query: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(B, T) symbols for `Circuits` and `Relay`, with a bit at one step, and (B,) the bits, as many of each."""
    generator = torch.Generator().manual_seed(seed)
    given = torch.arange(batch)[torch.randperm(batch, generator=generator)] % 2
    symbols = torch.randint(2, QUERY, (batch, length), generator=generator)
    symbols[:, at] = given
    if query:
        symbols[:, -1] = QUERY
    return symbols, given
