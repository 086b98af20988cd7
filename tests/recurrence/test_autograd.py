"""Derivatives of layers in float32, by the kernels, are those of the same layers in float64, by the reference."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import unrolled
from exact import MODES, B, H, I, T, assert_agree, close, drawn, dtype_of, finals, given, pair, states_of, wild

pytestmark = pytest.mark.usefixtures("sums")
LENGTHS = torch.tensor([2, 6, 3])


def leaves(layer: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """An input and initial states that want gradients."""
    return drawn(layer).requires_grad_(), tuple(state.requires_grad_() for state in states_of(layer))


def all_gradients(layer: Any, **options: Any) -> tuple[Tensor, ...]:
    x, states = leaves(layer)
    loss = wild(layer(x, given(states)))
    return torch.autograd.grad(loss, [x, *states, *layer.parameters()], **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_gradients_of_everything_agree_and_come_from_the_kernels(mode: str, options: Any, kernels: Any) -> None:
    assert_agree(all_gradients, mode, **options)
    assert len(kernels.forward) == len(kernels.backward) > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_of_a_packed_call_agree(mode: str, bidirectional: bool) -> None:
    def gradients(layer: Any) -> Any:
        x, states = leaves(layer)
        loss = wild(layer(pack_padded_sequence(x, LENGTHS, enforce_sorted=False), given(states)))
        return torch.autograd.grad(loss, [x, *states, *layer.parameters()])

    assert_agree(gradients, mode, bidirectional=bidirectional)


# Backward more than once, and after changes


@pytest.mark.parametrize("mode", MODES)
def test_second_backward_of_a_retained_graph_gives_the_same_gradients_again(mode: str) -> None:
    fast, exact = pair(mode)
    x, states = leaves(fast)
    loss = wild(fast(x, given(states)))
    wanted = [x, *states, *fast.parameters()]
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    second = torch.autograd.grad(loss, wanted)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    close(second, all_gradients(exact))


@pytest.mark.parametrize("mode", MODES)
def test_backwards_of_two_losses_of_one_forward_accumulate(mode: str) -> None:
    def gradients(layer: Any) -> Any:
        x, _ = leaves(layer)
        result = layer(x)
        result[0][-1].pow(2).sum().backward(retain_graph=True)
        finals(result)[-1].sum().backward()
        return x.grad, [p.grad for p in layer.parameters()]

    assert_agree(gradients, mode)


@pytest.mark.parametrize("mode", MODES)
def test_backward_twice_without_retaining_the_graph_is_torchs_error(mode: str) -> None:
    fast, _ = pair(mode)
    loss = wild(fast(drawn(fast)))
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("changed", ["x", "weight_ih_l0", "weight_hh_l0", "initial hidden", "last initial", "output"])
def test_a_change_in_place_between_forward_and_backward_is_torchs_error(mode: str, changed: str) -> None:
    fast, _ = pair(mode)
    x, states = drawn(fast), states_of(fast)
    result = fast(x, given(states))
    named = {"x": x, "initial hidden": states[0], "last initial": states[-1], "output": result[0]}
    with torch.no_grad():
        (named[changed] if changed in named else fast.get_parameter(changed)).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        finals(result)[0].sum().backward()


def test_final_states_may_be_changed_in_place_before_backward() -> None:
    def gradients(layer: Any) -> Any:
        output, (h_n, c_n) = layer(drawn(layer))
        h_n.mul_(2)
        c_n.relu_()
        return torch.autograd.grad(output.sum() + h_n.pow(2).sum() + c_n.sum(), list(layer.parameters()))

    assert_agree(gradients)


# Gradients of some of the inputs, from some of the outputs

SUBSETS: dict[str, Callable[[Any, Tensor, tuple[Tensor, ...]], list[Tensor]]] = {
    "x": lambda layer, x, states: [x],
    "weights": lambda layer, x, states: [layer.weight_ih_l0, layer.weight_hh_l0],
    "one weight": lambda layer, x, states: [layer.weight_hh_l0],
    "biases": lambda layer, x, states: [layer.bias_ih_l0, layer.bias_hh_l0],
    "one bias": lambda layer, x, states: [layer.bias_hh_l0],
    "initial states": lambda layer, x, states: list(states),
    "last initial state": lambda layer, x, states: [states[-1]],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asked", SUBSETS)
def test_gradient_of_a_subset_asked_for(mode: str, asked: str) -> None:
    def gradients(layer: Any) -> Any:
        x, states = leaves(layer)
        return torch.autograd.grad(wild(layer(x, given(states))), SUBSETS[asked](layer, x, states))

    assert_agree(gradients, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wanted", SUBSETS)
def test_gradient_of_a_subset_while_all_else_is_frozen(mode: str, wanted: str) -> None:
    def gradients(layer: Any) -> Any:
        x, states = drawn(layer), states_of(layer)
        layer.requires_grad_(False)
        inputs = SUBSETS[wanted](layer, x, states)
        for tensor in inputs:
            tensor.requires_grad_()
        wild(layer(x, given(states))).backward()
        unwanted = {id(tensor) for tensor in (x, *states, *layer.parameters())} - {id(tensor) for tensor in inputs}
        assert all(tensor.grad is None for tensor in (x, *states, *layer.parameters()) if id(tensor) in unwanted)
        return [tensor.grad for tensor in inputs]

    assert_agree(gradients, mode)


LOSSES: dict[str, Callable[[Any], Tensor]] = {
    "output": lambda result: result[0].pow(2).sum(),
    "sum of the output": lambda result: result[0].sum(),
    "last output": lambda result: result[0][-1].sum(),
    "first output": lambda result: result[0][0].sum(),
    "one unit": lambda result: result[0][..., 2].sum(),
    "final hidden": lambda result: finals(result)[0].pow(2).sum(),
    "last final": lambda result: finals(result)[-1].sum(),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("used", LOSSES)
def test_gradients_of_a_loss_of_a_part_of_what_is_returned(mode: str, used: str) -> None:
    def gradients(layer: Any) -> Any:
        x, states = leaves(layer)
        loss = LOSSES[used](layer(x, given(states)))
        return torch.autograd.grad(loss, [x, *states, *layer.parameters()])

    assert_agree(gradients, mode)


def test_gradients_given_in_another_layout_or_expanded_agree() -> None:
    def gradients(layer: Any) -> Any:
        output, _ = layer(drawn(layer))
        turned = drawn(layer, H, T, B, seed=3).permute(1, 2, 0)
        one_row = drawn(layer, 1, 1, H, seed=4).expand(T, B, H)
        return [
            torch.autograd.grad(output, list(layer.parameters()), upstream, retain_graph=True)
            for upstream in (turned, one_row)
        ]

    assert_agree(gradients)


# Derivatives that the kernels cannot form


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("packed", [False, True])
def test_gradient_of_a_gradient_penalty_agrees(mode: str, packed: bool) -> None:
    def gradients(layer: Any) -> Any:
        x, states = leaves(layer)
        called = pack_padded_sequence(x, LENGTHS, enforce_sorted=False) if packed else x
        loss = wild(layer(called, given(states)))
        first = torch.autograd.grad(loss, [x, *states], create_graph=True)
        penalty = sum(gradient.pow(2).sum() for gradient in first)
        return first, torch.autograd.grad(penalty + loss, [x, *states, *layer.parameters()])

    assert_agree(gradients, mode, tolerance=1e-4, bidirectional=True)


@pytest.mark.parametrize("mode", MODES)
def test_third_derivative_agrees(mode: str) -> None:
    def gradients(layer: Any) -> Any:
        x, _ = leaves(layer)
        (first,) = torch.autograd.grad(wild(layer(x)), x, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
        return torch.autograd.grad(second.pow(2).sum(), layer.weight_hh_l0)

    assert_agree(gradients, mode, tolerance=1e-4)


@pytest.mark.filterwarnings("ignore:Using backward.* with create_graph=True:UserWarning")
@pytest.mark.parametrize("mode", MODES)
def test_backward_with_create_graph_leaves_differentiable_gradients_of_parameters(mode: str) -> None:
    def gradients(layer: Any) -> Any:
        wild(layer(drawn(layer))).backward(create_graph=True)
        weight = layer.weight_hh_l0
        first, weight.grad = weight.grad, None
        return first, torch.autograd.grad(first.pow(2).sum(), [weight, layer.bias_ih_l0])

    assert_agree(gradients, mode, tolerance=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_batched_upstream_gradients_agree_and_leave_no_graph(mode: str) -> None:
    def gradients(layer: Any) -> Any:
        x, states = leaves(layer)
        output, _ = layer(x, given(states))
        upstream, wanted = drawn(layer, 7, T, B, H, seed=5), [x, *states, *layer.parameters()]
        found = torch.autograd.grad(output, wanted, upstream, is_grads_batched=True)
        assert not any(gradient.requires_grad for gradient in found)
        return found

    assert_agree(gradients, mode)


def test_batched_upstream_gradients_can_be_differentiated_where_asked() -> None:
    def gradients(layer: Any) -> Any:
        x, _ = leaves(layer)
        output, _ = layer(x)
        upstream = drawn(layer, 3, T, B, H, seed=5)
        (found,) = torch.autograd.grad(output, x, upstream, is_grads_batched=True, create_graph=True)
        return torch.autograd.grad(found.pow(2).sum(), layer.weight_hh_l0)

    assert_agree(gradients, tolerance=1e-4)


@pytest.mark.parametrize("vectorize", [False, True])
def test_hessian_and_jacobian_of_autograd_functional_agree(vectorize: bool) -> None:
    def derivatives(layer: Any) -> Any:
        x = drawn(layer)[:3, :1]

        def last(value: Tensor) -> Tensor:
            return layer(value)[0][-1]

        return (
            torch.autograd.functional.jacobian(last, x, vectorize=vectorize),
            torch.autograd.functional.hessian(lambda value: last(value).pow(2).sum(), x, vectorize=vectorize),
        )

    assert_agree(derivatives, tolerance=1e-4)


def test_jvp_by_two_backwards_agrees() -> None:
    def derivative(layer: Any) -> Any:
        tangent = drawn(layer, seed=3)
        return torch.autograd.functional.jvp(lambda value: layer(value)[0], drawn(layer), tangent)

    assert_agree(derivative)


# torch.func and forward mode


def as_function(layer: Any) -> tuple[dict[str, Tensor], Callable[[Any, Tensor], Tensor]]:
    """The layer's parameters, and the loss of its output as a function of parameters and input."""
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    return parameters, lambda values, x: functional_call(layer, values, (x,))[0].pow(3).sum()


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "grad by the parameters": lambda layer: torch.func.grad(as_function(layer)[1])(as_function(layer)[0], drawn(layer)),
    "grad by the input": lambda layer: torch.func.grad(lambda x: layer(x)[0].pow(3).sum())(drawn(layer)),
    "gradients of each sample": lambda layer: torch.vmap(
        torch.func.grad(as_function(layer)[1]), in_dims=(None, 0), randomness="error"
    )(as_function(layer)[0], drawn(layer, 3, T, 1, I)),
    "vmap": lambda layer: torch.vmap(lambda x: layer(x)[0])(drawn(layer, 2, T, B, I)),
    "vmap over weights": lambda layer: torch.vmap(
        lambda w, x: functional_call(layer, {"weight_hh_l0": w}, (x,))[0], in_dims=(0, None)
    )(drawn(layer, 2, *layer.weight_hh_l0.shape), drawn(layer)),
    "vmap of unbatched sequences": lambda layer: torch.vmap(lambda x: layer(x)[0], in_dims=1)(drawn(layer)),
    "jvp": lambda layer: torch.func.jvp(lambda x: layer(x)[0], (drawn(layer),), (drawn(layer, seed=3),)),
    "vjp": lambda layer: torch.func.vjp(lambda x: layer(x)[0], drawn(layer))[1](drawn(layer, T, B, H)),
    "jacrev": lambda layer: torch.func.jacrev(lambda x: layer(x)[0][-1])(drawn(layer)),
    "jacfwd": lambda layer: torch.func.jacfwd(lambda x: layer(x)[0][-1])(drawn(layer)),
    "hessian": lambda layer: torch.func.hessian(lambda x: layer(x)[0][-1].pow(2).sum())(drawn(layer)[:2, :1]),
}


