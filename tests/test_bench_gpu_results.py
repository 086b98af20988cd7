"""What the bench on a GPU keeps, shows and refuses; taken on the CPU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench_on_cpu import GPU, measured, refuse_triton, work_little
from unrolled.bench import (
    DTYPES,
    Absent,
    Measurement,
    Result,
    Row,
    Timing,
    devices,
    machine,
)
from unrolled.bench.devices import DEVICES
from unrolled.bench.table import heading, show
from unrolled.cli import main


@pytest.fixture(autouse=True)
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    work_little(monkeypatch)


@pytest.fixture
def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_triton(monkeypatch)


# What is kept


def test_result_is_read_again_with_its_dtypes_and_its_ratios(tmp_path: Path, without_triton: None) -> None:
    result = measured(dtypes=["float32", "float16"], phases=["inference"])
    kept = result.save(tmp_path / "gpu.json")
    again = Result.load(kept)
    assert again.measurements == result.measurements
    assert again.device == "cuda"
    assert again.dtypes == ["float32", "float16"]
    assert [m.dtype for m in again.of("gru", "inference", "float16")] == ["float16"]
    assert again.settings["dtype"] == "float32, float16"
    assert again.settings["tolerances"] == {name: DTYPES[name].tolerance for name in again.dtypes}
    assert again.machine["gpu"] == GPU["gpu"]
    data = json.loads(kept.read_text(encoding="utf-8"))["measurements"][0]
    assert data["ratios_to_torch"]["torch"] == data["ratios_to_steps"]["steps"] == 1
    assert data["ratios_to_torch"]["steps"] == pytest.approx(1 / data["ratios_to_steps"]["torch"])


def test_files_of_a_cpu_from_before_are_float32_on_the_cpu() -> None:
    stored = Path(__file__).parents[1] / "docs" / "performance.json"
    assert '"dtype": "bfloat16"' not in stored.read_text(encoding="utf-8")
    result = Result.load(stored)
    assert result.device == "cpu"
    assert result.dtypes == ["float32"]


def test_facts_tell_the_gpu_its_driver_and_every_version(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(
        name="NVIDIA H200", major=9, minor=0, multi_processor_count=132, total_memory=150 << 30
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    told = subprocess.CompletedProcess([], 0, stdout="570.86.15\n570.86.15\n")
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: told)
    facts = DEVICES["cuda"].facts(3, ["flashrnn"])
    assert facts["gpu"] == "NVIDIA H200"
    assert facts["compute_capability"] == "9.0"
    assert facts["driver"] == "570.86.15"
    assert facts["versions"] | {"cuda": "13.0", "cudnn": "9.10.2"} == facts["versions"]
    assert {"torch", "unrolled", "triton", "flashrnn"} <= set(facts["versions"])
    assert facts["threads"] == 3
    assert facts["backend"] == "torch's own layer"


@pytest.mark.parametrize("how", ["absent", "failing"])
def test_driver_that_is_not_told_is_unknown(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> Any:
        if how == "absent":
            raise FileNotFoundError
        return subprocess.CompletedProcess([], 9, stdout="NVIDIA-SMI has failed")

    monkeypatch.setattr(machine.subprocess, "run", run)
    assert machine._driver() == "unknown"


# What is shown


def timed(seconds: float) -> Timing:
    return Timing(seconds, seconds, seconds, 5, 1)


def known() -> Result:
    """A result whose ratios are known: torch 2 ms, recording 4 ms, the loop 100 ms."""
    outcomes = {
        "torch": timed(0.002),
        "closed": timed(0.002),
        "triton": timed(0.0032),
        "triton_open": timed(0.004),
        "steps": timed(0.1),
        "flashrnn": timed(0.008),
        "torchrl": Absent("TorchRL's kernels take float32, the row is float16"),
    }
    row, product = Row(16, 1024, 768, 768), timed(1.0)
    measurements = tuple(
        Measurement("lstm", row, "training", outcomes, product, 100, 10, dtype=dtype)
        for dtype in ("float32", "float16")
    )
    facts = {
        "processor": "A CPU",
        "instructions": "AVX2",
        "cores": 16,
        "threads": 16,
        "others": None,
        "backend": "torch's own layer",
        "versions": {"torch": "2.13.0", "unrolled": "0.1", "triton": "3.7.1", "cuda": "13.0", "cudnn": "9.10.2"},
        **GPU,
    }
    settings = {
        "device": "cuda",
        "dtype": "float32, float16",
        "tolerances": {"float32": 5e-5, "float16": 0.0078125},
        "contestants": list(outcomes),
        "product_size": 8192,
    }
    return Result(facts, settings, measurements)


def test_ratios_are_to_torch_closed_and_to_the_loop_of_steps() -> None:
    m = known().measurements[0]
    assert m.ratio("torch", "triton_open") == pytest.approx(0.5)
    assert m.ratio("steps", "triton_open") == pytest.approx(25)
    assert m.ratio("flashrnn", "triton_open") == pytest.approx(2)


def test_table_shows_times_and_ratios_for_each_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    show(known())
    out = capsys.readouterr().out
    for word in ("A GPU, compute capability 9.0, driver 570.1", "cuda 13.0", "cudnn 9.10.2", "float16 0.0078"):
        assert word in out
    assert [line.strip() for line in out.splitlines() if line.startswith("LSTM")] == ["LSTM, float32", "LSTM, float16"]
    figures = [line.split() for line in out.splitlines() if line.strip().startswith("16,1024,768,768")]
    assert (
        figures
        == [["16,1024,768,768", "2.00", "2.00", "3.20", "4.00", "1.00", "0.62", "0.50", "25.0", "2.00", "n/a"]] * 2
    )
    assert out.count("n/a: TorchRL's kernels take float32") == 1


def test_heading_says_that_everyone_projects_the_input() -> None:
    assert any("Everyone projects the input" in line for line in heading(known()))


def test_plot_draws_what_is_open_on_a_gpu_row_by_row_and_dtype(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from unrolled.bench.plot import plot

    drawn = plot(known(), tmp_path / "gpu.svg").read_text(encoding="utf-8")
    for text in ("recording by Triton", "16,1024,768,768  float16", "A GPU; torch 2.13.0"):
        assert text in drawn


# What is refused


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("arguments", [[], ["--rows", "1,2,3,4", "--dtypes", "float16"], ["--peers", "flashrnn"]])
def test_bench_of_a_gpu_that_is_not_there_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cuda", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("unrolled: device: cuda was asked for, but ")
    assert captured.err.count("\n") == 1


def test_torch_with_cuda_that_finds_no_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for version, why in [("13.0", "torch finds no GPU"), (None, "was built without CUDA")]:
        monkeypatch.setattr(torch.version, "cuda", version)
        with pytest.raises(ValueError, match=why):
            devices.device_of("cuda")


def test_bench_of_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.device_of("cuda") is DEVICES["cuda"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "tpu"], ["device: 'tpu'", "expected cpu, cuda"]),
        (["--dtypes", "bfloat16"], ["dtypes: 'bfloat16'", "device cpu", "expected float32"]),
        (["--peers", "flashrnn"], ["peers: 'flashrnn'", "device cpu", "onnxruntime, openvino, jax"]),
        (["--from", "nowhere.json", "--device", "cuda"], ["--device: given with --from"]),
        (["--from", "nowhere.json", "--dtypes", "float16"], ["--dtypes: given with --from"]),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_change(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("unrolled: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"peers": ["jax"]}, "peers: 'jax' is not known on the device cuda; expected flashrnn, torchrl"),
        ({"dtypes": ["float64"]}, "dtypes: 'float64' is not known on the device cuda; expected float32, tf32"),
        ({"measure_memory": True}, "memory: .* device is cuda"),
    ],
)
def test_what_a_gpu_does_not_have_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        measured(**options)


def test_peer_that_is_asked_for_and_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrolled.bench.contestants.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="flashrnn needs flashrnn, .*: pip install flashrnn"):
        measured(peers=["flashrnn"])
