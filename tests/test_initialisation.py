"""How parameters start, by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unrolled

I, H = 3, 400  # noqa: E741


def gate_bias(layer: Any, place: int, suffix: str = "l0") -> Tensor:
    """What is added in one gate: both of torch's biases."""
    rows = slice(place * H, (place + 1) * H)
    return (getattr(layer, f"bias_ih_{suffix}") + getattr(layer, f"bias_hh_{suffix}"))[rows].detach()


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_without_a_name_parameters_start_as_torchs_do(kind: str) -> None:
    torch.manual_seed(0)
    mine = getattr(unrolled, kind)(I, H, 2)
    torch.manual_seed(0)
    theirs = getattr(nn, kind)(I, H, 2)
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("suffix", ["l0", "l1_reverse"])
def test_chrono_biases_are_logarithms_of_a_uniform_draw_in_the_range_of_t_max(suffix: str) -> None:
    t_max = 200
    layer = unrolled.LSTM(I, H, num_layers=2, bidirectional=True, init="chrono", t_max=t_max)
    forget, into = gate_bias(layer, 1, suffix), gate_bias(layer, 0, suffix)
    torch.testing.assert_close(into, -forget)
    drawn = forget.exp()
    assert drawn.min() >= 1
    assert drawn.max() <= t_max - 1
    # Kolmogorov and Smirnov's distance from the uniform distribution, at 0.1 % for 400 draws.
    uniform = torch.linspace(0, 1, H)
    assert ((drawn.sort().values - 1) / (t_max - 2) - uniform).abs().max() < 1.95 / math.sqrt(H)


def test_chrono_units_remember_from_one_to_t_max_steps() -> None:
    layer = unrolled.LSTM(I, H, init="chrono", t_max=1000)
    timescale = 1 / torch.log1p(torch.exp(-gate_bias(layer, 1)))  # steps until 1 / e is left
    assert 1 < timescale.min() < 50
    assert 900 < timescale.max() < 1000


def test_chrono_of_a_gru_opens_the_gate_that_keeps() -> None:
    layer = unrolled.GRU(I, H, init="chrono", t_max=50)
    assert (gate_bias(layer, 1) >= 0).all()  # a high update gate keeps
    assert gate_bias(layer, 1).exp().max() > 40
    assert gate_bias(layer, 0).abs().max() <= 2 / math.sqrt(H)  # the reset gate is as torch.nn's


def test_chrono_of_a_coupled_lstm_sets_its_one_gate() -> None:
    layer = unrolled.CoupledLSTM(I, H, init="chrono", t_max=50)
    assert (gate_bias(layer, 0) >= 0).all()


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "CoupledLSTM", "PeepholeLSTM"])
def test_orthogonal_makes_each_gates_recurrent_weights_orthogonal(kind: str) -> None:
    layer = getattr(unrolled, kind)(I, 16, bidirectional=True, init="orthogonal", dtype=torch.float64)
    for weight in (layer.weight_hh_l0, layer.weight_hh_l0_reverse):
        for block in weight.split(16):
            torch.testing.assert_close(block @ block.t(), torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("init", ["torch", "orthogonal"])
def test_forget_bias_is_the_sum_of_both_biases(init: str) -> None:
    layer = unrolled.LSTM(I, H, num_layers=2, init=init, forget_bias=1.5)
    for suffix in ("l0", "l1"):
        assert (gate_bias(layer, 1, suffix) == 1.5).all()
        assert gate_bias(layer, 0, suffix).std() > 0


def test_reset_parameters_draws_by_the_same_name_again() -> None:
    layer = unrolled.LSTM(I, H, init="chrono", t_max=100)
    before = gate_bias(layer, 1)
    layer.reset_parameters()
    assert not torch.equal(gate_bias(layer, 1), before)
    assert (gate_bias(layer, 1) >= 0).all()


def test_a_converted_layer_keeps_its_parameters_and_torchs_way_of_drawing_them() -> None:
    layer = nn.LSTM(I, H)
    before = [p.clone() for p in layer.parameters()]
    unrolled.convert(layer)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    layer.reset_parameters()
    assert gate_bias(layer, 1).abs().max() <= 2 / math.sqrt(H)


def test_a_layer_prints_how_it_was_initialised() -> None:
    assert str(unrolled.LSTM(3, 4, init="chrono", t_max=50)) == "LSTM(3, 4, init=chrono, t_max=50)"
    assert str(unrolled.LSTM(3, 4, forget_bias=1.0)) == "LSTM(3, 4, forget_bias=1.0)"
    assert str(unrolled.LSTM(3, 4)) == "LSTM(3, 4)"


def test_single_cells_are_initialised_by_name_too() -> None:
    cell = unrolled.LSTMCell(I, H, init="chrono", t_max=100)
    forget = (cell.bias_ih + cell.bias_hh)[H : 2 * H]
    assert (forget >= 0).all()
    assert forget.exp().max() > 80
    assert (unrolled.LSTMCell(I, H, forget_bias=1.0).bias_ih[H : 2 * H] == 1.0).all()
    weight = unrolled.RNNCell(I, 16, init="orthogonal").weight_hh
    torch.testing.assert_close(weight @ weight.t(), torch.eye(16), rtol=0, atol=1e-5)


def test_parameters_on_meta_are_left_alone() -> None:
    assert unrolled.LSTM(3, 4, init="chrono", t_max=50, device="meta").weight_hh_l0.is_meta


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("LSTM", {"init": "chorno"}, "init: given 'chorno', expected one of 'torch', 'orthogonal', 'chrono'"),
        ("LSTM", {"init": "chrono"}, "t_max: the longest dependency .* given None"),
        ("LSTM", {"init": "chrono", "t_max": 2}, "t_max: .* more than 2.* given 2"),
        ("LSTM", {"t_max": 50}, "t_max: is for init='chrono', given with init='torch'"),
        ("LSTM", {"init": "chrono", "t_max": 50, "forget_bias": 1.0}, "forget_bias: 'chrono' sets"),
        ("LSTM", {"init": "chrono", "t_max": 50, "bias": False}, "init: 'chrono' sets a bias, and the layer has none"),
        ("LSTM", {"forget_bias": 1.0, "bias": False}, "forget_bias: sets a bias, and the layer has none"),
        ("RNN", {"init": "chrono", "t_max": 50}, "init: 'chrono' sets the biases of gates, and a rnn has none"),
        ("GRU", {"forget_bias": 1.0}, "forget_bias: a gru has no forget gate"),
    ],
)
def test_a_name_that_does_not_fit_is_refused_in_words(kind: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        getattr(unrolled, kind)(3, 4, **options)
