"""Where a training stands, as a file: one safetensors file for each checkpoint, whole or not there at all.

The last two are kept, so that a damaged one costs the steps between them. Nothing in them is code: tensors, and JSON in
the file's header.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unrolled.storage import write
from unrolled.training.loop import State

FORMAT = 1
_KEPT = 2
_FIGURES = ("step", "seconds", "best_step", "best_value")


class Damaged(ValueError):
    """A checkpoint that is not what was written."""


def write_checkpoint(folder: Path, state: State) -> Path:
    """Write a state, then remove all checkpoints but it and the one before; later ones are damaged, or it would go on.

    Raises:
        OSError: it cannot be written; the earlier ones are still there.
    """
    from safetensors.torch import save

    tensors = {f"model/{name}": tensor for name, tensor in state.model.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"carried/{index}": tensor for index, tensor in enumerate(state.carried)}
    tensors |= {"losses": state.losses, "generators": state.generators}
    slots: dict[str, dict[str, Any]] = {}
    for index, slot in state.optimizer["state"].items():
        for key, value in slot.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                slots.setdefault(str(index), {})[key] = value
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    figures = {name: getattr(state, name) for name in _FIGURES}
    if math.isnan(state.best_value):
        figures["best_value"] = None
    header = json.dumps(
        {"format": FORMAT, **figures, "groups": state.optimizer["param_groups"], "slots": slots}, allow_nan=False
    )
    content = save(tensors, metadata={"unrolled": header, "sha256": _digest(tensors, header)})
    path = write(folder / f"step-{state.step:09d}.safetensors", lambda file: file.write(content))
    found = checkpoints(folder)
    at = found.index(path)
    for other in found[:at] + found[at + _KEPT :]:
        other.unlink(missing_ok=True)
    return path


def read_checkpoint(path: Path) -> State:
    """Read a state.

    Raises:
        Damaged: the file is cut short, changed, or none of ours; says which.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118  # it is no dict
                tensors[name] = file.get_tensor(name).clone()
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path} is damaged ({error})") from error
    header = metadata.get("unrolled", "")
    if metadata.get("sha256") != _digest(tensors, header):
        raise Damaged(f"{path} is damaged (its contents are not those that were written)")
    stored = json.loads(header)
    if stored["format"] != FORMAT:
        raise Damaged(f"{path} is of format {stored['format']}, and this version reads {FORMAT}")

    def under(prefix: str) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                yield name.removeprefix(prefix), tensor

    slots: dict[int, dict[str, Any]] = {int(index): dict(slot) for index, slot in stored["slots"].items()}
    for name, tensor in under("optimizer/"):
        index, _, key = name.partition("/")
        slots.setdefault(int(index), {})[key] = tensor
    carried = dict(under("carried/"))
    return State(
        step=stored["step"],
        seconds=stored["seconds"],
        best_step=stored["best_step"],
        best_value=math.nan if stored["best_value"] is None else stored["best_value"],
        losses=tensors["losses"],
        model=dict(under("model/")),
        best=dict(under("best/")),
        optimizer={"state": slots, "param_groups": stored["groups"]},
        carried=tuple(carried[str(index)] for index in range(len(carried))),
        generators=tensors["generators"],
    )


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the latest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _digest(tensors: dict[str, Tensor], header: str) -> str:
    whole = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
