"""Lows and highs of blocks of 16, 64, 256, ... steps on disk, so that a long recording is looked at without all of it.

Each layer's group has a group `extremes` with an array {state}_{span} for each state or gate and length of block:
(2, B, blocks, ·), lows before highs. It is told complete once all its arrays are, and before that taken for absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.extras import extra
from unrolled.recording import blocks, layout
from unrolled.recording.reading import Stored
from unrolled.selection import Region
from unrolled.source import by_layer, state_of


class Pyramid:
    """The extremes of one layer that is being written; of a short one, nothing is written."""

    def __init__(self, group: Any, arrays: Mapping[str, Any], *, steps: int | None) -> None:
        """Begin with no steps.

        Args:
            group: the layer's.
            arrays: state or gate -> its array (B, T, ·), of whose T nothing is read.
            steps: T if it is known. Then the arrays have their final shapes from the start, and what another process
                has written of them, or is just writing, is written over with the same.
        """
        self._group = group
        self._arrays = dict(arrays)
        self._steps = steps
        self._made: dict[int, dict[str, Any]] = {}
        self._gathered: dict[str, _Gathered] = {}
        if steps is None or blocks.spans(steps):
            number = None if steps is None else blocks.count(steps, blocks.FINEST)
            for state, array in arrays.items():
                batch, _, units = array.shape
                _, length = _chunks(array, number)
                self._gathered[state] = _Gathered((batch, length, units), array.dtype)

    def add(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Add steps: state or gate -> (B, n, ·)."""
        for state, gathered in self._gathered.items():
            for full in gathered.add(values[state]):
                self._write(state, gathered.written, full)

    def finish(self, steps: int) -> None:
        """Write what is left of T steps, the longer blocks, and that all of it is there."""
        if not self._gathered or not (self._made or blocks.spans(steps)):
            return
        for state, gathered in self._gathered.items():
            self._write(state, gathered.written, gathered.rest())
        spans = blocks.spans(steps) or (blocks.FINEST,)
        for fine, coarse in pairwise(spans):
            number = blocks.count(steps, coarse)
            for state in self._arrays:
                _fill(self._made[fine][state], self._array(state, coarse, number))
        self._extremes().update_attributes({"complete": True, "spans": list(spans)})

    def _write(self, state: str, start: int, found: NDArray[Any]) -> None:
        number = None if self._steps is None else blocks.count(self._steps, blocks.FINEST)
        array = self._array(state, blocks.FINEST, number)
        stop = start + found.shape[2]
        if number is None:
            array.resize((*array.shape[:2], stop, array.shape[3]))
        if found.size:
            array[:, :, start:stop] = found

    def _extremes(self) -> Any:
        from zarr.errors import ContainsGroupError

        try:
            return self._group.require_group(layout.EXTREMES)
        except ContainsGroupError:
            # Another process has just made it.
            return self._group[layout.EXTREMES]

    def _array(self, state: str, span: int, number: int | None) -> Any:
        made = self._made.setdefault(span, {})
        if state not in made:
            of = self._arrays[state]
            batch, _, units = of.shape
            sequences, length = _chunks(of, number)
            made[state] = _require(
                self._extremes(),
                layout.extremes_variable(state, span),
                (layout.BOUND, layout.SEQUENCE, layout.block_dimension(span), of.metadata.dimension_names[-1]),
                shape=(2, batch, number or 0, units),
                chunks=(2, sequences, length, units),
                dtype=of.dtype,
            )
        return made[state]


