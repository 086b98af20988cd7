"""train(): a job done in a folder, safe against being killed, and gone on with exactly."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from unrolled.jobs import Job
from unrolled.locks import only_one
from unrolled.problems.opening import open_problem
from unrolled.problems.problem import Problem
from unrolled.runs import Run, build, plain
from unrolled.storage import sweep, write_json, write_weights
from unrolled.training.checkpoints import Damaged, checkpoints, read_checkpoint, write_checkpoint
from unrolled.training.loop import Fit, Progress, State, Training, as_row, deterministic
from unrolled.training.states import look
from unrolled.training.world import Together

_AGREE_EVERY = 10  # steps between two talks of several processes about whether to write a checkpoint


class Interrupted(KeyboardInterrupt):
    """A training was asked to stop by a signal, and has written a checkpoint.

    Attributes:
        status: the exit status that tells of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.status = 128 + signal


class Display(Protocol):
    """What train() tells while it works."""

    def say(self, line: str) -> None:
        """Something that a user wants to know."""

    def step(self, step: int, steps: int) -> None:
        """A step was taken."""

    def validated(self, progress: Progress) -> None:
        """A validation is done."""


class Silent:
    """Tells nothing."""

    def say(self, line: str) -> None: ...

    def step(self, step: int, steps: int) -> None: ...

    def validated(self, progress: Progress) -> None: ...


def train(
    job: Job,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    checkpoint_every: float = 30.0,
    tensorboard: bool = False,
    display: Display | None = None,
) -> Run:
    """Do a job in a folder.

    Under torchrun every process calls this with the same arguments; they share each batch, and the first one writes.

    Args:
        job: what to do.
        out: the run's folder.
        resume: go on from the last checkpoint if there is one; without it a folder that holds a run is refused.
        device: "auto", "cpu" or "cuda".
        checkpoint_every: seconds between checkpoints; one is written at the end and at Ctrl-C or SIGTERM too.
        tensorboard: whether to write events for TensorBoard into the folder too.
        display: what to tell about progress; nothing by default.

    Returns:
        The finished run.

    Raises:
        ValueError: bad data or options, a folder with another run, or a damaged checkpoint with none before it.
        OSError: the folder cannot be written; the last checkpoint is kept.
        Diverged: the loss became NaN.
        Interrupted: a KeyboardInterrupt: it was asked to stop; the checkpoint is written.
    """
    folder = Path(out)
    if not checkpoint_every > 0:
        raise ValueError(f"checkpoint_every: must be above 0 seconds, given {checkpoint_every}")
    world = Together(device, job.precision)
    if world.share.of > 1 and job.budget.batch_size % world.share.of:
        raise ValueError(
            f"batch_size: {job.budget.batch_size} cannot be shared by {world.share.of} processes; "
            f"give a multiple of {world.share.of}"
        )
    display = display if display is not None and world.first else Silent()
    with ExitStack() as stack:
        if world.first:
            stack.enter_context(only_one(folder, "training run"))
            sweep(folder)
        problem = open_problem(job, tell=display.say)
        # Before the folder has anything of the run: a network that cannot be made should leave none behind.
        with deterministic(job.seed):
            model = build(job, problem.shape)
        world.wait()
        run = _opened(folder, job, problem, resume=resume, first=world.first)
        world.wait()
        if run.finished:
            display.say(f"{folder} is finished already; nothing is left to do")
            return run
        display.say(
            f"{problem.title}: {job.network.cell} of {job.network.layers} x {job.network.hidden_size} units, "
            f"{job.budget.steps} steps, on {world.device}"
            + (f" in {world.share.of} processes" if world.share.of > 1 else "")
        )
        stack.enter_context(deterministic(_own_seed(job.seed, world.share.part)))
        training = Training(
            model, problem, job.budget, world=world, inspect=lambda m: {"states": look(m, problem, world)}
        )
        state = _last(run, display)
        if state is not None:
            training.restore(state)
            display.say(f"going on from step {state.step} of {job.budget.steps}")
        keeper = _Keeper(run, world, display, checkpoint_every, tensorboard)
        keeper.go_on(state)
        with _asked_to_stop() as asked:
            result = training.run(keeper.validated, after_step=lambda t: keeper.stepped(t, asked))
        if result is None:
            raise Interrupted(f"stopped at step {training.step} of {job.budget.steps}", asked[0] if asked else 2)
        keeper.finish(training, problem, result)
    world.wait()
    display.say(f"The run: {folder}. Next: unrolled evaluate {folder}")
    return run


