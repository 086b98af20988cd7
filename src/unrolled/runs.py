"""The folder of a training: what was asked for, how it goes, what came out; and the trained network from it."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from unrolled import __version__
from unrolled.jobs import Job
from unrolled.model import SequenceModel
from unrolled.problems.problem import Problem, Shape
from unrolled.storage import read_json, read_weights, write_json, write_text
from unrolled.training.checkpoints import checkpoints, read_checkpoint

FORMAT = 1
Weights = Literal["best", "last"]


def build(job: Job, shape: Shape) -> SequenceModel:
    """The untrained network of a job; random as torch's generator is."""
    network = job.network
    return SequenceModel(
        network.cell,
        shape.input_size,
        network.hidden_size,
        shape.output_size,
        embedding_size=network.embedding_size if shape.symbols else None,
        layers=network.layers,
        bidirectional=network.bidirectional,
        dropout=network.dropout,
        readout=shape.readout,
        init=network.init,
        t_max=network.t_max,
        forget_bias=network.forget_bias,
    )


@dataclass(frozen=True)
class Run:
    """A training's folder.

    In it: config.json (what was asked for, and what the training part decided), metrics.jsonl (a line for each
    validation), checkpoints/, weights.safetensors (those of the best validation), and, when it is done, fit.json.

    Attributes:
        folder: where it is.
        job: what was asked for.
        shape: what the network takes and gives.
        learnt: what the training part of the data decided: scales, symbols, names of classes.
        digest: a name that other data would not have.
    """

    folder: Path
    job: Job
    shape: Shape
    learnt: dict[str, Any]
    digest: str

    @classmethod
    def start(cls, folder: Path, job: Job, problem: Problem) -> Run:
        """Write config.json of a new run."""
        run = cls(folder, job, problem.shape, problem.learnt(), problem.digest())
        versions = {"unrolled": __version__, "torch": torch.__version__, "python": platform.python_version()}
        write_json(
            folder / "config.json",
            {
                "format": FORMAT,
                "job": job.as_json(),
                "shape": asdict(run.shape),
                "learnt": run.learnt,
                "digest": run.digest,
                "versions": versions,
                "threads": torch.get_num_threads(),
            },
        )
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """A run that was started.

        Raises:
            FileNotFoundError: there is none in the folder.
            ValueError: its config.json is damaged or of another format.
        """
        folder = Path(folder)
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no training run (it has no config.json); unrolled train makes one")
        stored = read_json(path)
        try:
            if stored["format"] != FORMAT:
                raise ValueError(f"is of format {stored['format']}, and this version reads {FORMAT}")
            job = Job.from_json(stored["job"])
            return cls(folder, job, Shape(**stored["shape"]), dict(stored["learnt"]), str(stored["digest"]))
        except KeyError as error:
            raise ValueError(f"{path} has no {error}; delete {folder} to have it made again") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} {error}") from error

    @property
    def finished(self) -> bool:
        """Whether its training is done."""
        return (self.folder / "fit.json").is_file()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    def model(self, weights: Weights = "best") -> SequenceModel:
        """The network, in eval mode.

        Args:
            weights: those of the "best" validation, or those of the "last" checkpoint.

        Raises:
            FileNotFoundError: there are none yet.
            ValueError: they are damaged.
        """
        if weights == "best":
            if not self.weights.is_file():
                raise FileNotFoundError(f"{self.folder} has no weights yet: its training has not come to a validation")
            stored = read_weights(self.weights)
        else:
            found = checkpoints(self.checkpoints)
            if not found:
                raise FileNotFoundError(f"{self.folder} has no checkpoint yet")
            stored = read_checkpoint(found[0]).model
        with torch.random.fork_rng():
            model = build(self.job, self.shape)
        try:
            model.load_state_dict(stored)
        except RuntimeError as error:
            raise ValueError(f"{self.weights} holds the weights of another network than config.json says") from error
        return model.eval()

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl that are whole."""
        path = self.folder / "metrics.jsonl"
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
            try:
                row = json.loads(line)
            except ValueError:
                return
            yield row

    def keep_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write metrics.jsonl anew."""
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def load(run: str | Path, *, weights: Weights = "best") -> SequenceModel:
    """The network of a training run as a plain torch module, in eval mode: for record(), intervene(), instruments.

    Args:
        run: the run's folder.
        weights: those of the "best" validation, or those of the "last" checkpoint.

    Raises:
        FileNotFoundError: there is no run in the folder, or it has no weights yet.
        ValueError: a file of it is damaged; names it.
    """
    if weights not in ("best", "last"):
        raise ValueError(f"weights: given {weights!r}, expected 'best' or 'last'")
    return Run.open(run).model(weights)


def plain(value: Any) -> Any:
    """Figures as JSON can hold them: None where one is not a number."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
