"""The Triton kernels compiled for GPUs that need not be there: they fit, meet, and are not compiled anew for a call."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from by_triton import MODES

HERE = Path(__file__).parent
SHARED_MEMORY = {90: 232448, 80: 166912, 86: 101376}  # bytes that one program can have


def compiled(calls: list[dict[str, Any]], cache: Path) -> list[list[dict[str, Any]]]:
    """What `compile_ahead` finds of each call: of its forward, and of its backward."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": paths, "TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, str(HERE / "compile_ahead.py")],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        env=environment,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def assert_fits(calls: list[dict[str, Any]], cache: Path) -> None:
    for asked, kernels in zip(calls, compiled(calls, cache), strict=True):
        assert len(kernels) == 2
        for kernel in kernels:
            assert 0 < kernel["shared"] <= SHARED_MEMORY[asked["capability"]], (asked, kernel)


def asked(mode: str, hidden: int, dtype: str, precision: str, capability: int, **options: Any) -> dict[str, Any]:
    sizes = {"mode": mode, "steps": 2, "batch": 3, "hidden": hidden}
    return sizes | {"dtype": dtype, "precision": precision, "capability": capability} | options


def test_kernels_compile_and_fit_into_shared_memory(tmp_path: Path) -> None:
    calls = [
        asked("LSTM", 1024, "bfloat16", "tf32", 90),
        asked("GRU", 256, "float16", "tf32", 80, lengths=True),
        asked("LSTM_ZONEOUT", 64, "float32", "tf32", 86, reset=True),
        asked("RNN_TANH", 100, "float32", "ieee", 86),
    ]
    assert_fits(calls, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("mode", MODES)
def test_all_kernels_compile_and_fit_into_shared_memory(mode: str, capability: int, tmp_path: Path) -> None:
    kinds = [("bfloat16", "tf32"), ("float16", "tf32"), ("float32", "tf32"), ("float32", "ieee")]
    widths = (5, 64, 100, 128, 256, 512, 513, 768, 1024)
    calls = [asked(mode, width, *kind, capability) for width, kind in itertools.product(widths, kinds)]
    assert_fits(calls, tmp_path)


def test_programs_that_meet_release_what_they_wrote_and_acquire_what_others_did(tmp_path: Path) -> None:
    ((forward, backward),) = compiled([asked("LSTM", 64, "bfloat16", "tf32", 90)], tmp_path)
    for kernel in (forward, backward):
        assert kernel["meets"]
        begin = kernel["ptx"].index("atom.global.gpu.release.add")
        assert "ld.global.gpu.acquire" in kernel["ptx"][begin:]


# Calls that differ in nothing for which something has to be compiled anew.
DIFFERENT: list[dict[str, Any]] = [
    {},
    {"steps": 16},
    {"steps": 1, "batch": 1},
    {"batch": 16},
    {"batch": 100, "steps": 5},
    {"strides": True},
    {"offset": 1},
    {"offset": 3, "strides": True, "batch": 33},
]


@pytest.fixture(scope="module")
def told_apart(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, ...]]]:
    """For each cell, what both kernels would be compiled for at each of the different calls."""
    calls = [
        asked(mode, 37, "float32", "tf32", 86, lengths=True, reset=True, compiles=False) | different
        for mode in MODES
        for different in DIFFERENT
    ]
    found = [tuple(kernel["key"] for kernel in kernels) for kernels in compiled(calls, tmp_path_factory.mktemp("none"))]
    return {mode: found[n * len(DIFFERENT) : (n + 1) * len(DIFFERENT)] for n, mode in enumerate(MODES)}


@pytest.mark.parametrize("number", range(1, len(DIFFERENT)))
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_compiled_anew(mode: str, number: int, told_apart: dict[str, list[tuple[str, ...]]]) -> None:
    assert told_apart[mode][number] == told_apart[mode][0], DIFFERENT[number]


def test_what_is_compiled_differs_between_cells(told_apart: dict[str, list[tuple[str, ...]]]) -> None:
    assert len({keys[0] for keys in told_apart.values()}) == len(MODES)
