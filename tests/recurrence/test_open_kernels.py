"""Recording through the kernels: values, and every gradient of and with respect to states and gates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode

import unrolled
from exact import MODES, B, H, I, T, assert_agree, close, drawn, given, pair, states_of, wild
from unrolled.layers import weights_of
from unrolled.recurrence import cpu, ops, reference
from unrolled.recurrence.cells import CELLS

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason="the kernels were not built")

LENGTHS = torch.tensor([2, 6, 3])
FORMS = ["batched", "packed", "unbatched", "two calls"]
Recorded = tuple[unrolled.Trace, Any, list[Tensor]]


def recorded(layer: Any, form: str = "batched", names: str = "*", **options: Any) -> Recorded:
    """A trace of a call, what the layer returned last, and the leaves that the call was made with."""
    x, states = drawn(layer).requires_grad_(), tuple(state.requires_grad_() for state in states_of(layer))
    with unrolled.record(layer, names=names, **options) as trace:
        if form == "batched":
            result = layer(x, given(states))
        elif form == "packed":
            result = layer(pack_padded_sequence(x, LENGTHS, enforce_sorted=False), given(states))
        elif form == "unbatched":
            result = layer(x[:, 0], given(tuple(state[:, 0] for state in states)))
        else:
            first, middle = layer(x[:2], given(states))
            result = layer(x[2:] * first.mean(), middle)
    return trace, result, [x, *states]


def state_names(layer: Any) -> list[str]:
    return list(unrolled.trace.recordable(layer))


# Values


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
def test_every_recorded_name_equals_that_of_the_reference_in_float64(mode: str, form: str) -> None:
    def values(layer: Any) -> Any:
        trace, _, _ = recorded(layer, form)
        assert list(trace) == state_names(layer)
        assert not any(value.isnan().any() for value in trace.values())
        return [value.detach() for value in trace.values()] + [value.detach() for value in trace.initial.values()]

    assert_agree(values, mode, num_layers=2, bidirectional=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("form", ["batched", "packed"])
def test_recording_without_gradients_has_the_same_values_and_no_graph(mode: str, context: Any, form: str) -> None:
    fast, _ = pair(mode, bidirectional=True)
    with_graph, _, _ = recorded(fast, form)
    with context():
        without, _, _ = recorded(fast, form)
        assert not any(value.requires_grad for value in without.values())
        for name, value in without.items():
            assert torch.equal(value, with_graph[name].detach())


@pytest.mark.parametrize("mode", MODES)
def test_a_detached_recording_has_the_values_and_no_graph(mode: str) -> None:
    fast, _ = pair(mode)
    kept, _, _ = recorded(fast)
    detached, result, leaves = recorded(fast, detach=True)
    assert not any(value.requires_grad for value in detached.values())
    assert all(torch.equal(value, kept[name].detach()) for name, value in detached.items())
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(wild(result), leaves))


@pytest.mark.parametrize("mode", MODES)
def test_recording_changes_neither_what_a_layer_returns_nor_its_gradients(mode: str) -> None:
    fast, _ = pair(mode, bidirectional=True)
    _, opened, leaves = recorded(fast)
    x, *states = (leaf.detach().requires_grad_() for leaf in leaves)
    closed = fast(x, given(tuple(states)))
    assert torch.equal(opened[0], closed[0])
    one = torch.autograd.grad(wild(opened), [*leaves, *fast.parameters()])
    other = torch.autograd.grad(wild(closed), [x, *states, *fast.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("detach", [False, True])
def test_a_change_of_the_output_in_place_does_not_change_the_recorded_hidden_state(context: Any, detach: bool) -> None:
    for mode in MODES:
        fast, _ = pair(mode)
        with context():
            with unrolled.record(fast, detach=detach) as trace:
                output, _ = fast(drawn(fast))
            before = output.detach().clone()
            output.mul_(-3)
            assert torch.equal(trace["l0.hidden"].detach().transpose(0, 1), before), mode


# What is stored


@pytest.mark.parametrize("mode", MODES)
def test_without_gradients_and_recording_nothing_is_stored_that_is_not_returned(mode: str, kernels: Any) -> None:
    fast, _ = pair(mode, num_layers=2)
    with torch.no_grad():
        fast(drawn(fast))
    assert kernels.forward == [False, False]
    for returned in kernels.returned:
        assert returned.cells.numel() == returned.gates.numel() == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_frozen_layer_stores_nothing_although_gradients_are_on(mode: str, kernels: Any) -> None:
    fast, _ = pair(mode)
    fast.requires_grad_(False)
    output, _ = fast(drawn(fast))
    assert kernels.forward == [False]
    assert not output.requires_grad


def test_recording_hidden_states_alone_without_gradients_stores_no_cells_and_gates(kernels: Any) -> None:
    fast, _ = pair("LSTM")
    with torch.no_grad():
        recorded(fast, names="*.hidden")
        recorded(fast, names="*.cell")
    assert kernels.forward == [False, True]


def test_only_the_layer_that_is_recorded_stores_its_gates(kernels: Any) -> None:
    fast, _ = pair("LSTM", num_layers=3)
    with torch.no_grad():
        recorded(fast, names="l1.forget_gate")
    assert kernels.forward == [False, True, False]


@pytest.mark.parametrize("names", ["*.hidden", "*.cell", "*.forget_gate"])
def test_memory_of_inference_is_that_of_what_is_returned_and_recorded(names: str) -> None:
    fast, steps, batch, hidden = unrolled.LSTM(8, 64), 50, 16, 64
    x = torch.randn(steps, batch, 8)

    def allocated(recording: bool) -> int:
        with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
            if recording:
                with unrolled.record(fast, names=names):
                    fast(x)
            else:
                fast(x)
        return sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())

    one_state = 4 * steps * batch * hidden
    fast(x)
    assert one_state <= allocated(False) < 1.2 * one_state
    blocks = 2 if names == "*.hidden" else 6  # a hidden state of its own; cells and all four gates
    assert allocated(True) < (blocks + 0.5) * one_state


# Gradients of losses of what was recorded


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_a_loss_of_each_recorded_name_agree(mode: str, form: str) -> None:
    for name in state_names(pair(mode, bidirectional=True)[0]):

        def gradients(layer: Any, name: str = name) -> Any:
            trace, _, leaves = recorded(layer, form)
            return torch.autograd.grad(trace[name].pow(3).sum(), [*leaves, *layer.parameters()], materialize_grads=True)

        assert_agree(gradients, mode, bidirectional=True)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_a_loss_of_everything_recorded_and_returned_agree(mode: str) -> None:
    def gradients(layer: Any) -> Any:
        trace, result, leaves = recorded(layer, "packed")
        loss = wild(result) + sum(value.pow(3).sum() for value in trace.values())
        return torch.autograd.grad(loss, [*leaves, *layer.parameters()])

    assert_agree(gradients, mode, num_layers=2, bidirectional=True, tolerance=2e-5)


# Gradients with respect to what was recorded


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
def test_gradients_by_every_recorded_name_agree_and_come_from_the_kernels(
    mode: str, form: str, options: Any, kernels: Any
) -> None:
    def gradients(layer: Any) -> Any:
        trace, result, _ = recorded(layer, form)
        loss = wild(result) + trace[state_names(layer)[-1]].pow(2).sum()
        return torch.autograd.grad(loss, list(trace.values()))

    assert_agree(gradients, mode, tolerance=2e-5, **options)
    assert kernels.backward == [True] * len(kernels.forward)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_by_states_weights_and_leaves_in_one_call_agree(mode: str) -> None:
    def gradients(layer: Any) -> Any:
        trace, result, leaves = recorded(layer)
        wanted = [layer.weight_hh_l0, *trace.values(), *leaves, trace["l0.hidden"][:, 1:3], trace["l0.hidden"][0, -1]]
        return torch.autograd.grad(result[0][:5].pow(3).sum(), wanted)

    assert_agree(gradients, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_loss_of_one_name_by_another_agrees(mode: str) -> None:
    names = state_names(pair(mode)[0])
    for by in names:

        def gradients(layer: Any, by: str = by) -> Any:
            trace, _, _ = recorded(layer)
            return torch.autograd.grad(trace[names[-1]][:, 2:4].pow(3).sum(), trace[by])

        assert_agree(gradients, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_retained_graph_gives_the_same_gradients_by_states_again(mode: str) -> None:
    fast, _ = pair(mode)
    trace, result, leaves = recorded(fast)
    loss, wanted = wild(result), [*trace.values(), *leaves]
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    plain = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(loss, wanted)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(first[-len(leaves) :], plain, strict=True))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, wanted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["batched", "packed", "two calls"])
def test_batched_upstream_gradients_by_states_agree_and_leave_no_graph(mode: str, form: str) -> None:
    def gradients(layer: Any) -> Any:
        trace, result, leaves = recorded(layer, form)
        output = result[0].data if isinstance(result[0], nn.utils.rnn.PackedSequence) else result[0]
        upstream = drawn(layer, 5, *output.shape, seed=9)
        found = torch.autograd.grad(output, [*trace.values(), *leaves], upstream, is_grads_batched=True)
        assert not any(gradient.requires_grad for gradient in found)
        return found

    assert_agree(gradients, mode)


SECOND: dict[str, Callable[[unrolled.Trace, Any, list[Tensor]], list[Tensor]]] = {
    "weights": lambda trace, layer, leaves: list(layer.parameters()),
    "the same state": lambda trace, layer, leaves: [trace["l0.hidden"]],
    "the last name": lambda trace, layer, leaves: [list(trace.values())[-1]],
    "leaves": lambda trace, layer, leaves: leaves,
}
FIRST = {
    **SECOND,
    "weights": lambda trace, layer, leaves: [layer.weight_hh_l0, layer.bias_hh_l0],
    "states of one layer": lambda trace, layer, leaves: [trace["l0.hidden"]],
}


@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", SECOND)
def test_second_derivatives_by_states_weights_and_leaves_agree(mode: str, first: str, second: str) -> None:
    def derivatives(layer: Any) -> Any:
        trace, result, leaves = recorded(layer)
        once = torch.autograd.grad(wild(result), FIRST[first](trace, layer, leaves), create_graph=True)
        penalty = sum(gradient.pow(2).sum() for gradient in once)
        return once, torch.autograd.grad(penalty, SECOND[second](trace, layer, leaves), materialize_grads=True)

    assert_agree(derivatives, mode, tolerance=1e-4, num_layers=2)


@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
@pytest.mark.parametrize("kernels_compute", [True, False])
def test_second_derivatives_by_every_name_are_those_of_pushing_that_state_after_its_step(
    mode: str, kernels_compute: bool
) -> None:
    """d/ds of a function of dL/dW is what is found when s is pushed by a little and all after it computed anew."""
    fast, exact = pair(mode)
    layer, cell, x = fast if kernels_compute else exact, CELLS[mode], drawn(exact)
    states = tuple(torch.zeros(B, H, dtype=torch.float64) for _ in cell.states)

    def squared_gradient(name: str, push: Tensor) -> Tensor:
        def pushed(t: int, at: str, value: Tensor) -> Tensor:
            return value + push[t] if at == name else value

        output = reference.unroll(cell, x, states, weights_of(exact, "l0"), edit=pushed).output
        (gradient,) = torch.autograd.grad(output.pow(3).sum(), exact.weight_hh_l0)
        return gradient.pow(2).sum()

    with unrolled.record(layer) as trace:
        output, _ = layer(drawn(layer))
    (gradient,) = torch.autograd.grad(output.pow(3).sum(), layer.weight_hh_l0, create_graph=True)
    for name in cell.names:
        (found,) = torch.autograd.grad(gradient.pow(2).sum(), trace[f"l0.{name}"], retain_graph=True)
        direction = torch.randn(T, B, H, dtype=torch.float64)
        step = 1e-5 * direction
        expected = (squared_gradient(name, step) - squared_gradient(name, -step)) / 2e-5
        close((found.transpose(0, 1) * direction).sum(), expected, tolerance=1e-4)


def test_second_derivatives_of_packed_and_joined_calls_agree() -> None:
    for form in ("packed", "two calls"):

        def derivatives(layer: Any, form: str = form) -> Any:
            trace, result, leaves = recorded(layer, form)
            (once,) = torch.autograd.grad(wild(result), trace["l0.cell"], create_graph=True)
            wanted = [trace["l0.forget_gate"], trace["l0_reverse.hidden"], trace["l0.cell"], *leaves]
            return torch.autograd.grad(once.pow(2).sum() + trace["l0.output_gate"].pow(3).sum(), wanted)

        assert_agree(derivatives, tolerance=1e-4, bidirectional=True)


def test_second_derivative_where_gates_depend_on_nothing_that_wants_gradients() -> None:
    """At the first step of an LSTM whose initial cell alone wants gradients no gate is in the graph."""

    def gradient(layer: Any) -> Any:
        layer.requires_grad_(False)
        hidden, cell = states_of(layer)
        cell.requires_grad_()
        with unrolled.record(layer) as trace:
            _, (_, c_n) = layer(drawn(layer)[:1], (hidden, cell))
        loss = c_n.pow(2).sum() + trace["l0.input_gate"].sum()
        return torch.autograd.grad(loss, cell, create_graph=True)

    assert_agree(gradient)


# What a plain backward does while recording


class Watched(ops.Taps):
    """Remembers every call's taps."""

    made: list[Watched] = []  # noqa: RUF012

    def __init__(self, call: cpu.Call) -> None:
        super().__init__(call)
        self.made.append(self)


