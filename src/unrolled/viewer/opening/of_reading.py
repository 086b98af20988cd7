"""A recording and the reading beside it, put together as what is looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.readings import Reading
from unrolled.trace import Trace
from unrolled.viewer.recorded import Characters, Label, Recorded, Values, trace_shape

# Inputs wider than this that have no names are not shown: nobody would read them.
_MOST_CHANNELS = 32

_Unit = Literal["D", "m", "s", "ms", "us", "ns"]


def recorded_of(
    trace: Trace,
    reading: Reading,
    *,
    title: str,
    model: Callable[[], nn.Module] | None = None,
    path: Path | None = None,
) -> Recorded:
    """What is looked at, of a recording and what was read meanwhile.

    Args:
        trace: the recording.
        reading: what was read; its meaning need not be known.
        title: used where the reading has none.
        model: loads the network.
        path: the recording's directory.

    Raises:
        ValueError: the reading is not one of this recording; says what does not fit.
    """
    batch, steps = trace_shape(trace)
    if tuple(reading.inputs.shape[:2]) != (batch, steps):
        given = " x ".join(map(str, reading.inputs.shape[:2]))
        raise ValueError(
            f"inputs: {given} steps were read, and {batch} x {steps} were recorded; give those of this trace"
        )
    lengths = tuple(reading.lengths.tolist()) if reading.lengths is not None else own_lengths(trace)
    meaning = reading.meaning
    names = meaning.names if meaning is not None else {}
    return Recorded(
        title=meaning.title if meaning is not None else title,
        trace=trace,
        lengths=lengths,
        read=_read(reading, lengths),
        labels=tuple(Label(name, _whole(values), names.get(name)) for name, values in reading.labels.items()),
        inputs=reading.inputs,
        targets=_targets(reading),
        reset=reading.reset,
        outputs=meaning.outputs if meaning is not None else (),
        model=model,
        loss=meaning.loss if meaning is not None else None,
        readout=meaning.readout if meaning is not None else "every",
        path=path,
    )


def own_lengths(trace: Trace) -> tuple[int, ...]:
    """The steps of each sequence as a recording tells."""
    batch, steps = trace_shape(trace)
    found = trace.lengths(next(iter(trace)))
    return (steps,) * batch if found is None else tuple(found.tolist())


def shown(inputs: Tensor) -> Values | None:
    """Inputs (B, T, I) as they are, where there are few enough to be looked at; None of whole numbers."""
    if inputs.dim() != 3 or inputs.size(2) > _MOST_CHANNELS:
        return None
    return Values(inputs.float().numpy(), tuple(f"input {number}" for number in range(inputs.size(2))))


def _read(reading: Reading, lengths: tuple[int, ...]) -> Characters | Values | None:
    meaning = reading.meaning
    if meaning is not None and meaning.signs is not None and reading.symbols is not None:
        rows = zip(reading.symbols.tolist(), lengths, strict=True)
        return Characters(tuple("".join(meaning.signs[symbol] for symbol in row[:length]) for row, length in rows))
    if reading.values is None:
        return shown(reading.inputs)
    channels = meaning.channels if meaning is not None else ()
    if len(channels) != reading.values.size(2):
        channels = tuple(f"input {number}" for number in range(reading.values.size(2)))
    times = None if reading.times is None else spelt(reading.times, lengths)
    return Values(reading.values.float().numpy(), channels, times)


def spelt(times: Tensor, lengths: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
    """Times (B, T) in nanoseconds since 1970, each in as many figures as all of them need."""
    whole: NDArray[np.datetime64] = times.numpy().astype("datetime64[ns]")
    # An hour alone would read as a number.
    units: tuple[_Unit, ...] = ("D", "m", "s", "ms", "us", "ns")
    unit = next(unit for unit in units if (whole.astype(f"datetime64[{unit}]") == whole).all())
    rows = np.char.replace(np.datetime_as_string(whole, unit=unit), "T", " ").tolist()
    return tuple(tuple(row[:length]) for row, length in zip(rows, lengths, strict=True))


def _targets(reading: Reading) -> Tensor | None:
    """What each output should be, in the form that `Recorded` has it."""
    meaning, targets, scored = reading.meaning, reading.targets, reading.scored
    if meaning is None or targets is None:
        return None
    if meaning.loss == "classes":
        return targets if scored is None else torch.where(scored, targets, -1)
    if scored is not None:
        targets = torch.where(scored, targets, torch.nan)
    if meaning.kind == "series":
        # A network answers with the change from the step's own value; targets: (B, T, horizon, K) are first columns.
        targets = targets - reading.inputs[..., : targets.size(-1)].unsqueeze(2)
    return targets.reshape(*targets.shape[:2], len(meaning.outputs))


def _whole(values: Tensor) -> NDArray[np.int64]:
    found: NDArray[np.int64] = values.numpy().astype(np.int64)
    return found
