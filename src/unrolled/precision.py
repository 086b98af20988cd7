"""In what precision a call is computed: float64 as it is, everything else in float32.

Kernels for GPUs multiply halves as they are, and keep states and sums in float32 by themselves.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from unrolled.recurrence.cells import Weights


def autocast_is_on(x: Tensor) -> bool:
    """Whether autocast is on where x is."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class Precision(NamedTuple):
    """In what dtypes a call comes, is computed and goes.

    Attributes:
        given: of the input.
        inside: float64 stays, everything else is float32: halves lose too much over many steps. Where the kernels see
            to that themselves, halves stay.
        outside: of outputs and final states: the input's, or that of autocast where it is on.
        quiet: turns autocast off while it is computed.
    """

    given: torch.dtype
    inside: torch.dtype
    outside: torch.dtype
    quiet: AbstractContextManager[Any]
    autocast: bool = False

    @staticmethod
    def of(x: Tensor, *, keeps_halves: bool = False) -> Precision:
        if x.dtype is torch.float64:
            return Precision(x.dtype, x.dtype, x.dtype, nullcontext())
        if autocast_is_on(x):
            kind = x.device.type
            outside = torch.get_autocast_dtype(kind)
            inside = outside if keeps_halves else torch.float32
            return Precision(x.dtype, inside, outside, torch.autocast(kind, enabled=False), True)
        return Precision(x.dtype, x.dtype if keeps_halves else torch.float32, x.dtype, nullcontext())

    def enter(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor if tensor.dtype is self.inside else tensor.to(self.inside) for tensor in tensors)

    def enter_weights(self, weights: Weights) -> Weights:
        """Without autocast a weight of another dtype than the input's stays as it is, and is refused like in torch."""
        if all(weight is None or weight.dtype is self.inside for weight in weights):
            return weights
        taken = _FLOATS if self.autocast else (self.given,)
        inside: Any = [w.to(self.inside) if w is not None and w.dtype in taken else w for w in weights]
        return Weights(*inside)

    def leave(self, result: Any) -> Any:
        if isinstance(result, PackedSequence):
            return result._replace(data=self.leave(result.data))
        return result if result.dtype is self.outside else result.to(self.outside)
