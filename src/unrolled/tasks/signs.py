"""Symbols of synthetic tasks as characters that people read."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase

from unrolled.tasks.code import ALPHABET, Code
from unrolled.tasks.copy_memory import Copy
from unrolled.tasks.recall import Recall
from unrolled.tasks.task import Task

BLANK, DELIMITER, QUERY = "·", "|", "?"

# What has no letter left has a sign of its own from these code points on, which are single characters in every font
# that knows them.
_FURTHER = 0x4E00


def signs(task: Task) -> str | None:
    """A character for each input symbol of a task, all different; None where its inputs are no symbols.

    Source code is itself. Of `recall` cues are capitals and distractors small letters, and the query is a question
    mark; of `copy` symbols are capitals, and the delimiter is a bar. A blank is a middle dot.
    """
    if isinstance(task, Code):
        return ALPHABET
    if isinstance(task, Copy):
        return _letters(task.symbols, ascii_uppercase) + BLANK + DELIMITER
    if isinstance(task, Recall):
        between = _letters(task.distractors, ascii_lowercase, after=task.symbols) if task.distractors else BLANK
        return _letters(task.symbols, ascii_uppercase) + between + QUERY
    return None


def answer_signs(task: Task) -> str | None:
    """A character for each class that a task is answered with; None where its answers are no classes."""
    known = signs(task)
    # Classes are numbered as the first input symbols are.
    return None if known is None or task.regression else known[: task.output_size]


def _letters(count: int, letters: str, *, after: int = 0) -> str:
    return letters[:count] + "".join(chr(_FURTHER + after + number) for number in range(count - len(letters)))
