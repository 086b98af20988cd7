"""Reading a recording: lazily, only what is asked for, and never half of it as whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.extras import extra
from unrolled.recording import blocks, layout
from unrolled.selection import Indices, Region, as_index, compact
from unrolled.source import Form, by_layer, layer_of, state_of

# What to do about a recording that is damaged.
_AGAIN = "record it again"


class UnfinishedRecording(ValueError):
    """A recording whose writing was cut off, or is still going on."""


def cut_off(path: Path, steps: Sequence[int]) -> str:
    """What to say of an unfinished recording with these numbers of whole steps, one a layer."""
    fewest, most = min(steps, default=0), max(steps, default=0)
    count = f"{most} whole steps" if fewest == most else f"{fewest} to {most} whole steps, by layer"
    return (
        f"{path} is an unfinished recording: its writing was cut off, or is still going on. It holds {count}; "
        f"Trace.load({str(path)!r}, unfinished=True) reads those"
    )


class Stored:
    """A recording on disk, whose arrays are read when they are asked for, each time anew."""

    def __init__(self, path: str | Path, *, unfinished: bool = False) -> None:
        """Open the recording at `path`.

        Raises:
            ModuleNotFoundError: zarr is not installed.
            FileNotFoundError: there is nothing at `path`.
            UnfinishedRecording: it is not complete and `unfinished` is False.
            ValueError: it is no recording, one of another format, or damaged.
        """
        zarr = extra("zarr", "reading a recording", "trace")
        self._path = Path(path)
        if not self._path.exists():
            raise FileNotFoundError(f"there is no recording at {path}")
        if not (self._path / "zarr.json").is_file():
            raise ValueError(f"{path} is not a recording: Trace.save and record(to=...) make those")
        with self._damage("its description"):
            self._root = zarr.open_group(self._path, mode="r", zarr_format=3, use_consolidated=False)
        found = self._root.attrs.get("unrolled_format")
        if found is None:
            raise ValueError(f"{path} is not a recording: Trace.save and record(to=...) make those")
        if found != layout.FORMAT:
            raise ValueError(
                f"{path} is a recording of format {found!r}, made by unrolled "
                f"{self._root.attrs.get('unrolled_version')}; this version reads format {layout.FORMAT}"
            )
        with self._damage("its description"):
            complete, layers = self._root.attrs["complete"], by_layer(self._root.attrs["names"])
            self._groups = {layer: self._group(layer) for layer in layers if complete or self._begun(layer)}
            self._steps = {layer: int(group.attrs["steps"]) for layer, group in self._groups.items()}
        if complete is not True and not unfinished:
            raise UnfinishedRecording(cut_off(self._path, list(self._steps.values())))
        self.complete = complete is True
        # A layer has steps only once all its arrays are there.
        self._names = tuple(name for layer, names in layers.items() for name in names if self._steps.get(layer))
        self._arrays: dict[str, Any] = {}
        self._spans: dict[str, tuple[int, ...]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def initial_names(self) -> tuple[str, ...]:
        return tuple(
            f"{layer}.{state}" if layer else state
            for layer in by_layer(self._names)
            for state in self._groups[layer].attrs["initial"]
        )

    def form(self, name: str) -> Form:
        array = self._array(name, state_of(name))
        batch, _, units = array.shape
        return Form((batch,), self._steps[layer_of(name)], units, _dtype(array))

    def values(self, name: str, region: Region | None = None) -> Tensor:
        """(B, T, ·), a plain tensor on the CPU in the dtype that was recorded."""
        region = region or self.form(name).whole(name)
        return self._read(name, state_of(name), (region.sequences, region.steps, region.units))

    def initial(self, name: str) -> Tensor:
        variable = layout.initial_variable(state_of(name))
        return self._read(name, variable, tuple(range(size) for size in self._array(name, variable).shape))

    def taken(self, name: str, region: Region | None = None) -> Tensor | None:
        return self._flags(name, layout.TAKEN, region)

    def resets(self, name: str, region: Region | None = None) -> Tensor | None:
        return self._flags(name, layout.RESET, region)

    def labels(self, name: str) -> Region:
        whole = self.form(name).whole(name)
        if not self.complete:
            return whole
        last = layout.unit_dimension(state_of(name), projected=self.projected(layer_of(name)))
        found = []
        for dimension, size in zip(
            (layout.SEQUENCE, layout.STEP, last), map(len, (whole.sequences, whole.steps, whole.units)), strict=True
        ):
            found.append(compact(self._read(name, dimension, (range(size),)).tolist()))
        return Region(*found)

    def projected(self, layer: str) -> bool:
        return bool(self._groups[layer].attrs["projected"])

    def chunk(self, name: str, span: int = 1) -> tuple[int, int]:
        """How many sequences, and steps or blocks of `span` steps, are read at one go."""
        if span == 1:
            sequences, length, _ = self._array(name, state_of(name)).chunks
        else:
            _, sequences, length, _ = self._blocks(name, span).chunks
        return sequences, length

    def spans(self, name: str) -> tuple[int, ...]:
        """In blocks of how many steps the lows and highs of a state are there, ascending: none if there are none."""
        layer = layer_of(name)
        if layer not in self._spans:
            group = self._groups[layer]
            # Looked for each time until it is there: it may be written while the recording is open.
            if not (self._path / group.path / layout.EXTREMES / "zarr.json").is_file():
                return ()
            with self._damage(repr(name), self._without_extremes(name)):
                attributes = group[layout.EXTREMES].attrs
                if attributes.get("complete") is not True:
                    return ()
                self._spans[layer] = tuple(attributes["spans"])
        return self._spans[layer]

    def extremes(self, name: str, span: int, sequences: range, numbers: range) -> np.ndarray[Any, Any]:
        """(2, B, blocks, ·): the lows and highs of blocks of `span` steps, one of `spans`, as they are stored."""
        array = self._blocks(name, span)
        asked = range(2), sequences, numbers, range(array.shape[3])
        return self._stored(name, array, asked, self._without_extremes(name))

    def _blocks(self, name: str, span: int) -> Any:
        variable = f"{layout.EXTREMES}/{layout.extremes_variable(state_of(name), span)}"
        array = self._array(name, variable, self._without_extremes(name))
        steps = self._steps[layer_of(name)]
        with self._damage(repr(name), self._without_extremes(name)):
            if array.shape[2] != blocks.count(steps, span):
                raise ValueError(f"{array.path} has {array.shape[2]} blocks of {span} steps for {steps} steps")
        return array

    def _without_extremes(self, name: str) -> str:
        folder = self._path / self._groups[layer_of(name)].path / layout.EXTREMES
        return f"it is whole but for its extremes: delete {folder}, and they are made anew"

    def _flags(self, name: str, flag: str, region: Region | None) -> Tensor | None:
        if not self._groups[layer_of(name)].attrs[flag]:
            return None
        region = region or self.form(name).whole(name)
        return self._read(name, flag, (region.sequences, region.steps))

    def _group(self, layer: str) -> Any:
        return self._root[layout.node(layer)] if layer else self._root

    def _begun(self, layer: str) -> bool:
        return (self._path / layout.node(layer) / "zarr.json").is_file() and "steps" in self._group(layer).attrs

    def _array(self, name: str, variable: str, remedy: str = _AGAIN) -> Any:
        layer = layer_of(name)
        key = f"{layer}/{variable}"
        if key not in self._arrays:
            with self._damage(repr(name), remedy):
                array = self._groups[layer][variable]
                steps = dict(zip(array.metadata.dimension_names, array.shape, strict=True)).get(layout.STEP)
                if steps is not None and steps < self._steps[layer]:
                    raise ValueError(f"{variable} has {steps} of {self._steps[layer]} steps")
                self._arrays[key] = array
        return self._arrays[key]

    def _read(self, name: str, variable: str, indices: tuple[Indices, ...]) -> Tensor:
        array = self._array(name, variable)
        return torch.from_numpy(self._stored(name, array, indices)).to(_dtype(array))

    def _stored(
        self, name: str, array: Any, indices: tuple[Indices, ...], remedy: str = _AGAIN
    ) -> np.ndarray[Any, Any]:
        with self._damage(repr(name), remedy):
            self._refuse_missing(array, indices)
            return np.asarray(array.oindex[tuple(map(_as_zarr_index, indices))])

    def _refuse_missing(self, array: Any, indices: tuple[Indices, ...]) -> None:
        """zarr takes a chunk that is missing for one of zeros."""
        touched = [_chunks(numbers, size) for numbers, size in zip(indices, array.chunks, strict=True)]
        for chunk in product(*touched):
            file = self._path / array.path / array.metadata.encode_chunk_key(chunk)
            if not file.is_file():
                raise ValueError(f"a part of {array.basename}, {file}, is missing")

    @contextmanager
    def _damage(self, part: str, remedy: str = _AGAIN) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"{self._path} is damaged: {part} cannot be read ({error}); {remedy}") from error


def _chunks(indices: Indices, size: int) -> Sequence[int]:
    """The numbers of the chunks of `size` in which the indices are."""
    if isinstance(indices, range) and 0 < indices.step <= size:
        return range(indices.start // size, indices[-1] // size + 1) if indices else range(0)
    return sorted({number // size for number in indices})


def _as_zarr_index(indices: Indices) -> Any:
    found = as_index(indices)
    return found if isinstance(found, slice) else np.asarray(found)


def _dtype(array: Any) -> torch.dtype:
    """The dtype that was recorded, which may be one that is stored as another."""
    named = array.attrs.get("dtype")
    found: torch.dtype = getattr(torch, named) if named else torch.from_numpy(np.empty(0, array.dtype)).dtype
    return found
