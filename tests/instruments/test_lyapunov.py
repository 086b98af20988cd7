from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

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
)
from unrolled.instruments import jacobian, lyapunov


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.05])
def test_exponents_of_a_linear_rnn_are_all_log_alpha(alpha: float) -> None:
    layer, inputs = linear_rnn(alpha)
    found = lyapunov(layer, inputs, count=HIDDEN)
    np.testing.assert_allclose(found.exponents, math.log(alpha), atol=1e-6)
    for bound in ("low", "high"):
        np.testing.assert_allclose(found.data[bound], math.log(alpha), atol=1e-6)


def test_exponents_come_largest_first() -> None:
    layer, inputs = linear_rnn(1.0)
    sizes = torch.tensor([0.3, 1.2, 0.9, 0.5, 1.0, 0.7], dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.diag(sizes))
    found = lyapunov(layer, torch.ones_like(inputs).repeat(1, 10, 1), count=HIDDEN, warm_up=200)
    np.testing.assert_allclose(found.exponents, sizes.sort(descending=True)[0].log().numpy(), atol=1e-3)
    np.testing.assert_allclose(found.data["mean"].mean(("sequence", "stretch")), found.exponents, atol=1e-9)


@pytest.mark.parametrize("name", layers())
def test_all_exponents_together_are_the_mean_logarithm_of_the_jacobians_determinant(name: str) -> None:
    layer, inputs = stirred(layers()[name]()).eval(), inputs_of(20)
    if name == "rnn relu":
        with torch.no_grad():
            layer.bias_ih_l0.fill_(20)  # where every unit is active the determinant is not 0
    full = jacobian(layer, inputs).full()
    found = lyapunov(layer, inputs, count=full.shape[-1], warm_up=5)
    determinants = np.linalg.slogdet(full[:, 5:]).logabsdet
    assert found.exponents.sum() == pytest.approx(determinants.mean(), rel=1e-9)


def test_top_exponent_is_the_growth_of_the_jacobians_product() -> None:
    layer, inputs = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64)), inputs_of(400, batch=1)
    product, growth = np.eye(8), 0.0
    for step in jacobian(layer, inputs).full()[0, 10:]:
        product = step @ product
        growth += math.log(np.linalg.norm(product))
        product /= np.linalg.norm(product)
    assert lyapunov(layer, inputs).exponents[0] == pytest.approx(growth / 390, abs=0.01)


def test_top_exponent_of_a_forced_lstm_is_that_of_its_cell() -> None:
    assert lyapunov(forced_lstm(0.9), inputs_of()).exponents[0] == pytest.approx(math.log(0.9), abs=1e-3)
    # Without the output the hidden state follows nothing and the cell is all there is.
    shut = lyapunov(forced_lstm(0.9, output_gate=0), inputs_of(), count=HIDDEN)
    np.testing.assert_allclose(shut.exponents, math.log(0.9), atol=1e-6)


def test_states_that_nothing_reads_have_exponents_of_minus_infinity() -> None:
    found = lyapunov(forced_lstm(0.9, output_gate=0), inputs_of(), count=2 * HIDDEN)
    np.testing.assert_allclose(found.exponents[:HIDDEN], math.log(0.9), atol=1e-6)
    assert (found.exponents[HIDDEN:] < -30).all()  # nothing but rounding is left of them
    assert "−0.105" in found.summary()


def test_exponents_of_a_forced_gru_are_those_of_its_update_gate() -> None:
    found = lyapunov(forced_gru(0.8), inputs_of(), count=HIDDEN)
    np.testing.assert_allclose(found.exponents, math.log(0.8), atol=1e-6)


def log_sigmoid(bias: float) -> float:
    return -math.log1p(math.exp(-bias))


