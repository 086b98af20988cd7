"""A sequence in which some steps are changed: those by the reference, the pieces between them by the fused kernels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from unrolled.recurrence import reference
from unrolled.recurrence.cells import NO_MASKS, Cell, Masks, States, Weights
from unrolled.recurrence.result import Unrolled, joined

# A call of the kernels costs about as much as this many steps of the reference.
_WORTH_A_CALL = 3

Edit = Callable[[int, str, Tensor], Tensor]


class Fused(Protocol):
    """`ops.unroll` for one row of the table."""

    def __call__(
        self,
        x: Tensor,
        initial: States,
        weights: Weights,
        *,
        reverse: bool,
        lengths: Tensor | None,
        reset: Tensor | None,
        masks: Masks,
        keep: Collection[str],
    ) -> Unrolled: ...


def unroll(
    fused: Fused,
    cell: Cell,
    x: Tensor,
    initial: States,
    weights: Weights,
    *,
    edited: Sequence[int],
    edit: Edit,
    reverse: bool = False,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    masks: Masks = NO_MASKS,
    keep: Collection[str] = (),
) -> Unrolled:
    """As `reference.unroll` with an `edit` that changes something at the steps `edited` alone.

    Args:
        fused: what takes the steps between them.
        edited: ascending, from 0 to T - 1.
    """
    spans = list(_spans(edited, x.size(0)))
    taken: list[Unrolled] = []
    states = initial
    # One split: the gradient of a slice would be as large as all of x, for each of them.
    inputs = x.split([end - first for first, end, _ in spans])
    pairs = list(zip(spans, inputs, strict=True))
    for (first, end, changes), given in reversed(pairs) if reverse else pairs:
        part = slice(first, end)
        take: Fused = partial(reference.unroll, cell, edit=partial(_later, edit, first)) if changes else fused
        result = take(
            given,
            states,
            weights,
            reverse=reverse,
            lengths=None if lengths is None else (lengths - first).clamp(0, end - first),
            reset=None if reset is None else reset[part],
            masks=masks if masks is NO_MASKS else Masks(*(None if m is None else m[part] for m in masks)),
            keep=keep,
        )
        states = result.final
        taken.append(result)
    in_order = taken[::-1] if reverse else taken
    steps = {name: joined([result.steps[name] for result in in_order]) for name in keep}
    return Unrolled(torch.cat([result.output for result in in_order]), states, steps)


def _later(edit: Edit, first: int, t: int, name: str, value: Tensor) -> Tensor:
    """The edit of a piece that begins at `first`."""
    return edit(first + t, name, value)


def _spans(edited: Sequence[int], length: int) -> Iterator[tuple[int, int, bool]]:
    """First step, end, and whether the reference takes it: ascending, covering 0 to `length`."""
    position, index = 0, 0
    while index < len(edited):
        first = edited[index]
        end = first + 1
        index += 1
        while index < len(edited) and edited[index] - end < _WORTH_A_CALL:
            end = edited[index] + 1
            index += 1
        if first - position < _WORTH_A_CALL:
            first = position
        if length - end < _WORTH_A_CALL:
            end = length
        if first > position:
            yield position, first, False
        yield first, end, True
        position = end
    if position < length:
        yield position, length, False
