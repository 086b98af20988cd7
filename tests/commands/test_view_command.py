"""unrolled view: what it opens, what it refuses, and that it ends when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tiny_commands import copy, ran, refused
from unrolled.cli import main
from unrolled.viewer.recorded import Recorded


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What export() was asked for."""
    asked: list[Any] = []
    stand_in = types.ModuleType("unrolled.viewer.export")
    stand_in.export = lambda found, path, **options: asked.append((found, path, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unrolled.viewer.export", stand_in)
    return asked


def test_link_is_printed_and_an_interrupt_ends_it_without_an_error(place: Path, tmp_path: Path) -> None:
    run = copy(place, "task", tmp_path)
    command = [sys.executable, "-m", "unrolled", "view", str(run), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            while "http://" not in line and line:
                line = child.stdout.readline()
            assert "http://127.0.0.1:" in line
        finally:
            child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=60)
    assert child.returncode == 0
    assert told.splitlines()[0] == f"recording {run} over a part of its test data"
    assert "Traceback" not in told


def test_page_to_export_has_the_steps_and_the_sequence_that_are_asked_for(
    place: Path, tmp_path: Path, exported: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = copy(place, "series", tmp_path), tmp_path / "page.html"
    given = [(), ("--steps", "2:6", "--sequence", "3"), ("--steps", "2:"), ("--steps", ":6")]
    for more in given:
        assert ran("view", run, "--export", page, *more, capsys=capsys) == f"The page: {page}\n"
    assert all(isinstance(found, Recorded) and path == page for found, path, _ in exported)
    assert [options for _, _, options in exported] == [
        {"sequence": 0, "start": None, "stop": None},
        {"sequence": 3, "start": 2, "stop": 6},
        {"sequence": 0, "start": 2, "stop": None},
        {"sequence": 0, "start": None, "stop": 6},
    ]


def test_page_that_cannot_be_written_is_told_before_anything_is_recorded(
    place: Path, tmp_path: Path, exported: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(place, "series", tmp_path)
    (tmp_path / "file").write_text("")
    said = refused(["view", str(run), "--export", str(tmp_path / "file" / "page.html")], capsys)
    assert "cannot write" in said
    assert not (run / "trace.zarr").exists()
    assert exported == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "2:6"], "--steps: says what --export writes"),
        (["--sequence", "0"], "--sequence: says what --export writes"),
        (["--export", "p.html", "--sequence", "-1"], "--sequence: must be at least 0, given -1"),
        (["--export", "p.html", "--steps", "6"], "--steps: given '6', expected FIRST:STOP, such as 200:700"),
        (["--export", "p.html", "--steps", "a:b"], "--steps: given 'a:b', expected FIRST:STOP"),
        (["--export", "p.html", "--steps", "6:6"], "--steps: given '6:6', which holds no step"),
        (["--export", "p.html", "--steps", ":0"], "--steps: given ':0', which holds no step"),
        (["--port", "70000"], "--port: given 70000, expected one from 0 to 65535"),
        (["--port", "-1"], "--port: given -1, expected"),
        (["--text", "t.txt"], "--text: is for a recording"),
    ],
)
def test_options_that_say_nothing_sensible_are_refused_and_nothing_is_written(
    arguments: list[str], said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(place, "task", tmp_path)
    before = sorted(run.iterdir())
    assert said in refused(["view", str(run), *arguments], capsys)
    assert sorted(run.iterdir()) == before


def test_path_that_is_nothing_to_look_at_is_told(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is nothing at" in refused(["view", str(tmp_path / "not")], capsys)
    assert "holds 0.txt, 1.txt, 2.txt; expected a recording" in refused(["view", str(place / "texts")], capsys)


def test_help_does_not_wait_for_torch_and_names_every_option() -> None:
    code = """
import sys
from unrolled.cli import main
try:
    main(["view", "--help"])
finally:
    print([name for name in ("torch", "numpy", "bokeh", "tornado") if name in sys.modules], file=sys.stderr)
"""
    wide = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=wide)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    for option in ("PATH", "--inputs", "--text", "--host", "--port", "--no-open", "--export", "--steps", "--sequence"):
        assert option in done.stdout


def test_view_is_among_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "look at a recording, a run or a study in the browser" in capsys.readouterr().out
