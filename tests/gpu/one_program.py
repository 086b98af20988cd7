"""One program of a grid in Triton's interpreter, while other processes run the others on the same memory."""

from __future__ import annotations

from typing import Any


def run(kernel: str, grid: tuple[int, int], place: tuple[int, int], arguments: dict[str, Any]) -> None:
    """Run the program at `place` of `grid`; tensors among the arguments are in memory that processes share."""
    from triton.runtime import interpreter

    from unrolled.recurrence.gpu.backward import backward
    from unrolled.recurrence.gpu.forward import forward

    program = {"forward": forward, "backward": backward}[kernel]
    builder, executor = interpreter.interpreter_builder, interpreter.GridExecutor
    set_dim, set_idx = builder.set_grid_dim, builder.set_grid_idx
    restore: Any = executor._restore_args_dev
    builder.set_grid_dim = lambda *_: set_dim(*grid, 1)
    builder.set_grid_idx = lambda *_: set_idx(*place, 0)
    # What is on the CPU need not be copied back, and others may still write to it.
    executor._restore_args_dev = lambda *_: None
    try:
        program[(1, 1)](**arguments)
    finally:
        builder.set_grid_dim, builder.set_grid_idx, executor._restore_args_dev = set_dim, set_idx, restore
