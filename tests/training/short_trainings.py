"""What the tests of training share: small jobs, what a finished run is compared by, and trainings that are killed."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unrolled.budget import Budget
from unrolled.jobs import Job, Network, TaskData, TextData
from unrolled.runs import Run
from unrolled.training.checkpoints import checkpoints, read_checkpoint
from unrolled.training.train import Silent, train


def write_texts(folder: Path, characters: int = 3000, documents: int = 3) -> Path:
    """A folder of documents of made-up words, the same ones every time."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = random.Random(characters)
    words = ["".join(drawn.choices("abcdefgh", k=drawn.randint(1, 6))) for _ in range(40)]
    for number in range(documents):
        text = ""
        while len(text) < characters // documents:
            text += drawn.choice(words) + drawn.choice([" ", " ", " ", ".\n"])
        (folder / f"{number}.txt").write_text(text)
    return folder


def text_job(
    folder: Path, network: Network | None = None, *, length: int = 20, carry: bool = True, seed: int = 3, **budget: Any
) -> Job:
    """Text of `write_texts`: a pass over 3000 characters has 15 steps."""
    return Job(
        data=TextData(path=str(folder), length=length, carry=carry),
        network=network or Network(hidden_size=8, embedding_size=4, dropout=0.2),
        budget=Budget(**{"steps": 24, "batch_size": 8, "validate_every": 6, "learning_rate": 0.01, **budget}),
        seed=seed,
    )


def task_job(network: Network | None = None, *, path: str = "adding:length=10", seed: int = 3, **budget: Any) -> Job:
    """A task, whose every step has a batch of its own."""
    return Job(
        data=TaskData(path=path),
        network=network or Network(hidden_size=8, dropout=0.2),
        budget=Budget(**{"steps": 24, "batch_size": 8, "validate_every": 6, "validation_size": 16, **budget}),
        seed=seed,
    )


class Log(Silent):
    """Keeps what it is told, and calls `then` after every step."""

    def __init__(self, then: Callable[[int], object] = lambda step: None) -> None:
        self.said: list[str] = []
        self.steps: list[int] = []
        self.then = then

    def say(self, line: str) -> None:
        self.said.append(line)

    def step(self, step: int, steps: int) -> None:
        self.steps.append(step)
        self.then(step)

    @property
    def text(self) -> str:
        return "\n".join(self.said)


def at_step(wanted: int, act: Callable[[], object]) -> Callable[[int], None]:
    """For `Log`: act after one step."""

    def then(step: int) -> None:
        if step == wanted:
            act()

    return then


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def on_cpu(job: Job, folder: Path, **options: Any) -> Run:
    """train() on the CPU; by default a checkpoint is written at the end only."""
    return train(job, folder, **{"device": "cpu", "checkpoint_every": 1e9, **options})


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a run came to but how long it took: name -> tensor or figure."""
    run = Run.open(folder)
    state = read_checkpoint(checkpoints(run.checkpoints)[0])
    weights = {f"weights/{name}": tensor for name, tensor in run.model().state_dict().items()}
    found: dict[str, Any] = {**weights, "losses": state.losses, "generators": state.generators}
    for part in ("model", "best"):
        found |= {f"{part}/{name}": tensor for name, tensor in getattr(state, part).items()}
    for index, slot in state.optimizer["state"].items():
        found |= {f"optimizer/{index}/{name}": value for name, value in slot.items()}
    found |= {f"carried/{index}": tensor for index, tensor in enumerate(state.carried)}
    found["groups"] = state.optimizer["param_groups"]
    found |= {name: getattr(state, name) for name in ("step", "best_step", "best_value")}
    found["metrics"] = [{name: value for name, value in row.items() if name != "seconds"} for row in run.metrics()]
    if run.finished:
        found["fit"] = json.loads((folder / "fit.json").read_text())
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of what is not the same, bit for bit."""
    return [name for name in sorted({*one, *other}) if not _same(one.get(name), other.get(name))]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and bool(one == other)


def undisturbed(job: Job, folder: Path) -> dict[str, Any]:
    """What a job comes to when nothing happens."""
    on_cpu(job, folder)
    return outcome(folder)


def longer(job: Job, **budget: Any) -> Job:
    return replace(job, budget=replace(job.budget, **budget))


# Children come from a process that has imported torch and computed nothing, so that each starts in no time.
_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["unrolled.training.train", "lightning_fabric"])


def start_child(job: Job, folder: Path, *, kill_at: tuple[str, int] | None = None) -> Any:
    """A process that begins or goes on with a job, with a checkpoint every twentieth of a second.

    Args:
        job: what to do.
        folder: the run's folder. When it trains, it makes a file `began` beside it.
        kill_at: a function of `os` and the number of its call, from 1, at which the process kills itself.
    """
    child = _children.Process(target=_work, args=(job, folder, kill_at))
    child.start()
    return child


def _work(job: Job, folder: Path, kill_at: tuple[str, int] | None) -> None:
    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # Fabric's advice on starting it
    if kill_at is not None:
        _suicidal(*kill_at)
    began = folder.with_name(folder.name + ".began")
    began.unlink(missing_ok=True)
    display = Log(lambda step: began.exists() or began.touch())
    train(job, folder, resume=True, device="cpu", checkpoint_every=0.05, display=display)
    os._exit(0)


def _suicidal(name: str, call: int) -> None:
    """Have the process killed when it calls a function of `os` for the nth time, before that does anything."""
    real, calls = getattr(os, name), iter(range(1, sys.maxsize))

    def function(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)

    setattr(os, name, function)


def finish_child(child: Any) -> None:
    """Wait until it is done."""
    child.join(300)
    assert child.exitcode == 0


def kill_often(job: Job, folder: Path, times: int, *, seconds: float, seed: int = 0) -> None:
    """Begin a job, kill it with SIGKILL at random moments and go on each time, then let it end.

    Args:
        times: how often it is killed.
        seconds: how long the job trains. Together the kills come well before that.
    """
    drawn = random.Random(seed)
    for _ in range(times):
        child = start_child(job, folder)
        began = folder.with_name(folder.name + ".began")
        while not began.exists() and child.is_alive():
            time.sleep(0.001)
        time.sleep(drawn.uniform(0, seconds / times))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, "it ended before it was killed"
        began.unlink(missing_ok=True)
    finish_child(start_child(job, folder))
