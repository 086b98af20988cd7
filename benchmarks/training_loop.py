"""What the training loop costs beside the layer it trains: 32 sequences of 128 steps, 128 inputs, 128 units.

    python benchmarks/training_loop.py [--steps 300] [--threads 2]

`unrolled train series` runs on a table of 128 columns, in a folder, with everything it does between two validations:
windows made, the network with its readout, the loss, clipping, the optimiser, the schedule, the display. After each of
its steps the layer alone runs forward and backward on a batch of the same size, so the two are timed in turn. The first
steps are held to the same training by hand, with torch.nn's layer in float64.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import unrolled
from unrolled.budget import Budget
from unrolled.jobs import Cell, Job, Network, SeriesData
from unrolled.problems.opening import open_problem
from unrolled.problems.problem import ALL
from unrolled.problems.series import Series, Windows
from unrolled.runs import build
from unrolled.training import Progress, Training, deterministic
from unrolled.training.train import train

BATCH, STEPS, SIZE = 32, 128, 128
ROWS = 20_000
_CHECKED = 5  # steps
_WARM = 20


def table(path: Path) -> None:
    """A random walk in 128 columns."""
    import pyarrow as pa
    from pyarrow import parquet

    walks = np.random.default_rng(0).normal(size=(ROWS, SIZE)).cumsum(0).astype(np.float32)
    parquet.write_table(pa.table({f"c{column}": walks[:, column] for column in range(SIZE)}), path)


def job(path: Path, cell: Cell, steps: int) -> Job:
    budget = Budget(steps=steps, batch_size=BATCH, validate_every=steps, optimizer="adamw", schedule="cosine")
    data = SeriesData(path=str(path), target=("c0",), covariates=("all",), horizon=1, window=STEPS)
    return Job(data=data, network=Network(cell=cell, hidden_size=SIZE), budget=budget)


def check(asked: Job) -> None:
    """A few steps of the loop against the same by hand."""
    asked = dataclasses.replace(asked, budget=dataclasses.replace(asked.budget, steps=_CHECKED))
    problem = open_problem(asked)
    assert isinstance(problem, Series)
    with deterministic(0):
        model = build(asked, problem.shape)
    layer = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[asked.network.cell](SIZE, SIZE, batch_first=True).double()
    head = nn.Linear(SIZE, 1).double()
    layer.load_state_dict(model.recurrent.state_dict())
    head.load_state_dict(model.head.state_dict())
    weights = [*layer.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(1, _CHECKED + 1):
        batch, count = problem.batch(step, ALL)
        assert isinstance(batch, Windows)
        error = head(layer(batch.inputs.double())[0]) + batch.last - batch.targets[:, :, 0]
        optimizer.param_groups[0]["lr"] = asked.budget.rate(step)
        optimizer.zero_grad()
        ((error * batch.scored[:, :, 0]).square().sum() / count).backward()
        nn.utils.clip_grad_norm_(weights, asked.budget.clip)
        optimizer.step()
    taken: list[Tensor] = []

    def last(training: Training) -> bool:
        if training.step == _CHECKED:
            taken.extend(p.detach().clone() for p in (*model.recurrent.parameters(), *model.head.parameters()))
        return False

    with deterministic(0):
        Training(model, problem, asked.budget).run(after_step=last)
    # Adam moves a weight whose gradient is all but 0 by its sign, which rounding can turn.
    apart = torch.cat([(mine - theirs).abs().flatten() for mine, theirs in zip(taken, weights, strict=True)])
    share = float((apart > 1e-4).double().mean())
    if not share < 1e-3:
        raise SystemExit(f"{asked.network.cell}: {share:.2%} of the weights are off by more than 1e-4")


class Alternating:
    """A display that times the steps it is told of, and the layer alone after each."""

    def __init__(self, cell: str) -> None:
        self.loop: list[float] = []
        self.layer: list[float] = []
        self._layer = {"rnn": unrolled.RNN, "gru": unrolled.GRU, "lstm": unrolled.LSTM}[cell](
            SIZE, SIZE, batch_first=True
        )
        self._x = torch.randn(BATCH, STEPS, SIZE)
        self._upstream = torch.ones(BATCH, STEPS, SIZE)
        self._begun = time.perf_counter()

    def say(self, line: str) -> None: ...

    def validated(self, progress: Progress) -> None: ...

    def step(self, step: int, steps: int) -> None:
        now = time.perf_counter()
        self._layer.zero_grad(set_to_none=True)
        self._layer(self._x)[0].backward(self._upstream)
        done = time.perf_counter()
        # The last step of all has a validation before it is told.
        if _WARM < step < steps:
            self.loop.append(now - self._begun)
            self.layer.append(done - now)
        self._begun = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"training loop at {BATCH},{STEPS},{SIZE},{SIZE}, {torch.get_num_threads()} threads, medians")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "walks.parquet"
        table(path)
        cells: tuple[Cell, ...] = ("lstm", "gru", "rnn")
        for cell in cells:
            asked = job(path, cell, options.steps)
            check(asked)
            times = Alternating(cell)
            train(asked, Path(folder) / cell, device="cpu", display=times)
            loop, layer = statistics.median(times.loop), statistics.median(times.layer)
            print(
                f"  {cell:5} layer alone {1e3 * layer:6.2f} ms, a step of training {1e3 * loop:6.2f} ms: "
                f"{layer / loop:.0%} of the layer's speed"
            )


if __name__ == "__main__":
    main()
