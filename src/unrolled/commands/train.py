"""unrolled train: a network for a file, a folder, a named data set or a synthetic task."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from unrolled.commands.options import positional, read
from unrolled.extras import extra
from unrolled.jobs import DATA, Job, Kind
from unrolled.presets import PRESETS, Preset, preset

_USAGE = """usage: unrolled train {text,series,classify,task} PATH [options]

Train a network on your data, into a folder that predict, evaluate and record read.

  text      the next character: a file, a folder, or code, prose
  series    forecasts: a CSV or Parquet file, or weather
  classify  labelled sequences: a .ts, .tsv, CSV or Parquet file, or vowels, digits
  task      a synthetic task with its settings, as recall:lag=1-40

unrolled train KIND --help lists the options of each. Under torchrun all processes train one network together.
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how it runs; none of it changes what comes out.

    Attributes:
        out: folder of the run; runs/ and the name of the data if omitted.
        resume: go on from the last checkpoint in the folder, if there is one.
        device: where to compute.
        threads: threads of torch; torch's number if omitted.
        checkpoint_every: seconds between checkpoints.
        tensorboard: write events for TensorBoard into the folder too.
        preset: what the other options start from; small is for a first look.
    """

    out: Path | None = None
    resume: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    checkpoint_every: float = 30.0
    tensorboard: bool = False
    preset: Preset = "base"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] not in DATA:
        raise ValueError(f"train: {arguments[0]!r} is no kind of work; expected one of {', '.join(DATA)}")
    job, place = _read(arguments[0], arguments[1:])

    import torch

    from unrolled.commands.display import TrainingDisplay
    from unrolled.training.train import train

    if place.threads is not None:
        if place.threads < 1:
            raise ValueError(f"--threads: must be at least 1, given {place.threads}")
        torch.set_num_threads(place.threads)
    with TrainingDisplay() as display:
        train(
            job,
            place.out or default_folder(job),
            resume=place.resume,
            device=place.device,
            checkpoint_every=place.checkpoint_every,
            tensorboard=place.tensorboard,
            display=display,
        )
    return 0


def default_folder(job: Job) -> Path:
    """Where a run is kept that was given no folder."""
    name = re.sub(r"[^\w.=-]+", "-", Path(job.data.path).name or Path(job.data.path).resolve().name)
    return Path("runs") / f"{job.kind}-{name}"


def _read(kind: Kind, arguments: Sequence[str]) -> tuple[Job, Place]:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", nargs="?", default="base")
    chosen: Any = first.parse_known_args(list(arguments))[0].preset
    start = preset(kind, chosen if chosen in PRESETS else "base", "")

    tyro = extra("tyro", "unrolled train", "train")

    # The path is given by its place; everything else of the data by name.
    data: Any = make_dataclass(
        kind,
        [("path", positional(str, "PATH"))],
        bases=(DATA[kind],),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": DATA[kind].__doc__},
    )
    parts: dict[str, Any] = {"data": data(**{**dataclasses.asdict(start.data), "path": tyro.MISSING})}
    parts |= {f.name: getattr(start, f.name) for f in dataclasses.fields(Job) if f.name != "data"}
    hints = get_type_hints(Job) | {"data": data}
    types = [(name, hints[name]) for name in parts]
    options: Any = make_dataclass(
        "Options", [*types, ("place", Place)], frozen=True, kw_only=True, namespace={"__doc__": Job.__doc__}
    )
    found = read(
        options,
        arguments,
        command=f"train {kind}",
        description=f"{str(DATA[kind].__doc__).splitlines()[0]} The defaults are those of --preset {chosen}.",
        default=options(**parts, place=Place()),
    )
    from unrolled.data.real import REAL

    given = dataclasses.asdict(found.data)
    # The run can then be evaluated from anywhere. A name of real data, or a task, is no file.
    for name in ("path", "test_path"):
        if given.get(name) and Path(given[name]).exists() and given[name] not in REAL:
            given[name] = str(Path(given[name]).resolve())
    return Job(
        data=DATA[kind](**given), **{name: getattr(found, name) for name in parts if name != "data"}
    ), found.place
