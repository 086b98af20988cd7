"""What every backend returns for one layer in one direction over a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from unrolled.recurrence.cells import States


@dataclass(frozen=True)
class Steps:
    """One state or gate at every step, in the order of time.

    Attributes:
        whole: (T, B, ·) in the autograd graph.
        sources: where in the graph the gradient with respect to the values is asked for, along every path by which a
            loss depends on them: T tensors (B, ·), the nodes that later steps were computed from, or one tensor.
        units: which part of the last dimension of `whole` is meant; all of it if None.
        part: what in the gradient of the one source belongs to the values: (...,) source -> (..., T, B, ·).
        asked: a context in which the gradient of the sources is formed.
    """

    whole: Tensor
    sources: tuple[Tensor, ...]
    units: slice | None = None
    part: Callable[[Tensor], Tensor] | None = None
    asked: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def values(self) -> Tensor:
        """(T, B, ·), in the autograd graph. After a sequence's end they hold values that nothing depends on."""
        return self.whole if self.units is None else self.whole[..., self.units]

    @property
    def shape(self) -> tuple[int, int, int]:
        """T, B and the width."""
        steps, batch, width = self.whole.shape
        return steps, batch, width if self.units is None else self.units.stop - self.units.start

    def join(self, gradients: Sequence[Tensor]) -> Tensor:
        """Gradients of the sources, each with leading dimensions (...,) before its own -> (..., T, B, ·)."""
        return torch.stack(tuple(gradients), dim=-3) if self.part is None else self.part(gradients[0])

    def detached(self) -> Steps:
        """The values alone."""
        whole = self.whole.detach()
        return Steps(whole, (whole,), self.units)


@dataclass(frozen=True)
class Unrolled:
    """One layer in one direction over a sequence.

    Attributes:
        output: (T, B, P) hidden states; zero after a sequence's end.
        final: the states after the last step taken, each (B, ·).
        steps: what was asked to be kept, by name.
    """

    output: Tensor
    final: States
    steps: dict[str, Steps]
