"""Where a network comes to rest under a constant input, and whether it stays there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.drawing.panels import Panel, bare
from unrolled.instruments.jacobian import blocks_of
from unrolled.instruments.opened import OpenLayer, as_exact, course, exact, open_layer
from unrolled.instruments.result import Result, labelled
from unrolled.intervals import number
from unrolled.recurrence.cells import NO_MASKS, Masks, States
from unrolled.structure import state_sizes


@dataclass(frozen=True, eq=False, repr=False)
class FixedPoints(Result):
    """States s with F(s, x) = s for a constant input x, stable ones first.

    Variables of `data`:
        state (point, unit): all states side by side in the order of the table of cells; `of` (unit) names each unit's.
        eigenvalue (point, index): of the Jacobian there, complex, largest first.
        stable (point): whether all are inside the unit circle.
        error (point): the largest change of a unit that a step there makes.
        found (point): from how many of the starts it was reached.
    """

    @property
    def stable(self) -> NDArray[np.bool_]:
        """(N,)"""
        return np.asarray(self.data["stable"].values, dtype=bool)

    def states(self, name: str) -> NDArray[np.float64]:
        """(N, ·) one of the states, "hidden" or "cell", at each point."""
        return np.asarray(self.data["state"].values[:, self.data["of"].values == name], dtype=np.float64)

    def unstable_directions(self) -> NDArray[np.int64]:
        """(N,) how many eigenvalues are outside the unit circle: 0 is stable, more is a saddle or a source."""
        return np.asarray((np.abs(self.data["eigenvalue"].values) >= 1).sum(1), dtype=np.int64)

    def summary(self) -> str:
        count, starts = len(self.stable), int(self.data.attrs["starts"])
        lost = starts - int(self.data["found"].values.sum())
        slow = [np.abs(e).max() for e in self.data["eigenvalue"].values[self.stable]]
        slowest = f"; the slowest eigenvalue of a stable one is {number(float(max(slow)))}" if slow else ""
        resting = f"{starts - lost} of {starts} starts came to rest"
        return f"{count} fixed point{'s' * (count != 1)}, {int(self.stable.sum())} stable ({resting}){slowest}."

    def panels(self) -> Sequence[Panel]:
        sizes = [np.sort(np.abs(row))[::-1] for row in self.data["eigenvalue"].values]
        curves = tuple(
            bare(
                f"{'stable' if stable else 'unstable'} point {i}",
                "lstm" if stable else "gru",
                "cell",
                np.arange(len(row)),
                row,
            )
            for i, (row, stable) in enumerate(zip(sizes, self.stable, strict=True))
        )
        title = "Eigenvalues at the fixed points"
        return (Panel(title, "index", "size of the eigenvalue", curves, (("stable below", 1.0),)),)


def fixed_points(
    model: nn.Module,
    inputs: Tensor,
    constant: Tensor | Sequence[float],
    *,
    layer: str | None = None,
    starts: int = 512,
    noise: float = 0.1,
    iterations: int = 200,
    tolerance: float = 1e-8,
    apart: float = 1e-3,
    seed: int = 0,
) -> FixedPoints:
    """Find the fixed points of a layer under a constant input (Sussillo & Barak 2013).

    The search begins at states that the network visits, with noise added, and goes down the squared speed
    |F(s, x) - s|² / 2 by damped Gauss-Newton steps (Levenberg-Marquardt) with the Jacobian in closed form, in float64
    on a copy of the model in eval mode. What it does not begin near it does not find.

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I), what the model is called with to visit states.
        constant: (I,) the constant input of the layer itself.
        layer: the recorded layer; may be omitted where there is one.
        starts: how many states are begun at.
        noise: added to each start, in standard deviations of each unit over the visited states.
        iterations: steps of the search at most.
        tolerance: the largest change of a unit in a step at which a state counts as fixed.
        apart: points nearer than this, in the largest difference of a unit, are one.
        seed: of the draw of the starts.

    Raises:
        ValueError: `constant` does not fit the layer's input.
    """
    model = exact(model)
    opened = open_layer(model, layer)
    weights = opened.weights
    x = torch.as_tensor(constant, dtype=torch.float64, device=weights.ih.device)
    if x.shape != (weights.ih.size(1),):
        raise ValueError(f"constant: shape {tuple(x.shape)} does not fit the layer; expected ({weights.ih.size(1)},)")
    sizes = list(state_sizes(opened.module).values())
    visited = torch.cat([s.flatten(0, 1) for s in course(model, as_exact(inputs), opened).after], dim=-1)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(visited), (starts,), generator=generator)
    spread = visited.std(0, correction=0)
    drawn = torch.randn(starts, sum(sizes), generator=generator, dtype=torch.float64)
    begun = visited[chosen.to(visited.device)] + noise * spread * drawn.to(visited.device)
    with torch.no_grad():
        projected = opened.cell.project(x.unsqueeze(0), weights)
        ended, speed = _descend(opened, projected, begun, sizes, iterations, tolerance)
        points, counts = _distinct(ended[speed < tolerance], apart)
        eigenvalues = torch.linalg.eigvals(_step(opened, projected, points, sizes)[1]) if len(points) else None
        errors = _error(opened, projected, points, sizes) if len(points) else None
    values = np.zeros((0, sum(sizes)), dtype=complex) if eigenvalues is None else eigenvalues.numpy(force=True)
    values = np.take_along_axis(values, np.argsort(-np.abs(values), axis=1), axis=1)
    stable = (np.abs(values) < 1).all(1)
    order = np.lexsort((-counts, ~stable))
    variables = {
        "state": (("point", "unit"), points.numpy(force=True)[order]),
        "eigenvalue": (("point", "index"), values[order]),
        "stable": (("point",), stable[order]),
        "error": (("point",), np.zeros(0) if errors is None else errors.numpy(force=True)[order]),
        "found": (("point",), counts[order]),
        "of": (("unit",), np.repeat(opened.cell.states, sizes)),
    }
    coords = {"point": np.arange(len(order)), "unit": np.arange(sum(sizes)), "index": np.arange(sum(sizes))}
    return FixedPoints(labelled(variables, coords, layer=opened.name, starts=starts))


def _still(layer: OpenLayer) -> Masks:
    """What the layer's random factors are outside of training."""
    draw = getattr(layer.module, "_noise", None)
    masks: Masks = NO_MASKS if draw is None else draw(layer.suffix, 1, 1, layer.weights.ih)
    return masks if masks is NO_MASKS else masks.at(0)


