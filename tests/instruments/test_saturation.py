from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unrolled
from networks import Headed, Loop, Packing, inputs_of, layers, padded, stirred
from unrolled.instruments import Saturation, saturation

# Of ten steps three drive gates up, five drive them down, and two leave them in the middle.
DRIVE = torch.tensor([1.0, -1, 0, -1, 1, -1, 0, -1, 1, -1], dtype=torch.float64).reshape(1, 10, 1)


def driven(kind: str = "LSTM", *, by: tuple[float, ...] = (10.0, 1.0)) -> Any:
    """A layer with one input and no recurrent weights whose unit u has all pre-activations by[u] * x."""
    layer = getattr(unrolled, kind)(1, len(by), batch_first=True, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
        layer.weight_ih_l0.copy_(torch.tensor(by).repeat(layer.weight_ih_l0.size(0) // len(by)).unsqueeze(1))
    return layer


def test_shares_of_planted_gates_are_those_counted_by_hand() -> None:
    found = saturation(driven(), DRIVE)
    assert found.data["name"].values.tolist() == ["input_gate", "forget_gate", "candidate", "output_gate", "hidden"]
    high, low = 1 / (1 + np.exp(-10)), 1 / (1 + np.exp(10))
    some, few = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))
    for name in ("input_gate", "forget_gate", "output_gate"):
        gate = found.data.sel(name=name)
        # The second unit moves between 0.27 and 0.73.
        assert gate["left"].values.tolist() == [0.5, 0]
        assert gate["right"].values.tolist() == [0.3, 0]
        means = [(3 * high + 5 * low + 1) / 10, (3 * some + 5 * few + 1) / 10]
        np.testing.assert_allclose(gate["mean"], means, rtol=1e-12)
    # A candidate's middle is 0, and tanh(1) is 0.76.
    candidate = found.data.sel(name="candidate")
    assert candidate["left"].values.tolist() == [0.5, 0]
    assert candidate["right"].values.tolist() == [0.3, 0]
    np.testing.assert_allclose(candidate["mean"], [-0.2 * np.tanh(10), -0.2 * np.tanh(1)], rtol=1e-12)
    assert found.data.attrs["steps"] == 10


def test_hidden_state_of_an_rnn_is_saturated_at_both_ends_of_tanh() -> None:
    found = saturation(driven("RNN", by=(5.0, 1.0, -5.0)), DRIVE)
    assert found.data["name"].values.tolist() == ["hidden"]
    assert found.data["left"].values.tolist() == [[0.5, 0, 0.3]]
    assert found.data["right"].values.tolist() == [[0.3, 0, 0.5]]


def test_gates_of_a_gru_are_measured() -> None:
    found = saturation(driven("GRU"), DRIVE)
    assert found.data["name"].values.tolist() == ["reset_gate", "update_gate", "candidate", "hidden"]
    assert found.data["left"].sel(name="update_gate").values.tolist() == [0.5, 0]


def test_hidden_state_counts_what_the_layer_put_out() -> None:
    layer = stirred(unrolled.LSTM(2, 5, batch_first=True, dtype=torch.float64), 8)
    x = 3 * inputs_of()
    output = layer(x)[0].detach().numpy()
    hidden = saturation(layer, x).data.sel(name="hidden")
    assert (output > 0.9).any()
    np.testing.assert_allclose(hidden["right"], (output > 0.9).mean((0, 1)))
    np.testing.assert_allclose(hidden["left"], (output < -0.9).mean((0, 1)))
    np.testing.assert_allclose(hidden["mean"], output.mean((0, 1)))


def test_share_is_the_mean_over_units_with_its_interval() -> None:
    over = saturation(driven(by=(10.0, 1.0, 10.0, 1.0)), DRIVE).share("forget_gate", "left")
    assert (over.mean, over.n) == (0.25, 4)
    assert over.high - over.mean == pytest.approx(3.1824 * np.std([0.5, 0, 0.5, 0], ddof=1) / 2, rel=1e-4)


def assert_same(found: Saturation, wanted: Saturation) -> None:
    assert found.data.attrs["steps"] == wanted.data.attrs["steps"]
    for name, values in wanted.data.data_vars.items():
        np.testing.assert_allclose(found.data[name], values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn tanh"])
def test_result_does_not_depend_on_how_sequences_are_divided_into_batches(name: str) -> None:
    layer, x = stirred(layers()[name](), 8), inputs_of(batch=12)
    whole = saturation(layer, x)
    assert float(whole.data["left"].sum()) > 0
    for sizes in ([1] * 12, [5, 7], [11, 1]):
        assert_same(saturation(layer, iter(x.split(sizes))), whole)
    assert_same(saturation(layer, ((part, "label") for part in x.split(3))), whole)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_steps_after_a_sequences_end_do_not_count(bidirectional: bool) -> None:
    core = stirred(unrolled.LSTM(2, 3, batch_first=True, bidirectional=bidirectional, dtype=torch.float64), 8)
    x, lengths = inputs_of(20), [20, 7, 12]
    name = "core.l0_reverse" if bidirectional else "core.l0"
    found = saturation(Packing(core), padded(x, lengths), layer=name)
    each = [x[row : row + 1, :length] for row, length in enumerate(lengths)]
    assert found.data.attrs["steps"] == 39
    assert_same(found, saturation(core, each, layer=name.removeprefix("core.")))


def test_gate_that_is_never_shut_is_not_shut_after_a_sequences_end_either() -> None:
    found = saturation(Packing(driven(by=(1.0,))), padded(DRIVE.expand(2, -1, -1), [10, 2]))
    assert float(found.data["left"].sum()) == 0


@pytest.mark.parametrize("name", layers())
def test_every_bounded_state_and_gate_of_every_cell_is_measured(name: str) -> None:
    layer = layers()[name]()
    if name == "rnn relu":
        with pytest.raises(ValueError, match="layer: nothing of the rnn 'l0' is bounded, so nothing saturates"):
            saturation(layer, inputs_of())
        return
    found = saturation(layer, inputs_of()).data
    with unrolled.record(layer, detach=True) as trace:
        layer(inputs_of())
    # A projected hidden state may be of any size.
    boundless = {"cell", "hidden"} if name == "lstm with projection" else {"cell"}
    assert set(found["name"].values) == {n.removeprefix("l0.") for n in trace} - boundless
    shares = found["left"].values + found["right"].values
    assert ((shares >= 0) & (shares <= 1)).all()


def test_reverse_layer_is_measured() -> None:
    layer = driven(by=(10.0,))
    both = unrolled.LSTM(1, 1, bias=False, batch_first=True, bidirectional=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter in both.parameters():
            parameter.zero_()
        both.weight_ih_l0_reverse.copy_(layer.weight_ih_l0)
    assert saturation(both, DRIVE, layer="l0_reverse").share("forget_gate", "right").mean == pytest.approx(0.3)
    assert saturation(both, DRIVE, layer="l0").share("forget_gate", "right").mean == 0


@pytest.mark.parametrize("model", [Headed("GRU").train(), Loop("LSTM")])
def test_models_of_torchs_own_layers_are_measured(model: nn.Module) -> None:
    found = saturation(model, [inputs_of().float(), inputs_of(7).float()])
    assert found.data.attrs["steps"] == 3 * 47
    assert found.data.sizes["unit"] == 4


def test_data_is_named_and_has_coordinates() -> None:
    data = saturation(driven(), DRIVE).data
    assert {name: values.dims for name, values in data.data_vars.items()} == dict.fromkeys(
        ("left", "right", "mean"), ("name", "unit")
    )
    assert data["unit"].values.tolist() == [0, 1]
    assert data.attrs["layer"] == "l0"


def test_summary_says_the_share_of_each_gate_with_its_interval() -> None:
    said = saturation(driven(by=(10.0, 10.0, 10.0)), DRIVE).summary()
    assert said.startswith("Share of 10 steps at which a unit is saturated, mean over units: ")
    assert "forget gate 0.500 (0.500 to 0.500) low, 0.300 (0.300 to 0.300) high" in said


def test_sequences_that_were_reset_are_measured() -> None:
    class Resetting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = stirred(unrolled.LSTM(2, 3, batch_first=True, dtype=torch.float64), 8)

        def forward(self, x: Tensor) -> Tensor:
            reset = torch.zeros(x.shape[:2], dtype=torch.bool)
            reset[:, 10] = True
            return self.core(x, reset=reset)[0]

    model, x = Resetting(), inputs_of(20)
    assert_same(saturation(model, x), saturation(model.core, [x[:, :10], x[:, 10:]]))
