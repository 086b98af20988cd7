"""Each instrument against networks whose memory is known in closed form, and its complaints about wrong arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import unrolled
from unrolled.instruments import gate_openness, gradient_flow, lyapunov, memory_curve, probe, push_response
from unrolled.instruments.gradient_flow import GradientFlow
from unrolled.instruments.probe import control_labels
from unrolled.instruments.push_response import PushResponse

HIDDEN, LENGTH, BATCH = 6, 40, 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only cost time on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def linear_rnn(alpha: float) -> tuple[nn.RNNBase, Tensor]:
    """A ReLU network with W_hh = alpha * Q, Q orthogonal, and inputs (B, T, H) that keep every unit active.

    Any states above 0 may be chosen; the inputs are what leads from each to the next. Then ReLU is the identity.
    """
    layer = unrolled.RNN(HIDDEN, HIDDEN, nonlinearity="relu", bias=False, batch_first=True, dtype=torch.float64)
    orthogonal = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, dtype=torch.float64))[0]
    with torch.no_grad():
        layer.weight_hh_l0.copy_(alpha * orthogonal)
        layer.weight_ih_l0.copy_(torch.eye(HIDDEN))
        states = 1 + torch.rand(BATCH, LENGTH, HIDDEN, dtype=torch.float64)
        before = torch.cat([torch.zeros(BATCH, 1, HIDDEN, dtype=torch.float64), states[:, :-1]], dim=1)
        inputs = states - before @ layer.weight_hh_l0.T
        torch.testing.assert_close(layer(inputs)[0], states)
    return layer, inputs


def forced_lstm(
    forget: float, *, write: float = 0.05, output_gate: float = 0.5, dtype: torch.dtype = torch.float64
) -> nn.RNNBase:
    """An LSTM with all weights zero: c = forget * c' + write whatever the input and the hidden state."""

    def logit(p: float) -> float:
        return -1000.0 if p == 0 else 1000.0 if p == 1 else math.log(p / (1 - p))

    layer = unrolled.LSTM(2, HIDDEN, batch_first=True, dtype=dtype)
    biases = {"input_gate": logit(0.5), "forget_gate": logit(forget), "candidate": math.atanh(2 * write)}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        for index, bias in enumerate([*biases.values(), logit(output_gate)]):
            layer.bias_ih_l0[index * HIDDEN : (index + 1) * HIDDEN] = bias
    return layer


def weighed(direction: Tensor) -> Callable[[tuple[Tensor, object]], Tensor]:
    """The loss of a bare layer: its last hidden state along a direction (H,)."""
    return lambda output: output[0][:, -1] @ direction


def unit(size: int = HIDDEN) -> Tensor:
    vector = torch.randn(size, dtype=torch.float64)
    return vector / vector.norm()


def inputs_of(length: int = LENGTH, size: int = 2) -> Tensor:
    return torch.randn(BATCH, length, size, dtype=torch.float64)


# Gradient flow


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.05])
def test_gradient_of_a_linear_rnn_is_alpha_to_the_lag(alpha: float) -> None:
    layer, inputs = linear_rnn(alpha)
    flow = gradient_flow(layer, inputs, weighed(unit()))
    assert flow.lags.tolist() == list(range(LENGTH))
    np.testing.assert_allclose(flow.norms["hidden"], alpha**flow.lags, rtol=1e-6)
    assert flow.rate("hidden") == pytest.approx(math.log(alpha), abs=1e-6)
    assert flow.fold("hidden") == pytest.approx((LENGTH - 2) * math.log10(alpha), abs=1e-6)
    assert flow.direct is None


def test_norms_are_geometric_means_over_sequences() -> None:
    layer, inputs = linear_rnn(0.9)
    plain, scales = weighed(unit()), torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    flow = gradient_flow(layer, inputs, lambda output: plain(output) * scales)
    np.testing.assert_allclose(flow.norms["hidden"], 0.9**flow.lags, rtol=1e-6)


