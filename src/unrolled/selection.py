"""What is meant by a selection: names by patterns, and which sequences, steps and units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import index
from reprlib import repr as shortened
from typing import Any

from torch import Tensor

# What a user may choose a part of one dimension by.
Choice = int | slice | range | Sequence[int]
# The same counted from the front; a range where it is one, since that costs no memory and reads as a slice.
Indices = range | tuple[int, ...]


@dataclass(frozen=True)
class Region:
    """Which part of a state (B, T, ·) is meant, or the numbers by which its parts are called."""

    sequences: Indices
    steps: Indices
    units: Indices

    def of(self, tensor: Tensor) -> Tensor:
        """This part of (B, T, ·) or (B, T)."""
        for axis, indices in enumerate((self.sequences, self.steps, self.units)[: tensor.dim()]):
            tensor = take(tensor, indices, axis)
        return tensor

    def at(self, inner: Region) -> Region:
        """The part of this region that `inner`, counted within it, means."""
        return Region(
            _composed(self.sequences, inner.sequences),
            _composed(self.steps, inner.steps),
            _composed(self.units, inner.units),
        )


def take(tensor: Tensor, indices: Indices, axis: int) -> Tensor:
    """A part along one dimension; the tensor itself where that is all of it."""
    if indices == range(tensor.size(axis)):
        return tensor
    part: Tensor = tensor[(*(slice(None),) * axis, as_index(indices))]
    return part


def as_index(indices: Indices) -> slice | list[int]:
    """What a tensor is indexed with."""
    if isinstance(indices, range) and indices.step > 0:
        return slice(indices.start, indices.stop, indices.step)
    return list(indices)


def chosen(choice: Choice | None, size: int, *, argument: str, name: str) -> Indices:
    """A user's choice of one dimension of a state, counted from the front.

    Args:
        choice: an int (which keeps the dimension), a slice, a range or a sequence of ints; everything if None.
        size: of the dimension.
        argument: what the choice was given as, for messages.
        name: of the state it is applied to, for messages.

    Raises:
        TypeError: it is none of these.
        IndexError: a number is out of range.
        ValueError: nothing is chosen.
    """
    if choice is None:
        return range(size)
    if isinstance(choice, slice):
        numbers = list(range(size)[choice])
    else:
        numbers = _numbers(choice, argument)
        for number in numbers:
            if not -size <= number < size:
                raise IndexError(
                    f"select: {argument}: {number} is out of range for {name!r}, which has {size} {argument} "
                    f"(0 to {size - 1}, or -{size} to -1 from the end)"
                )
        numbers = [number + size if number < 0 else number for number in numbers]
    if not numbers:
        raise ValueError(
            f"select: {argument}={shortened(choice)} selects nothing of {name!r}, which has {size} {argument}"
        )
    return compact(numbers)


def _numbers(choice: Any, argument: str) -> list[int]:
    wrong = TypeError(
        f"select: {argument} must be an int, a slice, a range or a sequence of ints, given {shortened(choice)} "
        f"({type(choice).__name__})"
    )
    if isinstance(choice, str | bytes):
        raise wrong
    try:
        given = list(choice) if isinstance(choice, Iterable) and getattr(choice, "ndim", 1) > 0 else [choice]
        # A mask is not a list of the numbers 0 and 1.
        if any(isinstance(number, bool) or "bool" in str(getattr(number, "dtype", "")) for number in given):
            raise wrong
        return [index(number) for number in given]
    except TypeError:
        raise wrong from None


def compact(numbers: Sequence[int]) -> Indices:
    """Numbers as a range if they are one."""
    if len(numbers) == 1:
        return range(numbers[0], numbers[0] + 1)
    step = numbers[1] - numbers[0] if numbers else 0
    if step:
        candidate = range(numbers[0], numbers[-1] + (1 if step > 0 else -1), step)
        if len(candidate) == len(numbers) and all(a == b for a, b in zip(candidate, numbers, strict=True)):
            return candidate
    return tuple(numbers)


def _composed(outer: Indices, inner: Indices) -> Indices:
    if outer == range(len(outer)):
        return inner
    return outer if inner == range(len(outer)) else compact([outer[number] for number in inner])


def matching(patterns: str | Sequence[str], candidates: Sequence[str], *, argument: str, place: str) -> list[str]:
    """The candidates, in their order, that any of the patterns matches; * stands for anything.

    Raises:
        ValueError: a pattern matches nothing; the message lists what there is.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(candidate, pattern) for candidate in candidates):
            there = ", ".join(candidate or "''" for candidate in candidates) or "nothing"
            raise ValueError(f"{argument}={pattern!r} matches nothing in {place}; it has {there}")
    return [candidate for candidate in candidates if any(fnmatchcase(candidate, pattern) for pattern in patterns)]
