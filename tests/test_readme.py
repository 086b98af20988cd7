"""The README's examples run, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def test_readme_has_an_example() -> None:
    assert blocks(ROOT / "README.md")


@pytest.mark.parametrize("example", blocks(ROOT / "README.md"))
def test_readme_example_runs(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", ["record.md", "layers.md"])
def test_examples_of_the_docs_run(page: str) -> None:
    exec(compile("\n".join(blocks(ROOT / "docs" / page)), page, "exec"), {})


def test_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    commands = set(re.findall(r"^ +make ([\w-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= commands
    assert commands <= targets


def test_pictures_of_the_readme_exist() -> None:
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / picture).is_file()
