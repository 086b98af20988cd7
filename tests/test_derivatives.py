"""Every derivative of every layer, against finite differences and against the same taken another way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import unrolled
from exact import KINDS, VARIANTS

T, B, I, H = 4, 3, 2, 3  # noqa: E741
LENGTHS = torch.tensor([2, 4, 0])
RESET = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.bool)

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "two layers in both directions": ({"num_layers": 2, "bidirectional": True}, {}),
    "lengths": ({"bidirectional": True}, {"lengths": LENGTHS}),
    "resets": ({}, {"reset": RESET}),
}
# Every kind with every option, and the projection that only an LSTM has.
CASES = [(kind, option) for kind in KINDS + VARIANTS for option in OPTIONS] + [("LSTM", "projection")]
cases = pytest.mark.parametrize(("kind", "option"), CASES)
everything = pytest.mark.parametrize("kind", KINDS + VARIANTS)


def function(kind: str, option: str, dtype: torch.dtype = torch.float64) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """A layer as a function of its input, initial states and parameters, and values for them.

    Noise is off; zoneout is then the expectation of its masks.
    """
    options, marks = ({"proj_size": 2}, {}) if option == "projection" else OPTIONS[option]
    torch.manual_seed(1)
    module = getattr(unrolled, kind)(I, H, **options, dtype=torch.float64).to(dtype).eval()
    names = [name for name, _ in module.named_parameters()]
    rows, widths = module.num_layers * (2 if module.bidirectional else 1), [options.get("proj_size", H), H]
    states = [torch.randn(rows, B, width).to(dtype) for width in widths[: 1 if kind in ("RNN", "GRU") else 2]]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        before, parameters = values[: len(states)], dict(zip(names, values[len(states) :], strict=True))
        hx = before if len(before) > 1 else before[0]
        output, final = functional_call(module, parameters, (x, hx), marks)
        final = final if isinstance(final, tuple) else (final,)
        return torch.cat([output.flatten(), *(state.flatten() for state in final)])

    values = [torch.randn(T, B, I).to(dtype), *states, *(p.detach() for p in module.parameters())]
    return call, values


def of_float64(compute: Callable[..., Any], kind: str, option: str) -> tuple[Any, Any]:
    """What `compute` finds in float32, which the kernels compute where they can, and in float64."""
    found = []
    for dtype in (torch.float32, torch.float64):
        call, values = function(kind, option, dtype)
        found.append(compute(call, values))
    return found[0], found[1]


def close(found: Any, wanted: Any, tolerance: float = 1e-4) -> None:
    one, other = (list(v) if isinstance(v, tuple | list) else [v] for v in (found, wanted))
    assert any(tensor.any() for tensor in other)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def leaves(values: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(value.clone().requires_grad_() for value in values)


def in_fast_mode(option: str) -> bool:
    """Whether one random direction is checked in the place of every element: for the many of several layers."""
    return option == "two layers in both directions"


@cases
def test_first_derivatives_equal_finite_differences(kind: str, option: str) -> None:
    call, values = function(kind, option)
    assert gradcheck(
        call, leaves(values), check_forward_ad=True, check_batched_grad=True, fast_mode=in_fast_mode(option)
    )


@cases
def test_second_derivatives_equal_finite_differences(kind: str, option: str) -> None:
    call, values = function(kind, option)
    assert gradgradcheck(call, leaves(values), atol=1e-4, fast_mode=in_fast_mode(option))


@cases
def test_backward_in_eval_mode_and_double_backward_agree_with_float64(kind: str, option: str) -> None:
    def compute(call: Any, values: list[Tensor]) -> list[Tensor]:
        inputs = leaves(values)
        first = torch.autograd.grad(call(*inputs).pow(2).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), inputs)
        return [*first, *second]

    found, wanted = of_float64(compute, kind, option)
    with unrolled.backend("reference"):
        rounded, _ = of_float64(compute, kind, option)
    # Beside each tensor's largest, or what PyTorch's own steps in float32 lose in the worst of them: a normalisation of
    # three units, whose variance may be small, magnifies rounding errors.
    error, its = (
        max(
            ((one.double() - exact).abs().max() / exact.abs().max()).item()
            for one, exact in zip(v, wanted, strict=True)
        )
        for v in (found, rounded)
    )
    assert error <= max(1e-5, 3 * its)


@cases
def test_forward_mode_agrees_with_backward_mode(kind: str, option: str) -> None:
    def compute(call: Any, values: list[Tensor]) -> Tensor:
        tangents = tuple(torch.ones_like(value) for value in values)
        return jvp(call, tuple(values), tangents)[1]

    found, wanted = of_float64(compute, kind, option)
    close(found, wanted)
    call, values = function(kind, option)
    jacobians = jacrev(call, argnums=tuple(range(len(values))))(*values)
    product = sum(jacobian.flatten(1).sum(1) for jacobian in jacobians)
    close(wanted, product, 1e-10)


@everything
def test_dual_numbers_pass_through_a_layer(kind: str) -> None:
    def compute(call: Any, values: list[Tensor]) -> Tensor:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(values[0], torch.ones_like(values[0]))
            return forward_ad.unpack_dual(call(dual, *values[1:])).tangent

    close(*of_float64(compute, kind, "plain"))


@everything
def test_jacobians_forward_and_backward_are_the_same(kind: str) -> None:
    def compute(call: Any, values: list[Tensor]) -> list[Tensor]:
        return [jacfwd(call)(*values), jacrev(call)(*values)]

    found, wanted = of_float64(compute, kind, "plain")
    close(found, wanted)
    close(wanted[0], wanted[1], 1e-10)


@everything
def test_hessian_agrees_with_float64(kind: str) -> None:
    def compute(call: Any, values: list[Tensor]) -> Tensor:
        return hessian(lambda x: call(x, *values[1:]).pow(2).sum())(values[0])

    close(*of_float64(compute, kind, "plain"), 1e-3)


@everything
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vmap_over_inputs_equals_each_alone(kind: str, dtype: torch.dtype) -> None:
    call, values = function(kind, "plain", dtype)
    many = torch.randn(5, T, B, I).to(dtype)
    together = vmap(call, in_dims=(0, *[None] * (len(values) - 1)))(many, *values[1:])
    close(together, torch.stack([call(x, *values[1:]) for x in many]), 1e-5)


@everything
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vmap_over_weights_equals_each_alone(kind: str, dtype: torch.dtype) -> None:
    call, values = function(kind, "plain", dtype)
    ensemble = [torch.stack([value, 2 * value, -value]) for value in values[1:]]
    together = vmap(call, in_dims=(None, *[0] * len(ensemble)))(values[0], *ensemble)
    alone = [call(values[0], *(values[index] for values in ensemble)) for index in range(3)]
    close(together, torch.stack(alone), 1e-5)


@everything
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_per_sample_gradients_equal_those_of_each_sample_alone(kind: str, dtype: torch.dtype) -> None:
    module = getattr(unrolled, kind)(I, H, batch_first=True, dtype=dtype).eval()
    parameters, x = {name: p.detach() for name, p in module.named_parameters()}, torch.randn(6, T, I).to(dtype)

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(module, parameters, (sample.unsqueeze(0),))[0].pow(2).sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for index, sample in enumerate(x):
        alone = torch.autograd.grad(module(sample.unsqueeze(0))[0].pow(2).sum(), list(module.parameters()))
        close([together[name][index] for name in parameters], alone, 1e-5)


@everything
def test_noise_under_vmap_differs_from_sample_to_sample_where_that_is_asked_for(kind: str) -> None:
    module = getattr(unrolled, kind)(I, H).train()
    x = torch.randn(1, T, B, I).expand(4, -1, -1, -1)
    outputs = vmap(lambda one: module(one)[0], randomness="different")(x)
    noisy = kind in VARIANTS[3:]
    assert torch.equal(outputs[0], outputs[1]) != noisy


@everything
def test_vjp_of_noise_goes_through_the_same_masks_as_the_forward(kind: str) -> None:
    module = getattr(unrolled, kind)(I, H, dtype=torch.float64).train()
    x = torch.randn(T, B, I, dtype=torch.float64)

    def call(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return module(x)[0]

    _, pull = vjp(call, x)
    (found,) = pull(torch.ones(T, B, H, dtype=torch.float64))
    leaf = x.clone().requires_grad_()
    close(found, torch.autograd.grad(call(leaf).sum(), leaf)[0], 1e-12)


def test_lengths_of_each_sample_pass_through_vmap() -> None:
    module, x = unrolled.LSTM(I, H), torch.randn(3, T, 1, I)
    lengths = torch.tensor([[2], [4], [1]])
    together = vmap(lambda one, n: module(one, lengths=n)[0])(x, lengths)
    close(together, torch.stack([module(one, lengths=n)[0] for one, n in zip(x, lengths, strict=True)]), 1e-5)


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
def test_single_cells_have_every_derivative(kind: str) -> None:
    cell = getattr(unrolled, kind)(I, H, dtype=torch.float64)
    x = torch.randn(B, I, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor) -> Tensor:
        states = cell(x)
        return torch.cat(states) if isinstance(states, tuple) else states

    assert gradcheck(call, (x,), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(call, (x,))
    close(jacfwd(call)(x.detach()), jacrev(call)(x.detach()), 1e-12)


SAID_ONCE = """
import warnings, torch, unrolled
layer, x = unrolled.LSTM(2, 3), torch.randn(4, 1, 2)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(3):
        torch.func.jvp(lambda x: layer(x)[0], (x,), (x,))
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(layer(leaf)[0].sum(), leaf, create_graph=True)
        layer.double()(x.double())
        layer.float()
for one in said:
    print(one.category.__name__, one.message)
"""


def test_what_falls_to_the_reference_is_said_once_with_how_to_see_it() -> None:
    said = subprocess.run([sys.executable, "-c", SAID_ONCE], capture_output=True, text=True, check=True).stdout
    lines = [line for line in said.splitlines() if line.startswith("ReferenceWarning")]
    assert len(lines) == 2
    assert "torch.func" in lines[0]
    assert "create_graph" in lines[1]
    assert all("unrolled.explain" in line for line in lines)


@pytest.mark.parametrize("kind", KINDS)
def test_torchs_layer_in_eval_mode_can_be_trained_after_conversion(kind: str) -> None:
    module = unrolled.convert(getattr(nn, kind)(I, H)).eval()
    x = torch.randn(T, B, I, requires_grad=True)
    module(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.any()
