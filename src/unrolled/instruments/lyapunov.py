"""Lyapunov exponents of the full state: how fast two nearby trajectories part or meet, in nats a step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.drawing.panels import Curve, Panel
from unrolled.instruments.opened import as_exact, course, exact, open_layer
from unrolled.instruments.result import Result, labelled
from unrolled.instruments.tangent import carry
from unrolled.intervals import Interval

_BLOCKS = 10  # stretches of time whose means an interval is taken over


@dataclass(frozen=True, eq=False, repr=False)
class Lyapunov(Result):
    """The largest Lyapunov exponents along given inputs.

    Variables of `data`:
        exponent (index): in nats a step, largest first; below 0 trajectories meet.
        low, high (index): Student interval over the means of stretches of time, ten in each sequence.
        mean (index, sequence, stretch): those means.
    """

    @property
    def exponents(self) -> NDArray[np.float64]:
        """(k,) largest first."""
        return np.asarray(self.data["exponent"].values, dtype=np.float64)

    def summary(self) -> str:
        top = self.data.isel(index=0)
        over = Interval(float(top["exponent"]), float(top["low"]), float(top["high"]), 0)
        of = "the hidden state alone, without the cell's own path" if self.data.attrs["hidden_only"] else "all states"
        does = "trajectories part" if over.low > 0 else "trajectories meet" if over.high < 0 else "neither is certain"
        return f"The largest Lyapunov exponent of {of} is {over.text} nats a step: {does}."

    def panels(self) -> Sequence[Panel]:
        x = tuple(float(i) + 1 for i in self.data["index"].values)
        mean, low, high = (tuple(map(float, self.data[n].values)) for n in ("exponent", "low", "high"))
        spectrum = Curve("exponents", "lstm", "cell", x, mean, low, high)
        return (Panel("Lyapunov spectrum", "index", "exponent (nats a step)", (spectrum,), (("neutral", 0.0),)),)


def lyapunov(
    model: nn.Module,
    inputs: Tensor,
    *,
    layer: str | None = None,
    count: int = 1,
    warm_up: int = 10,
    hidden_only: bool = False,
    seed: int = 0,
) -> Lyapunov:
    """The `count` largest Lyapunov exponents of a layer along given inputs.

    Tangent vectors are carried through the Jacobian of all states together, (h, c) for an LSTM, and orthonormalised at
    every step by QR; an exponent is the mean logarithm of its vector's growth (Engelken et al. 2023; Vogt et al. 2022).
    In float64, on a copy of the model in eval mode.

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I), what the model is called with.
        layer: the recorded layer; may be omitted where there is one.
        count: how many exponents, largest first.
        warm_up: first steps that are left out while the tangents turn into their directions.
        hidden_only: carry the hidden state's block alone. For an LSTM that misses the cell's own path and gives a
            number that says nothing about its memory; it is there to compare with work that does so, and warns.
        seed: of the first tangents.

    Raises:
        ValueError: more exponents than states, or nothing left after the warm-up.
    """
    model = exact(model)
    opened = open_layer(model, layer)
    found = course(model, as_exact(inputs), opened)
    batch, length, _ = found.after[0].shape
    if not 0 <= warm_up < length:
        raise ValueError(f"warm_up: {warm_up} leaves nothing of {length} steps; expected less than {length}")
    sizes = [state.size(-1) for state in found.after]
    if hidden_only and len(sizes) > 1:
        warnings.warn(
            "lyapunov: hidden_only leaves the cell's own path out, so it says nothing about what the cell keeps",
            stacklevel=2,
        )
    followed = sizes[:1] if hidden_only else sizes
    if not 1 <= count <= sum(followed):
        raise ValueError(f"count: {count} exponents of {sum(followed)} states; expected 1 to {sum(followed)}")
    generator = torch.Generator().manual_seed(seed)
    tangents = torch.randn(batch, sum(followed), count, generator=generator, dtype=torch.float64).to(inputs.device)
    growth = torch.empty(length, batch, count, dtype=torch.float64, device=inputs.device)
    with torch.no_grad():
        for t in range(length):
            before, after = tuple(s[:, t] for s in found.before), tuple(s[:, t] for s in found.after)
            split = list(tangents.split(followed, dim=1))
            split += [tangents.new_zeros(batch, size, count) for size in sizes[len(followed) :]]
            moved = carry(opened, before, after, tuple(g[:, t] for g in found.gates), tuple(split))
            tangents, triangle = torch.linalg.qr(torch.cat(moved[: len(followed)], dim=1))
            growth[t] = triangle.diagonal(dim1=-2, dim2=-1).abs().log()
    kept = growth[warm_up:]
    blocks = torch.stack([part.mean(0) for part in kept.tensor_split(min(_BLOCKS, len(kept)))], dim=-1)  # (B, k, N)
    exponents = kept.mean((0, 1)).numpy(force=True)
    order = np.argsort(-exponents, kind="stable")
    by_index = blocks.permute(1, 0, 2).numpy(force=True)[order]
    intervals = [Interval.over(values.ravel()) for values in by_index]
    variables = {
        "exponent": (("index",), exponents[order]),
        "low": (("index",), np.array([i.low for i in intervals])),
        "high": (("index",), np.array([i.high for i in intervals])),
        "mean": (("index", "sequence", "stretch"), by_index),
    }
    coords = {"index": np.arange(count), "sequence": np.arange(batch), "stretch": np.arange(by_index.shape[-1])}
    return Lyapunov(labelled(variables, coords, layer=opened.name, hidden_only=int(hidden_only), warm_up=warm_up))
