"""Recordings of random walks, what the columns of a window of them hold, by hand, and what lies on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.calls import Calls
from unrolled.observation import Opened
from unrolled.recording import Stored, layout, save
from unrolled.recurrence.result import Steps
from unrolled.selection import Region
from unrolled.source import Selected, Source

B, T, U = 3, 1003, 5


def calls(values: Mapping[str, Tensor], *, cut: int | None = None) -> list[Opened]:
    """State -> (B, T, U) as calls of one layer, of `cut` steps each."""
    steps = next(iter(values.values())).size(1)
    found = []
    for start in range(0, steps, cut or steps):
        part = {name: value[:, start : start + (cut or steps)].transpose(0, 1) for name, value in values.items()}
        found.append(Opened({name: Steps(value, (value,)) for name, value in part.items()}, {}))
    return found


def live(values: Mapping[str, Tensor]) -> Calls:
    source = Calls([f"l0.{name}" for name in values], detach=True)
    for call in calls(values):
        source.add("l0.", call, frozenset(values))
    return source


def walks(*, batch: int = B, steps: int = T, units: int = U, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, steps, units).cumsum(1).to(dtype)


def by_hand(values: Tensor, span: int, start: int, stop: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The lows and highs of one sequence's steps (T, U) in columns of `span`, one column after the other."""
    columns = [values[first : min(first + span, stop)].double() for first in range(start, stop, span)]
    # torch's own amin gives NaN where there is one.
    low, high = (torch.stack([f(column, dim=0) for column in columns]) for f in (torch.amin, torch.amax))
    return low.float().numpy(), high.float().numpy()


def without_extremes(path: Path) -> Path:
    shutil.rmtree(path / "l0" / layout.EXTREMES)
    return path


def selected(source: Source) -> Source:
    """The steps from the third on, backwards sequences, some units."""
    name = source.names[0]
    form = source.form(name)
    region = Region(range(form.batches[0] - 1, -1, -1), range(3, form.steps), (3, 0, 4))
    return Selected(source, {name: region}, ())


SOURCES: dict[str, Callable[[Calls, Path], Source]] = {
    "on disk": lambda source, path: Stored(save(source, path)),
    "on disk without blocks": lambda source, path: Stored(without_extremes(save(source, path))),
    "in memory": lambda source, path: source,
    "selected in memory": lambda source, path: selected(source),
    "selected on disk": lambda source, path: selected(Stored(save(source, path))),
}
WINDOWS = [
    *[(0, T, columns) for columns in (1, 2, 3, 7, 50, 200, 250, 251, 5000)],
    *[(17, 999, columns) for columns in (1, 10, 100, 300)],
    *[(500, 501, 1), (999, 1000, 4), (15, 17, 1), (3, 700, 2), (64, 128, 1), (0, 16, 1), (0, 10, 2)],
]


def chunk_files(path: Path, *parts: str) -> set[Path]:
    return {file for file in path.joinpath(*parts).rglob("*") if file.is_file() and file.name != "zarr.json"}


def files(path: Path) -> dict[Path, bytes]:
    """What is in a recording, without what zarr leaves of a file that it could not finish."""
    return {
        file.relative_to(path): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.suffix != ".partial"
    }
