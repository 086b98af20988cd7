"""What every backend returns for one layer in one direction over a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from unrolled.recurrence.cells import States


@dataclass(frozen=True, eq=False)
class Steps:
    """One state or gate at every step, in the order of time.

    Attributes:
        whole: (T, B, ·) in the autograd graph.
        sources: where in the graph the gradient with respect to the values is asked for, along every path by which a
            loss depends on them: T tensors (B, ·), the nodes that later steps were computed from, or one tensor.
        units: which part of the last dimension of `whole` is meant; all of it if None.
        part: what of the sources' gradients belongs to the values: each (...,) source -> (..., T, B, ·); stacked along
            time if None and the sources are not `whole` itself.
        asked: a context in which the gradient of the sources is formed.
    """

    whole: Tensor
    sources: tuple[Tensor, ...]
    units: slice | None = None
    part: Callable[[Sequence[Tensor]], Tensor] | None = None
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
        if self.part is not None:
            return self.part(gradients)
        if self.sources[0] is not self.whole:
            return torch.stack(tuple(gradients), dim=-3)
        return gradients[0] if self.units is None else gradients[0][..., self.units]

    def detached(self) -> Steps:
        """The values alone."""
        whole = self.whole.detach()
        return Steps(whole, (whole,), self.units)


def joined(pieces: Sequence[Steps]) -> Steps:
    """Pieces of one sequence, in the order of time, as one."""
    if len(pieces) == 1:
        return pieces[0]
    whole = torch.cat([piece.values for piece in pieces])
    # What no gradient reaches cannot be asked for one: torch.autograd.grad would refuse all of them.
    reached = tuple(source for piece in pieces for source in piece.sources if source.requires_grad)
    if not reached:
        return Steps(whole, (whole,))

    def part(gradients: Sequence[Tensor]) -> Tensor:
        leading = gradients[0].shape[: gradients[0].dim() - reached[0].dim()]
        given, zeros = iter(gradients), gradients[0].new_zeros

        def of(piece: Steps) -> Tensor:
            return piece.join([next(given) if s.requires_grad else zeros((*leading, *s.shape)) for s in piece.sources])

        return torch.cat([of(piece) for piece in pieces], dim=-3)

    @contextmanager
    def asked() -> Iterator[None]:
        with ExitStack() as stack:
            for piece in pieces:
                stack.enter_context(piece.asked())
            yield

    return Steps(whole, reached, part=part, asked=asked)


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
