"""Patching of a circuit whose weights were written by hand: where the bit is kept, shown and handed on is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unrolled
from planted import ONE, QUERY, ZERO, Relay, bits
from unrolled.instruments import Patching, patching

LENGTH, BATCH, UNITS = 8, 6, 4
# Unit 1 of the encoder keeps and shows the bit, unit 2 keeps it for nobody, unit 3 of the decoder hands it on.
KEPT, HELD_FOR_NOTHING, HANDED_ON = 1, 2, 3
LAST = LENGTH - 1


def runs(clean: int = ONE, corrupted: int = ZERO) -> tuple[Tensor, Tensor]:
    """(B, T) two inputs that differ in their first symbol, the bit."""
    first, _ = bits(BATCH, LENGTH, query=True)
    second = first.clone()
    first[:, 0], second[:, 0] = clean, corrupted
    return first, second


def at_the_end(answers: Tensor) -> Tensor:
    return answers[:, -1]


@pytest.fixture(scope="module")
def grid() -> Patching:
    return patching(Relay(), *runs(), at_the_end, groups=UNITS)


def test_every_layer_state_step_and_group_is_patched(grid: Patching) -> None:
    effect = grid.effect()
    assert effect.dims == ("layer", "state", "step", "group")
    assert effect["layer"].values.tolist() == ["encoder.l0", "decoder.l0"]
    assert effect["state"].values.tolist() == ["hidden", "cell"]
    assert effect.shape == (2, 2, LENGTH, UNITS)
    assert grid.data["metric"].dims == ("layer", "state", "step", "group", "sequence")
    assert grid.data["units"].values.tolist() == ["0", "1", "2", "3"]


def test_only_the_cell_that_keeps_the_bit_makes_the_difference_good_at_every_step(grid: Patching) -> None:
    cell = grid.effect().sel(layer="encoder.l0", state="cell").values
    np.testing.assert_allclose(cell[:, KEPT], 1, atol=1e-9)
    assert (np.delete(cell, KEPT, axis=1) == 0).all()


@pytest.mark.parametrize(("layer", "unit"), [("encoder.l0", KEPT), ("decoder.l0", HANDED_ON)])
def test_a_hidden_state_makes_the_difference_good_only_when_it_shows_the_bit(
    grid: Patching, layer: str, unit: int
) -> None:
    hidden = grid.effect().sel(layer=layer, state="hidden").values
    assert hidden[LAST, unit] == pytest.approx(1, abs=1e-9)
    hidden[LAST, unit] = 0
    assert (hidden == 0).all()


def test_a_cell_that_keeps_the_bit_for_nothing_makes_nothing_good(grid: Patching) -> None:
    with unrolled.record(model := Relay()) as trace:
        model(runs()[0])
    assert (trace["encoder.l0.cell"][..., HELD_FOR_NOTHING] > 0.9).all()
    assert (grid.effect().sel(layer="encoder.l0", state="cell", group=HELD_FOR_NOTHING) == 0).all()


def test_a_state_that_a_layer_has_not_is_not_a_number(grid: Patching) -> None:
    assert grid.effect().sel(layer="decoder.l0", state="cell").isnull().all()
    assert grid.effect().sel(layer="decoder.l0", state="hidden").notnull().all()


def test_the_runs_themselves_stand_beside_the_patches(grid: Patching) -> None:
    model = Relay()
    for name, x in zip(("clean", "corrupted"), runs(), strict=True):
        np.testing.assert_allclose(grid.data[name].values, model(x)[:, -1].detach().numpy())
    assert (grid.data["clean"] > 0.4).all()
    np.testing.assert_allclose(grid.data["corrupted"], -grid.data["clean"])


def test_several_units_are_patched_together() -> None:
    groups = [[0, 3], [KEPT, 3], [0, KEPT, HELD_FOR_NOTHING]]
    found = patching(Relay(), *runs(), at_the_end, layers=["encoder.l0"], states=["cell"], steps=[3], groups=groups)
    np.testing.assert_allclose(found.effect().values[0, 0, 0], [0, 1, 1], atol=1e-9)
    assert found.data["units"].values.tolist() == ["0, 3", "1, 3", "0-2"]


def test_a_number_of_groups_divides_the_units_in_order() -> None:
    found = patching(Relay(), *runs(), at_the_end, layers=["encoder.l0"], states=["cell"], steps=[3], groups=2)
    np.testing.assert_allclose(found.effect().values[0, 0, 0], [1, 0], atol=1e-9)
    assert found.data["units"].values.tolist() == ["0-1", "2-3"]
    whole = patching(Relay(), *runs(), at_the_end, states=["hidden"], steps=[LAST])
    assert whole.data["units"].values.tolist() == ["0-3"]
    np.testing.assert_allclose(whole.effect().values.ravel(), [1, 1], atol=1e-9)


def test_gates_may_be_patched() -> None:
    # The input gate is open for either bit: it tells nothing of which. The candidate is the bit.
    states = ["input_gate", "candidate"]
    found = patching(Relay(), *runs(), at_the_end, layers=["encoder.l0"], states=states, steps=[0, 1])
    np.testing.assert_allclose(found.effect().values[0, :, :, 0], [[0, 0], [1, 0]], atol=1e-9)


def test_the_strongest_patch_is_named() -> None:
    found = patching(Relay(), *runs(), at_the_end, steps=[2, 5], groups=UNITS)
    assert found.strongest() == {"layer": "encoder.l0", "state": "cell", "step": 2, "group": KEPT}
    assert found.summary() == (
        "The patch that makes most of the difference good is cell of layer encoder.l0, units 1, at step 2: "
        f"{found.interval('encoder.l0', 'cell', 2, KEPT).text} of it."
    )


def test_the_interval_is_over_sequences() -> None:
    clean, corrupted = runs()
    clean[0, 1] = corrupted[0, 1] = QUERY  # the first sequence answers before it is patched

    def answered(answers: Tensor) -> Tensor:
        return torch.cat([answers[:1, 1], answers[1:, -1]])

    found = patching(Relay(), clean, corrupted, answered, states=["cell"], steps=[3], layers=["encoder.l0"])
    interval = found.interval("encoder.l0", "cell", 3)
    effects = np.array([0, 1, 1, 1, 1, 1])
    assert interval.n == BATCH
    assert interval.mean == pytest.approx(5 / 6)
    assert interval.high - interval.mean == pytest.approx(2.5706 * effects.std(ddof=1) / np.sqrt(6), rel=1e-3)


def test_a_patch_that_makes_every_difference_good_is_sure_of_it_however_they_vary() -> None:
    scale = torch.tensor([1.0, 2.0, -0.5, 8.0, 0.0, 3.0])
    found = patching(Relay(), *runs(), lambda answers: answers[:, -1] * scale, states=["cell"], steps=[3])
    interval = found.interval("encoder.l0", "cell", 3)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((1, 1, 1))


def test_the_effect_is_a_ratio_of_means() -> None:
    # In half of the sequences the runs hardly differ, and a patch that does little there is no failure.
    scale = torch.tensor([1.0, 1.0, 1.0, 1e-6, 1e-6, 1e-6])
    found = patching(Relay(), *runs(), lambda answers: answers[:, -1] * scale, states=["cell"], steps=[3], groups=2)
    np.testing.assert_allclose(found.effect().sel(layer="encoder.l0", step=3).values, [[1, 0]], atol=1e-9)


def test_a_bare_cell_has_no_name_and_is_patched_too() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            states = None
            for step in x.unbind(1):
                states = self.cell(step, states)
            assert states is not None
            return states[0]

    x = torch.randn(4, 5, 1)
    found = patching(Steps(), x, x + 1, lambda hidden: hidden[:, 0], steps=[4])
    assert found.data["layer"].values.tolist() == ["cell"]
    np.testing.assert_allclose(found.effect().sel(state="hidden").values.ravel(), 1, atol=1e-6)


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    patching(Relay(), *runs(), at_the_end, steps=[0, 7], groups=2, on_progress=lambda *done: told.append(done))
    assert told == [(i, 12) for i in range(1, 13)]  # three states of two layers, two steps, two groups


def test_the_model_is_left_as_it_was() -> None:
    model = Relay().train()
    patching(model, *runs(), at_the_end, steps=[0])
    assert model.training
    assert model.encoder.training
    assert type(model.encoder) is nn.LSTM


# Errors


def refused(match: str, **options: object) -> None:
    with pytest.raises(ValueError, match=match):
        patching(Relay(), *runs(), at_the_end, **options)  # type: ignore[arg-type]


def test_what_the_model_has_not_is_refused_with_what_it_has() -> None:
    refused("layers: 'l7' is not in the model; expected some of encoder.l0, decoder.l0", layers=["l7"])
    refused("states: 'memory' is not in the model; expected some of .*hidden", states=["memory"])


@pytest.mark.parametrize("step", [-1, LENGTH])
def test_a_step_outside_of_the_sequences_is_refused(step: int) -> None:
    refused(rf"steps: {step} is not in sequences of {LENGTH} steps; expected 0 to {LAST}", steps=[step])


def test_groups_that_do_not_fit_are_refused() -> None:
    refused("groups: 5 groups of 4 units; expected 1 to 4", groups=5)
    refused("groups: 0 groups of 4 units; expected 1 to 4", groups=0)
    refused(r"groups: \[4\] does not fit; expected units from 0 to 3", groups=[[4]])
    refused(r"groups: \[\] does not fit", groups=[[]])


def test_states_of_several_widths_cannot_be_divided_alike() -> None:
    stack = nn.Sequential(nn.LSTM(1, 6, proj_size=2, batch_first=True))

    def last(output: tuple[Tensor, object]) -> Tensor:
        return output[0][:, -1, 0]

    clean, corrupted = torch.randn(3, 4, 1), torch.randn(3, 4, 1)
    with pytest.raises(ValueError, match="groups: 2 groups of states that are 2, 6 units wide; choose layers"):
        patching(stack, clean, corrupted, last, groups=2, steps=[0])
    assert patching(stack, clean, corrupted, last, steps=[0]).effect().notnull().all()
    assert patching(stack, clean, corrupted, last, steps=[0], states=["cell"], groups=6).effect().shape == (1, 1, 1, 6)


def test_inputs_of_different_shapes_are_refused() -> None:
    clean, corrupted = runs()
    with pytest.raises(ValueError, match=r"corrupted: shape \(6, 7\) is not that of clean, \(6, 8\)"):
        patching(Relay(), clean, corrupted[:, 1:], at_the_end)


def test_a_metric_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"metric: gave shape \(6, 8\); expected one for each sequence, \(6,\)"):
        patching(Relay(), *runs(), lambda answers: answers)


def test_runs_without_a_difference_to_make_good_are_refused() -> None:
    clean, _ = runs()
    with pytest.raises(ValueError, match="metric: its mean is the same for clean and corrupted inputs"):
        patching(Relay(), clean, clean, at_the_end)


def test_differences_that_cancel_are_refused() -> None:
    clean, corrupted = runs()
    first = torch.cat([clean[:3], corrupted[:3]])
    second = torch.cat([corrupted[:3], clean[:3]])
    with pytest.raises(ValueError, match="metric: its mean is the same"):
        patching(Relay(), first, second, at_the_end)
