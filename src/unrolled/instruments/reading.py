"""What readouts are fitted to: the states of a layer over a stream of batches, divided by sequence."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.instruments.opened import OpenLayer
from unrolled.instruments.readout import Array, Reservoir, defined
from unrolled.trace import record

Reads = dict[str, Array]


@contextmanager
def measured(*models: nn.Module) -> Iterator[None]:
    """Models in eval mode and without gradients; their modes are put back."""
    before = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training


def over_steps(values: Tensor) -> Tensor:
    """(H,) float64 the sum of values: (B, T, H) over steps and sequences.

    Each sequence is summed in its own dtype, which torch does in a tree and many times faster than in float64.
    """
    return values.sum(1).sum(0, dtype=torch.float64)


def states_read(model: nn.Module, layer: OpenLayer, inputs: Tensor, chosen: Sequence[str] | None = None) -> Reads:
    """States or gates of one call: name -> (B, T, ·); if none are named all states, and two of them as "both" too."""
    names = layer.cell.states if chosen is None else tuple(chosen)
    for name in names:
        if name not in layer.cell.names:
            raise ValueError(f"names: {name!r} is not of this layer; expected some of {', '.join(layer.cell.names)}")
    with record(model, names=[layer.prefix + name for name in names], detach=True) as trace:
        model(inputs)
    found = {name: trace[layer.prefix + name].float().numpy(force=True) for name in names}
    taken = found[names[0]].shape[:2]
    if taken != tuple(inputs.shape[:2]):
        raise ValueError(
            f"inputs: {tuple(inputs.shape)} is not batch first, since the layer took {taken[0]} sequences of "
            f"{taken[1]} steps; wrap the model in one that takes (B, T, ...)"
        )
    if chosen is None and len(names) > 1:
        found["both"] = np.concatenate([found[name] for name in names], axis=-1)
    return found


def symbols_of(inputs: Tensor) -> Array | None:
    """(B, T) the input as symbols, None if it is not: whole numbers, or one-hot."""
    if not inputs.is_floating_point() and inputs.dim() == 2:
        return np.asarray(inputs.numpy(force=True), dtype=np.int64)
    if inputs.dim() != 3 or inputs.size(-1) < 2:
        return None
    one_hot = bool(((inputs == 0) | (inputs == 1)).all()) and bool((inputs.sum(-1) == 1).all())
    return inputs.argmax(-1).numpy(force=True) if one_hot else None


def input_read(inputs: Tensor) -> Array:
    """(B, T, ·) the input itself, or (B, T) symbols, to be spread when all have been seen."""
    if not inputs.is_floating_point() and inputs.dim() == 2:
        return np.asarray(inputs.numpy(force=True), dtype=np.int64)
    return np.asarray(inputs.float().reshape(*inputs.shape[:2], -1).numpy(force=True))


def spread_symbols(parts: Sequence[Reservoir]) -> None:
    """Make "input" one-hot where it is symbols, with a feature for each that occurs in any of the parts."""
    columns = [part["input"] for part in parts]
    if columns[0].ndim > 1:
        return
    kinds, which = np.unique(np.concatenate(columns), return_inverse=True)
    ends = np.cumsum([len(column) for column in columns])[:-1]
    for part, numbers in zip(parts, np.split(which, ends), strict=True):
        part.replace("input", np.eye(len(kinds), dtype=np.float32)[numbers])


def as_labels(labels: Any, inputs: Tensor, name: str = "labels", *, every_step: bool = False) -> Array:
    """(B, T) labels: classes as whole numbers, below 0 where there is none, or values as floats, NaN where none is.

    One for each sequence, (B,), belongs to its last step, or to every step.

    Raises:
        ValueError: they do not fit the input.
    """
    array = np.asarray(labels.numpy(force=True) if isinstance(labels, Tensor) else labels)
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer):
        array = array.astype(np.int64)
    batch, length = inputs.shape[:2]
    if array.shape == (batch,):
        nothing = np.nan if np.issubdtype(array.dtype, np.floating) else -1
        whole = np.full((batch, length), nothing, dtype=array.dtype)
        whole[:, 0 if every_step else -1 :] = array[:, None]
        array = whole
    if array.shape != (batch, length):
        shape = tuple(inputs.shape)
        raise ValueError(f"{name}: shape {array.shape} does not fit inputs {shape}; expected (B, T) or (B,)")
    if not np.issubdtype(array.dtype, np.floating) and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: expected whole numbers or floating point, given {array.dtype}")
    return array


class Split:
    """Divides the sequences of a stream between fitting and testing, at random and in a fixed share."""

    def __init__(self, test_share: float, seed: int) -> None:
        if not 0 < test_share < 1:
            raise ValueError(f"test_share: given {test_share}, expected a number between 0 and 1")
        self._share = test_share
        self._random = np.random.default_rng(seed)
        self._tested = 0
        self.sequences = 0

    def next(self, batch: int) -> tuple[Array, Array]:
        """(B,) bool, whether each of the next sequences is for testing, and (B,) its number in the stream."""
        numbers = np.arange(self.sequences, self.sequences + batch)
        self.sequences += batch
        wanted = max(1, round(self._share * self.sequences)) - self._tested
        if self.sequences == wanted + self._tested:
            wanted -= 1  # something has to be left to fit to
        testing = np.zeros(batch, dtype=bool)
        testing[self._random.permutation(batch)[: max(0, wanted)]] = True
        self._tested += int(testing.sum())
        return testing, numbers

    def check(self) -> None:
        """Complain about a stream that could not be divided."""
        if self.sequences < 2:
            raise ValueError(
                f"inputs: {self.sequences} sequence is too few to fit on some and test on others; expected 2 or more"
            )


def steps_of(columns: dict[str, Array], labels: Array, chosen: Array, numbers: Array) -> dict[str, Array]:
    """The steps of the chosen sequences that have a label: (N, ·) of each column, their labels, and their sequences."""
    there = defined(labels) & chosen[:, None]
    found = {name: values[there] for name, values in columns.items()}
    return found | {"label": labels[there], "sequence": np.broadcast_to(numbers[:, None], labels.shape)[there]}


def untrained_copy(model: nn.Module, seed: int) -> nn.Module:
    """The model with every parameter drawn anew by its module's own `reset_parameters`.

    Raises:
        ValueError: a module with parameters does not have it.
    """
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for path, module in fresh.named_modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif any(True for _ in module.parameters(recurse=False)):
                raise ValueError(
                    f"untrained: {path or type(module).__name__} has parameters and no reset_parameters to draw them "
                    "anew; give untrained=, the model as it was before training"
                )
    return fresh


def prefixed(reads: Reads, prefix: str) -> Reads:
    return {f"{prefix} {name}": values for name, values in reads.items()}


def only_units(values: Array, units: Sequence[int] | None) -> Array:
    return values if units is None else values[..., list(units)]
