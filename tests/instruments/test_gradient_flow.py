from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unrolled
from networks import (
    BATCH,
    HIDDEN,
    LENGTH,
    Headed,
    Loop,
    Packing,
    forced_gru,
    forced_lstm,
    inputs_of,
    layers,
    linear_rnn,
    padded,
    stirred,
    unit,
    weighed,
)
from unrolled.instruments import gradient_flow


def summed(output: tuple[Tensor, object]) -> Tensor:
    """The loss of a bare layer: its last hidden state, summed."""
    return output[0][:, -1].sum(-1)


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.05])
def test_gradient_of_a_linear_rnn_is_alpha_to_the_lag(alpha: float) -> None:
    layer, inputs = linear_rnn(alpha)
    flow = gradient_flow(layer, inputs, weighed(unit()))
    assert flow.lags.tolist() == list(range(LENGTH))
    assert flow.states == ["hidden"]
    np.testing.assert_allclose(flow.norms("hidden"), alpha**flow.lags, rtol=1e-6)
    assert flow.rate("hidden") == pytest.approx(math.log(alpha), abs=1e-6)
    assert flow.fold("hidden") == pytest.approx((LENGTH - 2) * math.log10(alpha), abs=1e-6)
    assert flow.direct is None


def test_every_sequence_of_a_linear_rnn_has_the_rate_log_alpha() -> None:
    layer, inputs = linear_rnn(0.9)
    flow = gradient_flow(layer, inputs, weighed(unit()))
    np.testing.assert_allclose(flow.data["rate"].sel(state="hidden"), math.log(0.9), atol=1e-6)
    over = flow.rate_interval("hidden")
    assert over.n == BATCH
    assert [over.low, over.mean, over.high] == pytest.approx([math.log(0.9)] * 3, abs=1e-6)
    life = flow.half_life_interval("hidden")
    assert [life.low, life.mean, life.high] == pytest.approx([math.log(0.5) / math.log(0.9)] * 3, abs=1e-4)


def test_interval_of_the_rate_holds_the_sequences_rates_mean() -> None:
    layer = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64))
    flow = gradient_flow(layer, inputs_of(batch=20), summed)
    rates = flow.data["rate"].sel(state="cell").values
    assert rates.std() > 0
    over = flow.rate_interval("cell")
    assert over.mean == pytest.approx(rates.mean())
    assert over.low < over.mean < over.high
    # Student's t of 19 degrees of freedom.
    assert over.high - over.mean == pytest.approx(2.0930 * rates.std(ddof=1) / math.sqrt(20), rel=1e-4)


def test_norms_are_geometric_means_over_sequences() -> None:
    layer, inputs = linear_rnn(0.9)
    plain, scales = weighed(unit()), torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    flow = gradient_flow(layer, inputs, lambda output: plain(output) * scales)
    np.testing.assert_allclose(flow.norms("hidden"), 0.9**flow.lags, rtol=1e-6)


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
    np.testing.assert_allclose(short.norms("hidden"), long.norms("hidden")[:8])


@pytest.mark.parametrize("forget", [0.5, 0.9, 0.99])
def test_cell_gradient_of_an_lstm_follows_its_forget_gate(forget: float) -> None:
    flow = gradient_flow(forced_lstm(forget), inputs_of(), weighed(unit()))
    assert flow.direct is not None
    np.testing.assert_allclose(flow.direct, forget**flow.lags, rtol=1e-9)
    cell = flow.norms("cell")
    np.testing.assert_allclose(cell / cell[0], forget**flow.lags, rtol=1e-9)
    # With all weights zero there is no path but the direct one.
    np.testing.assert_allclose(flow.data["direct_norm"], cell, rtol=1e-9)
    assert flow.rate("cell") == pytest.approx(math.log(forget), abs=1e-9)


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_hidden_gradient_of_a_gru_follows_its_update_gate(keep: float) -> None:
    flow = gradient_flow(forced_gru(keep), inputs_of(), weighed(unit()))
    assert flow.direct is not None
    for found in (flow.direct, flow.data["direct_norm"], flow.norms("hidden")):
        np.testing.assert_allclose(found, keep**flow.lags, rtol=1e-9)


def test_open_forget_gate_is_the_constant_error_carousel() -> None:
    flow = gradient_flow(forced_lstm(1.0, write=0.001), inputs_of(), weighed(unit()))
    assert flow.direct is not None
    assert (flow.direct == 1).all()
    cell = flow.norms("cell")
    np.testing.assert_allclose(cell, cell[0], rtol=1e-12)
    np.testing.assert_allclose(flow.data["direct_norm"], cell[0], rtol=1e-12)
    assert flow.rate("cell") == pytest.approx(0, abs=1e-12)


