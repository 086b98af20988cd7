"""What each past step contributed to a state that a gate keeps: the cell of an LSTM, the hidden state of a GRU."""

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
from unrolled.intervals import Interval

_CHUNK = 256  # steps whose contributions are formed at once


@dataclass(frozen=True, eq=False, repr=False)
class CellDecomposition(Result):
    """c_t as a sum over the steps that wrote it.

    Variables of `data`:
        contribution (step, sequence, source, unit): what step `source` contributed to the state at `step`; NaN for
            those that the layer had not read by then.
        initial (step, sequence, unit): what is left of the state before the first step.
        value (step, sequence, unit): the state itself, which the others sum up to.
    """

    def age(self) -> NDArray[np.float64]:
        """(step, sequence) mean age in steps of what makes the state up, each step weighed by |contribution|."""
        contribution = np.abs(np.nan_to_num(self.data["contribution"].values)).sum(-1)  # (N, B, T)
        ages = np.abs(self.data["step"].values[:, None] - self.data["source"].values[None])  # (N, T)
        total = contribution.sum(-1)
        weighed = (contribution * ages[:, None]).sum(-1)
        return np.asarray(np.divide(weighed, total, out=np.full_like(weighed, np.nan), where=total > 0))

    def error(self) -> float:
        """The largest difference between the state and the sum of its parts."""
        parts = np.nansum(self.data["contribution"].values, axis=2) + self.data["initial"].values
        return float(np.abs(parts - self.data["value"].values).max())

    def summary(self) -> str:
        age = Interval.over(self.age()[-1])
        at = f"the {self.data.attrs['state']} state at step {int(self.data['step'].values[-1])}"
        return f"What makes up {at} was written {age.text} steps away."

    def panels(self) -> Sequence[Panel]:
        sizes = np.abs(self.data["contribution"].values).sum(-1).mean(1)  # (N, T)
        sources = self.data["source"].values
        curves = []
        for step, row in zip(self.data["step"].values, sizes, strict=True):
            seen = np.isfinite(self.data["contribution"].sel(step=step).values).all((0, 2))
            curves.append(bare(f"at step {step}", "lstm", "cell", sources[seen], row[seen]))
        return (Panel("Who wrote the state", "step that wrote", "sum over units of |contribution|", tuple(curves)),)


def decompose_cell(
    model: nn.Module, inputs: Tensor, *, layer: str | None = None, steps: Sequence[int] | None = None
) -> CellDecomposition:
    """Decompose a state into what each past step contributed, exactly.

    c_t = sum over k of (product of f_j for k < j <= t) i_k g_k + (product of all f_j) c_0, Levy et al. (2018),
    equation 6. A GRU's hidden state is the same with z, 1 - z and n. In float64, on a copy of the model in eval mode.

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I), what the model is called with.
        layer: the recorded layer; may be omitted where there is one.
        steps: the t to decompose at; the last that the layer takes if omitted. Each takes B * T * H numbers.

    Raises:
        ValueError: the cell has no gate that keeps, or does more to the state than its gates say (zoneout); a step is
            not in the sequences.
    """
    model = exact(model)
    opened = open_layer(model, layer)
    if "keep" not in opened.cell.opens:
        raise ValueError(f"layer: the {opened.cell.name} {opened.name!r} has no gate that keeps a state")
    found = course(model, as_exact(inputs), opened)
    state = opened.cell.states[-1]
    kept, length = found.after[-1], found.after[-1].size(1)
    last = 0 if opened.reverse else length - 1
    chosen = [last] if steps is None else sorted(set(checked_steps(steps, length)))
    along = [length - 1 - t for t in chosen] if opened.reverse else chosen
    written = _gate(opened, found, "write") * found.gates[opened.cell.gates.index("candidate")]  # (B, T, H)
    forgets = _gate(opened, found, "keep")
    step_error = (forgets * found.before[-1] + written - kept).abs().max()
    if step_error > 1e-9 * kept.abs().max().clamp_min(1):
        raise ValueError(
            f"layer: the {state} state of the {opened.cell.name} {opened.name!r} is not what its gates keep and write "
            f"(off by {float(step_error):.2g}), so it does not decompose"
        )
    contributions = torch.full((len(chosen), *written.shape), torch.nan, dtype=torch.float64)
    left = torch.empty(len(chosen), len(kept), kept.size(-1), dtype=torch.float64)
    for number, t in enumerate(along):
        product = torch.ones_like(kept[:, 0])
        for part in _backwards(t):
            # For each step k of the chunk the product of the gates from k + 1 to t.
            later = torch.cat([forgets[:, part.start + 1 : part.stop], product.unsqueeze(1)], dim=1)
            shares = later.flip(1).cumprod(1).flip(1)
            contributions[number, :, part] = shares * written[:, part]
            product = shares[:, 0] * forgets[:, part.start]
        left[number] = product * found.before[-1][:, 0]
    values = torch.stack([kept[:, t] for t in along])
    if opened.reverse:
        contributions = contributions.flip(2)
    variables = {
        "contribution": (("step", "sequence", "source", "unit"), contributions.numpy(force=True)),
        "initial": (("step", "sequence", "unit"), left.numpy(force=True)),
        "value": (("step", "sequence", "unit"), values.numpy(force=True)),
    }
    coords = {
        "step": chosen,
        "sequence": np.arange(len(kept)),
        "source": np.arange(length),
        "unit": np.arange(kept.size(-1)),
    }
    return CellDecomposition(labelled(variables, coords, layer=opened.name, state=state))


def _gate(layer: OpenLayer, found: Course, meaning: str) -> Tensor:
    """(B, T, H) how open the gate that keeps, or the one that writes, is."""
    name, open_at = layer.cell.opens[meaning]
    gate = found.gates[layer.cell.gates.index(name)]
    return gate if open_at else 1 - gate


def _backwards(t: int) -> Iterator[slice]:
    """Chunks of the steps 0 to t, the last first."""
    end = t + 1
    while end > 0:
        yield slice(max(0, end - _CHUNK), end)
        end = max(0, end - _CHUNK)