@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_torch_func_agree(mode: str, transform: str) -> None:
    assert_agree(TRANSFORMS[transform], mode, tolerance=1e-4)


def test_functional_call_without_a_transform_takes_the_kernels_and_agrees(kernels: Any) -> None:
    def gradients(layer: Any) -> Any:
        doubled = {name: (2 * value.detach()).requires_grad_() for name, value in layer.named_parameters()}
        output, _ = functional_call(layer, doubled, (drawn(layer),))
        return output, torch.autograd.grad(output.pow(2).sum(), list(doubled.values()))

    assert_agree(gradients)
    assert kernels.forward == [True]


@pytest.mark.parametrize("mode", MODES)
def test_forward_mode_derivatives_by_input_and_weight_agree(mode: str) -> None:
    def tangent(layer: Any) -> Any:
        with forward_ad.dual_level():
            x = forward_ad.make_dual(drawn(layer), drawn(layer, seed=2))
            weight = forward_ad.make_dual(layer.weight_hh_l0.detach(), drawn(layer, *layer.weight_hh_l0.shape, seed=3))
            output, _ = functional_call(layer, {"weight_hh_l0": weight}, (x,))
            return tuple(forward_ad.unpack_dual(output))

    assert_agree(tangent, mode)


def test_forward_over_reverse_agrees() -> None:
    def product(layer: Any) -> Any:
        with forward_ad.dual_level():
            x = forward_ad.make_dual(drawn(layer).requires_grad_(), drawn(layer, seed=2))
            (gradient,) = torch.autograd.grad(wild(layer(x)), x)
            return forward_ad.unpack_dual(gradient).tangent

    assert_agree(product, tolerance=1e-4)


