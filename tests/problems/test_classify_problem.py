"""Classes of sequences: how they are divided, read and padded, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from small_runs import classify_job, labelled_csv, trained
from unrolled.data.labelled import Labelled
from unrolled.jobs import Job
from unrolled.model import SequenceModel
from unrolled.presets import preset
from unrolled.problems.classify import Classify, divided, padded
from unrolled.problems.opening import open_problem
from unrolled.problems.problem import Share, answer, summed

ALONE = Share()


def labelled(labels: list[str], *, lengths: list[int] | None = None, seed: int = 0) -> Labelled:
    drawn = np.random.default_rng(seed)
    lengths = lengths or drawn.integers(2, 12, len(labels)).tolist()
    sequences = tuple((5 + 3 * drawn.standard_normal((length, 2))).astype(np.float32) for length in lengths)
    return Labelled(path="made.ts", channels=("1", "2"), sequences=sequences, labels=tuple(labels))


def problem(**options: Any) -> Classify:
    parts = divided(labelled(["a"] * 30 + ["b"] * 50), {"validation": 0.15, "test": 0.15})
    return Classify(parts, **{"seed": 0, "batch_size": 8, **options})


def reader(made: Classify) -> SequenceModel:
    """Both directions, so that what stands behind a sequence's end would show."""
    shape = made.shape
    return SequenceModel(
        "lstm", shape.input_size, 6, shape.output_size, bidirectional=True, layers=2, readout=shape.readout
    ).eval()


# The division


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5))
def test_every_class_keeps_its_share_in_every_part(counts: list[int]) -> None:
    labels = [f"c{number}" for number, count in enumerate(counts) for _ in range(count)]
    whole = labelled(labels)
    try:
        parts = divided(whole, {"validation": 0.2, "test": 0.2})
    except ValueError as error:
        assert max(counts) < 5
        assert "too few" in str(error)  # noqa: PT017
        return
    for number, count in enumerate(counts):
        found = {split: part.labels.count(f"c{number}") for split, part in parts.items()}
        assert sum(found.values()) == count
        assert found["train"] >= 1
        for split in ("validation", "test"):
            assert abs(found[split] - 0.2 * count) <= 1
    every = sorted(id(sequence) for part in parts.values() for sequence in part.sequences)
    assert every == sorted(map(id, whole.sequences))


def test_one_sequence_of_every_class_stays_to_train_on() -> None:
    parts = divided(labelled(["a"] * 2 + ["b"] * 30), {"validation": 0.45, "test": 0.44})
    assert parts["train"].labels.count("a") == 1


def test_division_is_always_the_same_and_no_training_seed_changes_it(tmp_path: Path) -> None:
    path = labelled_csv(tmp_path / "c.csv")
    jobs = [Job(data=classify_job(path).data, seed=seed) for seed in (0, 1)]
    made = [open_problem(job) for job in jobs]
    assert made[0].digest() == made[1].digest()
    one, other = (problem.batch(1, ALONE)[0].inputs for problem in made)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_division_mixes_the_file_s_order() -> None:
    parts = divided(labelled(["a", "b"] * 50, lengths=list(range(1, 101))), {"validation": 0.2, "test": 0.2})
    places = [len(sequence) for sequence in parts["test"].sequences]
    assert places == sorted(places)
    assert places[0] < 40
    assert places[-1] > 60


def test_too_few_sequences_for_a_part_are_said() -> None:
    with pytest.raises(ValueError, match="made.ts: 4 sequences are too few for a validation part"):
        divided(labelled(["a", "a", "b", "b"]), {"validation": 0.1, "test": 0.1})


def test_class_that_is_in_the_test_part_only_is_refused() -> None:
    train, test = labelled(["a", "b"] * 9), labelled(["a", "c"])
    with pytest.raises(ValueError, match="the class 'c' is in its test part and not in its training part"):
        Classify({"train": train, "validation": train, "test": test}, seed=0, batch_size=4)


def test_one_class_is_refused() -> None:
    one = labelled(["a"] * 9)
    with pytest.raises(ValueError, match="its training part has one class, 'a'"):
        Classify({"train": one, "validation": one, "test": one}, seed=0, batch_size=4)


# What is read


def test_channels_are_scaled_by_the_steps_of_the_training_part() -> None:
    made = problem()
    steps = np.concatenate(made.parts["train"].sequences)
    np.testing.assert_allclose(made.learnt()["mean"], steps.mean(0), rtol=1e-5)
    np.testing.assert_allclose(made.learnt()["std"], steps.std(0), rtol=1e-5)
    for split in ("train", "test"):
        for found, given_ in zip(made.scaled[split], made.parts[split].sequences, strict=True):
            np.testing.assert_allclose(found, (given_ - steps.mean(0)) / steps.std(0), rtol=1e-4, atol=1e-5)


def test_channel_that_never_changes_is_zero() -> None:
    whole = labelled(["a", "b"] * 9)
    for sequence in whole.sequences:
        sequence[:, 1] = 7
    made = Classify({"train": whole, "validation": whole, "test": whole}, seed=0, batch_size=4)
    assert all((sequence[:, 1] == 0).all() for sequence in made.scaled["train"])


