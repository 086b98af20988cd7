"""One recurrent layer of a model, opened: what instruments that follow its recurrence read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unrolled.recurrence.cells import CELLS, Cell, States, Weights
from unrolled.structure import mode_of, weights_of
from unrolled.trace import Trace, record, recordable


@dataclass(frozen=True)
class OpenLayer:
    """A layer in one direction, inside a model.

    Attributes:
        prefix: of its recorded names, dot included: "encoder.l0.".
        module: the recurrent module.
        suffix: PyTorch's of the layer and direction, "l0" or "l0_reverse"; "" for a cell.
        mode: the key of its row in the table of cells.
    """

    prefix: str
    module: nn.Module
    suffix: str
    mode: str

    @property
    def cell(self) -> Cell:
        return CELLS[self.mode]

    @property
    def reverse(self) -> bool:
        """Whether it reads from the end."""
        return self.suffix.endswith("_reverse")

    @property
    def weights(self) -> Weights:
        return Weights._make(None if w is None else w.detach() for w in weights_of(self.module, self.suffix))

    @property
    def name(self) -> str:
        """As in recorded names, without the dot."""
        return self.prefix.removesuffix(".")


def open_layer(model: nn.Module, layer: str | None) -> OpenLayer:
    """One recorded layer of a model; it may be left unnamed where there is one.

    Raises:
        TypeError: `model` is not a module.
        ValueError: it has several and none is named, or has none of this name.
    """
    _check_module(model)
    found = {name.rpartition(".")[0]: at for name, at in recordable(model).items()}
    if not found:
        raise ValueError(f"model: {type(model).__name__} has no recurrent layer (RNN, GRU, LSTM or a cell of one)")
    if layer is None:
        if len(found) != 1:
            raise ValueError(f"layer: the model has {len(found)} recurrent layers; expected one of {', '.join(found)}")
        layer = next(iter(found))
    if layer not in found:
        raise ValueError(f"layer: {layer!r} is not in the model; expected one of {', '.join(found)}")
    module, suffix, _ = found[layer]
    return OpenLayer(f"{layer}." if layer else "", module, suffix, mode_of(module))


def _check_module(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, given {type(model).__name__}")


def exact(model: nn.Module) -> nn.Module:
    """A copy in float64 that draws nothing at random.

    Raises:
        TypeError: `model` is not a module.
    """
    _check_module(model)
    return copy.deepcopy(model).double().eval()


def as_exact(inputs: Tensor) -> Tensor:
    """Inputs for such a copy; symbols stay whole numbers."""
    return inputs.double() if inputs.is_floating_point() else inputs


class Course(NamedTuple):
    """What a layer did, along its recurrence (from the end for a reverse layer), each (B, T, ·)."""

    before: States
    after: States
    gates: tuple[Tensor, ...]


def course(model: nn.Module, inputs: Tensor, layer: OpenLayer) -> Course:
    """Run a model and open one layer.

    Raises:
        ValueError: its sequences are of unequal length, or were reset on the way.
    """
    with torch.no_grad(), record(model, names=f"{layer.prefix}*", detach=True) as trace:
        model(inputs)
    return course_of(trace, layer)


def course_of(trace: Trace, layer: OpenLayer) -> Course:
    """The course in a trace."""
    check_whole(trace, layer)
    after = tuple(_along(trace[layer.prefix + name], layer) for name in layer.cell.states)
    initial = tuple(trace.initial[layer.prefix + name].unsqueeze(1) for name in layer.cell.states)
    before = tuple(torch.cat([i.to(s), s[:, :-1]], dim=1) for i, s in zip(initial, after, strict=True))
    return Course(before, after, tuple(_along(trace[layer.prefix + name], layer) for name in layer.cell.gates))


def check_whole(trace: Trace, layer: OpenLayer) -> None:
    """Complain about sequences that do not all take every step after the one before it.

    Raises:
        ValueError: they are of unequal length, or were reset on the way.
    """
    first = layer.prefix + layer.cell.states[0]
    if trace.lengths(first) is not None or trace.resets(first) is not None:
        raise ValueError(
            f"inputs: the sequences of {layer.name!r} are of unequal length or are reset on the way, which has no "
            "single course; give whole sequences of one length"
        )


def _along(values: Tensor, layer: OpenLayer) -> Tensor:
    return values.flip(1) if layer.reverse else values


def checked_steps(steps: Sequence[int], length: int) -> list[int]:
    """Steps that are in sequences of `length`.

    Raises:
        ValueError: one is not, or there are none.
    """
    chosen = [int(t) for t in steps]
    if not chosen:
        raise ValueError("steps: none were given")
    for t in chosen:
        if not 0 <= t < length:
            raise ValueError(f"steps: {t} is not in sequences of {length} steps; expected 0 to {length - 1}")
    return chosen


Loss = Callable[..., Tensor]
Batches = Tensor | Iterable[Any]


class Batch(NamedTuple):
    """One batch of a stream: what the model is called with, and what belongs to it (targets, labels, ...)."""

    inputs: Tensor
    rest: tuple[Any, ...] = ()


def stream(inputs: Batches) -> Iterator[Batch]:
    """Batches as instruments take them: one tensor, or an iterable of tensors or of tuples that begin with one.

    Raises:
        TypeError: something else is in it.
        ValueError: it is empty.
    """
    empty = True
    for given in [inputs] if isinstance(inputs, Tensor) else inputs:
        first, *rest = given if isinstance(given, tuple | list) else (given,)
        if not isinstance(first, Tensor):
            raise TypeError(f"inputs: expected tensors, or tuples that begin with one; given {type(first).__name__}")
        empty = False
        yield Batch(first, tuple(rest))
    if empty:
        raise ValueError("inputs: no batch was given")