@pytest.fixture
def taps(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    monkeypatch.setattr(Watched, "made", [])
    monkeypatch.setattr(ops, "Taps", Watched)
    return Watched.made


@pytest.mark.filterwarnings("ignore:Using backward.* with create_graph=True:UserWarning")
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_plain_backward_forms_no_gradients_of_states(kernels: Any, taps: list[Watched], create_graph: bool) -> None:
    fast, _ = pair("LSTM", bidirectional=True)
    _, result, _ = recorded(fast)
    wild(result).backward(create_graph=create_graph)
    assert kernels.backward == ([] if create_graph else [False, False])
    assert len(taps) == 2
    for tap in taps:
        assert not tap.wanted
        assert tap.tensor.grad is None
        assert tap.tensor.untyped_storage().nbytes() <= 4


def test_a_plain_backward_after_a_gradient_by_states_forms_none(kernels: Any, taps: list[Watched]) -> None:
    fast, _ = pair("LSTM")
    trace, result, _ = recorded(fast)
    torch.autograd.grad(wild(result), trace["l0.cell"], retain_graph=True)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(wild(result), [trace["l0.cell"], torch.zeros(1, requires_grad=True)], retain_graph=True)
    assert not taps[0].wanted
    wild(result).backward()
    assert kernels.backward == [True, True, False]
    assert taps[0].tensor.grad is None


def test_gradients_by_one_layers_states_form_none_of_another_layer(kernels: Any, taps: list[Watched]) -> None:
    fast, _ = pair("LSTM", num_layers=2)
    trace, result, _ = recorded(fast)
    torch.autograd.grad(wild(result), trace["l1.cell"])
    # The first layer's backward need not run at all.
    assert kernels.backward == [True]


def test_a_change_in_place_before_a_gradient_by_states_is_torchs_error() -> None:
    fast, _ = pair("LSTM")
    trace, result, _ = recorded(fast)
    loss = wild(result)
    with torch.no_grad():
        fast.weight_hh_l0.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, trace["l0.cell"])


