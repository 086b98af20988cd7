from __future__ import annotations

import io
import sysconfig
import tokenize
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.tasks.source_labels import label

LIBRARY = Path(sysconfig.get_path("stdlib"))
FILES = ["argparse.py", "ast.py", "dataclasses.py", "inspect.py", "json/decoder.py", "re/_parser.py", "tokenize.py"]


def row(text: str, name: str) -> str:
    """The labels of `text`, one digit under each character."""
    return "".join(map(str, label(text)[name].tolist()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 'ab' + y\n", "0000111100000"),
        ("x = rb'a' b\"c\"\n", "000011111011110"),
        ("x = u'' 'a'\n", "000011101110"),
        ("'a # b' # 'c'\n", "11111110000000"),
        ("f(\"([{\", ']')\n", "00111110011100"),
        ("'a\\'b'\n", "1111110"),
        ('x = """a\n"b"#(\n"""\ny\n', "0000" + "1" * 5 + "1" * 6 + "1" * 3 + "000"),
        ("'a\\\nb'\n", "1111110"),
        ("f'a{x}b'\n", "111111110"),
        ("x = f\"{d['k']:{w}}\" + y\n", "0000" + "1" * 15 + "00000"),
        ("rF'{x}' f'{{'\n", "11111110" + "11111" + "0"),
        ("f'{f\"{x}\"}' y\n", "1" * 11 + "000"),
        ("f'''{\nx # no\n}''' 'a'\n", "1" * 17 + "0" + "111" + "0"),
        ("é = 'é' 'ü'\n", "000011101110"),
    ],
)
def test_in_string(text: str, expected: str) -> None:
    assert row(text, "in_string") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x # it's \"(\n", "001111111110"),
        ("#\n", "10"),
        ("'# no' # yes", "000000011111"),
        ("(\n  # é\n)\n", "00" + "00111" + "0" + "00"),
        ("f'# {x}' # c\n", "000000000" + "111" + "0"),
        ("# \f\n", "1110"),
    ],
)
def test_in_comment(text: str, expected: str) -> None:
    assert row(text, "in_comment") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f(a[0], {1: (2)})\n", "011221112222332100"),
        ("(\n)\n", "1100"),
        ("('(', f'{x[0]}') # )\n", "1" * 15 + "000000"),
        ("[" * 9 + "]" * 9, "123456777" + "776543210"),
        ("f'{(x)}'\n", "000000000"),
    ],
)
def test_bracket_depth_counts_after_the_character(text: str, expected: str) -> None:
    assert row(text, "bracket_depth") == expected


def lines(text: str, name: str) -> list[int]:
    """The label of the first character of each line, after checking that the line agrees in it."""
    found = []
    values = label(text)[name].tolist()
    at = 0
    for line in text.splitlines(keepends=True):
        part = values[at : at + len(line)]
        assert set(part) == {part[0]}
        found.append(part[0])
        at += len(line)
    return found


def test_indentation_counts_blocks_not_spaces() -> None:
    text = "if a:\n  b\n  if c:\n          d\n  e\nf\n"
    assert lines(text, "indentation") == [0, 1, 1, 2, 1, 0]
    assert lines("if a:\n\tb\nc", "indentation") == [0, 1, 0]


def test_indentation_of_continued_lines_is_that_of_their_statement() -> None:
    text = "if a:\n    b = (1,\n2,\n  # c\n\n            3)\n    c = 1 + \\\n2\n    d = '''\ne'''\nf\n"
    assert lines(text, "indentation") == [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]


def test_comment_only_and_blank_lines_take_the_level_of_the_statement_before() -> None:
    text = "# a\n\nif a:\n    # b\n    b\n\n    # c\n# d\nc\n# e\n"
    assert lines(text, "indentation") == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]


def test_indentation_is_clipped() -> None:
    text = "".join(" " * depth + "if a:\n" for depth in range(9)) + " " * 9 + "b\n"
    assert lines(text, "indentation") == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]


def test_column_counts_from_the_line_start_and_is_clipped() -> None:
    assert label("ab\n\n c")["column"].tolist() == [0, 1, 2, 0, 0, 1]
    column = label("#" * 200 + "\n#")["column"].tolist()
    assert column == [*range(128), *[127] * 73, 0]


def test_line_breaks_are_newlines_only() -> None:
    # str.splitlines would break at these too.
    text = "x = 'a\x85b\u2028c' # \x0c\ny = '#'\n"
    assert row(text, "in_string") == "0000" + "1" * 7 + "0" * 5 + "0000" + "111" + "0"
    assert label(text)["column"].tolist() == [*range(16), *range(8)]


@pytest.mark.parametrize("text", ["", "\n", "x", "  ", "#", "\n\n# a", "if a:\n  b", "\x0c"])
def test_short_sources_have_a_label_for_every_character(text: str) -> None:
    found = label(text)
    assert set(found) == {"in_string", "in_comment", "bracket_depth", "indentation", "column"}
    assert all(values.shape == (len(text),) for values in found.values())


@pytest.mark.parametrize(
    "text",
    [
        "(",
        "x = '''a",
        "(]",
        ")",
        "x = 'a\n",
        "a ? b\n",
        "a ! b\n",
        "$\n",
        "`a`\n",
        "if a:\n    b\n  c\n",
        "x\0y",
        "x\r\ny",
        "\\",
    ],
)
def test_what_is_not_source_is_refused(text: str) -> None:
    with pytest.raises(SyntaxError):
        label(text)


@given(st.text(st.sampled_from("ab1 '\"#()[]{}\n\\f:=,.é\t"), max_size=30))
def test_any_text_is_labelled_or_refused(text: str) -> None:
    try:
        found = label(text)
    except SyntaxError:
        return
    assert all(len(values) == len(text) for values in found.values())
    assert not (found["in_string"] & found["in_comment"]).any()
    if text:
        assert found["bracket_depth"][-1] == 0


@pytest.mark.parametrize("path", FILES)
def test_labels_of_the_standard_library_are_its_tokens(path: str) -> None:
    with tokenize.open(LIBRARY / path) as file:
        text = file.read()
    found = label(text)
    starts = [0, *(at + 1 for at, character in enumerate(text) if character == "\n")]
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))

    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    marked = "".join(c for c, inside in zip(text, found["in_comment"], strict=True) if inside)
    assert marked == "".join(token.string for token in comments)
    for token in comments:
        assert found["in_comment"][starts[token.start[0] - 1] + token.start[1]] == 1

    for token in tokens:
        begin = starts[token.start[0] - 1] + token.start[1] if token.string else 0
        if token.type == tokenize.STRING:
            assert text[begin : begin + len(token.string)] == token.string
            assert found["in_string"][begin : begin + len(token.string)].all()
        elif token.type == tokenize.NAME:
            assert not found["in_comment"][begin : begin + len(token.string)].any()
    assert found["bracket_depth"][-1] == 0
