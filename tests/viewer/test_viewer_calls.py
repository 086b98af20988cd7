"""What is known of calls stays bounded, in number and in time."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from unrolled.viewer.serving.calls import Failed, QuickCalls, SlowCalls
from unrolled.viewer.serving.packing import unpack

Tell = Callable[[int, int], None]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slow(clock: Clock) -> Iterator[SlowCalls]:
    slow = SlowCalls(clock)
    yield slow
    slow.close()


def settle(slow: SlowCalls, name: str) -> None:
    end = time.monotonic() + 20
    while slow.progress(name)["state"] in ("waiting", "running"):
        assert time.monotonic() < end
        time.sleep(0.002)


def echo(asked: dict[str, Any], tell: Tell) -> Any:
    return asked


def test_result_is_forgotten_after_ten_minutes(slow: SlowCalls, clock: Clock) -> None:
    name = slow.begin(echo, {"a": 1})
    settle(slow, name)
    clock.now = 600
    assert unpack(slow.result(name)) == {"a": 1}
    clock.now = 601
    with pytest.raises(Failed, match="there is no call") as raised:
        slow.result(name)
    assert raised.value.status == 404


def test_oldest_result_makes_room_and_the_newest_32_stay(slow: SlowCalls, clock: Clock) -> None:
    names = []
    for i in range(40):
        clock.now = i
        names.append(slow.begin(echo, {"i": i}))
        settle(slow, names[-1])
    assert [unpack(slow.result(name))["i"] for name in names[8:]] == list(range(8, 40))
    with pytest.raises(Failed):
        slow.result(names[7])


def test_running_and_waiting_calls_are_never_forgotten_and_a_33rd_is_refused(slow: SlowCalls, clock: Clock) -> None:
    gate = threading.Event()

    def wait(asked: dict[str, Any], tell: Tell) -> None:
        assert gate.wait(20)

    names = [slow.begin(wait, {}) for _ in range(32)]
    clock.now = 10_000
    with pytest.raises(Failed, match="32 calls wait already"):
        slow.begin(wait, {})
    slow.cancel(names[-1])
    slow.begin(wait, {})
    gate.set()
    settle(slow, names[0])
    assert slow.progress(names[0]) == {"state": "done", "done": 0, "of": 0, "seconds": 10_000.0}


def test_cancelling_is_not_held_up_by_a_method_that_catches_every_exception(slow: SlowCalls) -> None:
    gate, turns = threading.Event(), []

    def stubborn(asked: dict[str, Any], tell: Tell) -> int:
        assert gate.wait(20)
        for i in range(3):
            try:
                turns.append(i)
                tell(i, 3)
            except Exception:
                pass
        return 1

    name = slow.begin(stubborn, {})
    slow.progress(name)
    while slow.progress(name)["state"] == "waiting":
        time.sleep(0.002)
    slow.cancel(name)
    gate.set()
    settle(slow, name)
    assert turns == [0]
    assert slow.progress(name)["error"] == "cancelled"


def test_closing_cancels_what_runs(slow: SlowCalls) -> None:
    gate, ended = threading.Event(), threading.Event()

    def run(asked: dict[str, Any], tell: Tell) -> None:
        gate.set()
        try:
            while True:
                tell(0, 1)
                time.sleep(0.002)
        finally:
            ended.set()

    slow.begin(run, {})
    assert gate.wait(20)
    slow.close()
    assert ended.wait(20)


def test_failed_call_does_not_hold_its_arrays(slow: SlowCalls) -> None:
    held: list[weakref.ref[Any]] = []

    def fail(asked: dict[str, Any], tell: Tell) -> None:
        array = np.zeros(10)
        held.append(weakref.ref(array))
        raise ValueError("no")

    name = slow.begin(fail, {})
    settle(slow, name)
    settle(slow, slow.begin(echo, {}))
    gc.collect()
    assert held[0]() is None


def test_quick_answers_are_not_kept() -> None:
    calls = QuickCalls()
    future = calls.begin("a", lambda asked: 1, {}, ("view", 1))
    assert unpack(future.result(20)) == 1
    calls.begin("b", lambda asked: 1, {}, None).result(20)
    kept = weakref.ref(future)
    del future
    gc.collect()
    assert kept() is None
    with pytest.raises(Failed, match="a newer request"):
        calls.begin("a", lambda asked: 1, {}, ("view", 0))
    calls.close()


def test_only_so_many_views_are_remembered() -> None:
    calls = QuickCalls()
    for i in range(300):
        calls.begin("a", lambda asked: 1, {}, (str(i), 5)).result(20)
    with pytest.raises(Failed):
        calls.begin("a", lambda asked: 1, {}, ("299", 4))
    assert unpack(calls.begin("a", lambda asked: 1, {}, ("0", 4)).result(20)) == 1
    calls.close()


def test_call_that_comes_while_the_viewer_ends_is_told_so() -> None:
    quick, slow = QuickCalls(), SlowCalls()
    quick.close()
    slow.close()
    for begin in (
        lambda: quick.begin("a", lambda asked: asked, {}, None),
        lambda: quick.begin("a", lambda asked: asked, {}, ("view", 1)),
        lambda: slow.begin(echo, {}),
    ):
        with pytest.raises(Failed, match="the viewer is ending") as raised:
            begin()
        assert raised.value.status == 503
