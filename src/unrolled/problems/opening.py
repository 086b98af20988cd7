"""From what a job says about its data to the problem itself, its data read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unrolled.jobs import ClassifyData, Job, Kind, SeriesData, TaskData, TextData
from unrolled.problems.problem import Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unrolled.data.labelled import Labelled
    from unrolled.data.panel import Panel
    from unrolled.data.texts import Divided
    from unrolled.problems.scales import Scales
    from unrolled.problems.text import Truth
    from unrolled.tasks.task import Split

Tell = Callable[[str], None]

_SOURCE = (".py", ".pyi", ".py.gz")


def open_problem(job: Job, *, tell: Tell = lambda line: None) -> Problem:
    """Read a job's data and make them a problem.

    Args:
        job: what is to be learnt.
        tell: called with what a user wants to know about the data.

    Raises:
        ValueError, OSError: the data cannot be read or used; says where and why.
        ModuleNotFoundError: a package is not installed; says how to install it.
    """
    data = job.data
    if isinstance(data, TextData):
        return _text(job, data, tell)
    if isinstance(data, SeriesData):
        return _series(job, data, tell)
    if isinstance(data, ClassifyData):
        return _classify(job, data, tell)
    return _task(job, data)


def _task(job: Job, data: TaskData) -> Problem:
    from unrolled.problems.synthetic import Synthetic
    from unrolled.tasks import parse

    return Synthetic(
        parse(data.path),
        seed=job.seed,
        batch_size=job.budget.batch_size,
        sizes={"validation": job.budget.validation_size, "test": 2 * job.budget.validation_size},
    )


def _text(job: Job, data: TextData, tell: Tell) -> Problem:
    from unrolled.data.real import REAL, load_text
    from unrolled.data.texts import divided, load_documents
    from unrolled.problems.text import Text

    if _named(data.path, "text"):
        most = {} if data.characters is None else {"characters": data.characters}
        parts = load_text(data.path, validation=data.validation, test=data.test, **most)
        tell(f"{data.path}: {REAL[data.path].what}; {REAL[data.path].licence}")
    else:
        documents = load_documents(data.path, encoding=data.encoding, pattern=data.pattern, characters=data.characters)
        parts = divided(documents, validation=data.validation, test=data.test)
        _tell_all(tell, documents.remarks)
    _tell_all(tell, (parts.how, *parts.remarks))
    return Text(
        parts.parts,
        seed=job.seed,
        batch_size=job.budget.batch_size,
        length=data.length,
        carry=data.carry,
        most_symbols=data.symbols,
        validation_characters=data.validation_characters,
        name=_name(data.path),
        truth=_truth_of_source(parts),
    )


def _truth_of_source(parts: Divided) -> Truth | None:
    """What Python's tokenizer knows of documents that are Python source; None where none is."""
    if not any(place.name.endswith(_SOURCE) for places in parts.places.values() for place in places):
        return None
    from unrolled.tasks.source_labels import label

    def truth(split: Split, number: int) -> Mapping[str, NDArray[Any]] | None:
        place, size = parts.places[split][number], len(parts.parts[split][number])
        if not place.name.endswith(_SOURCE):
            return None
        try:
            # Of the whole document: a part of it may begin inside a string.
            found = label(place.whole)
        except SyntaxError:
            return None
        return {name: values[place.start : place.start + size] for name, values in found.items()}

    return truth


def _series(job: Job, data: SeriesData, tell: Tell) -> Problem:
    from unrolled.problems.series import Series

    return Series(
        open_panel(data, tell=tell),
        seed=job.seed,
        batch_size=job.budget.batch_size,
        horizon=data.horizon,
        window=data.window,
        validation=data.validation,
        test=data.test,
        season=data.season,
        name=_name(data.path),
    )


def open_panel(
    data: SeriesData, *, path: Path | None = None, tell: Tell = lambda line: None, learnt: Scales | None = None
) -> Panel:
    """The series of a job, or of another file; with the columns that a network has learnt, where it has."""
    from unrolled.data.panel import load_panel
    from unrolled.data.real import REAL, load_series

    columns: dict[str, Any] = {
        "target": data.target or None,
        "covariates": data.covariates,
        "time": data.time,
        "group": data.group,
    }
    source = str(path or data.path)
    if _named(data.path, "series"):
        file = load_series(data.path)
        named = file.arguments()
        source = str(path or named.pop("path"))
        # What the user names goes before what is usual.
        columns = {name: given or named[name] for name, given in columns.items()}
        tell(f"{data.path}: {REAL[data.path].what}; {REAL[data.path].licence}")
        _tell_all(tell, file.remarks)
    columns["target"] = columns["target"] or None
    if learnt is not None:
        columns |= {"target": learnt.targets, "covariates": learnt.covariates, "keep_constant": True}
    panel = load_panel(source, **columns, encoding=data.encoding, delimiter=data.delimiter, header=data.header)
    _tell_all(tell, panel.remarks)
    return panel


def _classify(job: Job, data: ClassifyData, tell: Tell) -> Problem:
    from unrolled.problems.classify import Classify

    return Classify(_parts(data, tell), seed=job.seed, batch_size=job.budget.batch_size, name=_name(data.path))


def _parts(data: ClassifyData, tell: Tell) -> dict[Split, Labelled]:
    from unrolled.data.real import REAL, load_classes
    from unrolled.problems.classify import divided

    if _named(data.path, "classify"):
        if data.test_path is not None:
            raise ValueError(f"test_path: {data.path} has a test part of its own; give none")
        pair = load_classes(data.path)
        tell(f"{data.path}: {REAL[data.path].what}; {REAL[data.path].licence}")
        _tell_all(tell, (pair.how, *pair.remarks))
        return {**divided(pair.train, {"validation": data.validation}), "test": pair.test}
    whole = _labelled(data, data.path)
    if data.test_path is not None:
        return {**divided(whole, {"validation": data.validation}), "test": _labelled(data, data.test_path)}
    return divided(whole, {"validation": data.validation, "test": data.test})


def _labelled(data: ClassifyData, path: str, *, known: bool = True) -> Labelled:
    from unrolled.data.labelled import load_labelled

    return load_labelled(path, label=data.label, id=data.id, encoding=data.encoding, known=known)


def open_labelled(data: ClassifyData, *, path: Path | None = None) -> Labelled:
    """The test part of a job, or another file like it, whose classes need not be known."""
    return _labelled(data, str(path), known=False) if path is not None else _parts(data, lambda line: None)["test"]


def _named(path: str, kind: Kind) -> bool:
    from unrolled.data.real import REAL

    return path in REAL and REAL[path].kind == kind


def _name(path: str) -> str:
    return Path(path).name or path


def _tell_all(tell: Tell, lines: Iterable[str]) -> None:
    for line in lines:
        tell(line)
