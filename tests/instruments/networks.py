"""Networks whose memory is known in closed form, and models of every form that instruments take."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import unrolled
from unrolled import variants

HIDDEN, LENGTH, BATCH = 6, 40, 3


def linear_rnn(alpha: float) -> tuple[nn.RNNBase, Tensor]:
    """A ReLU network with W_hh = alpha * Q, Q orthogonal, and inputs (B, T, H) that keep every unit active.

    Any states above 0 may be chosen; the inputs are what leads from each to the next. Then ReLU is the identity.
    """
    layer = unrolled.RNN(HIDDEN, HIDDEN, nonlinearity="relu", bias=False, batch_first=True, dtype=torch.float64)
    orthogonal = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, dtype=torch.float64))[0]
    with torch.no_grad():
        layer.weight_hh_l0.copy_(alpha * orthogonal)
        layer.weight_ih_l0.copy_(torch.eye(HIDDEN))
        states = 1 + torch.rand(BATCH, LENGTH, HIDDEN, dtype=torch.float64)
        before = torch.cat([torch.zeros(BATCH, 1, HIDDEN, dtype=torch.float64), states[:, :-1]], dim=1)
        inputs = states - before @ layer.weight_hh_l0.T
        torch.testing.assert_close(layer(inputs)[0], states)
    return layer, inputs


def logit(p: float) -> float:
    return -1000.0 if p == 0 else 1000.0 if p == 1 else math.log(p / (1 - p))


def forced_lstm(
    forget: float,
    *,
    write: float = 0.05,
    output_gate: float = 0.5,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Any:
    """An LSTM with all weights zero: c = forget * c' + write whatever the input and the hidden state."""
    layer = unrolled.LSTM(2, HIDDEN, batch_first=True, dtype=dtype, **options)
    values = {"input_gate": 0.0, "forget_gate": logit(forget), "candidate": math.atanh(2 * write)}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        for name, parameter in layer.named_parameters():
            if name.startswith("bias_ih"):
                for index, value in enumerate([*values.values(), logit(output_gate)]):
                    parameter[index * HIDDEN : (index + 1) * HIDDEN] = value
    return layer


def forced_gru(keep: float, *, write: float = 0.3, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """A GRU with all weights zero: h = keep * h' + (1 - keep) * write."""
    layer = unrolled.GRU(2, HIDDEN, batch_first=True, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        for name, parameter in layer.named_parameters():
            if name.startswith("bias_ih"):
                parameter[HIDDEN : 2 * HIDDEN] = logit(keep)
                parameter[2 * HIDDEN :] = math.atanh(write)
    return layer


def weighed(direction: Tensor) -> Callable[[tuple[Tensor, object]], Tensor]:
    """The loss of a bare layer: its last hidden state along a direction (H,)."""
    return lambda output: output[0][:, -1] @ direction


def unit(size: int = HIDDEN) -> Tensor:
    vector = torch.randn(size, dtype=torch.float64)
    return vector / vector.norm()


def inputs_of(length: int = LENGTH, size: int = 2, batch: int = BATCH) -> Tensor:
    return torch.randn(batch, length, size, dtype=torch.float64)


class Headed(nn.Module):
    """A user's model: symbols or numbers, torch.nn's own layers under a path, and a head on the last step."""

    def __init__(self, kind: str = "LSTM", *, symbols: int = 0, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 2) if symbols else nn.Identity()
        self.encoder = nn.ModuleDict({"core": getattr(nn, kind)(2, 4, batch_first=True, **options)})
        self.dropout = nn.Dropout(0.5)
        core: Any = self.encoder["core"]
        self.head = nn.Linear(4 * (2 if core.bidirectional else 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.encoder["core"](self.embedding(x))[0][:, -1])).squeeze(-1)


class Loop(nn.Module):
    """A user's loop over a torch.nn cell that begins at states other than zero."""

    def __init__(self, kind: str = "LSTM") -> None:
        super().__init__()
        self.cell = getattr(nn, f"{kind}Cell")(2, 4)
        self.begin = nn.Parameter(torch.linspace(-0.5, 0.5, 4))
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.begin.expand(x.size(0), -1)
        states: Any = (hidden, -hidden) if isinstance(self.cell, nn.LSTMCell) else hidden
        for step in x.unbind(1):
            states = self.cell(step, states)
        return self.head(states[0] if isinstance(states, tuple) else states).squeeze(-1)


class Packing(nn.Module):
    """Packs sequences of unequal length; a sequence ends where its first input turns to NaN."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.core = layer

    def forward(self, x: Tensor) -> Tensor:
        lengths = (~x[..., 0].isnan()).sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(x.nan_to_num(), lengths, batch_first=True, enforce_sorted=False)
        output, _ = nn.utils.rnn.pad_packed_sequence(self.core(packed)[0], batch_first=True)
        return output


def padded(x: Tensor, lengths: list[int]) -> Tensor:
    """Inputs (B, T, I) for `Packing`."""
    x = x.clone()
    for row, length in enumerate(lengths):
        x[row, length:] = math.nan
    return x


def layers() -> dict[str, Callable[[], Any]]:
    """One small layer of every cell there is, in float64."""
    options: dict[str, Any] = {"batch_first": True, "dtype": torch.float64}
    found: dict[str, Callable[[], Any]] = {
        "rnn tanh": lambda: unrolled.RNN(2, 3, **options),
        "rnn relu": lambda: unrolled.RNN(2, 3, nonlinearity="relu", **options),
        "gru": lambda: unrolled.GRU(2, 3, **options),
        "gru without bias": lambda: unrolled.GRU(2, 3, bias=False, **options),
        "lstm": lambda: unrolled.LSTM(2, 3, **options),
        "lstm with projection": lambda: unrolled.LSTM(2, 3, proj_size=2, **options),
    }
    return found | {kind.__name__: lambda kind=kind: kind(2, 3, **options) for kind in variants.VARIANTS.values()}


def stirred(layer: Any, scale: float = 1.5) -> Any:
    """All parameters drawn anew, so that gates move and no bias or gain is 0 or 1."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(scale * (torch.rand(parameter.shape) - 0.5))
    return layer


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Parameters with their gradients, buffers, modes and classes are afterwards what they were."""
    state = copy.deepcopy(model.state_dict())
    kinds = [(type(module), module.training) for module in model.modules()]
    yield
    assert [(type(module), module.training) for module in model.modules()] == kinds
    assert list(model.state_dict()) == list(state)
    for name, value in model.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name])
    assert all(parameter.grad is None for parameter in model.parameters())
