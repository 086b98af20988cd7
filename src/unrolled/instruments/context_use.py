"""How much of the past a network uses: its loss when the context further back than k steps is taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.drawing.panels import Curve, Panel
from unrolled.instruments.opened import Batches, Loss, stream
from unrolled.instruments.reading import measured
from unrolled.instruments.result import Result, labelled
from unrolled.intervals import Interval, number


@dataclass(frozen=True, eq=False, repr=False)
class ContextUse(Result):
    """The loss at the last step against how much of the context is left.

    Variables of `data`:
        loss (context, sequence): with the last `context` inputs as they are.
        whole (sequence): with all of them.
    """

    def rise(self, context: int) -> Interval:
        """By how much the loss is higher than with the whole context, with its interval over sequences."""
        return Interval.over((self.data["loss"].sel(context=context) - self.data["whole"]).values)

    @property
    def contexts(self) -> list[int]:
        return [int(k) for k in self.data["context"].values]

    def used(self, share: float = 0.05) -> int | None:
        """The shortest context from which on the loss stays within a share of its rise at the shortest one tried.

        None if none is; where the loss does not rise at all it is the shortest.
        """
        rises = [self.rise(k).mean for k in self.contexts]
        allowed = share * max(rises[0], 0.0)
        within = [all(rise <= allowed for rise in rises[i:]) for i in range(len(rises))]
        return next((k for k, good in zip(self.contexts, within, strict=True) if good), None)

    def summary(self) -> str:
        whole = Interval.over(self.data["whole"].values)
        shortest = self.contexts[0]
        used = self.used()
        reach = "more context than was left at most" if used is None else f"a context of {_steps(used)}"
        how = "cut" if self.data.attrs["how"] == "cut" else "shuffled"
        return (
            f"With the context beyond {_steps(shortest)} {how} the loss rises by {self.rise(shortest).text} from "
            f"{number(whole.mean)}; all but a twentieth of that is made good by {reach}."
        )

    def panels(self) -> Sequence[Panel]:
        intervals = [Interval.over(row) for row in self.data["loss"].transpose("context", "sequence").values]
        x = tuple(map(float, self.contexts))
        bounds = (tuple(i.mean for i in intervals), tuple(i.low for i in intervals), tuple(i.high for i in intervals))
        whole = Interval.over(self.data["whole"].values).mean
        lines = (("whole context", whole),)
        curve = Curve(f"{self.data.attrs['how']} beyond", "lstm", "cell", x, *bounds)
        title, x_label = "Loss against context", "inputs left as they are"
        return (Panel(title, x_label, "loss at the last step", (curve,), lines, log_x=True),)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def context_use(
    model: nn.Module,
    inputs: Batches,
    loss: Loss,
    contexts: Sequence[int],
    *,
    how: Literal["cut", "shuffle"] = "cut",
    seed: int = 0,
) -> ContextUse:
    """Measure the loss at the last step with only the last k inputs left as they are (Khandelwal et al. 2018).

    Args:
        model: what is called with inputs.
        inputs: (B, T, I) or (B, T); or an iterable of batches, each a tensor or a tuple of one and what the loss needs
            besides.
        loss: the model's output, and the rest of the batch if there is one -> (B,) loss of each sequence at the last
            step, to be found at -1 in time however long the input is.
        contexts: the k to try, 1 to T.
        how: "cut" begins with the last k inputs and zero states, so that the network has seen fewer steps; "shuffle"
            keeps the number of steps and draws a new order of the inputs before.
        seed: of the orders.

    Raises:
        ValueError: a context does not fit the sequences, or the loss is not one figure for each.
    """
    if how not in ("cut", "shuffle"):
        raise ValueError(f"how: given {how!r}, expected 'cut' or 'shuffle'")
    chosen = sorted({int(k) for k in contexts})
    if not chosen:
        raise ValueError("contexts: none were given")
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[Tensor]] = [[] for _ in chosen]
    whole: list[Tensor] = []
    for batch in stream(inputs):
        x, length = batch.inputs, batch.inputs.size(1)
        for k in (chosen[0], chosen[-1]):
            if not 1 <= k <= length:
                raise ValueError(f"contexts: {k} does not fit sequences of {length} steps; expected 1 to {length}")
        with measured(model):
            whole.append(_losses(model, x, loss, batch.rest))
            for row, k in zip(rows, chosen, strict=True):
                kept = x[:, length - k :] if how == "cut" else _shuffled(x, length - k, generator)
                row.append(_losses(model, kept, loss, batch.rest))
    variables = {
        "loss": (("context", "sequence"), torch.stack([torch.cat(row) for row in rows]).numpy(force=True)),
        "whole": (("sequence",), torch.cat(whole).numpy(force=True)),
    }
    coords = {"context": chosen, "sequence": np.arange(sum(map(len, whole)))}
    return ContextUse(labelled(variables, coords, how=how))


def _losses(model: nn.Module, inputs: Tensor, loss: Loss, rest: tuple[object, ...]) -> Tensor:
    losses = loss(model(inputs), *rest)
    if losses.shape != inputs.shape[:1]:
        raise ValueError(f"loss: gave shape {tuple(losses.shape)}; expected one for each sequence, ({inputs.size(0)},)")
    return losses.double().cpu()


def _shuffled(inputs: Tensor, first: int, generator: torch.Generator) -> Tensor:
    """The first steps of each sequence in an order of its own."""
    order = torch.rand(inputs.size(0), first, generator=generator).argsort(1).to(inputs.device)
    index = order.reshape(*order.shape, *(1,) * (inputs.dim() - 2)).expand(-1, -1, *inputs.shape[2:])
    return torch.cat([inputs[:, :first].gather(1, index), inputs[:, first:]], dim=1)
