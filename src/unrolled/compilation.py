"""Lets torch.compile trace the layers.

torch.compile refuses every module that is a torch.nn.LSTM, GRU or RNN by isinstance unless its setting `allow_rnn` is
on, because torch's own have no single operator it could trace. Unrolled's have one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
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


def set_aside() -> AbstractContextManager[Any]:
    """A context in which what torch.compile has compiled runs as it was written, so that its steps can be seen."""
    return torch.compiler.set_stance("force_eager") if _CONFIG in sys.modules else nullcontext()


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
