"""Lets torch.compile trace the layers.

torch.compile refuses every module that is a torch.nn.LSTM, GRU or RNN by isinstance unless its setting `allow_rnn` is
on, because torch's own have no single operator it could trace. Unrolled's have one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch

_CONFIG = "torch._dynamo.config"


def let_dynamo_in() -> None:
    """Turn the setting on: now, or as soon as torch.compile is first used. Importing it here would take a second."""
    if _CONFIG in sys.modules:
        _turn_on(sys.modules[_CONFIG])
    elif not any(isinstance(finder, _OnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OnImport())


# How many contexts hold torch.compile aside, in all threads, and what the first of them entered.
_held = 0
_stance: AbstractContextManager[Any] = nullcontext()
_lock = threading.Lock()


@contextmanager
def set_aside() -> Iterator[None]:
    """A context in which what torch.compile has compiled runs as it was written, so that its steps can be seen.

    torch's setting is one for all threads, whose contexts need not end in the order in which they began.
    """
    global _held, _stance
    with _lock:
        if _held == 0:
            _stance = torch.compiler.set_stance("force_eager") if _CONFIG in sys.modules else nullcontext()
            _stance.__enter__()
        _held += 1
    try:
        yield
    finally:
        with _lock:
            _held -= 1
            if _held == 0:
                _stance.__exit__(None, None, None)


def _turn_on(config: Any) -> None:
    if hasattr(config, "allow_rnn"):
        config.allow_rnn = True


class _OnImport(MetaPathFinder):
    """Waits for the module of torch.compile's settings to be imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _CONFIG:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader)
        return spec


class _Then(Loader):
    """Another loader, and after it the setting."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _turn_on(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
