"""Events for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unrolled.extras import extra


def board(folder: Path) -> Callable[[dict[str, Any]], None]:
    """What writes each line of metrics as scalars into a folder.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
    """
    extra("tensorboard", "--tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def write(row: dict[str, Any]) -> None:
        for name, value in _scalars({k: v for k, v in row.items() if k not in ("step", "steps")}):
            writer.add_scalar(name, value, row["step"], walltime=None)
        writer.flush()

    return write


def _scalars(value: Any, name: str = "") -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [found for part, inner in value.items() for found in _scalars(inner, f"{name}/{part}" if name else part)]
    return [(name, float(value))] if isinstance(value, int | float) else []
