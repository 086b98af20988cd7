"""How open gates are at the steps that matter, beside the steps that do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from unrolled.drawing.panels import Panel, bare
from unrolled.instruments.result import Result, labelled
from unrolled.intervals import Interval, number


@dataclass(frozen=True, eq=False, repr=False)
class GateOpenness(Result):
    """Openness (0 shut, 1 open) of a layer's gate at two kinds of steps.

    Variables of `data`, by unit: `at_marked` and `at_rest`, mean openness over sequences and those steps; `spread`, the
    standard deviation within the two kinds of steps.
    """

    @property
    def matter(self) -> float:
        """Mean over units, sequences and the steps that matter."""
        return float(self.data["at_marked"].mean())

    @property
    def rest(self) -> float:
        """The same over the other steps."""
        return float(self.data["at_rest"].mean())

    @property
    def difference(self) -> float:
        """Mean over units of the size of the unit's own difference: units may open or shut, so it is without sign."""
        return float(abs(self.data["at_marked"] - self.data["at_rest"]).mean())

    @property
    def effect(self) -> float:
        """Cohen's d, the mean over units of that size in the unit's own standard deviations (Cohen 1988).

        Units that never change are left out.
        """
        spread = self.data["spread"].values
        moving = spread > 1e-9
        size = np.abs(self.data["at_marked"].values - self.data["at_rest"].values)
        return float((size[moving] / spread[moving]).mean()) if moving.any() else 0.0

    def summary(self) -> str:
        over = Interval.over((self.data["at_marked"] - self.data["at_rest"]).values)
        return (
            f"The gate is open by {number(self.matter)} where it matters and {number(self.rest)} elsewhere, a "
            f"difference of {over.text} over units; mean size of the effect (Cohen's d) {number(self.effect)}."
        )

    def panels(self) -> Sequence[Panel]:
        order = np.argsort(-(self.data["at_marked"] - self.data["at_rest"]).values)
        x = np.arange(len(order))
        curves = (
            bare("steps that matter", "lstm", "cell", x, self.data["at_marked"].values[order]),
            bare("other steps", "rnn", "hidden", x, self.data["at_rest"].values[order]),
        )
        return (Panel("Openness of the gate", "unit, in the order of the difference", "openness", curves),)


def gate_openness(gate: Tensor, marks: Tensor, *, open_at: int = 1) -> GateOpenness:
    """Compare a gate between marked steps and the rest.

    Args:
        gate: (B, T, H) a recorded gate between 0 and 1.
        marks: (B, T) bool, the steps that matter.
        open_at: 1 if the gate is open at 1, 0 if it is open at 0 (a GRU's update gate lets the input in at 0).

    Raises:
        ValueError: shapes that do not fit, or marks that are all true or all false.
    """
    if marks.shape != gate.shape[:2]:
        raise ValueError(
            f"marks: shape {tuple(marks.shape)} does not fit gate {tuple(gate.shape)}; expected its (B, T)"
        )
    if bool(marks.all()) or not bool(marks.any()):
        raise ValueError("marks: every step or no step is marked; there is nothing to compare")
    openness = gate.detach().double()
    if not open_at:
        openness = 1 - openness
    marked, rest = openness[marks], openness[~marks]  # (N, H)
    spread = ((marked.var(0, correction=0) + rest.var(0, correction=0)) / 2).sqrt()
    variables = {
        "at_marked": (("unit",), marked.mean(0).numpy(force=True)),
        "at_rest": (("unit",), rest.mean(0).numpy(force=True)),
        "spread": (("unit",), spread.numpy(force=True)),
    }
    return GateOpenness(labelled(variables, {"unit": np.arange(gate.size(-1))}))