def test_half_life_of_a_vanishing_gradient_is_log_2_over_log_alpha() -> None:
    vanishing, inputs = linear_rnn(0.9)
    assert gradient_flow(vanishing, inputs, weighed(unit())).half_life("hidden") == pytest.approx(
        math.log(0.5) / math.log(0.9), rel=1e-6
    )
    exploding, inputs = linear_rnn(1.05)
    assert gradient_flow(exploding, inputs, weighed(unit())).half_life("hidden") == math.inf


def test_max_lag_keeps_the_nearest_lags() -> None:
    layer, inputs = linear_rnn(0.9)
    loss = weighed(unit())
    short, long = gradient_flow(layer, inputs, loss, max_lag=7), gradient_flow(layer, inputs, loss)
    assert short.lags.tolist() == list(range(8))
    np.testing.assert_allclose(short.norms["hidden"], long.norms["hidden"][:8])


@pytest.mark.parametrize("forget", [0.5, 0.9, 0.99])
def test_cell_gradient_of_an_lstm_follows_its_forget_gate(forget: float) -> None:
    flow = gradient_flow(forced_lstm(forget), inputs_of(), weighed(unit()))
    assert flow.direct is not None
    np.testing.assert_allclose(flow.direct, forget**flow.lags, rtol=1e-9)
    np.testing.assert_allclose(flow.norms["cell"] / flow.norms["cell"][0], forget**flow.lags, rtol=1e-9)
    assert flow.rate("cell") == pytest.approx(math.log(forget), abs=1e-9)


def test_open_forget_gate_is_the_constant_error_carousel() -> None:
    flow = gradient_flow(forced_lstm(1.0, write=0.001), inputs_of(), weighed(unit()))
    assert flow.direct is not None
    assert (flow.direct == 1).all()
    np.testing.assert_allclose(flow.norms["cell"], flow.norms["cell"][0], rtol=1e-12)
    assert flow.rate("cell") == pytest.approx(0, abs=1e-12)


def test_gradient_to_a_hidden_state_that_nothing_reads_is_exactly_zero() -> None:
    flow = gradient_flow(forced_lstm(0.9), inputs_of(), weighed(unit()))
    assert flow.norms["hidden"][0] == pytest.approx(1)
    assert (flow.norms["hidden"][1:] == 0).all()
    assert flow.rate("hidden") == flow.fold("hidden") == -math.inf
    assert flow.half_life("hidden") == 0


def test_rate_of_a_single_lag_is_not_a_number() -> None:
    flow = GradientFlow(np.arange(2.0), {"hidden": np.array([1.0, 0.9])}, None)
    assert math.isnan(flow.rate("hidden"))
    assert math.isnan(flow.half_life("hidden"))


def test_small_gradients_of_a_float32_network_are_not_lost() -> None:
    layer = forced_lstm(0.01, dtype=torch.float32)
    flow = gradient_flow(layer, inputs_of().float(), weighed(unit()))
    assert flow.norms["cell"][-1] / flow.norms["cell"][0] == pytest.approx(0.01 ** (LENGTH - 1), rel=1e-4)
    assert layer.weight_hh_l0.dtype == torch.float32


def test_gradient_flow_measures_the_named_layer_of_a_stack() -> None:
    stack = nn.LSTM(2, 4, num_layers=2, batch_first=True)

    def loss(output: tuple[Tensor, object]) -> Tensor:
        return output[0][:, -1].sum(-1)

    top, bottom = (gradient_flow(stack, inputs_of(), loss, layer=layer) for layer in ("l1", "l0"))
    assert top.norms["hidden"][0] == pytest.approx(2)  # d sum / d h is 1 for each of 4 units
    assert bottom.norms["hidden"][0] != pytest.approx(2)


