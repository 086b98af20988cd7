"""Reading a trace a portion at a time: few enough steps that memory stays flat however long the recording is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.recording import layout
from unrolled.selection import Region, compact
from unrolled.trace import Trace

Tell = Callable[[int, int], None]
Numbers = NDArray[np.int64]

# How many chunks of a stored trace, along time, are read together.
CHUNKS = 2


def silent(done: int, of: int) -> None:
    """Tells nobody how far it is."""


@dataclass(frozen=True)
class Portion:
    """Values of one name: those sequences, those steps. values: (sequences, steps, units), float32 or float64."""

    sequences: range
    steps: range
    values: NDArray[Any]


def extent(trace: Trace, names: Sequence[str]) -> tuple[int, int]:
    """B and T of some recorded names.

    Raises:
        ValueError: there are none, one was not recorded, or they are not equally many sequences and steps.
    """
    if isinstance(names, str) or not names:
        raise ValueError(f"names: given {names!r}, expected a list of one recorded name or more")
    found: dict[tuple[int, int], str] = {}
    for name in names:
        if name not in trace:
            raise ValueError(f"names: {name!r} was not recorded; the trace has {', '.join(trace) or 'nothing'}")
        whole = trace._source.form(name).whole(name)
        found.setdefault((len(whole.sequences), len(whole.steps)), name)
    if len(found) > 1:
        told = " and ".join(f"{name!r} has {b} sequences of {t} steps" for (b, t), name in found.items())
        raise ValueError(f"names: they cannot be looked at together: {told}")
    return next(iter(found))


def width(trace: Trace, name: str) -> int:
    """How many units a recorded name has."""
    return trace._source.form(name).units


def checked_lengths(trace: Trace, names: Sequence[str], lengths: Sequence[int] | None) -> Numbers:
    """The steps of each sequence, (B,): those given, else those that the trace knows, else all.

    Raises:
        ValueError: they are not one for each sequence, or longer than the recording.
    """
    sequences, steps = extent(trace, names)
    if lengths is None:
        known = trace.lengths(names[0])
        return np.full(sequences, steps, np.int64) if known is None else known.cpu().numpy().astype(np.int64)
    given = np.asarray(lengths, dtype=np.int64)
    if given.shape != (sequences,) or (given < 0).any() or (given > steps).any():
        raise ValueError(
            f"lengths: given {given.tolist()}, expected {sequences} numbers of steps, one a sequence, from 0 to {steps}"
        )
    return given


def values_of(trace: Trace, name: str, region: Region) -> NDArray[Any]:
    """A part of a recorded name without its graph, float32 or float64."""
    values = layout.as_array(trace._source.values(name, region))
    # A threshold is compared in the precision of the values, and half of one would be another threshold.
    return values if values.dtype.itemsize >= 4 else values.astype(np.float32)


def portions(trace: Trace, name: str, units: Sequence[int] | None = None) -> Iterator[Portion]:
    """All of a recorded name, a few thousand steps at a time, which begin where the chunks of a stored trace do.

    Args:
        trace: what is read.
        name: of a state or gate.
        units: which units; all if omitted.
    """
    sequences, steps = extent(trace, [name])
    together, length = _size(trace, name)
    wanted = range(width(trace, name)) if units is None else compact(list(units))
    for first in range(0, sequences, together):
        rows = range(first, min(first + together, sequences))
        for start in range(0, steps, length):
            part = range(start, min(start + length, steps))
            yield Portion(rows, part, values_of(trace, name, Region(rows, part, wanted)))


def count(trace: Trace, names: Sequence[str]) -> int:
    """How many portions some recorded names are read in."""
    total = 0
    for name in names:
        sequences, steps = extent(trace, [name])
        together, length = _size(trace, name)
        total += -(-sequences // together) * -(-steps // length)
    return total


def _size(trace: Trace, name: str) -> tuple[int, int]:
    """Sequences and steps of a portion."""
    form = trace._source.form(name)
    together, length = layout.chunk_shape(form.batches[0], None, form.units * layout.stored_dtype(form.dtype).itemsize)
    return together, CHUNKS * length
