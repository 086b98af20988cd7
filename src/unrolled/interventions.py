"""intervene(): states and gates of any model's recurrent layers, changed as they are computed.

An edit says what is changed (a recorded name), where (steps, units, rows of the batch) and how. Inside a step gates
come first, then the cell state, then the hidden state: an edit of the cell at step t is seen by the hidden state at t,
an edit of the hidden state by the output at t and by step t + 1.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from unrolled.conversion import is_recurrent
from unrolled.observation import Coming, editing
from unrolled.structure import widths
from unrolled.trace import Trace, _classes_opened, recordable

Places = int | Sequence[int] | slice | Tensor
Amount = float | Sequence[float] | Tensor


class InterventionWarning(UserWarning):
    """An edit that never took place."""


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
            _chosen(self.units, width, f"units of {name!r}")

    def __repr__(self) -> str:
        where = "".join(f", {n}={_short(getattr(self, n))}" for n in ("steps", "units", "rows") if self._has(n))
        return f"{type(self).__name__}({self.name!r}{where})"

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None


def _short(value: object) -> str:
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

    factor: Amount = 0.0

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

    vector: Amount = 0.0

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
            rows = torch.arange(value.size(0)) if self.rows is None else _chosen(self.rows, value.size(0), "rows")
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

    function: Callable[[Tensor, int], Tensor] = lambda state, t: state

    def change(self, value: Tensor, moment: Moment) -> Tensor:
        result = self.function(value.clone(), moment.step)  # a function may change it in place
        if not isinstance(result, Tensor) or result.shape != value.shape:
            given = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(
                f"function: gave {given} for {moment.name!r} of shape {tuple(value.shape)}; expected its like"
            )
        return result.to(value)


def _plain(tensor: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


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
    units = width if edit.units is None else _chosen(edit.units, width, "units").numel()
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


def _chosen(places: Places, size: int, argument: str) -> Tensor:
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
            raise ValueError(f"{argument}: {_short(places)} does not fit; expected 0 to {size - 1}")
    return torch.arange(size)[index.cpu() if isinstance(index, Tensor) else index].reshape(-1)


def _checked_steps(steps: int | Sequence[int] | slice | None) -> frozenset[int] | slice:
    if steps is None:
        return slice(0, None, 1)
    if isinstance(steps, slice):
        start, stop, step = steps.start or 0, steps.stop, steps.step or 1
        if start < 0 or (stop is not None and stop < 0) or step < 1:
            raise ValueError(f"steps: {steps} counts from the end, which is not known beforehand; expected from 0 on")
        return slice(start, stop, step)
    if type(steps) is int:
        found = frozenset((steps,))
    else:
        several = torch.as_tensor(steps).reshape(-1)
        if several.numel() and (several.dtype is torch.bool or several.is_floating_point()):
            raise TypeError(f"steps: expected whole numbers, given {several.dtype}")
        found = frozenset(several.tolist())
    if any(t < 0 for t in found):
        raise ValueError(f"steps: {min(found)} counts from the end, which is not known beforehand; expected from 0 on")
    return found


def _among(t: int, steps: frozenset[int] | slice) -> bool:
    if isinstance(steps, frozenset):
        return t in steps
    return bool(t >= steps.start and (steps.stop is None or t < steps.stop) and (t - steps.start) % steps.step == 0)


class _Planned(NamedTuple):
    """One edit of one recorded name."""

    edit: Edit
    number: int  # of the edit among those given
    recorded: str  # "lstm.l0.cell"
    state: str  # "cell"
    steps: frozenset[int] | slice


class _Editing:
    """What one context changes of one call of one layer in one direction."""

    def __init__(self, plans: list[_Planned], first: int, coming: Coming, done: list[set[int]]) -> None:
        self._plans = plans
        self._first = first
        self._coming = coming
        self._done = done
        self._at: dict[int, list[_Planned]] = {}
        self._read: dict[tuple[int, str], tuple[Tensor, Tensor | None]] = {}
        for plan in plans:
            inside = plan.steps
            for t in range(coming.steps) if isinstance(inside, slice) else sorted(t - first for t in inside):
                if 0 <= t < coming.steps and _among(first + t, inside):
                    self._at.setdefault(t, []).append(plan)
        self.steps = sorted(self._at)

    def edit(self, t: int, name: str, value: Tensor) -> Tensor:
        for plan in self._at.get(t, ()):
            if plan.state == name:
                value = self._edited(plan, t, value)
        return value

    def _edited(self, plan: _Planned, t: int, value: Tensor) -> Tensor:
        edit, order, lengths = plan.edit, self._coming.order, self._coming.lengths
        batch, width = value.shape
        self._done[plan.number].add(self._first + t)
        taken = None if lengths is None else t < lengths
        if order is not None:
            value = value.index_select(0, order)
            taken = None if taken is None else taken[order]
        units = None if edit.units is None else _chosen(edit.units, width, "units")
        read = partial(self._once, plan.recorded)
        changed = edit.change(value, Moment(plan.recorded, self._first + t, taken, units, read)).expand_as(value)
        where: Tensor | None = None
        if units is not None:
            where = torch.zeros(1, width, dtype=torch.bool, device=value.device)
            where[:, units] = True
        if edit.rows is not None:
            rows = torch.zeros(batch, 1, dtype=torch.bool, device=value.device)
            rows[_chosen(edit.rows, batch, "rows")] = True
            where = rows if where is None else where & rows
        # A copy, so that what the user does to a state in place reaches neither an edit's vector nor another row.
        value = changed.clone() if where is None else torch.where(where, changed, value)
        return value if order is None else value.index_select(0, order.argsort())

    def _once(self, name: str, source: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """What a source has, read once for a call: one on disk keeps nothing in memory."""
        key = (id(source), name)
        if key not in self._read:
            taken = source._source.taken(name) if isinstance(source, Trace) else None
            self._read[key] = _plain(source[name]), taken
        return self._read[key]


class _Intervention:
    """The editor behind one intervene() context."""

    def __init__(self, plans: dict[tuple[int, str], list[_Planned]], edits: int) -> None:
        self._plans = plans
        self._taken: dict[tuple[int, str], int] = {}
        self.longest: dict[tuple[int, str], int] = {}
        self.done: list[set[int]] = [set() for _ in range(edits)]

    def restart(self) -> None:
        """The next step of every layer is step 0."""
        self._taken.clear()

    def touches(self, module: nn.Module, suffix: str) -> bool:
        return (id(module), suffix) in self._plans

    def begin(self, module: nn.Module, suffix: str, coming: Coming) -> _Editing | None:
        key = (id(module), suffix)
        first = self._taken.get(key, 0)
        self._taken[key] = first + coming.steps
        self.longest[key] = max(self.longest.get(key, 0), first + coming.steps)
        found = _Editing(self._plans[key], first, coming, self.done)
        return found if found.steps else None


@contextmanager
def intervene(model: nn.Module, *edits: Edit) -> Iterator[None]:
    """Change states and gates of the recurrent layers of `model` inside the context.

    Edits are made in the order in which they are given, contexts from the outer to the inner. Gradients flow through
    them, and what `record` shows is what the step goes on with. Steps that are not changed are taken by the fused
    kernels.

    Steps are counted over all calls of a layer within one call of `model`, as a trace of that call would show them,
    and begin at 0 with the next. Where `model` is itself a recurrent layer or cell, a call that is given states goes
    on from the one before.

    Args:
        model: any module that holds torch.nn or unrolled recurrent layers or cells; a bare layer too.
        edits: `Ablate`, `Clamp`, `Scale`, `Push`, `Patch` or `Apply`.

    Raises:
        TypeError: `model` is not a module, or an edit is something else.
        ValueError: an edit names what the model does not have, or does not fit it.

    Warns:
        InterventionWarning: an edit never took place, since its layer was not called or had fewer steps.

    >>> import torch, unrolled
    >>> model = torch.nn.LSTM(3, 4, batch_first=True)
    >>> x = torch.randn(2, 5, 3)
    >>> with unrolled.intervene(model, unrolled.Ablate("l0.cell", steps=[3])), unrolled.record(model) as trace:
    ...     output, _ = model(x)
    >>> trace["l0.cell"][:, 3].abs().max().item(), trace["l0.hidden"][:, 3].abs().max().item()
    (0.0, 0.0)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"intervene: model must be a torch.nn.Module, given {type(model).__name__}")
    possible = recordable(model)
    plans: dict[tuple[int, str], list[_Planned]] = {}
    modules: dict[int, nn.Module] = {}
    for number, edit in enumerate(edits):
        if not isinstance(edit, Edit):
            raise TypeError(f"edits: expected Ablate, Clamp, Scale, Push, Patch or Apply, given {type(edit).__name__}")
        names = [name for name in possible if fnmatchcase(name, edit.name)]
        if not names:
            has = ", ".join(possible) or "no recurrent layer"
            raise ValueError(f"edits: {edit.name!r} matches nothing in the model; it has {has}")
        steps = _checked_steps(edit.steps)
        for name in names:
            module, suffix, state = possible[name]
            width = widths(module)[state]
            edit.check(name, width)
            plans.setdefault((id(module), suffix), []).append(_Planned(edit, number, name, state, steps))
            modules[id(module)] = module
    editor = _Intervention(plans, len(edits))
    goes_on = is_recurrent(getattr(model, "_orig_mod", model))  # what torch.compile has wrapped

    def begin(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        states = given[1] if len(given) > 1 else named.get("hx")
        if not goes_on or states is None:
            editor.restart()

    hook = model.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        with _classes_opened(list(modules.values())), editing(editor):
            yield
    finally:
        hook.remove()
    _warn_of_the_undone(edits, plans, editor)


def _warn_of_the_undone(
    edits: Sequence[Edit], plans: Mapping[tuple[int, str], list[_Planned]], editor: _Intervention
) -> None:
    steps = {plan.number: plan.steps for planned in plans.values() for plan in planned}
    for number, (edit, done) in enumerate(zip(edits, editor.done, strict=True)):
        asked = steps[number]
        missed = sorted(asked - done) if isinstance(asked, frozenset) else []
        if done and not missed:
            continue
        layers = [key for key, planned in plans.items() if any(plan.number == number for plan in planned)]
        longest = max((editor.longest.get(key, 0) for key in layers), default=0)
        had = f"its layer took {longest} steps" if longest else "its layer was not called"
        which = f" at steps {_short(missed)}" if done else ""
        warnings.warn(f"intervene: {edit!r} did not take place{which}: {had}", InterventionWarning, stacklevel=4)
