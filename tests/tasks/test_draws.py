from __future__ import annotations

import pytest
import torch

from unrolled.tasks import Adding, Batch, Code, Copy, Recall, Split, Task

TASKS = [Adding(), Recall(), Copy(), Code(length=32, characters=300_000)]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("split", SPLITS)
def test_equal_arguments_give_equal_batches(task: Task, split: Split) -> None:
    one, other = (task.batch(4, seed=7, split=split) for _ in range(2))
    assert same(one, other)
    assert one.labels.keys() == other.labels.keys()
    assert all(torch.equal(one.labels[name], other.labels[name]) for name in one.labels)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_batches_do_not_depend_on_or_change_the_global_generator(task: Task) -> None:
    torch.manual_seed(0)
    one = task.batch(4, seed=7)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert same(one, task.batch(4, seed=7))
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_splits_and_seeds_have_streams_of_their_own(task: Task) -> None:
    batches = [task.batch(4, seed=seed, split=split) for split in SPLITS for seed in (0, 1, 2**32)]
    for index, one in enumerate(batches):
        assert not any(same(one, other) for other in batches[index + 1 :])


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_batch_keeps_its_contract(task: Task) -> None:
    for split in SPLITS:
        batch = task.batch(3, seed=0, split=split)
        size, length, width = batch.inputs.shape
        assert (size, width) == (3, task.input_size)
        assert batch.inputs.dtype == torch.float32
        assert batch.targets.shape == batch.scored.shape == (3, length)
        assert batch.targets.dtype == (torch.float32 if task.regression else torch.int64)
        assert batch.scored.dtype == torch.bool
        if not task.regression:
            assert batch.targets.min() >= 0
            assert batch.targets.max() < task.output_size
        for label in batch.labels.values():
            assert (label.shape, label.dtype) == ((3, length), torch.int64)
        for mark in batch.marks.values():
            assert (mark.shape, mark.dtype) == ((3, length), torch.bool)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_unknown_split_is_refused_by_name(task: Task) -> None:
    with pytest.raises(ValueError, match=f"task {task.name}: split is 'dev'; expected one of train, validation, test"):
        task.batch(1, seed=0, split="dev")  # type: ignore[arg-type]
