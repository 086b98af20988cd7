from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import unrolled
from networks import BATCH, Headed, Loop, forced_lstm, inputs_of, layers, stirred
from unrolled import variants
from unrolled.instruments import jacobian

LENGTH = 5
CELLS = layers() | {
    "LayerNormLSTM without bias": lambda: variants.LayerNormLSTM(
        2, 3, bias=False, batch_first=True, dtype=torch.float64
    ),
    "PeepholeLSTM without bias": lambda: variants.PeepholeLSTM(2, 3, bias=False, batch_first=True, dtype=torch.float64),
    "ZoneoutLSTM that mostly stays": lambda: variants.ZoneoutLSTM(
        2, 3, zoneout_hidden=0.7, zoneout_cell=0.8, batch_first=True, dtype=torch.float64
    ),
}

States = tuple[Tensor, ...]
Step = Callable[[States], States]


def together(states: Any) -> States:
    return states if isinstance(states, tuple) else (states,)


def by_differences(step: Step, before: States) -> NDArray[np.float64]:
    """(B, n, n) by central differences of fourth order; before: (B, ·) each."""
    sizes = [state.size(-1) for state in before]
    joined, width = torch.cat(before, dim=-1), 1e-6
    columns = []
    with torch.no_grad():
        for i in range(sum(sizes)):
            push = torch.zeros_like(joined)
            push[:, i] = width
            near, less, far, least = (
                torch.cat(step((joined + s * push).split(sizes, dim=-1)), dim=-1) for s in (1, -1, 2, -2)
            )
            columns.append((8 * (near - less) - (far - least)) / (12 * width))
    return torch.stack(columns, dim=-1).numpy()


def by_autograd(step: Step, before: States) -> NDArray[np.float64]:
    """(B, n, n) row by row of torch.autograd.grad."""
    before = tuple(state.detach().requires_grad_() for state in before)
    after = torch.cat(step(before), dim=-1)
    rows = [
        torch.cat(torch.autograd.grad(after[:, i].sum(), before, retain_graph=True, materialize_grads=True), dim=-1)
        for i in range(after.size(-1))
    ]
    return torch.stack(rows, dim=1).numpy()


def step_of(layer: Any, x: Tensor, around: States | None = None, row: int = 0) -> Step:
    """One step of a layer, x: (B, 1, I), as a function of the states (B, ·) in one row of those it is given."""

    def step(states: States) -> States:
        given = tuple(s.unsqueeze(0) for s in states)
        if around is not None:
            given = tuple(
                torch.cat([a[:row], s, a[row + 1 :]]) for a, s in zip(around, given, strict=True)
            )  # the rows of other layers and directions stay
        final = layer(x, given if len(given) > 1 else given[0])[1]
        return tuple(s[row] for s in together(final))

    return step


