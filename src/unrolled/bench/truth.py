"""What a contestant's results are held to: torch.nn in float64, in this process, where the numbers are.

On a GPU that is torch's own code and not cuDNN, which is one of those that are judged. States and gates, which torch.nn
does not show, are stepped in float64 in states.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

from unrolled.bench.dtypes import DTYPES
from unrolled.bench.numbers import LAYERS, Numbers, backward
from unrolled.bench.results import Wrong
from unrolled.bench.rows import INFERENCE, TRAINING_TO_INPUT
from unrolled.bench.states import states

# Of float32 with exact products.
TOLERANCE = DTYPES["float32"].tolerance
# The states that every contestant which shows states at all does show; the others are gates.
_STATES = ("hidden", "cell")


class Truth:
    """The right results for one row.

    Results are named: "output" (T, B, D * H), "gradient of weight_ih_l0" and so on for every parameter, "gradient of x"
    (T, B, I), and "l0.cell" (B, T, H) and so on for every state and gate.
    """

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers

    def expected(self, phase: str, *, opened: bool, stepped: bool = False) -> dict[str, Tensor]:
        """Everything that a contestant must get right in a phase.

        Args:
            phase: one of those of rows.py.
            opened: the states and gates too.
            stepped: the states too, without the gates.
        """
        names = {"output": self._output} if phase == INFERENCE else dict(self._trained)
        if phase != TRAINING_TO_INPUT:
            names.pop("gradient of x", None)
        if opened:
            return names | self._states
        if stepped:
            shown = {name: value for name, value in self._states.items() if name.rpartition(".")[2] in _STATES}
            return names | shown
        return names

    @cached_property
    def _output(self) -> Tensor:
        layer = self.numbers.layer(LAYERS[self.numbers.cell], torch.float64)
        with torch.no_grad(), _without_cudnn():
            output: Tensor = layer(self.numbers.x.double())[0]
        return output

    @cached_property
    def _trained(self) -> dict[str, Tensor]:
        layer = self.numbers.layer(LAYERS[self.numbers.cell], torch.float64)
        x = self.numbers.input(TRAINING_TO_INPUT, torch.float64)
        with _without_cudnn():
            output = layer(x)[0]
            backward(self.numbers.row.loss, output, self.numbers.target.double())
        return {"output": output.detach(), **gradients(layer, x)}

    @cached_property
    def _states(self) -> dict[str, Tensor]:
        return states(self.numbers)


def gradients(layer: torch.nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The gradients that a backward pass has left in a layer and its input, by the names of a Truth."""
    found = {f"gradient of {name}": value.grad for name, value in layer.named_parameters()}
    found["gradient of x"] = x.grad
    return {name: value for name, value in found.items() if value is not None}


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """torch's own code computes its layers on a GPU inside the context."""
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def judge(
    results: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    tolerance: float = TOLERANCE,
    of_gradients: float | None = None,
) -> float | Wrong:
    """The largest relative error of a contestant's results, or what is wrong with them.

    Args:
        results: by name.
        expected: the right ones; what is not among them is not looked at.
        tolerance: the largest error allowed.
        of_gradients: the same for gradients, `tolerance` if None.
    """
    worst = 0.0
    for name, right in expected.items():
        if name not in results:
            return Wrong(f"{name} is missing")
        given = results[name]
        if given.shape != right.shape:
            return Wrong(f"{name} has shape {tuple(given.shape)}, expected {tuple(right.shape)}")
        allowed = of_gradients if of_gradients is not None and name.startswith("gradient") else tolerance
        difference, scale = (given.double() - right).abs().max().item(), right.abs().max().item()
        # Written so that NaN is an error too.
        if not difference <= allowed * scale:
            return Wrong(
                f"{name} is off by {difference:.2g} where its largest magnitude is {scale:.2g}; "
                f"allowed is {allowed:g} of that"
            )
        worst = max(worst, difference / scale if scale else 0.0)
    return worst
