"""Any number of threads gives the same results, from wherever a call is made, and leaves the caller's state alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import unrolled
from against_reference import (
    BUILDS,
    MODES,
    Case,
    Values,
    by_kernels,
    drawn,
    pytestmark_native,
    relative_error,
    uneven_lengths,
    using,
)
from unrolled.recurrence import cpu

pytestmark = pytestmark_native
builds = pytest.mark.parametrize("build", BUILDS)
modes = pytest.mark.parametrize("mode", MODES)

BY_ROWS = (9, 7, 5, 80)
BY_UNITS = (9, 1, 5, 256)
# Backward by units too: the gradients of large weights are left to products.
BY_UNITS_BOTH_WAYS = {
    "RNN_TANH": (5, 2, 9, 1030),
    "RNN_RELU": (5, 2, 9, 1030),
    "GRU": (5, 2, 9, 600),
    "LSTM": (5, 2, 9, 520),
}


@pytest.fixture(autouse=True)
def number_of_threads_is_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def assert_near(found: Values, other: Values) -> None:
    for name, value in found.items():
        assert relative_error(value, other[name].double()) < 3e-6, name


@modes
@builds
@pytest.mark.parametrize("lengths", [False, True])
def test_number_of_threads_does_not_matter(mode: str, build: str, lengths: bool) -> None:
    for sizes in (BY_ROWS, BY_UNITS, BY_UNITS_BOTH_WAYS[mode]):
        case = Case(mode, *sizes, lengths=uneven_lengths(*sizes[:2]) if lengths else None)
        tensors, found = drawn(case), []
        for threads in (1, 2, 3, 8):
            with using(build, threads):
                found.append(by_kernels(case, tensors))
        for other in found[1:]:
            assert_near(other, found[0])


@builds
def test_calls_from_many_python_threads_at_once_give_what_one_gives(build: str) -> None:
    layers = [unrolled.LSTM(5, 256), unrolled.GRU(5, 80), unrolled.RNN(5, 260), unrolled.LSTM(7, 300)]
    inputs = [torch.randn(12, batch, layer.input_size) for layer, batch in zip(layers, (1, 7, 1, 3), strict=True)]

    def once(number: int) -> list[Tensor]:
        layer, x = layers[number % 4], inputs[number % 4]
        output, _ = layer(x)
        return [output.detach(), *torch.autograd.grad(output.sum(), list(layer.parameters()))]

    with using(build, threads=2):
        alone = [once(number) for number in range(4)]
        with ThreadPoolExecutor(6, initializer=torch.set_num_threads, initargs=(2,)) as pool:
            together = list(pool.map(once, range(48), timeout=60))
    for number, found in enumerate(together):
        for one, other in zip(found, alone[number % 4], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_python_threads_that_set_a_number_of_their_own_give_the_same() -> None:
    layer, x = unrolled.LSTM(5, 256), torch.randn(12, 1, 5)
    right, found = layer(x)[0].detach(), {}

    def call(threads: int) -> None:
        torch.set_num_threads(threads)
        for _ in range(20):
            found[threads] = layer(x)[0].detach()

    started = [threading.Thread(target=call, args=(threads,), daemon=True) for threads in (1, 2, 3)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(60)
        assert not thread.is_alive()
    for threads in (1, 2, 3):
        torch.testing.assert_close(found[threads], right)


def test_threads_change_between_forward_and_backward() -> None:
    layer, x = unrolled.LSTM(5, 300), torch.randn(12, 1, 5)
    torch.set_num_threads(2)
    right = torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters()))
    torch.set_num_threads(1)
    output, _ = layer(x)
    torch.set_num_threads(2)
    found = torch.autograd.grad(output.sum(), list(layer.parameters()))
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_call_asks_for_as_many_threads_as_torch_was_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    forward = cpu.kernels().forward
    monkeypatch.setattr(cpu.kernels(), "forward", lambda call: asked.append(call.layer.threads) or forward(call))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        unrolled.LSTM(5, 256)(torch.randn(12, 1, 5))
    assert asked == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="counts the time of a process's threads")
@pytest.mark.parametrize("batch", [1, 64])
def test_one_thread_leaves_the_others_idle(batch: int) -> None:
    layer, x = unrolled.LSTM(16, 256), torch.randn(50, batch, 16)
    torch.set_num_threads(1)
    with torch.no_grad():
        layer(x)
        own, whole = time.thread_time(), time.process_time()
        for _ in range(10):
            layer(x)
        own, whole = time.thread_time() - own, time.process_time() - whole
    assert whole <= 1.2 * own + 0.02


def in_a_process(code: str, **environment: str) -> str:
    """What the code prints; a hang is an error."""
    ran = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


SHARED = """
import torch, unrolled
torch.manual_seed(0)
def results():
    for layer, batch in ((unrolled.LSTM(5, 256), 1), (unrolled.LSTM(7, 300), 3), (unrolled.GRU(5, 80), 7)):
        output, _ = layer(torch.randn(12, batch, layer.input_size))
        yield output.double().sum()
        for gradient in torch.autograd.grad(output.sum(), list(layer.parameters())):
            yield gradient.double().abs().sum()
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_THREAD_LIMIT": "1"},
        {"OMP_DYNAMIC": "true"},
        {"OMP_NUM_THREADS": "2,2", "OMP_MAX_ACTIVE_LEVELS": "2"},
    ],
    ids=lambda environment: "-".join(environment),
)
def test_fewer_threads_than_asked_for_do_the_work_of_all(environment: dict[str, str]) -> None:
    code = SHARED + "torch.set_num_threads(4)\nprint(*(float(value) for value in results()))"
    alone = SHARED + "torch.set_num_threads(1)\nprint(*(float(value) for value in results()))"
    found, right = (torch.tensor([float(v) for v in in_a_process(c, **environment).split()]) for c in (code, alone))
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-4)


