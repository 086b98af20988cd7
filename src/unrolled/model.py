"""The network that studies train: one recurrent layer and a linear readout, at a chosen number of parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unrolled.layers import GRU, LSTM, RNN

LAYERS: dict[str, type[RNN | GRU | LSTM]] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}


class SequenceModel(nn.Module):
    """A recurrent layer read out linearly at every step.

    Its recorded names begin with "recurrent.l0.".

    Args:
        cell: "rnn", "gru" or "lstm".
        input_size: I.
        hidden_size: H.
        output_size: K.
        forget_bias: what the LSTM's forget gate bias starts from (Jozefowicz et al. 2015); other cells have none.
    """

    def __init__(
        self, cell: str, input_size: int, hidden_size: int, output_size: int, *, forget_bias: float = 1.0
    ) -> None:
        super().__init__()
        if cell not in LAYERS:
            raise ValueError(f"cell: unknown cell {cell!r}; expected one of {', '.join(LAYERS)}")
        options: dict[str, Any] = {"forget_bias": forget_bias} if cell == "lstm" else {}
        self.recurrent = LAYERS[cell](input_size, hidden_size, batch_first=True, **options)
        self.head = nn.Linear(hidden_size, output_size)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: (B, T, I) -> answers: (B, T, K)."""
        hidden, _ = self.recurrent(inputs)
        answers: Tensor = self.head(hidden)
        return answers


def count_parameters(model: nn.Module) -> int:
    """Number of trainable figures in a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def matched_hidden_size(cell: str, input_size: int, output_size: int, parameters: int) -> int:
    """The hidden size whose model has the number of parameters nearest to `parameters`.

    Raises:
        ValueError: even one hidden unit takes more than twice as many.
    """

    def count(hidden_size: int) -> int:
        with torch.device("meta"):
            return count_parameters(SequenceModel(cell, input_size, hidden_size, output_size))

    if count(1) > 2 * parameters:
        raise ValueError(
            f"parameters: {parameters} is too few for a {cell} with {input_size} inputs and {output_size} outputs; "
            f"one hidden unit takes {count(1)}"
        )
    low, high = 1, 2
    while count(high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    return min((low, high), key=lambda size: abs(count(size) - parameters))
