from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

import unrolled
from networks import Headed, Loop, forced_gru, forced_lstm, inputs_of, layers, linear_rnn, stirred
from unrolled.instruments import FixedPoints, fixed_points

ROOT = float(brentq(lambda h: math.tanh(2 * h) - h, 0.5, 1.0, xtol=1e-15))  # 0.9575


def bistable(units: int = 3) -> tuple[nn.RNNBase, Tensor]:
    """Units h = tanh(2 h' + x) that do not see each other, and pulses that send each to either side and to the middle.

    Under no input each has a stable state at +ROOT and -ROOT and an unstable one at 0.
    """
    layer = unrolled.RNN(units, units, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(2 * torch.eye(units))
        layer.weight_ih_l0.copy_(torch.eye(units))
    return layer, 2 * torch.randn(20, 30, units, dtype=torch.float64)


def test_three_bistable_units_have_27_fixed_points_of_which_8_are_stable() -> None:
    layer, pulses = bistable()
    found = fixed_points(layer, pulses, [0, 0, 0], starts=2000)
    states = found.states("hidden")
    assert len(states) == 27
    assert found.stable.sum() == 8
    for point in itertools.product([-ROOT, 0, ROOT], repeat=3):
        assert np.abs(states - point).max(-1).min() < 1e-8
    # Stable ones first.
    assert found.stable.tolist() == [True] * 8 + [False] * 19
    np.testing.assert_allclose(np.abs(states[:8]), ROOT, atol=1e-8)
    np.testing.assert_array_equal(found.unstable_directions(), (np.abs(states) < 0.1).sum(1))


def test_eigenvalues_of_the_bistable_units_are_twice_the_slope_of_tanh() -> None:
    layer, pulses = bistable()
    found = fixed_points(layer, pulses, [0, 0, 0], starts=2000)
    wanted = np.sort(2 * (1 - found.states("hidden") ** 2), axis=1)[:, ::-1]
    np.testing.assert_allclose(found.data["eigenvalue"].values.real, wanted, atol=1e-12)
    np.testing.assert_array_equal(found.data["eigenvalue"].values.imag, 0)
    assert (found.data["error"] < 1e-8).all()
    assert 0 < found.data["found"].sum() <= 2000


def test_constant_input_moves_the_points_and_may_leave_a_single_one() -> None:
    layer, pulses = bistable(1)
    # tanh(2 h + x) has one fixed point beyond |x| = 2 sqrt(1/2) - atanh(sqrt(1/2)) = 0.533.
    few, many = (fixed_points(layer, pulses, [x], starts=200) for x in (0.55, 0.5))
    assert (len(few.stable), len(many.stable)) == (1, 3)
    wanted = brentq(lambda h: math.tanh(2 * h + 0.55) - h, 0.5, 1.0, xtol=1e-15)
    np.testing.assert_allclose(few.states("hidden"), [[wanted]], atol=1e-8)


def test_linear_contraction_has_one_stable_point_with_the_eigenvalues_of_its_weights() -> None:
    layer, inputs = linear_rnn(0.7)
    weights = layer.weight_hh_l0.detach()
    target = torch.linspace(1, 2, len(weights), dtype=torch.float64)
    found = fixed_points(layer, inputs, target - weights @ target, starts=50)
    np.testing.assert_allclose(found.states("hidden"), target[None], atol=1e-8)
    assert found.stable.tolist() == [True]
    assert found.data["found"].values.tolist() == [50]
    np.testing.assert_allclose(np.abs(found.data["eigenvalue"]), 0.7, rtol=1e-9)
    wanted = torch.linalg.eigvals(weights).numpy()
    for value in found.data["eigenvalue"].values[0]:
        assert np.abs(wanted - value).min() < 1e-9


def test_linear_expansion_has_one_point_that_is_a_source() -> None:
    layer, inputs = linear_rnn(1.2)
    weights = layer.weight_hh_l0.detach()
    target = torch.full((len(weights),), 1.5, dtype=torch.float64)
    found = fixed_points(layer, inputs, target - weights @ target, starts=50)
    at = np.abs(found.states("hidden") - 1.5).max(-1).argmin()
    np.testing.assert_allclose(found.states("hidden")[at], 1.5, atol=1e-8)
    assert found.unstable_directions()[at] == len(weights)


def test_forced_lstm_rests_where_its_cell_loses_what_is_written() -> None:
    found = fixed_points(forced_lstm(0.8), inputs_of(), [0, 0], starts=20)
    np.testing.assert_allclose(found.states("cell"), np.full((1, 6), 0.05 / 0.2), atol=1e-8)
    np.testing.assert_allclose(found.states("hidden"), np.full((1, 6), 0.5 * math.tanh(0.25)), atol=1e-8)
    np.testing.assert_allclose(found.data["eigenvalue"], [[0.8] * 6 + [0.0] * 6], atol=1e-12)


def test_forced_gru_rests_at_its_candidate() -> None:
    found = fixed_points(forced_gru(0.8), inputs_of(), [0, 0], starts=20)
    np.testing.assert_allclose(found.states("hidden"), np.full((1, 6), 0.3), atol=1e-8)
    np.testing.assert_allclose(found.data["eigenvalue"], [[0.8] * 6], atol=1e-12)


@pytest.mark.parametrize("name", layers())
def test_step_of_the_layer_itself_leaves_a_fixed_point_where_it_is(name: str) -> None:
    layer = stirred(layers()[name](), 0.5 if name == "rnn relu" else 4).eval()
    constant = torch.tensor([0.3, -0.2], dtype=torch.float64)
    found = fixed_points(layer, inputs_of(), constant, starts=100)
    count = len(found.stable)
    assert count > 0
    names = ["hidden", "cell"] if "cell" in found.data["of"].values else ["hidden"]
    states: Any = tuple(torch.from_numpy(found.states(n)).unsqueeze(0) for n in names)
    after = layer(constant.expand(count, 1, -1), states if len(states) > 1 else states[0])[1]
    for before, later in zip(states, after if isinstance(after, tuple) else (after,), strict=True):
        np.testing.assert_allclose(later.detach(), before, atol=1e-8)


@pytest.mark.parametrize("name", layers())
def test_network_that_is_left_alone_comes_to_rest_at_the_stable_point(name: str) -> None:
    layer = stirred(layers()[name](), 0.6).eval()
    found = fixed_points(layer, inputs_of(), [0.3, -0.2], starts=50)
    assert found.stable.tolist() == [True]
    output = layer(torch.tensor([0.3, -0.2], dtype=torch.float64).expand(1, 2000, -1))[0].detach()
    np.testing.assert_allclose(output[:, -1], found.states("hidden"), atol=1e-7)


def test_network_that_comes_to_rest_nowhere_has_no_fixed_points() -> None:
    layer = unrolled.RNN(1, 1, nonlinearity="relu", bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(1)
        layer.weight_ih_l0.fill_(1)  # h = h' + 1
    found = fixed_points(layer, torch.rand(2, 5, 1, dtype=torch.float64), [1.0], starts=8)
    assert found.states("hidden").shape == (0, 1)
    assert found.stable.shape == found.unstable_directions().shape == (0,)
    assert found.summary() == "0 fixed points, 0 stable (0 of 8 starts came to rest)."


def test_reverse_layer_and_layer_of_a_stack_have_points_of_their_own() -> None:
    both = forced_gru(0.8, bidirectional=True)
    with torch.no_grad():
        both.bias_ih_l0_reverse[12:] = math.atanh(-0.4)
    for layer, rest in (("l0", 0.3), ("l0_reverse", -0.4)):
        found = fixed_points(both, inputs_of(), [0, 0], layer=layer, starts=10)
        np.testing.assert_allclose(found.states("hidden"), np.full((1, 6), rest), atol=1e-8)
    stack = forced_gru(0.8, num_layers=2)
    assert fixed_points(stack, inputs_of(), [0] * 6, layer="l1", starts=10).states("hidden") == pytest.approx(0.3)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_models_of_torchs_own_layers_are_searched(kind: str) -> None:
    for model in (Headed(kind), Loop(kind)):
        assert fixed_points(model, inputs_of().float(), torch.zeros(2), starts=10).stable.any()


def test_same_seed_finds_the_same_points_in_the_same_order() -> None:
    layer, pulses = bistable()
    first, second = (fixed_points(layer, pulses, [0, 0, 0], starts=200, seed=3) for _ in range(2))
    assert first.data.identical(second.data)


def flip_flop(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Sussillo & Barak's task: pulses of ±1 on three channels, and the last pulse of each channel as the answer."""
    pulses = (torch.rand(batch, length, 3) < 0.15) * (2.0 * torch.randint(2, (batch, length, 3)) - 1)
    pulses[:, 0] = 2.0 * torch.randint(2, (batch, 3)) - 1
    held = [pulses[:, 0]]
    for pulse in pulses[:, 1:].unbind(1):
        held.append(torch.where(pulse != 0, pulse, held[-1]))
    return pulses, torch.stack(held, dim=1)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_network_trained_on_the_three_bit_flip_flop_has_8_stable_points_one_for_each_memory(kind: str) -> None:
    core, head = getattr(unrolled, kind)(3, 16, batch_first=True), nn.Linear(16, 3)
    optimiser = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=0.01)
    steps = 600
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * (1 - step / steps)
        pulses, memory = flip_flop(32, 30)
        loss = (head(core(pulses)[0]) - memory).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(core.parameters(), 1.0)
        optimiser.step()
    pulses, memory = flip_flop(64, 60)
    with torch.no_grad():
        assert (head(core(pulses)[0]).sign() == memory).float().mean() > 0.99
    found = fixed_points(core, pulses, [0, 0, 0])
    assert found.stable.sum() == 8
    with torch.no_grad():
        read = head.double()(torch.from_numpy(found.states("hidden")[found.stable])).numpy()
    memories = np.array(list(itertools.product([-1, 1], repeat=3)))
    np.testing.assert_array_equal(memories, sorted(np.sign(read).tolist()))
    np.testing.assert_allclose(np.abs(read), 1, atol=0.25)
    assert_held(core, found)


def assert_held(core: nn.Module, found: FixedPoints) -> None:
    """Left alone from a little beside a stable point the network goes back to it."""
    names = ["hidden", "cell"] if isinstance(core, nn.LSTM) else ["hidden"]
    stable = [torch.from_numpy(found.states(name)[found.stable]).unsqueeze(0) for name in names]
    beside = tuple(s + 0.02 * torch.randn_like(s) for s in stable)
    silence = torch.zeros(8, 3000, 3, dtype=torch.float64)
    with torch.no_grad():
        output = core.double()(silence, beside if len(beside) > 1 else beside[0])[0]
    np.testing.assert_allclose(output[:, -1], stable[0][0], atol=1e-3)


def test_data_is_named_and_has_coordinates() -> None:
    data = fixed_points(forced_lstm(0.8), inputs_of(), [0, 0], starts=20).data
    assert {name: values.dims for name, values in data.data_vars.items()} == {
        "state": ("point", "unit"),
        "eigenvalue": ("point", "index"),
        "stable": ("point",),
        "error": ("point",),
        "found": ("point",),
        "of": ("unit",),
    }
    assert data["of"].values.tolist() == ["hidden"] * 6 + ["cell"] * 6
    assert data["unit"].values.tolist() == data["index"].values.tolist() == list(range(12))
    assert data["point"].values.tolist() == [0]
    assert data.attrs["layer"] == "l0"


def test_summary_says_how_many_points_there_are_and_how_slow_the_stable_ones() -> None:
    said = fixed_points(forced_lstm(0.8), inputs_of(), [0, 0], starts=20).summary()
    assert said == (
        "1 fixed point, 1 stable (20 of 20 starts came to rest); the slowest eigenvalue of a stable one is 0.8."
    )


@pytest.mark.parametrize("constant", [[0.0], [0.0] * 3, [[0.0, 0.0]]])
def test_constant_of_another_shape_is_refused(constant: Any) -> None:
    with pytest.raises(ValueError, match=r"constant: shape \(.*\) does not fit the layer; expected \(2,\)"):
        fixed_points(forced_lstm(0.8), inputs_of(), constant)