def test_call_inside_a_parallel_region_of_torch_gives_the_same() -> None:
    """torch's loop runs a Python function through the same door that the kernels use."""
    import ctypes

    layer, x = unrolled.LSTM(5, 256), torch.randn(12, 1, 5)
    torch.set_num_threads(2)
    with torch.no_grad():
        right = layer(x)[0]
    found: list[Tensor] = []

    def work(begin: int, end: int, context: object) -> None:
        with torch.no_grad():
            found.extend(layer(x)[0] for _ in range(begin, end))

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    address = cpu._torch_parallel_for()
    assert address is not None
    loop = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, kind, ctypes.c_void_p)(
        address
    )
    assert loop(0, 4, 1, kind(work), None) == 0
    assert len(found) == 4
    for output in found:
        torch.testing.assert_close(output, right)


def call_in_fork(work: Callable[[], bool], seconds: int = 30) -> int:
    """The exit status of a forked process: 0 if `work` is true there, -SIGALRM if it hung."""
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)
        ok = False
        try:
            ok = work()
        finally:
            os._exit(0 if ok else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# After a fork the threads of OpenMP are gone and torch's own operators wait for them for ever; with one thread, as
# torch sets it in a DataLoader's workers, nobody is waited for.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_forked_process_with_one_thread_computes(threads: int) -> None:
    layer, x = unrolled.LSTM(5, 256), torch.randn(12, 3, 5)
    torch.set_num_threads(threads)
    right = layer(x)[0].detach()
    gradient = torch.autograd.grad(layer(x)[0].sum(), layer.weight_hh_l0)[0]

    def work() -> bool:
        torch.set_num_threads(1)
        output, _ = layer(x)
        found = torch.autograd.grad(output.sum(), layer.weight_hh_l0)[0]
        return torch.allclose(output, right, atol=1e-6) and torch.allclose(found, gradient, atol=1e-4)

    assert call_in_fork(work) == 0


class Encoded(torch.utils.data.Dataset[Tensor]):
    """Items that a layer computes."""

    def __init__(self) -> None:
        self.layer, self.x = unrolled.LSTM(5, 256), torch.randn(4, 12, 5)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.layer(self.x[index])[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_of_a_data_loader_compute() -> None:
    torch.set_num_threads(2)
    data = Encoded()
    right = torch.stack([data[index] for index in range(len(data))])
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, timeout=60, multiprocessing_context="fork")
    torch.testing.assert_close(torch.cat(list(loader)), right)


def smallest() -> bool:
    """Whether this thread computes with numbers too small for a normal float."""
    return bool((torch.tensor([1e-40]) * 1).item())


@builds
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_flushing_of_denormals_is_left_as_the_caller_set_it(build: str, flush: bool, threads: int) -> None:
    if not torch.set_flush_denormal(flush):
        pytest.skip("this processor cannot be asked to")
    try:
        with using(build, threads):
            for batch in (1, 7):
                layer = unrolled.LSTM(5, 256)
                output, _ = layer(torch.randn(12, batch, 5))
                assert smallest() is not flush
                output.sum().backward()
                assert smallest() is not flush
                cpu.kernels().activate("tanh", torch.zeros(3))
                assert smallest() is not flush
                # In torch's other threads as well.
                many = torch.full((1 << 20,), 1e-40) * 1
                assert flush or bool((many != 0).all())
    finally:
        torch.set_flush_denormal(False)


@builds
def test_numbers_too_small_for_a_normal_float_are_zero_inside(build: str) -> None:
    layer = unrolled.LSTM(2, 3)
    with torch.no_grad(), using(build):
        for parameter in layer.parameters():
            parameter.fill_(1e-39)
        small, _ = layer(torch.full((4, 1, 2), 1e-39))
        for parameter in layer.parameters():
            parameter.zero_()
        assert torch.equal(small, layer(torch.zeros(4, 1, 2))[0])
