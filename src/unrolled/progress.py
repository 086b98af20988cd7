"""What a terminal shows while a study runs: each run's loss, speed and time left, and the whole study's."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrolled.claims import Run
    from unrolled.study import Plan

_EVERY = 0.5  # seconds between looks at the runs' files
_HEARTBEAT = 15.0  # seconds between lines where there is no terminal to draw on


class TerminalDisplay:
    """A Display that reads how far the runs are from the files they write, wherever they run.

    On a terminal it draws bars; elsewhere it prints a line for every finished run and, between them, now and then one
    about
    the runs that are under way.
    """

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._open: dict[str, Plan] = {}
        self._lock = threading.Lock()

    def start(self, folder: Path, plans: Sequence[Plan], finished: Sequence[Plan]) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        done = {plan.folder for plan in finished}
        self._folder, self._begin = folder, time.time()
        self._open = {plan.folder: plan for plan in plans if plan.folder not in done}
        self._total, self._steps = len(plans), sum(_work(plan) for plan in self._open.values())
        self._done_steps, self._done = 0.0, len(finished)
        if finished:
            self._console.print(
                f"{len(finished)} of {len(plans)} runs were finished earlier in {folder} and are not repeated"
            )
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bars.start()
        self._overall = self._bars.add_task("all runs", total=len(plans), completed=len(finished), note="")
        self._rows: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def finished(self, plan: Plan, run: Run) -> None:
        with self._lock:
            self._open.pop(plan.folder, None)
            self._done += 1
            self._done_steps += _work(plan)
            row = self._rows.pop(plan.folder, None)
            if row is not None:
                self._bars.remove_task(row)
            self._bars.update(self._overall, completed=self._done)
            self._console.print(
                f"[{self._done}/{self._total}] {plan.title}: skill {run.skill:.3f}, {run.hidden_size} units",
                markup=False,
            )

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._bars.stop()

    def _watch(self) -> None:
        spoken = time.time()
        while not self._stop.wait(_EVERY):
            with self._lock:
                partial, notes = 0.0, []
                for plan in list(self._open.values()):
                    row = self._latest(plan)
                    if row is None:
                        continue
                    partial += _work(plan) * row["step"] / plan.budget.steps
                    measuring = row["step"] >= plan.budget.steps
                    speed = row["step"] / row["seconds"]
                    left = (plan.budget.steps - row["step"]) / speed
                    note = (
                        "measuring" if measuring else f"loss {row['loss']:.4f}, {speed:.0f} steps/s, {clock(left)} left"
                    )
                    notes.append(f"{plan.title}: {row['step']}/{plan.budget.steps}, {note}")
                    if plan.folder not in self._rows:
                        self._rows[plan.folder] = self._bars.add_task(plan.title, total=plan.budget.steps, note="")
                    self._bars.update(self._rows[plan.folder], completed=row["step"], note=note)
                work, elapsed = self._done_steps + partial, time.time() - self._begin
                left = (self._steps - work) * elapsed / work if work else None
                note = "" if left is None else f"{clock(left)} left"
                self._bars.update(self._overall, note=note)
                if not self._console.is_terminal and time.time() - spoken > _HEARTBEAT:
                    spoken = time.time()
                    self._console.print(f"{note}; " + "; ".join(notes) if notes else note, markup=False, soft_wrap=True)

    def _latest(self, plan: Plan) -> dict[str, Any] | None:
        """The last line of a run's metrics if this study's workers wrote it."""
        path = self._folder / "runs" / plan.folder / "metrics.jsonl"
        try:
            if path.stat().st_mtime < self._begin:
                return None
            row: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
            return row
        except (OSError, ValueError, IndexError):
            return None


def _work(plan: Plan) -> float:
    """How long a run takes beside others, roughly: its steps, weighted by the size of its batches' products."""
    return plan.budget.steps * math.sqrt(plan.parameters / 6_100)


def clock(seconds: float) -> str:
    """Minutes and seconds, as 3:07."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
