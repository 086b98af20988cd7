"""What a trained run foretells: text that goes on, forecasts with intervals, classes with probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.problems.classify import padded, scaled
from unrolled.problems.scales import Scales
from unrolled.problems.series import RESIDUALS
from unrolled.problems.text import BOUNDARY, OTHER, Vocabulary
from unrolled.runs import Run
from unrolled.storage import read_json

if TYPE_CHECKING:
    from unrolled.data.labelled import Labelled
    from unrolled.data.panel import Panel

Array = NDArray[Any]

_TOGETHER = 256  # sequences of a call


def continued(run: Run, prompt: str, *, length: int, temperature: float = 0.8, seed: int = 0) -> Iterator[str]:
    """A text that goes on from a prompt, a character at a time.

    Args:
        run: of kind "text".
        prompt: what the text begins with; empty for a document's beginning.
        length: characters at most; a document that ends before ends the text.
        temperature: what the logits are divided by before one is drawn; 0 takes the likeliest.
        seed: decides the draws.

    Raises:
        ValueError: the run is of another kind, or an option is out of range.
    """
    _require(run, "text")
    if length < 1:
        raise ValueError(f"length: must be at least 1, given {length}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature: must be 0 or more, given {temperature}")
    model, vocabulary = run.model(), Vocabulary(run.learnt["characters"])
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.from_numpy(vocabulary.encode(prompt).astype(np.int64)).unsqueeze(0)
    read, state = torch.cat((torch.full((1, 1), BOUNDARY), symbols), 1), None
    with torch.no_grad():
        for _ in range(length):
            answers, state = model(read, state, carry=True)
            logits = answers[0, -1].double()
            # It stands for characters that the vocabulary lacks, and can be none of a text.
            logits[OTHER] = -torch.inf
            if temperature:
                drawn = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
            else:
                drawn = int(logits.argmax())
            if drawn == BOUNDARY:
                return
            yield vocabulary.decode([drawn])
            read = torch.tensor([[drawn]])


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What comes after the end of one series.

    Attributes:
        series: its name.
        times: (horizon,) when, or how many steps after the last row where there are no times.
        targets: the columns.
        values: (horizon, K) in the targets' units.
        lower, upper: (horizon, K) the interval's ends.
    """

    series: str
    times: Array
    targets: tuple[str, ...]
    values: Array
    lower: Array
    upper: Array


def forecast(run: Run, panel: Panel, *, interval: float = 0.9) -> list[Forecast]:
    """Forecasts after the end of every series of a panel.

    Intervals add quantiles of the residuals of the validation part to the forecast, for each step ahead; they hold as
    far as the future errs as that part did.

    Args:
        run: of kind "series".
        panel: series with the run's columns.
        interval: share of the truths that are to lie inside.

    Raises:
        ValueError: the run is of another kind, a series is shorter than the run's window, or the interval is out of
            range.
        FileNotFoundError: the run is not finished, so it has no residuals.
    """
    _require(run, "series")
    if not 0 < interval <= 0.99:
        raise ValueError(f"interval: must be above 0 and at most 0.99, given {interval}")
    scales = scales_of(run)
    horizon, window = int(run.learnt["horizon"]), int(run.learnt["window"])
    path = run.folder / RESIDUALS
    if not path.is_file():
        raise FileNotFoundError(
            f"{run.folder} has no {RESIDUALS}: its training is not finished; --resume goes on with it"
        )
    stored = read_json(path)
    quantiles = np.array(stored["quantiles"], np.float64)  # (levels, horizon, K)
    ends = [_between(stored["levels"], quantiles, share) for share in ((1 - interval) / 2, (1 + interval) / 2)]
    model = run.model()
    columns, found = len(scales.targets), []
    for index, name in enumerate(panel.series):
        one = scales.scaled(panel, index)
        if len(one.inputs) < window:
            raise ValueError(
                f"{panel.path}: series {name!r} has {len(one.inputs)} steps, and a forecast is made from {window}"
            )
        read = torch.from_numpy(one.inputs[-window:]).unsqueeze(0)
        with torch.no_grad():
            answers = model(read)[0, -1].view(horizon, columns).double().numpy()
        foreseen = answers + one.inputs[-1, :columns]
        times = panel.times[index]
        ahead = np.arange(1, horizon + 1)
        found.append(
            Forecast(
                series=name,
                times=ahead if times is None or panel.step is None else times[-1] + ahead * panel.step,
                targets=scales.targets,
                values=foreseen * one.units + one.mean,
                lower=(foreseen + ends[0]) * one.units + one.mean,
                upper=(foreseen + ends[1]) * one.units + one.mean,
            )
        )
    return found


def probabilities(run: Run, labelled: Labelled) -> tuple[tuple[str, ...], Array]:
    """The run's classes, and (N, classes) the probability of each for every sequence.

    Raises:
        ValueError: the run is of another kind, or the sequences have other channels.
    """
    _require(run, "classify")
    learnt = run.learnt
    if sorted(labelled.channels) != sorted(learnt["channels"]):
        raise ValueError(
            f"{labelled.path}: has {len(labelled.channels)} channels ({', '.join(labelled.channels[:8])}), and the run "
            f"was trained on {len(learnt['channels'])} ({', '.join(learnt['channels'][:8])})"
        )
    # Columns of a table may stand in another order.
    order = [labelled.channels.index(name) for name in learnt["channels"]]
    mean, std = np.array(learnt["mean"]), np.array(learnt["std"])
    model, found = run.model(), []
    sequences = [scaled(sequence[:, order], mean, std) for sequence in labelled.sequences]
    with torch.no_grad():
        for at in range(0, len(sequences), _TOGETHER):
            inputs, lengths = padded(sequences[at : at + _TOGETHER])
            answers: Tensor = model(inputs, lengths=lengths)
            found.append(answers.double().softmax(-1).numpy())
    return tuple(learnt["classes"]), np.concatenate(found)


def scales_of(run: Run) -> Scales:
    """How a run of kind "series" makes its inputs."""
    stored: dict[str, Any] = {name: value for name, value in run.learnt.items() if name not in ("horizon", "window")}
    columns: dict[str, Any] = {name: tuple(stored.pop(name)) for name in ("targets", "covariates", "masked")}
    return Scales(**columns, **stored)


def _between(levels: list[float], quantiles: Array, share: float) -> Array:
    """(horizon, K) the quantile of a share, linear between those that are kept; NaN where there are none."""
    flat = quantiles.reshape(len(levels), -1)
    return np.array([np.interp(share, levels, column) for column in flat.T]).reshape(quantiles.shape[1:])


def _require(run: Run, kind: str) -> None:
    if run.job.kind != kind:
        raise ValueError(f"{run.folder} is a run of kind {run.job.kind!r}; this is for {kind!r}")
