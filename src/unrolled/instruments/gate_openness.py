"""How open gates are at the steps that matter, beside the steps that do not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GateOpenness:
    """Openness (0 shut, 1 open) of a layer's gate at two kinds of steps.

    Attributes:
        matter: mean over units, sequences and the steps that matter.
        rest: the same over the other steps.
        difference: mean over units of the size of the unit's own difference between the two, in openness. Units may
            open or shut,
            so their differences are taken without sign.
        effect: Cohen's d, the mean over units of the size of the unit's difference in its own standard deviations
            within the two kinds of steps (Cohen 1988); units that never change are left out.
    """

    matter: float
    rest: float
    difference: float
    effect: float


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
    matter, rest = openness[marks], openness[~marks]  # (N, H)
    difference = (matter.mean(0) - rest.mean(0)).abs()
    spread = ((matter.var(0, correction=0) + rest.var(0, correction=0)) / 2).sqrt()
    moving = spread > 1e-9
    effect = (difference[moving] / spread[moving]).mean() if bool(moving.any()) else torch.tensor(0.0)
    return GateOpenness(float(matter.mean()), float(rest.mean()), float(difference.mean()), float(effect))
