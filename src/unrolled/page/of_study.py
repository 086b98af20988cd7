"""The page of a study: its claims, its networks, and a look inside those that were trained on source code."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from unrolled.page.answer import answer
from unrolled.page.writing import write_page
from unrolled.views.excerpt import Excerpt

if TYPE_CHECKING:
    from unrolled.claims import Run
    from unrolled.study import Study

_METRICS = {"mse": "squared error", "accuracy": "accuracy", "bits": "bits per answer"}
_EXCERPT = 480  # characters; long enough for a string and a comment, short enough to read


def report(study: Study, path: str | os.PathLike[str]) -> Path:
    """Write the page that shows a study: one HTML file that opens offline.

    Args:
        study: what compare() returned.
        path: the file to write.

    Returns:
        The path written.

    Raises:
        TypeError: `study` is not a Study.
        ModuleNotFoundError: bokeh is not installed; the message names the install command.
        OSError: the file cannot be written; the message names it.
    """
    from unrolled.study import Study

    if not isinstance(study, Study):
        raise TypeError(f"report: study must be a Study as compare() returns it, given {type(study).__name__}")
    return write_page(
        path,
        title="Cell state and hidden state, measured",
        answer=answer(study.claims),
        claims=study.claims,
        table=[_row(run) for run in study.runs],
        excerpts=_excerpts(study),
        setup=_setup(study),
    )


def _row(run: Run) -> dict[str, str]:
    from unrolled.tasks import parse

    task = parse(run.setting)
    return {
        "task": run.setting,
        "cell": run.cell.upper(),
        "seed": str(run.seed),
        "hidden units": str(run.hidden_size),
        "parameters": f"{run.parameters:,}",
        "on test data": f"{run.value:.4g} {_METRICS[task.metric]}",
        "without skill": f"{task.baseline().value:.4g}",
        "skill": f"{run.skill:.3f}",
    }


def _setup(study: Study) -> list[str]:
    first = study.plans[0]
    seeds = len({plan.seed for plan in study.plans})
    lines = [
        f"{len(study.runs)} networks: {', '.join(dict.fromkeys(p.cell.upper() for p in study.plans))} on "
        f"{', '.join(dict.fromkeys(p.setting for p in study.plans))}, {seeds} seeds each. A seed decides the first "
        "weights and the data.",
    ]
    for setting in dict.fromkeys(plan.setting for plan in study.plans):
        plan = next(p for p in study.plans if p.setting == setting)
        sizes = {run.cell: run for run in study.runs if run.setting == setting}
        counts = [run.parameters for run in sizes.values()]
        apart = (max(counts) - min(counts)) / plan.parameters if counts else math.nan
        lines.append(
            f"{setting}: {plan.budget.steps:,} steps of {plan.budget.batch_size} sequences, Adam at "
            f"{plan.budget.learning_rate:g}, gradient "
            f"norm cut at {plan.budget.clip:g}, the weights of the best validation kept; "
            f"{', '.join(f'{cell.upper()} {run.hidden_size} units' for cell, run in sizes.items())}, "
            f"about {plan.parameters:,} parameters each, at most {apart:.1%} apart."
        )
    lines.append(f"The LSTM's forget gate bias starts at {first.forget_bias:g} (Jozefowicz et al. 2015).")
    lines.append(
        "Intervals are Student's at 95 % over seeds. A figure that must be above a threshold supports the claim if "
        "its whole interval is "
        "above, contradicts it if the whole interval is below, and else leaves it undecided; no correction is made "
        "for the number of figures."
    )
    lines.append(", ".join(f"{name} {version}" for name, version in first.versions.items()) + ".")
    return lines


def _excerpts(study: Study) -> list[Excerpt]:
    """One stretch of unseen source through each cell's network of the first seed, the LSTM's first."""
    import torch

    from unrolled.tasks import Code, parse
    from unrolled.tasks.code import decode
    from unrolled.trace import record

    excerpts = []
    order = {"lstm": 0, "gru": 1, "rnn": 2}
    for run in sorted(study.runs, key=lambda run: order[run.cell]):
        task = parse(run.setting)
        if not isinstance(task, Code) or run.seed != 0:
            continue
        batch = task.excerpt(_EXCERPT, 0)
        assert batch.symbols is not None
        model = study.model(run)
        with torch.no_grad(), record(model, detach=True) as trace:
            model(batch.inputs)
        states = {name.rpartition(".")[2]: trace[name][0].numpy() for name in trace}
        excerpts.append(
            Excerpt(
                f"{run.cell.upper()} with {run.hidden_size} units on source code it was not trained on, "
                f"{run.value:.2f} bits a character",
                decode(batch.symbols[0]),
                {name: states[name] for name in ("cell", "hidden", *states) if name in states},
                {name: values[0].numpy() for name, values in batch.labels.items()},
            )
        )
    return excerpts