# Recorded layers amid other things


def test_a_torch_layer_recorded_in_float32_goes_through_the_kernels(kernels: Any) -> None:
    def gradients(layer: Any) -> Any:
        theirs = nn.LSTM(I, H, dtype=layer.weight_ih_l0.dtype)
        theirs.load_state_dict(layer.state_dict())
        with unrolled.record(theirs) as trace:
            output, _ = theirs(drawn(theirs))
        return torch.autograd.grad(output[-1].pow(2).sum(), list(trace.values()))

    assert_agree(gradients)
    assert kernels.forward == [True]


def test_two_recordings_at_once_see_the_same() -> None:
    fast, _ = pair("LSTM")
    with unrolled.record(fast, names="*.cell") as outer, unrolled.record(fast) as inner:
        output, _ = fast(drawn(fast))
    loss = output[-1].sum()
    one, other = torch.autograd.grad(loss, [outer["l0.cell"], inner["l0.cell"]])
    assert torch.equal(one, other)
    assert list(outer) == ["l0.cell"]
    assert len(inner) == len(CELLS["LSTM"].names)


def test_recording_under_a_dispatch_mode_goes_through_the_operator_and_agrees() -> None:
    called = []

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(str(func))
            return func(*args, **(kwargs or {}))

    def gradients(layer: Any) -> Any:
        with Noting():
            trace, result, leaves = recorded(layer)
            found = torch.autograd.grad(wild(result), [*trace.values(), *leaves], retain_graph=True)
            assert not any(gradient.requires_grad for gradient in found)
            return found, torch.autograd.grad(wild(result), list(layer.parameters()))

    assert_agree(gradients)
    assert "unrolled.recurrence.default" in called
    assert "unrolled.recurrence_backward.default" in called


def test_a_recorded_state_can_be_copied_and_its_copy_has_no_graph() -> None:
    fast, _ = pair("LSTM")
    trace, _, _ = recorded(fast)
    twin = copy.deepcopy(trace["l0.forget_gate"])
    assert type(twin) is Tensor
    assert torch.equal(twin, trace["l0.forget_gate"].detach())


def test_a_recorded_layer_called_with_one_step_agrees() -> None:
    for mode in MODES:

        def gradients(layer: Any) -> Any:
            x = drawn(layer)[:1].requires_grad_()
            with unrolled.record(layer) as trace:
                result = layer(x)
            assert trace["l0.hidden"].shape == (B, 1, H)
            return torch.autograd.grad(wild(result), [x, *trace.values()])

        assert_agree(gradients, mode, bidirectional=True)


def test_the_shape_of_a_recorded_sequence_is_batch_time_units() -> None:
    fast, _ = pair("GRU")
    trace, _, _ = recorded(fast)
    assert {tuple(value.shape) for value in trace.values()} == {(B, T, H)}
