"""How a recording is laid out: names of groups and dimensions, chunks, codecs, and dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.source import Source, layer_of, state_of

# The number of this layout; one that differs is not read.
FORMAT = 1
# About what one chunk holds before compression: enough to be read in one go, little enough to be read for one step.
CHUNK_BYTES = 4 * 2**20
# How many chunks the sequences of a long recording are cut into, so that one of them is read without the others.
CUTS = 4

TAKEN, RESET, LENGTHS = "taken", "reset", "lengths"
SEQUENCE, STEP, UNIT, OUTPUT_UNIT = "sequence", "step", "unit", "output_unit"
# The group of the lows and highs of blocks of steps, and the dimension of the two.
EXTREMES, BOUND = "extremes", "bound"


def node(layer: str) -> str:
    """A layer's name as that of a group, in which a slash would be another level."""
    return layer.replace("%", "%25").replace("/", "%2F")


def initial_variable(state: str) -> str:
    """The variable that holds a state before the first step."""
    return f"initial_{state}"


def extremes_variable(state: str, span: int) -> str:
    """The variable, in the group `extremes`, that holds the lows and highs of a state in blocks of `span` steps."""
    return f"{state}_{span}"


def block_dimension(span: int) -> str:
    """The dimension of blocks of `span` steps."""
    return f"block_{span}"


def unit_dimension(state: str, *, projected: bool) -> str:
    """The last dimension of a state or gate."""
    return OUTPUT_UNIT if projected and state == "hidden" else UNIT


def layer_labels(source: Source, layer: str, names: Sequence[str]) -> dict[str, Sequence[int]]:
    """The coordinates of the dimensions of one layer's variables, of which `names` are recorded."""
    projected = source.projected(layer)
    regions = {state_of(name): source.labels(name) for name in names}
    first = next(iter(regions.values()))
    labels: dict[str, Sequence[int]] = {SEQUENCE: first.sequences, STEP: first.steps}
    for state, region in regions.items():
        labels[unit_dimension(state, projected=projected)] = region.units
    for name in initial_of(source, layer):
        dimension = unit_dimension(state_of(name), projected=projected)
        if dimension not in labels:
            labels[dimension] = range(source.initial(name).size(-1))
    return labels


def initial_of(source: Source, layer: str) -> list[str]:
    """The states of one layer whose values before the first step are known."""
    return [name for name in source.initial_names if layer_of(name) == layer]


def chunk_shape(batch: int, steps: int | None, step_bytes: int) -> tuple[int, int]:
    """Sequences and steps of a chunk of about `CHUNK_BYTES`.

    Args:
        batch: B.
        steps: T if it is known.
        step_bytes: the size of one step of one sequence, all units.
    """
    rows = max(1, CHUNK_BYTES // step_bytes)
    if steps is not None and batch * steps <= rows:
        return batch, max(1, steps)
    sequences = min(-(-batch // CUTS), rows)
    length = max(1, rows // sequences)
    if steps is not None and steps < length:
        length = max(1, steps)
        sequences = min(batch, rows // length)
    return sequences, length


def extremes_chunk_shape(batch: int, blocks: int | None, block_bytes: int) -> tuple[int, int]:
    """Sequences and blocks of a chunk of lows and highs: one sequence, unless its chunks would be tiny.

    Args:
        batch: B.
        blocks: their number if it is known.
        block_bytes: the size of the lows and highs of one block of one sequence, all units.
    """
    # While it is written a row of chunks of all sequences is in memory.
    length = max(1, min(CHUNK_BYTES // block_bytes, CUTS * CHUNK_BYTES // (batch * block_bytes)))
    if blocks is not None:
        length = min(length, blocks)
    return min(batch, max(1, CHUNK_BYTES // 16 // (length * block_bytes))), length


def create(group: Any, name: str, dimensions: Sequence[str], **options: Any) -> Any:
    """An array with a checksum in each chunk; every chunk is written, so that one that is missing is noticed."""
    from zarr.codecs import ZstdCodec

    return group.create_array(
        name,
        dimension_names=dimensions,
        compressors=ZstdCodec(level=1, checksum=True),
        config={"write_empty_chunks": True},
        **options,
    )


def as_array(values: Tensor) -> np.ndarray[Any, Any]:
    """Values without their graph on the CPU; bfloat16, which NumPy lacks, as float32."""
    values = values.detach().cpu()
    return (values.float() if values.dtype is torch.bfloat16 else values).numpy()


def stored_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The dtype in which values are stored."""
    stored: np.dtype[Any] = as_array(torch.empty(0, dtype=dtype)).dtype
    return stored
