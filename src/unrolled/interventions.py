"""intervene(): states and gates of any model's recurrent layers, changed as they are computed.

Inside a step gates come first, then the cell state, then the hidden state: an edit of the cell at step t is seen by the
hidden state at t, an edit of the hidden state by the output at t and by step t + 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unrolled.conversion import is_recurrent
from unrolled.edits import Edit, Moment, chosen_places, short
from unrolled.observation import Coming, editing
from unrolled.structure import widths
from unrolled.trace import Trace, _classes_opened, recordable


class InterventionWarning(UserWarning):
    """An edit that never took place."""


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


def _plain(tensor: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


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
        units = None if edit.units is None else chosen_places(edit.units, width, "units")
        read = partial(self._once, plan.recorded)
        changed = edit.change(value, Moment(plan.recorded, self._first + t, taken, units, read)).expand_as(value)
        where: Tensor | None = None
        if units is not None:
            where = torch.zeros(1, width, dtype=torch.bool, device=value.device)
            where[:, units] = True
        if edit.rows is not None:
            rows = torch.zeros(batch, 1, dtype=torch.bool, device=value.device)
            rows[chosen_places(edit.rows, batch, "rows")] = True
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
        which = f" at steps {short(missed)}" if done else ""
        warnings.warn(f"intervene: {edit!r} did not take place{which}: {had}", InterventionWarning, stacklevel=4)