def test_total_path_is_more_than_the_direct_one_where_gates_read_the_hidden_state() -> None:
    layer = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64))
    flow = gradient_flow(layer, inputs_of(), summed)
    direct, total = flow.data["direct_norm"].values, flow.norms("cell")
    assert direct[0] == pytest.approx(total[0])
    assert (np.abs(direct[1:] / total[1:] - 1) > 1e-3).all()


@pytest.mark.parametrize("name", layers())
def test_norms_match_what_small_pushes_on_the_states_do_to_the_loss(name: str) -> None:
    layer, inputs, width = stirred(layers()[name]()).eval(), inputs_of(4), 1e-5
    flow = gradient_flow(layer, inputs, summed)

    def pushed(state: str, step: int, push: Tensor) -> Tensor:
        with torch.no_grad(), unrolled.intervene(layer, unrolled.Push(f"l0.{state}", push, steps=step)):
            return summed(layer(inputs))

    for state in flow.states[:2]:
        units = torch.eye(layer.proj_size or 3 if state == "hidden" else 3, dtype=torch.float64)
        for lag in range(4):
            slopes = [pushed(state, 3 - lag, width * u) - pushed(state, 3 - lag, -width * u) for u in units]
            gradient = torch.stack(slopes, dim=-1) / (2 * width)
            assert flow.norms(state)[lag] == pytest.approx(float(gradient.norm(dim=-1).log().mean().exp()), rel=1e-6)


def test_both_states_together_have_the_norm_of_the_two_side_by_side() -> None:
    layer = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64))
    flow = gradient_flow(layer, inputs_of(batch=1), summed)
    assert flow.states == ["hidden", "cell", "both"]
    np.testing.assert_allclose(flow.norms("both"), np.hypot(flow.norms("hidden"), flow.norms("cell")), rtol=1e-12)


def test_gradient_to_a_hidden_state_that_nothing_reads_is_exactly_zero() -> None:
    flow = gradient_flow(forced_lstm(0.9), inputs_of(), weighed(unit()))
    assert flow.norms("hidden")[0] == pytest.approx(1)
    assert (flow.norms("hidden")[1:] == 0).all()
    assert flow.rate("hidden") == flow.fold("hidden") == -math.inf
    assert flow.half_life("hidden") == 0
    assert "to the hidden state it is exactly zero from lag 2 on" in flow.summary()


def test_rate_of_a_single_lag_is_not_a_number() -> None:
    flow = gradient_flow(forced_lstm(0.9), inputs_of(), weighed(unit()), max_lag=1)
    assert math.isnan(flow.rate("cell"))
    assert math.isnan(flow.half_life("cell"))


def test_small_gradients_of_a_float32_network_are_not_lost() -> None:
    layer = forced_lstm(0.01, dtype=torch.float32)
    flow = gradient_flow(layer, inputs_of().float(), weighed(unit()))
    cell = flow.norms("cell")
    assert cell[-1] / cell[0] == pytest.approx(0.01 ** (LENGTH - 1), rel=1e-4)
    assert layer.weight_hh_l0.dtype == torch.float32


def test_gradient_flow_measures_the_named_layer_of_a_stack() -> None:
    stack = nn.LSTM(2, 4, num_layers=2, batch_first=True)
    top, bottom = (gradient_flow(stack, inputs_of(), summed, layer=layer) for layer in ("l1", "l0"))
    assert top.norms("hidden")[0] == pytest.approx(2)  # d sum / d h is 1 for each of 4 units
    assert bottom.norms("hidden")[0] != pytest.approx(2)
    assert (top.data.attrs["layer"], bottom.data.attrs["layer"]) == ("l1", "l0")


def test_model_of_symbols_is_measured_through_its_embedding() -> None:
    flow = gradient_flow(Headed(symbols=5), torch.randint(5, (BATCH, 8)), lambda output: output)
    assert flow.lags.size == 8
    assert (flow.norms("cell") > 0).all()


def test_loop_over_a_cell_is_measured_like_the_layer_with_its_weights() -> None:
    loop = Loop().double()
    layer = nn.LSTM(2, 4, batch_first=True, dtype=torch.float64)
    layer.load_state_dict({f"{name}_l0": value for name, value in loop.cell.state_dict().items()})
    begin, x = loop.begin.detach().expand(1, BATCH, -1).contiguous(), inputs_of(8)

    class FromBegin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = layer

        def forward(self, x: Tensor) -> Tensor:
            return loop.head(self.core(x, (begin, -begin))[0][:, -1]).squeeze(-1)

    by_loop, by_layer = (gradient_flow(model, x, lambda output: output) for model in (loop, FromBegin()))
    np.testing.assert_allclose(by_loop.data["norm"], by_layer.data["norm"], rtol=1e-12)


