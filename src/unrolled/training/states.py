"""What the states and gates look like while a network is trained: a few sums for each, joined across processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.problems.problem import ALL, Problem, answer
from unrolled.recurrence.cells import CELLS
from unrolled.trace import record
from unrolled.training.world import World

# A gate counts as open or closed beyond these values of its sigmoid.
OPEN, CLOSED = 0.9, 0.1
_STATES = ("hidden", "cell")
_GATES = {name for cell in CELLS.values() for name in cell.gates if name.endswith("gate")}


def look(model: nn.Module, problem: Problem, world: World) -> dict[str, Mapping[str, float]]:
    """Figures of every state and gate over the first piece of the validation part.

    Returns:
        Recorded name -> for a state its "mean" and root mean square ("rms"), for a gate its "mean" and the shares of
        units and steps at which it is "open" (above 0.9) and "closed" (below 0.1).
    """
    piece = next(problem.pieces("validation", ALL))
    rows = world.share.rows(len(piece.inputs))
    own = rows.stop > rows.start
    # A process without a share looks at the whole, to know the names, and adds nothing.
    batch = piece.rows(rows) if own else piece
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), record(model, detach=True) as trace:
            answer(model, batch.to(world.device), None)
    finally:
        model.train(training)
    names = [name for name in trace if name.rpartition(".")[2] in {*_STATES, *_GATES}]
    sums = torch.stack([_sums(trace[name], trace.lengths(name)) for name in names]).cpu()
    total = world.total(sums if own else torch.zeros_like(sums))
    return {name: _figures(name, row) for name, row in zip(names, total.tolist(), strict=True)}


def _sums(values: Tensor, lengths: Tensor | None) -> Tensor:
    """(5,) float64: count, sum, squares, open, closed over the steps that were taken of values: (B, T, H)."""
    if lengths is not None:
        taken = torch.arange(values.size(1), device=values.device) < lengths.to(values.device).unsqueeze(1)
        values = values[taken]
    figures = values.new_tensor(values.numel(), dtype=torch.float64)
    wide = values.double()
    return torch.stack((figures, wide.sum(), wide.square().sum(), (wide > OPEN).sum(), (wide < CLOSED).sum()))


def _figures(name: str, sums: list[float]) -> dict[str, Any]:
    count, total, squares, opened, closed = sums
    if name.rpartition(".")[2] in _STATES:
        return {"mean": total / count, "rms": (squares / count) ** 0.5}
    return {"mean": total / count, "open": opened / count, "closed": closed / count}
