"""The gradient of one answer to every state: closed forms, finite differences, and the instrument that has it too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unrolled
from replayed import KEEPS, carousel, inputs_of, network, recorded, replay_of, resets_at, stored
from unrolled.instruments import gradient_flow
from unrolled.viewer.replaying.gradients import Gradient, gradient
from unrolled.viewer.replaying.replay import Replay

STEP = 1e-6


def differences(replay: Replay, found: Gradient, name: str, sequence: int, value: object) -> np.ndarray:
    """(n, H) finite differences of `value` of the answers, to a state at each step of the gradient."""
    width = found.units[name].shape[1]
    slopes = np.zeros((found.stop - found.start, width))
    begin = replay.begin(found.start)
    with torch.no_grad():
        for step in range(found.start, found.stop):
            for unit in range(width):
                ends = []
                for sign in (1, -1):
                    push = unrolled.Push(name, sign * STEP, steps=step - begin, units=unit)
                    with unrolled.intervene(replay.exact, push):
                        ends.append(float(value(replay.run(sequence, found.start, found.stop, exact=True))))
                slopes[step - found.start, unit] = (ends[0] - ends[1]) / (2 * STEP)
    return slopes


def assert_gradient(replay: Replay, found: Gradient, sequence: int, value: object) -> None:
    with torch.no_grad():
        answers = replay.run(sequence, found.start, found.stop, exact=True)
    assert found.value == pytest.approx(float(value(answers)), rel=1e-9)
    assert set(found.curves) == set(replay.states) == set(found.units)
    for name, units in found.units.items():
        np.testing.assert_allclose(units, differences(replay, found, name, sequence, value), rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(found.curves[name], np.linalg.norm(units, axis=-1), rtol=1e-12)
        assert found.curves[name].any()


def test_gradient_of_a_carousel_does_not_shrink_and_that_of_its_hidden_state_is_gone_at_once() -> None:
    model, x = carousel(), stored(300, {40: 0.5})
    found = gradient(replay_of(model, x), sequence=0, step=290, output=KEEPS, back=280)
    assert (found.start, found.stop, found.step) == (10, 291, 290)
    kept, hidden = found.curves["recurrent.l0.cell"], found.curves["recurrent.l0.hidden"]
    np.testing.assert_allclose(kept[30:], 1 - math.tanh(math.tanh(0.5)) ** 2, rtol=1e-6)
    # What is stored takes the place of all that was there.
    assert kept[:30].max() < 1e-30
    np.testing.assert_allclose(found.direct["recurrent.l0.cell"], kept, rtol=1e-6, atol=1e-30)
    assert hidden[-1] == 1
    assert not hidden[:-1].any()
    assert found.value == pytest.approx(math.tanh(math.tanh(0.5)), rel=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "layer-norm", "zoneout", "peephole"])
def test_gradient_of_a_class_agrees_with_finite_differences(cell: str) -> None:
    model, x = network(cell, layers=2), inputs_of(19)
    reset = resets_at(19, (1, 8))
    replay = replay_of(model, x, reset=reset, targets=torch.full((2, 19), 2))
    found = gradient(replay, sequence=1, step=14, output=None, back=9)
    assert (found.start, found.stop, found.output) == (5, 15, "log probability of 2")
    assert_gradient_after(replay, found, 1, reset_at=8, value=lambda answers: answers[-1].log_softmax(-1)[2])


def assert_gradient_after(replay: Replay, found: Gradient, sequence: int, *, reset_at: int, value: object) -> None:
    assert_gradient(replay, found, sequence, value)
    for units in found.units.values():
        assert not units[: reset_at - found.start].any()


def test_gradient_of_a_class_by_its_number_is_that_of_its_log_probability() -> None:
    model, x = network("gru"), inputs_of(12)
    replay = Replay(model, recorded(model, x), x, loss="classes", outputs=["a", "b", "c"])
    found = gradient(replay, sequence=0, step=9, output=1, back=3)
    assert found.output == "log probability of b"
    assert_gradient(replay, found, 0, lambda answers: answers[-1].log_softmax(-1)[1])


def test_gradient_of_values_is_that_of_an_output_or_of_the_error_of_those_that_are_known() -> None:
    model, x = network("lstm"), inputs_of(12)
    targets = torch.randn(2, 12, 3)
    targets[0, 9, 1] = math.nan
    replay = replay_of(model, x, targets=targets)
    of_one = gradient(replay, sequence=0, step=9, output=2, back=4)
    assert of_one.output == "2"
    assert_gradient(replay, of_one, 0, lambda answers: answers[-1, 2])
    of_error = gradient(replay, sequence=0, step=9, output=None, back=4)
    assert of_error.output == "squared error"
    right = targets[0, 9].double()
    assert_gradient(replay, of_error, 0, lambda a: ((a[-1, 0] - right[0]) ** 2 + (a[-1, 2] - right[2]) ** 2) / 2)


def test_gradient_of_layers_that_read_from_the_end_goes_on_after_the_step() -> None:
    model, x = network("lstm", bidirectional=True), inputs_of(15)
    replay = replay_of(model, x, lengths=[15, 11], targets=torch.zeros(2, 15, dtype=torch.long))
    found = gradient(replay, sequence=1, step=5, output=None, back=3)
    assert (found.start, found.stop) == (2, 9)
    assert_gradient(replay, found, 1, lambda answers: answers[3].log_softmax(-1)[0])
    assert not found.curves["recurrent.l0.cell"][4:].any()
    assert not found.curves["recurrent.l0_reverse.cell"][:3].any()
    assert found.direct == {}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradient_of_a_sequences_class_is_over_all_of_it(bidirectional: bool) -> None:
    model, x = network("gru", bidirectional=bidirectional, readout="mean"), inputs_of(9)
    replay = replay_of(model, x, lengths=[9, 6], targets=torch.tensor([0, 2]))
    found = gradient(replay, sequence=1, step=2, output=None, back=1)
    assert (found.start, found.stop, found.output) == (0, 6, "log probability of 2")
    assert_gradient(replay, found, 1, lambda answers: answers[0].log_softmax(-1)[2])
    assert found.direct == {}


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "coupled"])
def test_norms_and_direct_path_are_those_of_gradient_flow(cell: str) -> None:
    model, x = network(cell), inputs_of(41, batch=1)
    # From a window that does not begin at the beginning.
    found = gradient(replay_of(model, x), sequence=0, step=40, output=1, back=30)
    flow = gradient_flow(model, x, lambda answers: answers[:, -1, 1], max_lag=30)
    for name, curve in found.curves.items():
        np.testing.assert_allclose(curve[::-1], flow.norms(name.rpartition(".")[2]), rtol=1e-4)
    if cell == "rnn":
        assert found.direct == {}
    else:
        (direct,) = found.direct.values()
        np.testing.assert_allclose(direct[::-1], flow.data["direct_norm"].values, rtol=1e-4)


def test_direct_path_ends_at_a_reset_and_is_not_given_where_no_gate_alone_keeps() -> None:
    model, x = network("lstm"), inputs_of(12)
    found = gradient(replay_of(model, x, reset=resets_at(12, (0, 6))), sequence=0, step=9, output=0)
    direct = found.direct["recurrent.l0.cell"]
    assert not direct[:6].any()
    assert direct[6:].all()
    model = network("zoneout")
    assert gradient(replay_of(model, x), sequence=0, step=9, output=0).direct == {}


def test_gradient_far_below_single_precision_is_not_lost() -> None:
    model = carousel()
    with torch.no_grad():
        model.recurrent.bias_ih_l0[3 + KEEPS] = -2.0  # keeps an eighth
    found = gradient(replay_of(model, stored(120, {0: 1.0})), sequence=0, step=119, output=KEEPS, back=100)
    ratio = 1 / (1 + math.exp(2.0))
    np.testing.assert_allclose(found.curves["recurrent.l0.cell"][0], ratio**100, rtol=1e-6)
    assert 0 < found.curves["recurrent.l0.cell"][0] < 1e-45


def test_window_begins_with_the_sequence_and_may_be_one_step() -> None:
    model, x = network("lstm"), inputs_of(12)
    replay = replay_of(model, x)
    assert (
        gradient(replay, sequence=0, step=4, output=0).start,
        len(gradient(replay, sequence=0, step=4, output=0).curves["recurrent.l0.cell"]),
    ) == (0, 5)
    alone = gradient(replay, sequence=0, step=4, output=0, back=0)
    assert (alone.start, alone.stop) == (4, 5)
    np.testing.assert_allclose(
        alone.units["recurrent.l0.hidden"][0], model.head.weight[0].detach().double().numpy(), rtol=1e-6
    )
    assert gradient(replay, sequence=0, step=0, output=0).stop == 1


class OneUnit(nn.Module):
    """A user's model of one unit that answers one figure at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.RNN(2, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.core(x)[0][:, -1, 0]