def states_before(layer: Any, x: Tensor, t: int) -> States:
    """(rows, B, ·) of a layer after the first t steps."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    if t == 0:
        sizes = [getattr(layer, "proj_size", 0) or layer.hidden_size, layer.hidden_size]
        count = len(together(layer(x)[1]))
        return tuple(x.new_zeros(rows, len(x), size) for size in (sizes if count == 2 else sizes[1:]))
    return tuple(state.detach() for state in together(layer(x[:, :t])[1]))


@pytest.mark.parametrize("name", CELLS)
def test_jacobian_matches_differences_of_the_layers_own_step_and_autograd(name: str) -> None:
    layer, x = stirred(CELLS[name]()).eval(), inputs_of(LENGTH)
    found = jacobian(layer, x).full()
    for t in range(LENGTH):
        step = step_of(layer, x[:, t : t + 1])
        before = tuple(s[0] for s in states_before(layer, x, t))
        np.testing.assert_allclose(found[:, t], by_differences(step, before), atol=1e-8)
        np.testing.assert_allclose(found[:, t], by_autograd(step, before), atol=1e-13)
    assert np.abs(found).max() > 0.1


@pytest.mark.parametrize("name", CELLS)
def test_product_along_time_is_the_derivative_of_the_last_state_by_the_first(name: str) -> None:
    layer, x = stirred(CELLS[name]()).eval(), inputs_of(LENGTH)
    found = jacobian(layer, x).full()
    product = found[:, 0]
    for t in range(1, LENGTH):
        product = found[:, t] @ product
    before = tuple(s[0] for s in states_before(layer, x, 0))
    wanted = by_autograd(step_of(layer, x), before)  # all steps at once
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(product, wanted, atol=1e-12)


def test_relu_network_has_units_on_both_sides_of_its_kink() -> None:
    layer, x = stirred(CELLS["rnn relu"]()), inputs_of(LENGTH)
    hidden = layer(x)[0].detach()
    assert (hidden == 0).any()
    assert (hidden > 0).any()
    blocks = jacobian(layer, x).data["hidden_by_hidden"].values
    np.testing.assert_array_equal(blocks[hidden.numpy() == 0], 0)
    np.testing.assert_allclose(
        blocks[hidden.numpy() > 0], layer.weight_hh_l0.detach().numpy()[np.nonzero(hidden.numpy() > 0)[2]]
    )


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_reverse_layer_is_differentiated_along_its_own_course(kind: str) -> None:
    layer = stirred(getattr(nn, kind)(2, 3, batch_first=True, bidirectional=True, dtype=torch.float64))
    x = inputs_of(LENGTH)
    found = jacobian(layer, x, layer="l0_reverse").full()
    for t in range(LENGTH):
        around = states_before(layer, x, 0)
        if t < LENGTH - 1:
            # The reverse direction comes from the steps after t.
            around = tuple(s.detach() for s in together(layer(x[:, t + 1 :])[1]))
        step = step_of(layer, x[:, t : t + 1], around, row=1)
        np.testing.assert_allclose(found[:, t], by_differences(step, tuple(s[1] for s in around)), atol=1e-8)


@pytest.mark.parametrize("row", [0, 1])
def test_layer_of_a_stack_is_differentiated_alone(row: int) -> None:
    layer, x = stirred(nn.LSTM(2, 3, num_layers=2, batch_first=True, dtype=torch.float64)), inputs_of(LENGTH)
    found = jacobian(layer, x, layer=f"l{row}").full()
    for t in (1, LENGTH - 1):
        around = states_before(layer, x, t)
        step = step_of(layer, x[:, t : t + 1], around, row=row)
        np.testing.assert_allclose(found[:, t], by_autograd(step, tuple(s[row] for s in around)), atol=1e-13)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_layer_of_torch_inside_a_model_is_differentiated(kind: str) -> None:
    model, x = Headed(kind).double(), inputs_of(LENGTH)
    found = jacobian(model, x, layer="encoder.core.l0")
    alone = model.encoder["core"]
    for t in (0, 3):
        before = tuple(s[0] for s in states_before(alone, x, t))
        np.testing.assert_allclose(
            found.full()[:, t], by_differences(step_of(alone, x[:, t : t + 1]), before), atol=1e-8
        )


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_loop_over_a_cell_is_differentiated_from_the_states_it_begins_with(kind: str) -> None:
    loop, x = Loop(kind).double(), inputs_of(LENGTH)
    found = jacobian(loop, x).full()
    begin = loop.begin.detach().expand(BATCH, -1)
    states: States = (begin, -begin) if kind == "LSTM" else (begin,)

    def step_at(t: int) -> Step:
        return lambda s: together(loop.cell(x[:, t], s if len(s) > 1 else s[0]))

    for t in range(LENGTH):
        np.testing.assert_allclose(found[:, t], by_autograd(step_at(t), states), atol=1e-13)
        states = tuple(s.detach() for s in step_at(t)(states))


def test_float32_network_is_differentiated_in_float64() -> None:
    model, x = stirred(unrolled.LSTM(2, 3, batch_first=True)), inputs_of(LENGTH).float()
    found = jacobian(model, x)
    assert found.full().dtype == np.float64
    np.testing.assert_allclose(found.full(), jacobian(model.double(), x.double()).full(), rtol=1e-12)


def test_blocks_of_a_forced_lstm_are_known() -> None:
    found = jacobian(forced_lstm(0.9), inputs_of(LENGTH))
    units = np.broadcast_to(np.eye(6), (BATCH, LENGTH, 6, 6))
    np.testing.assert_allclose(found.data["cell_by_cell"], 0.9 * units, atol=1e-12)
    np.testing.assert_array_equal(found.data["cell_by_hidden"], 0)
    np.testing.assert_array_equal(found.data["hidden_by_hidden"], 0)
    # o tanh'(c) f, with o = 1/2 and c the sum of what was written.
    cell = 0.05 * np.cumsum(0.9 ** np.arange(LENGTH))
    wanted = (0.5 * (1 - np.tanh(cell) ** 2) * 0.9)[:, None, None] * units
    np.testing.assert_allclose(found.data["hidden_by_cell"], wanted, atol=1e-12)
    np.testing.assert_allclose(found.norms("cell_by_cell"), 0.9)


def test_chosen_steps_are_those_of_all() -> None:
    layer, x = stirred(CELLS["lstm with projection"]()), inputs_of(LENGTH)
    every, some = jacobian(layer, x), jacobian(layer, x, steps=[3, 0])
    assert some.data["step"].values.tolist() == [3, 0]
    np.testing.assert_array_equal(some.full(), every.full()[:, [3, 0]])


def test_data_is_named_and_has_coordinates() -> None:
    found = jacobian(stirred(CELLS["lstm with projection"]()), inputs_of(LENGTH))
    assert found.blocks == ["hidden_by_hidden", "hidden_by_cell", "cell_by_hidden", "cell_by_cell"]
    for block in found.blocks:
        to, by = block.split("_by_")
        assert found.data[block].dims == ("sequence", "step", f"{to}_unit", f"{by}_unit_before")
    # The projection makes the hidden state narrower.
    assert dict(found.data.sizes) == {
        "sequence": BATCH,
        "step": LENGTH,
        "hidden_unit": 2,
        "hidden_unit_before": 2,
        "cell_unit": 3,
        "cell_unit_before": 3,
    }
    assert set(found.data.coords) == set(found.data.sizes)
    assert found.full().shape == (BATCH, LENGTH, 5, 5)
    np.testing.assert_array_equal(found.full()[..., 2:, :2], found.data["cell_by_hidden"])


def test_time_major_layer_is_differentiated_like_a_batch_first_one() -> None:
    first, x = stirred(unrolled.GRU(2, 3, batch_first=True, dtype=torch.float64)), inputs_of(LENGTH)
    time = unrolled.GRU(2, 3, dtype=torch.float64)
    time.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(jacobian(time, x.transpose(0, 1)).full(), jacobian(first, x).full())


def test_summary_says_by_how_much_each_block_can_magnify() -> None:
    said = jacobian(forced_lstm(0.5), inputs_of(LENGTH)).summary()
    assert "cell by cell 0.500 (0.500 to 0.500)" in said
    assert "cell by hidden 0 (0 to 0)" in said


@pytest.mark.parametrize("step", [-1, LENGTH])
def test_step_outside_of_the_sequences_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=rf"steps: {step} is not in sequences of 5 steps; expected 0 to 4"):
        jacobian(forced_lstm(0.9), inputs_of(LENGTH), steps=[0, step])
