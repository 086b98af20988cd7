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


@pytest.mark.parametrize("page", ["record.md", "layers.md", "drop-in.md", "interventions.md", "instruments.md"])
def test_examples_of_the_docs_run(page: str) -> None:
    exec(compile("\n".join(blocks(ROOT / "docs" / page)), page, "exec"), {})


def lines_of_the_drop_in_page() -> list[str]:
    """The rows of its tables that promise something; variants and headings have no test of their own line."""
    page = (ROOT / "docs" / "drop-in.md").read_text(encoding="utf-8")
    return [
        line
        for line in page.splitlines()
        if line.startswith("|") and not re.match(r"\|[ -]*\||\| class|\| `\w+LSTM`", line)
    ]


def test_every_line_of_the_drop_in_page_has_a_test_behind_it() -> None:
    lines = lines_of_the_drop_in_page()
    assert len(lines) > 30
    assert all(re.search(r"\| `[\w/]+\.py::test_\w+` \|$", line) for line in lines), lines


@pytest.mark.parametrize(
    "named",
    sorted(set(re.findall(r"`([\w/]+\.py::test_\w+)`", (ROOT / "docs" / "drop-in.md").read_text(encoding="utf-8")))),
)
def test_a_test_named_on_the_drop_in_page_exists(named: str) -> None:
    file, test = named.split("::")
    assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    commands = set(re.findall(r"^ +make ([\w-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= commands
    assert commands <= targets


def test_pictures_of_the_readme_exist() -> None:
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / picture).is_file()
