from __future__ import annotations

import re
from importlib import import_module

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
from unrolled import variants
from unrolled.instruments import decompose_cell

LENGTH = 20
# Zoneout mixes the state with itself besides what its gates do.
DECOMPOSED = [name for name in layers() if "rnn" not in name and name != "ZoneoutLSTM"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", DECOMPOSED)
def test_parts_sum_up_to_the_state(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    layer, x = stirred(layers()[name](), 3).eval(), inputs_of(LENGTH)
    found = decompose_cell(layer, x, steps=[0, 7, LENGTH - 1])
    with unrolled.record(layer, detach=True) as trace:
        layer(x)
    state = "hidden" if "gru" in name else "cell"
    wanted = trace[f"l0.{state}"].numpy().transpose(1, 0, 2)[[0, 7, LENGTH - 1]]
    parts = np.nansum(found.data["contribution"].values, axis=2) + found.data["initial"].values
    np.testing.assert_allclose(parts, wanted, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.data["value"], wanted)
    assert found.error() <= 1e-12
    assert found.data.attrs["state"] == state


def test_contributions_across_chunks_are_those_of_a_single_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64)), inputs_of(LENGTH)
    steps = range(LENGTH)
    whole = decompose_cell(layer, x, steps=steps)
    for chunk in (1, 3, 5, LENGTH - 1, LENGTH):
        monkeypatch.setattr(import_module("unrolled.instruments.decompose_cell"), "_CHUNK", chunk)
        cut = decompose_cell(layer, x, steps=steps)
        assert cut.error() <= 1e-12
        for name, values in whole.data.data_vars.items():
            np.testing.assert_allclose(cut.data[name], values, rtol=1e-12)


def test_long_sequences_decompose_across_the_chunks_that_are_in_use() -> None:
    layer = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64))
    with torch.no_grad():
        layer.bias_ih_l0[4:8] = 6  # so that the far past is still there
    found = decompose_cell(layer, inputs_of(700), steps=[255, 256, 257, 699])
    assert found.error() <= 1e-12
    assert np.abs(found.data["contribution"].values[-1, :, 0]).max() > 1e-3


def test_contributions_match_autograd_of_what_was_written() -> None:
    # Along the direct path c_t depends on what step k wrote by the product of the forget gates after k.
    layer, x = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64)), inputs_of(LENGTH)
    with unrolled.record(layer, detach=True) as trace:
        layer(x)
    gates = {name.removeprefix("l0."): value for name, value in trace.items()}
    written = (gates["input_gate"] * gates["candidate"]).requires_grad_()
    cell = torch.zeros(BATCH, 4, dtype=torch.float64)
    for t in range(LENGTH):
        cell = gates["forget_gate"][:, t] * cell + written[:, t]
    (slope,) = torch.autograd.grad(cell.sum(), written)
    found = decompose_cell(layer, x).data["contribution"].values[0]
    np.testing.assert_allclose(found, (slope * written).detach(), rtol=1e-12)


@pytest.mark.parametrize("forget", [0.5, 0.9, 1.0, 0.0])
def test_contributions_of_a_forced_lstm_decay_with_its_forget_gate(forget: float) -> None:
    found = decompose_cell(forced_lstm(forget), inputs_of(LENGTH), steps=[4, LENGTH - 1])
    for place, step in enumerate((4, LENGTH - 1)):
        contribution = found.data["contribution"].values[place]
        wanted = 0.05 * forget ** (step - np.arange(step + 1.0))
        np.testing.assert_allclose(contribution[:, : step + 1], np.broadcast_to(wanted[:, None], (BATCH, step + 1, 6)))
        assert np.isnan(contribution[:, step + 1 :]).all()


def test_contributions_of_a_forced_gru_decay_with_its_update_gate() -> None:
    contribution = decompose_cell(forced_gru(0.8), inputs_of(LENGTH)).data["contribution"].values[0]
    wanted = 0.2 * 0.3 * 0.8 ** (LENGTH - 1 - np.arange(LENGTH))
    np.testing.assert_allclose(contribution, np.broadcast_to(wanted[:, None], contribution.shape))


def test_mean_age_of_a_forced_lstm_is_that_of_a_geometric_series() -> None:
    found = decompose_cell(forced_lstm(0.8), inputs_of(LENGTH), steps=[9])
    ages = np.arange(10)
    wanted = (ages * 0.8**ages).sum() / (0.8**ages).sum()
    np.testing.assert_allclose(found.age(), np.full((1, BATCH), wanted))
    said = r"What makes up the cell state at step 9 was written 2\.797\d* \(2\.797\d* to 2\.797\d*\) steps away"
    assert re.search(said, found.summary())


class From(nn.Module):
    """A layer that begins at a given cell state."""

    def __init__(self, layer: nn.Module, cell: Tensor) -> None:
        super().__init__()
        self.core = layer
        self.register_buffer("cell", cell)

    def forward(self, x: Tensor) -> Tensor:
        cell = self.cell.expand(1, len(x), -1).contiguous()
        return self.core(x, (torch.zeros_like(cell), cell))[0]


