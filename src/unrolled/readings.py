"""What a network read while it was recorded, in a file beside the recording.

A safetensors file: what was read and what is true of it as tensors, what the numbers mean as JSON in its metadata, so
that the two can be looked at without the run they come from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unrolled.meanings import Meaning
from unrolled.storage import write
from unrolled.tasks.task import Batch

_LABEL = "label."
_METADATA, _FORMAT = "unrolled", 1


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What B sequences of T steps at most were.

    Attributes:
        inputs: as the network reads them: (B, T, I), or (B, T) symbols.
        targets: what is to be answered, as the problem has it.
        scored: bool, shaped like the answers that there are: those that count. None where all do, or it is not known.
        lengths: (B,) steps of each sequence; None where all have T.
        reset: (B, T) bool, the steps before which the states were zeroed; None where there are none.
        symbols: (B, T) int64 what the inputs are; None where they are no symbols.
        values: (B, T, C) float32 what the inputs are in the data's own units, NaN where missing; None where unknown.
        times: (B, T) int64 nanoseconds since 1970; None where there are none.
        labels: what is true at each step, name -> (B, T) int64, -1 where it is not defined.
        meaning: what the numbers mean; None in a file that does not tell.
        weights: a digest of the weights that were recorded; None where there is none.
    """

    inputs: Tensor
    targets: Tensor | None = None
    scored: Tensor | None = None
    lengths: Tensor | None = None
    reset: Tensor | None = None
    symbols: Tensor | None = None
    values: Tensor | None = None
    times: Tensor | None = None
    labels: dict[str, Tensor] = field(default_factory=dict)
    meaning: Meaning | None = None
    weights: str | None = None

    def write(self, path: Path) -> Path:
        """Write it as a file."""
        from safetensors.torch import save

        tensors = {name: tensor for name in _TENSORS if (tensor := getattr(self, name)) is not None}
        tensors |= {_LABEL + name: label for name, label in self.labels.items()}
        told = {
            "format": _FORMAT,
            "weights": self.weights,
            # A file of tensors has an order of its own.
            "labels": list(self.labels),
            "meaning": None if self.meaning is None else asdict(self.meaning),
        }
        content = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata={_METADATA: json.dumps(told)},
        )
        return write(path, lambda file: file.write(content))

    @classmethod
    def read(cls, path: Path) -> Reading:
        """What a file holds; a file of tensors that tells nothing more has the tensors only.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, has no inputs, or is of another format; names it.
        """
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = (file.metadata() or {}).get(_METADATA)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged, or no safetensors file ({error}); record it again") from error
        if "inputs" not in tensors:
            raise ValueError(f"{path} has no tensor named inputs; it has {', '.join(sorted(tensors)) or 'none'}")
        options: dict[str, Any] = {name: tensors.get(name) for name in _TENSORS}
        labels = {name.removeprefix(_LABEL): tensors[name] for name in sorted(tensors) if name.startswith(_LABEL)}
        found = _told(path, told)
        order = [name for name in found.pop("labels", ()) if name in labels]
        return cls(**options, labels={name: labels[name] for name in [*order, *labels]}, **found)


_TENSORS = ("inputs", "targets", "scored", "lengths", "reset", "symbols", "values", "times")


def joined(batches: Sequence[Batch]) -> Reading:
    """Batches, each of which goes on from the one before, as one.

    What is true of them is there without what it means. Marks are labels of 0 and 1.
    """
    first = batches[0]

    def along_time(name: str) -> Tensor | None:
        parts = [getattr(batch, name) for batch in batches]
        return None if parts[0] is None else parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    labels = {name: torch.cat([batch.labels[name] for batch in batches], 1) for name in first.labels}
    labels |= {name: torch.cat([batch.marks[name] for batch in batches], 1).long() for name in first.marks}
    inputs = along_time("inputs")
    assert inputs is not None
    return Reading(
        inputs=inputs,
        targets=along_time("targets"),
        scored=along_time("scored"),
        lengths=first.lengths,
        reset=along_time("reset"),
        symbols=along_time("symbols"),
        times=getattr(first, "times", None),
        labels=labels,
    )


def _told(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        told = json.loads(text)
        if told["format"] != _FORMAT:
            raise ValueError(f"it is of format {told['format']}, and this version reads {_FORMAT}")
        meaning = told["meaning"]
        if meaning is not None:
            for name in ("outputs", "channels"):
                meaning[name] = tuple(map(str, meaning[name]))
            meaning["names"] = {name: tuple(map(str, names)) for name, names in meaning["names"].items()}
            meaning = Meaning(**meaning)
        return {"meaning": meaning, "weights": told["weights"], "labels": told["labels"]}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} does not tell what it holds as expected ({error}); record it again") from error
