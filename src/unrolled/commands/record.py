"""unrolled record: every state and gate of a trained run over some of its test part, as a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unrolled.commands.options import positional, read

if TYPE_CHECKING:
    from unrolled.runs import Run

_TEXT = """Record what the states and gates of a run do over its test part.

Attributes:
    run: the run's folder.
    out: the trace, a zarr directory; trace.zarr in the run's folder if omitted.
    names: which states and gates, as patterns; all if omitted.
    sequences: how many sequences, of series and classes 256 at most; for text places that are read side by side.
    steps: characters of each, for text.
    split: of which part of the data.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    kind = make_dataclass(
        "Options",
        [
            ("run", positional(Path, "RUN")),
            ("out", Path | None, None),
            ("names", tuple[str, ...], ("*",)),
            ("sequences", int | None, None),
            ("steps", int, 10_000),
            ("split", str, "test"),
        ],
        frozen=True,
        namespace={"__doc__": _TEXT},
    )
    options: Any = read(kind, arguments, command="record", description=_TEXT.splitlines()[0])
    from unrolled.runs import Run

    _record(Run.open(options.run), options)
    return 0


def _record(run: Run, options: Any) -> None:
    import torch

    from unrolled.extras import extra
    from unrolled.problems.opening import open_problem
    from unrolled.problems.problem import answer
    from unrolled.storage import write_weights
    from unrolled.tasks.task import SPLITS
    from unrolled.trace import record

    extra("zarr", "unrolled record", "trace")
    if options.split not in SPLITS:
        raise ValueError(f"--split: given {options.split!r}, expected one of {', '.join(SPLITS)}")
    usual = 1 if run.job.kind == "text" else 64
    sequences = usual if options.sequences is None else options.sequences
    for name, value in (("sequences", sequences), ("steps", options.steps)):
        if value < 1:
            raise ValueError(f"--{name}: must be at least 1, given {value}")
    out: Path = options.out or run.folder / "trace.zarr"
    model, problem = run.model(), open_problem(run.job)
    state, inputs, targets, lengths = None, [], [], None
    batches = list(problem.sample(options.split, sequences, options.steps))
    if not batches:
        raise ValueError(f"--sequences: the {options.split} part is shorter than {sequences} steps; give fewer")
    with torch.no_grad(), record(model, names=options.names, to=out):
        for batch in batches:
            _, state = answer(model, batch, state)
            inputs.append(batch.inputs)
            targets.append(batch.targets)
            lengths = batch.lengths
    read_by = {"inputs": torch.cat(inputs, 1), "targets": torch.cat(targets, 1) if targets[0].dim() > 1 else targets[0]}
    if lengths is not None:
        read_by["lengths"] = lengths
    beside = out.with_name(out.stem + ".inputs.safetensors")
    write_weights(beside, read_by)
    count, steps = read_by["inputs"].shape[:2]
    print(f"{count} x {steps} steps in {out}, and what was read in {beside}")
