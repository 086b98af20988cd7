"""Where a bench ran: what a reader has to know to compare its figures with others."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from unrolled import __version__
from unrolled.recurrence import cpu, dispatch


def backend() -> str:
    """What takes the steps of unrolled's layers."""
    name = dispatch.forced() or ("cpu" if cpu.missing() is None else "reference")
    return dispatch.described(name)


def facts(threads: int, packages: Iterable[str]) -> dict[str, Any]:
    """The machine, the versions of what is compared, and what unrolled's layers run on."""
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {
            "torch": torch.__version__,
            "unrolled": __version__,
            **{package: _version(package) for package in packages},
        },
        "backend": backend(),
    }


def gpu_facts(threads: int, packages: Iterable[str]) -> dict[str, Any]:
    """The same where layers are computed on a GPU, and which GPU that is."""
    found, gpu = facts(threads, packages), torch.cuda.get_device_properties(torch.cuda.current_device())
    cudnn = torch.backends.cudnn.version()
    return {
        **found,
        "backend": dispatch.described(dispatch.forced() or "torch"),
        "gpu": gpu.name,
        "compute_capability": f"{gpu.major}.{gpu.minor}",
        "multiprocessors": gpu.multi_processor_count,
        "gpu_memory": gpu.total_memory,
        "driver": _driver(),
        "versions": {
            **found["versions"],
            "triton": _version("triton"),
            "cuda": torch.version.cuda or "unknown",
            # 91002 is 9.10.2.
            "cudnn": "unknown" if cudnn is None else f"{cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}",
        },
    }


def _driver() -> str:
    """The version of the GPU's driver."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    # One line for each GPU, all of the same driver. Where it fails it says so in the place of the lines.
    told = done.stdout.split()
    return told[0] if told and not done.returncode else "unknown"


@contextmanager
def watched() -> Iterator[Callable[[], float | None]]:
    """Asked at the end of the context: how many cores others have kept busy on average since its beginning.

    Others are all processes but this one and those it has started, and the host where it takes time from this machine.
    None where the system does not tell.
    """
    begin, busy, own = time.perf_counter(), _busy(), _own()

    def others() -> float | None:
        now = _busy()
        if busy is None or now is None:
            return None
        return max(0.0, (now - busy) - (_own() - own)) / (time.perf_counter() - begin)

    yield others


def _busy() -> float | None:
    """Seconds that all cores together have worked since the machine was started."""
    listing = Path("/proc/stat")
    if not listing.exists():
        return None
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = (
        int(part) for part in listing.read_text().split()[1:9]
    )
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    return sum(os.times()[:4])


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
