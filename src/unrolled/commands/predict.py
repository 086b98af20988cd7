"""unrolled predict: what a trained run foretells."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unrolled.commands.options import positional, read
from unrolled.jobs import DATA, ClassifyData, SeriesData

if TYPE_CHECKING:
    from unrolled.runs import Run

_USAGE = """usage: unrolled predict RUN [options]

What a trained run foretells: for text how a prompt goes on, for series forecasts with intervals as CSV, for classes a
probability of each as CSV. unrolled predict RUN --help lists the options for that run.
"""

# Of each kind: the option, its type, its default; what they mean stands in the docstring that help shows.
_OPTIONS: dict[str, tuple[list[tuple[str, Any, Any]], str]] = {
    "text": (
        [("prompt", str, ""), ("length", int, 500), ("temperature", float, 0.8), ("seed", int, 0)],
        """Go on with a text.

        Attributes:
            run: the run's folder.
            prompt: what the text begins with; a document's beginning if empty.
            length: characters at most.
            temperature: below 1 for likelier characters, 0 for the likeliest only.
            seed: decides the draws.
        """,
    ),
    "series": (
        [("data", Path | None, None), ("out", Path | None, None), ("interval", float, 0.9)],
        """Forecast what comes after the end of each series.

        Attributes:
            run: the run's folder.
            data: a file with the columns of the one that was trained on; that one if omitted.
            out: a CSV file; the terminal if omitted.
            interval: share of the truths that are to lie between lower and upper.
        """,
    ),
    "classify": (
        [("data", Path | None, None), ("out", Path | None, None)],
        """Name the classes of sequences.

        Attributes:
            run: the run's folder.
            data: a file as the one that was trained on, which may lack the classes; the run's test part if omitted.
            out: a CSV file; the terminal if omitted.
        """,
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        raise ValueError(f"predict: the run's folder comes first, before options; given {arguments[0]!r}")
    kind = _kind(Path(arguments[0]))
    if kind not in _OPTIONS:
        raise ValueError(f"{arguments[0]}: a synthetic task has nothing to foretell; try unrolled evaluate")
    fields, text = _OPTIONS[kind]
    made = make_dataclass("Options", [("run", positional(Path, "RUN")), *fields], namespace={"__doc__": text})
    options: Any = read(made, arguments, command="predict RUN", description=text.splitlines()[0])
    from unrolled.runs import Run
    from unrolled.storage import writable

    if kind != "text" and options.out is not None:
        writable(options.out)
    run = Run.open(options.run)
    {"text": _text, "series": _series, "classify": _classify}[kind](run, options)
    return 0


def _kind(folder: Path) -> str:
    """Known before torch is imported, so that help does not wait for it."""
    try:
        kind = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["job"]["kind"])
        if kind not in DATA:
            raise ValueError(f"unknown kind {kind!r}")
        return kind
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{folder} holds no training run; unrolled train makes one") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} is damaged ({error})") from None


def _text(run: Run, options: Any) -> None:
    from unrolled.predictions import continued

    pieces = continued(run, options.prompt, length=options.length, temperature=options.temperature, seed=options.seed)
    sys.stdout.write(options.prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _series(run: Run, options: Any) -> None:
    from unrolled.predictions import forecast, scales_of
    from unrolled.problems.opening import open_panel

    assert isinstance(run.job.data, SeriesData)
    panel = open_panel(run.job.data, path=options.data, learnt=scales_of(run))
    rows: list[tuple[str, ...]] = [("series", "time", "target", "forecast", "lower", "upper")]
    for one in forecast(run, panel, interval=options.interval):
        for step, time in enumerate(one.times):
            for column, target in enumerate(one.targets):
                figures = (values[step, column] for values in (one.values, one.lower, one.upper))
                rows.append((one.series, _written(time), target, *(f"{figure:.6g}" for figure in figures)))
    _write(rows, options.out)


def _written(time: Any) -> str:
    """A time to the second, or as finely as it is; a number of steps as it is."""
    if time.dtype.kind != "M":
        return str(time)
    seconds = time.astype("datetime64[s]")
    return str(seconds if seconds == time else time)


def _classify(run: Run, options: Any) -> None:
    from unrolled.predictions import probabilities
    from unrolled.problems.opening import open_labelled

    assert isinstance(run.job.data, ClassifyData)
    labelled = open_labelled(run.job.data, path=options.data)
    classes, shares = probabilities(run, labelled)
    rows: list[tuple[str, ...]] = [("sequence", "label", "predicted", *(f"p({name})" for name in classes))]
    for number, (label, row) in enumerate(zip(labelled.labels, shares, strict=True)):
        rows.append((str(number), label, classes[row.argmax()], *(f"{share:.6f}" for share in row)))
    _write(rows, options.out)


def _write(rows: Sequence[Sequence[str]], out: Path | None) -> None:
    from unrolled.storage import write_text

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    if out is None:
        sys.stdout.write(text.getvalue())
    else:
        write_text(out, text.getvalue())
        print(f"{len(rows) - 1} rows in {out}", file=sys.stderr)
