"""Writing a recording in pieces of whole chunks, so that it may be of any length and being killed costs one piece.

It is marked incomplete before anything else is written and complete after everything else is. A layer's number of
whole steps is written once all its arrays hold them. zarr's local store replaces files as wholes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from unrolled import __version__
from unrolled.extras import extra
from unrolled.recording import layout
from unrolled.recording.pyramid import Pyramid
from unrolled.selection import Region
from unrolled.source import Form, Source, by_layer, layer_of, state_of


class Writer:
    """A recording that is being written."""

    def __init__(self, path: str | Path, names: Sequence[str]) -> None:
        """Begin a recording of what `names` tells.

        Raises:
            ModuleNotFoundError: zarr is not installed.
            FileExistsError: there is something at `path` already; it stays as it is.
        """
        zarr = extra("zarr", "writing a recording", "trace")
        self.path = Path(path)
        self._names = tuple(names)
        self._layers: dict[str, _Layer] = {}
        if os.path.lexists(path):
            raise FileExistsError(
                f"{path} exists already and is left as it is; choose another path, or delete it first"
            )
        self._root = zarr.create_group(
            self.path,
            zarr_format=3,
            attributes={
                "unrolled_format": layout.FORMAT,
                "unrolled_version": __version__,
                "names": list(self._names),
                "complete": False,
            },
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What has been recorded so far, in the order of the model."""
        return tuple(name for name in self._names if layer_of(name) in self._layers)

    def has(self, layer: str) -> bool:
        """Whether a layer was begun."""
        return layer in self._layers

    def begin(
        self,
        layer: str,
        forms: Mapping[str, Form],
        initial: Mapping[str, Tensor],
        *,
        projected: bool,
        steps: int | None,
    ) -> int:
        """Make the arrays of a layer.

        Args:
            layer: its full name.
            forms: state or gate -> its form; of the number of steps nothing is read.
            initial: state -> (B, ·) before the first step.
            projected: whether the hidden state is projected to another width.
            steps: T if it is known.

        Returns:
            How many steps make a piece.
        """
        group = self._root.create_group(layout.node(layer)) if layer else self._root
        self._layers[layer] = _Layer(group, forms, initial, projected=projected, steps=steps)
        return self._layers[layer].piece

    def append(self, layer: str, values: Mapping[str, Tensor], taken: Tensor | None, resets: Tensor | None) -> None:
        """Add steps to a layer.

        Args:
            layer: one that was begun.
            values: state or gate -> (B, T, ·).
            taken: (B, T) bool, True inside each sequence, or None.
            resets: (B, T) bool, True where the states were zeroed before the step, or None.

        Raises:
            ValueError: they are not like the steps before; the recording will stay unfinished.
        """
        into = self._layers[layer]
        for state, value in values.items():
            form = into.forms[state]
            kinds = {"batch": (form.batches[0], value.size(0)), "dtype": (form.dtype, value.dtype)}
            for kind, (before, now) in kinds.items():
                if before != now:
                    raise ValueError(
                        f"record: {layer or 'the cell'} was called with a {kind} of {now} after one of {before}, but "
                        f"{self.path} joins calls along time; it stays unfinished. Record such calls to another path"
                    )
        into.append(values, taken, resets)

    def finish(self, labels: Mapping[str, Mapping[str, Sequence[int]]] = MappingProxyType({})) -> None:
        """Write what is left, and that the recording is complete.

        Args:
            labels: layer -> dimension -> the numbers of what stands along it, where they are not 0, 1, 2, ...
        """
        for layer, into in self._layers.items():
            into.finish(labels.get(layer, {}))
        self._root.update_attributes({"names": list(self.names), "complete": True})

    def form(self, name: str) -> Form:
        """What has been recorded so far of one state or gate."""
        into = self._layers[layer_of(name)]
        form = into.forms[state_of(name)]
        return Form(form.batches, into.steps, form.units, form.dtype)

    def steps(self) -> list[int]:
        """The number of steps of each layer that are on disk."""
        return [layer.written for layer in self._layers.values()]

    def abandon(self) -> None:
        """Write the steps there are and leave the recording unfinished."""
        for layer in self._layers.values():
            # What went wrong before is what the user has to see.
            with suppress(OSError):
                layer.flush()


