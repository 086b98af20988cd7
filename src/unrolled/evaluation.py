"""How good a trained run is on its test part, beside baselines on the same part that cost next to nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unrolled.baselines.compression import xz_bits
from unrolled.baselines.forecasts import Ridge, persistence, seasonal_naive
from unrolled.baselines.neighbour import nearest_neighbour
from unrolled.baselines.ngram import ngram_bits
from unrolled.problems.classify import Classify
from unrolled.problems.opening import open_problem
from unrolled.problems.problem import summed
from unrolled.problems.series import Series
from unrolled.problems.synthetic import Synthetic
from unrolled.problems.text import Text
from unrolled.runs import Run, plain
from unrolled.storage import write_json
from unrolled.tasks.task import Split

Array = NDArray[Any]
Tell = Callable[[str], None]

ORDER = 5  # of the n-gram: contexts of four characters
NETWORK = "network"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of the test part.

    Attributes:
        title: what was to be done.
        metric: the figure by which they are compared.
        higher_is_better: of that figure.
        figures: who answers -> named figures; the first is the network.
        remarks: what a reader has to know about them.
    """

    title: str
    metric: str
    higher_is_better: bool
    figures: dict[str, dict[str, float]]
    remarks: tuple[str, ...] = ()

    @property
    def winner(self) -> str:
        """Who has the best figure."""
        there = {name: row[self.metric] for name, row in self.figures.items() if math.isfinite(row[self.metric])}
        return (max if self.higher_is_better else min)(there, key=lambda name: there[name])

    def summary(self) -> str:
        """The figures as a table, the winner named."""
        columns = list(dict.fromkeys(name for row in self.figures.values() for name in row))
        wide = max(map(len, self.figures))
        lines = [self.title, " " * wide + "".join(f"  {column:>12}" for column in columns)]
        for name, row in self.figures.items():
            cells = {column: f"{row[column]:.4f}" if column in row else "" for column in columns}
            lines.append(
                f"{name:<{wide}}" + "".join(f"  {cell:>{max(12, len(column))}}" for column, cell in cells.items())
            )
        direction = "higher" if self.higher_is_better else "lower"
        lines.append(f"Best by {self.metric} ({direction} is better): {self.winner}")
        return "\n".join([*lines, *self.remarks])


def evaluate(run: Run, *, tell: Tell = lambda line: None) -> Evaluation:
    """The network of a run and the baselines of its kind on the test part; written to evaluation.json too.

    Baselines: for text an n-gram of order 5 and xz; for series persistence, the value a season before, and ridge
    regression on the same windows; for classes the nearest neighbour; for tasks the answer without skill.

    Raises:
        ValueError: the data are no longer those that the run was trained on.
        FileNotFoundError: the run has no weights yet, or its data are gone.
    """
    problem = open_problem(run.job, tell=tell)
    if problem.digest() != run.digest:
        raise ValueError(f"{run.folder} was trained on other data than {run.job.data.path} has now")
    model = run.model()
    tell("measuring the network on the test part")
    network = problem.figures(summed(model, problem, "test"))
    if isinstance(problem, Text):
        found = _text(problem, network, tell)
    elif isinstance(problem, Series):
        found = _series(problem, network, run, tell)
    elif isinstance(problem, Classify):
        found = _classify(problem, network, tell)
    else:
        assert isinstance(problem, Synthetic)
        found = _task(problem, network)
    write_json(run.folder / "evaluation.json", plain(asdict(found)) | {"winner": found.winner})
    return found


