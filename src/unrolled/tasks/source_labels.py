"""What is true at every character of a Python source: strings, comments, brackets, blocks, columns.

The truth is the tokenizer's. Python 3.12 splits an f-string into tokens where 3.11 has one STRING; here everything from
its start to its end is string in both, brackets and comments inside it included.
"""

from __future__ import annotations

import io
import token
import tokenize
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

DEEPEST = 7
LAST_COLUMN = 127

_OPENING = {")": "(", "]": "[", "}": "{"}
_STRING_STARTS = {getattr(token, name) for name in ("FSTRING_START", "TSTRING_START") if hasattr(token, name)}
_STRING_ENDS = {getattr(token, name) for name in ("FSTRING_END", "TSTRING_END") if hasattr(token, name)}
# From 3.12 on, characters that no statement can hold are operators; "!" is one inside f-strings only.
_OPERATORS = set(token.EXACT_TOKEN_TYPES) - {"!"}
# These stand between statements, not in them.
_BETWEEN = {token.COMMENT, token.NL, token.INDENT, token.DEDENT, token.ENCODING, token.ENDMARKER}


def label(text: str) -> dict[str, NDArray[np.int8]]:
    r"""Labels of every character of a Python source with "\n" line ends, name -> (len(text),) int8.

    "in_string": 1 in a string literal, its prefix and quotes included.
    "in_comment": 1 from the # to the end of the comment, without the line end.
    "bracket_depth": brackets open after the character is read, at most 7; those in strings and comments don't count.
    "indentation": the number of blocks around the logical line of which the character's line is a part, at most 7.
        Comment-only and blank lines take the level of the statement before them.
    "column": position in the physical line from 0, at most 127; the line end is its line's last character.

    Raises:
        SyntaxError: the text is not what a tokenizer of Python accepts.
    """
    # Versions of the tokenizer disagree on these two, and a source that was opened as Python does has no "\r".
    for character in "\0\r":
        if character in text:
            raise SyntaxError(f"source has the character {character!r} at {text.index(character)}")

    size = len(text)
    starts = [0] + [at + 1 for at, character in enumerate(text) if character == "\n"]
    in_string = np.zeros(size, dtype=np.int8)
    in_comment = np.zeros(size, dtype=np.int8)
    change = np.zeros(size, dtype=np.int32)
    levels = np.full(len(starts), -1, dtype=np.int64)

    open_brackets: list[str] = []
    open_strings: list[int] = []
    level = 0
    statement_row: int | None = None
    for kind, value, (row, column), (end_row, end_column), _ in _tokens(text):
        # The end marker may stand past the last line.
        begin = starts[row - 1] + column if 1 <= row <= len(starts) else size
        if kind in _STRING_STARTS:
            open_strings.append(begin)
        elif kind in _STRING_ENDS:
            in_string[open_strings.pop() : starts[end_row - 1] + end_column] = 1
        elif open_strings:
            continue
        elif kind == token.ERRORTOKEN or (kind == token.OP and value not in _OPERATORS):
            raise SyntaxError(f"source has no token at line {row}, column {column}: {value!r}")
        elif kind == token.STRING:
            in_string[begin : starts[end_row - 1] + end_column] = 1
        elif kind == token.COMMENT:
            in_comment[begin : begin + len(value)] = 1
        elif kind == token.OP and value in "([{":
            open_brackets.append(value)
            change[begin] += 1
        elif kind == token.OP and value in ")]}":
            if not open_brackets or open_brackets.pop() != _OPENING[value]:
                raise SyntaxError(f"source closes {value!r} in line {row}, which is not open")
            change[begin] -= 1
        elif kind == token.INDENT:
            level += 1
        elif kind == token.DEDENT:
            level -= 1

        if kind == token.NEWLINE:
            levels[(statement_row or row) - 1 : row] = level
            statement_row = None
        elif statement_row is None and kind not in _BETWEEN:
            statement_row = row

    current = 0
    for line, found in enumerate(levels.tolist()):
        current = levels[line] = found if found >= 0 else current
    lengths = [end - start for start, end in pairwise([*starts, size])]
    begins = np.repeat(np.asarray(starts), lengths)
    return {
        "in_string": in_string,
        "in_comment": in_comment,
        "bracket_depth": np.minimum(np.cumsum(change), DEEPEST).astype(np.int8),
        "indentation": np.minimum(np.repeat(levels, lengths), DEEPEST).astype(np.int8),
        "column": np.minimum(np.arange(size) - begins, LAST_COLUMN).astype(np.int8),
    }


def _tokens(text: str) -> list[tokenize.TokenInfo]:
    try:
        return list(tokenize.generate_tokens(io.StringIO(text).readline))
    except tokenize.TokenError as error:
        raise SyntaxError(f"source cannot be tokenized: {error}") from error
