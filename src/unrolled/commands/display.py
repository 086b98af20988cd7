"""What a terminal shows while one network is trained."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from unrolled.progress import clock

if TYPE_CHECKING:
    from unrolled.training import Progress

_REDRAW = 0.2  # seconds between two looks at the bar
_HEARTBEAT = 15.0  # seconds between lines where there is no terminal to draw on


class TrainingDisplay:
    """A bar on a terminal, a line for each validation, and elsewhere now and then a line in between."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("steps"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._row: Any = None
        self._drawn = self._spoken = time.monotonic()
        self._begin: tuple[float, int] | None = None

    def __enter__(self) -> TrainingDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, markup=False)

    def step(self, step: int, steps: int) -> None:
        """Draw the bar anew, now and then."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = (now, step)
            self._row = self._bar.add_task("", total=steps, completed=step, note="")
            return
        if now - self._drawn < _REDRAW:
            return
        self._drawn = now
        begun, first = self._begin
        speed = (step - first) / (now - begun)
        note = f"{speed:.1f} steps/s, {clock((steps - step) / speed)} left" if speed else ""
        self._bar.update(self._row, completed=step, note=note)
        if not self._console.is_terminal and now - self._spoken > _HEARTBEAT:
            self._spoken = now
            self.say(f"step {step} of {steps}, {note}")

    def validated(self, progress: Progress) -> None:
        """Print what a validation gave."""
        self._spoken = time.monotonic()
        figures = ", ".join(
            f"{name} {value:.4f}" for name, value in progress.figures.items() if isinstance(value, float)
        )
        better = " *" if progress.value == progress.best else ""
        self.say(f"step {progress.step}/{progress.steps}: loss {progress.loss:.4f}; validation {figures}{better}")
