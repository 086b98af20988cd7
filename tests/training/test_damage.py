"""A damaged checkpoint is named and costs the steps since the one before; no file of a run is ever executed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from short_trainings import Log, at_step, differing, interrupt, on_cpu, outcome, task_job, text_job, write_texts
from unrolled.jobs import Network
from unrolled.runs import Run, load
from unrolled.training import checkpoints as checkpoints_module
from unrolled.training.checkpoints import Damaged, checkpoints, read_checkpoint, write_checkpoint
from unrolled.training.train import Interrupted

JOB = task_job(Network(hidden_size=3, dropout=0.2))


class Marker:
    """Unpickling one makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def interrupted(folder: Path) -> Path:
    """A run that was stopped at step 13, with checkpoints of steps 12 and 13."""
    with pytest.raises(Interrupted):
        on_cpu(JOB, folder, checkpoint_every=1e-9, display=Log(at_step(13, interrupt)))
    return folder


def two(folder: Path) -> tuple[Path, Path]:
    """The last checkpoint and the one before it."""
    last, before = checkpoints(folder / "checkpoints")
    return last, before


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interrupted(tmp_path_factory.mktemp("damage") / "stopped")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("damage") / "whole"
    on_cpu(JOB, folder)
    return outcome(folder)


@pytest.fixture
def run(tmp_path: Path, stopped: Path) -> Path:
    """A copy of the run that was stopped, to be damaged."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def goes_on_from_step_12(run: Path, whole: dict[str, Any]) -> None:
    last, _ = two(run)
    log = Log()
    on_cpu(JOB, run, resume=True, display=log)
    assert f"{last} is damaged" in log.text
    assert "the one before it is tried" in log.text
    assert "going on from step 12 of 24" in log.text
    assert log.steps[0] == 13
    assert differing(whole, outcome(run)) == []


def test_checkpoint_cut_short_anywhere_is_damaged(tmp_path: Path, stopped: Path) -> None:
    content = two(stopped)[0].read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(Damaged, match=r"cut\.safetensors is damaged \("):
            read_checkpoint(path)


def test_checkpoint_with_any_bit_flipped_is_damaged(tmp_path: Path, stopped: Path) -> None:
    content = bytearray(two(stopped)[0].read_bytes())
    path = tmp_path / "flipped.safetensors"
    # Every byte once, with its eight bits in turn.
    for at in range(len(content)):
        content[at] ^= 1 << at % 8
        path.write_bytes(content)
        content[at] ^= 1 << at % 8
        try:
            read_checkpoint(path)
        except Damaged as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            pytest.fail(f"bit {at % 8} of byte {at} was flipped, and it was not seen")


def test_checkpoint_with_more_after_its_end_is_damaged(tmp_path: Path, stopped: Path) -> None:
    path = tmp_path / "longer.safetensors"
    path.write_bytes(two(stopped)[0].read_bytes() + b"\0")
    with pytest.raises(Damaged):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_last_checkpoint_cut_short_costs_the_steps_since_the_one_before(
    run: Path, whole: dict[str, Any], share: float
) -> None:
    last, _ = two(run)
    content = last.read_bytes()
    last.write_bytes(content[: int(share * len(content))])
    goes_on_from_step_12(run, whole)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_last_checkpoint_with_a_changed_byte_costs_the_steps_since_the_one_before(
    run: Path, whole: dict[str, Any], share: float
) -> None:
    last, _ = two(run)
    content = bytearray(last.read_bytes())
    content[int(share * len(content))] ^= 0x10
    last.write_bytes(content)
    goes_on_from_step_12(run, whole)


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"not a checkpoint",
        b"\0" * 5000,
        save({"model/head.weight": torch.ones(3)}),
        save({"losses": torch.ones(1)}, metadata={"unrolled": "{}", "sha256": "0" * 64}),
    ],
    ids=["empty", "text", "zeros", "other weights", "wrong digest"],
)
def test_another_file_in_place_of_the_last_checkpoint_is_no_checkpoint(
    run: Path, whole: dict[str, Any], other: bytes
) -> None:
    two(run)[0].write_bytes(other)
    goes_on_from_step_12(run, whole)


def test_folder_in_place_of_the_last_checkpoint_is_no_checkpoint(run: Path) -> None:
    last, _ = two(run)
    last.unlink()
    last.mkdir()
    with pytest.raises(Damaged, match="is damaged"):
        read_checkpoint(last)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_in_place_of_a_checkpoint_is_not_executed(
    tmp_path: Path, run: Path, whole: dict[str, Any], zipped: bool
) -> None:
    executed = tmp_path / "executed"
    torch.save({"model": Marker(executed)}, two(run)[0], _use_new_zipfile_serialization=zipped)
    goes_on_from_step_12(run, whole)
    assert not executed.exists()
    # The file would have done it.
    torch.save({"model": Marker(executed)}, tmp_path / "pickle", _use_new_zipfile_serialization=zipped)
    torch.load(tmp_path / "pickle", weights_only=False)
    assert executed.exists()


def test_pickle_in_place_of_the_weights_is_not_executed(tmp_path: Path, run: Path) -> None:
    executed = tmp_path / "executed"
    torch.save({"model": Marker(executed)}, run / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        load(run)
    assert not executed.exists()


def test_with_both_checkpoints_damaged_it_is_said_what_to_do(run: Path) -> None:
    for path in two(run):
        path.write_bytes(b"")
    log = Log()
    with pytest.raises(ValueError, match=f"no checkpoint in {run / 'checkpoints'} can be read; delete {run} to start"):
        on_cpu(JOB, run, resume=True, display=log)
    assert log.text.count("is damaged") == 2


def test_after_a_damaged_checkpoint_two_whole_ones_are_kept_as_ever(run: Path) -> None:
    last, _ = two(run)
    late = last.with_name("step-000000020.safetensors")
    last.rename(late)
    late.write_bytes(b"")
    with pytest.raises(Interrupted):
        on_cpu(JOB, run, resume=True, checkpoint_every=1e-9, display=Log(at_step(15, interrupt)))
    assert [read_checkpoint(path).step for path in two(run)] == [15, 14]
    assert load(run, weights="last") is not None


def test_checkpoint_of_another_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints_module, "FORMAT", 99)
        folder = interrupted(tmp_path / "run")
    with pytest.raises(Damaged, match="is of format 99, and this version reads 1"):
        read_checkpoint(two(folder)[0])


@pytest.mark.parametrize(
    "content", [b"", b'{"format": 1', b"[]", b"{}", b'{"format": 1}', b'{"format": 1, "job": 3}', b"\xff", b"\x80\x04."]
)
def test_damaged_config_is_named(run: Path, content: bytes) -> None:
    (run / "config.json").write_bytes(content)
    for use in (lambda: on_cpu(JOB, run, resume=True), lambda: load(run)):
        with pytest.raises(ValueError, match=r"config\.json") as caught:
            use()
        assert str(run / "config.json") in str(caught.value)


def test_config_without_an_entry_is_said_to_lack_it(run: Path) -> None:
    (run / "config.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match=r"config\.json has no 'job'"):
        load(run)


def test_config_of_another_format_is_named(run: Path) -> None:
    path = run / "config.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match=r"config\.json is of format 99, and this version reads 1"):
        load(run)


@pytest.mark.parametrize(
    "end", [b'{"step": 13, "lo', b"{", b"\n", b"\0\0\0", b'{"step": 13, "\xff'], ids=["half", "1", "empty", "0", "ff"]
)
def test_half_a_line_of_metrics_is_passed_over_and_written_anew(run: Path, whole: dict[str, Any], end: bytes) -> None:
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(end)
    assert [row["step"] for row in Run.open(run).metrics()] == [6, 12]
    on_cpu(JOB, run, resume=True)
    assert differing(whole, outcome(run)) == []


def test_a_checkpoint_written_again_holds_the_same_bit_for_bit(tmp_path: Path) -> None:
    job = text_job(write_texts(tmp_path / "texts"), Network(hidden_size=4, embedding_size=2), optimizer="sgd")
    with pytest.raises(Interrupted):
        on_cpu(job, tmp_path / "run", display=Log(at_step(7, interrupt)))
    path = checkpoints(tmp_path / "run" / "checkpoints")[0]
    state = read_checkpoint(path)
    assert state.losses.shape == (1, 1)
    assert len(state.carried) == 2
    assert state.carried[0].shape == (1, 8, 4)
    with safe_open(path, "pt") as one, safe_open(write_checkpoint(tmp_path / "again", state), "pt") as other:
        assert one.metadata() == other.metadata()
        assert set(one.keys()) == set(other.keys())
        assert all(torch.equal(one.get_tensor(name), other.get_tensor(name)) for name in one.keys())  # noqa: SIM118
