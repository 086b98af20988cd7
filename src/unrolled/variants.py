"""Variants of the LSTM that fused layers never had: each is a row of the table of cells with a class around it.

They take what `torch.nn.LSTM` takes but `proj_size`, and `init`, `t_max` and `forget_bias` as `unrolled.LSTM` does;
they are called like it, `lengths` and `reset` included. They are no torch.nn.LSTM by isinstance, so that nothing takes
them for one and computes something else.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unrolled.layers import Layer
from unrolled.recurrence.cells import CELLS, NO_MASKS, Masks
from unrolled.structure import layer_suffixes, parameter_names


class _Base(nn.RNNBase):
    """torch.nn's base of recurrent layers, with the parameters that the table says."""

    variant: ClassVar[str]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        cell = CELLS[self.variant]
        # torch.nn knows no cell of this name; one with as many gates makes the same weights.
        like = {4: "LSTM", 3: "GRU"}[cell.blocks]
        super().__init__(
            *(like, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional),
            device=device,
            dtype=dtype,
        )
        self.mode = self.variant
        for suffix in layer_suffixes(self):
            own = parameter_names(self.mode, suffix)[5:]
            for (field, blocks), name in zip(cell.parameters.items(), own, strict=True):
                if bias or not field.endswith("bias"):
                    empty = torch.empty(blocks * hidden_size, device=device, dtype=dtype)
                    self.register_parameter(name, nn.Parameter(empty))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, uniformly like torch.nn's; gains are 1 and shifts of normalisations 0."""
        super().reset_parameters()
        normalises = "norm_hh" in CELLS[self.variant].parameters
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith(("norm_ih", "norm_hh", "norm_cell")):
                nn.init.ones_(parameter)
            elif normalises and (name.startswith("norm_bias") or name.startswith("bias")):
                nn.init.zeros_(parameter)

    def flatten_parameters(self) -> None:
        """Nothing: the block of memory that it makes is for cuDNN, which has no such cell."""


class _Variant(Layer, _Base):
    """The calls of a variant; torch.nn has no layer that could take or refuse one."""

    def _beyond_torch(self, lengths: object, reset: object) -> str | None:
        return CELLS[self.mode].name

    def _refuse(self: Any, input: Any, hx: Any, x: Tensor, plain: bool) -> Any:
        weight = self.weight_ih_l0
        layout = "(B, T, I)" if self.batch_first else "(T, B, I)"
        expected = f"{layout} or (T, I) with T above 0 and I = {self.input_size}, {weight.dtype} on {weight.device}"
        given = f"{tuple(x.shape)}, {x.dtype} on {x.device}".replace("torch.", "")
        if x.dim() != (2 if input is not x else 3) and x.dim() != 2:
            raise ValueError(f"input: given {given}, expected {expected}".replace("torch.", ""))
        if x.size(-1) != self.input_size or x.numel() == 0 or x.dtype != weight.dtype or x.device != weight.device:
            raise ValueError(f"input: given {given}, expected {expected}".replace("torch.", ""))
        states = hx if isinstance(hx, tuple | list) else (hx,)
        shapes = [tuple(state.shape) if isinstance(state, Tensor) else state for state in states]
        raise ValueError(
            f"hx: given {shapes}, expected a pair of tensors ({len(layer_suffixes(self))}, B, {self.hidden_size}), "
            "of the input's dtype and device"
        )


class PeepholeLSTM(_Variant):
    """Gates that see the cell state, through one weight a unit (Gers & Schmidhuber 2000).

    Besides the LSTM's parameters there is `peephole_l0`, (3 * H,): of the input, the forget and the output gate.
    """

    variant = "LSTM_PEEPHOLE"


class CoupledLSTM(_Variant):
    """One gate to keep and to write, i = 1 - f (CIFG in Greff et al. 2017).

    Three gates stand in the weights' rows: forget gate, candidate, output gate.
    """

    variant = "LSTM_COUPLED"


class LayerNormLSTM(_Variant):
    """Layer normalisation of the input's part, the recurrent part and the cell state.

    Ba et al. (2016), equations 20 to 22. The gains are `norm_ih_l0` and `norm_hh_l0`, (4 * H,), and `norm_cell_l0`,
    (H,); the shifts are the biases, and `norm_bias_l0`, (H,), of the cell state. Each normalisation is over all units,
    and all gates, of a sequence at a step.
    """

    variant = "LSTM_LAYER_NORM"


