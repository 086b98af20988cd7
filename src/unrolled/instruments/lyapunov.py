"""Lyapunov exponents of the full state: how fast two nearby trajectories part or meet, in nats a step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.recurrence.cells import Weights
from unrolled.structure import cell_of, state_sizes, weights_of


def lyapunov(
    layer: nn.RNNBase, inputs: Tensor, *, count: int = 1, warm_up: int = 10, seed: int = 0
) -> NDArray[np.float64]:
    """The `count` largest Lyapunov exponents along given inputs, averaged over sequences.

    The tangent vectors are carried through the Jacobian of all states together, (h, c) for an LSTM, and
    orthonormalised at every step by QR (Engelken et al. 2023; Vogt et al. 2022). An LSTM's exponents computed from h
    alone would miss the
    cell's own path.

    Args:
        layer: one layer, one direction.
        inputs: (B, T, I), what the layer is driven with.
        count: how many exponents, largest first.
        warm_up: first steps that are left out while the tangents turn into their directions.
        seed: of the first tangents.

    Returns:
        (count,) exponents in nats a step; below 0 trajectories meet.

    Raises:
        ValueError: several layers or directions, more exponents than states, or nothing left after the warm-up.
    """
    if layer.num_layers != 1 or layer.bidirectional:
        raise ValueError(
            f"layer: exponents are of one layer in one direction, given {layer.num_layers} layers"
            f"{' in two directions' if layer.bidirectional else ''}"
        )
    batch, length, _ = inputs.shape
    if not 0 <= warm_up < length:
        raise ValueError(f"warm_up: {warm_up} leaves nothing of {length} steps; expected less than {length}")
    cell, sizes = cell_of(layer), list(state_sizes(layer).values())
    if not 1 <= count <= sum(sizes):
        raise ValueError(f"count: {count} exponents of {sum(sizes)} states; expected 1 to {sum(sizes)}")
    weights = Weights._make(None if w is None else w.detach().double() for w in weights_of(layer, "l0"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        projected = cell.project(inputs.double(), weights).unbind(1)
        state = torch.zeros(batch, sum(sizes), dtype=torch.float64, device=inputs.device)
        tangents = torch.randn(count, batch, sum(sizes), generator=generator, dtype=torch.float64).to(inputs.device)
        growth = torch.zeros(count, dtype=torch.float64, device=inputs.device)
        for t, x in enumerate(projected):

            def step(joined: Tensor, x: Tensor = x) -> Tensor:
                return torch.cat(cell.step(x, torch.split(joined, sizes, dim=-1), weights)[0], dim=-1)

            pushed = [torch.func.jvp(step, (state,), (tangent,)) for tangent in tangents]
            state = pushed[0][0]
            orthonormal, triangle = torch.linalg.qr(torch.stack([p[1] for p in pushed], dim=-1))  # (B, n, count)
            tangents = orthonormal.permute(2, 0, 1)
            if t >= warm_up:
                growth += triangle.diagonal(dim1=-2, dim2=-1).abs().log().mean(0)
    exponents: NDArray[np.float64] = (growth / (length - warm_up)).numpy(force=True)
    return exponents
