"""One layer in one direction over a sequence: what the operator and the kernels are given, can take, and return."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.recurrence.cells import CELLS, Masks, Weights


class Kernel(NamedTuple):
    """A cell as the kernels know it.

    Attributes:
        number: of the cell in native/unrolled.h.
        rows: blocks in the rows of the weights.
        stored: blocks that the forward keeps of each step.
        pre: blocks in the gradient of a step's pre-activations.
    """

    number: int
    rows: int
    stored: int
    pre: int


KERNELS = {
    "RNN_TANH": Kernel(0, rows=1, stored=0, pre=1),
    "RNN_RELU": Kernel(1, rows=1, stored=0, pre=1),
    "GRU": Kernel(2, rows=3, stored=4, pre=4),
    "LSTM": Kernel(3, rows=4, stored=4, pre=4),
    "LSTM_PEEPHOLE": Kernel(4, rows=4, stored=4, pre=4),
    "LSTM_ZONEOUT": Kernel(4, rows=4, stored=4, pre=4),
    "LSTM_VARIATIONAL_DROPOUT": Kernel(4, rows=4, stored=4, pre=4),
    "LSTM_RECURRENT_DROPOUT": Kernel(4, rows=4, stored=4, pre=4),
    "LSTM_COUPLED": Kernel(5, rows=3, stored=3, pre=3),
    "LSTM_LAYER_NORM": Kernel(6, rows=4, stored=8, pre=8),
}


class Call(NamedTuple):
    """One layer in one direction over a sequence: the operator's arguments, in their order.

    What only some calls have stands last: `extras` are the fields of `cells.Weights` from `hr` on, `masks` those of
    `cells.Masks`; both are empty where there is none.
    """

    x: Tensor  # (T, B, I)
    hidden: Tensor  # (B, H)
    cell: Tensor | None  # (B, H)
    weight_ih: Tensor  # (G * H, I)
    weight_hh: Tensor  # (G * H, H)
    bias_ih: Tensor | None  # (G * H,)
    bias_hh: Tensor | None  # (G * H,)
    lengths: Tensor | None  # (B,) int64
    mode: str
    reverse: bool
    reset: Tensor | None = None  # (T, B) bool
    extras: tuple[Tensor | None, ...] = ()
    masks: tuple[Tensor | None, ...] = ()  # each (T, B, H)


def carries_cell(mode: str) -> bool:
    """Whether a cell carries a cell state beside its hidden state."""
    return len(CELLS[mode].states) > 1


class Forward(NamedTuple):
    """What the kernels return; what a cell has not, or was not kept, is an empty tensor (0,)."""

    output: Tensor  # (T, B, H)
    final_hidden: Tensor  # (B, H)
    final_cell: Tensor  # (B, H)
    cells: Tensor  # (T, B, H)
    gates: Tensor  # (T, B, S * H)


class Gradients(NamedTuple):
    """Gradients of a call's arguments, and of every state and gate along all paths; None where not asked for."""

    x: Tensor | None
    hidden: Tensor
    cell: Tensor | None
    weight_ih: Tensor | None
    weight_hh: Tensor | None
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    totals: Tensor | None  # hidden states, cells and gates of all steps, one after the other
    peephole: Tensor | None = None
    norm_ih: Tensor | None = None
    norm_hh: Tensor | None = None
    norm_cell: Tensor | None = None
    norm_bias: Tensor | None = None

    def extras(self, call: Call) -> tuple[Tensor | None, ...]:
        """Those of the call's extras, in their order."""
        return tuple(getattr(self, name, None) for name in Weights._fields[4:]) if call.extras else ()