def test_loss_is_given_the_rest_of_the_batch() -> None:
    layer, inputs = linear_rnn(0.9)
    plain = weighed(unit())
    targets = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)

    def loss(output: tuple[Tensor, object], targets: Tensor, power: int) -> Tensor:
        return plain(output) * targets**power

    flow = gradient_flow(layer, [(inputs, targets, 2)], loss)
    np.testing.assert_allclose(flow.norms("hidden"), 24 ** (2 / 3) * 0.9**flow.lags, rtol=1e-6)


def test_result_does_not_depend_on_how_sequences_are_divided_into_batches() -> None:
    layer, x = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64)), inputs_of(batch=12)
    whole = gradient_flow(layer, x, summed)
    for sizes in ([1] * 12, [5, 7], [11, 1]):
        divided = gradient_flow(layer, iter(x.split(sizes)), summed)
        for name, values in whole.data.data_vars.items():
            np.testing.assert_allclose(divided.data[name], values, rtol=1e-9)
        assert divided.data.sizes == whole.data.sizes


def test_time_major_layer_is_measured_like_a_batch_first_one() -> None:
    first = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64))
    time = unrolled.LSTM(2, 4, dtype=torch.float64)
    time.load_state_dict(first.state_dict())
    x = inputs_of(9)
    wanted = gradient_flow(first, x, summed)
    found = gradient_flow(time, x.transpose(0, 1), lambda output: output[0][-1].sum(-1))
    np.testing.assert_allclose(found.data["norm"], wanted.data["norm"], rtol=1e-12)
    assert found.data.sizes == wanted.data.sizes


def test_data_is_named_and_has_coordinates() -> None:
    data = gradient_flow(forced_lstm(0.9), inputs_of(), weighed(unit()), max_lag=5).data
    assert {name: values.dims for name, values in data.data_vars.items()} == {
        "norm": ("state", "lag"),
        "rate": ("state", "sequence"),
        "direct": ("lag",),
        "direct_norm": ("lag",),
    }
    assert data["state"].values.tolist() == ["hidden", "cell", "both"]
    assert data["lag"].values.tolist() == list(range(6))
    assert data["sequence"].values.tolist() == list(range(BATCH))
    assert data.attrs["layer"] == "l0"


def test_summary_says_rate_half_life_and_what_is_left_of_the_direct_path() -> None:
    said = gradient_flow(forced_lstm(0.5), inputs_of(11), weighed(unit())).summary()
    assert "over lags 1 to 10" in said
    # To how many places a bound is written depends on rounding.
    assert re.search(r"to the cell state it grows by −0.693\d* \(−0.693\d* to −0.693\d*\) nats a step", said)
    assert re.search(r"halves every 1.00\d* \(1.00\d* to 1.00\d*\) steps", said)
    assert "9.77 × 10⁻⁴ is left of the direct path at the last" in said  # 2 ** -10


def test_summary_of_an_exploding_gradient_says_that_it_does_not_shrink() -> None:
    layer, inputs = linear_rnn(1.05)
    assert "(does not shrink)" in gradient_flow(layer, inputs, weighed(unit())).summary()


@pytest.mark.parametrize("max_lag", [0, LENGTH, -1])
def test_lags_beyond_the_sequence_are_refused(max_lag: int) -> None:
    with pytest.raises(ValueError, match=rf"max_lag: {max_lag} does not fit .*expected 1 to {LENGTH - 1}"):
        gradient_flow(forced_lstm(0.9), inputs_of(), weighed(unit()), max_lag=max_lag)


def test_later_batch_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_lag: 9 does not fit sequences of 8 steps; expected 1 to 7"):
        gradient_flow(forced_lstm(0.9), [inputs_of(10), inputs_of(8)], weighed(unit()))


def test_reverse_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer: 'l0_reverse' reads from the end"):
        gradient_flow(nn.LSTM(2, 4, batch_first=True, bidirectional=True), inputs_of(), summed, layer="l0_reverse")


def test_sequences_of_unequal_length_are_refused() -> None:
    model = Packing(forced_lstm(0.9))
    with pytest.raises(ValueError, match=r"inputs: the sequences of 'core.l0' are of unequal length"):
        gradient_flow(model, padded(inputs_of(8), [8, 3, 5]), lambda output: output.sum((1, 2)))


def test_loss_of_the_whole_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss: gave shape \(\); expected one for each sequence, \(3,\)"):
        gradient_flow(forced_lstm(0.9), inputs_of(), lambda output: output[0][:, -1].sum())
    with pytest.raises(ValueError, match=r"loss: gave shape \(3, 6\)"):
        gradient_flow(forced_lstm(0.9), inputs_of(), lambda output: output[0][:, -1])


def test_interval_needs_more_than_one_sequence() -> None:
    flow = gradient_flow(forced_lstm(0.9), inputs_of(batch=1), weighed(unit(HIDDEN)))
    assert flow.rate_interval("cell").n == 1
    assert math.isnan(flow.rate_interval("cell").low)
    assert "to the cell state it grows by −0.105 nats a step (halves every 6.58 steps)" in flow.summary()
