"""The table of contestants: what each is called, what it can do, and how its work on a row is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from unrolled.bench import jax_scan, onnx_runtimes, torch_layers
from unrolled.bench.numbers import Numbers
from unrolled.bench.rows import INFERENCE

Work = Callable[[], Any]
Read = Callable[[Any], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Attributes:
        title: its name for readers.
        enter: numbers, phase, threads -> its work, which is one call or training step and all that is timed, and what
            reads a Truth's results by name from what the work returns.
        packages: what has to be importable.
        trains: whether it can do more than inference.
        opened: whether it records, and so has to get every state and gate right too.
    """

    title: str
    enter: Callable[[Numbers, str, int], tuple[Work, Read]]
    packages: tuple[str, ...] = ()
    trains: bool = True
    opened: bool = False

    def missing(self) -> list[str]:
        """The packages it needs that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    def can(self, phase: str) -> bool:
        return self.trains or phase == INFERENCE


CONTESTANTS: dict[str, Contestant] = {
    "torch": Contestant("torch.nn", torch_layers.theirs),
    "closed": Contestant("unrolled", torch_layers.closed),
    "open": Contestant("recording", torch_layers.opened, opened=True),
    "onnxruntime": Contestant(
        "ONNX Runtime", onnx_runtimes.onnx_runtime, packages=("onnx", "onnxruntime"), trains=False
    ),
    "openvino": Contestant("OpenVINO", onnx_runtimes.openvino, packages=("onnx", "openvino"), trains=False),
    "jax": Contestant("JAX", jax_scan.scan, packages=("jax",)),
}
PEERS = ("onnxruntime", "openvino", "jax")