def assert_follows_the_forget_bias(layer: unrolled.LSTM, inputs: torch.Tensor) -> None:
    full, alone = [], []
    biases = [0.0, 1.0, 3.0, 5.0]
    for bias in biases:
        with torch.no_grad():
            layer.bias_ih_l0[16:32] = bias
            layer.bias_hh_l0[16:32] = 0
        full.append(float(lyapunov(layer, inputs).exponents[0]))
        with pytest.warns(UserWarning, match="hidden_only leaves the cell's own path out"):
            alone.append(float(lyapunov(layer, inputs, hidden_only=True).exponents[0]))
    # From above, by less than a factor of 4: what the hidden state feeds back slows the decay down.
    for bias, exponent in zip(biases, full, strict=True):
        assert log_sigmoid(bias) <= exponent <= log_sigmoid(bias) / 4
    assert full == sorted(full)
    # What is measured from the hidden state alone neither follows it nor is anywhere near.
    assert max(alone) - min(alone) < 0.4
    assert max(alone) < -1.5


def test_top_exponent_of_an_lstm_follows_its_forget_bias_and_that_of_the_hidden_state_alone_does_not() -> None:
    assert_follows_the_forget_bias(unrolled.LSTM(1, 16, batch_first=True), torch.randn(1, 2000, 1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_top_exponents_of_more_lstms_follow_their_forget_bias(seed: int) -> None:
    torch.manual_seed(seed)
    assert_follows_the_forget_bias(unrolled.LSTM(1, 16, batch_first=True), torch.randn(1, 2000, 1))


def test_hidden_only_changes_nothing_and_warns_of_nothing_where_there_is_no_cell() -> None:
    layer, inputs = stirred(unrolled.GRU(2, 4, batch_first=True, dtype=torch.float64)), inputs_of()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = lyapunov(layer, inputs, hidden_only=True, count=4)
    np.testing.assert_array_equal(alone.exponents, lyapunov(layer, inputs, count=4).exponents)


def test_hidden_only_is_the_hidden_states_own_block() -> None:
    layer, inputs = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64)), inputs_of()
    blocks = jacobian(layer, inputs).data["hidden_by_hidden"].values[:, 10:]
    with pytest.warns(UserWarning, match="hidden_only"):
        found = lyapunov(layer, inputs, count=4, hidden_only=True)
    assert found.exponents.sum() == pytest.approx(np.linalg.slogdet(blocks).logabsdet.mean(), rel=1e-9)
    assert "of the hidden state alone, without the cell's own path" in found.summary()
    with pytest.warns(UserWarning, match="hidden_only"), pytest.raises(ValueError, match="5 exponents of 4 states"):
        lyapunov(layer, inputs, count=5, hidden_only=True)


def test_layer_of_a_stack_has_the_exponents_that_it_has_alone() -> None:
    stack = stirred(nn.LSTM(2, 4, num_layers=2, batch_first=True, dtype=torch.float64))
    top = nn.LSTM(4, 4, batch_first=True, dtype=torch.float64)
    top.load_state_dict({name.replace("l1", "l0"): v for name, v in stack.state_dict().items() if "l1" in name})
    bottom = nn.LSTM(2, 4, batch_first=True, dtype=torch.float64)
    bottom.load_state_dict({name: v for name, v in stack.state_dict().items() if "l0" in name})
    x = inputs_of()
    np.testing.assert_allclose(
        lyapunov(stack, x, layer="l1", count=8).exponents, lyapunov(top, bottom(x)[0], count=8).exponents, rtol=1e-9
    )


def test_reverse_layer_has_the_exponents_of_the_sequence_turned_round() -> None:
    both = stirred(nn.GRU(2, 4, batch_first=True, bidirectional=True, dtype=torch.float64))
    alone = nn.GRU(2, 4, batch_first=True, dtype=torch.float64)
    alone.load_state_dict({n.removesuffix("_reverse"): v for n, v in both.state_dict().items() if "reverse" in n})
    x = inputs_of()
    np.testing.assert_allclose(
        lyapunov(both, x, layer="l0_reverse", count=4).exponents, lyapunov(alone, x.flip(1), count=4).exponents
    )


