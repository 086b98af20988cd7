"""What a bench computes in: the dtype, how exactly float32 is multiplied, and how far from float64 is still right."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Dtype:
    """One way to compute.

    Attributes:
        stored: of the weights, the input and the output.
        tolerance: the largest difference allowed anywhere in a tensor, relative to the largest magnitude in the right
            one; the right one is computed in float64 from the same rounded weights and input.
        tf32: whether products of float32 take their factors rounded to 11 bits.
    """

    stored: torch.dtype
    tolerance: float
    tf32: bool = False

    def tolerance_of_rounded_sums(self, steps: int) -> float:
        """The tolerance of a sum that is rounded after every step: autograd's, of the gradients of a loop's steps.

        Each of its T additions is off by at most half a unit in the last place of a partial sum that is no larger than
        the largest. Errors of random sign grow with the square root of T; twice that is allowed, which is two and a
        half times what loops of torch.nn's cells over 1,024 steps were off by at most.
        """
        return max(self.tolerance, 2 * math.sqrt(steps) * torch.finfo(self.stored).eps / 2)


# In units of rounding a number to 8, 11 or 11 bits: outputs of torch.nn's cells that round every state to such a dtype
# are off by up to 3.4 units after 1,024 steps, since states are contracted from step to step; gradients that are
# summed in float32 by less than outputs and what comes back through them together. 16 units are several times that,
# and far below what a mistake does: a gate or a step left out is off by a large part of the largest magnitude.
_UNITS = 16

DTYPES = {
    # Several times what float32 itself costs over 1,000 steps, and far below what any mistake does.
    "float32": Dtype(torch.float32, 5e-5),
    # Only the factors of products are rounded, to as many bits as those of float16.
    "tf32": Dtype(torch.float32, _UNITS * 2**-11, tf32=True),
    "bfloat16": Dtype(torch.bfloat16, _UNITS * 2**-8),
    "float16": Dtype(torch.float16, _UNITS * 2**-11),
}


@contextmanager
def products(dtype: Dtype) -> Iterator[None]:
    """Inside the context all products of float32 on a GPU are exact, or all in tf32: cuBLAS', cuDNN's and the kernels'.

    torch has two names for each switch, and reading the older one fails where only the newer was set. TorchRL reads
    the older, so both are set.
    """
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    newer = [(place, place.fp32_precision) for place in (matmul, cudnn.rnn, cudnn.conv)]
    older = [(place, _allowed(place)) for place in (matmul, cudnn)]
    try:
        for place, _ in older:
            place.allow_tf32 = dtype.tf32
        for place, _ in newer:
            place.fp32_precision = "tf32" if dtype.tf32 else "ieee"
        yield
    finally:
        for place, allowed in older:
            if allowed is not None:
                place.allow_tf32 = allowed
        for place, precision in newer:
            place.fp32_precision = precision


def _allowed(place: Any) -> bool | None:
    """torch's older switch, None where its two names disagree and it can't be read."""
    try:
        return bool(place.allow_tf32)
    except RuntimeError:
        return None
