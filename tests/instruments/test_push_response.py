from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import unrolled
from networks import (
    BATCH,
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
    unchanged,
)
from unrolled.instruments import jacobian, push_response
from unrolled.instruments.push_response import half_life


@pytest.mark.parametrize("forget", [0.5, 0.8, 0.95])
def test_push_on_the_cell_decays_with_the_forget_gate(forget: float) -> None:
    response = push_response(forced_lstm(forget, output_gate=0), inputs_of(), state="cell", at=10)
    assert response.lags.tolist() == list(range(LENGTH - 10))
    np.testing.assert_allclose(response.states, forget**response.lags, rtol=1e-6)
    assert response.half_life() == pytest.approx(math.log(0.5) / math.log(forget), rel=1e-6)


def test_push_on_the_cell_that_is_kept_whole_is_seen_to_the_end() -> None:
    response = push_response(forced_lstm(1.0, output_gate=0), inputs_of(), state="cell", at=10)
    np.testing.assert_allclose(response.states, 1, rtol=1e-9)
    assert response.half_life() == LENGTH - 1 - 10
    assert "(the end of the sequences)" in response.summary()


def test_push_on_the_hidden_state_of_a_gru_decays_with_its_update_gate() -> None:
    response = push_response(forced_gru(0.8), inputs_of(), state="hidden", at=3)
    np.testing.assert_allclose(response.states, 0.8**response.lags, rtol=1e-6)
    np.testing.assert_allclose(response.output, response.states)


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


@pytest.mark.parametrize("name", layers())
def test_small_push_is_carried_by_the_jacobians_product(name: str) -> None:
    layer, x, at = stirred(layers()[name]()).eval(), inputs_of(8), 3
    if name == "rnn relu":
        with torch.no_grad():
            layer.bias_ih_l0.fill_(20)  # so that no unit is pushed over its kink
    full = jacobian(layer, x).full()[:, at + 1 :]
    with unrolled.record(layer, detach=True) as trace:
        layer(x)
    states = ("hidden", "cell") if "l0.cell" in trace else ("hidden",)
    sizes = [trace[f"l0.{state}"].size(-1) for state in states]
    for place, state in enumerate(states):
        response = push_response(layer, x, state=state, at=at, size=1e-6, directions=1, seed=5)
        # The first direction that this seed draws, of length 1.
        drawn = torch.randn(BATCH, sizes[place], generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        moved = np.zeros((BATCH, sum(sizes)))
        start = sum(sizes[:place])
        moved[:, start : start + sizes[place]] = drawn / drawn.norm(dim=-1, keepdim=True)
        for lag in range(8 - at):
            wanted = np.linalg.norm(moved, axis=-1)
            np.testing.assert_allclose(response.data["left"].values[0, :, lag], wanted, rtol=1e-4, atol=1e-6)
            assert response.states[lag] == pytest.approx(np.median(wanted), rel=1e-4, abs=1e-6)
            if lag < 7 - at:
                moved = (full[:, lag] @ moved[..., None])[..., 0]


def test_layer_of_a_stack_is_pushed_alone() -> None:
    stack = forced_lstm(0.5, num_layers=2)
    with torch.no_grad():
        stack.bias_ih_l1[6:12] = math.log(9)  # a forget gate of 0.9
        for name in ("l0", "l1"):
            getattr(stack, f"bias_ih_{name}")[18:] = -1000  # nothing is put out
    for layer, forget in (("l0", 0.5), ("l1", 0.9)):
        response = push_response(stack, inputs_of(), state="cell", at=10, layer=layer)
        np.testing.assert_allclose(response.states, forget**response.lags, rtol=1e-6)
        assert response.data.attrs["layer"] == layer


def test_reverse_layer_is_followed_to_the_beginning() -> None:
    both = forced_lstm(0.8, output_gate=0, bidirectional=True)
    response = push_response(both, inputs_of(), state="cell", at=10, layer="l0_reverse")
    assert response.lags.tolist() == list(range(11))
    np.testing.assert_allclose(response.states, 0.8**response.lags, rtol=1e-6)
    first = push_response(both, inputs_of(), state="cell", at=LENGTH - 1, layer="l0_reverse")
    assert first.lags.size == LENGTH
    with pytest.raises(ValueError, match=rf"at: step 0 leaves nothing to follow .*expected 1 to {LENGTH - 1}"):
        push_response(both, inputs_of(), state="cell", at=0, layer="l0_reverse")


@pytest.mark.parametrize("make", [lambda: Headed("LSTM", num_layers=2), lambda: Loop("LSTM")])
def test_models_of_torchs_own_layers_are_pushed_and_stay_as_they_were(make: Any) -> None:
    model = make().train()
    layer = "encoder.core.l0" if isinstance(model, Headed) else "cell"
    with unchanged(model):
        response = push_response(model, inputs_of().float(), state="cell", at=10, layer=layer)
    assert response.states[0] == pytest.approx(1)
    assert 0 < response.states[5] < 1


def test_layer_of_torch_is_pushed_like_the_same_layer_of_ours() -> None:
    ours = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64))
    theirs = nn.LSTM(2, 4, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x = inputs_of()
    found, wanted = (push_response(layer, x, state="hidden", at=4) for layer in (theirs, ours))
    np.testing.assert_allclose(found.data["left"], wanted.data["left"], atol=1e-12)


def test_time_major_layer_is_pushed_like_a_batch_first_one() -> None:
    first = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64))
    time = unrolled.LSTM(2, 4, dtype=torch.float64)
    time.load_state_dict(first.state_dict())
    x = inputs_of(12)
    found = push_response(time, x.transpose(0, 1), state="cell", at=4)
    np.testing.assert_allclose(found.data["left"], push_response(first, x, state="cell", at=4).data["left"])


