"""A process that ends while it writes files, as far as the files can tell."""

from __future__ import annotations

import os
from typing import Any

import pytest


class Killed(OSError):
    """Stands for the end of the process: nothing is written from here on."""


def replacements(monkeypatch: pytest.MonkeyPatch, allowed: int) -> list[int]:
    """Let so many files come to stand; every file of a recording comes to stand by os.replace."""
    original, done = os.replace, [0]

    def replace(*args: Any, **options: Any) -> None:
        if done[0] >= allowed:
            raise Killed
        done[0] += 1
        original(*args, **options)

    monkeypatch.setattr(os, "replace", replace)
    return done
