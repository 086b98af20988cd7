"""What is sampled to be looked at says what is true of it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch

from small_runs import classify_job, csv_of, labelled_csv, series_job, text_job
from unrolled.meanings import Meaning, own_units
from unrolled.problems.classify import Classify
from unrolled.problems.opening import open_problem
from unrolled.problems.problem import evenly
from unrolled.problems.series import Series, Windows
from unrolled.problems.text import Text
from unrolled.readings import joined
from unrolled.runs import Run
from unrolled.tasks.source_labels import label

SOURCE = 'x = ["#", 1]  # the \'end\n\n\ndef f():\n    """Says\n    nothing."""\n    return (x)\n'


def text(folder: Path, **files: str) -> Text:
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    problem = open_problem(text_job(str(folder)))
    assert isinstance(problem, Text)
    return problem


def test_labels_of_source_are_those_of_each_character_and_none_at_boundaries(tmp_path: Path) -> None:
    problem = text(tmp_path, **{f"f{number}_py": SOURCE * 5 for number in range(3)})
    read = joined(list(problem.sample("train", 1)))
    assert set(read.labels) == set(label(SOURCE))
    shown = problem.vocabulary.decode(read.inputs[0].tolist())
    truth = label(SOURCE * 5)
    at = 1
    assert problem.parts["train"]
    for document in problem.parts["train"]:
        assert shown[at - 1] == "\f"
        for name, values in read.labels.items():
            assert values[0, at - 1] == -1
            # Cut by position: the training part is each document's beginning.
            assert values[0, at : at + len(document)].tolist() == truth[name][: len(document)].tolist(), name
        at += len(document) + 1


def test_part_that_begins_inside_a_string_is_labelled_as_the_whole_document_says(tmp_path: Path) -> None:
    inside = "x = '''" + "def f(): pass\n" * 100 + "'''\n"
    problem = text(tmp_path, a_py=inside)
    read = joined(list(problem.sample("test", 1)))
    part = problem.parts["test"][0]
    assert part.startswith("def f")
    truth = label(inside)["in_string"][-len(part) :]
    found = read.labels["in_string"][0, 1:]
    assert found.tolist() == truth[: len(found)].tolist()
    assert (found == 1).float().mean() > 0.9


def test_documents_that_are_no_source_or_do_not_tokenize_have_no_labels(tmp_path: Path) -> None:
    problem = text(tmp_path, a_py="x = '\n" * 40, b_txt="y = 2\n" * 40, c_py="z = 3\n" * 40)
    read = joined(list(problem.sample("train", 1)))
    shown = problem.vocabulary.decode(read.inputs[0].tolist())
    known = "".join(c for c, value in zip(shown, read.labels["column"][0].tolist(), strict=True) if value >= 0)
    assert set(known) == set("z = 3\n")
    assert known.count("z") == shown.count("z")


def test_text_that_is_no_source_has_no_labels(tmp_path: Path) -> None:
    assert joined(list(text(tmp_path, b_txt="y = 2\n" * 200).sample("train", 1))).labels == {}
    broken = tmp_path / "broken"
    broken.mkdir()
    assert joined(list(text(broken, b_py="y = '\n" * 200).sample("train", 1))).labels == {}


def test_packed_source_is_source(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.py.gz", "wt") as file:
        file.write(SOURCE * 10)
    assert "in_string" in joined(list(text(tmp_path).sample("train", 1))).labels


def test_labels_of_several_places_are_those_of_one_long_reading(tmp_path: Path) -> None:
    problem = text(tmp_path, **{f"f{number}_py": SOURCE * 3 for number in range(4)})
    whole = joined(list(problem.sample("train", 1)))
    beside = joined(list(problem.sample("train", 3, 23)))
    each = whole.inputs.size(1) // 3
    for row in range(3):
        part = slice(row * each, row * each + 23)
        assert torch.equal(beside.inputs[row], whole.inputs[0, part])
        for name in whole.labels:
            assert torch.equal(beside.labels[name][row], whole.labels[name][0, part]), name


def test_training_and_validation_make_no_labels(tmp_path: Path) -> None:
    from unrolled.problems.problem import ALL

    problem = text(tmp_path, a_py=SOURCE * 20)
    assert problem.batch(1, ALL)[0].labels == {}
    assert all(piece.labels == {} for piece in problem.pieces("test", ALL))


def test_classes_are_labels_up_to_the_end_of_each_sequence(tmp_path: Path) -> None:
    problem = open_problem(classify_job(labelled_csv(tmp_path / "g.csv", 60)))
    assert isinstance(problem, Classify)
    (batch,) = problem.sample("train", 7)
    assert batch.lengths is not None
    for row, (length, target) in enumerate(zip(batch.lengths.tolist(), batch.targets.tolist(), strict=True)):
        steps = batch.inputs.size(1)
        assert batch.labels["class"][row].tolist() == [target] * length + [-1] * (steps - length)
    assert set(batch.targets.tolist()) == {0, 1}


def test_values_of_classes_are_those_of_the_file(tmp_path: Path) -> None:
    job = classify_job(labelled_csv(tmp_path / "g.csv"))
    problem = open_problem(job)
    assert isinstance(problem, Classify)
    (batch,) = problem.sample("test", 1000)
    found = own_units(Run.start(tmp_path / "run", job, problem), batch.inputs, None)
    assert found is not None
    assert batch.lengths is not None
    for row, sequence in enumerate(problem.parts["test"].sequences):
        np.testing.assert_allclose(found[row, : len(sequence)], sequence, atol=1e-4)


def test_windows_are_spread_over_the_part_with_their_series_times_and_own_values(tmp_path: Path) -> None:
    hours = np.datetime64("2024-01-01T00") + np.arange(200) * np.timedelta64(1, "h")
    rows = ["t,place,y,z"]
    for place, level in (("here", 10.0), ("there", 5000.0)):
        for number, hour in enumerate(hours):
            missing = number % 11 == 5
            rows.append(f"{hour},{place},{level + number % 7},{'' if missing else number % 5 * 1e-3}")
    (tmp_path / "s.csv").write_text("\n".join(rows) + "\n")
    job = series_job(str(tmp_path / "s.csv"), time="t", group="place", target=("y",), covariates=("z",))
    problem = open_problem(job)
    assert isinstance(problem, Series)
    (windows,) = problem.sample("test", 6)
    assert isinstance(windows, Windows)
    assert windows.times is not None
    series = windows.labels["series"]
    assert sorted(set(series[:, 0].tolist())) == [0, 1]
    assert (series == series[:, :1]).all()
    run = Run.start(tmp_path / "run", job, problem)
    found = own_units(run, windows.inputs, series)
    assert found is not None
    for row in range(6):
        numbers = (windows.times[row].numpy().astype("datetime64[ns]") - hours[0]) // np.timedelta64(1, "h")
        assert np.diff(numbers).tolist() == [1] * 7
        level = (10.0, 5000.0)[int(series[row, 0])]
        np.testing.assert_allclose(found[row, :, 0], level + numbers % 7, rtol=1e-5)
        missing = numbers % 11 == 5
        assert np.isnan(found[row, :, 1]).tolist() == missing.tolist()
        np.testing.assert_array_equal(
            found[row, ~missing, 1], (numbers[~missing] % 5 * 1e-3).astype(np.float32), strict=False
        )
    assert Meaning.of_run(run).names == {"series": ("here", "there")}
    assert Meaning.of_run(run).outputs == ("y +1", "y +2", "y +3")
    # The first and the last window of the part are among them.
    assert windows.times[:, -1].max().numpy().astype("datetime64[ns]") == hours[-1] - np.timedelta64(3, "h")


def test_series_without_times_have_none(tmp_path: Path) -> None:
    problem = open_problem(series_job(csv_of(tmp_path / "s.csv", np.sin(np.arange(200)))))
    (windows,) = problem.sample("test", 3)
    assert isinstance(windows, Windows)
    assert windows.times is None


def test_evenly_spread_numbers_are_as_many_as_there_are_or_asked_for() -> None:
    assert evenly(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly(3, 10).tolist() == [0, 1, 2]
    assert evenly(5, 1).tolist() == [0]


def test_text_job_of_one_python_file_is_source(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE * 20)
    problem = open_problem(text_job(str(tmp_path / "a.py")))
    assert "in_comment" in joined(list(problem.sample("test", 1))).labels
