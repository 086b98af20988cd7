"""What record(to=...) writes into: every call of every layer goes to disk, and nothing of it is kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import torch
from torch import Tensor

from unrolled.observation import Opened
from unrolled.recorded_state import Call
from unrolled.recording.reading import UnfinishedRecording, cut_off
from unrolled.recording.writing import Writer
from unrolled.selection import Region
from unrolled.source import Form


class Appending:
    """A recording that grows while a model is called; it tells what it has, and is read once it is complete."""

    def __init__(self, path: str | Path, possible: Sequence[str]) -> None:
        self._writer = Writer(path, possible)
        self._open = self._whole = True
        self.complete = False

    def __enter__(self) -> Appending:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        if kind is None and self._whole:
            self._writer.finish()
            self.complete = True
        else:
            self._writer.abandon()

    def add(self, prefix: str, opened: Opened, names: frozenset[str]) -> None:
        """Write one call of one layer; `prefix` is the layer's name with the dot before the state.

        Raises:
            ValueError: the call is not like those before; the recording stays unfinished.
        """
        # Whatever goes wrong in between, and whoever catches it, the call is not wholly there.
        whole, self._whole = self._whole, False
        layer = prefix.removesuffix(".")
        with torch.no_grad():
            calls = {
                name: Call(opened.steps[name].detached(), opened.lengths, opened.order, opened.reset)
                for name in sorted(names)
            }
            first = next(iter(calls.values()))
            if not self._writer.has(layer):
                forms = {
                    name: Form((call.shape[0],), 0, call.shape[2], call.steps.whole.dtype)
                    for name, call in calls.items()
                }
                initial = {
                    name: value if opened.order is None else value[opened.order]
                    for name, value in opened.initial.items()
                }
                projected = len({value.size(-1) for value in initial.values()}) > 1
                self._writer.begin(layer, forms, initial, projected=projected, steps=None)
            values = {name: call.lay_out(call.steps.values) for name, call in calls.items()}
            self._writer.append(layer, values, first.taken(), first.resets())
        self._whole = whole

    @property
    def names(self) -> tuple[str, ...]:
        return self._writer.names

    def form(self, name: str) -> Form:
        return self._writer.form(name)

    @property
    def initial_names(self) -> tuple[str, ...]:
        self._refuse()

    def values(self, name: str, region: Region | None = None) -> Tensor:
        self._refuse()

    def initial(self, name: str) -> Tensor:
        self._refuse()

    def taken(self, name: str, region: Region | None = None) -> Tensor | None:
        self._refuse()

    def resets(self, name: str, region: Region | None = None) -> Tensor | None:
        self._refuse()

    def labels(self, name: str) -> Region:
        self._refuse()

    def projected(self, layer: str) -> bool:
        self._refuse()

    def _refuse(self) -> NoReturn:
        if self._open:
            raise ValueError(f"trace: {self._writer.path} is being written; read it after the context of record()")
        raise UnfinishedRecording(cut_off(self._writer.path, self._writer.steps()))
