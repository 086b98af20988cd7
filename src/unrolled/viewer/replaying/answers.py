"""What a model's answers are: classes or values, of every step or of the sequence, their names and what is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Loss = Literal["classes", "values"]


class Answers:
    """The answers that are expected of a model.

    Args:
        inputs: (B, T, ...), what is answered.
        every: whether every step is answered; else the sequence.
        targets: (B, T) or (B, T, K), (B,) or (B, K) where the sequence is answered; None if not known.
        outputs: K names; numbers if empty.
        loss: "classes" or "values"; as the targets are if omitted, values where there are none.

    Raises:
        TypeError: targets of classes are not whole numbers.
        ValueError: targets do not fit the inputs.
    """

    def __init__(
        self, inputs: Tensor, every: bool, targets: Tensor | None, outputs: Sequence[str], loss: Loss | None
    ) -> None:
        if loss not in (None, "classes", "values"):
            raise ValueError(f"loss: given {loss!r}, expected 'classes' or 'values'")
        self.every = every
        self.targets = None if targets is None else targets.detach().cpu()
        self.outputs = tuple(map(str, outputs))
        self.loss: Loss = loss or ("values" if targets is None or targets.is_floating_point() else "classes")
        if self.targets is None:
            return
        if self.loss == "classes" and self.targets.is_floating_point():
            raise TypeError(f"targets: expected whole numbers for classes, given {self.targets.dtype}")
        answered, shape = tuple(inputs.shape[: 2 if every else 1]), tuple(self.targets.shape)
        if (shape if self.loss == "classes" else shape[: len(answered)]) != answered:
            more = "" if self.loss == "classes" else ", and then the outputs"
            raise ValueError(f"targets: shape {shape} does not fit; expected {answered}{more}")

    def right(self, sequence: int, start: int, stop: int) -> Tensor | None:
        """The targets of a window, or of the sequence where that is answered; None if there are none.

        Returns:
            (n,) classes, below 0 where there is none, or (n, K) float64 values, NaN where there is none.
        """
        if self.targets is None:
            return None
        found = self.targets[sequence, start:stop] if self.every else self.targets[sequence : sequence + 1]
        return found.long() if self.loss == "classes" else found.double().reshape(len(found), -1)

    def name(self, output: int) -> str:
        """What an output is called."""
        return self.outputs[output] if self.outputs else str(output)

    def check(self, count: int) -> None:
        """Complain about names of outputs, or targets, that do not fit a model with `count` outputs.

        Raises:
            ValueError: they do not.
        """
        if self.outputs and len(self.outputs) != count:
            raise ValueError(f"outputs: {len(self.outputs)} names were given, and the model has {count} outputs")
        if self.targets is None or not self.targets.numel():
            return
        if self.loss == "classes":
            largest = int(self.targets.max())
            if largest >= count:
                raise ValueError(f"targets: class {largest} is among them, and the model has {count} outputs")
            return
        width = self.targets.numel() // torch.Size(self.targets.shape[: 2 if self.every else 1]).numel()
        if width != count:
            raise ValueError(f"targets: have {width} values an answer, and the model has {count} outputs")