class _Layer:
    """The arrays of one layer, whose steps are gathered until they fill a row of chunks."""

    def __init__(
        self,
        group: Any,
        forms: Mapping[str, Form],
        initial: Mapping[str, Tensor],
        *,
        projected: bool,
        steps: int | None,
    ) -> None:
        self.forms = dict(forms)
        self._group = group
        dtypes = {state: layout.stored_dtype(form.dtype) for state, form in forms.items()}
        widest = max(form.units * dtypes[state].itemsize for state, form in forms.items())
        batch = next(iter(forms.values())).batches[0]
        sequences, self.piece = layout.chunk_shape(batch, steps, widest)
        self.written = self._filled = 0
        self._lengths = np.zeros(batch, dtype=np.int64)
        self._has = {layout.TAKEN: False, layout.RESET: False}
        group.update_attributes({"steps": 0, "initial": list(initial), "projected": projected, **self._has})
        self._arrays: dict[str, Any] = {}
        self._buffers: dict[str, np.ndarray[Any, Any]] = {}
        for state, form in forms.items():
            self._arrays[state] = layout.create(
                group,
                state,
                (layout.SEQUENCE, layout.STEP, layout.unit_dimension(state, projected=projected)),
                shape=(batch, 0, form.units),
                chunks=(sequences, self.piece, form.units),
                dtype=dtypes[state],
                attributes={"dtype": str(form.dtype).removeprefix("torch.")},
            )
            self._buffers[state] = np.empty((batch, self.piece, form.units), dtypes[state])
        self._pyramid = Pyramid(group, self._arrays, steps=steps)
        for flag in self._has:
            self._arrays[flag] = layout.create(
                group,
                flag,
                (layout.SEQUENCE, layout.STEP),
                shape=(batch, 0),
                chunks=(sequences, self.piece),
                dtype=np.dtype(bool),
            )
            self._buffers[flag] = np.empty((batch, self.piece), bool)
        for state, value in initial.items():
            layout.create(
                group,
                layout.initial_variable(state),
                (layout.SEQUENCE, layout.unit_dimension(state, projected=projected)),
                data=layout.as_array(value),
                attributes={"dtype": str(value.dtype).removeprefix("torch.")},
            )

    @property
    def steps(self) -> int:
        return self.written + self._filled

    def append(self, values: Mapping[str, Tensor], taken: Tensor | None, resets: Tensor | None) -> None:
        parts = {state: layout.as_array(value) for state, value in values.items()}
        batch, steps, _ = next(iter(parts.values())).shape
        for flag, given in ((layout.TAKEN, taken), (layout.RESET, resets)):
            self._has[flag] |= given is not None
            parts[flag] = np.full((batch, steps), flag == layout.TAKEN) if given is None else layout.as_array(given)
        self._lengths += parts[layout.TAKEN].sum(axis=1)
        done = 0
        while done < steps:
            count = min(steps - done, self.piece - self._filled)
            for name, part in parts.items():
                self._buffers[name][:, self._filled : self._filled + count] = part[:, done : done + count]
            self._filled += count
            done += count
            if self._filled == self.piece:
                self.flush()

    def flush(self) -> None:
        if not self._filled:
            return
        steps = self.steps
        for name, array in self._arrays.items():
            array.resize((array.shape[0], steps, *array.shape[2:]))
            array[:, self.written : steps] = self._buffers[name][:, : self._filled]
        self._group.update_attributes({"steps": steps, **self._has})
        filled, self.written, self._filled = self._filled, steps, 0
        self._pyramid.add({name: buffer[:, :filled] for name, buffer in self._buffers.items()})

    def finish(self, labels: Mapping[str, Sequence[int]]) -> None:
        self.flush()
        self._pyramid.finish(self.written)
        sizes = {
            dimension: size
            for array in (*self._arrays.values(), *(self._group[name] for name in self._initial()))
            for dimension, size in zip(array.metadata.dimension_names, array.shape, strict=True)
        }
        for dimension, size in sizes.items():
            numbers = np.asarray(labels.get(dimension, range(size)), dtype=np.int64)
            layout.create(self._group, dimension, (dimension,), data=numbers)
        if self._has[layout.TAKEN]:
            layout.create(self._group, layout.LENGTHS, (layout.SEQUENCE,), data=self._lengths)
        for flag, there in self._has.items():
            if not there:
                del self._group[flag]

    def _initial(self) -> list[str]:
        return [layout.initial_variable(state) for state in self._group.attrs["initial"]]


def save(source: Source, path: str | Path) -> Path:
    """Write all of a source, a piece at a time.

    Raises:
        ModuleNotFoundError: zarr is not installed.
        FileExistsError: there is something at `path` already; it stays as it is.
        ValueError: a layer was called with batches of several sizes.
    """
    layers = by_layer(source.names)
    whole = {name: source.form(name).whole(name) for name in source.names}
    writer = Writer(path, source.names)
    for layer, names in layers.items():
        forms = {state_of(name): source.form(name) for name in names}
        initial = {state_of(name): source.initial(name) for name in layout.initial_of(source, layer)}
        steps = len(whole[names[0]].steps)
        piece = writer.begin(layer, forms, initial, projected=source.projected(layer), steps=steps)
        for start in range(0, steps, piece):
            part = range(start, min(start + piece, steps))
            regions = {name: Region(whole[name].sequences, part, whole[name].units) for name in names}
            values = {state_of(name): source.values(name, region) for name, region in regions.items()}
            flags = names[0], regions[names[0]]
            writer.append(layer, values, source.taken(*flags), source.resets(*flags))
    writer.finish({layer: layout.layer_labels(source, layer, names) for layer, names in layers.items()})
    return writer.path
