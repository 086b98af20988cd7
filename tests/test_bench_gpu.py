"""The bench on a GPU, taken on the CPU where there is none: who enters, what is checked and timed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench_on_cpu import TINY, gpu_on_cpu, measured, refuse_triton, work_little
from bench_peers_of_a_gpu import install_flashrnn, install_torchrl
from unrolled.bench import (
    DTYPES,
    GPU_ROWS,
    Absent,
    Failed,
    Row,
    Timing,
    Wrong,
    alternation,
    bench,
    measure,
)
from unrolled.bench.alternation import alternate
from unrolled.bench.contestants import CONTESTANTS, GPU_PEERS
from unrolled.bench.devices import DEVICES
from unrolled.bench.numbers import draw
from unrolled.recurrence import dispatch
from unrolled.recurrence.gpu import available

OWN = ["torch", "closed", "triton", "triton_open", "steps"]
needs_interpreter = pytest.mark.skipif(
    available.refusal(torch.device("cpu")) is not None, reason="needs Triton, and TRITON_INTERPRET=1"
)


@pytest.fixture(autouse=True)
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    work_little(monkeypatch)


@pytest.fixture
def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_triton(monkeypatch)


# Rows


def test_rows_go_from_64_to_1024_and_beside_cudnn_s_best_path() -> None:
    assert [str(row) for row in GPU_ROWS] == [
        "16,1024,64,64",
        "16,1024,128,128",
        "16,1024,256,256",
        "16,1024,512,512",
        "16,1024,768,768",
        "16,1024,1024,1024",
        "128,1024,512,512",
        "1,1024,256,256",
        "16,1024,200,200",
        "37,500,100,100",
    ]
    assert DEVICES["cuda"].rows == GPU_ROWS
    assert DEVICES["cuda"].dtypes == ("float32", "tf32", "bfloat16", "float16")
    assert DEVICES["cpu"].dtypes == ("float32",)


# Who enters


@needs_interpreter
@pytest.mark.parametrize("dtype", DTYPES)
def test_everyone_is_right_and_timed_in_every_dtype(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install_flashrnn(monkeypatch)
    install_torchrl(monkeypatch)
    result = measured(cells=["lstm"], dtypes=[dtype], peers=None)
    (m,) = result.measurements
    assert m.dtype == dtype
    assert list(m.outcomes) == [*OWN, *GPU_PEERS]
    for name, outcome in m.outcomes.items():
        if isinstance(outcome, Absent):
            # Its kernels take H in sixteens, and float32 alone.
            assert (name, dtype) in [("flashrnn", "tf32"), ("torchrl", "bfloat16"), ("torchrl", "float16")]
        else:
            assert isinstance(outcome, Timing), outcome
            assert outcome.error <= DTYPES[dtype].tolerance
    assert result.complaints() == []


@needs_interpreter
def test_deep_and_bidirectional_layers_are_recorded_by_triton() -> None:
    deep = Row(2, 2, 3, 4, layers=2, bidirectional=True)
    result = bench(
        [deep], device=gpu_on_cpu(), cells=["rnn"], phases=["training"], dtypes=["float32"], peers=(), seconds=0.001
    )
    (m,) = result.measurements
    assert all(isinstance(outcome, Timing) for outcome in m.outcomes.values())


@needs_interpreter
def test_recording_by_triton_with_one_wrong_gate_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    right = CONTESTANTS["triton_open"]

    def enter(*arguments: Any) -> Any:
        work, read = right.enter(*arguments)

        def changed(returned: Any) -> dict[str, torch.Tensor]:
            results = {key: value.clone() for key, value in read(returned).items()}
            results["l0.update_gate"][0, 0, 0] += 0.1
            return results

        return work, changed

    monkeypatch.setitem(CONTESTANTS, "triton_open", replace(right, enter=enter))
    (m,) = measured(dtypes=["bfloat16"]).measurements
    outcome = m.outcomes["triton_open"]
    assert isinstance(outcome, Wrong)
    assert "l0.update_gate is off" in outcome.why
    assert "allowed is 0.0625" in outcome.why
    assert m.ratio("torch", "triton_open") is None


def test_kernels_that_refuse_are_absent_with_the_reason_and_the_others_are_timed(without_triton: None) -> None:
    (m,) = measured().measurements
    for name in ("triton", "triton_open"):
        assert m.outcomes[name] == Absent("Triton is not installed")
    assert all(isinstance(m.outcomes[name], Timing) for name in ("torch", "closed", "steps"))


@needs_interpreter
@pytest.mark.parametrize(
    ("name", "backend"), [("torch", None), ("closed", None), ("triton", "triton"), ("triton_open", "triton")]
)
def test_backend_is_asked_for_where_the_contestant_is_named_for_it(
    name: str, backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNROLLED_BACKEND", raising=False)
    seen = []
    work, read = CONTESTANTS[name].enter(draw("rnn", TINY), "training", 1)
    right = torch.nn.Module.__call__

    def call(self: Any, *arguments: Any) -> Any:
        seen.append(dispatch.forced())
        return right(self, *arguments)

    monkeypatch.setattr(torch.nn.Module, "__call__", call)
    read(work())
    assert set(seen) == {backend}
    assert dispatch.forced() is None


def test_kernels_are_not_asked_for_more_units_than_they_have() -> None:
    numbers = SimpleNamespace(row=Row(1, 1, 1, 1025), x=torch.zeros(1))
    refusal = CONTESTANTS["triton"].refusal(numbers, "inference")  # type: ignore[arg-type]
    assert "H is 1025" in str(refusal)


def test_peer_that_raises_is_told_and_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch, without_triton: None
) -> None:
    install_flashrnn(monkeypatch)

    def enter(*_: object) -> Any:
        raise RuntimeError("no solution found")

    monkeypatch.setitem(CONTESTANTS, "flashrnn", replace(CONTESTANTS["flashrnn"], enter=enter))
    result = measured(peers=["flashrnn"], dtypes=["bfloat16"])
    (m,) = result.measurements
    assert m.outcomes["flashrnn"] == Failed("RuntimeError: no solution found")
    assert result.complaints() == ["GRU 2,3,3,4 training in bfloat16: flashrnn failed: RuntimeError: no solution found"]
    assert isinstance(m.outcomes["torch"], Timing)


def off_by(name: str, units: int) -> Any:
    """A contestant whose gradients are off by units of rounding to bfloat16."""
    right = CONTESTANTS[name]

    def enter(*arguments: Any) -> Any:
        work, read = right.enter(*arguments)

        def changed(returned: Any) -> dict[str, torch.Tensor]:
            scales = {key: 1 + units / 256 if key.startswith("gradient") else 1 for key in read(returned)}
            return {key: value.double() * scales[key] for key, value in read(returned).items()}

        return work, changed

    return replace(right, enter=enter)


def test_only_a_loop_may_be_off_by_what_rounded_sums_are(monkeypatch: pytest.MonkeyPatch, without_triton: None) -> None:
    # 256 steps: 32 units are allowed to a loop, 16 to the others.
    for name in ("torch", "steps"):
        monkeypatch.setitem(CONTESTANTS, name, off_by(name, 24))
    (m,) = bench(
        [Row(1, 256, 2, 4)],
        device=gpu_on_cpu(),
        cells=["rnn"],
        phases=["training"],
        dtypes=["bfloat16"],
        peers=(),
        seconds=0.001,
        threads=1,
    ).measurements
    assert isinstance(m.outcomes["torch"], Wrong)
    assert isinstance(m.outcomes["steps"], Timing)


def test_switches_are_set_while_a_contestant_works(monkeypatch: pytest.MonkeyPatch, without_triton: None) -> None:
    seen: list[tuple[str, str]] = []
    right = CONTESTANTS["steps"]

    def enter(*arguments: Any) -> Any:
        work, read = right.enter(*arguments)

        def watched() -> Any:
            backends = torch.backends
            seen.append((backends.cuda.matmul.fp32_precision, backends.cudnn.rnn.fp32_precision))
            return work()

        return watched, read

    monkeypatch.setitem(CONTESTANTS, "steps", replace(right, enter=enter))
    for dtype, precision in [("float32", "ieee"), ("tf32", "tf32")]:
        seen.clear()
        measured(dtypes=[dtype])
        assert set(seen) == {(precision, precision)}


def test_switches_are_left_alone_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def products(_: object) -> Any:
        raise AssertionError

    monkeypatch.setattr(measure, "products", products)
    bench([TINY], cells=["rnn"], phases=["inference"], peers=(), seconds=0.001)


# Timing


class Gpu:
    """A device that works on its own until it is waited for, and the clock of both."""

    def __init__(self) -> None:
        self.now = self.given = 0.0
        self.waits = 0

    def perf_counter(self) -> float:
        return self.now

    def synchronise(self) -> None:
        self.waits += 1
        self.now, self.given = self.now + self.given, 0.0

    def work(self, seconds: float) -> Any:
        def give() -> None:
            self.now += 1e-5  # to give it the work
            self.given += seconds

        return give


def test_time_is_that_of_the_device_and_not_of_giving_it_work(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    monkeypatch.setattr(alternation, "time", gpu)
    works = {"short": gpu.work(0.001), "long": gpu.work(0.2)}
    timings = alternate(works, 0.5, gpu.synchronise)
    # Nothing of the neighbour's work is in it, though it was given before.
    assert timings["short"].median == pytest.approx(0.001 + 1e-5)
    assert timings["long"].median == pytest.approx(0.2 + 1e-5)
    assert timings["short"].calls == 10
    # Once before and once after every slot and every estimate, not after every call.
    assert gpu.waits == 2 * (4 + timings["short"].slots + timings["long"].slots)


def test_device_is_waited_for_around_what_is_timed(without_triton: None) -> None:
    waits: list[None] = []
    measured(device=gpu_on_cpu(lambda: waits.append(None)))
    assert waits
    assert DEVICES["cuda"].synchronise is torch.cuda.synchronize


# A real GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("dtype", DTYPES)
def test_everyone_is_right_on_a_gpu(dtype: str) -> None:
    rows = [Row(16, 64, 32, 64), Row(3, 33, 5, 17, layers=2, bidirectional=True)]
    result = bench(rows, device="cuda", dtypes=[dtype], peers=(), input_gradient=True, seconds=0.001)
    assert result.complaints() == []
    assert all(isinstance(outcome, Timing) for m in result.measurements for outcome in m.outcomes.values())
    assert result.machine["gpu"]