def _text(problem: Text, network: dict[str, float], tell: Tell) -> Evaluation:
    train, test = problem.symbols["train"], problem.symbols["test"]
    # A document's end is a character too, for the network and the n-gram.
    texts = {split: "\f".join(parts) for split, parts in problem.parts.items()}
    tell(f"measuring a {ORDER}-gram")
    rows = {
        NETWORK: network,
        f"{ORDER}-gram": {"bits": ngram_bits(train, test, order=ORDER, symbols=len(problem.vocabulary))},
    }
    tell("measuring xz")
    rows["xz"] = {"bits": xz_bits(texts["test"])}
    rows["xz that has read the training text"] = {"bits": xz_bits(texts["test"], primed_by=texts["train"])}
    unknown = float((test == 1).mean())
    remarks = [f"Bits per character over {len(test) - 1} characters of {len(problem.parts['test'])} documents."]
    if unknown:
        remarks.append(
            f"{unknown:.3%} of them are not in the vocabulary and count as one unknown character, but not for xz."
        )
    return Evaluation(title=problem.title, metric="bits", higher_is_better=False, figures=rows, remarks=tuple(remarks))


def _series(problem: Series, network: dict[str, float], run: Run, tell: Tell) -> Evaluation:
    rows = {NETWORK: network}
    columns, horizon = len(problem.panel.targets), problem.horizon

    def scored(forecasts: Callable[[Array], Array]) -> dict[str, float]:
        total = torch.zeros(problem.width, dtype=torch.float64)
        for piece in problem.pieces("test"):
            made = torch.from_numpy(np.ascontiguousarray(forecasts(piece.inputs.numpy()), np.float32))
            total += problem.error_sums(made, piece)
        return problem.figures(total)

    tell("measuring persistence and the season before")
    rows["persistence"] = scored(lambda history: persistence(history, horizon, columns))
    season = problem.season
    remarks = []
    if season is not None and season <= problem.window:
        rows[f"seasonal naive ({season} steps)"] = scored(
            lambda history: seasonal_naive(history, horizon, columns, season)
        )
    else:
        remarks.append("No season is known, so there is no seasonal naive forecast; give one with --season.")
    tell("measuring ridge regression")
    splits: tuple[Split, ...] = ("train", "validation")
    if all(any(len(history) for history, _ in _windows(problem, split)) for split in splits):
        ridge = Ridge()
        ridge.fit(_windows(problem, "train"), _windows(problem, "validation"))
        rows["ridge"] = scored(ridge.predict)
        remarks.append(
            f"Ridge reads the same windows as the network; its penalty {ridge.penalty:g} is the best on validation."
        )
    else:
        remarks.append("Too much is missing for ridge regression: no window is followed by all of its values.")
    return Evaluation(
        title=problem.title, metric=problem.metric, higher_is_better=False, figures=rows, remarks=tuple(remarks)
    )


def _windows(problem: Series, split: Split) -> Iterator[tuple[Array, Array]]:
    """(N, W, I) windows and (N, horizon, K) what follows them, of those whose every target is there."""
    for piece in problem.pieces(split):
        whole = piece.scored[:, -1].flatten(1).all(1)
        yield piece.inputs[whole].numpy(), piece.targets[whole, -1].numpy()


def _classify(problem: Classify, network: dict[str, float], tell: Tell) -> Evaluation:
    tell("measuring the nearest neighbour")
    found = nearest_neighbour(problem.scaled["train"], problem.parts["train"].labels, problem.scaled["test"])
    right = found.predictions == np.array(problem.parts["test"].labels)
    rows = {NETWORK: network, "nearest neighbour (warped)": {"accuracy": float(right.mean())}}
    count = {split: len(part.labels) for split, part in problem.parts.items()}
    remarks = [
        f"{count['test']} sequences to test on, {count['train']} to train on, {count['validation']} to choose by.",
        *([found.remark] if found.remark else []),
    ]
    return Evaluation(
        title=problem.title, metric="accuracy", higher_is_better=True, figures=rows, remarks=tuple(remarks)
    )


def _task(problem: Synthetic, network: dict[str, float]) -> Evaluation:
    baseline = problem.task.baseline()
    return Evaluation(
        title=problem.title,
        metric=problem.metric,
        higher_is_better=problem.higher_is_better,
        figures={NETWORK: network, "no skill": {problem.metric: baseline.value}},
        remarks=(f"No skill: {baseline.formula}.",),
    )
