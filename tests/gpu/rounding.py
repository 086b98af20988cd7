"""The reference in float64, rounded where the Triton kernels say that they round: how near they can be asked to come.

In bf16 and fp16 that is the projected input, what is multiplied by the recurrent weights, and the gradient of the
pre-activations. With tf32 it is what enters a product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import against_reference as reference
from against_reference import Case, Tensors, Values
from unrolled.recurrence.cells import NO_MASKS, Masks, Weights

Rounding = Callable[[Tensor], Tensor]


def to_nearest(dtype: torch.dtype) -> Rounding:
    """To the nearest number of a dtype."""
    return lambda tensor: tensor.to(dtype).double()


def cut_off(bits: int) -> Rounding:
    """Towards zero, the last `bits` of float32's fraction cleared."""
    return lambda tensor: ((tensor.float().view(torch.int32) >> bits) << bits).view(torch.float32).double()


TF32 = cut_off(13)


class _Values(torch.autograd.Function):
    """Rounds values, not gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rounding: Rounding) -> Tensor:
        return rounding(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class _Gradients(torch.autograd.Function):
    """Rounds gradients, not values."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rounding: Rounding) -> Tensor:
        ctx.rounding = rounding
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.rounding(grads[0]), None


class _Rounded(TorchFunctionMode):
    """Every product of the reference with rounded factors; a projection's result is rounded too for halves."""

    def __init__(self, rounding: Rounding, *, stored: bool) -> None:
        super().__init__()
        self.rounding, self.stored = rounding, stored

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.addmm:
            added, *factors = args
        elif func is F.linear:
            added, factors = None, list(args[:2])
        else:
            return func(*args, **(kwargs or {}))
        factors = [_Values.apply(factor, self.rounding) for factor in factors]
        if added is not None:
            return _Gradients.apply(added + factors[0] @ factors[1], self.rounding)
        found = _Gradients.apply(F.linear(*factors, args[2] if len(args) > 2 else None), self.rounding)
        return _Values.apply(found, self.rounding) if self.stored and found.dim() == 3 else found


def in_dtype(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """The same call, of numbers that a dtype has. Cells and gates are float32, and so are their gradients."""

    def rounded(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(dtype).float()

    weighing = {
        name: weigh if name.startswith("step ") else weigh.to(dtype).float() for name, weigh in tensors.weighing.items()
    }
    # One gradient comes in for the output and what is recorded of it: their sum would be rounded.
    weighing["step hidden"] = torch.zeros_like(weighing["step hidden"])
    x, *initial = map(rounded, (tensors.x, *tensors.initial))
    weights = Weights(*map(rounded, tensors.weights))  # type: ignore[arg-type]
    masks = NO_MASKS if tensors.masks is NO_MASKS else Masks(*map(rounded, tensors.masks))
    assert x is not None
    return Tensors(x, tuple(initial), weights, tensors.lengths, weighing, tensors.reset, masks)  # type: ignore[arg-type]


def expected(
    case: Case, tensors: Tensors, rounding: Rounding, unit: float, *, stored: bool
) -> tuple[Values, dict[str, float]]:
    """Every result in float64, and how near one can come.

    Three times the error of the rounded reference: rounding errors are random. Two more roundings are of the result
    itself, which is not rounded here.

    Args:
        unit: the largest relative error of a rounding.
        stored: whether what is between the kernel and the large products is rounded too, as halves are.
    """
    exact = reference.by_reference(case, tensors, torch.float64)
    with _Rounded(rounding, stored=stored):
        rounded = reference.by_reference(case, tensors, torch.float64)
    return exact, {name: 2 * unit + 3 * reference.relative_error(rounded[name], value) for name, value in exact.items()}