@pytest.mark.parametrize("max_lag", [0, LENGTH, -1])
def test_gradient_flow_refuses_lags_beyond_the_sequence(max_lag: int) -> None:
    with pytest.raises(ValueError, match=rf"max_lag: {max_lag} does not fit .*expected 1 to {LENGTH - 1}"):
        gradient_flow(forced_lstm(0.9), inputs_of(), weighed(unit()), max_lag=max_lag)


def test_gradient_flow_refuses_an_unknown_layer() -> None:
    with pytest.raises(ValueError, match=r"layer: 'l7' is not in the model; expected one of l0"):
        gradient_flow(forced_lstm(0.9), inputs_of(), weighed(unit()), layer="l7")


def test_gradient_flow_of_several_layers_asks_for_one() -> None:
    with pytest.raises(ValueError, match="layer: the model has 2 recurrent layers; expected one of l0, l1"):
        gradient_flow(nn.LSTM(2, 4, num_layers=2, batch_first=True), inputs_of(), weighed(unit(4)))


# Lyapunov exponents


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.05])
def test_exponents_of_a_linear_rnn_are_all_log_alpha(alpha: float) -> None:
    layer, inputs = linear_rnn(alpha)
    np.testing.assert_allclose(lyapunov(layer, inputs, count=HIDDEN), math.log(alpha), atol=1e-6)


def test_exponents_come_largest_first() -> None:
    layer, inputs = linear_rnn(1.0)
    sizes = torch.tensor([1.2, 1.0, 0.9, 0.7, 0.5, 0.3], dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.diag(sizes))
        exponents = lyapunov(layer, torch.ones_like(inputs), count=HIDDEN, warm_up=20)
    np.testing.assert_allclose(exponents, sizes.log().numpy(), atol=1e-3)


def test_top_exponent_of_a_forced_lstm_is_that_of_its_cell() -> None:
    assert lyapunov(forced_lstm(0.9), inputs_of())[0] == pytest.approx(math.log(0.9), abs=1e-3)
    # Without the output the hidden state follows nothing and the cell is all there is.
    shut = lyapunov(forced_lstm(0.9, output_gate=0), inputs_of(), count=HIDDEN)
    np.testing.assert_allclose(shut, math.log(0.9), atol=1e-6)


def test_top_exponent_of_an_lstm_rises_with_its_forget_bias() -> None:
    layer = unrolled.LSTM(2, 16, batch_first=True)
    inputs, found = inputs_of(120), {}
    for bias in (0.0, 1.0, 3.0):
        with torch.no_grad():
            layer.bias_ih_l0[16:32] = bias
            layer.bias_hh_l0[16:32] = 0
        found[bias] = float(lyapunov(layer, inputs)[0])
    assert found[0.0] < found[1.0] < found[3.0]
    for bias, exponent in found.items():
        assert exponent >= math.log(1 / (1 + math.exp(-bias)))


def test_lyapunov_refuses_more_than_one_layer_or_direction() -> None:
    with pytest.raises(ValueError, match="layer: .* given 2 layers"):
        lyapunov(unrolled.LSTM(2, 4, num_layers=2), inputs_of())
    with pytest.raises(ValueError, match="layer: .* in two directions"):
        lyapunov(unrolled.LSTM(2, 4, bidirectional=True), inputs_of())


@pytest.mark.parametrize("warm_up", [-1, LENGTH])
def test_lyapunov_refuses_a_warm_up_that_leaves_nothing(warm_up: int) -> None:
    with pytest.raises(ValueError, match=f"warm_up: {warm_up} "):
        lyapunov(forced_lstm(0.9), inputs_of(), warm_up=warm_up)


@pytest.mark.parametrize("count", [0, 2 * HIDDEN + 1])
def test_lyapunov_refuses_more_exponents_than_states(count: int) -> None:
    with pytest.raises(ValueError, match=f"count: {count} exponents of {2 * HIDDEN} states"):
        lyapunov(forced_lstm(0.9), inputs_of(), count=count)


# Push response