def _probability(name: str, value: Any, *, below_one: bool = False) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    if not right or math.isnan(value) or (below_one and value == 1):
        raise ValueError(
            f"{name}: given {value!r}, expected a probability from 0 {'to below' if below_one else 'to'} 1"
        )
    return float(value)


class _Noisy(_Variant):
    """A variant whose noise is off in eval mode."""

    probabilities: ClassVar[tuple[str, ...]]

    def extra_repr(self) -> str:
        said = ", ".join(f"{name}={getattr(self, name)}" for name in self.probabilities)
        return f"{super().extra_repr()}, {said}"


class ZoneoutLSTM(_Noisy):
    """Units that stay as they were at random steps (Krueger et al. 2017).

    In training each unit of the hidden state is kept with probability `zoneout_hidden`, each of the cell state with
    `zoneout_cell`; in eval mode both take the expected value. The defaults are the paper's for characters.
    """

    variant = "LSTM_ZONEOUT"
    probabilities = ("zoneout_hidden", "zoneout_cell")

    def __init__(self, *args: Any, zoneout_hidden: float = 0.05, zoneout_cell: float = 0.5, **kwargs: Any) -> None:
        self.zoneout_hidden = _probability("zoneout_hidden", zoneout_hidden)
        self.zoneout_cell = _probability("zoneout_cell", zoneout_cell)
        super().__init__(*args, **kwargs)

    def _noise(self, suffix: str, steps: int, batch: int, x: Tensor) -> Masks:
        def zone(probability: float) -> Tensor:
            if self.training:
                return x.new_empty((steps, batch, self.hidden_size)).bernoulli_(probability)
            return x.new_full((1, 1, self.hidden_size), probability).expand(steps, batch, -1)

        return Masks(hidden_zone=zone(self.zoneout_hidden), cell_zone=zone(self.zoneout_cell))


class _Dropping(_Noisy):
    probabilities = ("recurrent_dropout",)

    def __init__(self, *args: Any, recurrent_dropout: float = 0.25, **kwargs: Any) -> None:
        self.recurrent_dropout = _probability("recurrent_dropout", recurrent_dropout, below_one=True)
        super().__init__(*args, **kwargs)

    @property
    def _quiet_mode(self) -> str:
        return "LSTM"

    def _mask(self, shape: tuple[int, ...], x: Tensor) -> Tensor:
        """Kept units scaled up, so that nothing need be done in eval mode."""
        keep = 1 - self.recurrent_dropout
        return x.new_empty(shape).bernoulli_(keep).div_(keep)

    def _drops(self) -> bool:
        return self.training and self.recurrent_dropout > 0


class VariationalDropoutLSTM(_Dropping):
    """Dropout of the hidden state where it enters the gates, one mask for a whole sequence (Gal & Ghahramani 2016).

    The masks of a sequence are drawn anew at each call; kept units are scaled by 1 / (1 - recurrent_dropout).
    """

    variant = "LSTM_VARIATIONAL_DROPOUT"

    def _noise(self, suffix: str, steps: int, batch: int, x: Tensor) -> Masks:
        if not self._drops():
            return NO_MASKS
        return Masks(hidden=self._mask((1, batch, self.hidden_size), x).expand(steps, -1, -1))


class RecurrentDropoutLSTM(_Dropping):
    """Dropout of the candidate at every step, which leaves the cell state's memory whole (Semeniuta et al. 2016)."""

    variant = "LSTM_RECURRENT_DROPOUT"

    def _noise(self, suffix: str, steps: int, batch: int, x: Tensor) -> Masks:
        return Masks(candidate=self._mask((steps, batch, self.hidden_size), x)) if self._drops() else NO_MASKS


# The classes by the rows of the table that they are.
VARIANTS: dict[str, type[_Variant]] = {
    kind.variant: kind
    for kind in (
        PeepholeLSTM,
        CoupledLSTM,
        LayerNormLSTM,
        ZoneoutLSTM,
        VariationalDropoutLSTM,
        RecurrentDropoutLSTM,
    )
}
