"""What only a GPU can show of the Triton kernels: real sizes, races, graphs, streams, and when they are compiled.

Programs that wait for each other run at the same time only there, and only there are products tf32.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import against_reference as reference
import rounding
from against_reference import Case, Tensors, Values, drawn, uneven_lengths
from by_triton import MODES, assert_within, by_triton, call_of, incoming, launch
from unrolled.recurrence.call import Call

pytestmark = pytest.mark.gpu
modes = pytest.mark.parametrize("mode", MODES)

WIDTHS = [64, 100, 256, 512, 768, 1024]
BATCHES = [1, 16, 37, 128]


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Products of float32 in tf32, or exact."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if on else "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def case_of(mode: str, width: int, batch: int, steps: int) -> Case:
    """Directions, lengths and resets by turns."""
    number = MODES.index(mode) + WIDTHS.index(width) + BATCHES.index(batch)
    lengths = uneven_lengths(steps, batch) if number % 3 == 0 else None
    return Case(mode, steps, batch, 24, width, number % 2 == 1, lengths, number % 5 > 0, number % 4 == 0)


def assert_exact_near(case: Case) -> None:
    """In float32 with exact products."""
    exact, bounds = reference.expected(case)
    with tf32(False):
        found = by_triton(case, drawn(case), device="cuda")
    assert_within(case, found, exact, {name: max(5e-6, 8 * bound) for name, bound in bounds.items()})


def assert_rounded_near(case: Case, tensors: Tensors, kind: str) -> None:
    """In tf32, bf16 or fp16, as near as the reference comes that is rounded in the same places."""
    if kind == "tf32":
        dtype, rounded, unit = torch.float32, rounding.TF32, 2.0**-10
    else:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[kind]
        rounded, unit = rounding.to_nearest(dtype), torch.finfo(dtype).eps / 2
        tensors = rounding.in_dtype(tensors, dtype)
    exact, bounds = rounding.expected(case, tensors, rounded, unit, stored=kind != "tf32")
    with tf32(kind == "tf32"):
        assert_within(case, by_triton(case, tensors, dtype, "cuda"), exact, bounds)


@modes
@pytest.mark.parametrize("width", WIDTHS)
def test_float32_matches_the_reference_at_real_sizes(mode: str, width: int) -> None:
    for batch in (1, 37):
        assert_exact_near(case_of(mode, width, batch, 12))


@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
def test_two_hundred_steps_match_the_reference(mode: str) -> None:
    for width, batch in [(64, 128), (100, 16), (256, 37)]:
        assert_exact_near(case_of(mode, width, batch, 200))


@modes
@pytest.mark.parametrize("kind", ["tf32", "bf16", "fp16"])
def test_rounded_products_are_as_near_as_rounding_allows(mode: str, kind: str) -> None:
    for width, batch in [(64, 128), (100, 1), (256, 16), (512, 37), (768, 16), (1024, 37)]:
        case = case_of(mode, width, batch, 12)
        assert_rounded_near(case, drawn(case), kind)


@pytest.mark.slow
@modes
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["tf32", "bf16", "fp16"])
def test_all_real_sizes_match_the_reference(mode: str, width: int, kind: str) -> None:
    for batch in BATCHES:
        case = case_of(mode, width, batch, 200)
        assert_exact_near(case)
        assert_rounded_near(case, drawn(case), kind)


class Both:
    """A call of both kernels on a GPU, again and again: into the same tensors where a graph replays it."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.bfloat16, device: str = "cuda") -> None:
        tensors = drawn(case)
        self.call: Call = call_of(case, tensors, dtype, device)
        self.grads = incoming(self.call, tensors.weighing)

    def __call__(self) -> list[Tensor]:
        result = launch.forward(self.call, keep=True)
        kept = (result.output, result.cells, result.gates)
        found = launch.backward(self.call, kept, self.grads, need_x=True, need_weights=True, need_totals=True)
        return [tensor for tensor in (*result, *found) if tensor is not None]


# Programs that meet; several groups of sequences for one program; weights that are read at each step.
RACING = [("LSTM", 256, 37), ("GRU", 512, 16), ("LSTM", 1024, 128), ("RNN_TANH", 100, 128), ("LSTM_ZONEOUT", 768, 37)]


@pytest.mark.parametrize(("mode", "width", "batch"), RACING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_fifty_runs_hold_the_same_bits(mode: str, width: int, batch: int, dtype: torch.dtype) -> None:
    both = Both(case_of(mode, width, batch, 100), dtype)
    first = both()
    for _ in range(50):
        for one, other in zip(first, both(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
def test_a_cuda_graph_replays_the_call_on_new_numbers(mode: str) -> None:
    both = Both(case_of(mode, 256, 37, 20))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        both()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    for _ in range(3):
        both.call.x.normal_()
        graph.replay()
        torch.cuda.synchronize()
        for one, other in zip(captured, both(), strict=True):
            torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)  # large products may be summed otherwise


@pytest.mark.parametrize("mode", ["GRU", "LSTM"])
def test_a_side_stream_computes_after_what_stands_before_it_there(mode: str) -> None:
    both = Both(case_of(mode, 256, 16, 20))
    expected = [tensor.clone() for tensor in both()]
    x = both.call.x.clone()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        both.call.x.fill_(float("nan"))
        torch.cuda._sleep(100_000_000)
        both.call.x.copy_(x)
        found = both()
    side.synchronize()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_two_streams_at_the_same_time_do_not_disturb_each_other() -> None:
    """Programs of two launches that fill the GPU: neither may wait for the other for ever."""
    calls = [Both(case_of(mode, 1024, 128, 50)) for mode in ("LSTM", "GRU")]
    expected = [[tensor.clone() for tensor in both()] for both in calls]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in calls]
    found: list[list[Tensor]] = [[] for _ in calls]
    for _ in range(5):
        for number, (both, stream) in enumerate(zip(calls, streams, strict=True)):
            with torch.cuda.stream(stream):
                found[number] = both()
    torch.cuda.synchronize()
    for one, other in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two GPUs")
def test_the_second_gpu_computes_what_the_first_does() -> None:
    case = case_of("LSTM", 256, 37, 20)
    first, second = Both(case, device="cuda:0")(), Both(case, device="cuda:1")()
    for one, other in zip(first, second, strict=True):
        assert other.device.index == 1
        assert torch.equal(one.cpu(), other.cpu())


def kernels_compiled() -> int:
    return sum(
        len(cache[0])
        for kernel in (launch.forward_kernel, launch.backward_kernel)
        for cache in kernel.device_caches.values()
    )


@modes
def test_nothing_is_compiled_for_another_length_or_batch(mode: str) -> None:
    def run(steps: int, batch: int) -> Values:
        case = Case(mode, steps, batch, 24, 96, lengths=uneven_lengths(steps, batch), reset=True)
        return by_triton(case, drawn(case), device="cuda")

    run(7, 5)
    before: Any = kernels_compiled()
    assert before >= 2
    for steps, batch in [(1, 1), (16, 16), (3, 130), (33, 17)]:
        run(steps, batch)
    assert kernels_compiled() == before