@pytest.mark.parametrize("forget", [0.5, 0.8, 0.95])
def test_push_on_the_cell_decays_with_the_forget_gate(forget: float) -> None:
    response = push_response(forced_lstm(forget, output_gate=0), inputs_of(), state="cell", at=10)
    assert response.lags.tolist() == list(range(LENGTH - 10))
    np.testing.assert_allclose(response.states, forget**response.lags, rtol=1e-6)
    assert response.half_life() == pytest.approx(math.log(0.5) / math.log(forget), rel=1e-6)


def test_push_on_a_hidden_state_that_nothing_reads_is_gone_after_one_step() -> None:
    response = push_response(forced_lstm(0.9), inputs_of(), state="hidden", at=10)
    assert response.states[0] == response.output[0] == pytest.approx(1)
    assert (response.states[1:] == 0).all()
    assert response.half_life() < 1


def test_push_on_the_cell_is_seen_by_the_output_only_from_the_next_step() -> None:
    response = push_response(forced_lstm(0.9), inputs_of(), state="cell", at=10)
    assert response.states[0] == pytest.approx(1)
    assert response.output[0] == 0
    assert response.output[1] > 0.1


def test_push_on_a_linear_rnn_decays_as_alpha_whatever_its_size() -> None:
    layer, inputs = linear_rnn(0.9)
    for size in (0.001, 0.1):
        response = push_response(layer, inputs, state="hidden", at=5, size=size)
        np.testing.assert_allclose(response.states, 0.9**response.lags, rtol=1e-6)
        np.testing.assert_allclose(response.output, response.states)


def test_half_life_counts_from_the_last_time_above_half() -> None:
    lags = np.arange(5.0)
    comes_back = np.array([1.0, 0.2, 1.0, 0.25, 0.1])
    assert PushResponse(lags, comes_back, comes_back).half_life() == pytest.approx(2.5)
    stays = np.array([1.0, 0.9, 0.9, 0.9, 0.8])
    assert PushResponse(lags, stays, stays).half_life() == 4


def test_push_response_refuses_an_unknown_state() -> None:
    with pytest.raises(ValueError, match="state: 'cell' is not a state of this layer; expected one of hidden"):
        push_response(unrolled.GRU(2, 4), inputs_of(), state="cell", at=3)


@pytest.mark.parametrize("at", [-1, LENGTH - 1, LENGTH])
def test_push_response_refuses_a_step_with_nothing_after_it(at: int) -> None:
    with pytest.raises(ValueError, match=rf"at: step {at} .*expected 0 to {LENGTH - 2}"):
        push_response(forced_lstm(0.9), inputs_of(), state="cell", at=at)


def test_push_response_refuses_more_than_one_layer_or_direction() -> None:
    with pytest.raises(ValueError, match="layer: .* given 2 layers"):
        push_response(unrolled.LSTM(2, 4, num_layers=2), inputs_of(), state="cell", at=3)
    with pytest.raises(ValueError, match="layer: .* in two directions"):
        push_response(unrolled.LSTM(2, 4, bidirectional=True), inputs_of(), state="cell", at=3)


# Probes

Labels = NDArray[np.int64]


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_probe_finds_a_planted_linear_label() -> None:
    labels = random().integers(0, 3, (50, 20))
    centres = 4 * np.eye(3, 10)
    features = centres[labels] + random(1).normal(size=(50, 20, 10))
    result = probe(features, labels)
    assert result.accuracy > 0.99
    assert result.chance == pytest.approx(1 / 3)
    assert result.steps == 20 * 20
    assert result.control is None
    assert result.selectivity is None


def test_probe_of_noise_stays_at_chance() -> None:
    accuracies = []
    for seed in range(20):
        features = random(seed).normal(size=(50, 20, 5))
        labels = random(100 + seed).integers(0, 2, (50, 20))
        accuracies.append(probe(features, labels, seed=seed).accuracy)
    # 400 steps are tested: a standard error of 0.025 each, 0.0056 for the mean.
    assert max(abs(accuracy - 0.5) for accuracy in accuracies) < 0.1
    assert np.mean(accuracies) == pytest.approx(0.5, abs=0.02)


