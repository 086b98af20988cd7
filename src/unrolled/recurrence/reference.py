"""The reference recurrence: plain PyTorch, one step after another. It is the definition of correct.

Any dtype, any device, any derivative. Everything faster is tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor

from unrolled.recurrence.cells import NO_MASKS, Cell, Masks, States, Weights, separate, unedited
from unrolled.recurrence.result import Steps, Unrolled


def unroll(
    cell: Cell,
    x: Tensor,
    initial: States,
    weights: Weights,
    *,
    reverse: bool = False,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    masks: Masks = NO_MASKS,
    keep: Collection[str] = (),
    edit: Callable[[int, str, Tensor], Tensor] | None = None,
) -> Unrolled:
    """Take `cell` over a sequence.

    Args:
        cell: a row of the table of cells.
        x: (T, B, I), T at least 1.
        initial: the states before the first step, each (B, ·).
        weights: the layer's parameters.
        reverse: go from the last step to the first.
        lengths: (B,) number of steps of each sequence; all T if omitted. A state does not change at steps beyond it.
        reset: (T, B) bool; where it is True, the states are zero before the step is taken.
        masks: the cell's random factors, each (T, B, H).
        keep: names of states and gates to keep.
        edit: step, name and value (B, ·) of each state and gate as it is computed -> what the step goes on with.
    """
    gates_x = cell.project(x, weights).unbind(0)  # T of (B, G * H)
    steps: dict[str, list[Tensor]] = {name: [] for name in keep}
    outputs: list[Tensor] = []
    states = initial

    def shown(t: int, name: str, value: Tensor) -> Tensor:
        computed = value
        if edit:
            value = edit(t, name, value)
        if name in steps:
            value = separate(value, computed)
            steps[name].append(value)
        return value

    for t in reversed(range(len(gates_x))) if reverse else range(len(gates_x)):
        taken = None if lengths is None else (t < lengths).unsqueeze(1)  # (B, 1)
        if reset is not None:
            anew = reset[t].unsqueeze(1) if taken is None else reset[t].unsqueeze(1) & taken
            states = tuple(state.masked_fill(anew, 0) for state in states)
        new, _ = cell.step(gates_x[t], states, weights, partial(shown, t) if keep or edit else unedited, masks.at(t))
        if taken is None:
            states, hidden = new, new[0]
        else:
            states = tuple(torch.where(taken, after, before) for after, before in zip(new, states, strict=True))
            hidden = new[0].masked_fill(~taken, 0)
        outputs.append(hidden)
    if reverse:
        outputs.reverse()
        for values in steps.values():
            values.reverse()
    kept = {name: Steps(torch.stack(values), tuple(values)) for name, values in steps.items()}
    return Unrolled(torch.stack(outputs), states, kept)
