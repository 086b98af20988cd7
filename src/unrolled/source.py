"""Where a trace has its values from: the one interface of live calls, recordings on disk and selections of either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unrolled.selection import Region, take


@dataclass(frozen=True)
class Form:
    """Shape and dtype of what was recorded of one state or gate.

    Attributes:
        batches: the sizes B of the batches its layer was called with: one, or it cannot be joined along time.
        steps: T of all calls together.
        units: the width.
        dtype: of the values.
    """

    batches: tuple[int, ...]
    steps: int
    units: int
    dtype: torch.dtype

    def whole(self, name: str) -> Region:
        """All of it.

        Raises:
            ValueError: its layer was called with batches of several sizes.
        """
        if len(self.batches) > 1:
            raise ValueError(
                f"trace {name!r}: its layer was called with batches of {' and of '.join(map(str, self.batches))}, "
                "which cannot be joined along time; record each call in a context of its own"
            )
        return Region(range(self.batches[0]), range(self.steps), range(self.units))

    def __str__(self) -> str:
        return f"({' and '.join(map(str, self.batches))}, {self.steps}, {self.units})"


class Source(Protocol):
    """Values by name; a region of them where one is given, else all. Names are those of `names`."""

    @property
    def names(self) -> tuple[str, ...]:
        """What was recorded, in the order of the model."""

    @property
    def initial_names(self) -> tuple[str, ...]:
        """The states whose values before the first step are known."""

    def form(self, name: str) -> Form: ...

    def values(self, name: str, region: Region | None = None) -> Tensor:
        """(B, T, ·)."""

    def initial(self, name: str) -> Tensor:
        """(B, ·), for the names of `initial_names`."""

    def taken(self, name: str, region: Region | None = None) -> Tensor | None:
        """(B, T) bool, True at the steps inside each sequence, None where all are equally long."""

    def resets(self, name: str, region: Region | None = None) -> Tensor | None:
        """(B, T) bool, True at the steps before which the states were zeroed, None if they never were."""

    def labels(self, name: str) -> Region:
        """The numbers that the sequences, steps and units had when they were recorded."""

    def projected(self, layer: str) -> bool:
        """Whether the layer's hidden state is projected to another width than its gates have."""


class Selected:
    """A part of another source, read when it is asked for."""

    def __init__(self, source: Source, regions: Mapping[str, Region], initial_names: Sequence[str]) -> None:
        self._source = source
        self._regions = dict(regions)
        self._initial_names = tuple(initial_names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._regions)

    @property
    def initial_names(self) -> tuple[str, ...]:
        return self._initial_names

    def form(self, name: str) -> Form:
        region = self._regions[name]
        dtype = self._source.form(name).dtype
        return Form((len(region.sequences),), len(region.steps), len(region.units), dtype)

    def values(self, name: str, region: Region | None = None) -> Tensor:
        return self._source.values(name, self._inside(name, region))

    def initial(self, name: str) -> Tensor:
        of_layer = next(region for other, region in self._regions.items() if layer_of(other) == layer_of(name))
        value = take(self._source.initial(name), of_layer.sequences, 0)
        return take(value, self._regions[name].units, 1) if name in self._regions else value

    def taken(self, name: str, region: Region | None = None) -> Tensor | None:
        return self._source.taken(name, self._inside(name, region))

    def resets(self, name: str, region: Region | None = None) -> Tensor | None:
        return self._source.resets(name, self._inside(name, region))

    def labels(self, name: str) -> Region:
        return self._source.labels(name).at(self._regions[name])

    def projected(self, layer: str) -> bool:
        return self._source.projected(layer)

    def _inside(self, name: str, region: Region | None) -> Region:
        return self._regions[name] if region is None else self._regions[name].at(region)


def layer_of(name: str) -> str:
    """The full name of the layer that a state or gate belongs to; "" for a bare cell."""
    return name.rpartition(".")[0]


def state_of(name: str) -> str:
    """The state or gate without its layer."""
    return name.rpartition(".")[2]


def by_layer(names: Sequence[str]) -> dict[str, list[str]]:
    """Names in their order, by layer."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(layer_of(name), []).append(name)
    return layers
