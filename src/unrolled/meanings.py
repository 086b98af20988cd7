"""What the numbers mean that a network reads and answers: characters, channels with their units, classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.jobs import Kind
from unrolled.model import Readout
from unrolled.tasks import Task, parse
from unrolled.tasks.signs import answer_signs, signs

if TYPE_CHECKING:
    from unrolled.runs import Run

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What inputs and outputs of a network are, as JSON can hold it.

    Attributes:
        kind: of the work it does.
        title: the network and what it learnt, in a few words.
        loss: whether outputs are scores of classes or values.
        readout: whether every step is answered, or the sequence.
        outputs: names of the K outputs. Of series they are changes from the step's own value, in scaled units.
        signs: a character for each input symbol; None where inputs are no symbols.
        channels: names of what the inputs' values are; empty where inputs are symbols.
        names: label -> the names of its values 0, 1, ...; labels whose numbers say all are left out.
    """

    kind: Kind
    title: str
    loss: Literal["classes", "values"]
    readout: Readout = "every"
    outputs: tuple[str, ...] = ()
    signs: str | None = None
    channels: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of_run(cls, run: Run) -> Meaning:
        """That of a trained network."""
        job, learnt = run.job, run.learnt
        name = Path(job.data.path).name or job.data.path
        network = f"{job.network.cell.upper()} with {'2 x ' * job.network.bidirectional}{job.network.hidden_size} units"
        if job.network.layers > 1:
            network += f" in each of {job.network.layers} layers"
        if job.kind == "task":
            return cls.of_task(parse(job.data.path), title=f"{network} on {job.data.path}")
        if job.kind == "text":
            known = "\f\ufffd" + learnt["characters"]
            return cls(kind="text", title=f"{network} on {name}", loss="classes", signs=known, outputs=tuple(known))
        if job.kind == "classify":
            classes = tuple(learnt["classes"])
            return cls(
                kind="classify",
                title=f"{network} on {name}",
                loss="classes",
                readout="mean",
                outputs=classes,
                channels=tuple(learnt["channels"]),
                names={"class": classes},
            )
        targets = tuple(learnt["targets"])
        series = tuple(learnt["mean"])
        return cls(
            kind="series",
            title=f"{network} on {name}",
            loss="values",
            outputs=tuple(f"{target} +{ahead + 1}" for ahead in range(learnt["horizon"]) for target in targets),
            channels=(*targets, *learnt["covariates"]),
            # One series without a name has nothing to tell apart.
            names={"series": series} if len(series) > 1 else {},
        )

    @classmethod
    def of_task(cls, task: Task, *, title: str) -> Meaning:
        """That of a network for a synthetic task."""
        answers = answer_signs(task)
        outputs = tuple(answers) if answers else ("sum",) if task.name == "adding" else ()
        if len(outputs) != task.output_size:
            outputs = tuple(map(str, range(task.output_size)))
        channels = ("value", "marker") if task.name == "adding" else ()
        known = signs(task)
        return cls(
            kind="task",
            title=title,
            loss="values" if task.regression else "classes",
            outputs=outputs,
            signs=known,
            channels=channels,
            names={name: tuple(known) for name in ("cue", "item")} if known and task.name != "code" else {},
        )


def own_units(run: Run, inputs: Tensor, series: Tensor | None) -> NDArray[np.float32] | None:
    """(B, T, C) what a run's inputs (B, T, I) are in the data's own units, NaN where a value was missing.

    Args:
        run: a training on series or classes; None is returned for others.
        inputs: as its network reads them.
        series: (B, T) which series each sequence is of; None where that is not known.
    """
    learnt = run.learnt
    given: Array = inputs.numpy().astype(np.float64)
    if run.job.kind == "classify":
        return _unscaled(given, np.asarray(learnt["mean"]), np.asarray(learnt["std"]))
    if run.job.kind != "series" or (series is None and len(learnt["mean"]) > 1):
        return None
    which = np.zeros(len(given), np.int64) if series is None else series[:, 0].numpy()
    mean, std = (np.asarray(list(learnt[name].values()))[which, None] for name in ("mean", "std"))  # (B, 1, C)
    columns = (*learnt["targets"], *learnt["covariates"])
    found = _unscaled(given[..., : len(columns)], mean, std)
    for place, name in enumerate(learnt["masked"]):
        # A value that is missing was filled; whether it was stands behind the columns.
        found[..., columns.index(name)][given[..., len(columns) + place] > 0] = np.nan
    return found


def _unscaled(scaled: Array, mean: Array, std: Array) -> NDArray[np.float32]:
    """What was scaled in single precision, without the digits that it did not keep: 0 comes back as 0."""
    kept = 10.0 ** np.floor(np.log10(1e-5 * np.maximum(abs(mean), std)))
    # A zero that came from below has a sign, which adding 0 takes off.
    found: NDArray[np.float32] = (np.round((scaled * std + mean) / kept) * kept + 0.0).astype(np.float32)
    return found


def one_hot_symbols(inputs: Tensor) -> Tensor | None:
    """(B, T) the symbols of one-hot inputs (B, T, I); None where inputs are no such."""
    if inputs.dim() != 3 or not inputs.is_floating_point() or not inputs.numel():
        return None
    whole = bool(((inputs == 0) | (inputs == 1)).all()) and bool((inputs.sum(-1) == 1).all())
    return torch.argmax(inputs, -1) if whole else None
