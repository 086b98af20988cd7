"""What a bench runs on: which contestants, rows and dtypes there are for it, and how to know that its work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from unrolled.bench import machine
from unrolled.bench.contestants import GPU_PEERS, OWN, PEERS
from unrolled.bench.dtypes import DTYPES
from unrolled.bench.rows import GPU_ROWS, ROWS, Row


@dataclass(frozen=True)
class Device:
    """One row of the table.

    Attributes:
        name: "cpu" or "cuda".
        place: where the numbers are put.
        own: contestants that always enter.
        peers: contestants that enter where they are installed.
        rows: those timed if none are asked for.
        dtypes: those there are, all of which are timed if none are asked for.
        synchronise: waits until all work given to it is done.
        facts: threads, packages of the peers -> what a reader has to know of the machine.
    """

    name: str
    place: torch.device
    own: tuple[str, ...]
    peers: tuple[str, ...]
    rows: tuple[Row, ...]
    dtypes: tuple[str, ...]
    synchronise: Callable[[], object]
    facts: Callable[[int, Iterable[str]], dict[str, Any]]


DEVICES = {
    "cpu": Device("cpu", torch.device("cpu"), OWN["cpu"], PEERS, ROWS, ("float32",), lambda: None, machine.facts),
    "cuda": Device(
        "cuda",
        torch.device("cuda"),
        OWN["cuda"],
        GPU_PEERS,
        GPU_ROWS,
        tuple(DTYPES),
        torch.cuda.synchronize,
        machine.gpu_facts,
    ),
}


def device_of(name: str) -> Device:
    """A device that is there.

    Raises:
        ValueError: there is no device of that name, or this machine does not have it.
    """
    if name not in DEVICES:
        raise ValueError(f"device: {name!r} is not known; expected {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        why = (
            "torch finds no GPU"
            if torch.version.cuda
            else f"torch {torch.__version__} was built without CUDA; install one that was built with it"
        )
        raise ValueError(f"device: cuda was asked for, but {why}; --device cpu needs none")
    return DEVICES[name]