def _step(layer: OpenLayer, projected: Tensor, points: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """(N, n) states -> those after a step, and its Jacobian (N, n, n)."""
    before: States = points.split(sizes, dim=-1)
    after, gates = layer.cell.step(projected.expand(len(points), -1), before, layer.weights, masks=_still(layer))
    blocks = blocks_of(layer, before, after, gates)
    return torch.cat(after, dim=-1), torch.cat([torch.cat(row, dim=-1) for row in blocks], dim=-2)


def _error(layer: OpenLayer, projected: Tensor, points: Tensor, sizes: list[int]) -> Tensor:
    return (_step(layer, projected, points, sizes)[0] - points).abs().amax(-1)


def _descend(
    layer: OpenLayer, projected: Tensor, points: Tensor, sizes: list[int], iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Where the search ends, and the largest change of a unit there."""
    points = points.clone()
    eye = torch.eye(points.size(-1), dtype=points.dtype, device=points.device)
    damping = torch.full((len(points),), 1e-2, dtype=points.dtype, device=points.device)
    after, jacobian = _step(layer, projected, points, sizes)
    for _ in range(iterations):
        difference = after - points
        going = difference.abs().amax(-1) >= tolerance / 10
        if not going.any():
            break
        slope = jacobian[going] - eye
        square = slope.mT @ slope + damping[going, None, None] * eye
        move = torch.linalg.solve(square, -(slope.mT @ difference[going].unsqueeze(-1))).squeeze(-1)
        tried = points[going] + move
        tried_after, tried_jacobian = _step(layer, projected, tried, sizes)
        better = (tried_after - tried).norm(dim=-1) < difference[going].norm(dim=-1)
        index = going.nonzero().squeeze(1)
        taken = index[better]
        points[taken], after[taken], jacobian[taken] = tried[better], tried_after[better], tried_jacobian[better]
        damping[index] = torch.where(better, damping[index] / 5, damping[index] * 4).clamp(1e-12, 1e8)
    return points, (after - points).abs().amax(-1)


def _distinct(points: Tensor, apart: float) -> tuple[Tensor, NDArray[np.int64]]:
    """Points that are apart from each other, and how many there were of each."""
    kept: list[Tensor] = []
    counts: list[int] = []
    for point in points:
        near = [i for i, other in enumerate(kept) if float((point - other).abs().max()) < apart]
        if near:
            counts[near[0]] += 1
        else:
            kept.append(point)
            counts.append(1)
    return (torch.stack(kept) if kept else points[:0]), np.array(counts, dtype=np.int64)
