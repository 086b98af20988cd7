"""Random streams, and settings that are one number or drawn from a range.

The streams are numpy's: a torch CPU generator keeps only the low 32 bits of its seed, so that among the many batches of
a long training run some would meet the stream of a test batch. Here all 256 bits of the hash count.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from .task import SPLITS, Split

Span = int | tuple[int, int]


def stream(task: str, *, split: Split, seed: int) -> np.random.Generator:
    """The random stream of one batch; no two of (task, split, seed) share one."""
    if split not in SPLITS:
        raise ValueError(f"task {task}: split is {split!r}; expected one of {', '.join(SPLITS)}")
    return named(task, split, seed)


def named(*names: object) -> np.random.Generator:
    """The random stream that has these names; others share none of it."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def integers(rng: np.random.Generator, low: int, high: int, *shape: int) -> Tensor:
    """int64 of `shape`, uniform over low, ..., high - 1."""
    return torch.from_numpy(rng.integers(low, high, size=shape, dtype=np.int64))


def one_hot(symbols: Tensor, width: int) -> Tensor:
    """symbols: (B, T) int64 -> (B, T, width) float32."""
    return torch.eye(width)[symbols]


def check_integer(task: str, name: str, value: object, least: int) -> None:
    """ValueError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"task {task}: {name} is {value!r}; expected a whole number of at least {least}")


def check_span(task: str, name: str, value: object, least: int) -> None:
    """ValueError unless `value` is a whole number, or an inclusive range (low, high), of at least `least`."""
    if isinstance(value, tuple):
        if len(value) != 2:
            raise ValueError(f"task {task}: {name} is {value!r}; a range has two ends, (low, high)")
        for end in value:
            check_integer(task, name, end, least)
        if value[0] > value[1]:
            raise ValueError(
                f"task {task}: {name} is {value[0]}-{value[1]}; a range starts at its lower end, {value[1]}-{value[0]}"
            )
    else:
        check_integer(task, name, value, least)


def ends(span: Span) -> tuple[int, int]:
    """The lowest and the highest value of `span`."""
    return span if isinstance(span, tuple) else (span, span)


def draw(rng: np.random.Generator, span: Span) -> int:
    """One value of `span`, uniform over its inclusive range."""
    low, high = ends(span)
    return int(rng.integers(low, high + 1))


def spread(span: Span, *, quarters: tuple[int, ...], least: int) -> tuple[int, ...]:
    """Increasing values at these quarters of the highest value of `span`, none below `least`."""
    _, top = ends(span)
    return tuple(sorted({max(least, top * quarter // 4) for quarter in quarters}))
