"""The command line: what it prints, what it writes, and one line on what to change when it cannot."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from unrolled import __version__, study
from unrolled.claims import MEASUREMENTS
from unrolled.cli import main

TINY = ["compare", "recall:lag=9", "--cells", "rnn", "lstm", "--seeds", "2", "--steps", "3", "--parameters", "300"]
HEAVY = ("torch", "numpy", "bokeh", "rich", "sklearn", "joblib", "scipy")


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["--version"], []])
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from unrolled.cli import main
try:
    main({arguments!r})
finally:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "[]\n"
    assert done.returncode == 0
    assert "unrolled" in done.stdout


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"unrolled {__version__}\n"


def test_no_command_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "compare" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["comapre"], ["compare", "--seeds", "two"], ["compare", "--nonsense"]])
def test_arguments_not_understood_are_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: unrolled" in capsys.readouterr().err


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr with which a command fails, less its beginning."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("unrolled: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("unrolled: ").removesuffix("\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["racall:lag=3"], ["'racall'", "did you mean recall?"]),
        (["recall:lga=3"], ["'lga'", "did you mean lag?"]),
        (["recall:lag=soon"], ["lag is 'soon'", "expected a whole number or a range"]),
        (["recall:lag=0"], ["lag is 0", "at least 1"]),
        (["recall:lag=9-3"], ["lag is 9-3", "3-9"]),
        (["recall:lag=60,length=50"], ["lag is 60 but length is 50", "at most length - 2 = 48"]),
        (["recall:lag"], ["'lag' is not a setting"]),
        (["recall:lag=3", "adding:length=1"], ["length is 1", "at least 2"]),
        (["recall:lag=3", "--cells", "rnn", "mamba"], ["cells: unknown cell 'mamba'", "rnn, gru, lstm"]),
        (["recall:lag=3", "--seeds", "0"], ["seeds: ", "at least 1, given 0"]),
        (["recall:lag=3", "--seeds", "-2"], ["seeds: ", "given -2"]),
        (["recall:lag=3", "--steps", "0"], ["steps: ", "at least 1, given 0"]),
        (["recall:lag=3", "--jobs", "0"], ["jobs: ", "at least 1, given 0"]),
        (["recall:lag=3", "--parameters", "9"], ["parameters: 9 is too few for a rnn"]),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_change(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["compare", *arguments, "--out", str(tmp_path / "study")], capsys)
    for word in words:
        assert word in line
    assert not (tmp_path / "study").exists()


def test_page_that_cannot_be_written_is_named_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    page = tmp_path / "file" / "page.html"
    line = refused([*TINY, "--out", str(tmp_path / "study"), "--page", str(page)], capsys)
    assert line.startswith(f"cannot write {page}")
    assert not (tmp_path / "study").exists()


def test_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refused([*TINY, "--out", str(tmp_path / "file" / "study")], capsys)
    assert line.startswith(f"cannot write {tmp_path / 'file' / 'study'}")
    assert line.endswith("choose another folder")


def test_failure_in_its_own_process_has_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-m", "unrolled", "compare", "racall"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("unrolled: task 'racall' is not known")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("rich", "pip install 'unrolled[study]'"),
        ("joblib", "pip install 'unrolled[study]'"),
        ("sklearn", "pip install 'unrolled[study]'"),
        ("bokeh", "pip install 'unrolled[view]'"),
    ],
)
def test_missing_extra_is_named_with_the_command_that_installs_it(
    missing: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == missing else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    line = refused([*TINY, "--out", str(tmp_path / "study")], capsys)
    assert f"compare needs {missing}" in line
    assert command in line
    assert not (tmp_path / "study").exists()


def test_interrupted_study_says_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "fit", interrupt)
    assert main([*TINY, "--jobs", "1", "--out", str(tmp_path)]) == 130
    error = capsys.readouterr().err
    assert error.endswith("interrupted; finished runs are kept, and the same command goes on from there\n")


def test_tiny_study_prints_the_claims_and_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--jobs", "1", "--out", str(tmp_path)]) == 0
    first = capsys.readouterr()
    for claim in MEASUREMENTS:
        assert claim in first.out
    assert "4 runs, " in first.out
    page = tmp_path / "report.html"
    assert str(page) in first.out.replace("\n", "")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    for done in range(1, 5):
        assert f"[{done}/4] recall:lag=9 " in first.err

    # The same command again only judges and writes; --page chooses where.
    other = tmp_path / "pages" / "other.html"
    assert main([*TINY, "--jobs", "1", "--out", str(tmp_path), "--page", str(other)]) == 0
    again = capsys.readouterr()
    assert "4 of 4 runs were finished earlier" in again.err
    assert "[1/4]" not in again.err
    assert other.exists()


def test_study_without_out_is_kept_under_the_tasks_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["compare", "recall:lag=3", "--cells", "rnn", "--seeds", "1", "--steps", "1", "--parameters", "300"]
    assert main([*command, "--jobs", "1"]) == 0
    assert (tmp_path / "runs" / "recall" / "report.html").exists()
