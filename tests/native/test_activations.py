"""sigmoid and tanh of every build, to 2 units in the last place of the exact value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from against_reference import BUILDS, pytestmark_native, using
from unrolled.recurrence import cpu

pytestmark = [pytestmark_native, pytest.mark.parametrize("build", BUILDS)]
activations = pytest.mark.parametrize("name", ["sigmoid", "tanh"])

SMALLEST_NORMAL = torch.finfo(torch.float32).tiny
INF, NAN = float("inf"), float("nan")


def activate(build: str, name: str, x: Tensor) -> Tensor:
    with using(build):
        return cpu.kernels().activate(name, x)


def floats(bits: Tensor) -> Tensor:
    """int64 bit patterns -> float32."""
    return bits.to(torch.int32).view(torch.float32)


def allowed(exact: Tensor) -> Tensor:
    """2 ULP of the exact value. Below the smallest normal float zero will do: kernels do not compute with denormals."""
    power = (exact.view(torch.int64) & (0x7FF << 52)).view(torch.float64)  # the power of two at or below |exact|
    return torch.where(exact.abs() < SMALLEST_NORMAL, torch.tensor(SMALLEST_NORMAL), 2 * 2.0**-23 * power)


def assert_near(x: Tensor, y: Tensor, exact: Tensor) -> None:
    far = ~((y.double() - exact).abs() <= allowed(exact))
    far &= ~x.isnan()
    assert not far.any(), f"of {x[far][:5].tolist()}: {y[far][:5].tolist()}, exact {exact[far][:5].tolist()}"
    assert y[x.isnan()].isnan().all()


def exactly(name: str, x: Tensor) -> Tensor:
    return getattr(torch, name)(x.double())


@activations
def test_within_two_ulp_at_every_exponent(build: str, name: str) -> None:
    mantissas = torch.cat((torch.arange(64), 2**23 - 1 - torch.arange(64), torch.randint(2**23, (4000,))))
    x = floats((torch.arange(512).unsqueeze(1) << 23) + mantissas).flatten()
    assert_near(x, activate(build, name, x), exactly(name, x))


@activations
def test_within_two_ulp_where_the_formulas_change(build: str, name: str) -> None:
    places = torch.tensor([0.5493061, 0.3465736, 1.0397208, 44.0, 43.668, 87.33654, 88.0, 88.7228, 9.0109, 16.6355])
    near = (places.view(torch.int32).unsqueeze(1) + torch.arange(-3000, 3000, dtype=torch.int32)).view(torch.float32)
    x = torch.cat((near.flatten(), -near.flatten()))
    assert_near(x, activate(build, name, x), exactly(name, x))


@activations
def test_nan_stays_nan(build: str, name: str) -> None:
    quiet = torch.tensor([NAN, -NAN])
    all_kinds = floats(torch.tensor([0x7F800001, 0x7FFFFFFF, -0x400000, -1, 0x7FC00000]))
    assert activate(build, name, torch.cat((quiet, all_kinds))).isnan().all()


def test_sigmoid_of_infinities_and_zeros(build: str) -> None:
    assert activate(build, "sigmoid", torch.tensor([-INF, INF, -0.0, 0.0])).tolist() == [0, 1, 0.5, 0.5]


def test_tanh_of_infinities_and_zeros(build: str) -> None:
    found = activate(build, "tanh", torch.tensor([-INF, INF, -0.0, 0.0]))
    assert found.tolist() == [-1, 1, 0, 0]
    assert found.signbit().tolist() == [True, False, True, False]


def test_tanh_keeps_the_sign_of_numbers_too_small_for_a_normal_float(build: str) -> None:
    x = torch.tensor([1e-45, 1e-39, 1.17e-38])
    assert not activate(build, "tanh", x).signbit().any()
    assert activate(build, "tanh", -x).signbit().all()


@activations
def test_largest_and_smallest_values_stay_in_range(build: str, name: str) -> None:
    x = floats(torch.arange(512).unsqueeze(1) << 23 | torch.tensor([0, 1, 2**22, 2**23 - 1])).flatten()
    found = activate(build, name, x[~x.isnan()])
    assert found.max() == 1
    assert found.min() == (0 if name == "sigmoid" else -1)


@activations
@pytest.mark.parametrize("count", [0, 1, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33])
def test_any_count_writes_just_as_many(build: str, name: str, count: int) -> None:
    memory, x = torch.full((count + 64,), 7.0), torch.randn(count)
    with using(build):
        cpu.kernels().native.unrolled_activate(
            *map(cpu.ctypes.c_int64, (cpu.kernels().builds[build], ("sigmoid", "tanh").index(name))),
            *map(cpu.ctypes.c_void_p, (x.data_ptr(), memory.data_ptr())),
            cpu.ctypes.c_int64(count),
        )
    assert (memory[count:] == 7).all()
    torch.testing.assert_close(memory[:count], getattr(torch, name)(x))


@activations
def test_value_does_not_depend_on_the_neighbours(build: str, name: str) -> None:
    x = torch.randn(64) * 4
    others = x.clone()
    others[::3] = torch.tensor([INF, -INF, NAN]).repeat(8)[:22]
    same = torch.arange(64) % 3 != 0
    assert torch.equal(activate(build, name, others)[same], activate(build, name, x)[same])


@activations
@pytest.mark.slow
def test_within_two_ulp_of_every_float(build: str, name: str) -> None:
    size = 2**18  # as many doubles as stay in the cache
    for start in range(-(2**31), 2**31, size):
        x = floats(torch.arange(start, start + size))
        assert_near(x, activate(build, name, x), exactly(name, x))
