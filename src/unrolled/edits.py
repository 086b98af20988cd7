"""What an edit puts in the place of a state or gate, and where: `intervene` makes them.

An edit says what is changed (a recorded name), where (steps, units, rows of the batch) and how.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Places = int | Sequence[int] | slice | Tensor
Amount = float | Sequence[float] | Tensor


class Moment(NamedTuple):
    """Where an edit is made.

    Attributes:
        name: the recorded name that is changed.
        step: counted as `intervene` says.
        taken: (B,) bool, the rows whose sequence has this step; None if all have.
        units: (U,) the units that are changed; None for all of them.
        read: a source -> what it has of that name, (B, T, ·), and (B, T) bool where its sequences have steps.
    """

    name: str
    step: int
    taken: Tensor | None
    units: Tensor | None
    read: Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class Edit(ABC):
    """What is changed, and where; subclasses say how.

    Args:
        name: a recorded name such as "lstm.l0.cell", or a pattern in which * stands for anything.
        steps: the steps at which, counted from 0 at each call of the model; all if None.
        units: which of the state's units; all if None.
        rows: which sequences of the batch; all if None.

    Steps, units and rows are a number, several, a slice, or for units and rows a bool mask.
    """

    name: str
    _: KW_ONLY
    steps: int | Sequence[int] | slice | None = None
    units: Places | None = None
    rows: Places | None = None

    @abstractmethod
    def change(self, value: Tensor, moment: Moment) -> Tensor:
        """value: (B, ·) of all units and rows -> what is put in its place, like it or broadcast to it."""

    def check(self, name: str, width: int) -> None:
        """Complain about what does not fit a state `name` of `width` units before anything runs."""
        if self.units is not None:
            chosen_places(self.units, width, f"units of {name!r}")

    def __repr__(self) -> str:
        where = "".join(f", {n}={short(getattr(self, n))}" for n in ("steps", "units", "rows") if self._has(n))
        return f"{type(self).__name__}({self.name!r}{where})"

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None


def short(value: object) -> str:
    """As in an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(Edit):
    """Take what a state carries away.

    Args:
        to: "zero"; "mean", the mean over the sequences at that step; or "resampled", the value that another sequence
            has at that step, the same other sequence at every step and for every name.
        source: a trace in which means (over all its sequences and steps) and other sequences are looked for; the batch
            itself if None.
        seed: of the draw of other sequences.
    """

    to: Literal["zero", "mean", "resampled"] = "zero"
    _: KW_ONLY
    source: Mapping[str, Tensor] | None = None
    seed: int = 0

    def check(self, name: str, width: int) -> None:
        super().check(name, width)
        if self.to not in ("zero", "mean", "resampled"):
            raise ValueError(f"to: given {self.to!r}, expected 'zero', 'mean' or 'resampled'")
        if self.source is not None and self.to != "zero":
            _source_of(self.source, name, width)

    def change(self, value: Tensor, moment: Moment) -> Tensor:
        if self.to == "zero":
            return torch.zeros_like(value)
        going_on = torch.arange(value.size(0)) if moment.taken is None else moment.taken.nonzero().squeeze(1).cpu()
        if not len(going_on):
            return value
        if self.source is not None:
            return self._from_source(self.source, value, moment)
        if len(going_on) < 2:
            raise ValueError(
                f"{self!r}: one sequence of the batch has step {moment.step}, so there is no other to take a value "
                "from; give more sequences, or source=, a trace of others"
            )
        if self.to == "mean":
            return value[going_on.to(value.device)].mean(0, keepdim=True)
        generator = torch.Generator().manual_seed(self.seed)
        place = torch.rand(value.size(0), generator=generator)[going_on].argsort()
        order = going_on[place]  # each takes the value of the one after it
        other = torch.arange(value.size(0))
        other[order] = order.roll(1)
        return value[other.to(value.device)]

    def _from_source(self, source: Mapping[str, Tensor], value: Tensor, moment: Moment) -> Tensor:
        recorded, taken = moment.read(source)
        if self.to == "mean":
            values = recorded.flatten(0, 1) if taken is None else recorded[taken.to(recorded.device)]
            return values.mean(0).to(value)
        if moment.step >= recorded.size(1):
            raise ValueError(f"source: {moment.name!r} has {recorded.size(1)} steps, and step {moment.step} is ablated")
        place = torch.rand(value.size(0), recorded.size(0), generator=torch.Generator().manual_seed(self.seed))
        if taken is not None:
            if not taken[:, moment.step].any():
                raise ValueError(f"source: no sequence of {moment.name!r} has step {moment.step}")
            place = place.masked_fill(~taken[:, moment.step], 1)
        return recorded[place.argmin(1).to(recorded.device), moment.step].to(value)


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(Edit):
    """Hold a state at a value, or within bounds.

    Args:
        value: a number, (H,), (B, H), or one number for each of the chosen units.
        low, high: bounds, instead of a value.
    """

    value: Amount | None = None
    _: KW_ONLY
    low: float | None = None
    high: float | None = None

    def check(self, name: str, width: int) -> None:
        super().check(name, width)
        if (self.value is None) == (self.low is None and self.high is None):
            given = "neither" if self.value is None else "both"
            raise ValueError(f"{self!r}: expected a value, or low and high; given {given}")
        if self.value is not None:
            _check_amount(self, "value", self.value, width)

    def change(self, value: Tensor, moment: Moment) -> Tensor:
        if self.value is None:
            return value.clamp(self.low, self.high)
        return _spread(self.value, value, moment.units)


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Edit):
    """Multiply a state.

    Args:
        factor: a number, (H,), (B, H), or one number for each of the chosen units.
    """

    factor: Amount

    def check(self, name: str, width: int) -> None:
        super().check(name, width)
        _check_amount(self, "factor", self.factor, width)

    def change(self, value: Tensor, moment: Moment) -> Tensor:
        return value * _spread(self.factor, value, moment.units)