@pytest.mark.parametrize("model", [Headed("GRU"), Loop("LSTM"), Loop("RNN")])
def test_models_of_torchs_own_layers_are_measured(model: nn.Module) -> None:
    assert np.isfinite(lyapunov(model, inputs_of().float(), count=3).exponents).all()


def test_interval_is_over_stretches_of_time() -> None:
    layer = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64))
    found = lyapunov(layer, inputs_of(110), count=2, warm_up=10)
    means = found.data["mean"].sel(index=0).values
    assert means.shape == (BATCH, 10)
    assert found.exponents[0] == pytest.approx(means.mean())
    # Student's t of 29 degrees of freedom.
    half = 2.0452 * means.std(ddof=1) / math.sqrt(30)
    assert float(found.data["high"][0]) == pytest.approx(means.mean() + half, rel=1e-4)
    assert float(found.data["low"][0]) == pytest.approx(means.mean() - half, rel=1e-4)


def test_sequence_shorter_than_ten_stretches_is_divided_into_its_steps() -> None:
    found = lyapunov(forced_lstm(0.9), inputs_of(14), warm_up=10)
    assert found.data.sizes["stretch"] == 4


def test_data_is_named_and_has_coordinates() -> None:
    data = lyapunov(forced_lstm(0.9), inputs_of(), count=3).data
    assert {name: values.dims for name, values in data.data_vars.items()} == {
        "exponent": ("index",),
        "low": ("index",),
        "high": ("index",),
        "mean": ("index", "sequence", "stretch"),
    }
    assert data["index"].values.tolist() == [0, 1, 2]
    assert data["sequence"].values.tolist() == list(range(BATCH))
    assert data["stretch"].values.tolist() == list(range(10))
    assert (data.attrs["layer"], data.attrs["warm_up"], data.attrs["hidden_only"]) == ("l0", 10, 0)


@pytest.mark.parametrize(
    ("alpha", "figure", "does"), [(0.9, "−0.105", "trajectories meet"), (1.05, "0.048", "trajectories part")]
)
def test_summary_says_the_exponent_and_what_trajectories_do(alpha: float, figure: str, does: str) -> None:
    layer, inputs = linear_rnn(alpha)
    said = lyapunov(layer, inputs).summary()
    assert re.search(rf"of all states is {figure}\d* \({figure}\d* to {figure}\d*\) nats a step: {does}\.", said)


def test_summary_of_a_single_stretch_claims_nothing() -> None:
    said = lyapunov(forced_lstm(0.9, output_gate=0), inputs_of(11, batch=1), warm_up=10).summary()
    assert said.endswith("is −0.105 nats a step: neither is certain.")


def test_layer_has_to_be_named_where_there_are_several() -> None:
    with pytest.raises(ValueError, match="layer: the model has 2 recurrent layers; expected one of l0, l1"):
        lyapunov(unrolled.LSTM(2, 4, num_layers=2), inputs_of())


def test_sequences_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inputs: the sequences of 'core.l0' are of unequal length"):
        lyapunov(Packing(forced_lstm(0.9)), padded(inputs_of(), [40, 30, 20]))


@pytest.mark.parametrize("warm_up", [-1, LENGTH])
def test_warm_up_that_leaves_nothing_is_refused(warm_up: int) -> None:
    with pytest.raises(ValueError, match=f"warm_up: {warm_up} leaves nothing of {LENGTH} steps"):
        lyapunov(forced_lstm(0.9), inputs_of(), warm_up=warm_up)


@pytest.mark.parametrize("count", [0, 2 * HIDDEN + 1])
def test_more_exponents_than_states_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count: {count} exponents of {2 * HIDDEN} states"):
        lyapunov(forced_lstm(0.9), inputs_of(), count=count)
