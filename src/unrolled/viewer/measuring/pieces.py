"""Pieces of one length out of a recording: what instruments are given, which want whole sequences of equal length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from unrolled.viewer.recorded import Recorded

_LENGTH = 200  # steps of a piece, where sequences are longer than _WHOLE
_WHOLE = 256  # steps of a sequence that need not be cut


@dataclass(frozen=True)
class Pieces:
    """Where a recording is cut.

    Attributes:
        length: L, the steps of each piece.
        places: of each piece, its sequence and its first step.
        steps: how many steps the recording has, those that are in no piece too.
    """

    length: int
    places: tuple[tuple[int, int], ...]
    steps: int

    def __len__(self) -> int:
        return len(self.places)

    def of(self, values: Tensor) -> Tensor:
        """values: (B, T, ...) -> (N, L, ...) those of the pieces."""
        return torch.stack([values[row, start : start + self.length] for row, start in self.places])

    def some(self, most: int, sequence: int = 0, step: int | None = None) -> Pieces:
        """At most so many pieces, spread over the recording; the one with this step of this sequence is the first."""
        places = list(self.places)
        own = [i for i, (row, start) in enumerate(places) if row == sequence]
        if own:
            within = [i for i in own if step is None or step < places[i][1] + self.length]
            places.insert(0, places.pop(within[0] if within else own[-1]))
        if len(places) > most:
            chosen = np.linspace(0, len(places) - 1, most).round().astype(int)
            places = [places[i] for i in chosen]
        return Pieces(self.length, tuple(places), self.steps)

    def where(self, counts: Tensor) -> Pieces:
        """Those whose answer counts. counts: (B, T) bool, looked at where a piece ends; or (B,), of each sequence."""
        last = self.length - 1
        kept = [(r, s) for r, s in self.places if bool(counts[r] if counts.dim() == 1 else counts[r, s + last])]
        return Pieces(self.length, tuple(kept), self.steps)

    @property
    def text(self) -> str:
        """How many there are, in words."""
        many = f"{len(self)} pieces" if len(self) != 1 else "1 piece"
        return f"{many} of {self.length} steps"


def cut(recorded: Recorded) -> Pieces:
    """Cut a recording into pieces of one length that no reset and no end of a sequence is in.

    A stretch from one reset to the next is cut from its end backwards, since that is where the answers of most tasks
    stand; what is left over at its beginning is left out. The length is the longest, up to 256 steps for what is no
    longer and 200 for the rest, at which half of the recorded steps are used.
    """
    found = list(stretches(recorded))
    total = sum(stop - start for _, start, stop in found)
    if not total:
        return Pieces(0, (), 0)
    sizes = [stop - start for _, start, stop in found]
    candidates = sorted({size if size <= _WHOLE else _LENGTH for size in sizes}, reverse=True)
    # The shortest always uses more than half.
    length = next(n for n in candidates if 2 * n * sum(size // n for size in sizes) >= total)
    places = [
        (row, start)
        for row, first, stop in found
        for start in range(stop - (stop - first) // length * length, stop, length)
    ]
    return Pieces(length, tuple(places), total)


def stretches(recorded: Recorded) -> Iterator[tuple[int, int, int]]:
    """Each stretch of steps that follow each other: its sequence, its first step, and one past its last."""
    for row, length in enumerate(recorded.lengths):
        inside = [] if recorded.reset is None else recorded.reset[row, :length].nonzero().flatten().tolist()
        bounds = [0, *(t for t in inside if t > 0), length]
        for start, stop in pairwise(bounds):
            if stop > start:
                yield row, start, stop


def stretch_at(recorded: Recorded, sequence: int, step: int | None) -> tuple[int, int]:
    """The stretch that holds a step of a sequence, the longest of the sequence if none is named.

    Raises:
        ValueError: the sequence has no steps.
    """
    own = [(start, stop) for row, start, stop in stretches(recorded) if row == sequence]
    if not own:
        raise ValueError(f"sequence: number {sequence} has no steps")
    if step is None:
        return max(own, key=lambda ends: ends[1] - ends[0])
    return next((start, stop) for start, stop in own if start <= step < stop)
