"""What a page asks for, read with care: every argument has its kind and its bounds, and an error names it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


class Asked:
    """The arguments of one request."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments

    def __contains__(self, name: str) -> bool:
        return self._arguments.get(name) is not None

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`.

        Raises:
            ValueError: it is none.
        """
        value = self._arguments.get(name)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name}: given {_short(value)}, expected a whole number from {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        """Yes or no; no where it is not given."""
        value = self._arguments.get(name, False)
        if not isinstance(value, bool):
            raise ValueError(f"{name}: given {_short(value)}, expected true or false")
        return value

    def figure(self, name: str) -> float:
        """A finite number."""
        value = self._arguments.get(name)
        try:
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
        except OverflowError:
            # A whole number may have more digits than any other number.
            pass
        raise ValueError(f"{name}: given {_short(value)}, expected a number")

    def text(self, name: str, most: int) -> str:
        """A text of 1 to `most` characters."""
        value = self._arguments.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= most:
            raise ValueError(f"{name}: given {_short(value)}, expected a text of 1 to {most} characters")
        return value

    def one(self, name: str, among: Sequence[str]) -> str:
        """One of some names."""
        value = self._arguments.get(name)
        if not isinstance(value, str) or value not in among:
            raise ValueError(f"{name}: given {_short(value)}, expected one of {', '.join(among) or 'nothing'}")
        return value

    def some(self, name: str, among: Sequence[str]) -> list[str]:
        """One or more of some names."""
        values = self._arguments.get(name)
        if not isinstance(values, list) or not values:
            raise ValueError(f"{name}: given {_short(values)}, expected a list of names")
        return [Asked({name: value}).one(name, among) for value in values]

    def wholes(self, name: str, low: int, high: int, most: int = 10_000) -> list[int]:
        """At most `most` whole numbers from `low` to `high`."""
        values = self._arguments.get(name)
        if not isinstance(values, list) or not 0 < len(values) <= most:
            raise ValueError(f"{name}: given {_short(values)}, expected a list of 1 to {most} whole numbers")
        return [Asked({name: value}).whole(name, low, high) for value in values]

    def parts(self, name: str, most: int = 1_000) -> list[Asked]:
        """At most `most` objects, each to be read in turn."""
        values = self._arguments.get(name)
        if not isinstance(values, list) or not 0 < len(values) <= most or not all(isinstance(v, dict) for v in values):
            raise ValueError(f"{name}: given {_short(values)}, expected a list of 1 to {most} objects")
        return [Asked(value) for value in values]

    def span(self, length: int) -> tuple[int, int]:
        """`start` and `stop`: steps with 0 <= start < stop <= length."""
        start = self.whole("start", 0, max(0, length - 1))
        return start, self.whole("stop", start + 1, length)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # Too many digits, or too many lists in lists.
        text = f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= 60 else text[:57] + "..."
