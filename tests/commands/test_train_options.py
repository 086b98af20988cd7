"""unrolled train's options: all listed, all arriving, and one line on what to change when they cannot."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from tiny_commands import ALONE, refused
from unrolled.budget import Budget
from unrolled.cli import main
from unrolled.commands.train import Place
from unrolled.jobs import DATA, Job, Kind, Network
from unrolled.presets import preset
from unrolled.runs import Run
from unrolled.training import train as training

KINDS: tuple[Kind, ...] = get_args(Kind)
HEAVY = ("torch", "numpy", "pyarrow", "lightning_fabric", "sklearn", "zarr")
PARTS = {"network": Network, "budget": Budget, "place": Place}


@pytest.mark.parametrize(
    "arguments",
    [["train"], ["train", "--help"], *(["train", kind, "--help"] for kind in KINDS)]
    + [[command, "--help"] for command in ("predict", "evaluate", "record")],
)
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
    assert "usage: unrolled" in done.stdout


@pytest.mark.parametrize("name", ["small", "base"])
@pytest.mark.parametrize("kind", KINDS)
def test_help_lists_every_option_with_the_preset_s_default(
    kind: Kind, name: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as left:
        main(["train", kind, "--preset", name, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert f"The defaults are those of --preset {name}." in text
    job = preset(kind, name, "x")
    for part in (DATA[kind], *PARTS.values()):
        for field in dataclasses.fields(part):
            if field.name != "path":
                assert re.search(rf"--{field.name.replace('_', '-')}\b", text), field.name
    shown = re.sub(r"[│\s]+", " ", text)
    assert re.search(rf"--hidden-size INT .*?\(default: {job.network.hidden_size}\)", shown)
    assert re.search(rf"--steps INT .*?\(default: {job.budget.steps}\)", shown)


def asked_for(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Job:
    """The job that a command line makes."""
    jobs: list[Job] = []

    def note(job: Job, out: Path, **options: Any) -> Run:
        jobs.append(job)
        raise ValueError("enough")

    monkeypatch.setattr(training, "train", note)
    assert main(["train", *arguments]) == 1
    return jobs[0]


OPTIONS: list[tuple[Kind, str, list[str], Any]] = [
    ("text", "data.characters", ["500"], 500),
    ("text", "data.carry", [], False),
    ("text", "data.pattern", ["*.md"], "*.md"),
    ("series", "data.target", ["a", "b c"], ("a", "b c")),
    ("series", "data.covariates", ["all"], ("all",)),
    ("series", "data.time", ["when"], "when"),
    ("series", "data.season", ["7"], 7),
    ("series", "data.delimiter", [";"], ";"),
    ("series", "data.header", ["False"], False),
    ("series", "data.validation", ["0.25"], 0.25),
    ("classify", "data.test_path", ["other.csv"], "other.csv"),
    ("classify", "network.bidirectional", [], False),
    ("task", "network.cell", ["zoneout"], "zoneout"),
    ("task", "network.forget_bias", ["2.5"], 2.5),
    ("task", "budget.learning_rate", ["1e-4"], 1e-4),
    ("task", "budget.patience", ["3"], 3),
    ("task", "budget.seconds", ["1.5"], 1.5),
    ("task", "budget.optimizer", ["sgd"], "sgd"),
    ("task", "seed", ["9"], 9),
    ("task", "precision", ["bf16-mixed"], "bf16-mixed"),
]


@pytest.mark.parametrize(("kind", "option", "given", "expected"), OPTIONS)
def test_option_arrives_and_changes_nothing_else(
    kind: Kind, option: str, given: list[str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, _, name = option.rpartition(".")
    flag = f"--{'' if given else 'no-'}{name.replace('_', '-')}"
    job = asked_for([kind, "x", flag, *given], monkeypatch)
    usual = preset(kind, "base", "x")
    if part:
        assert job == dataclasses.replace(
            usual, **{part: dataclasses.replace(getattr(usual, part), **{name: expected})}
        )
    else:
        assert job == dataclasses.replace(usual, **{name: expected})


def test_commands_of_the_documentation_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    commands = re.findall(r"^unrolled train (.*)$", text, re.MULTILINE)
    assert len(commands) >= 4
    jobs = [asked_for(shlex.split(command), monkeypatch) for command in commands]
    assert {job.kind for job in jobs} == set(KINDS)
    for option in re.findall(r"`(--[a-z-]+)", text):
        assert any(
            re.sub("^(no_)?", "", option[2:].replace("-", "_")) in {field.name for field in dataclasses.fields(part)}
            for part in (*DATA.values(), *PARTS.values())
        ) or option in ("--nnodes", "--no-deps"), option


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arguments", [["--preset", "small"], ["--preset=small"]])
def test_an_option_that_is_given_goes_before_the_preset(
    kind: Kind, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = preset(kind, "small", "x")
    assert asked_for([kind, "x", *arguments], monkeypatch) == small
    for given in (["--steps", "7", *arguments], [*arguments, "--steps", "7"]):
        expected = dataclasses.replace(small, budget=dataclasses.replace(small.budget, steps=7))
        assert asked_for([kind, "x", *given], monkeypatch) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["text", "x", "--hiden-size", "3"], "--hidden-size"),
        (["series", "x", "--horizons", "3"], "--horizon"),
        (["text", "x", "--horizon", "3"], "Unrecognized options: --horizon"),
        (["text", "x", "--steps", "many"], "many"),
        (["text", "x", "--cell", "mamba"], "zoneout"),
        (["text", "x", "--preset", "huge"], "'small', 'base'"),
        (["text", "x", "--preset"], "--preset"),
        (["text", "x", "--steps", "0"], "steps: must be above 0, given 0"),
        (["text"], "PATH"),
    ],
)
def test_option_that_is_not_understood_is_2_and_names_the_closest(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", *arguments])
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert said in re.sub(r"[│\s]+", " ", captured.err + captured.out)
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["texts", "x"], "train: 'texts' is no kind of work; expected one of text, series, classify, task"),
        (["text", "x", "--bidirectional"], "bidirectional: reads what text is to foresee; expected False"),
        (["text", "x", "--threads", "0"], "--threads: must be at least 1, given 0"),
        (["text", "nothing/here"], "nothing/here"),
        (["series", "nothing.csv"], "nothing.csv does not exist"),
        (["classify", "nothing.ts"], "nothing.ts does not exist"),
        (["task", "recal:lag=3"], "(did you mean recall?)"),
        (["text", "x", "--checkpoint-every", "0"], "checkpoint_every: must be above 0 seconds, given 0"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["train", *arguments, *([] if "--threads" in arguments else ALONE), "--out", str(tmp_path)], capsys)
    assert said in line
    assert not (tmp_path / "config.json").exists()
