"""What a path is: a recording, a run or a study; and what is told of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import unrolled
from unrolled import compare
from unrolled.model import SequenceModel
from unrolled.plans import plan
from unrolled.recording_of_run import beside
from unrolled.runs import Run
from unrolled.study import load
from unrolled.viewer.opening import StudyFolder, open_path
from unrolled.viewer.recorded import Characters, Recorded, Values
from viewed import SOURCE, make_runs, write_study

KINDS = ["text", "series", "classify", "task"]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a run of every kind that was trained for a moment, and a study."""
    place = tmp_path_factory.mktemp("viewed")
    make_runs(place)
    studied(place / "study", place / "files")
    return place


def studied(folder: Path, files: Path) -> None:
    """A study of two untrained networks, of which nothing was measured."""
    files.mkdir()
    for number in range(40):
        (files / f"{number}.py").write_text(SOURCE * 12)
    plans = plan(["recall:lag=1-3", f"code:length=9,path={files}"], ["gru"], 1, parameters=2000, steps=1)
    write_study(folder, plans)


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A text run that a test may spoil."""
    return Path(shutil.copytree(made / "text", tmp_path / "run"))


def opened(path: Path, told: list[str] | None = None, **options: Path) -> Recorded:
    said: list[str] = []
    found = open_path(path, tell=said.append, **options)
    assert isinstance(found, Recorded)
    if told is not None:
        told += said
    return found


# runs


@pytest.mark.parametrize("kind", KINDS)
def test_run_without_a_recording_is_recorded_once(kind: str, made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / kind, tmp_path / "run"))
    told: list[str] = []
    first = opened(run, told)
    assert told == [f"recording {run} over a part of its test data", f"recorded in {run / 'trace.zarr'}"]
    assert first.path == run / "trace.zarr"
    assert not list(run.glob(".recording-*"))
    again: list[str] = []
    second = opened(run, again)
    assert again == []
    assert second.shape == first.shape
    assert first.inputs is not None
    assert second.inputs is not None
    assert torch.equal(first.inputs, second.inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_states_are_those_of_the_network_on_the_inputs(kind: str, made: Path, tmp_path: Path) -> None:
    found = opened(Path(shutil.copytree(made / kind, tmp_path / "run")))
    assert found.model is not None
    assert found.inputs is not None
    model = found.model()
    assert not model.training
    lengths = torch.tensor(found.lengths) if kind == "classify" else None
    with torch.no_grad(), unrolled.record(model) as plain:
        given = model(found.inputs, lengths=lengths, reset=found.reset)
    assert sorted(found.trace) == sorted(plain)
    for name in plain:
        torch.testing.assert_close(found.trace[name], plain[name], rtol=1e-5, atol=1e-6)
    assert given.size(-1) == len(found.outputs)
    assert found.readout == ("mean" if kind == "classify" else "every")


def test_text_is_shown_as_text_with_what_the_tokenizer_knows(made: Path, tmp_path: Path) -> None:
    found = opened(Path(shutil.copytree(made / "text", tmp_path / "run")))
    assert isinstance(found.read, Characters)
    (text,) = found.read.texts
    # Cut by position near a line end: the last documents' ends, with a boundary before each.
    assert text.startswith("\f")
    assert "<script>" in text
    assert found.reset is not None
    assert [at for at, c in enumerate(text) if c == "\f"] == found.reset[0].nonzero().flatten().tolist()
    string = found.label("in_string").values[0]
    assert [label.name for label in found.labels] == [
        "in_string",
        "in_comment",
        "bracket_depth",
        "indentation",
        "column",
    ]
    at = text.index('"""Say')
    end = text.index('"""', at + 3) + 3
    assert string[at:end].tolist() == [1] * (end - at)
    assert string[at - 1] == string[end] == 0
    assert found.outputs[:2] == ("\f", "\ufffd")
    assert found.targets is not None
    assert "".join(found.outputs[target] for target in found.targets[0, :-1].tolist()) == text[1:]


