"""The calls of a model's layers kept in memory and in the autograd graph: the source of a live trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from unrolled.observation import Opened
from unrolled.recorded_state import Call, as_state
from unrolled.selection import Region
from unrolled.source import Form, layer_of


class Calls:
    """Every call of every layer, joined along time when it is read; grows while its model is called."""

    def __init__(self, possible: Sequence[str], *, detach: bool) -> None:
        self._possible = tuple(possible)
        self._detach = detach
        self._calls: dict[str, list[Call]] = {}
        self._joined: dict[str, tuple[int, Tensor]] = {}
        self._initial: dict[str, Tensor] = {}

    def add(self, prefix: str, opened: Opened, names: frozenset[str]) -> None:
        """Keep one call of one layer; `prefix` is the layer's name with the dot before the state."""
        for name in names:
            steps = opened.steps[name].detached() if self._detach else opened.steps[name]
            self._calls.setdefault(prefix + name, []).append(Call(steps, opened.lengths, opened.order, opened.reset))
        for name, value in opened.initial.items():
            if self._detach:
                value = value.detach()
            self._initial.setdefault(prefix + name, value if opened.order is None else value[opened.order])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._possible if name in self._calls)

    @property
    def initial_names(self) -> tuple[str, ...]:
        return tuple(self._initial)

    def form(self, name: str) -> Form:
        calls = self._calls[name]
        batches = sorted({call.shape[0] for call in calls})
        dtype = calls[0].steps.whole.dtype
        return Form(tuple(batches), sum(call.shape[1] for call in calls), calls[0].shape[2], dtype)

    def values(self, name: str, region: Region | None = None) -> Tensor:
        """(B, T, ·), in the autograd graph unless detached: a State, which knows its steps."""
        calls = tuple(self._calls[name])
        known, joined = self._joined.get(name, (0, None))
        if joined is None or known != len(calls):
            self.form(name).whole(name)
            with _in_graph():
                parts = [call.lay_out(call.steps.values) for call in calls]
                joined = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
                if not self._detach:
                    joined = as_state(joined, calls, ())
            self._joined[name] = (len(calls), joined)
        if region is None:
            return joined
        with _in_graph():
            return region.of(joined)

    def initial(self, name: str) -> Tensor:
        return self._initial[name]

    def taken(self, name: str, region: Region | None = None) -> Tensor | None:
        return self._flags(name, region, Call.taken, otherwise=True)

    def resets(self, name: str, region: Region | None = None) -> Tensor | None:
        return self._flags(name, region, Call.resets, otherwise=False)

    def labels(self, name: str) -> Region:
        return self.form(name).whole(name)

    def projected(self, layer: str) -> bool:
        return len({value.size(-1) for name, value in self._initial.items() if layer_of(name) == layer}) > 1

    def _flags(
        self, name: str, region: Region | None, of: Callable[[Call], Tensor | None], *, otherwise: bool
    ) -> Tensor | None:
        """(B, T) bool of all calls along time, None if no call has any."""
        whole = self.form(name).whole(name)
        flags = [(call, of(call)) for call in self._calls[name]]
        if all(flag is None for _, flag in flags):
            return None
        parts = [torch.full(call.shape[:2], otherwise) if flag is None else flag for call, flag in flags]
        return (region or whole).of(torch.cat(parts, dim=1))


@contextmanager
def _in_graph() -> Iterator[None]:
    """The graph belongs to the recording, wherever it is first read."""
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        yield
    else:
        with torch.inference_mode(False), torch.enable_grad():
            yield
