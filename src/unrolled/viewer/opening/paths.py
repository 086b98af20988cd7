"""From a path to what is looked at: a recording, a trained run, or a study."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from unrolled.readings import Reading
from unrolled.recording import UnfinishedRecording
from unrolled.recording_of_run import beside, meant, record_run, weights_digest
from unrolled.runs import Run
from unrolled.trace import Trace
from unrolled.viewer.opening.of_reading import recorded_of
from unrolled.viewer.opening.of_study import StudyFolder
from unrolled.viewer.opening.of_trace import inputs_of_file, of_trace, text_of_file
from unrolled.viewer.recorded import Characters, Recorded, trace_shape

__all__ = ["StudyFolder", "of_trace", "open_path"]

Tell = Callable[[str], None]

# What `unrolled record` writes, which is left as it is, and what is made for looking where that cannot be used.
_TRACE, _OWN = "trace.zarr", "view.zarr"


def open_path(
    path: str | os.PathLike[str],
    *,
    inputs: str | os.PathLike[str] | None = None,
    text: str | os.PathLike[str] | None = None,
    tell: Tell = lambda line: None,
) -> Recorded | StudyFolder:
    """What there is to look at under a path.

    A recording is shown with what lies beside it: NAME.inputs.safetensors, and the run in whose folder it is. A run
    that has no recording of its weights is recorded first, into its folder where that can be written, else in memory.
    A recording that was cut off is shown as far as it goes.

    Args:
        path: a recording (a zarr directory), the folder of a run, or the folder of a study.
        inputs: a file of what a recording read, .safetensors or .npy; the one beside it if None.
        text: a file of the text that a recording read, a character a step.
        tell: called with what a user wants to know.

    Raises:
        FileNotFoundError: nothing is at the path, or a run has no weights yet.
        ValueError: it is something else, is damaged, or files do not fit each other; says what.
        ModuleNotFoundError: a package is not installed; says how to install it.
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"there is nothing at {place}; expected a recording, or the folder of a run or a study")
    if (place / "zarr.json").is_file():
        return _recording(place, _file(inputs), _file(text), tell)
    for name, given in (("--inputs", inputs), ("--text", text)):
        if given is not None:
            raise ValueError(f"{name}: is for a recording (a zarr directory), and {place} is none")
    if (place / "config.json").is_file():
        return _run(Run.open(place), tell)
    if (place / "study.json").is_file() or ((place / "plan.json").is_file() and (place / "runs").is_dir()):
        found = StudyFolder(place)
        # Asked for now, so that one that is not finished is told at once.
        count = len(found.study.runs)
        tell(f"{place} is a study of {count} networks")
        return found
    raise ValueError(
        f"{place} {_what(place)}; expected a recording (a zarr directory), or the folder of a run or a study"
    )


def _recording(path: Path, inputs: Path | None, text: Path | None, tell: Tell) -> Recorded:
    trace, whole = _loaded(path, tell)
    run = Run.open(path.parent) if (path.parent / "config.json").is_file() else None
    reading = None
    if inputs is not None:
        reading = inputs_of_file(inputs)
    elif beside(path).is_file():
        # A recording that was cut off has not come to write what it read; what lies there is of another one.
        reading = Reading.read(beside(path)) if whole else None
    if reading is not None and run is not None:
        reading = meant(reading, run)
    if whole:
        _build_extremes(path, tell)
    if reading is None:
        found = of_trace(trace, title=path.name, path=path)
        if text is None:
            tell(f"what {path} read is not known: there is no {beside(path).name} of it; --inputs or --text gives it")
    else:
        model = _model(run, reading, path, tell)
        found = recorded_of(trace, reading, title=path.name, model=model, path=path)
    return found if text is None else replace(found, read=Characters(text_of_file(text, found.lengths)))


