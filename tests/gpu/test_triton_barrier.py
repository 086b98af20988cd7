"""Programs of one launch that wait for each other after each step, each a process of its own.

Triton's interpreter runs one program after another, so no launch of it can have programs that wait. Here every program
is run by the interpreter of another process, on memory that all of them share.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor, multiprocessing

import against_reference as reference
import one_program
from against_reference import Case, uneven_lengths
from by_triton import ON_GPU, assert_within, by_triton, launch

pytestmark = pytest.mark.skipif(ON_GPU, reason="programs of a GPU's kernels are not run by processes")

SECONDS = 120  # a program that waits for ever is ended, and the test fails
CASES = [
    Case("LSTM", 4, 19, 2, 37, lengths=uneven_lengths(4, 19), reset=True),
    Case("GRU", 3, 3, 2, 33, reverse=True),
]


class AtOnce:
    """In the place of a kernel: all programs of a grid in one launch over all steps, by processes.

    Attributes:
        launches: the kernel, and how many programs it had, of each launch.
    """

    def __init__(
        self, kernel: str, launches: list[tuple[str, int]], *, meets: bool = True, one_by_one: bool = False
    ) -> None:
        self.kernel, self.launches, self.meets, self.one_by_one = kernel, launches, meets, one_by_one

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        return lambda **arguments: self.launched(grid, arguments)

    def launched(self, grid: tuple[int, int], arguments: dict[str, Any]) -> None:
        if arguments["first"] > 0:
            return  # all steps were taken in the first launch
        arguments = arguments | {"count": arguments["steps"], "MEETS": self.meets}
        shared = {name: in_shared_memory(value) for name, value in arguments.items()}
        # A process that has imported all this, from which each program's is forked.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "triton", "unrolled.recurrence.gpu.launch"])
        places = [(x, y) for x in range(grid[0]) for y in range(grid[1])]
        self.launches.append((self.kernel, len(places)))
        processes = [
            context.Process(target=one_program.run, args=(self.kernel, grid, place, shared)) for place in places
        ]
        ended = time.monotonic() + SECONDS
        try:
            for process in processes:
                process.start()
                if self.one_by_one:
                    process.join(SECONDS)
            for process in processes:
                process.join(max(0.0, ended - time.monotonic()))
            codes = [process.exitcode for process in processes]
            assert None not in codes, "a program waited for ever"
            assert codes == [0] * len(processes), "a program failed"
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
        for name, value in shared.items():
            if isinstance(value, Tensor):
                arguments[name].copy_(value)


def in_shared_memory(value: Any) -> Any:
    """A copy with the same strides in memory that processes share, of a tensor; else the value itself."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).copy_(value).share_memory_()


def put_in_place(monkeypatch: pytest.MonkeyPatch, **how: bool) -> list[tuple[str, int]]:
    launches: list[tuple[str, int]] = []
    for kernel in ("forward", "backward"):
        monkeypatch.setattr(launch, f"{kernel}_kernel", AtOnce(kernel, launches, **how))
    return launches


@pytest.mark.parametrize("case", CASES, ids=str)
def test_programs_that_meet_after_each_step_match_the_reference(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = put_in_place(monkeypatch)
    exact, bounds = reference.expected(case)
    assert_within(case, by_triton(case, reference.drawn(case)), exact, bounds)
    assert [kernel for kernel, _ in launches] == ["forward", "backward"]
    assert all(programs > 1 for _, programs in launches)


def test_the_others_wait_for_a_program_that_is_late_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_program, "run", with_a_late_first)
    put_in_place(monkeypatch)
    exact, bounds = reference.expected(CASES[1])
    assert_within(CASES[1], by_triton(CASES[1], reference.drawn(CASES[1])), exact, bounds)


def test_programs_that_do_not_wait_for_each_other_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, meets=False, one_by_one=True)
    exact, bounds = reference.expected(CASES[1])
    with pytest.raises(AssertionError, match="relative error"):
        assert_within(CASES[1], by_triton(CASES[1], reference.drawn(CASES[1])), exact, bounds)


def test_a_program_whose_neighbour_does_not_come_is_ended_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a barrier which never opens fails the tests above."""
    monkeypatch.setattr("test_triton_barrier.SECONDS", 4)
    monkeypatch.setattr(one_program, "run", without_the_first)
    put_in_place(monkeypatch)
    with pytest.raises(AssertionError, match="waited for ever"):
        by_triton(CASES[1], reference.drawn(CASES[1]))


RUN = one_program.run


def without_the_first(kernel: str, grid: tuple[int, int], place: tuple[int, int], arguments: dict[str, Any]) -> None:
    if place != (0, 0):
        RUN(kernel, grid, place, arguments)


def with_a_late_first(kernel: str, grid: tuple[int, int], place: tuple[int, int], arguments: dict[str, Any]) -> None:
    """The first program sleeps where the threads of a program would wait for each other: before and after it meets."""
    from triton.runtime.interpreter import interpreter_builder

    if place == (0, 0):
        interpreter_builder.create_barrier = lambda: time.sleep(0.1)
    RUN(kernel, grid, place, arguments)
