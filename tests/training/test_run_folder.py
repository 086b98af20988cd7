"""One folder, one run: what is there is not overwritten, mixed up or used by two at a time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from short_trainings import (
    Log,
    at_step,
    differing,
    interrupt,
    longer,
    on_cpu,
    outcome,
    task_job,
    text_job,
    undisturbed,
    write_texts,
)
from unrolled.jobs import Job, Network
from unrolled.locks import FolderInUse, only_one
from unrolled.model import SequenceModel
from unrolled.runs import Run, load, plain
from unrolled.training.checkpoints import checkpoints
from unrolled.training.train import Interrupted


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def test_run_has_the_files_that_are_promised(tmp_path: Path) -> None:
    run = on_cpu(task_job(), tmp_path / "run")
    assert run.folder == tmp_path / "run"
    assert set(contents(run.folder)) == {
        "config.json",
        "fit.json",
        "metrics.jsonl",
        "weights.safetensors",
        "checkpoints/step-000000024.safetensors",
    }


def test_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    run = on_cpu(task_job(), tmp_path / "run", checkpoint_every=1e-9)
    assert [path.name for path in checkpoints(run.checkpoints)] == [
        "step-000000024.safetensors",
        "step-000000023.safetensors",
    ]


def test_run_opened_again_is_the_one_that_was_made(tmp_path: Path) -> None:
    for job in (task_job(), text_job(write_texts(tmp_path / "texts"), patience=3, seconds=1e6)):
        run = on_cpu(job, tmp_path / job.kind)
        assert Run.open(run.folder) == run
        assert run.job == job


def test_folder_with_a_run_is_refused_without_resume_and_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        on_cpu(task_job(), tmp_path / "run", display=Log(at_step(7, interrupt)))
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match=f"{tmp_path / 'run'} holds a run already; --resume goes on with it, or give"):
        on_cpu(task_job(), tmp_path / "run")
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 4}, "seed was 3 and is now 4"),
        ({"precision": "bf16-mixed"}, "precision was '32-true' and is now 'bf16-mixed'"),
        ({"network": Network(hidden_size=9, dropout=0.2)}, "hidden_size was 8 and is now 9"),
        ({"budget": task_job(learning_rate=0.5).budget}, "learning_rate was 0.003 and is now 0.5"),
        ({"budget": task_job(patience=2).budget}, "patience was None and is now 2"),
        (
            {"network": Network(hidden_size=9, dropout=0.2), "seed": 4},
            "hidden_size was 8 and is now 9; seed was 3 and is now 4",
        ),
        ({"data": task_job(path="adding:length=11").data}, "path was 'adding:length=10' and is now 'adding:length=11'"),
    ],
)
def test_other_options_are_named_with_what_they_were_and_are(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(Interrupted):
        on_cpu(task_job(), tmp_path / "run", display=Log(at_step(7, interrupt)))
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run of other options: ") as caught:
        on_cpu(dataclasses.replace(task_job(), **change), tmp_path / "run", resume=True)
    assert f"other options: {said}; give the same, or another folder" in str(caught.value)
    assert contents(tmp_path / "run") == before


def test_another_kind_of_work_in_the_folder_is_refused(tmp_path: Path) -> None:
    on_cpu(task_job(), tmp_path / "run")
    with pytest.raises(ValueError, match="kind was 'task' and is now 'text'"):
        on_cpu(text_job(write_texts(tmp_path / "texts")), tmp_path / "run", resume=True)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_data_that_have_changed_are_refused(tmp_path: Path, part: str) -> None:
    texts = write_texts(tmp_path / "texts", documents=1)
    on_cpu(text_job(texts), tmp_path / "run")
    path = texts / "0.txt"
    text = path.read_text()
    at = {"train": 10, "validation": int(0.85 * len(text)), "test": len(text) - 10}[part]
    path.write_text(text[:at] + "#" + text[at + 1 :])
    with pytest.raises(ValueError, match=f"{tmp_path / 'run'} was started with other data than are there now"):
        on_cpu(text_job(texts), tmp_path / "run", resume=True)


def test_finished_run_is_gone_on_with_by_doing_nothing(tmp_path: Path) -> None:
    on_cpu(task_job(), tmp_path / "run")
    before = contents(tmp_path / "run")
    log = Log()
    assert on_cpu(task_job(), tmp_path / "run", resume=True, display=log).finished
    assert log.steps == []
    assert "is finished already" in log.text
    assert contents(tmp_path / "run") == before


def test_resume_in_a_folder_without_a_run_begins_one(tmp_path: Path) -> None:
    whole = undisturbed(task_job(), tmp_path / "whole")
    (tmp_path / "there").mkdir()
    for name in ("there", "not-there"):
        on_cpu(task_job(), tmp_path / name, resume=True)
        assert differing(whole, outcome(tmp_path / name)) == []


def test_resume_of_a_run_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    whole = undisturbed(task_job(), tmp_path / "whole")

    def lose() -> None:
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        on_cpu(task_job(), tmp_path / "run", display=Log(at_step(20, lose)))
    on_cpu(task_job(), tmp_path / "run", resume=True)
    assert differing(whole, outcome(tmp_path / "run")) == []


def test_folder_that_is_locked_is_refused(tmp_path: Path) -> None:
    with only_one(tmp_path / "run", "training run"), pytest.raises(FolderInUse, match="is in use by a training run"):
        on_cpu(task_job(), tmp_path / "run")
    assert on_cpu(task_job(), tmp_path / "run").finished


def test_a_lost_temporary_file_is_swept_away(tmp_path: Path) -> None:
    left = tmp_path / "run" / "checkpoints" / ".step-000000003.safetensors.abc.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    on_cpu(task_job(), tmp_path / "run")
    assert not left.exists()


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_time_between_checkpoints_must_be_above_zero(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="checkpoint_every: must be above 0 seconds, given"):
        on_cpu(task_job(), tmp_path / "run", checkpoint_every=value)
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_read_leave_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        on_cpu(text_job(tmp_path / "nowhere"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_loaded_network_is_that_of_the_best_validation_or_the_last_step(tmp_path: Path) -> None:
    # So high a learning rate that the last validation is not the best.
    job = task_job(learning_rate=0.5, steps=60, clip=100.0)
    run = on_cpu(job, tmp_path / "run")
    found = outcome(run.folder)
    assert found["best_step"] < 60
    for weights, part in (("best", "best"), ("last", "model")):
        model = load(run.folder, weights=weights)  # type: ignore[arg-type]
        assert isinstance(model, SequenceModel)
        assert not model.training
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, found[f"{part}/{name}"])
    assert not torch.equal(found["best/head.weight"], found["model/head.weight"])


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    on_cpu(task_job(), tmp_path / "run")
    before = torch.get_rng_state()
    load(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_there_is_none_of_yet_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no training run \(it has no config.json\)"):
        load(tmp_path)
    with pytest.raises(RuntimeError, match="lost"):
        on_cpu(task_job(), tmp_path / "run", display=Log(at_step(1, _lose)))
    with pytest.raises(FileNotFoundError, match="has no weights yet"):
        load(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        load(tmp_path / "run", weights="last")
    with pytest.raises(ValueError, match="weights: given 'worst', expected 'best' or 'last'"):
        load(tmp_path / "run", weights="worst")  # type: ignore[arg-type]


def _lose() -> None:
    raise RuntimeError("lost")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    one = on_cpu(task_job(), tmp_path / "one")
    other = on_cpu(task_job(Network(hidden_size=5)), tmp_path / "other")
    one.weights.write_bytes(other.weights.read_bytes())
    with pytest.raises(ValueError, match=r"weights\.safetensors holds the weights of another network than config.json"):
        load(one.folder)


def test_metrics_are_json_without_nan(tmp_path: Path) -> None:
    run = on_cpu(task_job(), tmp_path / "run")
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(run.metrics())
    assert [row["step"] for row in rows] == [6, 12, 18, 24]
    assert {"step", "steps", "loss", "value", "best", "seconds", "figures"} == set(rows[0])
    assert plain({"a": float("nan"), "b": {"c": float("inf"), "d": 1}}) == {"a": None, "b": {"c": None, "d": 1}}


def test_jobs_come_back_from_json(tmp_path: Path) -> None:
    for job in (task_job(), text_job(tmp_path), longer(task_job(), patience=2, seconds=3.5)):
        assert Job.from_json(json.loads(json.dumps(job.as_json()))) == job


def test_importing_jobs_and_budgets_does_not_import_torch() -> None:
    code = "import sys, unrolled.jobs, unrolled.budget; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