# What surrounds a layer


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_layers_have_the_gradients_of_plain_ones(use_reentrant: bool) -> None:
    fast, exact = pair()
    x = drawn(fast).requires_grad_()
    checkpoint(lambda value: fast(value)[0], x, use_reentrant=use_reentrant).pow(3).sum().backward()
    y = drawn(exact).requires_grad_()
    close(
        [x.grad, *(p.grad for p in fast.parameters())],
        torch.autograd.grad(exact(y)[0].pow(3).sum(), [y, *exact.parameters()]),
    )


@pytest.mark.parametrize(
    "unpack",
    [lambda saved: saved.float(), lambda saved: saved.float().transpose(0, -1).contiguous().transpose(0, -1)],
    ids=["as packed", "with other strides"],
)
def test_saved_tensors_may_be_packed_and_unpacked(unpack: Any) -> None:
    fast, exact = pair()
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved.double(), unpack):
        x, states = leaves(fast)
        loss = wild(fast(x, given(states)))
    close(torch.autograd.grad(loss, [x, *states, *fast.parameters()]), all_gradients(exact))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_under_autocast_a_layer_is_computed_in_float32_and_returns_bfloat16(mode: str, backend: str) -> None:
    fast, exact = pair(mode)
    weigh = drawn(exact, T, B, H, seed=3)
    x = drawn(fast).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), unrolled.backend(backend):
        result = fast(x)
    outside = fast(x)
    for found, wanted in zip((result[0], *finals(result)), (outside[0], *finals(outside)), strict=True):
        assert found.dtype is torch.bfloat16
        torch.testing.assert_close(found.float(), wanted, rtol=2**-8, atol=1e-6)
    x_exact = drawn(exact).requires_grad_()
    found = torch.autograd.grad((result[0] * weigh).sum(), [x, *fast.parameters()])
    close(found, torch.autograd.grad((exact(x_exact)[0] * weigh).sum(), [x_exact, *exact.parameters()]), 2**-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_backward_inside_autocast_of_a_forward_outside_agrees(mode: str) -> None:
    fast, exact = pair(mode)
    x, states = leaves(fast)
    loss = wild(fast(x, given(states)))
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(loss, [x, *states, *fast.parameters()])
    close(found, all_gradients(exact), tolerance=3e-2)


def test_weight_norm_on_the_recurrent_weight_agrees() -> None:
    def gradients(layer: Any) -> Any:
        weight_norm(layer, "weight_hh_l0")
        x, states = leaves(layer)
        return torch.autograd.grad(wild(layer(x, given(states))), [x, *states, *layer.parameters()])

    assert_agree(gradients)


def test_hooks_on_parameters_see_and_change_their_gradients() -> None:
    def gradients(layer: Any) -> Any:
        seen: dict[str, Tensor] = {}
        layer.weight_hh_l0.register_hook(lambda gradient: seen.update(before=gradient.clone()))
        layer.bias_ih_l0.register_hook(lambda gradient: 3 * gradient)
        layer.weight_ih_l0.register_post_accumulate_grad_hook(lambda p: seen.update(after=p.grad.clone()))
        wild(layer(drawn(layer))).backward()
        return seen["before"], seen["after"], [p.grad for p in layer.parameters()]

    assert_agree(gradients)


def test_gradients_of_the_two_biases_are_tensors_of_their_own() -> None:
    fast, _ = pair()
    wild(fast(drawn(fast))).backward()
    expected = fast.bias_hh_l0.grad.clone()
    fast.bias_ih_l0.grad.zero_()
    assert torch.equal(fast.bias_hh_l0.grad, expected)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_kept_by_the_user_are_not_written_by_later_backwards(mode: str) -> None:
    fast, _ = pair(mode)
    kept = all_gradients(fast)
    before = [gradient.clone() for gradient in kept]
    all_gradients(fast)
    assert all(torch.equal(one, other) for one, other in zip(kept, before, strict=True))


def test_anomaly_mode_finds_nothing_in_a_sound_backward() -> None:
    with torch.autograd.set_detect_anomaly(True):
        assert_agree(all_gradients)


def test_inference_mode_gives_the_same_numbers_without_graph() -> None:
    def outputs(layer: Any) -> Any:
        with torch.inference_mode():
            result = layer(drawn(layer), given(states_of(layer)))
            assert result[0].is_inference()
            return [result[0].clone(), *(state.clone() for state in finals(result))]

    assert_agree(outputs, bidirectional=True)


def test_weights_shared_by_two_layers_get_the_gradients_of_both() -> None:
    def gradients(layer: Any) -> Any:
        other = type(layer)(I, H, dtype=dtype_of(layer))
        for name, parameter in layer.named_parameters():
            setattr(other, name, parameter)
        loss = wild(layer(drawn(layer))) + wild(other(drawn(layer, seed=4)))
        return torch.autograd.grad(loss, list(layer.parameters()))

    assert_agree(gradients)


def test_a_layer_called_twice_with_its_states_handed_on_agrees() -> None:
    def gradients(layer: Any) -> Any:
        x, states = leaves(layer)
        first, middle = layer(x[:2], given(states))
        last = layer(x[2:], middle)
        return torch.autograd.grad(wild(last) + first.sum(), [x, *states, *layer.parameters()])

    for mode in MODES:
        assert_agree(gradients, mode)


def test_two_calls_whose_backwards_run_in_the_other_order_agree() -> None:
    def gradients(layer: Any) -> Any:
        one, other = wild(layer(drawn(layer))), wild(layer(drawn(layer, seed=4)))
        return torch.autograd.grad(one, layer.weight_hh_l0), torch.autograd.grad(other, layer.weight_hh_l0)

    assert_agree(gradients)


def test_weights_that_are_views_in_another_layout_agree() -> None:
    def gradients(layer: Any) -> Any:
        for name in ("weight_ih_l0", "weight_hh_l0"):
            turned = layer.get_parameter(name).detach().t().contiguous()
            setattr(layer, name, nn.Parameter(turned.t()))
            assert not layer.get_parameter(name).is_contiguous()
        for name in ("bias_ih_l0", "bias_hh_l0"):
            apart = layer.get_parameter(name).detach().repeat_interleave(2)
            setattr(layer, name, nn.Parameter(apart[::2]))
        return all_gradients(layer)

    for mode in MODES:
        assert_agree(gradients, mode)


def test_a_deep_copy_has_a_graph_of_its_own() -> None:
    fast, exact = pair()
    twin = copy.deepcopy(fast)
    wild(twin(drawn(twin))).backward()
    assert fast.weight_hh_l0.grad is None
    close(twin.weight_hh_l0.grad, torch.autograd.grad(wild(exact(drawn(exact))), exact.weight_hh_l0))


def test_backward_in_another_thread_agrees() -> None:
    fast, exact = pair()
    x, states = leaves(fast)
    loss, found = wild(fast(x, given(states))), []
    thread = threading.Thread(target=lambda: found.append(torch.autograd.grad(loss, [x, *states, *fast.parameters()])))
    thread.start()
    thread.join()
    close(found, all_gradients(exact))


def test_forward_and_backward_in_many_threads_at_once_agree() -> None:
    fast, exact = pair()
    expected, found = all_gradients(exact), [[] for _ in range(6)]

    def work(mine: list[Any]) -> None:
        mine.extend(all_gradients(fast) for _ in range(20))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(mine) for mine in found] == [20] * 6
    for mine in found:
        for gradients in mine:
            close(gradients, expected)


def test_the_graph_is_freed_without_the_garbage_collector() -> None:
    fast, _ = pair()
    gc.collect()
    gc.disable()
    try:
        output, states = fast(drawn(fast))
        node = weakref.ref(output.grad_fn)
        del output, states
        assert node() is None
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
def test_large_layers_whose_weights_gradients_torch_sums_agree(mode: str, kernels: Any) -> None:
    kind = mode.partition("_")[0]
    torch.manual_seed(0)
    fast = getattr(unrolled, kind)(96, 640)
    exact = getattr(unrolled, kind)(96, 640, dtype=torch.float64)
    exact.load_state_dict(fast.state_dict())
    found = []
    for layer in (fast, exact):
        x = drawn(layer, 5, B, 96).requires_grad_()
        found.append(torch.autograd.grad(wild(layer(x)), [x, *layer.parameters()]))
    close(*found, tolerance=2e-4)
    assert kernels.backward == [False]
