"""Blocks of steps and their lows and highs: how long the blocks are, and how many short ones become a long one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Steps in the shortest blocks. Those in between are few enough to be looked at one by one.
FINEST = 16
# How many blocks of one length make one of the next.
FACTOR = 4
# Blocks longer than those of which fewer than this are left save nothing.
FEWEST = 500
# A recording with fewer steps is read as it is, as quickly as its blocks would be.
SHORTEST = 4096


def spans(steps: int) -> tuple[int, ...]:
    """The numbers of steps in a block, ascending, for which a recording of so many steps keeps lows and highs."""
    if steps < SHORTEST:
        return ()
    found = [FINEST]
    while count(steps, found[-1]) >= FEWEST:
        found.append(found[-1] * FACTOR)
    return tuple(found)


def count(steps: int, span: int) -> int:
    """The number of blocks of `span` steps, the last of which may have fewer."""
    return -(-steps // span)


def merged(low: NDArray[Any], high: NDArray[Any], number: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The lows and highs of every `number` blocks in a row.

    Args:
        low, high: (..., N, U), each in its dtype; for steps, both are their values.
        number: how many blocks, or steps, become one; the last may be of fewer.

    Returns:
        (..., ceil(N / number), U) each. Where one of the values is NaN, so are both.
    """
    return _merged(low, number, np.minimum), _merged(high, number, np.maximum)


def _merged(values: NDArray[Any], number: int, extreme: np.ufunc) -> NDArray[Any]:
    *lead, rows, units = values.shape
    groups = rows // number
    found = np.empty((*lead, count(rows, number), units), values.dtype)
    # NumPy compares halves one by one; the cast is exact both ways.
    wide = np.float32 if values.dtype == np.float16 else values.dtype
    if groups:
        whole = values[..., : groups * number, :].reshape(*lead, groups, number, units)
        found[..., :groups, :] = extreme.reduce(whole.astype(wide, copy=False), axis=-2)
    if groups * number < rows:
        rest = values[..., groups * number :, :].astype(wide, copy=False)
        found[..., groups:, :] = extreme.reduce(rest, axis=-2, keepdims=True)
    return found


def cuts(size: int, length: int) -> Iterator[slice]:
    """0 to `size` in parts of `length`, the last of which may be shorter."""
    for start in range(0, size, length):
        yield slice(start, min(start + length, size))
