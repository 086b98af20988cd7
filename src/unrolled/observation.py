"""How what layers do is shown to whoever wants to see it, a trace for instance, and changed by whoever wants that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from unrolled import compilation
from unrolled.recurrence.result import Steps


@dataclass(frozen=True)
class Opened:
    """What one call of one layer in one direction is seen to have done.

    Attributes:
        steps: name -> the state or gate at every step.
        initial: the states before the first step taken, name -> (B, ·).
        lengths: (B,) where the sequences are of unequal length, else None.
        order: (B,) where row b of the user's batch stands in these tensors, None if unchanged.
        reset: (T, B) bool, True at the steps before which the states were zeroed, None if they never were.
    """

    steps: dict[str, Steps]
    initial: dict[str, Tensor]
    lengths: Tensor | None = None
    order: Tensor | None = None
    reset: Tensor | None = None


class Observer(Protocol):
    """Something that wants to see what layers do while it is installed with `observing`."""

    def wants(self, module: nn.Module, suffix: str) -> frozenset[str]:
        """The states and gates of this module's layer ("l0", "l1_reverse", "" for a cell) that are to be kept."""

    def observe(self, module: nn.Module, suffix: str, opened: Opened) -> None:
        """Called once a call's recurrence has been computed."""


class Editing(Protocol):
    """What is to be changed of one call of one layer in one direction.

    Attributes:
        steps: the steps of this call at which something is changed, ascending.
    """

    @property
    def steps(self) -> Sequence[int]: ...

    def edit(self, t: int, name: str, value: Tensor) -> Tensor:
        """Step, name and value (B, ·) of a state or gate as it is computed -> what the step goes on with."""


@dataclass(frozen=True)
class Coming:
    """A call of one layer in one direction that is about to be computed; as `Opened`, without what it will have done.

    Attributes:
        steps: T.
        batch: B.
        lengths: (B,) where the sequences are of unequal length, else None.
        order: (B,) where row b of the user's batch stands in these tensors, None if unchanged.
    """

    steps: int
    batch: int
    lengths: Tensor | None = None
    order: Tensor | None = None


class Editor(Protocol):
    """Something that wants to change what layers do while it is installed with `editing`."""

    def touches(self, module: nn.Module, suffix: str) -> bool:
        """Whether calls of this module's layer may be changed."""

    def begin(self, module: nn.Module, suffix: str, coming: Coming) -> Editing | None:
        """Called before a call's recurrence is computed; None if nothing of this call is changed."""


NOTHING: frozenset[str] = frozenset()
_observers: ContextVar[tuple[Observer, ...]] = ContextVar("unrolled_observers", default=())
_editors: ContextVar[tuple[Editor, ...]] = ContextVar("unrolled_editors", default=())


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Show `observer` every call of a layer made in this thread inside the context."""
    token = _observers.set((*_observers.get(), observer))
    try:
        with compilation.set_aside():
            yield
    finally:
        _observers.reset(token)


@contextmanager
def editing(editor: Editor) -> Iterator[None]:
    """Let `editor` change every call of a layer made in this thread inside the context, after those before it."""
    token = _editors.set((*_editors.get(), editor))
    try:
        with compilation.set_aside():
            yield
    finally:
        _editors.reset(token)


def observed() -> bool:
    """Whether anybody looks or changes anything."""
    return bool(_observers.get() or _editors.get())


def touched(module: nn.Module, suffix: str) -> bool:
    """Whether anybody may change calls of one layer in one direction."""
    return any(editor.touches(module, suffix) for editor in _editors.get())


def edits(module: nn.Module, suffix: str, coming: Coming) -> list[Editing]:
    """What is to be changed of a call, in the order in which the changes are made."""
    found = (editor.begin(module, suffix, coming) for editor in _editors.get() if editor.touches(module, suffix))
    return [editing for editing in found if editing is not None]


def wanted(module: nn.Module, suffix: str) -> frozenset[str]:
    """What the observers together want kept of one layer in one direction."""
    observers = _observers.get()
    return frozenset().union(*(observer.wants(module, suffix) for observer in observers)) if observers else NOTHING


def show(module: nn.Module, suffix: str, opened: Opened) -> None:
    """Pass what a call did to all who look."""
    for observer in _observers.get():
        observer.observe(module, suffix, opened)
