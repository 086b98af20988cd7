"""What is refused, and edits that never took place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import unrolled
from edited import (
    LENGTHS,
    B,
    H,
    I,
    T,
    drawn,
    made,
    refused,
    source,
    warned,
)
from unrolled import Ablate, Apply, Clamp, Patch, Push, Scale

# What is refused


@pytest.mark.parametrize("wrong", [None, nn.LSTM, torch.zeros(2)])
def test_what_is_not_a_module_is_refused(wrong: Any) -> None:
    message = f"intervene: model must be a torch.nn.Module, given {type(wrong).__name__}"
    with pytest.raises(TypeError, match=message), unrolled.intervene(wrong):
        pass


@pytest.mark.parametrize("wrong", [lambda state, t: state, "l0.hidden", [Scale("l0.hidden", 1.0)]])
def test_what_is_no_edit_is_refused(wrong: Any) -> None:
    refused(f"edits: expected Ablate, .* or Apply, given {type(wrong).__name__}", wrong, error=TypeError)


def test_a_name_that_the_model_does_not_have_is_refused_with_those_it_has() -> None:
    refused(r"edits: 'l0\.cell' matches nothing in the model; it has l0\.hidden, l0\.reset_gate", Ablate("l0.cell"))
    refused("matches nothing in the model; it has no recurrent layer", Ablate("*"), model=nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (Ablate("*.hidden", "noise"), ValueError, "to: given 'noise', expected 'zero', 'mean' or 'resampled'"),
        (Ablate("*.hidden", "mean", source=source(2, 3, 4)), ValueError, r"source: 'l0.hidden' is \(2, 3, 4\); .* 5\)"),
        (Ablate("*.hidden", "mean", source=[1]), TypeError, "source: expected a trace or a mapping .*, given list"),
        (Patch("*.hidden", source=source(2, 5)), ValueError, r"source: 'l0.hidden' is \(2, 5\); expected \(B, T, 5\)"),
        (Patch("*.candidate", source=source(1, 1, 5)), ValueError, "source: has nothing .* 'l0.candidate'; it has l0"),
        (Patch("*.hidden", source={}), ValueError, "it has nothing"),
        (Patch("*.hidden", source=None), TypeError, "source: .* given NoneType"),
        (Clamp("*.hidden"), ValueError, r"Clamp\('\*.hidden'\): expected a value, or low and high; given neither"),
        (Clamp("*.hidden", 0.0, low=1.0), ValueError, "expected a value, or low and high; given both"),
        (Clamp("*.hidden", torch.zeros(H), high=1.0), ValueError, "given both"),
        (Clamp("*.hidden", [1.0, 2.0]), ValueError, r"value: of shape \(2,\) does not fit; expected a last size of 5$"),
        (Scale("*.hidden", torch.ones(4)), ValueError, r"factor: of shape \(4,\) does not fit"),
        (Push("*.hidden", torch.ones(B, 4)), ValueError, r"vector: of shape \(3, 4\) does not fit"),
        (Push("*.hidden", torch.ones(1, B, H)), ValueError, r"vector: of shape \(1, 3, 5\) does not fit; .* at most"),
        (Push("*.hidden", torch.ones(4), units=[0, 1]), ValueError, "a last size of 5, or 2 for the chosen units"),
        (Scale("*.hidden", 1.0, units=[0, 5]), ValueError, r"units of 'l0.hidden': \[0, 5\] does not fit; .* 0 to 4"),
        (Scale("*.hidden", 1.0, units=-6), ValueError, "units of 'l0.hidden': -6 does not fit; expected 0 to 4"),
        (Scale("*.hidden", 1.0, units=[True, False]), ValueError, r"a mask of shape \(2,\) does not fit; .* \(5,\)"),
        (Scale("*.hidden", 1.0, units=[0.5]), TypeError, "expected whole numbers or a bool mask, given torch.float32"),
        (Scale("*.hidden", 1.0, steps=-1), ValueError, "steps: -1 counts from the end, .* expected from 0 on"),
        (Scale("*.hidden", 1.0, steps=[3, -2]), ValueError, "steps: -2 counts from the end"),
        (Scale("*.hidden", 1.0, steps=slice(-3, None)), ValueError, r"steps: slice\(-3, None, None\) counts"),
        (Scale("*.hidden", 1.0, steps=slice(None, -1)), ValueError, "counts from the end"),
        (Scale("*.hidden", 1.0, steps=[True, False]), TypeError, "steps: expected whole numbers, given torch.bool"),
        (Scale("*.hidden", 1.0, steps=2.5), TypeError, "steps: expected whole numbers, given torch.float32"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_before_anything_runs(
    edit: Any, error: type[Exception], message: str
) -> None:
    refused(message, edit, error=error)


def test_a_bare_layer_is_left_as_it_was_by_edits_that_were_refused() -> None:
    module = made("GRU")
    refused("matches nothing", Scale("l0.hidden", 1.0), Scale("l0.cell", 1.0), model=module)
    assert type(module) is nn.GRU
    assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Scale("*.hidden", 1.0, rows=3), "rows: 3 does not fit; expected 0 to 2"),
        (Scale("*.hidden", 1.0, rows=[True] * 4), r"rows: a mask of shape \(4,\) does not fit; expected \(3,\)"),
        (Push("*.hidden", torch.ones(2, H)), r"an amount of shape \(2, 5\) does not fit; the batch has 3 sequences"),
        (Patch("*.hidden", source=source(2, T, H)), "source: 'l0.hidden' has 2 sequences, and the batch has 3"),
        (Patch("*.hidden", source=source(3, 4, H)), "source: 'l0.hidden' has 4 steps, and step 4 is patched"),
        (
            Ablate("*.hidden", "resampled", source=source(1, 4, H)),
            "source: 'l0.hidden' has 4 steps, and step 4 is ablated",
        ),
        (Apply("*.hidden", lambda s, t: s[:1]), r"function: gave \(1, 5\) for 'l0.hidden' of shape \(3, 5\)"),
        (Apply("*.hidden", lambda s, t: None), r"function: gave NoneType for 'l0.hidden' of shape \(3, 5\)"),
    ],
)
def test_an_edit_that_does_not_fit_the_batch_is_refused_at_the_call(edit: Any, message: str) -> None:
    module = made("GRU")
    with unrolled.intervene(module, edit), pytest.raises(ValueError, match=message):
        module(torch.zeros(T, B, I))


@pytest.mark.parametrize("to", ["mean", "resampled"])
def test_an_ablation_needs_another_sequence(to: Any) -> None:
    module = unrolled.GRU(I, H)
    message = r"Ablate\('l0.hidden'\): one sequence of the batch has step {}, .* or source=, a trace of others"
    with unrolled.intervene(module, Ablate("l0.hidden", to)):
        with pytest.raises(ValueError, match=message.format(0)):
            module(torch.zeros(T, 1, I))
        with pytest.raises(ValueError, match=message.format(5)):
            module(torch.zeros(T, B, I), lengths=LENGTHS)


def test_a_source_whose_sequences_have_all_ended_is_refused() -> None:
    module = unrolled.GRU(I, H)
    with unrolled.record(module) as trace:
        module(torch.zeros(T, 2, I), lengths=[3, 4])
    with (
        unrolled.intervene(module, Ablate("l0.hidden", "resampled", source=trace, steps=[4])),
        pytest.raises(ValueError, match="source: no sequence of 'l0.hidden' has step 4"),
    ):
        module(torch.zeros(T, B, I))


def test_a_patch_from_after_the_end_of_a_sequence_is_refused_where_the_row_goes_on() -> None:
    module, x = unrolled.GRU(I, H), drawn(T, B, I, dtype=torch.float32)
    with unrolled.record(module) as trace:
        module(x, lengths=LENGTHS)
    with unrolled.intervene(module, Patch("l0.hidden", source=trace, steps=[4])):
        with pytest.raises(ValueError, match="source: 'l0.hidden' has ended before step 4 in row 1, .* choose rows="):
            module(x)
        module(x, lengths=LENGTHS)
    with unrolled.intervene(module, Patch("l0.hidden", source=trace, steps=[4], rows=[0, 2])):
        module(x)


def test_a_call_that_torch_takes_but_that_has_no_steps_to_change_is_refused() -> None:
    module = made()
    with (
        pytest.raises(ValueError, match=r"intervene: cannot change a call of LSTM with input of shape \(9, 0, 3\)"),
        unrolled.intervene(module, Ablate("l0.cell")),
    ):
        module(torch.zeros(T, 0, I))


# Edits that never took place


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Ablate("l0.cell", steps=9), "intervene: Ablate('l0.cell', steps=9) did not take place: its layer took 9"),
        (Ablate("l0.cell", steps=slice(9, None)), "did not take place: its layer took 9 steps"),
        (Ablate("*.cell", steps=[4, 9, 11]), "did not take place at steps [9, 11]: its layer took 9 steps"),
        (Ablate("l0.cell", steps=[]), "did not take place: its layer took 9 steps"),
        (Scale("l1.*", 2.0, steps=20, units=[1], rows=0), "Scale('l1.*', steps=20, units=[1], rows=0) did not take"),
    ],
)
def test_an_edit_whose_steps_never_came_warns_at_the_end_of_the_context(edit: Any, said: str) -> None:
    (message,) = warned(edit)
    assert said in message


def test_an_edit_whose_layer_was_not_called_warns() -> None:
    (message,) = warned(Ablate("l0.cell"), calls=0)
    assert message == "intervene: Ablate('l0.cell') did not take place: its layer was not called"


def test_each_edit_that_did_not_take_place_warns_and_the_others_do_not() -> None:
    messages = warned(Ablate("l0.cell", steps=4), Ablate("l0.hidden", steps=40), Ablate("l1.hidden", steps=41))
    assert ["steps=40" in messages[0], "steps=41" in messages[1], len(messages)] == [True, True, 2]


@pytest.mark.parametrize("steps", [None, 8, [0, 8], slice(2, 100), range(9)])
def test_an_edit_that_took_place_is_silent(steps: Any) -> None:
    assert warned(Ablate("*.cell", steps=steps), calls=2) == []


def test_steps_that_came_in_one_of_several_calls_are_enough() -> None:
    module = made()
    with unrolled.intervene(module, Ablate("l0.cell", steps=[3, 6])):
        module(drawn(4, B, I, dtype=torch.float32))
        module(drawn(T, B, I, dtype=torch.float32))


def test_an_exception_is_not_followed_by_a_warning() -> None:
    with pytest.raises(ZeroDivisionError), unrolled.intervene(made(), Ablate("l0.cell", steps=100)):
        raise ZeroDivisionError


@pytest.mark.parametrize("edit", [Push, Scale, Apply])
def test_an_edit_that_would_do_nothing_is_no_edit(edit: Any) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        edit("l0.hidden")
