"""Gradients of losses of recorded tensors, and of losses with respect to them, against a hand-written loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import unrolled
from by_hand import GATES, LENGTHS, B, H, Hand, Loop, close, inputs, layer


def test_detached_trace_has_the_same_values_and_no_graph() -> None:
    model, x = layer(), inputs()
    with unrolled.record(model) as trace:
        model(x)
    with unrolled.record(model, detach=True) as detached:
        output, _ = model(x)
    assert output.requires_grad
    for name, tensor in detached.items():
        assert type(tensor) is Tensor
        assert not tensor.requires_grad
        assert torch.equal(tensor, trace[name])
    assert not any(value.requires_grad for value in detached.initial.values())


@pytest.mark.parametrize("name", GATES["LSTM"])
def test_weight_gradients_of_a_loss_of_a_trace_tensor_equal_those_of_a_hand_written_loop(name: str) -> None:
    model, x = layer(), inputs()
    with unrolled.record(model) as trace:
        model(x)
    weights = list(model.parameters())
    expected = torch.autograd.grad(Hand(model, x).joined(name).pow(3).sum(), weights)
    close(torch.autograd.grad(trace[f"l0.{name}"].pow(3).sum(), weights), expected)


def test_backward_of_a_loss_of_a_trace_tensor_fills_the_gradients_of_the_weights() -> None:
    model, x = layer(), inputs()
    with unrolled.record(model) as trace:
        model(x)
    trace["l0.cell"].square().sum().backward()
    expected = torch.autograd.grad(Hand(model, x).joined("cell").square().sum(), list(model.parameters()))
    close([p.grad for p in model.parameters()], list(expected))


@pytest.mark.parametrize("name", GATES["LSTM"])
def test_gradient_by_a_state_or_gate_equals_that_of_a_hand_written_loop_at_every_step(name: str) -> None:
    model, x = layer(), inputs()
    with unrolled.record(model) as trace:
        output, (_, cell) = model(x)
    hand = Hand(model, x)
    (hand["hidden"][3].pow(3).sum() + hand["cell"][-1].square().sum()).backward()
    (gradient,) = torch.autograd.grad(output[:, 3].pow(3).sum() + cell.square().sum(), trace[f"l0.{name}"])
    assert type(gradient) is Tensor
    assert gradient.abs().sum() > 0
    close(gradient, hand.gradient(name))


def test_gradient_of_a_loss_of_one_trace_tensor_by_another() -> None:
    model, x = layer(), inputs()
    with unrolled.record(model) as trace:
        model(x)
    hand = Hand(model, x)
    hand.joined("forget_gate").pow(2).sum().backward()
    (gradient,) = torch.autograd.grad(trace["l0.forget_gate"].pow(2).sum(), trace["l0.cell"])
    close(gradient, hand.gradient("cell"))


def test_gradient_by_the_states_of_a_cell_in_a_users_loop() -> None:
    model, x = Loop(), inputs()
    same = layer()
    same.load_state_dict({f"{name}_l0": value for name, value in model.cell.state_dict().items()})
    with unrolled.record(model) as trace:
        loss = model(x).sum()
    hand = Hand(same, x)
    model.head(hand["hidden"][-1]).sum().backward()
    for name in GATES["LSTM"]:
        (gradient,) = torch.autograd.grad(loss, trace[f"cell.{name}"], retain_graph=True)
        close(gradient, hand.gradient(name))


def test_gradient_over_several_calls_of_a_layer_is_laid_out_along_time_as_the_trace() -> None:
    model, x = layer(), inputs()
    with unrolled.record(model) as trace:
        _, states = model(x[:, :2])
        output, _ = model(x[:, 2:], states)
    hand = Hand(model, x)
    hand["hidden"][-1].pow(3).sum().backward()
    (gradient,) = torch.autograd.grad(output[:, -1].pow(3).sum(), trace["l0.cell"])
    close(gradient, hand.gradient("cell"))


@pytest.mark.parametrize(
    "part",
    [
        lambda s: s[0],
        lambda s: s[:, -2],
        lambda s: s[:, 1:4],
        lambda s: s[..., 2],
        lambda s: s[1][2:],
        lambda s: s[:, 1:][:, 0, [3, 1]],
        lambda s: s[torch.tensor([2, 0])],
        lambda s: s[None],
    ],
)
def test_gradient_by_an_indexed_part_is_that_part_of_the_gradient(part: Any) -> None:
    model, x = layer(), inputs()
    with unrolled.record(model) as trace:
        output, _ = model(x)
    hand = Hand(model, x)
    hand["hidden"][-1].pow(3).sum().backward()
    state = part(trace["l0.cell"])
    close(state.detach(), part(hand.joined("cell").detach()))
    (gradient,) = torch.autograd.grad(output[:, -1].pow(3).sum(), state)
    close(gradient, part(hand.gradient("cell")))


def test_gradient_by_a_masked_part_is_that_part_of_the_gradient() -> None:
    model, x = layer(), inputs()
    with unrolled.record(model) as trace:
        output, _ = model(x)
    cell = trace["l0.cell"]
    (whole,) = torch.autograd.grad(output.pow(3).sum(), cell, retain_graph=True)
    (part,) = torch.autograd.grad(output.pow(3).sum(), cell[cell > 0])
    assert 0 < part.numel() < whole.numel()
    assert torch.equal(part, whole[cell.detach() > 0])


def test_gradients_by_states_weights_and_input_are_found_in_one_call_in_the_order_asked_for() -> None:
    model, x = layer(), inputs().requires_grad_()
    with unrolled.record(model) as trace:
        output, _ = model(x)
    wanted = [model.weight_hh_l0, trace["l0.cell"], x, trace["l0.hidden"][:, 1], trace["l0.cell"][0]]
    found = torch.autograd.grad(output[:, -1].pow(3).sum(), wanted)
    hand = Hand(model, x)
    hand["hidden"][-1].pow(3).sum().backward()
    cell, hidden = hand.gradient("cell"), hand.gradient("hidden")
    close(list(found), [model.weight_hh_l0.grad, cell, x.grad, hidden[:, 1], cell[0]])


def test_gradients_by_a_dict_of_states_come_back_under_its_keys() -> None:
    model = layer()
    with unrolled.record(model) as trace:
        output, _ = model(inputs())
    loss = output.pow(3).sum()
    found = torch.autograd.grad(loss, {"c": trace["l0.cell"], "w": model.weight_ih_l0}, retain_graph=True)
    assert torch.equal(found["c"], torch.autograd.grad(loss, trace["l0.cell"], retain_graph=True)[0])
    assert torch.equal(found["w"], torch.autograd.grad(loss, model.weight_ih_l0)[0])


def test_upstream_gradients_are_taken_with_the_outputs() -> None:
    model = layer()
    with unrolled.record(model) as trace:
        output, _ = model(inputs())
    upstream = torch.randn_like(output)
    expected = torch.autograd.grad((output * upstream).sum(), trace["l0.cell"], retain_graph=True)
    close(torch.autograd.grad(output, trace["l0.cell"], upstream), expected)


@pytest.mark.parametrize("part", [lambda s: s, lambda s: s[1, 2:], lambda s: s[:, 0]])
def test_batched_upstream_gradients_give_what_a_loop_over_them_gives(part: Any) -> None:
    model = layer()
    with unrolled.record(model) as trace:
        output, _ = model(pack_padded_sequence(inputs(), LENGTHS, batch_first=True, enforce_sorted=False))
    output, upstream = output.data, torch.randn(7, *output.data.shape, dtype=torch.float64)
    wanted = [part(trace["l0.cell"]), model.weight_hh_l0]
    batched = torch.autograd.grad(output, wanted, upstream, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(output, wanted, one, retain_graph=True) for one in upstream]
    for found, expected in zip(batched, zip(*each, strict=True), strict=True):
        close(found, torch.stack(expected))


def test_second_derivative_through_the_gradient_by_a_state_equals_the_hand_written_one() -> None:
    model, x = layer(), inputs()
    with unrolled.record(model) as trace:
        output, _ = model(x)
    (gradient,) = torch.autograd.grad(output[:, -1].pow(3).sum(), trace["l0.cell"], create_graph=True)
    second = torch.autograd.grad(gradient.square().sum(), [model.weight_hh_l0, trace["l0.forget_gate"]])
    hand = Hand(model, x)
    by_cell = torch.autograd.grad(hand["hidden"][-1].pow(3).sum(), hand["cell"], create_graph=True)
    loss = torch.stack(by_cell).square().sum()
    weight, *gates = torch.autograd.grad(loss, [model.weight_hh_l0, *hand["forget_gate"]], allow_unused=True)
    gates = [torch.zeros(B, H, dtype=torch.float64) if gate is None else gate for gate in gates]
    close(second, (weight, torch.stack(gates, dim=1)))


def test_without_create_graph_the_gradient_has_none_and_the_graph_is_freed() -> None:
    model = layer()
    with unrolled.record(model) as trace:
        output, _ = model(inputs())
    loss = output.pow(3).sum()
    (gradient,) = torch.autograd.grad(loss, trace["l0.cell"])
    assert not gradient.requires_grad
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, trace["l0.cell"])


def test_a_state_that_the_loss_does_not_use_is_an_error_none_or_zero_as_asked() -> None:
    model = layer(num_layers=2)
    with unrolled.record(model) as trace:
        model(inputs())
    loss, unused = trace["l0.cell"].square().sum(), trace["l1.cell"]
    with pytest.raises(RuntimeError, match="Set allow_unused=True if this is the desired behavior"):
        torch.autograd.grad(loss, unused, retain_graph=True)
    assert torch.autograd.grad(loss, unused, retain_graph=True, allow_unused=True) == (None,)
    (zeros,) = torch.autograd.grad(loss, unused[:, 1:3], retain_graph=True, materialize_grads=True)
    assert torch.equal(zeros, torch.zeros(B, 2, H, dtype=torch.float64))
    with pytest.raises(ValueError, match="Expected allow_unused to be True or not passed"):
        torch.autograd.grad(loss, unused, allow_unused=False, materialize_grads=True)


def test_an_unused_weight_beside_a_state_is_an_error_none_or_zero_as_asked() -> None:
    model = nn.ModuleDict({"lstm": layer(), "other": nn.Linear(2, 2)})
    with unrolled.record(model) as trace:
        output, _ = model["lstm"](inputs())
    loss, wanted = output.sum(), [trace["lstm.l0.cell"], model["other"].weight]
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        torch.autograd.grad(loss, wanted, retain_graph=True)
    assert torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)[1] is None
    assert torch.equal(torch.autograd.grad(loss, wanted, materialize_grads=True)[1], torch.zeros(2, 2))


def test_steps_after_the_one_the_loss_reads_have_gradient_zero() -> None:
    model = layer()
    with unrolled.record(model) as trace:
        output, _ = model(inputs())
    (gradient,) = torch.autograd.grad(output[:, 2].sum(), trace["l0.cell"])
    assert gradient[:, :3].abs().sum(dim=(0, 2)).all()
    assert not gradient[:, 3:].any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_model_called_without_gradients_is_recorded_without_graph(mode: Any) -> None:
    model, x = layer(), inputs()
    with mode(), unrolled.record(model) as trace:
        output, _ = model(x)
    assert not trace["l0.cell"].requires_grad
    assert torch.equal(trace["l0.hidden"], output)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_trace_first_read_without_gradients_keeps_its_graph(mode: Any) -> None:
    model = layer()
    with unrolled.record(model) as trace:
        model(inputs())
    with mode():
        trace["l0.cell"]
    trace["l0.cell"].sum().backward()
    assert model.weight_ih_l0.grad is not None
