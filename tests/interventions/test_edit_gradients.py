"""Gradients by recorded states of an edited sequence."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import unrolled
from edited import (
    TOLERANCE,
    B,
    H,
    Hand,
    I,
    Loop,
    T,
    Twice,
    at,
    drawn,
    dtypes,
    every_mode,
    made,
)
from exact import close
from unrolled import Clamp, Push, Scale


@dtypes
@every_mode
def test_gradients_by_recorded_states_do_not_cross_a_state_that_is_wholly_clamped(
    mode: str, dtype: torch.dtype
) -> None:
    module, x = made(mode, batch_first=True, dtype=dtype), drawn(B, T, I, dtype=dtype)
    names = ["l0.hidden", "l0.cell"] if mode == "LSTM" else ["l0.hidden"]
    edits = [Clamp(name, 0.3, steps=4) for name in names]
    with unrolled.intervene(module, *edits), unrolled.record(module) as trace:
        output, _ = module(x)
    for name, gradient in zip(names, torch.autograd.grad(output[:, -1].sum(), [trace[n] for n in names]), strict=True):
        assert not gradient[:, :4].any()
        assert gradient[:, 4].abs().max() > 0, name
        assert gradient[:, 5:].abs().sum((0, 2)).gt(0)[-1 if name == "l0.hidden" else 0]


@dtypes
@pytest.mark.parametrize("part", [lambda s: s[:, 4], lambda s: s[1, 3:6], lambda s: s[:, 5:, [2, 0]]])
def test_gradient_by_an_indexed_part_of_an_edited_state_is_that_part(part: Any, dtype: torch.dtype) -> None:
    module, x = made(batch_first=True, dtype=dtype), drawn(B, T, I, dtype=dtype)
    with unrolled.intervene(module, Scale("l0.cell", 2.0, steps=4)), unrolled.record(module) as trace:
        output, _ = module(x)
    (whole,) = torch.autograd.grad(output.pow(3).sum(), trace["l0.cell"], retain_graph=True)
    (found,) = torch.autograd.grad(output.pow(3).sum(), part(trace["l0.cell"]))
    assert torch.equal(found, part(whole))


@dtypes
@every_mode
def test_frozen_weights_and_a_pushed_vector_alone_that_wants_a_gradient(mode: str, dtype: torch.dtype) -> None:
    module = made(mode, batch_first=True, bidirectional=True, dtype=dtype).requires_grad_(False)
    exact, x = copy.deepcopy(module).double(), drawn(B, T, I, dtype=dtype, grad=False)
    push, exact_push = drawn(H, seed=5, dtype=dtype), drawn(H, seed=5)
    with unrolled.intervene(module, Push("*.hidden", push, steps=4)), unrolled.record(module) as trace:
        output, _ = module(x)
    hand = Hand(
        exact,
        x.double().transpose(0, 1),
        [torch.zeros(2, B, H).double()] * (2 if mode == "LSTM" else 1),
        at("*.hidden", [4], lambda v, n, t: v + exact_push),
    )
    wanted_loss = hand.result[0].pow(3).sum()
    loss = output.pow(3).sum()
    by_push, *gradients = torch.autograd.grad(loss, [push, *(trace[name] for name in trace)])
    (wanted,) = torch.autograd.grad(wanted_loss, exact_push, retain_graph=True)
    close(by_push, wanted, TOLERANCE[dtype])
    for name, gradient in zip(trace, gradients, strict=True):
        nodes = hand.nodes[name]
        reached = [t for t, node in enumerate(nodes) if node.requires_grad]
        assert set(reached) | {4} == set(range(5) if "reverse" in name else range(4, T))
        by_hand = torch.autograd.grad(wanted_loss, [nodes[t] for t in reached], retain_graph=True)
        close(gradient[:, reached], torch.stack(by_hand, dim=1), TOLERANCE[dtype])
        assert not gradient[:, [t for t in range(T) if t not in reached]].any()


@dtypes
@every_mode
def test_frozen_weights_and_an_edit_in_the_second_call_of_a_layer(mode: str, dtype: torch.dtype) -> None:
    model, x = Twice(mode, dtype=dtype).requires_grad_(False), drawn(T, B, I, dtype=dtype, grad=False)
    push = drawn(H, seed=5, dtype=dtype)
    with unrolled.intervene(model, Push("*.hidden", push, steps=6)), unrolled.record(model) as trace:
        output = model(x)
    names = [name for name in trace if name.endswith(("hidden", "cell"))]
    with unrolled.intervene(model.lstm, Push("*.hidden", push, steps=6)), unrolled.record(model.lstm) as whole:
        wanted, _ = model.lstm(x)
    found = torch.autograd.grad(output[-1].pow(3).sum(), [trace[name] for name in names], allow_unused=True)
    close(
        [gradient[:, 6:] for gradient in found],
        torch.autograd.grad(wanted[-1].pow(3).sum(), [whole[name.replace("lstm.", "")][:, 6:] for name in names]),
        TOLERANCE[dtype],
    )
    assert not any(gradient[:, :6].any() for gradient in found)


@dtypes
@every_mode
def test_frozen_weights_and_an_edit_in_a_users_loop(mode: str, dtype: torch.dtype) -> None:
    model, x = Loop(mode, dtype=dtype).requires_grad_(False), drawn(T, B, I, dtype=dtype, grad=False)
    push = drawn(H, seed=5, dtype=dtype)
    states = [torch.zeros(B, H, dtype=dtype)] * (2 if mode == "LSTM" else 1)
    with unrolled.intervene(model, Push("*.hidden", push, steps=8)), unrolled.record(model) as trace:
        output, _ = model(x, states)
    (gradient,) = torch.autograd.grad(output[-1].pow(3).sum(), trace["cell.hidden"])
    close(gradient[:, -1], 3 * output[-1].pow(2), TOLERANCE[dtype])
    assert not gradient[:, :-1].any()


def test_frozen_weights_without_any_leaf_leave_nothing_to_differentiate() -> None:
    module, x = made().requires_grad_(False), drawn(T, B, I, dtype=torch.float32, grad=False)
    with unrolled.intervene(module, Push("l0.hidden", 1.0, steps=4)), unrolled.record(module) as trace:
        output, _ = module(x)
    assert not output.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(output.sum(), trace["l0.hidden"])


@dtypes
@every_mode
def test_batched_upstream_gradients_give_what_a_loop_over_them_gives(mode: str, dtype: torch.dtype) -> None:
    module, x = made(mode, batch_first=True, bidirectional=True, dtype=dtype), drawn(B, T, I, dtype=dtype)
    push = drawn(H, seed=5, dtype=dtype)
    with unrolled.intervene(module, Push("*.hidden", push, steps=4)), unrolled.record(module) as trace:
        output, _ = module(x)
    upstream = torch.randn(4, *output.shape, dtype=dtype)
    wanted = [*(trace[name] for name in trace), push, x, trace["l0.hidden"][:, 3:6]]
    batched = torch.autograd.grad(output, wanted, upstream, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(output, wanted, one, retain_graph=True) for one in upstream]
    for found, expected in zip(batched, zip(*each, strict=True), strict=True):
        close(found, torch.stack(expected), TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
def test_second_derivatives_through_an_edit_equal_the_hand_written_ones(mode: str, dtype: torch.dtype) -> None:
    module = made(mode, batch_first=True, dtype=dtype)
    exact, x = copy.deepcopy(module).double(), drawn(B, T, I, dtype=dtype)
    push, exact_push = drawn(H, seed=5, dtype=dtype), drawn(H, seed=5)
    with unrolled.intervene(module, Scale("*.hidden", push, steps=4)), unrolled.record(module) as trace:
        output, _ = module(x)
    (gradient,) = torch.autograd.grad(output[:, -1].pow(3).sum(), trace["l0.hidden"], create_graph=True)
    found = torch.autograd.grad(gradient.square().sum(), [push, module.weight_hh_l0, trace["l0.hidden"]])
    hand = Hand(
        exact,
        x.double().transpose(0, 1),
        [torch.zeros(1, B, H).double()] * (2 if mode == "LSTM" else 1),
        at("*.hidden", [4], lambda v, n, t: v * exact_push),
    )
    first = torch.autograd.grad(hand.result[0][-1].pow(3).sum(), hand.nodes["l0.hidden"], create_graph=True)
    loss = torch.stack(first).square().sum()
    wanted = torch.autograd.grad(loss, [exact_push, exact.weight_hh_l0], retain_graph=True)
    close(found, [*wanted, hand.gradient(loss, "l0.hidden")], 1e-11 if dtype is torch.float64 else 1e-4)


@dtypes
def test_loss_of_a_recorded_state_flows_through_the_edit(dtype: torch.dtype) -> None:
    module, x = made(batch_first=True, dtype=dtype), drawn(B, T, I, dtype=dtype)
    exact = copy.deepcopy(module).double()
    with unrolled.intervene(module, Scale("l0.forget_gate", 0.5, steps=4)), unrolled.record(module) as trace:
        module(x)
    loss = trace["l0.cell"][:, 5].pow(3).sum() + trace["l0.forget_gate"].pow(2).sum()
    found = torch.autograd.grad(loss, [*module.parameters(), trace["l0.forget_gate"]])
    hand = Hand(
        exact,
        x.double().transpose(0, 1),
        [torch.zeros(1, B, H).double()] * 2,
        at("l0.forget_gate", [4], lambda v, n, t: v / 2),
    )
    wanted_loss = hand.nodes["l0.cell"][5].pow(3).sum() + hand.joined("l0.forget_gate").pow(2).sum()
    wanted = torch.autograd.grad(wanted_loss, list(exact.parameters()), retain_graph=True)
    close(found, [*wanted, hand.gradient(wanted_loss, "l0.forget_gate")], TOLERANCE[dtype])