@dataclass(frozen=True, eq=False, repr=False)
class Push(Edit):
    """Add to a state.

    Args:
        vector: a number, (H,), (B, H), or one number for each of the chosen units.
    """

    vector: Amount

    def check(self, name: str, width: int) -> None:
        super().check(name, width)
        _check_amount(self, "vector", self.vector, width)

    def change(self, value: Tensor, moment: Moment) -> Tensor:
        return value + _spread(self.vector, value, moment.units)


@dataclass(frozen=True, eq=False, repr=False)
class Patch(Edit):
    """Put in what another run had at the same step.

    Args:
        source: a trace of that run, or any mapping of names to tensors (B, T, H). Each sequence is given that of the
            same row; a source of one sequence is given to all. Gradients flow into a trace that is not detached.
    """

    _: KW_ONLY
    source: Mapping[str, Tensor]

    def check(self, name: str, width: int) -> None:
        super().check(name, width)
        _source_of(self.source, name, width)

    def change(self, value: Tensor, moment: Moment) -> Tensor:
        recorded, taken = moment.read(self.source)
        if moment.step >= recorded.size(1):
            raise ValueError(f"source: {moment.name!r} has {recorded.size(1)} steps, and step {moment.step} is patched")
        if recorded.size(0) not in (1, value.size(0)):
            raise ValueError(
                f"source: {moment.name!r} has {recorded.size(0)} sequences, and the batch has {value.size(0)}; "
                "expected as many, or one"
            )
        if taken is not None:
            lacking = ~taken[:, moment.step].expand(value.size(0))
            if moment.taken is not None:
                lacking = lacking & moment.taken.cpu()
            rows = torch.arange(value.size(0)) if self.rows is None else chosen_places(self.rows, value.size(0), "rows")
            if lacking[rows].any():
                raise ValueError(
                    f"source: {moment.name!r} has ended before step {moment.step} in row "
                    f"{int(rows[lacking[rows]][0])}, which is patched there; choose rows= or steps="
                )
        return recorded[:, moment.step].to(value)


@dataclass(frozen=True, eq=False, repr=False)
class Apply(Edit):
    """Any change.

    Args:
        function: the state (B, H) and the step -> the state that the step goes on with, of the same shape; what it
            changes outside of the chosen units and rows is left out.
    """

    function: Callable[[Tensor, int], Tensor]

    def change(self, value: Tensor, moment: Moment) -> Tensor:
        result = self.function(value.clone(), moment.step)  # a function may change it in place
        if not isinstance(result, Tensor) or result.shape != value.shape:
            given = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(
                f"function: gave {given} for {moment.name!r} of shape {tuple(value.shape)}; expected its like"
            )
        return result.to(value)


def _source_of(source: Mapping[str, Tensor], name: str, width: int) -> None:
    if not isinstance(source, Mapping):
        raise TypeError(f"source: expected a trace or a mapping of names to tensors, given {type(source).__name__}")
    try:
        recorded = source[name]
    except KeyError as error:
        raise ValueError(
            f"source: has nothing recorded of {name!r}; it has {', '.join(source) or 'nothing'}"
        ) from error
    if recorded.dim() != 3 or recorded.size(-1) != width:
        raise ValueError(f"source: {name!r} is {tuple(recorded.shape)}; expected (B, T, {width})")


def _check_amount(edit: Edit, argument: str, amount: Amount, width: int) -> None:
    tensor = torch.as_tensor(amount)
    if tensor.dim() == 0:
        return
    if tensor.dim() > 2:
        raise ValueError(f"{argument}: of shape {tuple(tensor.shape)} does not fit; expected (B, {width}) at most")
    units = width if edit.units is None else chosen_places(edit.units, width, "units").numel()
    if tensor.size(-1) not in (1, width, units):
        wanted = f"{width}" if units == width else f"{width}, or {units} for the chosen units"
        raise ValueError(f"{argument}: of shape {tuple(tensor.shape)} does not fit; expected a last size of {wanted}")


def _spread(amount: Amount, value: Tensor, units: Tensor | None) -> Tensor:
    """An amount that broadcasts to value: (B, H)."""
    tensor = torch.as_tensor(amount).to(value)
    batch, width = value.shape
    if tensor.dim() > 1 and tensor.size(0) not in (1, batch):
        raise ValueError(
            f"an amount of shape {tuple(tensor.shape)} does not fit; the batch has {batch} sequences, expected as many "
            "or one"
        )
    if tensor.dim() and units is not None and tensor.size(-1) == len(units) and len(units) != width:
        spread = tensor.new_zeros((*tensor.shape[:-1], width))
        spread[..., units] = tensor
        return spread
    return tensor


def chosen_places(places: Places, size: int, argument: str) -> Tensor:
    """The numbers that `places` stands for among `size`."""
    index: Any = places if isinstance(places, slice) else torch.as_tensor(places)
    if isinstance(index, Tensor):
        if index.numel() == 0:
            index = index.new_zeros(0, dtype=torch.long)
        if index.dtype is torch.bool and index.shape != (size,):
            raise ValueError(f"{argument}: a mask of shape {tuple(index.shape)} does not fit; expected ({size},)")
        if index.is_floating_point():
            raise TypeError(f"{argument}: expected whole numbers or a bool mask, given {index.dtype}")
        if index.dtype is not torch.bool and index.numel() and not -size <= int(index.min()) <= int(index.max()) < size:
            raise ValueError(f"{argument}: {short(places)} does not fit; expected 0 to {size - 1}")
    return torch.arange(size)[index.cpu() if isinstance(index, Tensor) else index].reshape(-1)
