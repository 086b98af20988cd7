"""predict, evaluate and record, where they cannot do what is asked: one line that says what to change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiny_commands import copy, noisy_sine, ran, refused, train
from unrolled.cli import main
from unrolled.runs import Run


@pytest.mark.parametrize("command", ["predict", "evaluate", "record"])
def test_what_is_no_run_is_named(command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path / "nothing", place / "texts", place / "s.csv"):
        assert f"{folder} holds no training run" in refused([command, str(folder)], capsys)


@pytest.mark.parametrize("command", ["predict", "evaluate", "record"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"job": []}', b"\xff\xfe", b"null", b'{"job": {"kind": "series"}}']
)
def test_config_that_is_broken_is_named(
    command: str, content: bytes, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(place, "series", tmp_path)
    (run / "config.json").write_bytes(content)
    line = refused([command, str(run)], capsys)
    assert line.startswith(str(run / "config.json"))


@pytest.mark.parametrize("command", ["predict", "evaluate", "record"])
def test_config_and_weights_that_do_not_go_together_are_named(
    command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(place, "series", tmp_path)
    path = run / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "format": 99}))
    assert refused([command, str(run)], capsys) == f"{path} is of format 99, and this version reads 1"
    config["job"]["network"]["hidden_size"] = 5
    path.write_text(json.dumps(config))
    assert "holds the weights of another network than config.json says" in refused([command, str(run)], capsys)


@pytest.mark.parametrize("command", ["predict", "evaluate", "record"])
def test_weights_that_are_missing_or_damaged_are_named(
    command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(place, "series", tmp_path)
    content = (run / "weights.safetensors").read_bytes()
    (run / "weights.safetensors").write_bytes(content[:100])
    assert refused([command, str(run)], capsys).startswith(f"{run / 'weights.safetensors'} is damaged")
    (run / "weights.safetensors").unlink()
    assert "has no weights yet: its training has not come to a validation" in refused([command, str(run)], capsys)


@pytest.mark.parametrize("command", ["evaluate", "record", "predict"])
def test_data_that_are_gone_are_named(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = noisy_sine(tmp_path / "s.csv")
    assert train("series", data, tmp_path / "run") == 0
    data.unlink()
    assert refused([command, str(tmp_path / "run")], capsys).startswith(f"{data} does not exist")


def test_unfinished_run_can_be_evaluated_and_not_forecast(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(place, "series", tmp_path)
    (run / "fit.json").unlink()
    (run / "residuals.json").unlink()
    assert "its training is not finished; --resume goes on with it" in refused(["predict", str(run)], capsys)
    assert "persistence" in ran("evaluate", run, capsys=capsys)


def test_task_has_nothing_to_foretell(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["predict", str(place / "task")], capsys)
    assert line.endswith("a synthetic task has nothing to foretell; try unrolled evaluate")


def test_run_comes_before_the_options_of_predict(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["predict", "--length", "3", str(place / "text")], capsys)
    assert line == "predict: the run's folder comes first, before options; given '--length'"


@pytest.mark.parametrize("kind", ["series", "classify"])
def test_table_that_cannot_be_written_is_named_before_work_begins(
    kind: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "p.csv"

    def never(*_: object, **__: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(Run, "model", never)
    line = refused(["predict", str(place / kind), "--out", str(out)], capsys)
    assert line.startswith(f"cannot write {out}")


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("text", ["--length", "0"], "length: must be at least 1, given 0"),
        ("text", ["--temperature", "-1"], "temperature: must be 0 or more, given -1.0"),
        ("series", ["--interval", "1"], "interval: must be above 0 and at most 0.99, given 1.0"),
        ("series", ["--data", "nothing.csv"], "nothing.csv does not exist"),
        ("classify", ["--data", "nothing.csv"], "nothing.csv does not exist"),
    ],
)
def test_option_of_predict_that_is_out_of_range_is_one_line(
    kind: str, arguments: list[str], said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(["predict", str(place / kind), *arguments], capsys).startswith(said)


def test_option_that_predict_does_not_know_for_a_kind_is_2(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["predict", str(place / "series"), "--temperature", "1"])
    assert left.value.code == 2
    assert "Unrecognized options: --temperature" in capsys.readouterr().err


def test_files_that_are_not_like_the_one_trained_on_are_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.csv"
    rows = [line.split(",") for line in (place / "g.csv").read_text().splitlines()]
    for columns, said in (
        ((1, 2, 3), "no column 'id'"),
        ((0, 1, 2), "has 1 channels (a), and the run was trained on 2"),
    ):
        other.write_text("\n".join(",".join(row[column] for column in columns) for row in rows))
        line = refused(["predict", str(place / "classify"), "--data", str(other)], capsys)
        assert line.startswith(str(other))
        assert said in line
    other.write_text("t,z\n2024-01-01,1\n2024-01-02,3\n")
    line = refused(["predict", str(place / "series"), "--data", str(other)], capsys)
    assert line.startswith(str(other))
    assert "'y'" in line
    other.write_text("t,y\n2024-01-01,1\n2024-01-02,3\n")
    line = refused(["predict", str(place / "series"), "--data", str(other)], capsys)
    assert line == f"{other}: series '' has 2 steps, and a forecast is made from 8"