class _Gathered:
    """Blocks of the finest span of one state, gathered until they fill a row of chunks."""

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        batch, self._length, units = shape
        self._blocks = np.empty((2, *shape), dtype)
        self._steps = np.empty((batch, 0, units), dtype)
        self.written = self._filled = 0

    def add(self, steps: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Add (B, n, ·); yields (2, B, blocks, ·) whenever those are to be written, at `written`."""
        begun = self._steps.shape[1]
        if begun:
            head, steps = steps[:, : blocks.FINEST - begun], steps[:, blocks.FINEST - begun :]
            self._steps = np.concatenate((self._steps, head), axis=1)
            if self._steps.shape[1] < blocks.FINEST:
                return
            yield from self._put(self._steps)
        whole = steps.shape[1] // blocks.FINEST * blocks.FINEST
        yield from self._put(steps[:, :whole])
        # A copy, since the rest lies in memory that will hold other steps.
        self._steps = steps[:, whole:].copy()

    def rest(self) -> NDArray[Any]:
        """The blocks that fill no row, the last of them of the steps that fill no block."""
        found = [self._blocks[:, :, : self._filled]]
        if self._steps.shape[1]:
            found.append(np.stack(blocks.merged(self._steps, self._steps, blocks.FINEST)))
        return np.concatenate(found, axis=2)

    def _put(self, steps: NDArray[Any]) -> Iterator[NDArray[Any]]:
        number, done = steps.shape[1] // blocks.FINEST, 0
        while done < number:
            taken = min(number - done, self._length - self._filled)
            part = steps[:, done * blocks.FINEST : (done + taken) * blocks.FINEST]
            self._blocks[:, :, self._filled : self._filled + taken] = blocks.merged(part, part, blocks.FINEST)
            self._filled += taken
            done += taken
            if self._filled == self._length:
                yield self._blocks
                self.written += self._filled
                self._filled = 0


def _chunks(array: Any, number: int | None) -> tuple[int, int]:
    """Sequences and blocks of a chunk of the extremes of an array (B, T, ·)."""
    return layout.extremes_chunk_shape(array.shape[0], number, 2 * array.shape[2] * array.dtype.itemsize)


def _fill(fine: Any, coarse: Any) -> None:
    """The blocks of one length out of those of the one before, a chunk at a time."""
    _, batch, number, _ = coarse.shape
    for rows in blocks.cuts(batch, coarse.chunks[1]):
        for part in blocks.cuts(number, coarse.chunks[2]):
            inside = slice(part.start * blocks.FACTOR, min(part.stop * blocks.FACTOR, fine.shape[2]))
            low, high = fine[:, rows, inside]
            coarse[:, rows, part] = np.stack(blocks.merged(low, high, blocks.FACTOR))


def _require(group: Any, name: str, dimensions: tuple[str, ...], **options: Any) -> Any:
    """The array of that name, which may be there from an attempt that was cut off."""
    from zarr.errors import ContainsArrayError

    if name in group:
        return group[name]
    try:
        return layout.create(group, name, dimensions, **options)
    except ContainsArrayError:
        # Another process has just made it.
        return group[name]


def has_extremes(path: str | Path) -> bool:
    """Whether a recording has all the extremes it should; a short one should have none, an unfinished one lacks them.

    Raises:
        ModuleNotFoundError: zarr is not installed.
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is no recording, one of another format, or damaged.
    """
    source = Stored(path, unfinished=True)
    return source.complete and not _lacking(source)


def build(path: str | Path, tell: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Add the extremes that a finished recording lacks, in pieces, and nothing else.

    However it ends, the recording is readable, during it too; cut off, it is begun anew the next time. Two processes
    may do it at once.

    Args:
        path: the recording's directory.
        tell: called with how many steps are done and how many there are, of all layers together.

    Raises:
        ModuleNotFoundError: zarr is not installed.
        FileNotFoundError: there is nothing at `path`.
        UnfinishedRecording: its writing was cut off, or is still going on.
        ValueError: it is no recording, one of another format, or damaged.
        OSError: the directory cannot be written.
    """
    source = Stored(path)
    lacking = _lacking(source)
    total, done = sum(source.form(names[0]).steps for names in lacking.values()), 0
    root = extra("zarr", "writing a recording", "trace").open_group(path, mode="r+", use_consolidated=False)
    for layer, names in lacking.items():
        group = root[layout.node(layer)] if layer else root
        steps = source.form(names[0]).steps
        pyramid = Pyramid(group, {state_of(name): group[state_of(name)] for name in names}, steps=steps)
        for part in blocks.cuts(steps, source.chunk(names[0])[1]):
            tell(done + part.start, total)
            values = {}
            for name in names:
                whole = source.form(name).whole(name)
                region = Region(whole.sequences, range(part.start, part.stop), whole.units)
                values[state_of(name)] = layout.as_array(source.values(name, region))
            pyramid.add(values)
        pyramid.finish(steps)
        done += steps
    tell(done, total)


def _lacking(source: Stored) -> dict[str, list[str]]:
    """The names of each layer that should have extremes and has none."""
    return {
        layer: names
        for layer, names in by_layer(source.names).items()
        if blocks.spans(source.form(names[0]).steps) and not source.spans(names[0])
    }