def _own_seed(seed: int, part: int) -> int:
    """The first process draws as one that is alone would; others have their own streams."""
    return seed if part == 0 else int.from_bytes(hashlib.sha256(f"{seed}/{part}".encode()).digest()[:6], "big")


def _opened(folder: Path, job: Job, problem: Problem, *, resume: bool, first: bool) -> Run:
    """The run in a folder, new or gone on with."""
    if not (folder / "config.json").exists():
        return Run.start(folder, job, problem) if first else Run(folder, job, problem.shape, problem.learnt(), "")
    if not resume and first:
        raise ValueError(f"{folder} holds a run already; --resume goes on with it, or give another folder with --out")
    run = Run.open(folder)
    before, now = _flat(run.job.as_json()), _flat(job.as_json())
    other = sorted(name for name in before | now if before.get(name) != now.get(name))
    if other:
        said = "; ".join(f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in other)
        raise ValueError(f"{folder} holds a run of other options: {said}; give the same, or another folder with --out")
    if run.digest != problem.digest():
        raise ValueError(f"{folder} was started with other data than are there now; give another folder with --out")
    return run


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: list(value) if isinstance(value, tuple) else value}
    return {key: inner for part, under in value.items() for key, inner in _flat(under, part).items()}


def _last(run: Run, display: Display) -> State | None:
    """The last checkpoint that is whole; None if none was written."""
    found = checkpoints(run.checkpoints)
    for path in found:
        try:
            return read_checkpoint(path)
        except Damaged as error:
            display.say(f"{error}; the one before it is tried")
    if found:
        raise ValueError(f"no checkpoint in {run.checkpoints} can be read; delete {run.folder} to start anew")
    return None


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that is no longer empty when a signal has asked to stop; a second Ctrl-C stops at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, _: Any) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Keeper:
    """Writes what a training comes to into its folder."""

    def __init__(self, run: Run, world: Together, display: Display, every: float, tensorboard: bool) -> None:
        self._run, self._world, self._display, self._every = run, world, display, every
        self._rows: list[dict[str, Any]] = []
        self._written, self._kept_step = time.monotonic(), 0
        self._board: Callable[[dict[str, Any]], None] = lambda row: None
        if tensorboard and world.first:
            from unrolled.training.board import board

            self._board = board(run.folder / "tensorboard")

    def go_on(self, state: State | None) -> None:
        """Forget what was written after the checkpoint that the training goes on from: it will come again."""
        self._kept_step = 0 if state is None else state.step
        self._rows = [row for row in self._run.metrics() if row["step"] <= self._kept_step]
        if self._world.first:
            with self._safely():
                self._run.keep_metrics(self._rows)

    def validated(self, progress: Progress) -> None:
        row = plain(as_row(progress))
        self._rows.append(row)
        if self._world.first:
            with self._safely():
                self._run.keep_metrics(self._rows)
        self._board(row)
        self._display.validated(progress)

    def stepped(self, training: Training, asked: list[int]) -> bool:
        """After every step: write a checkpoint when it is time; True to stop."""
        self._display.step(training.step, training.budget.steps)
        world = self._world
        if training.ended:
            self._checkpoint(training)
            return False
        if world.share.of > 1 and training.step % _AGREE_EVERY:
            return False
        stop = world.agreed(bool(asked))
        if stop or world.agreed(time.monotonic() - self._written > self._every):
            self._checkpoint(training)
        return stop

    def finish(self, training: Training, problem: Problem, result: Fit) -> None:
        if self._world.first:
            with self._safely():
                for name, facts in problem.afterwards(training.model).items():
                    write_json(self._run.folder / name, facts)
                outcome = {name: value for name, value in asdict(result).items() if name != "metrics"}
                write_json(self._run.folder / "fit.json", outcome)

    def _checkpoint(self, training: Training) -> None:
        state = training.state()
        if self._world.first:
            with self._safely():
                if state.best_step:
                    write_weights(self._run.weights, state.best)
                write_checkpoint(self._run.checkpoints, state)
        self._written, self._kept_step = time.monotonic(), state.step

    @contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = (
                f"the checkpoint of step {self._kept_step} is kept, and --resume goes on from it"
                if self._kept_step
                else "nothing was written before"
            )
            raise type(error)(error.errno, f"{error.strerror or error}; {kept}") from error
