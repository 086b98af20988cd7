"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, each build in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from against_reference import BUILDS, pytestmark_native
from unrolled.recurrence import library

pytestmark = [pytestmark_native, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent

# Every way through the kernels at its smallest; what takes long and reaches no other line is left out.
TESTS = [
    "test_kernels.py::test_odd_sizes_match_the_reference",
    "test_kernels.py::test_every_direction_lengths_and_bias_match_the_reference",
    "test_kernels.py::test_more_steps_than_one_chunk_match_the_reference",
    "test_kernels.py::test_weights_too_large_for_the_cache_match_the_reference",
    "test_kernels.py::test_threads_that_share_units_match_the_reference",
    "test_kernels.py::test_empty_batch_gives_empty_results_and_gradients_of_zero",
    "test_kernels.py::test_no_steps_leave_the_initial_states",
    "test_kernels.py::test_layout_of_the_input_and_of_the_outputs_gradient_is_free",
    "test_kernels.py::test_expanded_input_has_the_gradient_of_a_copied_one",
    "test_resets_and_variants.py::test_resets_match_the_reference",
    "test_resets_and_variants.py::test_variants_with_resets_match_the_reference",
    "test_resets_and_variants.py::test_calls_of_few_steps_match_the_reference",
    "test_activations.py::test_within_two_ulp_at_every_exponent",
    "test_activations.py::test_any_count_writes_just_as_many",
]


def runtime(name: str) -> Path | None:
    """The compiler's library of that name, None if it has none."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    if shutil.which(compiler) is None:
        return None
    said = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return Path(said).resolve() if Path(said).is_absolute() else None


@pytest.fixture(scope="module")
def preloaded() -> str:
    found = [runtime(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so")]
    if None in found:
        pytest.skip("the compiler has no libasan.so and libubsan.so")
    return " ".join(map(str, found))


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory, preloaded: str) -> Path:
    """The library built with sanitizers; at -O1, for with more the compiler takes many minutes."""
    folder = tmp_path_factory.mktemp("sanitized")
    options = ["-DUNROLLED_SANITIZE=address;undefined", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1"]
    for command in (
        ["cmake", "-S", str(ROOT / "native"), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ):
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder / library.NAME


def run(arguments: list[str], sanitized: Path, preloaded: str, build: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "LD_PRELOAD": preloaded,
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "UNROLLED_LIBRARY": str(sanitized),
        "UNROLLED_BUILD": build,
    }
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("beyond", [0, 1])
def test_write_past_a_tensor_is_found(sanitized: Path, preloaded: str, build: str, beyond: int) -> None:
    """So that silence elsewhere means something: torch's memory is watched, and the kernels' accesses are."""
    code = f"""
import ctypes, torch
from unrolled.recurrence import cpu
kernels, x, y = cpu.kernels(), torch.zeros(20), torch.empty(20)
assert kernels.build == {build!r} and "libasan" in open("/proc/self/maps").read()
kernels.native.unrolled_activate(*map(ctypes.c_int64, (kernels.builds[kernels.build], 0)),
    *map(ctypes.c_void_p, (x.data_ptr(), y.data_ptr())), ctypes.c_int64(20 + {beyond}))
"""
    ran = run(["-c", code], sanitized, preloaded, build)
    assert (ran.returncode != 0) == bool(beyond), ran.stderr
    assert ("AddressSanitizer: heap-buffer-overflow" in ran.stderr) == bool(beyond), ran.stderr


@pytest.mark.parametrize("build", BUILDS)
def test_kernels_touch_no_memory_but_their_own_and_nothing_undefined(
    sanitized: Path, preloaded: str, build: str
) -> None:
    tests = [f"{HERE / test}" for test in TESTS]
    ran = run(["-m", "pytest", "-q", "-p", "no:xdist", "-k", build, *tests], sanitized, preloaded, build)
    assert ran.returncode == 0, ran.stdout[-10000:] + ran.stderr[-10000:]
    assert " passed" in ran.stdout