def test_series_are_shown_in_their_own_units_with_times_and_changes_to_answer(made: Path, tmp_path: Path) -> None:
    found = opened(Path(shutil.copytree(made / "series", tmp_path / "run")))
    assert isinstance(found.read, Values)
    assert found.read.channels == ("y",)
    assert found.read.times is not None
    start = (np.datetime64(found.read.times[0][0]) - np.datetime64("2024-01-01T00")) // np.timedelta64(1, "h")
    np.testing.assert_allclose(found.read.values[0, :, 0], 20 + np.sin((start + np.arange(8)) / 5), atol=1e-3)
    assert found.read.times[0][0].count(":") == 1
    assert (found.outputs, found.loss) == (("y +1", "y +2", "y +3"), "values")
    assert found.targets is not None
    assert found.inputs is not None
    # The change to the next value is what the next step reads, less this one.
    torch.testing.assert_close(
        found.targets[:, :-1, 0], found.inputs[:, 1:, 0] - found.inputs[:, :-1, 0], atol=1e-5, rtol=0
    )
    assert found.labels == ()


def test_classes_have_names_and_lengths(made: Path, tmp_path: Path) -> None:
    found = opened(Path(shutil.copytree(made / "classify", tmp_path / "run")))
    assert (found.outputs, found.loss, found.readout) == (("<b>right", "left"), "classes", "mean")
    assert found.label("class").names == ("<b>right", "left")
    assert found.targets is not None
    for row, (length, target) in enumerate(zip(found.lengths, found.targets.tolist(), strict=True)):
        assert found.label("class").values[row, :length].tolist() == [target] * length
        assert (found.label("class").values[row, length:] == -1).all()
    assert isinstance(found.read, Values)
    assert abs(found.read.values[0, :5, 0] - 100).max() < 6


def test_task_is_shown_as_signs_with_its_labels_and_marks(made: Path, tmp_path: Path) -> None:
    found = opened(Path(shutil.copytree(made / "task", tmp_path / "run")))
    assert isinstance(found.read, Characters)
    assert {text[-1] for text in found.read.texts} == {"?"}
    assert all(text[0].isupper() and text[1:-1].islower() for text in found.read.texts)
    assert {label.name for label in found.labels} == {"cue", "store", "load"}
    cue = found.label("cue")
    assert cue.names is not None
    assert [cue.names[value] for value in cue.values[:, -1]] == [text[0] for text in found.read.texts]
    assert found.targets is not None
    # Only the query is to be answered.
    assert (found.targets[:, :-1] == -1).all()
    assert [found.outputs[target] for target in found.targets[:, -1].tolist()] == [text[0] for text in found.read.texts]


def test_recording_of_older_weights_is_left_and_another_is_made(copied: Path) -> None:
    first = opened(copied)
    weights = Run.open(copied).model().state_dict()
    save_file({name: tensor + 0.5 for name, tensor in weights.items()}, copied / "weights.safetensors")
    told: list[str] = []
    second = opened(copied, told)
    assert told[0] == f"{copied / 'trace.zarr'} was recorded with other weights than the run has now"
    assert second.path == copied / "view.zarr"
    name = next(iter(first.trace))
    assert not torch.equal(first.trace[name], second.trace[name])
    # What was made for looking is replaced, and what the user recorded still stands.
    save_file({name: tensor - 0.5 for name, tensor in weights.items()}, copied / "weights.safetensors")
    third = opened(copied)
    assert third.path == copied / "view.zarr"
    assert not torch.equal(third.trace[name], first.trace[name])
    assert unrolled.Trace.load(copied / "trace.zarr")[name].shape == first.trace[name].shape
    assert sorted(path.name for path in copied.glob("*.zarr")) == ["trace.zarr", "view.zarr"]


def cut_off(model: torch.nn.Module, path: Path) -> None:
    with torch.no_grad(), unrolled.record(model, to=path):
        model(torch.zeros(1, 30, dtype=torch.int64))
        raise KeyboardInterrupt