class Kind(NamedTuple):
    """What tensors some kernels take."""

    dtype: torch.dtype
    on_gpu: bool

    def fits(self, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> bool:
        """Whether a tensor is one of them; `dtype` is that of marks such as lengths."""
        return (
            tensor.shape == shape
            and tensor.dtype is (dtype or self.dtype)
            and (tensor.is_cuda if self.on_gpu else tensor.is_cpu)
            and tensor.layout is torch.strided
            and not tensor._is_zerotensor()
        )

    def told(self, name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> str:
        """What is wrong with one that is not."""
        wanted = f"{dtype or self.dtype} on {'a GPU' if self.on_gpu else 'cpu'}"
        given = f"{tensor.dtype} on {tensor.device}, {tensor.layout}"
        return f"{name} must be {shape}, {wanted}, given {tuple(tensor.shape)}, {given}".replace("torch.", "")


CPU = Kind(torch.float32, on_gpu=False)


def misfit(call: Call, kind: Kind = CPU) -> str | None:
    """Why the kernels can't be given these tensors, whose memory they read unchecked; None if they can."""
    if call.mode not in KERNELS:
        return f"mode must be one of {', '.join(KERNELS)}, given {call.mode!r}"
    if call.x.dim() != 3 or call.hidden.dim() != 2:
        return f"x and hidden must be (T, B, I) and (B, H), given {tuple(call.x.shape)} and {tuple(call.hidden.shape)}"
    steps, batch, inputs = call.x.shape
    width = call.hidden.size(1)
    rows = KERNELS[call.mode].rows * width
    shapes = (
        (steps, batch, inputs),
        (batch, width),
        (batch, width),
        (rows, inputs),
        (rows, width),
        (rows,),
        (rows,),
    )
    tensors: tuple[Tensor | None, ...] = call[:7]
    for name, tensor, shape in zip(Call._fields, tensors, shapes, strict=False):
        if tensor is not None and not kind.fits(tensor, shape):
            return kind.told(name, tensor, shape)
    if call.extras or call.masks or call.reset is not None:
        reason = _misfit_of_the_rest(call, kind, (steps, batch, width))
        if reason is not None:
            return reason
    if (call.cell is None) == carries_cell(call.mode):
        return f"cell is for an LSTM, and needed there; the mode is {call.mode}"
    if (call.bias_ih is None) != (call.bias_hh is None):
        return "bias_ih and bias_hh must be given both or neither"
    lengths = call.lengths
    if lengths is not None and not kind.fits(lengths, (batch,), torch.int64):
        return kind.told("lengths", lengths, (batch,), torch.int64)
    return None


def _misfit_of_the_rest(call: Call, kind: Kind, states: tuple[int, int, int]) -> str | None:
    """The same for what only some calls have."""
    own = CELLS[call.mode].parameters
    for name, tensor in zip(Weights._fields[4:], call.extras or (None,) * len(Weights._fields[4:]), strict=True):
        if (tensor is None) != (name not in own or (name.endswith("bias") and call.bias_ih is None)):
            return f"{name} is for cells that have it; those of {call.mode} are {', '.join(own) or 'none'}"
        if tensor is not None and not kind.fits(tensor, (own[name] * states[2],)):
            return kind.told(name, tensor, (own[name] * states[2],))
    for name, mask in zip(Masks._fields, call.masks, strict=False):
        if mask is not None and not kind.fits(mask, states):
            return kind.told(f"the mask {name}", mask, states)
    drawn = {name for name, mask in zip(Masks._fields, call.masks, strict=False) if mask is not None}
    if drawn - set(CELLS[call.mode].masks):
        return (
            f"masks of {call.mode} are {', '.join(CELLS[call.mode].masks) or 'none'}, given {', '.join(sorted(drawn))}"
        )
    reset = call.reset
    if reset is not None and not kind.fits(reset, states[:2], torch.bool):
        return kind.told("reset", reset, states[:2], torch.bool)
    return None


def sizes(call: Call) -> tuple[int, int, int]:
    """T, B, H."""
    steps, batch, _ = call.x.shape
    return steps, batch, call.hidden.size(1)


def total_sizes(call: Call) -> tuple[tuple[int, int, int], ...]:
    """The shapes of the hidden states, cells and gates of all steps, with width 0 for what a cell has not."""
    steps, batch, width = sizes(call)
    return (
        (steps, batch, width),
        (steps, batch, width * (call.cell is not None)),
        (steps, batch, width * KERNELS[call.mode].stored),
    )


def extra(call: Call, name: str) -> Tensor | None:
    """One of the call's extras by its name, None if it has none."""
    return call.extras[Weights._fields.index(name) - 4] if call.extras else None


def rows_in_place(tensor: Tensor) -> Tensor:
    """(T, B, ·) whose last dimension stands in memory without gaps; the distances between rows are free."""
    tensor = tensor.resolve_neg()
    return tensor if tensor.stride(2) == 1 or tensor.size(2) == 1 else tensor.contiguous()


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """The numbers as they stand in memory, without gaps: a view may show them with another sign."""
    return None if tensor is None else tensor.resolve_neg().contiguous()


def projects_apart(call: Call) -> bool:
    """Whether the kernel is given the input's part projected: it is normalised over all units at once."""
    return call.mode == "LSTM_LAYER_NORM"
