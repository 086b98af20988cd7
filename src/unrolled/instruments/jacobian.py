"""The derivative of one step: how each state after it depends on each state before it, in four blocks for an LSTM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.drawing.panels import Panel, bare
from unrolled.instruments.opened import Course, OpenLayer, as_exact, checked_steps, course, exact, open_layer
from unrolled.instruments.result import Result, labelled
from unrolled.instruments.tangent import carry
from unrolled.intervals import Interval
from unrolled.structure import state_sizes


@dataclass(frozen=True, eq=False, repr=False)
class Jacobian(Result):
    """d (h, c)_t / d (h, c)_(t-1) along given inputs.

    Variables of `data`: for states a and b, `a_by_b` (sequence, step, a_unit, b_unit_before), the derivative of a after
    the step with respect to b before it: `cell_by_cell`, `cell_by_hidden`, `hidden_by_cell`, `hidden_by_hidden`.
    """

    @property
    def blocks(self) -> list[str]:
        return [str(name) for name in self.data.data_vars]

    def full(self) -> NDArray[np.float64]:
        """(B, T, n, n) all states together, in the order of the table of cells."""
        states = list(self.data.attrs["states"])
        rows = [np.concatenate([self.data[f"{a}_by_{b}"].values for b in states], axis=-1) for a in states]
        return np.concatenate(rows, axis=-2)

    def norms(self, block: str) -> NDArray[np.float64]:
        """(B, T) largest singular value of a block: by how much it can magnify a change."""
        return np.asarray(np.linalg.norm(self.data[block].values, ord=2, axis=(-2, -1)), dtype=np.float64)

    def summary(self) -> str:
        said = [f"{name.replace('_', ' ')} {Interval.over(self.norms(name).mean(1)).text}" for name in self.blocks]
        return f"Largest factor by which one step can magnify a change, mean over steps: {', '.join(said)}."

    def panels(self) -> Sequence[Panel]:
        steps = self.data["step"].values
        curves = [bare(name.replace("_", " "), *_look(name), steps, self.norms(name).mean(0)) for name in self.blocks]
        return (Panel("Jacobian of a step", "step", "largest singular value", tuple(curves)),)


def _look(block: str) -> tuple[str, str]:
    to, _, by = block.partition("_by_")
    return {"cell": "lstm", "hidden": "gru"}[to], by


def jacobian(
    model: nn.Module, inputs: Tensor, *, layer: str | None = None, steps: Sequence[int] | None = None
) -> Jacobian:
    """The Jacobian of a layer's steps in closed form, in float64 on a copy of the model in eval mode.

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I), what the model is called with.
        layer: the recorded layer; may be omitted where there is one.
        steps: which; all if omitted, which takes B * T * n * n numbers for n units of all states.

    Raises:
        ValueError: a step is not in the sequences, or the layer is not in the model.
    """
    model = exact(model)
    opened = open_layer(model, layer)
    found = course(model, as_exact(inputs), opened)
    length = found.after[0].size(1)
    chosen = list(range(length)) if steps is None else checked_steps(steps, length)
    states = opened.cell.states
    sizes = state_sizes(opened.module)
    along = [length - 1 - t for t in chosen] if opened.reverse else chosen
    parts = [jacobian_at(opened, found, t) for t in along]
    variables = {}
    for row, to in enumerate(states):
        for column, by in enumerate(states):
            blocks = torch.stack([part[row][column] for part in parts], dim=1)
            dims = ("sequence", "step", f"{to}_unit", f"{by}_unit_before")
            variables[f"{to}_by_{by}"] = (dims, blocks.numpy(force=True))
    coords = {"sequence": np.arange(len(found.after[0])), "step": chosen}
    coords |= {f"{state}_unit{when}": np.arange(sizes[state]) for state in states for when in ("", "_before")}
    return Jacobian(labelled(variables, coords, layer=opened.name, states=list(states)))


def jacobian_at(layer: OpenLayer, course: Course, t: int) -> list[list[Tensor]]:
    """The blocks at one place along the recurrence: [to][by] (B, ·, ·)."""
    before, after = tuple(s[:, t] for s in course.before), tuple(s[:, t] for s in course.after)
    return blocks_of(layer, before, after, tuple(g[:, t] for g in course.gates))


def blocks_of(
    layer: OpenLayer, before: tuple[Tensor, ...], after: tuple[Tensor, ...], gates: tuple[Tensor, ...]
) -> list[list[Tensor]]:
    """The blocks of a step: [to][by] (B, ·, ·)."""
    sizes = [state.size(-1) for state in before]
    carried = carry(layer, before, after, gates, tuple(_units(before, sizes)))
    return [list(to.split(sizes, dim=-1)) for to in carried]


def _units(states: tuple[Tensor, ...], sizes: list[int]) -> Iterator[Tensor]:
    """A unit tangent for every unit of every state: for each state (B, ·, n)."""
    everything = torch.eye(sum(sizes), dtype=states[0].dtype, device=states[0].device)
    for state, rows in zip(states, everything.split(sizes), strict=True):
        yield rows.expand(state.size(0), -1, -1)
