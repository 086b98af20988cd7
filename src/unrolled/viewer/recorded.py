"""What is looked at: a recording, what the network read meanwhile, what was true of it, and the network itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.model import Readout
from unrolled.trace import Trace

Loss = Literal["classes", "values"]


@dataclass(frozen=True)
class Characters:
    """Symbols that were read, each shown as a character.

    Attributes:
        texts: of each sequence, a character for each of its steps.
    """

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Values:
    """Figures that were read.

    Attributes:
        values: (B, T, C) float32 in the data's own units; NaN where a value was missing. What stands after a sequence's
            end is not looked at.
        channels: C names.
        times: of each sequence, when each of its steps was; None where they have no time.
    """

    values: NDArray[np.float32]
    channels: tuple[str, ...]
    times: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True)
class Label:
    """What is true at each step.

    Attributes:
        name: of the label.
        values: (B, T) int64 from 0; -1 where it is not defined.
        names: of the values 0, 1, ...; None where the numbers say all.
    """

    name: str
    values: NDArray[np.int64]
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.values, np.ndarray) or self.values.ndim != 2 or self.values.dtype != np.int64:
            raise ValueError(f"label {self.name!r}: expected values (B, T) of int64, given {_described(self.values)}")
        if self.values.size and self.values.min() < -1:
            raise ValueError(f"label {self.name!r}: holds {self.values.min()}; expected values from 0, or -1 for none")
        if self.names is not None and self.most >= len(self.names):
            raise ValueError(f"label {self.name!r}: holds {self.most}, and its values have {len(self.names)} names")

    @cached_property
    def most(self) -> int:
        """The highest value; -1 where it is defined nowhere."""
        return int(self.values.max(initial=-1))

    @property
    def binary(self) -> bool:
        """Whether it says yes or no: its values are 0 and 1 and have no names of their own."""
        return self.names is None and self.most <= 1


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A recording with everything that is known of it. B sequences of T steps at most.

    Attributes:
        title: what it is, in a few words.
        trace: the states and gates; every one of its names has B sequences and T steps.
        lengths: steps of each sequence.
        read: what the network read, as people read it; None where that is not known.
        labels: what is true at each step.
        inputs: what the network was given, (B, T, I), or (B, T) whole numbers where they are symbols.
        targets: what each output should be. Classes: int64, (B, T), or (B,) where the readout is the mean; -1 where no
            answer counts. Values: float32, (B, T, K), or (B, K) where the readout is the mean; NaN where none counts.
        reset: (B, T) bool, the steps before which the states were zeroed.
        outputs: names of the K outputs; empty where they have none.
        model: loads the network, in eval mode; None where there is none.
        loss: whether outputs are scores of classes or values; None where that is not known.
        readout: whether every step is answered, or the sequence, from the mean over its steps.
        path: the recording's directory; None for one in memory.
    """

    title: str
    trace: Trace
    lengths: tuple[int, ...]
    read: Characters | Values | None = None
    labels: tuple[Label, ...] = ()
    inputs: Tensor | None = None
    targets: Tensor | None = None
    reset: Tensor | None = None
    outputs: tuple[str, ...] = ()
    model: Callable[[], nn.Module] | None = None
    loss: Loss | None = None
    readout: Readout = "every"
    path: Path | None = None

    def __post_init__(self) -> None:
        batch, steps = self.shape
        if len(self.lengths) != batch or any(not 0 <= length <= steps for length in self.lengths):
            raise ValueError(
                f"lengths: given {_few(self.lengths)}, expected one from 0 to {steps} for each of {batch} sequences"
            )
        self._check_tensors()
        self._check_read()
        for label in self.labels:
            if label.values.shape != (batch, steps):
                raise ValueError(
                    f"labels: {label.name!r} has shape {label.values.shape}, expected {(batch, steps)}, a value a step"
                )
        names = [label.name for label in self.labels]
        if len(set(names)) < len(names):
            raise ValueError(f"labels: {next(name for name in names if names.count(name) > 1)!r} is there twice")

    @property
    def shape(self) -> tuple[int, int]:
        """B, T of the recording."""
        return trace_shape(self.trace)

    def label(self, name: str) -> Label:
        """A label by its name.

        Raises:
            KeyError: there is none.
        """
        for label in self.labels:
            if label.name == name:
                return label
        there = ", ".join(label.name for label in self.labels) or "no label at all"
        raise KeyError(f"label: there is none named {name!r}, only {there}")

    def _check_read(self) -> None:
        batch, steps = self.shape
        if isinstance(self.read, Characters):
            given = tuple(map(len, self.read.texts))
            if given != self.lengths:
                raise ValueError(
                    f"read: its texts have {_few(given)} characters, and the sequences {_few(self.lengths)} steps; "
                    "expected a character a step"
                )
        elif isinstance(self.read, Values):
            expected = (batch, steps, len(self.read.channels))
            if self.read.values.shape != expected:
                raise ValueError(f"read: its values have shape {self.read.values.shape}, expected {expected}")
            if self.read.times is not None and tuple(map(len, self.read.times)) != self.lengths:
                raise ValueError(
                    f"read: its times are {_few(tuple(map(len, self.read.times)))}, and the sequences have "
                    f"{_few(self.lengths)} steps"
                )

    def _check_tensors(self) -> None:
        batch, steps = self.shape
        if self.inputs is not None and (self.inputs.shape[:2] != (batch, steps) or self.inputs.dim() not in (2, 3)):
            raise ValueError(f"inputs: given {_described(self.inputs)}, expected {(batch, steps)} and a width or none")
        if self.reset is not None and (self.reset.shape != (batch, steps) or self.reset.dtype is not torch.bool):
            raise ValueError(f"reset: given {_described(self.reset)}, expected {(batch, steps)} of torch.bool")
        answered = (batch, steps) if self.readout == "every" else (batch,)
        if self.targets is not None:
            expected = (*answered, len(self.outputs)) if self.loss == "values" else answered
            if tuple(self.targets.shape) != expected or self.targets.is_floating_point() != (self.loss == "values"):
                kind = "float values" if self.loss == "values" else "whole numbers"
                raise ValueError(f"targets: given {_described(self.targets)}, expected {expected} of {kind}")


def trace_shape(trace: Trace) -> tuple[int, int]:
    """B and T that everything in a trace has; nothing of its values is read.

    Raises:
        ValueError: the trace is empty, or not all in it have one B and T, so that there is no axis they share.
    """
    found: dict[tuple[int, int], str] = {}
    for name in trace:
        form = trace._source.form(name)
        whole = form.whole(name)
        found.setdefault((len(whole.sequences), len(whole.steps)), name)
    if not found:
        raise ValueError("trace: there is nothing in it")
    if len(found) > 1:
        shapes = " and ".join(f"{shape} of {name!r}" for shape, name in list(found.items())[:2])
        raise ValueError(
            f"trace: sequences and steps are {shapes}, which have no axis in common; look at one part of it, "
            "trace.select(layers=...)"
        )
    return next(iter(found))


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:4])) + (", ..." if len(numbers) > 4 else "") or "none"


def _described(value: Any) -> str:
    if isinstance(value, (np.ndarray, Tensor)):
        return f"{tuple(value.shape)} of {value.dtype}"
    return type(value).__name__
