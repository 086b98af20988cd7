"""Recording a trained run while it reads some of its data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from unrolled.meanings import Meaning, one_hot_symbols, own_units
from unrolled.problems.opening import open_problem
from unrolled.problems.problem import Problem, answer
from unrolled.readings import Reading, joined
from unrolled.runs import Run
from unrolled.tasks.task import SPLITS, Split
from unrolled.trace import Trace, record

STEPS = 10_000  # of each sequence of text, unless told otherwise
SEQUENCES = 64  # of series, classes and tasks

Tell = Callable[[int, int], None]


def record_run(
    run: Run,
    to: Path | None,
    *,
    names: str | Sequence[str] = "*",
    split: str = "test",
    sequences: int | None = None,
    steps: int = STEPS,
    tell: Tell = lambda done, of: None,
) -> tuple[Trace, Reading]:
    """Record what the states and gates of a run do over some of its data.

    Args:
        run: a training with weights.
        to: a zarr directory to write to; kept in memory if None.
        names: which states and gates, as patterns.
        split: of which part of the data.
        sequences: how many, evenly spread over the part; for text places that are read side by side. By default 1 for
            text and 64 for others.
        steps: characters of each, for text.
        tell: called with how many steps are done, and of how many.

    Returns:
        The trace, and what was read; that is not written yet: see `beside`.

    Raises:
        ValueError: an option has a value that it cannot take, or the data are others than those trained on.
        FileNotFoundError: the run has no weights yet, or its data are gone.
        FileExistsError: there is something at `to` already.
    """
    if split not in SPLITS:
        raise ValueError(f"--split: given {split!r}, expected one of {', '.join(SPLITS)}")
    usual = 1 if run.job.kind == "text" else SEQUENCES
    sequences = usual if sequences is None else sequences
    for name, value in (("sequences", sequences), ("steps", steps)):
        if value < 1:
            raise ValueError(f"--{name}: must be at least 1, given {value}")
    weights = weights_digest(run)
    model, problem = run.model(), open_problem(run.job)
    _check_data(run, problem)
    batches = list(problem.sample(_split(split), sequences, steps))
    if not batches:
        raise ValueError(f"--sequences: the {split} part is shorter than {sequences} steps; give fewer")
    of = sum(batch.inputs.size(1) for batch in batches)
    state, done = None, 0
    with torch.no_grad(), record(model, names=names, detach=True, to=to) as trace:
        for batch in batches:
            _, state = answer(model, batch, state)
            done += batch.inputs.size(1)
            tell(done, of)
    return trace, replace(meant(joined(batches), run), weights=weights)


def meant(reading: Reading, run: Run) -> Reading:
    """A reading with what its numbers mean, as a run tells; what the reading itself tells stays."""
    labels, meaning = dict(reading.labels), reading.meaning or Meaning.of_run(run)
    symbols, values, reset = reading.symbols, reading.values, reading.reset
    if symbols is None and meaning.signs is not None:
        symbols = reading.inputs if reading.inputs.dim() == 2 else one_hot_symbols(reading.inputs)
    if run.job.kind == "text" and reset is None:
        reset = reading.inputs == 0
    if values is None and symbols is None:
        found = own_units(run, reading.inputs, labels.get("series"))
        values = None if found is None else torch.from_numpy(found)
        if meaning.kind == "task" and meaning.channels:
            values = reading.inputs
    if meaning.kind == "series" and "series" not in meaning.names:
        labels.pop("series", None)
    if meaning.kind == "classify" and "class" not in labels and reading.targets is not None:
        steps = torch.arange(reading.inputs.size(1))
        inside = steps < (reading.inputs.size(1) if reading.lengths is None else reading.lengths.unsqueeze(1))
        labels["class"] = torch.where(inside, reading.targets.unsqueeze(1), -1)
    return replace(reading, symbols=symbols, values=values, reset=reset, labels=labels, meaning=meaning)


def beside(trace: Path) -> Path:
    """The file of what was read for a recording at `trace`."""
    return trace.with_name(trace.stem + ".inputs.safetensors")


def weights_digest(run: Run) -> str | None:
    """A name that other weights would not have; None where there are none."""
    return hashlib.sha256(run.weights.read_bytes()).hexdigest() if run.weights.is_file() else None


def _split(name: str) -> Split:
    return next(split for split in SPLITS if split == name)


def _check_data(run: Run, problem: Problem) -> None:
    """Refuse data whose numbers mean something else than those of the training did."""
    if problem.digest() == run.digest or json.loads(json.dumps(problem.learnt())) == run.learnt:
        return
    raise ValueError(
        f"{run.folder} was trained on other data than {run.job.data.path} has now, and a network reads other data "
        "wrongly; give back the data of the training"
    )
