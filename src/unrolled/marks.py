"""What a call says of its steps: how many of each sequence there are, and before which of them states are zeroed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def checked_lengths(lengths: Any, steps: int, batch: int, device: torch.device, *, batched: bool) -> Tensor:
    """(B,) int64 on `device`.

    Their values are checked where they can be read without waiting for a GPU; there the check is left to the device.

    Raises:
        TypeError: they are not whole numbers.
        ValueError: there is not one for each sequence, or one is below 0 or above T.
    """
    try:
        given = lengths if isinstance(lengths, Tensor) else torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"lengths: given {type(lengths).__name__}, expected a tensor of whole numbers: {error}"
        ) from None
    if given.dtype.is_floating_point or given.dtype.is_complex or given.dtype is torch.bool:
        raise TypeError(f"lengths: given {given.dtype}, expected whole numbers such as torch.int64")
    if given.shape != (batch,) and (batched or given.shape != ()):
        raise ValueError(f"lengths: given shape {tuple(given.shape)}, expected ({batch},), one for each sequence")
    found = given.reshape(batch).to(device=device, dtype=torch.int64)
    # While a graph is captured or a transform of torch.func holds them, they have no values to look at.
    if not torch.compiler.is_compiling() and not torch._C._functorch.is_functorch_wrapped_tensor(found):
        right = ((found >= 0) & (found <= steps)).all()
        if device.type == "cpu":
            if not right:
                raise ValueError(f"lengths: given {found.tolist()}, expected from 0 to the {steps} steps of the input")
        elif device.type != "meta":
            torch._assert_async(right, f"lengths: expected from 0 to the {steps} steps of the input")
    return found


def checked_reset(reset: Any, shape: torch.Size, device: torch.device) -> Tensor:
    """Bool, of the input's shape without its last dimension, on `device`.

    Raises:
        TypeError: it is no bool tensor.
        ValueError: its shape is another.
    """
    if not isinstance(reset, Tensor) or reset.dtype is not torch.bool:
        kind = str(reset.dtype) if isinstance(reset, Tensor) else type(reset).__name__
        raise TypeError(f"reset: given {kind}, expected a tensor of torch.bool; a float mask becomes one by `done > 0`")
    if reset.shape != shape:
        raise ValueError(
            f"reset: given shape {tuple(reset.shape)}, expected {tuple(shape)}, the input's without its last dimension"
        )
    return reset.to(device)
