"""What metrics say of states and gates is what a plain computation from a recording gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import unrolled
from short_trainings import Log, at_step, interrupt, on_cpu, task_job, text_job, write_texts
from unrolled.jobs import Job, Network
from unrolled.model import LAYERS, SequenceModel
from unrolled.problems.opening import open_problem
from unrolled.problems.problem import ALL, Share
from unrolled.runs import Run, load
from unrolled.tasks.task import Batch
from unrolled.training.states import look
from unrolled.training.train import Interrupted
from unrolled.training.world import Alone


def plainly(model: SequenceModel, inputs: torch.Tensor, **options: Any) -> dict[str, dict[str, float]]:
    """Of every sequence alone, so that nothing is padded."""
    values: dict[str, list[torch.Tensor]] = {}
    lengths = options.pop("lengths", [inputs.size(1)] * len(inputs))
    for row, length in enumerate(lengths):
        own = {name: tensor[row : row + 1, :length] for name, tensor in options.items()}
        with torch.no_grad(), unrolled.record(model) as trace:
            model(inputs[row : row + 1, :length], **own)
        for name in trace:
            values.setdefault(name, []).append(trace[name].double().flatten())
    figures = {}
    for name, parts in values.items():
        flat = torch.cat(parts)
        if name.endswith(("hidden", "cell")):
            figures[name] = {"mean": float(flat.mean()), "rms": float(flat.square().mean().sqrt())}
        elif name.endswith("gate"):
            shares = float((flat > 0.9).double().mean()), float((flat < 0.1).double().mean())
            figures[name] = {"mean": float(flat.mean()), "open": shares[0], "closed": shares[1]}
    return figures


def same(found: Any, expected: dict[str, dict[str, float]]) -> None:
    assert found.keys() == expected.keys()
    for name, figures in expected.items():
        assert dict(found[name]) == pytest.approx(figures, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("cell", LAYERS)
def test_last_line_of_metrics_describes_the_first_piece_of_the_validation_part(tmp_path: Path, cell: str) -> None:
    network = Network(cell=cell, hidden_size=6, embedding_size=4, layers=2, dropout=0.2)  # type: ignore[arg-type]
    job = text_job(write_texts(tmp_path / "texts"), network, learning_rate=0.1, steps=12)
    run = on_cpu(job, tmp_path / "run")
    row = list(run.metrics())[-1]
    piece = next(open_problem(job).pieces("validation", ALL))
    found = row["figures"]["states"]
    same(found, plainly(load(run.folder, weights="last"), piece.inputs, reset=piece.reset))
    assert any("l0" in name for name in found)
    assert any("l1" in name for name in found)


def test_open_and_closed_shares_are_those_of_the_gates(tmp_path: Path) -> None:
    """With wide weights many gates are open and many closed."""
    problem = open_problem(task_job())
    model = SequenceModel("lstm", 2, 7, 1, forget_bias=0.0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(12)
    found = look(model, problem, Alone())
    same(found, plainly(model, next(problem.pieces("validation", ALL)).inputs))
    gates = [figures for name, figures in found.items() if name.endswith("gate")]
    assert len(gates) == 3
    assert all(figures["open"] > 0.05 and figures["closed"] > 0.05 for figures in gates)


def test_steps_past_the_end_of_a_sequence_do_not_count() -> None:
    lengths = torch.tensor([7, 2, 5, 1])
    inputs = torch.randn(4, 7, 3)
    problem = open_problem(task_job())
    problem.pieces = lambda split, share: iter(  # type: ignore[method-assign]
        [Batch(inputs=inputs, targets=torch.zeros(4), scored=torch.ones(4), lengths=lengths)]
    )
    model = SequenceModel("lstm", 3, 5, 2, readout="mean").eval()
    same(look(model, problem, Alone()), plainly(model, inputs, lengths=lengths.tolist()))


class Part(Alone):
    """One of several processes, whose sums the test adds up."""

    def __init__(self, share: Share, sums: list[torch.Tensor]) -> None:
        super().__init__()
        self.share, self.sums = share, sums

    def total(self, sums: torch.Tensor) -> torch.Tensor:
        self.sums.append(sums)
        return torch.stack(self.sums).sum(0)


@pytest.mark.parametrize("of", [2, 3, 20])
@pytest.mark.parametrize("kind", ["text", "task"])
def test_several_processes_together_say_what_one_does(tmp_path: Path, kind: str, of: int) -> None:
    # A task's validation part of this size has two pieces, of which the first is looked at.
    job: Job = task_job(validation_size=150) if kind == "task" else text_job(write_texts(tmp_path / "texts"))
    problem = open_problem(job)
    shape = problem.shape
    model = SequenceModel(
        "lstm", shape.input_size, 6, shape.output_size, embedding_size=4 if shape.symbols else None
    ).eval()
    sums: list[torch.Tensor] = []
    found = [look(model, problem, Part(Share(part, of), sums)) for part in range(of)]
    same(found[-1], look(model, problem, Alone()))


def test_a_process_without_a_share_adds_nothing() -> None:
    problem = open_problem(task_job(validation_size=2))
    model = SequenceModel("lstm", 2, 6, 1).eval()
    sums: list[torch.Tensor] = []
    # The last one first: it has a sequence, of which there are two.
    found = [look(model, problem, Part(Share(part, 5), sums)) for part in (4, 3, 2, 1, 0)]
    assert sum(bool(part.any()) for part in sums) == 2
    same(found[-1], look(model, problem, Alone()))


def test_looking_changes_neither_the_mode_nor_random_numbers(tmp_path: Path) -> None:
    problem = open_problem(task_job())
    model = SequenceModel("lstm", 2, 6, 1, dropout=0.5).train()
    before = torch.get_rng_state()
    one, two = look(model, problem, Alone()), look(model, problem, Alone())
    assert one == two
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_statistics_of_a_run_that_goes_on_are_there_too(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        on_cpu(task_job(), tmp_path / "run", display=Log(at_step(7, interrupt)))
    on_cpu(task_job(), tmp_path / "run", resume=True)
    rows = list(Run.open(tmp_path / "run").metrics())
    names = {"hidden", "cell", "input_gate", "forget_gate", "output_gate"}
    assert [set(row["figures"]["states"]) for row in rows] == [{f"recurrent.l0.{name}" for name in names}] * 4
