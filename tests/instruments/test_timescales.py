from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unrolled
from networks import (
    BATCH,
    HIDDEN,
    Headed,
    Loop,
    Packing,
    forced_gru,
    forced_lstm,
    inputs_of,
    layers,
    padded,
    stirred,
)
from unrolled.instruments import Timescales, bias_of, timescale_of, timescales


def test_a_bias_of_zero_keeps_for_the_time_in_which_a_half_falls_to_one_over_e() -> None:
    assert timescale_of(0.0) == pytest.approx(1 / math.log(2))
    # A gate of sigmoid(b) leaves 1/e after T steps.
    for bias in (-3.0, 0.5, 4.0):
        assert (1 / (1 + math.exp(-bias))) ** timescale_of(bias) == pytest.approx(1 / math.e)


def test_bias_and_timescale_are_each_others_inverse() -> None:
    biases = np.linspace(-20, 30, 101)
    np.testing.assert_allclose(bias_of(timescale_of(biases)), biases, rtol=1e-9, atol=1e-9)
    times = np.geomspace(0.01, 1e6, 50)
    np.testing.assert_allclose(timescale_of(bias_of(times)), times, rtol=1e-9)
    assert bias_of(1e5) == pytest.approx(math.log(1e5), abs=1e-5)  # Tallec & Ollivier (2018)


def test_bias_and_timescale_at_their_ends_are_numbers_without_warnings() -> None:
    assert timescale_of(1000.0) == math.inf
    assert timescale_of(-1000.0) == pytest.approx(1e-3)
    assert bias_of(math.inf) == math.inf
    assert bias_of(1e-3) == pytest.approx(-1000)
    assert bias_of(0.0) == -math.inf


def chrono(kind: str, seed: int, t_max: float = 100, hidden: int = 64) -> Any:
    torch.manual_seed(seed)
    return getattr(unrolled, kind)(2, hidden, init="chrono", t_max=t_max)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_each_units_bias_is_recovered_from_its_timescale(kind: str) -> None:
    layer = chrono(kind, 0)
    found = timescales(layer).of("bias")
    bias = (layer.bias_ih_l0 + layer.bias_hh_l0)[64:128].detach().double().numpy()  # torch's i, f, g, o and r, z, n
    np.testing.assert_allclose(bias_of(found), bias, rtol=1e-9)
    assert (found >= timescale_of(0.0)).all()
    assert (found <= timescale_of(math.log(99))).all()


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("t_max", [20.0, 1000.0])
def test_t_max_of_chrono_is_read_back_without_bias_over_seeds(kind: str, t_max: float) -> None:
    found = [timescales(chrono(kind, seed, t_max)).chrono_t_max() for seed in range(60)]
    # The largest of 64 draws spreads by a 66th of their range: 0.2 % of it for the mean of 60.
    assert np.mean(found) == pytest.approx(t_max, rel=0.008)
    assert np.std(found) < 0.04 * t_max


def test_torchs_own_biases_are_read_as_their_sum() -> None:
    layer = nn.GRU(2, 3)
    with torch.no_grad():
        layer.bias_ih_l0.zero_()
        layer.bias_hh_l0.zero_()
        layer.bias_ih_l0[3:6] = torch.tensor([1.0, 2.0, -4.0])
        layer.bias_hh_l0[3:6] = torch.tensor([1.0, -2.0, 1.0])
    np.testing.assert_allclose(timescales(layer).of("bias"), timescale_of(np.array([2.0, 0.0, -3.0])), rtol=1e-6)


@pytest.mark.parametrize("forget", [0.5, 0.9, 0.999])
def test_gates_timescale_of_a_forced_lstm_is_one_over_the_logarithm_of_its_forget_gate(forget: float) -> None:
    found = timescales(forced_lstm(forget), inputs_of())
    np.testing.assert_allclose(found.of("gate"), -1 / math.log(forget), rtol=1e-9)
    np.testing.assert_allclose(found.of("bias"), -1 / math.log(forget), rtol=1e-9)


