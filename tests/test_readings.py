"""What was read, in the file beside a recording, and what it means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unrolled.meanings import Meaning, one_hot_symbols
from unrolled.readings import Reading, joined
from unrolled.tasks import parse
from unrolled.tasks.task import Batch

# A lone surrogate is a character of some texts, and JSON has to bring it back.
MEANING = Meaning(
    kind="text", title="a", loss="classes", outputs=("\f", "\ud800"), signs="\f\ud800", names={"class": ("x", "y")}
)


def test_file_gives_back_all_that_was_written_and_labels_in_their_order(tmp_path: Path) -> None:
    whole = Reading(
        inputs=torch.tensor([[0, 1]]),
        targets=torch.tensor([[1, 0]]),
        scored=torch.tensor([[True, False]]),
        lengths=torch.tensor([2]),
        reset=torch.tensor([[True, False]]),
        symbols=torch.tensor([[0, 1]]),
        values=torch.tensor([[[float("nan")], [1.5]]]),
        times=torch.tensor([[0, 3_600_000_000_000]]),
        labels={"z": torch.tensor([[0, -1]]), "a": torch.tensor([[5, 6]])},
        meaning=MEANING,
        weights="ab12",
    )
    found = Reading.read(whole.write(tmp_path / "r.safetensors"))
    assert (found.meaning, found.weights, list(found.labels)) == (MEANING, "ab12", ["z", "a"])
    for name in ("inputs", "targets", "scored", "lengths", "reset", "symbols", "values", "times"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), equal_nan=True, rtol=0, atol=0)
    assert found.labels["a"].tolist() == [[5, 6]]


def test_file_of_tensors_alone_is_read(tmp_path: Path) -> None:
    save_file({"inputs": torch.zeros(1, 2, 3), "other": torch.zeros(1)}, tmp_path / "r.safetensors")
    found = Reading.read(tmp_path / "r.safetensors")
    assert found.inputs.shape == (1, 2, 3)
    assert (found.meaning, found.weights, found.labels) == (None, None, {})


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("{", "does not tell"),
        ("[]", "does not tell"),
        ('{"format": 9}', "format 9, and this version reads 1"),
        ('{"format": 1, "weights": null, "labels": [], "meaning": {"outputs": [], "channels": []}}', "does not tell"),
        ('{"format": 1, "weights": null, "labels": [], "meaning": 7}', "does not tell"),
    ],
    ids=["cut", "list", "format", "half", "number"],
)
def test_file_that_tells_nonsense_is_refused_by_name(told: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "r.safetensors"
    save_file({"inputs": torch.zeros(1, 2)}, path, metadata={"unrolled": told})
    with pytest.raises(ValueError, match=f"r.safetensors does not tell .*{said if said != 'does not tell' else ''}"):
        Reading.read(path)


def test_file_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "r.safetensors"
    with pytest.raises(FileNotFoundError, match=r"r\.safetensors"):
        Reading.read(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"r\.safetensors is damaged"):
        Reading.read(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no tensor named inputs; it has x"):
        Reading.read(path)


def test_pieces_are_joined_along_time_and_marks_become_labels() -> None:
    def piece(start: int) -> Batch:
        at = torch.arange(start, start + 2).expand(3, -1)
        there = torch.ones(3, 2, dtype=torch.bool)
        return Batch(inputs=at, targets=at + 1, scored=there, labels={"n": at}, marks={"store": at == 1}, symbols=at)

    found = joined([piece(0), piece(2)])
    assert found.inputs[1].tolist() == [0, 1, 2, 3]
    assert found.labels["n"][2].tolist() == [0, 1, 2, 3]
    assert found.labels["store"][0].tolist() == [0, 1, 0, 0]
    assert found.lengths is None


def test_rows_of_a_batch_keep_what_is_true_of_them() -> None:
    batch = parse("recall:lag=3").batch(5, seed=0)
    some = batch.rows(slice(1, 3))
    for name in ("inputs", "targets", "scored", "symbols"):
        assert torch.equal(getattr(some, name), getattr(batch, name)[1:3])
    assert torch.equal(some.labels["cue"], batch.labels["cue"][1:3])
    assert torch.equal(some.marks["store"], batch.marks["store"][1:3])


def test_symbols_of_one_hot_inputs_are_found_and_of_others_not() -> None:
    inputs = torch.eye(4)[None]
    found = one_hot_symbols(inputs)
    assert found is not None
    assert found.tolist() == [[0, 1, 2, 3]]
    assert one_hot_symbols(inputs + torch.eye(4).flip(0)) is None
    assert one_hot_symbols(0.5 * inputs) is None
    assert one_hot_symbols(torch.zeros(1, 4, dtype=torch.int64)) is None
    assert one_hot_symbols(torch.full((1, 2, 2), np.nan)) is None


@pytest.mark.parametrize(
    ("spec", "outputs", "loss"),
    [
        ("recall:lag=3,symbols=2", ("A", "B"), "classes"),
        ("copy:lag=3,symbols=2", ("A", "B", "·"), "classes"),
        ("adding:length=9", ("sum",), "values"),
    ],
)
def test_meaning_of_a_task_names_its_outputs(spec: str, outputs: tuple[str, ...], loss: str) -> None:
    found = Meaning.of_task(parse(spec), title="t")
    assert (found.outputs, found.loss, found.readout) == (outputs, loss, "every")
