"""The table of contestants: what each is called, what it can do, and how its work on a row is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from unrolled.bench import flash_rnn, jax_scan, onnx_runtimes, step_loop, torch_layers, torch_rl
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
        stepped: whether it keeps the states of every step without recording, and so has to get those right.
        rounded_sums: whether its gradients of weights are sums over steps, rounded to the dtype after each.
        refuses: numbers -> why it can't do this row in this dtype, None if it can.
        install: what pip is given to install its packages.
    """

    title: str
    enter: Callable[[Numbers, str, int], tuple[Work, Read]]
    packages: tuple[str, ...] = ()
    trains: bool = True
    opened: bool = False
    stepped: bool = False
    rounded_sums: bool = False
    refuses: Callable[[Numbers], str | None] = lambda numbers: None
    install: str = "'unrolled[bench]'"

    def missing(self) -> list[str]:
        """The packages it needs that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    def refusal(self, numbers: Numbers, phase: str) -> str | None:
        """Why it does not enter a row; None if it does."""
        if missing := self.missing():
            return f"{self.title} needs {missing[0]}, which is not installed: pip install {self.install}"
        if not self.trains and phase != INFERENCE:
            return f"{self.title} has no {phase}"
        return self.refuses(numbers)


CONTESTANTS: dict[str, Contestant] = {
    "torch": Contestant("torch.nn", torch_layers.theirs),
    "closed": Contestant("unrolled", torch_layers.closed),
    "open": Contestant("recording", torch_layers.opened, opened=True),
    "onnxruntime": Contestant(
        "ONNX Runtime", onnx_runtimes.onnx_runtime, packages=("onnx", "onnxruntime"), trains=False
    ),
    "openvino": Contestant("OpenVINO", onnx_runtimes.openvino, packages=("onnx", "openvino"), trains=False),
    "jax": Contestant("JAX", jax_scan.scan, packages=("jax",)),
    "triton": Contestant("Triton", torch_layers.triton_closed, refuses=torch_layers.triton_refusal),
    "triton_open": Contestant(
        "recording by Triton", torch_layers.triton_opened, opened=True, refuses=torch_layers.triton_refusal
    ),
    "steps": Contestant("step loop", step_loop.loop, stepped=True, rounded_sums=True),
    "flashrnn": Contestant(
        "FlashRNN",
        flash_rnn.kernels,
        packages=("flashrnn",),
        stepped=True,
        refuses=flash_rnn.refusal,
        install="flashrnn",
    ),
    "torchrl": Contestant(
        "TorchRL",
        torch_rl.kernels,
        packages=("torchrl", "triton"),
        stepped=True,
        refuses=torch_rl.refusal,
        install="torchrl",
    ),
}
# Those that always enter, and those that do where they are installed, by device.
OWN = {"cpu": ("torch", "closed", "open"), "cuda": ("torch", "closed", "triton", "triton_open", "steps")}
PEERS = ("onnxruntime", "openvino", "jax")
GPU_PEERS = ("flashrnn", "torchrl")