def test_median_is_over_directions_and_sequences() -> None:
    layer = stirred(unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64))
    response = push_response(layer, inputs_of(batch=4), state="cell", at=4, directions=3)
    np.testing.assert_allclose(response.states, np.median(response.data["left"].values, axis=(0, 1)))


@pytest.mark.parametrize("batch", [1, 12])
def test_half_life_lies_in_its_interval(batch: int) -> None:
    layer = stirred(unrolled.LSTM(2, 6, batch_first=True, dtype=torch.float64))
    response = push_response(layer, inputs_of(batch=batch), state="cell", at=5)
    over = response.half_life_interval()
    assert over.n == batch
    assert over.mean == response.half_life()
    assert over.low <= over.mean <= over.high
    assert (over.low < over.high) == (batch > 1)
    assert response.half_life_interval() == over


def test_half_life_counts_from_the_last_time_above_half() -> None:
    lags = np.arange(5.0)
    assert half_life(lags, np.array([1.0, 0.2, 1.0, 0.25, 0.1])) == pytest.approx(2.5)
    assert half_life(lags, np.array([1.0, 0.9, 0.9, 0.9, 0.8])) == 4
    assert half_life(lags, 0.5**lags) == pytest.approx(1)
    assert half_life(lags, np.array([1.0, 0.0, 0.0, 0.0, 0.0])) < 0.1


def test_data_is_named_and_has_coordinates() -> None:
    data = push_response(forced_lstm(0.9), inputs_of(), state="cell", at=30, directions=2).data
    assert {name: values.dims for name, values in data.data_vars.items()} == {
        "states": ("lag",),
        "output": ("lag",),
        "left": ("direction", "sequence", "lag"),
    }
    assert data["lag"].values.tolist() == list(range(10))
    assert data["direction"].values.tolist() == [0, 1]
    assert data["sequence"].values.tolist() == list(range(BATCH))
    assert (data.attrs["layer"], data.attrs["state"], data.attrs["at"]) == ("l0", "cell", 30)


def test_summary_says_the_half_life_and_its_interval() -> None:
    said = push_response(forced_lstm(0.5, output_gate=0), inputs_of(), state="cell", at=10).summary()
    assert said.startswith("Half of a push on the cell state alone at step 10 is gone after 1")
    assert " to 1" in said


def test_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match="state: 'cell' is not a state of this layer; expected one of hidden"):
        push_response(unrolled.GRU(2, 4), inputs_of(), state="cell", at=3)


@pytest.mark.parametrize("at", [-1, LENGTH - 1, LENGTH])
def test_step_with_nothing_after_it_is_refused(at: int) -> None:
    with pytest.raises(ValueError, match=rf"at: step {at} .*expected 0 to {LENGTH - 2}"):
        push_response(forced_lstm(0.9), inputs_of(), state="cell", at=at)


def test_state_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="at: the hidden state of a sequence is zero at step 5"):
        push_response(forced_lstm(0.9, output_gate=0), inputs_of(), state="hidden", at=5)


@pytest.mark.parametrize("size", [0.0, -1.0, math.nan])
def test_push_of_no_size_is_refused(size: float) -> None:
    with pytest.raises(ValueError, match=f"size: given {size}, expected more than 0"):
        push_response(forced_lstm(0.9), inputs_of(), state="cell", at=5, size=size)


def test_layer_has_to_be_named_where_there_are_several() -> None:
    with pytest.raises(ValueError, match="layer: the model has 2 recurrent layers; expected one of l0, l0_reverse"):
        push_response(unrolled.LSTM(2, 4, bidirectional=True), inputs_of(), state="cell", at=3)


def test_sequences_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inputs: the sequences of 'core.l0' are of unequal length"):
        push_response(Packing(forced_lstm(0.9)), padded(inputs_of(20), [20, 3, 5]), state="cell", at=1)