def test_unfinished_recording_of_a_run_is_left_and_another_is_made(copied: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cut_off(Run.open(copied).model(), copied / "trace.zarr")
    told: list[str] = []
    found = opened(copied, told)
    assert told[0] == f"{copied / 'trace.zarr'} was cut off, or is still being written"
    assert found.path == copied / "view.zarr"
    # Given itself, it is shown as far as it goes.
    told = []
    part = opened(copied / "trace.zarr", told)
    assert part.shape == (1, 30)
    assert "its first 30 steps are shown" in told[0]


def test_run_in_a_folder_that_cannot_be_written_is_recorded_in_memory(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("unrolled.viewer.opening.paths.tempfile.mkdtemp", refuse)
    before = sorted(path.name for path in copied.iterdir())
    told: list[str] = []
    found = opened(copied, told)
    assert found.path is None
    assert found.trace["recurrent.l0.cell"].isfinite().all()
    assert "in memory" in told[-1]
    assert sorted(path.name for path in copied.iterdir()) == before


def test_run_whose_recording_fails_is_left_as_it_was(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unrolled.recording_of_run.answer", stop)
    before = sorted(path.name for path in copied.iterdir())
    with pytest.raises(KeyboardInterrupt):
        open_path(copied)
    assert sorted(path.name for path in copied.iterdir()) == before


def test_run_whose_data_have_changed_meaning_is_refused(copied: Path, tmp_path: Path) -> None:
    source = Path(Run.open(copied).job.data.path)
    other = Path(shutil.copytree(source, tmp_path / "other"))
    for path in other.iterdir():
        path.write_text(path.read_text().replace("f", "g") + "été")
    config = (copied / "config.json").read_text().replace(str(source), str(other))
    (copied / "config.json").write_text(config)
    with pytest.raises(ValueError, match="was trained on other data"):
        open_path(copied)


def test_run_without_weights_says_so(copied: Path) -> None:
    (copied / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights yet"):
        open_path(copied)


# recordings


@pytest.mark.parametrize("kind", KINDS)
def test_recording_that_was_moved_away_from_its_run_is_shown_as_before(kind: str, made: Path, tmp_path: Path) -> None:
    whole = opened(Path(shutil.copytree(made / kind, tmp_path / "run")))
    away = tmp_path / "away"
    away.mkdir()
    assert whole.path is not None
    shutil.move(whole.path, away / "t.zarr")
    shutil.move(beside(whole.path), away / "t.inputs.safetensors")
    shutil.rmtree(tmp_path / "run")
    told: list[str] = []
    found = opened(away / "t.zarr", told)
    assert told == []
    assert found.model is None
    assert (found.title, found.lengths, found.outputs) == (whole.title, whole.lengths, whole.outputs)
    assert [label.name for label in found.labels] == [label.name for label in whole.labels]
    if isinstance(whole.read, Characters):
        assert found.read == whole.read
    else:
        assert isinstance(found.read, Values)
        assert isinstance(whole.read, Values)
        np.testing.assert_array_equal(found.read.values, whole.read.values)
        assert found.read.times == whole.read.times
    assert found.targets is not None
    assert whole.targets is not None
    torch.testing.assert_close(found.targets, whole.targets, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_older_file_of_inputs_is_read_with_the_run_that_lies_beside(kind: str, made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / kind, tmp_path / "run"))
    whole = opened(run)
    assert whole.path is not None
    from safetensors.torch import load_file

    tensors = load_file(beside(whole.path))
    kept = {name: tensor for name, tensor in tensors.items() if name in ("inputs", "targets", "lengths")}
    save_file(kept, beside(whole.path))
    os.utime(whole.path / "zarr.json")
    found = opened(run / "trace.zarr")
    assert found.outputs == whole.outputs
    assert found.model is not None
    if isinstance(whole.read, Characters):
        assert found.read == whole.read
    else:
        assert isinstance(found.read, Values)
        assert isinstance(whole.read, Values)
        np.testing.assert_array_equal(found.read.values, whole.read.values)
    if kind == "classify":
        np.testing.assert_array_equal(found.label("class").values, whole.label("class").values)


def saved(path: Path, steps: int = 6) -> tuple[torch.Tensor, Path]:
    model, inputs = unrolled.LSTM(2, 3, batch_first=True), torch.randn(1, steps, 2)
    with torch.no_grad(), unrolled.record(model) as trace:
        model(inputs)
    return inputs, trace.save(path)


def test_recording_alone_is_shown_and_what_is_not_known_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    found = opened(saved(tmp_path / "t.zarr")[1], told)
    assert (found.read, found.model, found.lengths, found.title) == (None, None, (6,), "t.zarr")
    assert told[-1].endswith("there is no t.inputs.safetensors of it; --inputs or --text gives it")


def test_recording_is_shown_with_the_text_and_the_inputs_that_are_given(tmp_path: Path) -> None:
    inputs, path = saved(tmp_path / "t.zarr")
    (tmp_path / "t.txt").write_text("<b>é\n!\n")
    np.save(tmp_path / "x.npy", inputs.numpy())
    found = opened(path, text=tmp_path / "t.txt")
    assert found.read == Characters(("<b>é\n!",))
    found = opened(path, inputs=tmp_path / "x.npy")
    assert isinstance(found.read, Values)
    assert found.inputs is not None
    assert torch.equal(found.inputs, inputs)
    both = opened(path, inputs=tmp_path / "x.npy", text=tmp_path / "t.txt")
    assert both.read == Characters(("<b>é\n!",))
    assert both.inputs is not None


def test_inputs_of_another_recording_are_refused(tmp_path: Path) -> None:
    _, path = saved(tmp_path / "t.zarr")
    np.save(tmp_path / "x.npy", np.zeros((1, 7, 2), np.float32))
    with pytest.raises(ValueError, match="inputs: 1 x 7 steps were read, and 1 x 6 were recorded"):
        open_path(path, inputs=tmp_path / "x.npy")


def test_recording_with_other_weights_than_its_run_has_no_network(copied: Path) -> None:
    path = opened(copied).path
    assert path is not None
    weights = Run.open(copied).model().state_dict()
    save_file({name: tensor + 0.5 for name, tensor in weights.items()}, copied / "weights.safetensors")
    told: list[str] = []
    found = opened(path, told)
    assert found.model is None
    assert "was recorded with other weights" in told[0]


def test_recording_of_one_state_only_is_shown(copied: Path) -> None:
    from unrolled.cli import main

    assert main(["record", str(copied), "--names", "*.hidden", "--steps", "50"]) == 0
    assert list(opened(copied).trace) == ["recurrent.l0.hidden"]


# studies


def test_study_is_its_networks_each_recorded_when_it_is_asked_for(made: Path) -> None:
    found = open_path(made / "study")
    assert isinstance(found, StudyFolder)
    assert [title.partition(",")[0] for title in found.titles()] == ["recall:lag=1-3 GRU seed 0", "code:length=9"]
    recall, code = found.recorded(0), found.recorded(1)
    # The longest lag.
    assert recall.shape == (32, 5)
    assert isinstance(recall.read, Characters)
    assert {text[-1] for text in recall.read.texts} == {"?"}
    # No file is as long as 4,000 characters.
    assert code.shape == (1, 500)
    assert isinstance(code.read, Characters)
    assert [label.name for label in code.labels][:2] == ["in_string", "in_comment"]
    for one in (recall, code):
        assert one.model is not None
        assert one.inputs is not None
        model = one.model()
        assert isinstance(model, SequenceModel)
        with torch.no_grad(), unrolled.record(model) as plain:
            model(one.inputs)
        for name in plain:
            torch.testing.assert_close(one.trace[name], plain[name])
    for index in (-1, 2):
        with pytest.raises(IndexError, match="the study has 2"):
            found.recorded(index)


def test_loaded_study_is_what_compare_returned(made: Path, tmp_path: Path) -> None:
    whole = compare("recall:lag=3", cells=["rnn", "lstm"], steps=2, seeds=2, parameters=300, jobs=1, folder=tmp_path)
    found = load(tmp_path)
    assert (found.folder, found.plans, found.runs) == (whole.folder, whole.plans, whole.runs)
    assert repr(found.claims) == repr(whole.claims)
    ours, theirs = (study.model(study.runs[1]).state_dict() for study in (found, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_unfinished_study_names_the_runs_that_are_missing(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made / "study", tmp_path / "study"))
    next(folder.glob("runs/code*/run.json")).unlink()
    said = r"unfinished study: 1 of 2 runs are missing \(code:length=9,.* GRU seed 0\)"
    with pytest.raises(ValueError, match=said):
        load(folder)
    with pytest.raises(ValueError, match=said):
        open_path(folder)


def test_folder_without_a_study_or_with_a_damaged_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no study"):
        load(tmp_path)
    for written in ('{"plans": [{"setting": "x"}]}', '{"plans": 3}', "{}"):
        (tmp_path / "plan.json").write_text(written)
        with pytest.raises(ValueError, match="does not hold the plans of a study"):
            load(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json is damaged"):
        load(tmp_path)


# neither


def test_path_that_is_nothing_of_these_says_what_it_is(made: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        open_path(tmp_path / "not")
    with pytest.raises(ValueError, match="is empty; expected a recording"):
        open_path(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match="is a file; expected"):
        open_path(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"holds a\.txt; expected"):
        open_path(tmp_path)
    with pytest.raises(ValueError, match="holds the runs classify, series, task, text, of which one is to be given"):
        open_path(made)
    one = next((made / "study" / "runs").iterdir())
    with pytest.raises(ValueError, match="is one run of the study in .*study, which is to be given"):
        open_path(one)


def test_inputs_and_text_are_for_recordings(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--text: is for a recording"):
        open_path(made / "text", text=tmp_path / "t")
    with pytest.raises(ValueError, match="--inputs: is for a recording"):
        open_path(made / "study", inputs=tmp_path / "t")
