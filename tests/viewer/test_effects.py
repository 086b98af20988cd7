"""What changes of states do to the answers, on a network written by hand and beside runs of the whole sequence."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import unrolled
from replayed import KEEPS, SHOWS_ONCE, carousel, inputs_of, network, recorded, replay_of, resets_at, stored
from unrolled.viewer.replaying import effects
from unrolled.viewer.replaying.effects import Change, Effect, effect
from unrolled.viewer.replaying.replay import Replay

CELL, HIDDEN = "recurrent.l0.cell", "recurrent.l0.hidden"
SHOWN = math.tanh(math.tanh(0.8))


def kept_value(steps: int = 150, **given: Any) -> Replay:
    return replay_of(carousel(), stored(steps, {10: 0.8}), **given)


def answers_of(found: Effect) -> tuple[np.ndarray, np.ndarray]:
    return found.top.before, found.top.after


def test_ablating_a_carousel_takes_its_value_away_for_good_and_nothing_else() -> None:
    replay = kept_value()
    found = effect(replay, [Change("ablate", CELL, (KEEPS,), (60, 61))], sequence=0, after=50)
    assert (found.start, found.stop, found.measure) == (40, 111, "0")
    np.testing.assert_allclose(found.original, SHOWN, rtol=1e-6)
    np.testing.assert_allclose(found.changed[:20], SHOWN, rtol=1e-6)
    np.testing.assert_array_equal(found.changed[20:], 0)
    np.testing.assert_array_equal(found.divergence[:20], 0)
    np.testing.assert_allclose(found.divergence[20:], SHOWN / 3, rtol=1e-6)
    before, after = answers_of(found)
    np.testing.assert_allclose(before, [SHOWN, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(after, [0, 0, 0])
    assert found.top.step == 60
    assert found.top.names == ("0", "1", "2")


def test_ablating_a_unit_that_does_nothing_at_a_step_changes_nothing_exactly() -> None:
    found = effect(kept_value(), [Change("ablate", CELL, (SHOWS_ONCE,), (60, 90))], sequence=0)
    np.testing.assert_array_equal(found.divergence, 0)
    np.testing.assert_array_equal(found.original, found.changed)
    assert found.top.step == 60


def test_ablating_the_hidden_state_of_a_carousel_is_seen_at_that_step_alone() -> None:
    found = effect(kept_value(), [Change("ablate", HIDDEN, (KEEPS,), (60, 62))], sequence=0)
    assert np.flatnonzero(found.divergence).tolist() == [20, 21]


def test_clamped_cell_is_shown_from_then_on() -> None:
    found = effect(kept_value(), [Change("clamp", CELL, (KEEPS,), (60, 63), value=-2.0)], sequence=0)
    np.testing.assert_allclose(found.changed[20:], math.tanh(-2.0), rtol=1e-6)


def test_mean_is_that_of_the_whole_recording() -> None:
    found = effect(kept_value(100), [Change("mean", CELL, (KEEPS,), (60, 61))], sequence=0)
    np.testing.assert_allclose(found.changed[20:], math.tanh(0.9 * math.tanh(0.8)), rtol=1e-6)


def test_patch_puts_in_what_was_recorded_elsewhere_step_by_step() -> None:
    x = torch.cat([stored(60, {10: 0.8}), stored(60, {5: -0.3, 20: 0.1, 21: 0.2, 22: 0.4})])
    found = effect(
        replay_of(carousel(), x), [Change("patch", CELL, (KEEPS,), (40, 43), source=(1, 19))], sequence=0, after=5
    )
    expected = [math.tanh(math.tanh(value)) for value in (-0.3, 0.1, 0.2)]
    np.testing.assert_allclose(found.changed[20:], [*expected, *expected[-1:] * 5], rtol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "layer-norm", "zoneout"])
def test_patch_of_a_states_own_values_changes_nothing(cell: str) -> None:
    model, x = network(cell, layers=2), inputs_of(50)
    replay = replay_of(model, x, targets=torch.zeros(2, 50, dtype=torch.long))
    own = [Change("patch", name, tuple(range(5)), (21, 34), source=(1, 21)) for name in replay.trace]
    found = effect(replay, own, sequence=1)
    assert found.divergence.max() < 1e-6
    np.testing.assert_allclose(found.changed, found.original, atol=1e-4)


def test_divergence_of_classes_is_the_kl_in_bits_and_the_measure_the_targets_bits() -> None:
    targets = torch.zeros(1, 150, dtype=torch.long)
    targets[0, 70] = -1
    replay = kept_value(targets=targets)
    found = effect(replay, [Change("ablate", CELL, (KEEPS,), (60, 61))], sequence=0, after=30, at=65)
    shares = np.exp([SHOWN, 0, 0]) / np.exp([SHOWN, 0, 0]).sum()
    assert found.measure == "bits of the target"
    np.testing.assert_allclose(found.divergence[20:], (shares * np.log2(shares * 3)).sum(), rtol=1e-5)
    np.testing.assert_allclose(found.original[:30], -np.log2(shares[0]), rtol=1e-6)
    np.testing.assert_allclose(found.changed[20:30], np.log2(3), rtol=1e-6)
    assert np.flatnonzero(np.isnan(found.original)).tolist() == [30]
    assert np.flatnonzero(np.isnan(found.changed)).tolist() == [30]
    assert (found.top.step, found.top.names[0], found.top.target) == (65, "0", "0")
    np.testing.assert_allclose(found.top.before[0], shares[0], rtol=1e-6)
    np.testing.assert_allclose(found.top.after, 1 / 3, rtol=1e-6)
    assert effect(replay, [Change("ablate", CELL, (KEEPS,), (60, 61))], sequence=0, at=70).top.target is None


def test_classes_without_targets_are_measured_by_the_class_that_was_the_most_probable() -> None:
    model, x = carousel(), stored(150, {10: 0.8})
    replay = Replay(model, recorded(model, x), x, loss="classes", outputs=["a", "b", "c"])
    found = effect(replay, [Change("ablate", CELL, (KEEPS,), (60, 61))], sequence=0)
    assert found.measure == "bits of the answer"
    np.testing.assert_allclose(found.changed[20:], np.log2(3), rtol=1e-6)
    assert (found.top.names[0], found.top.target) == ("a", None)


def test_divergence_is_never_below_zero_and_top_names_are_the_five_most_probable_of_either() -> None:
    model = unrolled.model.SequenceModel("gru", 2, 6, 12)
    with torch.no_grad():
        model.head.weight.mul_(30)
    x = inputs_of(200)
    replay = replay_of(model.eval(), x, targets=torch.randint(0, 12, (2, 200)))
    changes = [Change("clamp", HIDDEN, (0, 3), (20, 160), value=0.9), Change("ablate", HIDDEN, (4,), (100, 190))]
    found = effect(replay, changes, sequence=1)
    assert (found.start, found.stop) == (0, 200)
    assert (found.divergence >= 0).all()
    assert found.divergence[:20].max() == 0
    assert found.top.step == int(found.divergence.argmax())
    with torch.no_grad():
        before = model(x)[1, found.top.step].softmax(-1)
    five = {str(int(number)) for number in before.topk(5).indices}
    assert five <= set(found.top.names)
    assert 5 <= len(found.top.names) <= 10
    assert (np.diff(np.maximum(found.top.before, found.top.after)) <= 0).all()
    named = dict(zip(found.top.names, found.top.before, strict=True))
    for name in five:
        assert named[name] == pytest.approx(float(before[int(name)]), rel=1e-3)


def edited(model: Any, edits: list[Any], *args: Tensor, **given: Any) -> Tensor:
    with torch.no_grad(), unrolled.intervene(model, *edits):
        return model(*args, **given)


@pytest.mark.parametrize("names", [["*"], ["*.hidden"]])
def test_window_in_the_middle_is_changed_as_the_whole_run_is(names: list[str]) -> None:
    model, x, reset = network("lstm", layers=2), inputs_of(90), resets_at(90, (1, 52), (1, 61))
    targets = torch.randn(2, 90, 3)
    targets[1, 55, 0] = math.nan
    targets[1, 56] = math.nan
    replay = replay_of(model, x, names=names, reset=reset, targets=targets)
    changes = [
        Change("clamp", "recurrent.l1.forget_gate", (2,), (51, 55), value=0.1),
        Change("ablate", "recurrent.l0.hidden", (0, 4), (47, 63)),
    ]
    found = effect(replay, changes, sequence=1, after=11, at=50)
    assert (found.start, found.stop) == (27, 74)
    edits = [
        unrolled.Clamp("recurrent.l1.forget_gate", 0.1, steps=slice(51, 55), units=[2], rows=1),
        unrolled.Ablate("recurrent.l0.hidden", steps=slice(47, 63), units=[0, 4], rows=1),
    ]
    with torch.no_grad():
        plain = model(x, reset=reset)[1, 27:74]
    whole = edited(model, edits, x, reset=reset)[1, 27:74]
    np.testing.assert_allclose(found.divergence, (plain - whole).abs().mean(-1), atol=1e-5)
    error = (whole - targets[1, 27:74]).square().nanmean(-1)
    np.testing.assert_allclose(found.changed, error, atol=1e-4, rtol=1e-4)
    assert np.flatnonzero(np.isnan(found.original)).tolist() == [29]
    assert found.measure == "squared error"
    np.testing.assert_allclose(found.top.after, whole[23], atol=1e-5)
    assert found.divergence[:20].max() < 1e-6


def test_layers_that_read_from_the_end_are_shown_before_the_change_too() -> None:
    model, x = network("gru", bidirectional=True), inputs_of(90)
    found = effect(
        replay_of(model, x, lengths=[90, 70]),
        [Change("clamp", "recurrent.l0_reverse.hidden", (1,), (50, 52), value=1.0)],
        sequence=1,
        after=30,
    )
    assert (found.start, found.stop) == (20, 70)
    edits = [unrolled.Clamp("recurrent.l0_reverse.hidden", 1.0, steps=[50, 51], units=1, rows=1)]
    whole = edited(model, edits, x, lengths=[90, 70])[1, 20:70]
    np.testing.assert_allclose(found.changed, whole[:, 0], atol=1e-5)
    assert found.divergence[30] > 0
    assert found.divergence[32:].max() == 0
    assert found.divergence[29] > found.divergence[:20].max()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_effect_on_a_sequences_class_is_one_figure(bidirectional: bool) -> None:
    model, x = network("lstm", bidirectional=bidirectional, readout="mean"), inputs_of(12)
    replay = replay_of(model, x, lengths=[12, 9], targets=torch.tensor([1, 2]))
    found = effect(replay, [Change("clamp", CELL, (1, 2), (0, 7), value=1.5)], sequence=1)
    assert (found.start, found.stop, found.top.step, found.top.target) == (8, 9, 8, "2")
    edits = [unrolled.Clamp(CELL, 1.5, steps=slice(0, 7), units=[1, 2], rows=1)]
    whole = edited(model, edits, x, lengths=[12, 9])[1].double().log_softmax(-1)
    np.testing.assert_allclose(found.changed, [-whole[2] / math.log(2)], rtol=1e-5)
    assert found.divergence.shape == (1,)
    assert found.divergence[0] > 0


def test_changes_are_made_in_their_order() -> None:
    low, high = (Change("clamp", CELL, (KEEPS,), (60, 61), value=value) for value in (-1.0, 1.0))
    replay = kept_value()
    for order, shown in (((low, high), math.tanh(1.0)), ((high, low), math.tanh(-1.0))):
        assert effect(replay, order, sequence=0).changed[-1] == pytest.approx(shown)


def test_ends_of_the_sequence_end_the_window() -> None:
    replay = kept_value(30)
    found = effect(replay, [Change("ablate", CELL, (KEEPS,), (0, 30))], sequence=0)
    assert (found.start, found.stop) == (0, 30)
    found = effect(replay, [Change("ablate", CELL, (KEEPS,), (29, 30))], sequence=0, after=0)
    assert (found.start, found.stop) == (9, 30)
    assert found.changed[-1] == 0


def test_changes_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    replay = kept_value(60, names=["*.cell", "*.hidden"])

    def refused(message: str, *changes: Change, **given: Any) -> None:
        with pytest.raises(ValueError, match=message):
            effect(replay, changes, sequence=0, **given)

    fine = Change("ablate", CELL, (0,), (30, 31))
    refused("changes: none is given")
    refused("kind: given 'scale', expected one of ablate, mean", Change("scale", CELL, (0,), (1, 2)))
    refused(r"name: '\*.cell' is not in the model; expected one of recur", Change("ablate", "*.cell", (0,), (1, 2)))
    refused("units: none of 'recurrent.l0.cell' is given", Change("ablate", CELL, (), (1, 2)))
    refused("units: 3 is not one of 'recurrent.l0.cell'; expected 0 to 2", Change("ablate", CELL, (0, 3), (1, 2)))
    refused("units: -1 is not", Change("ablate", CELL, (-1,), (1, 2)))
    for steps in ((5, 5), (6, 5), (-1, 4), (59, 61)):
        refused(f"steps: from {steps[0]} to before {steps[1]} does not fit", Change("ablate", CELL, (0,), steps))
    refused("value: given None, expected the number", Change("clamp", CELL, (0,), (1, 2)))
    refused("value: given nan, expected the number", Change("clamp", CELL, (0,), (1, 2), value=math.nan))
    gate = "recurrent.l0.forget_gate"
    refused("'recurrent.l0.forget_gate' was not recorded", Change("mean", gate, (0,), (1, 2)))
    refused("source: expected the sequence", Change("patch", CELL, (0,), (1, 2)))
    refused("source: 3 steps from step 58 on are not in", Change("patch", CELL, (0,), (1, 4), source=(0, 58)))
    refused("source: 3 steps from step -1 on are not in", Change("patch", CELL, (0,), (1, 4), source=(0, -1)))
    refused("sequence: 1 is not in the recording", Change("patch", CELL, (0,), (1, 4), source=(1, 0)))
    refused("after: given -1", fine, after=-1)
    refused("at: step 9 is not among those that are run; expected 10 to 59", fine, at=9)
    monkeypatch.setattr(effects, "MOST_STEPS", 40)
    refused("they and 100 steps after them take 50 steps; expected 40 at most", fine)
    with pytest.raises(ValueError, match="does not do what was recorded"):
        effect(
            Replay(network("lstm"), recorded(network("lstm"), inputs_of(9)), inputs_of(9)),
            [Change("ablate", CELL, (0,), (1, 2))],
            sequence=0,
        )


def test_ablated_gate_that_was_not_recorded_is_changed_all_the_same() -> None:
    replay = kept_value(60, names=["*.cell", "*.hidden"])
    found = effect(replay, [Change("ablate", "recurrent.l0.forget_gate", (KEEPS,), (30, 31))], sequence=0)
    np.testing.assert_array_equal(found.changed[20:], 0)


def test_an_effect_leaves_the_model_as_it_was() -> None:
    replay = kept_value(60)
    first = effect(replay, [Change("ablate", CELL, (KEEPS,), (30, 31))], sequence=0)
    again = effect(replay, [Change("ablate", CELL, (KEEPS,), (30, 31))], sequence=0)
    np.testing.assert_array_equal(first.original, again.original)
    np.testing.assert_array_equal(first.changed, again.changed)
    assert not any(parameter.grad is not None for parameter in replay.model.parameters())


def test_several_threads_may_ask_one_replay() -> None:
    replay = kept_value(60)
    changes = [[Change("clamp", CELL, (KEEPS,), (30 + n, 32 + n), value=n / 8)] for n in range(8)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda change: effect(replay, change, sequence=0), changes))
    for change, together in zip(changes, found, strict=True):
        np.testing.assert_array_equal(together.changed, effect(replay, change, sequence=0).changed)