def _loaded(path: Path, tell: Tell) -> tuple[Trace, bool]:
    """A recording, and whether it is whole; else the steps that all its layers have."""
    try:
        return Trace.load(path), True
    except UnfinishedRecording:
        trace = Trace.load(path, unfinished=True)
    if not trace:
        raise ValueError(f"{path} is a recording that was cut off before its first steps were written; record it again")
    steps = min(trace_shape(trace.select(name))[1] for name in trace)
    tell(f"{path} was cut off, or is still being written; its first {steps:,} steps are shown")
    return trace.select(steps=slice(0, steps)), False


def _model(run: Run | None, reading: Reading, path: Path, tell: Tell) -> Callable[[], nn.Module] | None:
    """What loads the network that was recorded, where it is there."""
    if run is None or not run.weights.is_file():
        return None
    if _other_weights(run, reading, path):
        tell(f"{path} was recorded with other weights than {run.weights} has now, so its network cannot be run again")
        return None
    return partial(run.model)


def _other_weights(run: Run, reading: Reading, path: Path) -> bool:
    if reading.weights is not None:
        return reading.weights != weights_digest(run)
    return run.weights.stat().st_mtime > (path / "zarr.json").stat().st_mtime


def _build_extremes(path: Path, tell: Tell) -> None:
    """Have the lows and highs that are shown zoomed out beside the recording, where they can be written."""
    from unrolled.recording.extremes import build, has_extremes

    if has_extremes(path):
        return
    tell(f"reading {path} once, so that all of it can be shown at any zoom")
    try:
        build(path)
    except OSError as error:
        tell(f"{path} cannot be added to ({error.strerror or error}); what is zoomed out will take longer")


def _run(run: Run, tell: Tell) -> Recorded:
    for path in (run.folder / _TRACE, run.folder / _OWN):
        if os.path.lexists(path):
            why = _unfit(run, path)
            if why is None:
                return _recording(path, None, None, tell)
            tell(f"{path} {why}")
    return _recorded_anew(run, tell)


def _unfit(run: Run, path: Path) -> str | None:
    """Why a run's recording cannot be shown as that of the run; None where it can."""
    try:
        Trace.load(path)
        reading = Reading.read(beside(path))
    except UnfinishedRecording:
        return "was cut off, or is still being written"
    except FileNotFoundError:
        return "has no file beside it of what was read"
    except ValueError as error:
        return f"cannot be read: {error}"
    return "was recorded with other weights than the run has now" if _other_weights(run, reading, path) else None


def _recorded_anew(run: Run, tell: Tell) -> Recorded:
    # What somebody recorded stays; what was made for looking is replaced.
    path = run.folder / (_OWN if os.path.lexists(run.folder / _TRACE) else _TRACE)
    tell(f"recording {run.folder} over a part of its test data")
    with _folder_within(run.folder) as place:
        if place is not None:
            try:
                _, reading = record_run(run, place / path.name)
                reading.write(beside(path))
                if path.name == _OWN and os.path.lexists(path):
                    shutil.rmtree(path)
                os.rename(place / path.name, path)
                tell(f"recorded in {path}")
                return _recording(path, None, None, tell)
            except FileNotFoundError:
                raise
            except OSError as error:
                tell(f"cannot write {path} ({error.strerror or error})")
    tell(f"{run.folder} cannot be written, so the recording is in memory and gone with this window")
    trace, reading = record_run(run, None)
    return recorded_of(trace, reading, title=run.folder.name, model=partial(run.model))


@contextmanager
def _folder_within(folder: Path) -> Iterator[Path | None]:
    """A folder that is there for as long as it takes; None where none can be made."""
    try:
        made = Path(tempfile.mkdtemp(dir=folder, prefix=".recording-"))
    except OSError:
        yield None
        return
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _file(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)


def _what(place: Path) -> str:
    """What there is instead of what was expected."""
    if not place.is_dir():
        return "is a file"
    if (place / "plan.json").is_file() and (place.parent.parent / "plan.json").is_file():
        return f"is one run of the study in {place.parent.parent}, which is to be given"
    runs = sorted(found.parent.name for found in place.glob("*/config.json"))
    if runs:
        return f"holds the runs {_listed(runs)}, of which one is to be given"
    return f"holds {_listed(sorted(found.name for found in place.iterdir()))}" if any(place.iterdir()) else "is empty"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
