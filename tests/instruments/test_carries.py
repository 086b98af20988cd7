"""Circuits written by hand: what is decodable, used and persistent in each is known, and one of them is all three."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unrolled
from planted import ECHO, FLEETING, STORE, SYMBOLS, UNREAD, Circuits, Keep, Relay, bits, one_hot
from unrolled.instruments import Carries, carries
from unrolled.model import SequenceModel

BATCH, LENGTH = 60, 20


def asked(model: nn.Module | None = None, **options: Any) -> Carries:
    """Whether a state of `Circuits` carries the bit that comes first."""
    x, given = bits(BATCH, LENGTH)
    return carries(model or Circuits(), x, options.pop("labels", given), **options)


def only_at(step: int) -> Tensor:
    """(B, T) the bit as a label of one step."""
    labels = torch.full((BATCH, LENGTH), -1)
    labels[:, step] = bits(BATCH, LENGTH)[1]
    return labels


def parts(found: Carries) -> tuple[bool, bool, bool]:
    return found.decodable, found.used, found.persistent


# The circuits


def test_a_cell_that_keeps_a_bit_and_shows_it_to_the_readout_carries_it() -> None:
    found = asked(state="cell", units=[STORE])
    assert parts(found) == (True, True, True)
    assert found.carried
    assert found.data["score"] == 1
    assert found.left.mean == pytest.approx(1)
    # Exchanged, the answer is that of the other bit.
    assert found.effect.mean == pytest.approx(1, rel=0.02)


def test_a_cell_that_nothing_reads_is_decodable_and_persistent_and_not_used() -> None:
    found = asked(state="cell", units=[UNREAD])
    assert parts(found) == (True, False, True)
    assert not found.carried
    assert found.effect.mean == 0


def test_a_cell_that_shows_the_bit_for_one_step_is_decodable_and_used_there_and_not_persistent() -> None:
    found = asked(state="cell", units=[FLEETING], labels=only_at(1), steps=[1])
    assert parts(found) == (True, True, False)
    assert not found.carried
    assert found.data["kept"].values.tolist() == [1, *[0] * 8]


def test_the_hidden_state_that_shows_a_kept_bit_is_made_anew_at_every_step() -> None:
    found = asked(state="hidden", units=[STORE])
    assert parts(found) == (True, True, False)
    assert found.data["kept"].values.tolist() == [1, *[0] * 8]
    assert found.half_life() == 1


def test_a_bit_that_the_input_shows_as_well_is_not_decodable_beyond_it() -> None:
    found = asked(state="cell", units=[ECHO], labels=only_at(0), steps=[0])
    assert found.data["score"] == 1
    assert not found.decodable
    assert found.gain("input").mean == 0
    assert found.gain("control").low > 0


def test_the_cell_as_a_whole_carries_what_one_of_its_units_does() -> None:
    assert asked(state="cell").carried
    assert not asked(state="hidden").carried


def test_the_verdict_does_not_depend_on_what_comes_beside_the_bit() -> None:
    for seed in range(5):
        x, given = bits(BATCH, LENGTH, seed=seed)
        assert carries(Circuits(), x, given, state="cell", units=[STORE], seed=seed).carried
        assert not carries(Circuits(), x, given, state="cell", units=[UNREAD], seed=seed).carried


def test_a_bit_that_comes_late_is_carried_from_there() -> None:
    x, given = bits(BATCH, LENGTH, at=6)
    labels = torch.full((BATCH, LENGTH), -1)
    labels[:, 6:] = given[:, None]
    found = carries(Circuits(), x, labels, state="cell", units=[STORE], horizon=5)
    assert found.carried
    assert min(found.data.attrs["steps"]) >= 6


def test_a_gate_that_opens_for_either_bit_carries_neither() -> None:
    found = asked(state="input_gate", units=[STORE])
    assert not found.decodable
    assert not found.used
    assert "The input gate (units 0) does not carry the label" in found.summary()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_an_untrained_network_carries_nothing(cell: str) -> None:
    x, given = bits(BATCH, LENGTH)
    carried = []
    for seed in range(10):
        torch.manual_seed(100 + seed)
        model = SequenceModel(cell, SYMBOLS, 8, 2)
        for state in ("hidden", "cell") if cell == "lstm" else ("hidden",):
            carried.append(carries(model, one_hot(x, SYMBOLS), given, state=state, seed=seed).carried)
    # One of twenty may be by chance.
    assert sum(carried) <= len(carried) / 20


def test_labels_that_have_nothing_to_do_with_a_state_that_is_used_are_not_what_is_used() -> None:
    x, _ = bits(BATCH, LENGTH)
    used = []
    for seed in range(20):
        labels = torch.randint(2, (BATCH,), generator=torch.Generator().manual_seed(seed))
        found = carries(Circuits(), x, labels, state="cell", units=[STORE], seed=seed)
        assert not found.decodable
        # Exchanging the bit moves the answers, whether the label is another one or the same.
        used.append(found.used)
    assert sum(used) <= 1


# What is exchanged


def test_only_what_tells_the_labels_apart_is_exchanged() -> None:
    # Unit STORE has the bit. Unit 1 keeps something else, which the readout shows twenty times as large.
    model = Circuits()
    with torch.no_grad():
        model.lstm.bias_ih_l0[12 + UNREAD] = 20  # its output gate
        model.lstm.weight_ih_l0[8 + UNREAD, :2] = 0  # no bit is taken in
        model.lstm.weight_ih_l0[UNREAD, 2:4] = 40
        model.lstm.weight_ih_l0[8 + UNREAD, 2:4] = torch.tensor([-0.3, 0.3])  # but distractors, summed up
        model.head.weight[0, UNREAD] = 20
    x, given = bits(400, LENGTH)
    found = carries(model, x, given, state="cell", behaviour=lambda answers: answers[:, -1, 0] / 20, steps=[10])
    # The answers vary by the sum more than by the bit; the exchange moves them by the bit, and by that alone.
    assert found.effect.mean == pytest.approx(1, rel=0.2)


def test_a_bit_is_followed_to_the_horizon_and_read_as_long_as_its_sign_is_there() -> None:
    fading, gone = Circuits(), Circuits()
    with torch.no_grad():
        fading.lstm.bias_ih_l0[4 + STORE] = 0  # the cell is halved at every step
        gone.lstm.weight_ih_l0[4 + STORE, 2:4] = -400  # and here it is zeroed by what comes next
    kept = asked(fading, state="cell", units=[STORE], horizon=12)
    assert kept.data["lag"].values.tolist() == list(range(13))
    assert (kept.data["kept"] == 1).all()
    assert kept.half_life() == 12
    lost = asked(gone, state="cell", units=[STORE], labels=only_at(0), steps=[0], horizon=12)
    assert lost.data["kept"].values.tolist() == [1, *[0] * 12]


# Values


def test_a_value_that_is_kept_is_carried() -> None:
    x = torch.rand(BATCH, LENGTH, 2) * 2 - 1
    x[..., 1] = 0
    x[:, 0, 1] = 1
    found = carries(Keep(), x, x[:, 0, 0], state="cell")
    assert found.carried
    assert found.data.attrs["metric"] == "R²"
    assert float(found.data["score"]) > 0.98
    assert found.left.mean == pytest.approx(1, abs=0.02)
    hidden = carries(Keep(), x, x[:, 0, 0], state="hidden")
    assert parts(hidden) == (True, True, False)


def test_a_value_that_fades_is_left_in_the_share_that_the_forget_gate_leaves() -> None:
    fading = Keep()
    with torch.no_grad():
        fading.lstm.bias_ih_l0[1] = math.log(0.9 / 0.1)
    x = torch.rand(BATCH, LENGTH, 2) * 2 - 1
    x[..., 1] = 0
    x[:, 0, 1] = 1
    labels = torch.full((BATCH, LENGTH), math.nan)
    labels[:, 4] = x[:, 0, 0]
    found = carries(fading, x, labels, state="cell", steps=[4], horizon=10)
    np.testing.assert_allclose(found.data["kept"], 0.9 ** np.arange(11), rtol=1e-3)
    assert found.half_life() == 7  # 0.9⁶ is 0.53, 0.9⁷ is 0.48
    assert not found.persistent


# Behaviour and steps


def test_the_behaviour_may_be_what_is_answered_at_the_end() -> None:
    def last(answers: Tensor) -> Tensor:
        return answers[:, -1]

    assert asked(state="cell", units=[STORE], behaviour=last).used
    # An exchange of the hidden state changes the answer at its step, and none at the end.
    assert not asked(state="hidden", units=[STORE], behaviour=last).used
    assert asked(state="hidden", units=[STORE]).used


def test_the_behaviour_may_be_another_output_than_the_one_that_reads_the_unit() -> None:
    assert not asked(state="cell", units=[STORE], behaviour=lambda answers: answers[..., 1:]).used


def test_of_what_a_layer_returns_its_output_is_the_behaviour() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.circuits = Circuits()

        def forward(self, x: Tensor) -> dict[str, tuple[Tensor, str]]:
            return {"answers": (self.circuits(x), "and more")}

    assert asked(Named(), state="cell", units=[STORE]).carried


def test_the_smallest_effect_that_counts_may_be_set() -> None:
    assert asked(state="cell", units=[STORE], smallest=0.9).used
    assert not asked(state="cell", units=[STORE], smallest=1.1).used


def test_steps_may_be_chosen_and_else_leave_room_for_the_horizon() -> None:
    assert asked(state="cell", units=[STORE], steps=[2, 7]).data.attrs["steps"] == [2, 7]
    chosen = asked(state="cell", units=[STORE], horizon=12).data.attrs["steps"]
    assert len(chosen) == 3
    assert max(chosen) < LENGTH - 12


def test_sequences_that_cannot_be_exchanged_are_left_out_of_the_effect() -> None:
    labels = bits(BATCH, LENGTH)[1][:, None].repeat(1, LENGTH)
    labels[:10] = -1
    found = asked(state="cell", units=[STORE], labels=labels)
    assert np.isnan(found.data["used"].values[:10]).all()
    assert found.effect.n == BATCH - 10
    assert found.carried


def test_what_is_left_is_uncertain_by_sequences_not_by_steps() -> None:
    # The same sequences exchanged at three steps are no more sequences.
    model = Circuits()
    with torch.no_grad():
        model.lstm.weight_ih_l0[4 + STORE, 2] = -400  # one of the distractors makes it forget
    x, given = bits(BATCH, LENGTH)
    x[:, 1:] = 3
    x[::3, 6] = 2  # in a third of the sequences
    labels = torch.full((BATCH, LENGTH), -1)
    labels[:, :6] = given[:, None]

    def width(steps: list[int]) -> float:
        left = carries(model, x, labels, state="cell", units=[STORE], steps=steps, horizon=8).left
        assert 0.4 < left.mean < 0.9
        return left.high - left.low

    assert width([2, 3, 4]) > 0.75 * width([3])


def test_equal_seeds_give_equal_results() -> None:
    first, again = (asked(state="cell", units=[STORE], seed=3).data for _ in range(2))
    assert first.identical(again)


def test_the_model_is_left_as_it_was() -> None:
    model = Circuits().train()
    weights = [parameter.clone() for parameter in model.parameters()]
    asked(model, state="cell")
    assert model.training
    assert type(model.lstm) is unrolled.LSTM
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        assert torch.equal(parameter, weight)


def test_the_summary_says_each_part_of_the_verdict() -> None:
    said = asked(state="cell", units=[UNREAD]).summary()
    assert said.startswith("The cell state (units 1) does not carry the label: decodable beyond its controls")
    for part in ("over the control", "over the untrained", "over the input", "not used", "persistent (1.00"):
        assert part in said
    assert "The cell state (units 0) carries the label" in asked(state="cell", units=[STORE]).summary()


def test_what_was_never_read_is_neither_left_nor_gone() -> None:
    found = asked(state="input_gate", units=[STORE])
    assert math.isnan(found.left.mean)
    assert math.isnan(found.half_life())
    assert not found.persistent


# Errors


def test_a_horizon_that_leaves_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="horizon: 20 steps leave no labelled step of 20 to begin at"):
        asked(state="cell", horizon=20)
    with pytest.raises(ValueError, match="horizon: 8 steps leave no labelled step of 20"):
        asked(state="cell", labels=only_at(15))


@pytest.mark.parametrize("step", [-1, 12, 20])
def test_a_step_without_room_for_the_horizon_is_refused(step: int) -> None:
    with pytest.raises(
        ValueError, match=rf"steps: {step} leaves no room for a horizon of 8 in 20 steps; expected 0 to 11"
    ):
        asked(state="cell", steps=[3, step])


def test_a_state_that_the_layer_has_not_is_refused_with_those_it_has() -> None:
    with pytest.raises(ValueError, match="state: 'memory' is not of this layer; expected one of .*cell"):
        asked(state="memory")


def test_a_model_of_several_layers_asks_for_one() -> None:
    with pytest.raises(
        ValueError, match="layer: the model has 2 recurrent layers; expected one of encoder.l0, decoder.l0"
    ):
        asked(Relay(), state="hidden")


def test_a_layer_that_reads_from_the_end_is_refused() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = unrolled.LSTM(SYMBOLS, 4, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(one_hot(x, SYMBOLS))[0]

    with pytest.raises(ValueError, match="layer: 'lstm.l0_reverse' reads from the end"):
        asked(Both(), state="cell", layer="lstm.l0_reverse")
    assert not asked(Both(), state="cell", layer="lstm.l0").carried


def test_labels_that_are_all_different_have_nothing_to_be_exchanged_for() -> None:
    labels = torch.full((BATCH, LENGTH), -1)
    labels[:, 10] = bits(BATCH, LENGTH)[1]
    labels[:, 2] = torch.arange(BATCH)  # at the only step that is exchanged no two are alike
    with pytest.raises(ValueError, match="labels: at no step are there two sequences with one label and a third"):
        asked(state="cell", labels=labels, steps=[2])


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels: shape \(7,\) does not fit inputs \(60, 20\)"):
        asked(state="cell", labels=torch.zeros(7, dtype=torch.long))