def test_batch_is_padded_with_zeros_after_each_sequence_s_end() -> None:
    made = problem()
    batch, count = made.batch(1, ALONE)
    assert count == 8
    assert batch.lengths is not None
    assert len(set(batch.lengths.tolist())) > 1
    assert batch.inputs.shape == (8, int(batch.lengths.max()), 2)
    known = {
        sequence.tobytes(): label
        for sequence, label in zip(made.scaled["train"], made.parts["train"].labels, strict=True)
    }
    for row, length, target in zip(batch.inputs, batch.lengths, batch.targets, strict=True):
        assert (row[length:] == 0).all()
        assert known[row[:length].numpy().tobytes()] == made.classes[target]


def test_padding_changes_no_answer() -> None:
    made = problem()
    model = reader(made)
    sequences = made.scaled["test"]
    inputs, lengths = padded(sequences)
    assert len(set(lengths.tolist())) > 3
    with torch.no_grad():
        together = model(inputs, lengths=lengths)
        for row, sequence in zip(together, sequences, strict=True):
            alone = model(torch.from_numpy(sequence).unsqueeze(0))
            torch.testing.assert_close(row, alone[0], rtol=1e-5, atol=1e-6)


def test_answer_is_read_from_the_mean_of_a_sequence_s_own_states() -> None:
    made = problem()
    model = reader(made)
    batch = next(made.pieces("test", ALONE))
    with torch.no_grad():
        answers, _ = answer(model, batch, None)
        for row, sequence in zip(answers, made.scaled["test"], strict=True):
            hidden, _ = model.recurrent(torch.from_numpy(sequence).unsqueeze(0))
            expected = model.head(torch.stack([hidden[0, step] for step in range(len(sequence))]).mean(0))
            torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-6)


def test_figures_are_the_mean_surprise_and_the_share_that_is_right() -> None:
    made = problem()
    model = reader(made)
    found = made.figures(summed(model, made, "test"))
    surprise, right = [], []
    for sequence, label in zip(made.scaled["test"], made.parts["test"].labels, strict=True):
        with torch.no_grad():
            chances = model(torch.from_numpy(sequence).unsqueeze(0))[0].double().softmax(0)
        surprise.append(-float(chances[made.classes.index(label)].log()))
        right.append(made.classes[int(chances.argmax())] == label)
    assert found["nats"] == pytest.approx(np.mean(surprise), rel=1e-5)
    assert found["accuracy"] == np.mean(right)


# Batches


def test_two_processes_rows_are_the_whole_batch() -> None:
    made = problem()
    whole, count = made.batch(5, ALONE)
    halves = [made.batch(5, Share(part, 2)) for part in range(2)]
    assert [half[1] for half in halves] == [count, count]
    assert whole.lengths is not None
    found: list[torch.Tensor] = []
    for half, _ in halves:
        assert half.lengths is not None
        found += [row[:length] for row, length in zip(half.inputs, half.lengths, strict=True)]
    for row, expected, length in zip(found, whole.inputs, whole.lengths, strict=True):
        assert torch.equal(row, expected[:length])
    assert torch.equal(torch.cat([half.targets for half, _ in halves]), whole.targets)


def test_two_processes_sums_are_those_of_one() -> None:
    whole = labelled(["a", "b"] * 300)
    made = Classify({"train": whole, "validation": whole, "test": whole}, seed=0, batch_size=4)
    model = reader(made)
    parts = [summed(model, made, "test", Share(part, 2)) for part in range(2)]
    assert all(part[2] > 0 for part in parts)
    torch.testing.assert_close(parts[0] + parts[1], summed(model, made, "test"))


def test_a_step_has_the_same_batch_whatever_came_before_and_a_pass_every_sequence_once() -> None:
    one, other = problem(), problem()
    total = len(one.scaled["train"])
    seen: Counter[bytes] = Counter()
    for step in range(1, total // 8 + 1):
        batch = one.batch(step, ALONE)[0]
        assert batch.lengths is not None
        seen.update(row[:n].numpy().tobytes() for row, n in zip(batch.inputs, batch.lengths, strict=True))
    assert set(seen.values()) == {1}
    assert torch.equal(one.batch(4, ALONE)[0].inputs, other.batch(4, ALONE)[0].inputs)


# Real ones


# The test digits are by other hands than those trained on, which takes a larger network and more steps.
@pytest.mark.parametrize(("name", "hidden_size", "steps"), [("vowels", 32, 300), ("digits", 64, 800)])
def test_small_preset_learns_real_classes_in_seconds(name: str, hidden_size: int, steps: int, tmp_path: Path) -> None:
    job = preset("classify", "small", name)
    job = replace(job, network=replace(job.network, hidden_size=hidden_size), budget=replace(job.budget, steps=steps))
    run = trained(job, tmp_path / "run")
    made = open_problem(job)
    assert made.figures(summed(run.model(), made, "test"))["accuracy"] >= 0.9
