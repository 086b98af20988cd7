"""Windows of series: where they lie, what comes after them, and which are in a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from panels import HOUR, panel, problem, walk, windows
from unrolled.problems.problem import Share, summed
from unrolled.problems.series import MOST, Series, Windows
from unrolled.tasks.task import SPLITS, Split

nan = float("nan")
ALONE = Share()


# The value of row n of series s is 1000 s + n, so that a window tells where it comes from


def counting(*lengths: int, step: np.timedelta64 | None = None, starts: list[int] | None = None) -> Series:
    values = [1000.0 * number + np.arange(length) for number, length in enumerate(lengths)]
    return problem(panel(*values, step=step, starts=starts))


def seen(made: Series, split: Split) -> dict[int, list[tuple[int, Windows, int]]]:
    """Series -> (its forecast's origin, the batch, the row)."""
    found: dict[int, list[tuple[int, Windows, int]]] = {}
    for batch in windows(made, split):
        mean = torch.stack([torch.tensor(made.scales.mean[name]) for name in made.panel.series])
        for row, units in enumerate(batch.units):
            numbers = [
                number
                for number, name in enumerate(made.panel.series)
                if abs(float(batch.last[row, -1, 0] * units[0] + mean[number, 0]) - 1000 * number - 500) < 501
                and abs(made.scales.std[name][0] - float(units[0])) < 1e-3
            ]
            (number,) = numbers
            origin = round(float(batch.last[row, -1, 0] * units[0] + mean[number, 0])) - 1000 * number
            found.setdefault(number, []).append((origin, batch, row))
    return found


LAYOUTS: list[tuple[list[int], np.timedelta64 | None, list[int] | None]] = [
    ([100], None, None),
    ([100], HOUR, None),
    ([100, 60, 5, 83], None, None),
    ([100, 60], HOUR, [0, 40]),
    ([90, 50, 40], HOUR, [10, 0, 55]),
]


@pytest.mark.parametrize(("lengths", "step", "starts"), LAYOUTS)
def test_targets_are_exactly_the_values_that_come_next(
    lengths: list[int], step: np.timedelta64 | None, starts: list[int] | None
) -> None:
    made = counting(*lengths, step=step, starts=starts)
    for split in SPLITS:
        for number, entries in seen(made, split).items():
            mean = made.scales.mean[made.panel.series[number]][0]
            for origin, batch, row in entries:
                units = float(batch.units[row, 0])
                read = batch.inputs[row, :, 0] * units + mean - 1000 * number
                assert read.round().tolist() == list(range(origin - 7, origin + 1))
                coming = batch.targets[row, :, :, 0] * units + mean - 1000 * number
                expected = [[at + ahead for ahead in (1, 2, 3)] for at in range(origin - 7, origin + 1)]
                if split == "train":
                    assert coming.round().tolist() == expected
                assert coming[-1].round().tolist() == expected[-1]


@pytest.mark.parametrize(("lengths", "step", "starts"), LAYOUTS)
def test_no_forecast_of_one_part_reaches_into_the_next_and_none_is_left_out(
    lengths: list[int], step: np.timedelta64 | None, starts: list[int] | None
) -> None:
    made = counting(*lengths, step=step, starts=starts)
    begins = starts if starts is not None else [0] * len(lengths)
    first = min(begins)
    last = max(begin + length - 1 for begin, length in zip(begins, lengths, strict=True))
    for number, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
        if step is None:
            cuts = [int(0.7 * length), int(0.85 * length)]
        else:
            # The same moments for all series.
            cuts = [
                min(length, max(0, int(np.ceil(first + share * (last - first) - 1e-9)) - begin))
                for share in (0.7, 0.85)
            ]
        for split, low, high in zip(SPLITS, [0, *cuts], [*cuts, length], strict=True):
            # Every value that is foretold lies in the part, behind a whole window.
            possible = [origin for origin in range(7, length) if low <= origin + 1 and origin + 3 < high]
            assert [origin for origin, _, _ in seen(made, split).get(number, [])] == possible


def test_training_scores_the_last_three_quarters_and_validation_the_last_step() -> None:
    made = problem(panel(walk(100)))
    batch, count = made.batch(1, ALONE)
    assert batch.scored[:, :2].sum() == 0
    assert batch.scored[:, 2:].all()
    assert count == int(batch.scored.sum()) == 4 * 6 * 3
    for piece in windows(made, "validation"):
        assert piece.scored[:, :-1].sum() == 0
        assert piece.scored[:, -1].all()


def test_of_many_windows_some_are_looked_at_evenly() -> None:
    made = problem(panel(walk(40_000)))
    chosen = made.spread("validation")
    assert len(chosen) == MOST["validation"]
    assert chosen[0] == 0
    assert chosen[-1] == 6_000 - 3
    assert set(np.diff(chosen)) <= {2, 3}


# Batches


def test_a_step_has_the_same_batch_whatever_came_before() -> None:
    one, other = problem(panel(walk(100))), problem(panel(walk(100)))
    for step in range(1, 40):
        one.batch(step, ALONE)
    for step in (1, 7, 33):
        again, fresh = one.batch(step, ALONE)[0], other.batch(step, ALONE)[0]
        assert torch.equal(again.inputs, fresh.inputs)
        assert torch.equal(again.targets, fresh.targets)


def test_another_seed_has_another_order() -> None:
    one, other = problem(panel(walk(100)), seed=1), problem(panel(walk(100)), seed=2)
    assert not torch.equal(one.batch(1, ALONE)[0].inputs, other.batch(1, ALONE)[0].inputs)
    assert one.digest() == other.digest()


def test_every_pass_has_every_window_once() -> None:
    made = problem(panel(np.arange(71.0) ** 2))
    total = len(made.spread("train"))
    for passed in range(2):
        steps = range(1 + passed * (total // 4), 1 + (passed + 1) * (total // 4))
        lasts = torch.cat([made.batch(step, ALONE)[0].inputs[:, -1, 0] for step in steps])
        assert len(lasts.unique()) == len(lasts) == total // 4 * 4


def test_two_processes_shares_are_the_whole_batch() -> None:
    made = problem(panel(walk(100)))
    whole, count = made.batch(3, ALONE)
    halves = [made.batch(3, Share(part, 2)) for part in range(2)]
    assert [half[1] for half in halves] == [count, count]
    for name in Windows.trained_on:
        if getattr(whole, name) is not None:
            assert torch.equal(torch.cat([getattr(half[0], name) for half in halves]), getattr(whole, name)), name


def test_two_processes_sums_are_those_of_one() -> None:
    made = problem(panel(walk(2000)))
    model = torch.nn.Linear(made.shape.input_size, made.shape.output_size)
    whole = summed(model, made, "test")
    parts = [summed(model, made, "test", Share(part, 2)) for part in range(2)]
    assert min(float(part[1]) for part in parts) > 0
    torch.testing.assert_close(parts[0] + parts[1], whole)
