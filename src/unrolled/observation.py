"""How what layers do is shown to whoever wants to see it: a trace, for instance."""

from __future__ import annotations

from collections.abc import Iterator
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


NOTHING: frozenset[str] = frozenset()
_observers: ContextVar[tuple[Observer, ...]] = ContextVar("unrolled_observers", default=())


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Show `observer` every call of a layer made in this thread inside the context."""
    token = _observers.set((*_observers.get(), observer))
    try:
        with compilation.set_aside():
            yield
    finally:
        _observers.reset(token)


def observed() -> bool:
    """Whether anybody looks."""
    return bool(_observers.get())


def wanted(module: nn.Module, suffix: str) -> frozenset[str]:
    """What the observers together want kept of one layer in one direction."""
    observers = _observers.get()
    return frozenset().union(*(observer.wants(module, suffix) for observer in observers)) if observers else NOTHING


def show(module: nn.Module, suffix: str, opened: Opened) -> None:
    """Pass what a call did to all who look."""
    for observer in _observers.get():
        observer.observe(module, suffix, opened)
