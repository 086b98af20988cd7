"""Compiles the Triton kernels for GPUs that need not be there, as `launch` would: a program of its own.

Triton is told that its GPU is another one, tensors on the CPU say that they are on a GPU, and kernels are compiled and
not run. `python compile_ahead.py` reads calls and writes what was compiled, as JSON; see `Asked`.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from typing import Any, NamedTuple

os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from against_reference import Case, drawn
from by_triton import call_of, incoming
from unrolled.recurrence.gpu import launch
from unrolled.recurrence.gpu.shares import Processors

# By compute capability: H100, A100, RTX 3060.
DEVICES = {90: Processors(132, 232448), 80: Processors(108, 166912), 86: Processors(28, 101376)}


class Asked(NamedTuple):
    """One call.

    Attributes:
        offset: numbers by which the caller's tensors begin after an address that is a multiple of 16 bytes.
        strides: whether the gradient of the output and masks have rows apart.
        compiles: whether kernels are compiled, or only what they would be compiled for is told apart.
    """

    mode: str
    steps: int
    batch: int
    hidden: int
    dtype: str = "bfloat16"
    capability: int = 90
    precision: str = "tf32"
    lengths: bool = False
    reset: bool = False
    keep: bool = True
    offset: int = 0
    strides: bool = False
    compiles: bool = True


class OnGpu(Tensor):
    """A tensor on the CPU that says it is on a GPU."""

    is_cuda = True
    is_cpu = False


class Driver:
    """Of a GPU that is not there."""

    def __init__(self) -> None:
        self.capability = 90

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps what it compiled for each device apart

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """In the place of a kernel: what a launch would compile, and how much shared memory that takes."""

    def __init__(self, kernel: Any, found: list[dict[str, Any]]) -> None:
        self.kernel, self.found, self.compiles = kernel, found, True

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        return lambda **arguments: self.launched(grid, arguments)

    def launched(self, grid: tuple[int, int], arguments: dict[str, Any]) -> None:
        keys: list[str] = []

        def told(*, key: str, **_: Any) -> bool:
            keys.append(key)
            return not self.compiles

        # Triton compiles only what it has not yet: what a key stands for is seen each time.
        triton.runtime.driver.active.get_current_device()
        self.kernel.device_caches.clear()
        triton.knobs.runtime.jit_cache_hook = told
        compiled = self.kernel.run(grid=grid, warmup=True, **arguments)
        (key,) = keys
        shared = None if compiled is None else compiled.metadata.shared
        ptx = "" if compiled is None else compiled.asm["ptx"]
        name = self.kernel.__name__
        self.found.append(
            {"kernel": name, "key": key, "shared": shared, "meets": arguments["MEETS"], "grid": grid, "ptx": ptx}
        )


def moved(tensor: Any, offset: int) -> Any:
    """The same numbers, said to be on a GPU, `offset` of them after an address that is a multiple of 16 bytes."""
    if not isinstance(tensor, Tensor):
        return tensor
    count = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    around = torch.zeros(count + offset + 64, dtype=tensor.dtype)
    first = -around.data_ptr() % 64 // tensor.element_size() + offset
    return around[first:].as_strided(tensor.shape, tensor.stride()).as_subclass(OnGpu)


def with_rows_apart(tensor: Any) -> Any:
    if not isinstance(tensor, Tensor) or tensor.dim() != 3:
        return tensor
    wide = torch.zeros((*tensor.shape[:2], tensor.size(2) + 5), dtype=tensor.dtype)
    return wide[..., : tensor.size(2)]


def compiled(
    asked: Asked, driver: Driver, kernels: list[Compiled], found: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What both kernels of a call would be compiled for, and how much shared memory they take."""
    found.clear()
    driver.capability = asked.capability
    for kernel in kernels:
        kernel.compiles = asked.compiles
    launch._processors = lambda device: DEVICES[asked.capability]
    launch._precision = lambda x: asked.precision
    lengths = tuple(min(b, asked.steps) for b in range(asked.batch)) if asked.lengths else None
    case = Case(asked.mode, asked.steps, asked.batch, 3, asked.hidden, lengths=lengths, reset=asked.reset)
    tensors = drawn(case)
    call = call_of(case, tensors, getattr(torch, asked.dtype), "cpu")
    grads = incoming(call, tensors.weighing)
    masks, output = call.masks, grads[0]
    if asked.strides:
        masks, output = tuple(map(with_rows_apart, masks)), with_rows_apart(output)

    def placed(tensor: Any) -> Any:
        return moved(tensor, asked.offset)

    call = call._replace(**{name: placed(value) for name, value in call._asdict().items() if isinstance(value, Tensor)})
    call = call._replace(extras=tuple(map(placed, call.extras)), masks=tuple(map(placed, masks)))
    result = launch.forward(call, keep=asked.keep)
    if asked.keep:
        kept = (result.output, result.cells, result.gates)
        grads = tuple(map(placed, (output, *grads[1:])))
        launch.backward(call, kept, grads, need_x=False, need_weights=False, need_totals=False)
    return list(found)


def main() -> None:
    driver, found = Driver(), []
    triton.runtime.driver.set_active(driver)
    torch.cuda.device = lambda device: nullcontext()
    kernels = [Compiled(kernel, found) for kernel in (launch.forward_kernel, launch.backward_kernel)]
    launch.forward_kernel, launch.backward_kernel = kernels
    asked = [Asked(**one) for one in json.load(sys.stdin)]
    json.dump([compiled(one, driver, kernels, found) for one in asked], sys.stdout)


if __name__ == "__main__":
    main()
