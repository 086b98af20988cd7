from __future__ import annotations

import pytest
import torch

from unrolled.tasks import Adding


@pytest.mark.parametrize("length", [2, 3, 50, 51])
def test_one_marker_stands_in_each_half(length: int) -> None:
    markers = Adding(length=length).batch(300, seed=0).inputs[:, :, 1]
    half = length // 2
    assert set(markers.flatten().tolist()) <= {0.0, 1.0}
    assert (markers[:, :half].sum(dim=1) == 1).all()
    assert (markers[:, half:].sum(dim=1) == 1).all()
    # Every position is reached: the first and the last of both halves among them.
    assert (markers.sum(dim=0) > 0).all()


def test_target_is_the_sum_of_the_marked_values_at_the_last_step_only() -> None:
    batch = Adding(length=12).batch(64, seed=3)
    values, markers = batch.inputs.unbind(dim=-1)
    assert batch.targets.dtype == torch.float32
    torch.testing.assert_close(batch.targets[:, -1], (values * markers).sum(dim=1), rtol=0, atol=0)
    assert not batch.targets[:, :-1].any()
    assert batch.scored[:, -1].all()
    assert batch.scored.sum() == 64


def test_labels_and_marks_say_where_the_markers_are() -> None:
    batch = Adding(length=12).batch(64, seed=3)
    assert torch.equal(batch.labels["marked"], batch.inputs[:, :, 1].long())
    assert torch.equal(batch.marks["store"], batch.inputs[:, :, 1].bool())
    assert torch.equal(batch.marks["load"], batch.scored)


def test_always_answering_one_scores_the_baseline() -> None:
    task = Adding()
    sums = task.batch(50_000, seed=1, split="test").targets[:, -1]
    # The standard deviation of (sum - 1)^2 is sqrt(7/180): 0.003 is more than three of its errors.
    assert ((sums - 1) ** 2).mean().item() == pytest.approx(task.baseline().value, abs=0.003)
    assert task.skill(task.baseline().value) == 0
    assert task.skill(0.0) == 1


def test_mixed_lengths_cover_the_inclusive_range() -> None:
    task = Adding(length=(5, 8))
    assert {task.batch(1, seed=seed).inputs.shape[1] for seed in range(60)} == {5, 6, 7, 8}


def test_at_lag_sets_the_length() -> None:
    task = Adding(length=(5, 8))
    assert task.at_lag(30) == Adding(length=30)
    assert task.at_lag(30).batch(2, seed=0).inputs.shape == (2, 30, 2)


def test_lags_rise_past_the_training_length() -> None:
    assert Adding().lags == (25, 50, 100, 200)
    assert Adding(length=2).lags == (2, 4, 8)


@pytest.mark.parametrize("length", [1, 0, -5, (1, 9), (9, 5), (5,), 2.5, True, "50"])
def test_bad_length_is_refused_by_name(length: object) -> None:
    with pytest.raises(ValueError, match="task adding: length is "):
        Adding(length=length)  # type: ignore[arg-type]


def test_bad_size_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="task adding: size is 0"):
        Adding().batch(0, seed=0)
