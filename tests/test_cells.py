"""The table of cells is true: names, rows of the weights, what gates let through; and the reference unrolls it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from unrolled.recurrence.cells import CELLS, Cell, Weights
from unrolled.recurrence.reference import unroll

H, I, B, T = 3, 2, 4, 6  # noqa: E741


def random_weights(cell: Cell, *, seed: int = 0, projected: int | None = None) -> Weights:
    numbers = torch.Generator().manual_seed(seed)
    rows = max(len(cell.gates), 1) * H

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=numbers)

    hr = draw(projected, H) if projected else None
    own = {name: draw(blocks * H) for name, blocks in cell.parameters.items()}
    return Weights(draw(rows, I), draw(rows, projected or H), draw(rows), draw(rows), hr, **own)


def random_states(cell: Cell, *, projected: int | None = None) -> tuple[Tensor, ...]:
    widths = [projected or H if name == "hidden" else H for name in cell.states]
    return tuple(torch.randn(B, width, dtype=torch.float64) for width in widths)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_names_are_the_states_and_then_the_gates() -> None:
    assert CELLS["RNN_TANH"].names == CELLS["RNN_RELU"].names == ("hidden",)
    assert CELLS["GRU"].names == ("hidden", "reset_gate", "update_gate", "candidate")
    assert CELLS["LSTM"].names == ("hidden", "cell", "input_gate", "forget_gate", "candidate", "output_gate")


@pytest.mark.parametrize("mode", ["RNN_TANH", "RNN_RELU"])
def test_elman_step_is_the_published_equation(mode: str) -> None:
    cell = CELLS[mode]
    w, (h,) = random_weights(cell), random_states(cell)
    x = torch.randn(B, I, dtype=torch.float64)
    (hidden,), gates = cell.step(cell.project(x, w), (h,), w)
    pre = x.numpy() @ w.ih.numpy().T + w.bias_ih.numpy() + h.numpy() @ w.hh.numpy().T + w.bias_hh.numpy()
    np.testing.assert_allclose(hidden, np.tanh(pre) if mode == "RNN_TANH" else np.maximum(pre, 0), rtol=1e-12)
    assert gates == ()


def test_lstm_step_is_the_published_equations() -> None:
    cell = CELLS["LSTM"]
    w, (h, c) = random_weights(cell), random_states(cell)
    x = torch.randn(B, I, dtype=torch.float64)
    (hidden, new_cell), gates = cell.step(cell.project(x, w), (h, c), w)
    pre = x.numpy() @ w.ih.numpy().T + w.bias_ih.numpy() + h.numpy() @ w.hh.numpy().T + w.bias_hh.numpy()
    i, f, g, o = np.split(pre, 4, axis=1)
    expected = sigmoid(f) * c.numpy() + sigmoid(i) * np.tanh(g)
    np.testing.assert_allclose(new_cell, expected, rtol=1e-12)
    np.testing.assert_allclose(hidden, sigmoid(o) * np.tanh(expected), rtol=1e-12)
    for gate, value in zip(gates, (sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)), strict=True):
        np.testing.assert_allclose(gate, value, rtol=1e-12)


def test_projected_lstm_carries_the_projection_of_the_hidden_state() -> None:
    cell = CELLS["LSTM"]
    w = random_weights(cell, projected=2)
    states = random_states(cell, projected=2)
    x = torch.randn(B, I, dtype=torch.float64)
    (hidden, c), (_, _, _, output_gate) = cell.step(cell.project(x, w), states, w)
    np.testing.assert_allclose(hidden, (output_gate * torch.tanh(c)).numpy() @ w.hr.numpy().T, rtol=1e-12)


def test_gru_step_is_the_equations_of_torch_with_the_reset_gate_after_the_product() -> None:
    cell = CELLS["GRU"]
    w, (h,) = random_weights(cell), random_states(cell)
    x = torch.randn(B, I, dtype=torch.float64)
    (hidden,), gates = cell.step(cell.project(x, w), (h,), w)
    xr, xz, xn = np.split(x.numpy() @ w.ih.numpy().T + w.bias_ih.numpy(), 3, axis=1)
    hr, hz, hn = np.split(h.numpy() @ w.hh.numpy().T + w.bias_hh.numpy(), 3, axis=1)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    n = np.tanh(xn + r * hn)
    np.testing.assert_allclose(hidden, (1 - z) * n + z * h.numpy(), rtol=1e-12)
    for gate, value in zip(gates, (r, z, n), strict=True):
        np.testing.assert_allclose(gate, value, rtol=1e-12)


@pytest.mark.parametrize("mode", ["GRU", "LSTM"])
def test_rows_of_a_gate_are_the_ones_that_change_that_gate_alone(mode: str) -> None:
    cell = CELLS[mode]
    w, states = random_weights(cell), random_states(cell)
    x = torch.randn(B, I, dtype=torch.float64)
    _, before = cell.step(cell.project(x, w), states, w)
    for changed in cell.gates:
        # GRU's candidate reads its reset gate, so a reset gate's rows change the candidate too.
        bias = w.bias_ih.clone()
        bias[cell.rows(changed, H)] += 1
        shifted = w._replace(bias_ih=bias)
        _, after = cell.step(cell.project(x, shifted), states, shifted)
        moved = {name for name, a, b in zip(cell.gates, before, after, strict=True) if not torch.equal(a, b)}
        assert moved == ({"reset_gate", "candidate"} if (mode, changed) == ("GRU", "reset_gate") else {changed})


def with_gate_at(cell: Cell, gate: str, value: int) -> Weights:
    """Weights under which a gate is 0 or 1 to the last bit of float64."""
    w = random_weights(cell)
    bias = w.bias_ih.clone()
    bias[cell.rows(gate, H)] = 1000.0 if value else -1000.0
    return w._replace(bias_ih=bias)


@pytest.mark.parametrize("mode", ["GRU", "LSTM"])
def test_an_open_keep_gate_lets_the_old_state_stay_and_a_closed_one_removes_it(mode: str) -> None:
    cell = CELLS[mode]
    gate, opened = cell.opens["keep"]
    memory = cell.states[-1]
    x = torch.randn(B, I, dtype=torch.float64)
    for value in (0, 1):
        w = with_gate_at(cell, gate, value)
        states = tuple(state.requires_grad_() for state in random_states(cell))
        old = states[cell.states.index(memory)]
        new, gates = cell.step(cell.project(x, w), states, w)
        written = new[cell.states.index(memory)] - (old if value == opened else 0)
        candidate = gates[cell.gates.index("candidate")]
        write_gate, write_value = cell.opens["write"]
        write = gates[cell.gates.index(write_gate)]
        write = write if write_value == 1 else 1 - write
        torch.testing.assert_close(written, write * candidate, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["GRU", "LSTM"])
def test_a_closed_write_gate_keeps_the_input_out_of_the_state(mode: str) -> None:
    cell = CELLS[mode]
    gate, opened = cell.opens["write"]
    memory = cell.states.index(cell.states[-1])
    states = random_states(cell)
    for value in (0, 1):
        w = with_gate_at(cell, gate, value)
        # Only the candidate may tell the two inputs apart.
        ih = torch.zeros_like(w.ih)
        ih[cell.rows("candidate", H)] = w.ih[cell.rows("candidate", H)]
        w = w._replace(ih=ih)
        one, other = (
            cell.step(cell.project(x, w), states, w)[0][memory] for x in torch.randn(2, B, I, dtype=torch.float64)
        )
        assert torch.equal(one, other) == (value != opened)


def test_a_closed_read_gate_of_an_lstm_lets_nothing_out() -> None:
    cell = CELLS["LSTM"]
    gate, opened = cell.opens["read"]
    for value in (0, 1):
        w = with_gate_at(cell, gate, value)
        (hidden, c), _ = cell.step(cell.project(torch.randn(B, I, dtype=torch.float64), w), random_states(cell), w)
        assert torch.equal(hidden, torch.tanh(c) if value == opened else torch.zeros_like(c))


@pytest.mark.parametrize("mode", list(CELLS))
def test_projecting_all_steps_at_once_equals_projecting_each(mode: str) -> None:
    cell = CELLS[mode]
    w = random_weights(cell)
    x = torch.randn(T, B, I, dtype=torch.float64)
    each = torch.stack([cell.project(step, w) for step in x])
    torch.testing.assert_close(cell.project(x, w), each, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("mode", list(CELLS))
def test_unroll_in_reverse_equals_unrolling_the_reversed_sequence(mode: str) -> None:
    cell = CELLS[mode]
    w, states = random_weights(cell), random_states(cell)
    x = torch.randn(T, B, I, dtype=torch.float64)
    backwards = unroll(cell, x, states, w, reverse=True, keep=cell.names)
    forwards = unroll(cell, x.flip(0), states, w, keep=cell.names)
    assert torch.equal(backwards.output, forwards.output.flip(0))
    assert all(torch.equal(a, b) for a, b in zip(backwards.final, forwards.final, strict=True))
    for name in cell.names:
        assert torch.equal(backwards.steps[name].values, forwards.steps[name].values.flip(0))


@pytest.mark.parametrize("mode", list(CELLS))
@pytest.mark.parametrize("reverse", [False, True])
def test_each_sequence_of_unequal_length_equals_the_sequence_alone(mode: str, reverse: bool) -> None:
    cell = CELLS[mode]
    w, states = random_weights(cell), random_states(cell)
    x = torch.randn(T, B, I, dtype=torch.float64)
    lengths = torch.tensor([6, 3, 1, 4])
    together = unroll(cell, x, states, w, reverse=reverse, lengths=lengths)
    for b, length in enumerate(lengths.tolist()):
        alone = unroll(cell, x[:length, b : b + 1], tuple(s[b : b + 1] for s in states), w, reverse=reverse)
        torch.testing.assert_close(together.output[:length, b], alone.output[:, 0], rtol=1e-12, atol=1e-12)
        assert not together.output[length:, b].any()
        for mine, its in zip(together.final, alone.final, strict=True):
            torch.testing.assert_close(mine[b], its[0], rtol=1e-12, atol=1e-12)


def test_unroll_keeps_what_it_is_asked_for_and_nothing_else() -> None:
    cell = CELLS["LSTM"]
    w, states = random_weights(cell), random_states(cell)
    x = torch.randn(T, B, I, dtype=torch.float64)
    assert unroll(cell, x, states, w).steps == {}
    steps = unroll(cell, x, states, w, keep={"cell", "output_gate"}).steps
    shapes = {name: tuple(kept.values.shape) for name, kept in steps.items()}
    assert shapes == {"cell": (T, B, H), "output_gate": (T, B, H)}