def test_probe_does_not_profit_from_knowing_the_sequence() -> None:
    # Every sequence has one label and names itself: by single steps the label would be known everywhere.
    features = np.repeat(np.eye(40)[:, None], 10, axis=1)
    labels = np.repeat(random().integers(0, 2, (40, 1)), 10, axis=1)
    assert probe(features, labels).accuracy == 0.5


def test_probe_counts_rare_classes_as_much_as_common_ones() -> None:
    labels = (random().random((50, 20)) < 0.02).astype(np.int64)
    assert probe(random(1).normal(size=(50, 20, 2)), labels).accuracy < 0.8  # answering 0 is right at 98 % of the steps


def test_probe_leaves_out_steps_without_a_label() -> None:
    labels = random().integers(0, 2, (50, 20))
    features = np.where(labels == 1, 1.0, -1.0)[..., None].repeat(2, -1)
    features[:, ::2] *= -1  # where there is no label the features say the opposite
    labels[:, ::2] = -1
    result = probe(features, labels)
    assert result.accuracy == 1
    assert result.steps == 20 * 10


def test_constant_features_tell_nothing() -> None:
    labels = random().integers(0, 2, (50, 20))
    assert probe(np.full((50, 20, 3), 7.0, dtype=np.float32), labels).accuracy == 0.5


def test_selectivity_is_low_where_the_features_are_the_symbol_itself() -> None:
    symbols = random().integers(0, 10, (60, 20))
    labels = symbols % 2
    control = control_labels(symbols, labels)
    by_symbol = probe(np.eye(10)[symbols], labels, control=control)
    assert by_symbol.accuracy == by_symbol.control == 1
    assert by_symbol.selectivity == 0
    by_label = probe(np.eye(2)[labels], labels, control=control)
    assert by_label.selectivity is not None
    assert by_label.selectivity > 0.1


def test_control_labels_depend_on_the_symbol_only() -> None:
    symbols = random().integers(0, 12, (30, 20))
    labels = random(1).integers(0, 3, (30, 20))
    labels[:, :5] = -1
    control = control_labels(symbols, labels, seed=4)
    for symbol in range(12):
        assert len(set(control[(symbols == symbol) & (labels >= 0)])) == 1
    assert ((control == -1) == (labels == -1)).all()
    assert set(control[labels >= 0]) == {0, 1, 2}
    assert (control == control_labels(symbols, labels, seed=4)).all()


def test_probe_refuses_features_that_are_not_numbers() -> None:
    features = np.zeros((10, 5, 2))
    features[3, 2, 1] = math.nan
    with pytest.raises(ValueError, match="features: hold NaN"):
        probe(features, np.zeros((10, 5), dtype=np.int64))


@pytest.mark.parametrize(("features", "labels"), [((10, 5, 2), (10, 4)), ((10, 5, 2), (9, 5)), ((10, 5), (10, 5))])
def test_probe_refuses_shapes_that_do_not_fit(features: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="labels: shape .* does not fit features"):
        probe(np.zeros(features), np.zeros(labels, dtype=np.int64))


def test_probe_refuses_a_single_sequence_and_a_single_class() -> None:
    with pytest.raises(ValueError, match="features: 1 sequences are too few"):
        probe(np.zeros((1, 5, 2)), np.zeros((1, 5), dtype=np.int64))
    with pytest.raises(ValueError, match="labels: fewer than two classes"):
        probe(np.zeros((10, 5, 2)), np.zeros((10, 5), dtype=np.int64))


# Memory curve


def shift_register(symbols: Labels, kinds: int, stages: int) -> NDArray[np.float64]:
    """(B, T) symbols -> (B, T, stages * kinds): the last `stages` symbols side by side."""
    held = np.eye(kinds)[symbols]
    return np.concatenate([np.pad(held, ((0, 0), (k, 0), (0, 0)))[:, : held.shape[1]] for k in range(stages)], axis=-1)


