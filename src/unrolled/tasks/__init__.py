"""Tasks with known truth, and the one table in which they are found by name."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Any, get_type_hints

from .adding import Adding
from .code import Code
from .copy_memory import Copy
from .recall import Recall
from .task import Baseline, Batch, Split, Task

__all__ = ["TASKS", "Adding", "Baseline", "Batch", "Code", "Copy", "Recall", "Split", "Task", "parse"]

TASKS: dict[str, type[Task]] = {task.name: task for task in (Adding, Recall, Copy, Code)}


def parse(spec: str) -> Task:
    """The task that `spec` writes, the inverse of `Task.spec`.

    A spec is a task's name and the settings that are not the default: "recall:lag=1-40,symbols=8". A comma ends a
    setting only where another NAME= follows, so that paths may hold commas.

    Raises:
        ValueError: no such task or setting, or a value that the setting cannot take.
    """
    name, colon, rest = spec.partition(":")
    if name not in TASKS:
        raise ValueError(f"task {name!r} is not known; the tasks are {', '.join(TASKS)}{_closest(name, list(TASKS))}")
    task = TASKS[name]
    hints = get_type_hints(task)
    known = [f.name for f in dataclasses.fields(task)]  # type: ignore[arg-type]  # every task is a dataclass

    settings: dict[str, Any] = {}
    for piece in re.split(r",(?=\w+=)", rest) if colon else []:
        setting, equals, value = piece.partition("=")
        if not equals:
            raise ValueError(f"task {name}: {piece!r} is not a setting; settings are written {name}:{known[0]}=VALUE")
        if setting not in known:
            raise ValueError(
                f"task {name}: has no setting {setting!r}; its settings are {', '.join(known)}"
                f"{_closest(setting, known)}"
            )
        if setting in settings:
            raise ValueError(f"task {name}: {setting} is given twice, {settings[setting]!r} and {value!r}")
        settings[setting] = _value(name, setting, value, hints[setting])
    return task(**settings)


def _value(task: str, setting: str, text: str, hint: Any) -> str | int | tuple[int, int]:
    if hint is str:
        return text
    ranges = "tuple" in str(hint)
    ends = re.fullmatch(r"([0-9]+)-([0-9]+)", text)
    try:
        if ends and ranges:
            return int(ends[1]), int(ends[2])
        return int(text)
    except ValueError:
        expected = "a whole number or a range such as 1-40" if ranges else "a whole number"
        raise ValueError(f"task {task}: {setting} is {text!r}; expected {expected}") from None


def _closest(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {found[0]}?)" if found else ""
