"""The network that studies and runs train: recurrent layers and a linear readout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from unrolled import variants
from unrolled.layers import GRU, LSTM, RNN
from unrolled.structure import cell_of

LAYERS: dict[str, Any] = {
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
    "coupled": variants.CoupledLSTM,
    "layer-norm": variants.LayerNormLSTM,
    "peephole": variants.PeepholeLSTM,
    "recurrent-dropout": variants.RecurrentDropoutLSTM,
    "variational-dropout": variants.VariationalDropoutLSTM,
    "zoneout": variants.ZoneoutLSTM,
}

Readout = Literal["every", "mean"]


class SequenceModel(nn.Module):
    """Recurrent layers, read out linearly.

    Its recorded names begin with "recurrent.l0.".

    Args:
        cell: a key of `LAYERS`.
        input_size: I, or with `embedding_size` the number of symbols.
        hidden_size: H, of each layer and direction.
        output_size: K.
        embedding_size: inputs are whole numbers, and each is given this many trained figures; None for inputs that are
            vectors.
        layers: how many are stacked.
        bidirectional: whether each also reads from the end.
        dropout: share of the figures that are zeroed between layers and before the readout, in training.
        readout: "every" step is answered, or the "mean" over the steps of each sequence.
        init, t_max: as the layers' own.
        forget_bias: what the forget gate's bias starts from (Jozefowicz et al. 2015); cells without one ignore it.
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        embedding_size: int | None = None,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        readout: Readout = "every",
        init: str = "torch",
        t_max: float | None = None,
        forget_bias: float | None = 1.0,
    ) -> None:
        super().__init__()
        if cell not in LAYERS:
            raise ValueError(f"cell: unknown cell {cell!r}; expected one of {', '.join(LAYERS)}")
        if readout not in get_args(Readout):
            raise ValueError(f"readout: given {readout!r}, expected one of {', '.join(get_args(Readout))}")
        options: dict[str, Any] = {"init": init, "t_max": t_max}
        if init != "chrono" and _forgets(cell):
            options["forget_bias"] = forget_bias
        self.embedding = None if embedding_size is None else nn.Embedding(input_size, embedding_size)
        self.recurrent = LAYERS[cell](
            embedding_size or input_size,
            hidden_size,
            layers,
            batch_first=True,
            # torch warns of a dropout between layers where there is one layer only.
            dropout=dropout if layers > 1 else 0.0,
            bidirectional=bidirectional,
            **options,
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size * (2 if bidirectional else 1), output_size)
        self.readout = readout

    def forward(
        self,
        inputs: Tensor,
        state: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        carry: bool = False,
    ) -> Any:
        """Answers to sequences.

        Args:
            inputs: (B, T, I), or (B, T) whole numbers where there is an embedding.
            state: the layers' states to start from, as they were returned; zero if omitted.
            lengths: (B,) steps of each sequence; all T if omitted.
            reset: (B, T) bool, where the states are zeroed before a step.
            carry: whether the states after the last step are returned too.

        Returns:
            (B, T, K), or (B, K) where the readout is the mean over steps; with `carry` also the states.
        """
        x = inputs if self.embedding is None else self.embedding(inputs)
        hidden, state = self.recurrent(x, state, lengths=lengths, reset=reset)
        if self.readout == "mean":
            # Steps past the end of a sequence are zero.
            steps = inputs.size(1) if lengths is None else torch.as_tensor(lengths, device=hidden.device).unsqueeze(-1)
            hidden = hidden.sum(1) / steps
        answers = self.head(self.dropout(hidden))
        return (answers, state) if carry else answers


def _forgets(cell: str) -> bool:
    with torch.device("meta"):
        return "forget_gate" in cell_of(LAYERS[cell](1, 1)).gates


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