def test_memory_curve_of_a_shift_register_ends_with_its_stages() -> None:
    symbols = random().integers(0, 4, (120, 25))
    curve = memory_curve(shift_register(symbols, 4, 3), symbols, range(6))
    assert curve.lags == (0, 1, 2, 3, 4, 5)
    assert curve.accuracy[:3] == (1, 1, 1)
    # Some 1,000 steps are tested: a standard error of 0.014.
    assert curve.accuracy[3:] == pytest.approx([0.25] * 3, abs=0.06)
    assert curve.control == pytest.approx([0.25] * 6, abs=0.06)
    assert curve.chance == (0.25,) * 6


def test_memory_curve_asks_only_for_the_marked_symbols() -> None:
    symbols = random().integers(0, 4, (200, 6))
    asked = symbols.copy()
    asked[:, 1:] = -1
    held = np.repeat(np.eye(4)[symbols[:, :1]], 6, axis=1)  # the first symbol, kept to the end
    assert memory_curve(held, asked, [0, 3, 5]).accuracy == (1, 1, 1)


@pytest.mark.parametrize("lag", [-1, 25])
def test_memory_curve_refuses_a_lag_beyond_the_sequence(lag: int) -> None:
    symbols = random().integers(0, 4, (10, 25))
    with pytest.raises(ValueError, match=rf"lags: {lag} does not fit sequences of 25 steps; expected 0 to 24"):
        memory_curve(shift_register(symbols, 4, 1), symbols, [0, lag])


# Gate openness

# One sequence of four steps with two units; the last two steps are marked.
GATE = torch.tensor([[[0.0, 0.8], [0.2, 1.0], [0.7, 0.1], [0.9, 0.1]]])
MARKS = torch.tensor([[False, False, True, True]])


def test_gate_openness_of_a_gate_worked_out_by_hand() -> None:
    found = gate_openness(GATE, MARKS)
    assert found.matter == pytest.approx((0.7 + 0.9 + 0.1 + 0.1) / 4)
    assert found.rest == pytest.approx((0.0 + 0.2 + 0.8 + 1.0) / 4)
    # The first unit opens by 0.7, the second shuts by 0.8.
    assert found.difference == pytest.approx((0.7 + 0.8) / 2)
    # Within the two kinds of steps the first spreads by 0.1 and 0.1, the second by 0 and 0.1.
    assert found.effect == pytest.approx((0.7 / 0.1 + 0.8 / math.sqrt(0.005)) / 2, rel=1e-5)


def test_gate_that_is_open_at_0_is_measured_the_other_way_round() -> None:
    plain, turned = gate_openness(GATE, MARKS), gate_openness(1 - GATE, MARKS, open_at=0)
    assert turned.matter == pytest.approx(plain.matter)
    assert turned.rest == pytest.approx(plain.rest)
    assert turned.effect == pytest.approx(plain.effect, rel=1e-5)
    assert gate_openness(GATE, MARKS, open_at=0).matter == pytest.approx(1 - plain.matter)


def test_gate_that_never_moves_has_no_effect() -> None:
    found = gate_openness(torch.full((2, 4, 3), 0.6), MARKS.expand(2, -1))
    assert found.difference == pytest.approx(0)
    assert found.effect == 0


@pytest.mark.parametrize("mark", [True, False])
def test_gate_openness_refuses_marks_that_leave_nothing_to_compare(mark: bool) -> None:
    with pytest.raises(ValueError, match="marks: every step or no step is marked"):
        gate_openness(GATE, torch.full((1, 4), mark))


def test_gate_openness_refuses_marks_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"marks: shape \(1, 3\) does not fit gate \(1, 4, 2\)"):
        gate_openness(GATE, MARKS[:, :3])
