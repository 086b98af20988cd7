"""unrolled record: every state and gate of a trained run over some of its test part, as a trace, and what was read."""

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
    sequences: how many sequences, evenly spread; for text places that are read side by side. 1 of text, 64 of others.
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
    from unrolled.extras import extra
    from unrolled.recording_of_run import beside, record_run

    extra("zarr", "unrolled record", "trace")
    out: Path = options.out or run.folder / "trace.zarr"
    _, reading = record_run(
        run, out, names=options.names, split=options.split, sequences=options.sequences, steps=options.steps
    )
    reading.write(beside(out))
    count, steps = reading.inputs.shape[:2]
    print(f"{count} x {steps} steps in {out}, and what was read in {beside(out)}")
