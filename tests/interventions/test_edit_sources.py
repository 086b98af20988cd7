"""Patches, ablations and functions: what is put in a state's place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import unrolled
from edited import (
    LENGTHS,
    TOLERANCE,
    B,
    H,
    Hand,
    I,
    T,
    at,
    drawn,
    dtypes,
    every_mode,
    made,
    resampled_rows,
    taken_from,
)
from exact import close, finals, wild
from unrolled import Ablate, Apply, Patch

# Patches


@every_mode
@pytest.mark.parametrize("steps", [None, [0], [3, 4], [8]])
def test_a_patch_from_the_same_run_changes_nothing(mode: str, steps: Any) -> None:
    module = made(mode, num_layers=2, bidirectional=True)
    packed = pack_padded_sequence(drawn(T, B, I, dtype=torch.float32), LENGTHS, enforce_sorted=False)
    with unrolled.record(module) as trace:
        plain = module(packed)
    with unrolled.intervene(module, Patch("*", source=trace, steps=steps)):
        found = module(packed)
    close([found[0].data, *finals(found)], [plain[0].data, *finals(plain)], 1e-6)


@every_mode
def test_patching_all_states_of_a_step_makes_the_rest_that_of_the_other_run(mode: str) -> None:
    module = made(mode, num_layers=2)
    x, other = drawn(T, B, I, dtype=torch.float32), drawn(T, B, I, seed=9, dtype=torch.float32)
    other = torch.cat([other[:5], x[5:]])
    with unrolled.record(module) as trace:
        wanted, ends = module(other)
    names = ["*.hidden", "*.cell"] if mode == "LSTM" else ["*.hidden"]
    with unrolled.intervene(module, *(Patch(name, source=trace, steps=4) for name in names)):
        found, final = module(x)
    close([found[4:], *finals((found, final))], [wanted[4:], *finals((wanted, ends))], 1e-6)
    assert (found[:4] - wanted[:4]).abs().max() > 0.01


def test_patching_the_hidden_state_alone_leaves_the_cell_which_makes_another_rest() -> None:
    module = made()
    x, other = drawn(T, B, I, dtype=torch.float32), drawn(T, B, I, seed=9, dtype=torch.float32)
    other = torch.cat([other[:5], x[5:]])
    with unrolled.record(module) as trace:
        wanted, _ = module(other)
    with unrolled.intervene(module, Patch("l0.hidden", source=trace, steps=4)):
        found, _ = module(x)
    close(found[4], wanted[4])
    assert (found[5:] - wanted[5:]).abs().max() > 0.01


@dtypes
def test_gradients_flow_into_the_run_that_a_patch_is_from(dtype: torch.dtype) -> None:
    module = made(batch_first=True, dtype=dtype)
    exact = copy.deepcopy(module).double()
    x, other = drawn(B, T, I, dtype=dtype), drawn(B, T, I, seed=9, dtype=dtype)
    with unrolled.record(module) as trace:
        module(other)
    with unrolled.intervene(module, Patch("l0.cell", source=trace, steps=4, units=[1, 3])):
        output, _ = module(x)
    found = torch.autograd.grad(output.pow(3).sum(), [x, other, *module.parameters(), trace["l0.forget_gate"]])
    zeros = [torch.zeros(1, B, H).double()] * 2
    exact_x, exact_other = (t.detach().double().requires_grad_() for t in (x, other))
    source = Hand(exact, exact_other.transpose(0, 1), zeros)
    hand = Hand(
        exact,
        exact_x.transpose(0, 1),
        zeros,
        at("l0.cell", [4], lambda v, n, t: source.nodes["l0.cell"][t], units=[1, 3]),
    )
    loss = hand.result[0].pow(3).sum()
    wanted = torch.autograd.grad(loss, [exact_x, exact_other, *exact.parameters()], retain_graph=True)
    close(found, [*wanted, source.gradient(loss, "l0.forget_gate")], TOLERANCE[dtype])
    assert found[-1][:, :5].any()
    assert not found[-1][:, 5:].any()


def test_a_detached_trace_is_patched_from_without_a_gradient() -> None:
    module, x, other = made(), drawn(T, B, I, dtype=torch.float32), drawn(T, B, I, seed=9, dtype=torch.float32)
    with unrolled.record(module, detach=True) as trace:
        module(other)
    with unrolled.intervene(module, Patch("l0.cell", source=trace, steps=4)):
        output, _ = module(x)
    assert torch.autograd.grad(output.sum(), [other], allow_unused=True) == (None,)


def test_a_source_of_one_sequence_is_given_to_all_and_any_mapping_will_do() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.record(module) as trace:
        module(x[:, 1:2])
    for source in (trace, {"l0.cell": trace["l0.cell"].detach().double()}):
        with unrolled.intervene(module, Patch("l0.cell", source=source, steps=4)), unrolled.record(module) as patched:
            module(x)
        close(patched["l0.cell"][:, 4], trace["l0.cell"][:, 4].expand(B, -1), 1e-7)


def test_a_patch_from_a_trace_that_was_saved_is_that_of_the_trace(tmp_path: Any) -> None:
    pytest.importorskip("zarr")
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.record(module) as trace:
        module(2 * x)
    trace.save(tmp_path / "run.zarr")
    found = []
    for source in (trace, unrolled.Trace.load(tmp_path / "run.zarr")):
        with unrolled.intervene(module, Patch("l0.cell", source=source, steps=[4, 6])):
            found.append(module(x)[0])
    assert torch.equal(*found)


def test_a_patch_between_sequences_of_unequal_length_is_row_by_row_in_the_users_order() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    source = {"l0.hidden": torch.arange(B).float().view(B, 1, 1).expand(B, T, H)}
    with unrolled.intervene(module, Patch("l0.hidden", source=source, steps=1)), unrolled.record(module) as trace:
        module(packed)
    assert torch.equal(trace["l0.hidden"][:, 1], source["l0.hidden"][:, 1])


# Ablations


def test_a_resampled_ablation_takes_the_same_other_row_at_every_step_and_for_every_name() -> None:
    module, x = made(num_layers=2, batch_first=True), drawn(7, T, I, dtype=torch.float32)
    with unrolled.record(module, detach=True) as plain:
        module(x)
    others = []
    for name in plain:
        for t in (0, 4, 8):
            edit = Ablate(name, "resampled", steps=t)
            with unrolled.intervene(module, edit), unrolled.record(module, detach=True) as trace:
                module(x)
            others.append(taken_from(trace[name][:, t], plain[name][:, t]).tolist())
    assert all(one == others[0] for one in others)
    assert sorted(others[0]) == list(range(7))
    assert all(row != other for row, other in enumerate(others[0]))


def test_the_seed_of_a_resampled_ablation_is_of_its_draw_alone() -> None:
    torch.manual_seed(1)
    first, state = resampled_rows(0), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(state, (resampled_rows(3), torch.get_rng_state())[1])
    torch.rand(3)
    assert resampled_rows(0) == first
    drawn_ones = {tuple(resampled_rows(seed)) for seed in range(20)}
    assert len(drawn_ones) > 5
    for rows in drawn_ones:
        assert sorted(rows) == list(range(5))
        assert all(row != other for row, other in enumerate(rows))


def test_a_resampled_ablation_takes_only_rows_that_still_go_on() -> None:
    module = unrolled.LSTM(I, H, batch_first=True)
    lengths, x = torch.tensor([5, 9, 2, 7, 9]), drawn(5, T, I, dtype=torch.float32)
    with unrolled.record(module, detach=True) as plain:
        module(x, lengths=lengths)
    for t in range(T):
        edit = Ablate("l0.cell", "resampled", steps=t, seed=1)
        with unrolled.intervene(module, edit), unrolled.record(module, detach=True) as trace:
            module(x, lengths=lengths)
        going_on = (lengths > t).nonzero().squeeze(1)
        others = going_on[taken_from(trace["l0.cell"][going_on, t], plain["l0.cell"][going_on, t])]
        assert sorted(others.tolist()) == going_on.tolist()
        assert (others != going_on).all()
        assert not trace["l0.cell"][lengths <= t, t].any()


def test_resampling_chosen_rows_takes_values_of_all() -> None:
    taken = resampled_rows(0)
    some = resampled_rows(0, rows=[1, 3])
    assert some == [0, taken[1], 2, taken[3], 4]


def test_the_mean_is_over_the_sequences_that_go_on() -> None:
    module, x = unrolled.LSTM(I, H, batch_first=True), drawn(B, T, I, dtype=torch.float32)
    with unrolled.record(module, detach=True) as plain:
        module(x)
    edit = Ablate("l0.cell", "mean", steps=[4])
    with unrolled.intervene(module, edit), unrolled.record(module, detach=True) as trace:
        module(x, lengths=LENGTHS)
    close(trace["l0.cell"][[0, 2], 4], plain["l0.cell"][[0, 2], 4].mean(0).expand(2, -1))
    with unrolled.intervene(module, Ablate("l0.cell", "mean", steps=[4], rows=1)), unrolled.record(module) as trace:
        module(x)
    wanted = plain["l0.cell"][:, 4].clone()
    wanted[1] = wanted.mean(0)
    close(trace["l0.cell"][:, 4], wanted)


@pytest.mark.parametrize("to", ["mean", "resampled"])
def test_steps_that_no_sequence_has_any_more_are_left_as_they_are(to: Any) -> None:
    module, x = unrolled.LSTM(I, H, batch_first=True), drawn(B, T, I, dtype=torch.float32)
    lengths = torch.tensor([4, 4, 4])
    with unrolled.intervene(module, Ablate("l0.cell", to)):
        found, _ = module(x, lengths=lengths)
        wanted, _ = module(x[:, :4])
    close(found[:, :4], wanted, 1e-6)
    assert not found[:, 4:].any()


def test_the_mean_of_a_source_is_over_all_steps_that_its_sequences_have() -> None:
    module, x = unrolled.LSTM(I, H, batch_first=True), drawn(B, T, I, dtype=torch.float32)
    with unrolled.record(module, detach=True) as source:
        module(3 * x, lengths=LENGTHS)
    alone = torch.cat([source["l0.cell"][row, :length] for row, length in enumerate(LENGTHS.tolist())])
    edit = Ablate("l0.cell", "mean", source=source, steps=[0, 8])
    with unrolled.intervene(module, edit), unrolled.record(module) as trace:
        module(x)
        module(x[:1])
    close(trace._source._calls["l0.cell"][0].steps.values[[0, 8]], alone.mean(0).expand(2, B, -1))


def test_a_mean_of_a_source_of_several_calls_is_over_the_steps_that_were_taken() -> None:
    module, x = unrolled.LSTM(I, H, batch_first=True), drawn(B, T, I, dtype=torch.float32)
    with unrolled.record(module, detach=True) as source:
        module(3 * x, lengths=LENGTHS)
        module(2 * x, lengths=LENGTHS.flip(0))
    inside = torch.cat([torch.arange(T) < lengths.unsqueeze(1) for lengths in (LENGTHS, LENGTHS.flip(0))], 1)
    with (
        unrolled.intervene(module, Ablate("l0.cell", "mean", source=source, steps=4)),
        unrolled.record(module) as trace,
    ):
        module(x)
    close(trace["l0.cell"][:, 4], source["l0.cell"][inside].mean(0).expand(B, -1))


def test_resampling_from_a_source_takes_one_of_its_rows_as_long_as_it_goes_on() -> None:
    module, x = unrolled.LSTM(I, H, batch_first=True), drawn(8, T, I, dtype=torch.float32)
    lengths = torch.tensor([9, 4, 9, 6])
    with unrolled.record(module, detach=True) as source:
        module(drawn(4, T, I, seed=9, dtype=torch.float32), lengths=lengths)
    edit = Ablate("l0.cell", "resampled", source=source)
    with unrolled.intervene(module, edit), unrolled.record(module, detach=True) as trace:
        module(x)
    rows = torch.stack([taken_from(trace["l0.cell"][:, t], source["l0.cell"][:, t]) for t in range(T)])
    assert {1, 3} & set(rows[0].tolist())
    assert len(set(rows[0].tolist())) > 2
    for t in range(T):
        assert (lengths[rows[t]] > t).all()
        stays = lengths[rows[0]] > t
        assert torch.equal(rows[t][stays], rows[0][stays])


# Functions


def test_a_function_is_shown_the_state_and_the_step_and_its_result_is_gone_on_with() -> None:
    module, x, seen = made(), drawn(T, B, I, dtype=torch.float32), []

    def function(state: Tensor, t: int) -> Tensor:
        seen.append((tuple(state.shape), t))
        return state * t

    with unrolled.record(module) as plain:
        module(x)
    with unrolled.intervene(module, Apply("l0.cell", function, steps=[3])), unrolled.record(module) as trace:
        module(x)
    assert seen == [((B, H), 3)]
    close(trace["l0.cell"][:, 3], 3 * plain["l0.cell"][:, 3])


@pytest.mark.parametrize("grad", [False, True])
@dtypes
def test_a_function_may_change_the_state_in_place_but_only_where_the_edit_is(grad: bool, dtype: torch.dtype) -> None:
    module, x = made(dtype=dtype), drawn(T, B, I, dtype=dtype)
    edit = {"steps": 4, "units": [1], "rows": [2]}
    with torch.set_grad_enabled(grad):
        with unrolled.intervene(module, Apply("*.forget_gate", lambda state, t: state.mul_(2), **edit)):
            found = module(x)
        with unrolled.intervene(module, Apply("*.forget_gate", lambda state, t: state * 2, **edit)):
            wanted = module(x)
    assert torch.equal(found[0], wanted[0])
    if grad:
        leaves = [x, *module.parameters()]
        close(torch.autograd.grad(wild(found), leaves), torch.autograd.grad(wild(wanted), leaves))
