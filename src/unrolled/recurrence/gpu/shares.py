"""How one call is shared out among the programs of a Triton kernel."""

from __future__ import annotations

from typing import NamedTuple

import torch

from unrolled.recurrence.call import KERNELS
from unrolled.recurrence.cells import CELLS


class Processors(NamedTuple):
    """What a device has: multiprocessors, and the bytes of shared memory that one program can have."""

    multiprocessors: int
    shared_memory: int


class Shares(NamedTuple):
    """How one call is shared out.

    Attributes:
        rows: sequences that a program takes at a time.
        units: hidden units of a program, all of whose gates it computes.
        block_k: units, of all programs, that are multiplied with at a time.
        resident: how many blocks of so many units' weights a program holds during all steps: all of them, or none, and
            it then reads them at each step.
        slices: programs that have the same sequences and all units between them.
        groups: of `rows` sequences.
        columns: programs that have the same units; where there are more groups, each takes several in turn.
        stages: of the compiler's pipeline: what is read for the next turn is on its way meanwhile.
    """

    rows: int
    units: int
    block_k: int
    resident: int
    slices: int
    groups: int
    columns: int
    stages: int


# A tensor core takes at least 16 rows and 16 columns.
LEAST = 16
# Bytes of a row of a block that is multiplied with at a time; less where products are exact, which unroll into many
# instructions.
_ROW, _EXACT_ROW = 256, 128
# Bytes of shared memory for changes of layout; what a mask is put on before it is multiplied changes its own too.
_SPARE, _SPARE_FOR_MASK = 4 << 10, 28 << 10


def share_out(
    mode: str, width: int, batch: int, dtype: torch.dtype, precision: str, processors: Processors, *, passed: int
) -> Shares:
    """The shares of a call; what is compiled depends on the cell, H, the dtype and the device, never on T or B.

    Args:
        mode: of the cell.
        width: H.
        batch: B.
        dtype: of what is multiplied.
        precision: of the products, as Triton names it.
        processors: of the device. At most so many programs are made: those that meet have to run at the same time.
        passed: blocks of H numbers that pass from program to program at a step.
    """
    padded = max(LEAST, 1 << (width - 1).bit_length())
    # Exact products of float32 are no work for tensor cores: they take weights a few at a time, from the cache.
    exact = precision == "ieee"
    block_k = min(padded, (_EXACT_ROW if exact else _ROW) // dtype.itemsize)
    blocks, rows = -(-width // block_k), KERNELS[mode].rows
    of_all = blocks * block_k * dtype.itemsize
    free = processors.shared_memory - (_SPARE_FOR_MASK if "hidden" in CELLS[mode].masks else _SPARE)
    room = 0 if exact else free - passed * LEAST * of_all
    units = min(padded, 32 if width <= 512 else LEAST)
    while units > LEAST and rows * units * of_all > room and not exact:
        units //= 2
    held = rows * units * of_all <= room
    while -(-width // units) > processors.multiprocessors:
        units, held = 2 * units, False
    # Two blocks of what is read are on their way at a time.
    of_a_column = 2 * (rows * units + passed * LEAST) * dtype.itemsize
    while not held and block_k > LEAST and block_k * of_a_column > free:
        block_k //= 2
    slices, groups = -(-width // units), -(-batch // LEAST)
    columns = max(1, min(groups, processors.multiprocessors // slices))
    resident, stages = (blocks, 2) if held else (0, 3)
    return Shares(LEAST, units, block_k, resident, slices, groups, columns, stages)
