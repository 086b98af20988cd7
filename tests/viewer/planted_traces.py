"""Traces with planted values, which remember what was read of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.selection import Region
from unrolled.source import Form
from unrolled.trace import Trace


class Planted:
    """A source of given values (B, T, H)."""

    initial_names: tuple[str, ...] = ()

    def __init__(self, values: Mapping[str, Any], lengths: list[int] | None) -> None:
        self._values = {name: torch.as_tensor(value) for name, value in values.items()}
        self._lengths = lengths
        self.largest = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._values)

    def form(self, name: str) -> Form:
        batch, steps, units = self._values[name].shape
        return Form((batch,), steps, units, self._values[name].dtype)

    def values(self, name: str, region: Region | None = None) -> Tensor:
        found = (region or self.form(name).whole(name)).of(self._values[name])
        self.largest = max(self.largest, found.numel())
        return found

    def initial(self, name: str) -> Tensor:
        raise AssertionError(name)

    def taken(self, name: str, region: Region | None = None) -> Tensor | None:
        if self._lengths is None:
            return None
        whole = torch.arange(self.form(name).steps) < torch.tensor(self._lengths)[:, None]
        return (region or self.form(name).whole(name)).of(whole)

    def resets(self, name: str, region: Region | None = None) -> Tensor | None:
        return None

    def labels(self, name: str) -> Region:
        return self.form(name).whole(name)

    def projected(self, layer: str) -> bool:
        return False


def planted(values: Any = None, *, lengths: list[int] | None = None, **named: Any) -> Trace:
    """A trace of values (B, T, H), or (T, H) of one sequence, named l0.cell, or by the arguments' names with a dot."""
    given = {"l0.cell": values} if values is not None else {name.replace("__", "."): v for name, v in named.items()}
    whole = {name: value[None] if value.ndim == 2 else value for name, value in given.items()}
    return Trace(tuple(whole), Planted(whole, lengths))


def off(steps: int, units: int, sequences: int = 1) -> np.ndarray[Any, Any]:
    """Values that are off at 0.5 with either sign, (B, T, H)."""
    return np.zeros((sequences, steps, units), np.float32)


def random(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    """Normal values."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
