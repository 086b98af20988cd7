"""How a call of the Triton kernels is shared out, over all cells, sizes and dtypes and several devices."""

from __future__ import annotations

import itertools

import pytest
import torch

from by_triton import MODES
from unrolled.recurrence.call import KERNELS
from unrolled.recurrence.gpu.shares import LEAST, Processors, Shares, share_out

# Multiprocessors, and bytes of shared memory for one program.
DEVICES = {
    "H100": Processors(132, 232448),
    "A100": Processors(108, 166912),
    "RTX3060": Processors(28, 101376),
    "one": Processors(1, 49152),
    "none": Processors(1, 0),
    "interpreter": Processors(4, 64 << 10),
}
DTYPES = [(torch.float32, "ieee"), (torch.float32, "tf32"), (torch.bfloat16, "tf32"), (torch.float16, "tf32")]
WIDTHS = [*range(1, 70), 100, 127, 128, 129, 255, 256, 257, 300, 511, 512, 513, 700, 768, 769, 1000, 1023, 1024]
BATCHES = [1, 15, 16, 17, 32, 37, 128, 129, 1000]

on_devices = pytest.mark.parametrize("device", DEVICES)
modes = pytest.mark.parametrize("mode", MODES)


def shares(mode: str, device: str, width: int, dtype: torch.dtype, precision: str, batch: int, passed: int) -> Shares:
    return share_out(mode, width, batch, dtype, precision, DEVICES[device], passed=passed)


@on_devices
@modes
def test_every_unit_and_every_sequence_has_one_program(mode: str, device: str) -> None:
    for width, (dtype, precision), batch in itertools.product(WIDTHS, DTYPES, (1, 16, 17, 1000)):
        found = shares(mode, device, width, dtype, precision, batch, KERNELS[mode].rows)
        assert (found.slices - 1) * found.units < width <= found.slices * found.units
        assert (found.groups - 1) * found.rows < batch <= found.groups * found.rows
        assert 1 <= found.columns <= found.groups


@on_devices
@modes
def test_programs_that_meet_can_run_at_the_same_time(mode: str, device: str) -> None:
    for width, (dtype, precision), batch in itertools.product(WIDTHS, DTYPES, BATCHES):
        found = shares(mode, device, width, dtype, precision, batch, KERNELS[mode].rows)
        assert found.slices * found.columns <= DEVICES[device].multiprocessors


@on_devices
@modes
def test_tiles_are_powers_of_two_that_tensor_cores_take(mode: str, device: str) -> None:
    for width, (dtype, precision), passed in itertools.product(WIDTHS, DTYPES, (1, KERNELS[mode].rows)):
        found = shares(mode, device, width, dtype, precision, 20, passed)
        for size in (found.rows, found.units, found.block_k):
            assert size >= LEAST == 16
            assert size & (size - 1) == 0
        if found.resident:
            assert found.resident * found.block_k >= width


@on_devices
@modes
def test_of_what_is_compiled_nothing_depends_on_the_batch(mode: str, device: str) -> None:
    for width, (dtype, precision) in itertools.product(WIDTHS, DTYPES):
        found = {
            shares(mode, device, width, dtype, precision, batch, 1)._replace(groups=0, columns=0) for batch in BATCHES
        }
        assert len(found) == 1


@modes
def test_weights_are_only_held_where_they_fit(mode: str) -> None:
    for device, width, (dtype, precision) in itertools.product(DEVICES, WIDTHS, DTYPES):
        found = shares(mode, device, width, dtype, precision, 20, KERNELS[mode].rows)
        if found.resident:
            held = KERNELS[mode].rows * found.units * found.resident * found.block_k * dtype.itemsize
            assert held < DEVICES[device].shared_memory
            assert precision != "ieee"


def test_known_shares() -> None:
    """Of an LSTM in bfloat16 on an H100."""
    found = share_out("LSTM", 256, 32, torch.bfloat16, "tf32", DEVICES["H100"], passed=1)
    assert (found.rows, found.units, found.slices, found.groups, found.columns) == (16, 32, 8, 2, 2)
    assert found.resident * found.block_k == 256