def test_users_model_of_one_unit_and_frozen_weights_have_a_gradient() -> None:
    model, x = OneUnit().requires_grad_(False), inputs_of(7)
    replay = replay_of(model, x)
    found = gradient(replay, sequence=1, step=3, output=0)
    assert (found.start, found.stop) == (0, 7)
    assert_gradient(replay, found, 1, lambda answers: answers[0, 0])


def test_gradient_is_computed_where_gradients_are_switched_off() -> None:
    model, x = network("lstm"), inputs_of(7)
    replay = replay_of(model, x)
    with torch.no_grad():
        assert gradient(replay, sequence=1, step=3, output=0).curves["recurrent.l0.cell"].all()


def test_what_cannot_be_differentiated_is_refused() -> None:
    model, x = network("lstm"), inputs_of(12)
    targets = torch.zeros(2, 12, dtype=torch.long)
    targets[0, 4] = -1
    replay, without = replay_of(model, x, lengths=[12, 9], targets=targets), replay_of(model, x)
    with pytest.raises(ValueError, match="step: 9 cannot be replayed; expected 0 to 8"):
        gradient(replay, sequence=1, step=9, output=0)
    with pytest.raises(ValueError, match="sequence: -1 is not in the recording"):
        gradient(replay, sequence=-1, step=0, output=0)
    with pytest.raises(ValueError, match="output: 3 is not one of the model's; expected 0 to 2"):
        gradient(replay, sequence=0, step=0, output=3)
    with pytest.raises(ValueError, match="output: step 4 has no target"):
        gradient(replay, sequence=0, step=4, output=None)
    with pytest.raises(ValueError, match="there are no targets"):
        gradient(without, sequence=0, step=4, output=None)
    with pytest.raises(ValueError, match="back: given -1"):
        gradient(without, sequence=0, step=4, output=0, back=-1)
    with pytest.raises(ValueError, match="back: given 5001, expected 0 to 5,000"):
        gradient(without, sequence=0, step=4, output=0, back=5001)
    values = replay_of(model, x, targets=torch.full((2, 12, 3), math.nan))
    with pytest.raises(ValueError, match="output: step 4 has no target"):
        gradient(values, sequence=0, step=4, output=None)
    other = Replay(network("lstm"), without.trace, x)
    with pytest.raises(ValueError, match="does not do what was recorded"):
        gradient(other, sequence=0, step=4, output=0)
