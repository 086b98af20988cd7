from __future__ import annotations

import pytest
import torch

from unrolled.tasks import Recall


def test_target_is_the_cue_and_is_scored_at_the_query_only() -> None:
    batch = Recall(lag=6).batch(200, seed=0)
    assert batch.symbols is not None
    assert torch.equal(batch.targets[:, -1], batch.symbols[:, 0])
    assert not batch.targets[:, :-1].any()
    assert batch.scored.sum(dim=1).eq(1).all()
    assert batch.scored[:, -1].all()
    assert torch.equal(batch.inputs.argmax(dim=-1), batch.symbols)
    assert batch.inputs.sum(dim=-1).eq(1).all()


def test_cues_distractors_and_query_are_different_symbols() -> None:
    task = Recall(lag=20, symbols=3, distractors=4)
    symbols = task.batch(200, seed=0).symbols
    assert symbols is not None
    assert set(symbols[:, 0].tolist()) == {0, 1, 2}
    assert set(symbols[:, 1:-1].flatten().tolist()) == {3, 4, 5, 6}
    assert set(symbols[:, -1].tolist()) == {7}
    assert task.input_size == 8
    assert task.output_size == 3


def test_no_distractors_leave_one_blank_between() -> None:
    task = Recall(lag=5, symbols=2, distractors=0, length=9)
    symbols = task.batch(4, seed=0).symbols
    assert symbols is not None
    assert symbols[:, [0, 1, 3, 4, 5, 6, 7]].eq(2).all()
    assert symbols[:, 2].lt(2).all()
    assert symbols[:, 8].eq(3).all()
    assert task.input_size == 4


@pytest.mark.parametrize("lag", [1, 7, 18])
def test_fixed_length_keeps_the_query_last_and_moves_the_cue(lag: int) -> None:
    batch = Recall(lag=lag, length=20).batch(50, seed=0)
    assert batch.symbols is not None
    start = 20 - 2 - lag
    assert batch.symbols.shape == (50, 20)
    assert torch.equal(batch.marks["store"].nonzero()[:, 1], torch.full((50,), start))
    assert torch.equal(batch.marks["load"].nonzero()[:, 1], torch.full((50,), 19))
    assert torch.equal(batch.targets[:, -1], batch.symbols[:, start])
    assert (batch.symbols[:, :start] >= 8).all()


def test_cue_label_holds_from_the_cue_on() -> None:
    batch = Recall(lag=4, length=9).batch(50, seed=0)
    assert batch.symbols is not None
    cue = batch.labels["cue"]
    assert cue[:, :3].eq(-1).all()
    assert cue[:, 3:].eq(batch.symbols[:, 3:4]).all()


def test_one_lag_is_drawn_for_each_batch_from_the_inclusive_range() -> None:
    task = Recall(lag=(2, 5))
    assert {task.batch(1, seed=seed).inputs.shape[1] for seed in range(60)} == {4, 5, 6, 7}


def test_any_constant_answer_scores_the_baseline() -> None:
    task = Recall(lag=3)
    answers = task.batch(40_000, seed=0).targets[:, -1]
    for symbol in range(task.symbols):
        assert answers.eq(symbol).double().mean().item() == pytest.approx(task.baseline().value, abs=0.008)
    assert task.skill(1 / 8) == 0
    assert task.skill(1.0) == 1


def test_at_lag_changes_the_lag_only() -> None:
    assert Recall(symbols=5).at_lag(80) == Recall(symbols=5, lag=80)
    assert Recall().at_lag(80).batch(2, seed=0).inputs.shape[1] == 82


def test_lags_go_to_four_times_the_longest_training_lag() -> None:
    assert Recall().lags == (10, 20, 40, 80, 160)
    assert Recall(lag=40, length=100).lags == (10, 20, 40, 80)
    assert Recall(lag=1).lags == (1, 2, 4)


def test_lag_past_the_length_is_refused_with_the_way_out() -> None:
    message = "task recall: lag is 60 but length is 50; the lag may be at most length - 2 = 48"
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared in full below
        Recall(lag=60, length=50)
    assert str(error.value) == message
    with pytest.raises(ValueError, match="at most length - 2 = 48"):
        Recall(length=50).at_lag(49)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"lag": 0}, "lag"),
        ({"lag": (40, 1)}, "lag"),
        ({"lag": (1, 2, 3)}, "lag"),
        ({"symbols": 1}, "symbols"),
        ({"distractors": -1}, "distractors"),
        ({"length": 2}, "length"),
        ({"length": "9"}, "length"),
    ],
)
def test_bad_setting_is_refused_by_name(settings: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=f"^task recall: {name} is "):
        Recall(**settings)  # type: ignore[arg-type]