def test_gates_timescale_of_a_forced_gru_is_one_over_the_logarithm_of_its_update_gate() -> None:
    np.testing.assert_allclose(timescales(forced_gru(0.8), inputs_of()).of("gate"), -1 / math.log(0.8), rtol=1e-9)


def test_gate_that_moves_is_measured_by_its_logarithms_mean() -> None:
    layer = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64), 4)
    x = inputs_of()
    with unrolled.record(layer, names="*.forget_gate", detach=True) as trace:
        layer(x)
    gate = trace["l0.forget_gate"].numpy()
    assert gate.std() > 0.1
    np.testing.assert_allclose(timescales(layer, x).of("gate"), -1 / np.log(gate).mean((0, 1)), rtol=1e-9)


@pytest.mark.parametrize(("forget", "wanted"), [(1.0, math.inf), (0.0, 0.0)])
def test_gate_that_is_always_open_or_always_shut_keeps_for_ever_or_not_at_all(forget: float, wanted: float) -> None:
    found = timescales(forced_lstm(forget, dtype=torch.float32), inputs_of().float())
    assert (found.of("gate") == wanted).all()
    assert found.summary().startswith("Timescales in steps")
    found.plot()


DECAYS = np.array([0.5, 0.8, 0.9, 0.95])


def autoregressive(dtype: torch.dtype = torch.float64) -> tuple[nn.RNNBase, Tensor]:
    """An RNN in tanh's linear middle whose units are first-order processes, s_t = a s_(t-1) + noise."""
    layer = unrolled.RNN(4, 4, bias=False, batch_first=True, dtype=dtype)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.eye(4))
        layer.weight_hh_l0.copy_(torch.diag(torch.from_numpy(DECAYS)))
    return layer, 1e-3 * torch.randn(8, 5000, 4, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocorrelation_of_a_first_order_process_gives_its_decay(dtype: torch.dtype) -> None:
    layer, noise = autoregressive(dtype)
    found = timescales(layer, noise).of("autocorrelation", "hidden")
    # The correlation's standard error is sqrt((1 - a²) / n), n = 40,000; its effect on -1 / log a divides by a log² a.
    error = np.sqrt((1 - DECAYS**2) / 40_000) / (DECAYS * np.log(DECAYS) ** 2)
    assert (np.abs(found + 1 / np.log(DECAYS)) < 4 * error).all()


class Offset(nn.Module):
    """A unit that moves little about a large value, from the first step on: h_t = a h_(t-1) + (1 - a) 1000 + noise."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.core = unrolled.RNN(1, 1, nonlinearity="relu", batch_first=True)
        with torch.no_grad():
            for parameter, value in zip(self.core.parameters(), (1.0, decay, (1 - decay) * 1000, 0.0), strict=True):
                parameter.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        return self.core(x, torch.full((1, len(x), 1), 1000, dtype=x.dtype))[0]


def test_small_movements_about_a_large_value_are_not_lost_in_float32() -> None:
    noise = 0.1 * torch.randn(32, 2000, 1)
    found = timescales(Offset(0.9), noise).of("autocorrelation", "hidden")
    assert found[0] == pytest.approx(-1 / math.log(0.9), rel=0.03)


def test_unit_that_does_not_move_has_no_autocorrelation() -> None:
    layer = forced_lstm(0.9, write=0)
    found = timescales(layer, inputs_of()).of("autocorrelation", "cell")
    assert np.isnan(found).all()
    still = timescales(Offset(0.9), torch.zeros(2, 50, 1))
    assert np.isnan(still.of("autocorrelation", "hidden")).all()
    assert "unknown" in still.summary()


def test_unit_that_alternates_has_a_timescale_of_zero() -> None:
    layer = unrolled.RNN(1, 1, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1)
        layer.weight_hh_l0.fill_(0)
    x = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(20).reshape(1, 40, 1)
    assert timescales(layer, x).of("autocorrelation", "hidden").tolist() == [0]


def assert_same(found: Timescales, wanted: Timescales) -> None:
    assert set(found.data.data_vars) == set(wanted.data.data_vars)
    for name, values in wanted.data.data_vars.items():
        np.testing.assert_allclose(found.data[name], values, rtol=1e-8)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn tanh"])
def test_result_does_not_depend_on_how_sequences_are_divided_into_batches(name: str) -> None:
    layer, x = stirred(layers()[name]()), inputs_of(batch=12)
    whole = timescales(layer, x)
    for sizes in ([1] * 12, [5, 7], [11, 1]):
        assert_same(timescales(layer, iter(x.split(sizes))), whole)
    assert_same(timescales(layer, ((part, "label") for part in x.split(3))), whole)
    # Another order is the same too, the first value that came being of no account.
    assert_same(timescales(layer, x.flip(0).split(4)), whole)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_steps_after_a_sequences_end_do_not_count(bidirectional: bool) -> None:
    core = stirred(unrolled.LSTM(2, 3, batch_first=True, bidirectional=bidirectional, dtype=torch.float64))
    x, lengths = inputs_of(20), [20, 7, 12]
    name = "core.l0_reverse" if bidirectional else "core.l0"
    found = timescales(Packing(core), padded(x, lengths), layer=name)
    each = [x[row : row + 1, :length] for row, length in enumerate(lengths)]
    assert_same(found, timescales(core, each, layer=name.removeprefix("core.")))


def test_projection_leaves_the_missing_units_of_the_hidden_state_open() -> None:
    layer = stirred(unrolled.LSTM(2, 3, proj_size=2, batch_first=True, dtype=torch.float64))
    found = timescales(layer, inputs_of())
    assert np.isnan(found.of("autocorrelation", "hidden")).tolist() == [False, False, True]
    assert not np.isnan(found.of("autocorrelation", "cell")).any()
    assert found.of("gate").shape == (3,)


def test_variants_have_timescales_where_they_have_a_gate_that_keeps() -> None:
    for name in layers():
        data = timescales(stirred(layers()[name]()), inputs_of()).data
        assert ("gate" in data) == ("rnn" not in name)
        assert ("bias" in data) == ("rnn" not in name and "without bias" not in name)


def test_models_of_torchs_own_layers_are_measured_in_eval_mode() -> None:
    model = Headed("LSTM", num_layers=2, dropout=0.9).train()
    x = inputs_of().float()
    first, second = (timescales(model, x, layer="encoder.core.l1") for _ in range(2))
    assert_same(second, first)
    assert model.training
    assert timescales(Loop("GRU"), x).of("gate").shape == (4,)


def test_data_is_named_and_has_coordinates() -> None:
    data = timescales(forced_lstm(0.9), inputs_of()).data
    assert {name: values.dims for name, values in data.data_vars.items()} == {
        "bias": ("unit",),
        "gate": ("unit",),
        "autocorrelation": ("state", "unit"),
    }
    assert data["state"].values.tolist() == ["hidden", "cell"]
    assert data["unit"].values.tolist() == list(range(HIDDEN))
    assert set(timescales(forced_lstm(0.9)).data) == {"bias"}


def test_summary_says_median_and_quartiles_over_units() -> None:
    layer = forced_lstm(0.5)
    with torch.no_grad():
        layer.bias_ih_l0[HIDDEN : 2 * HIDDEN] = torch.from_numpy(bias_of(np.array([1.0, 2, 3, 4, 5, 60])))
    said = timescales(layer).summary()
    assert said == "Timescales in steps, median (quartiles) over units: by the bias 3.00 (2.00 to 5.00)."
    assert "by the cell state's autocorrelation" in timescales(layer, inputs_of(batch=BATCH)).summary()


@pytest.mark.parametrize("layer", [unrolled.RNN(2, 3), unrolled.LSTM(2, 3, bias=False)])
def test_layer_without_a_bias_that_keeps_asks_for_inputs(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match="inputs: the (rnn|lstm) 'l0' has no bias of a gate that keeps; give inputs"):
        timescales(layer)
