"""A layer composed of what computes one layer in one direction, for contestants that have no whole layer.

Their input is projected as part of the work, as in torch.nn's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unrolled.bench.numbers import Numbers, backward
from unrolled.bench.rows import INFERENCE

_Returned = tuple[Tensor, Mapping[str, Tensor]]
Entered = tuple[Callable[[], _Returned], Callable[[_Returned], dict[str, Tensor]]]


@dataclass(frozen=True)
class Steps:
    """How the steps of one layer in one direction are taken.

    Attributes:
        run: x (T, B, I) and the suffix of torch.nn's names, "l0" or "l1_reverse" -> states by name, (T, B, H) each:
            "hidden", and "cell" if there is one.
        parameters: the leaves that training gives a gradient.
        gradients: those gradients, by the names of torch.nn's parameters.
        batch_first: whether all sequences are (B, T, ·) instead.
    """

    run: Callable[[Tensor, str], Mapping[str, Tensor]]
    parameters: Sequence[Tensor]
    gradients: Callable[[], Mapping[str, Tensor | None]]
    batch_first: bool = False


def enter(numbers: Numbers, phase: str, steps: Steps) -> Entered:
    """The work, and what reads a Truth's results by name from what it returns."""
    row, time = numbers.row, 1 if steps.batch_first else 0
    x, target = numbers.input(phase), numbers.target
    if steps.batch_first:
        # Laid out beforehand, as those who call it hold it. The loss sees (T, B, ·) through a view.
        x = x.detach().transpose(0, 1).contiguous().requires_grad_(x.requires_grad)
        target = target.transpose(0, 1).contiguous().transpose(0, 1)

    def call() -> _Returned:
        states: dict[str, Tensor] = {}
        below = x
        for layer in range(row.layers):
            outputs = []
            for direction in ("", "_reverse")[: row.directions]:
                suffix = f"l{layer}{direction}"
                shown = steps.run(below.flip(time) if direction else below, suffix)
                if direction:
                    shown = {name: value.flip(time) for name, value in shown.items()}
                states |= {f"{suffix}.{name}": value for name, value in shown.items()}
                outputs.append(shown["hidden"])
            below = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        return below.transpose(0, 1) if steps.batch_first else below, states

    def infer() -> _Returned:
        with torch.inference_mode():
            return call()

    def train() -> _Returned:
        for leaf in (*steps.parameters, x):
            leaf.grad = None
        output, states = call()
        backward(row.loss, output, target)
        return output, states

    def read(returned: _Returned) -> dict[str, Tensor]:
        output, states = returned
        found = {"output": output.detach()}
        for name, value in states.items():
            found[name] = value.detach() if steps.batch_first else value.detach().transpose(0, 1)
        if phase == INFERENCE:
            return found
        for name, grad in steps.gradients().items():
            if grad is not None:
                found[f"gradient of {name}"] = grad
        if x.grad is not None:
            found["gradient of x"] = x.grad.transpose(0, 1) if steps.batch_first else x.grad
        return found

    return (infer if phase == INFERENCE else train), read


def suffixes(numbers: Numbers) -> list[str]:
    """The suffixes of torch.nn's names, one for each layer and direction."""
    row = numbers.row
    return [f"l{layer}{direction}" for layer in range(row.layers) for direction in ("", "_reverse")[: row.directions]]
