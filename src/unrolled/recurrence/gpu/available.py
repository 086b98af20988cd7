"""Whether Triton's kernels are there, and can compute on a device. Triton itself is not imported here."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

# The first that passes what the kernels hold in tuples from step to step, and that of the oldest torch taken.
_OLDEST = (3, 6)
# Where products of bfloat16 and tf32 begin.
_CAPABILITY = (8, 0)
WIDEST = 1024
# All but layer normalisation, which is over all units of a sequence: no program has them all.
MODES = (
    "RNN_TANH",
    "RNN_RELU",
    "GRU",
    "LSTM",
    "LSTM_PEEPHOLE",
    "LSTM_COUPLED",
    "LSTM_ZONEOUT",
    "LSTM_VARIATIONAL_DROPOUT",
    "LSTM_RECURRENT_DROPOUT",
)


def interpreted() -> bool:
    """Whether Triton runs kernels by its interpreter, on the CPU: right, and slower than anything else."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@cache
def missing() -> str | None:
    """Why Triton is not there; None if it is."""
    try:
        found = version("triton")
    except PackageNotFoundError:
        return "Triton is not installed: pip install 'unrolled[gpu]'"
    if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
        return f"Triton {found} is too old: {'.'.join(map(str, _OLDEST))} or above is needed"
    return None


def refusal(device: torch.device) -> str | None:
    """Why the kernels can't compute on a device; None if they can."""
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return f"the input is on {device}, Triton's kernels compute on a GPU"
    if missing() is not None or device.type == "cpu":
        return missing()
    if not torch.cuda.is_available():
        return f"this torch, {torch.__version__}, finds no GPU"
    if torch.version.hip is not None:
        return "Triton's kernels were written for NVIDIA GPUs, this is an AMD one"
    if interpreted():
        return "TRITON_INTERPRET is set: Triton's interpreter takes tensors on the CPU"
    return too_old(torch.cuda.get_device_capability(device))


def too_old(capability: tuple[int, int]) -> str | None:
    """What is to be said of a GPU of a compute capability that is too low; None if it is not."""
    if capability >= _CAPABILITY:
        return None
    has, needs = (".".join(map(str, pair)) for pair in (capability, _CAPABILITY))
    return f"the GPU has compute capability {has}, Triton's kernels need {needs}"


def described() -> str:
    """What the kernels are, on this machine, where Triton is."""
    return f"kernels in Triton {version('triton')}{', by its interpreter' * interpreted()}"