def test_what_is_left_of_the_initial_state_is_a_part_of_its_own() -> None:
    cell = torch.linspace(-2, 3, HIDDEN, dtype=torch.float64)
    found = decompose_cell(From(forced_lstm(0.9), cell), inputs_of(LENGTH), steps=[0, 5])
    np.testing.assert_allclose(found.data["initial"].values[0], 0.9 * cell.expand(BATCH, -1))
    np.testing.assert_allclose(found.data["initial"].values[1], 0.9**6 * cell.expand(BATCH, -1))
    assert found.error() <= 1e-12
    stirred_one = From(stirred(forced_lstm(0.9)), cell)
    assert decompose_cell(stirred_one, inputs_of(LENGTH)).error() <= 1e-12
    loop = decompose_cell(Loop("LSTM"), inputs_of(LENGTH))
    assert loop.error() <= 1e-12
    assert (np.abs(loop.data["initial"]) > 0).any()


def test_nothing_is_left_of_an_initial_state_of_zero() -> None:
    np.testing.assert_array_equal(decompose_cell(forced_lstm(0.9), inputs_of(LENGTH)).data["initial"], 0)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_reverse_layer_is_made_up_of_the_steps_after(kind: str) -> None:
    both = stirred(getattr(nn, kind)(2, 3, batch_first=True, bidirectional=True, dtype=torch.float64))
    alone = getattr(nn, kind)(2, 3, batch_first=True, dtype=torch.float64)
    alone.load_state_dict({n.removesuffix("_reverse"): v for n, v in both.state_dict().items() if "reverse" in n})
    x = inputs_of(LENGTH)
    found = decompose_cell(both, x, layer="l0_reverse", steps=[3, 12])
    turned = decompose_cell(alone, x.flip(1), steps=[LENGTH - 1 - 12, LENGTH - 1 - 3])
    assert found.error() <= 1e-12
    np.testing.assert_allclose(
        found.data["contribution"].values, turned.data["contribution"].values[::-1, :, ::-1], rtol=1e-12
    )
    assert np.isnan(found.data["contribution"].sel(step=3, source=slice(0, 2))).all()
    assert not np.isnan(found.data["contribution"].sel(step=3, source=slice(3, None))).any()
    np.testing.assert_allclose(found.age(), turned.age()[::-1])
    # The last step that it takes is the first of the sequence.
    assert decompose_cell(both, x, layer="l0_reverse").data["step"].values.tolist() == [0]


def test_layer_of_a_stack_inside_a_model_of_torchs_own_layers_is_decomposed() -> None:
    model = Headed("LSTM", num_layers=2)
    for layer in ("encoder.core.l0", "encoder.core.l1"):
        found = decompose_cell(model, inputs_of(LENGTH), layer=layer)
        assert found.error() <= 1e-12
        assert found.data.attrs["layer"] == layer


def test_time_major_layer_is_decomposed_like_a_batch_first_one() -> None:
    first = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64))
    time = unrolled.LSTM(2, 4, dtype=torch.float64)
    time.load_state_dict(first.state_dict())
    x = inputs_of(LENGTH)
    found, wanted = decompose_cell(time, x.transpose(0, 1)), decompose_cell(first, x)
    np.testing.assert_array_equal(found.data["contribution"], wanted.data["contribution"])


def test_zoneout_is_refused_unless_it_leaves_the_cell_alone() -> None:
    with pytest.raises(ValueError, match=r"the cell state of the zoneout lstm 'l0' is not what its gates keep"):
        decompose_cell(stirred(variants.ZoneoutLSTM(2, 3, batch_first=True)), inputs_of(LENGTH))
    alone = stirred(variants.ZoneoutLSTM(2, 3, zoneout_cell=0.0, zoneout_hidden=0.5, batch_first=True))
    assert decompose_cell(alone, inputs_of(LENGTH)).error() <= 1e-12


def test_cell_without_a_gate_that_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer: the rnn 'l0' has no gate that keeps a state"):
        decompose_cell(unrolled.RNN(2, 3, batch_first=True), inputs_of(LENGTH))


@pytest.mark.parametrize("step", [-1, LENGTH])
def test_step_outside_of_the_sequences_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=rf"steps: {step} is not in sequences of 20 steps; expected 0 to 19"):
        decompose_cell(forced_lstm(0.9), inputs_of(LENGTH), steps=[0, step])


def test_sequences_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inputs: the sequences of 'core.l0' are of unequal length"):
        decompose_cell(Packing(forced_lstm(0.9)), padded(inputs_of(LENGTH), [20, 3, 5]))


def test_data_is_named_and_has_coordinates() -> None:
    data = decompose_cell(forced_lstm(0.9), inputs_of(LENGTH), steps=[7, 2, 7]).data
    assert {name: values.dims for name, values in data.data_vars.items()} == {
        "contribution": ("step", "sequence", "source", "unit"),
        "initial": ("step", "sequence", "unit"),
        "value": ("step", "sequence", "unit"),
    }
    assert data["step"].values.tolist() == [2, 7]
    assert data["source"].values.tolist() == list(range(LENGTH))
    assert data["sequence"].values.tolist() == list(range(BATCH))
    assert data["unit"].values.tolist() == list(range(HIDDEN))
    assert (data.attrs["layer"], data.attrs["state"]) == ("l0", "cell")
