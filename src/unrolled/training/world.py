"""The processes that train one model together, and the device and precision that each computes with."""

from __future__ import annotations

import os
import warnings
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unrolled.extras import extra
from unrolled.problems.problem import ALL, Share

Precision = Literal["32-true", "bf16-mixed"]


class World(Protocol):
    """What the loop asks of the processes around it."""

    share: Share
    device: torch.device

    def setup(self, model: nn.Module, optimizer: Optimizer) -> tuple[Any, Any]:
        """The model and the optimiser as the loop calls them."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, joined across processes."""

    def clip(self, model: Any, optimizer: Any, norm: float) -> None:
        """Cut the gradient to a norm."""

    def total(self, sums: Tensor) -> Tensor:
        """The sum of every process's tensor."""

    def joined(self, rows: Tensor, dim: int) -> Tensor:
        """Every process's rows, in order."""

    def agreed(self, wish: bool) -> bool:
        """What the first process wishes."""


class Alone:
    """One process, the default."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.share, self.device = ALL, torch.device(device)

    def setup(self, model: nn.Module, optimizer: Optimizer) -> tuple[Any, Any]:
        return model, optimizer

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def clip(self, model: Any, optimizer: Any, norm: float) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), norm)

    def total(self, sums: Tensor) -> Tensor:
        return sums

    def joined(self, rows: Tensor, dim: int) -> Tensor:
        return rows

    def agreed(self, wish: bool) -> bool:
        return wish


class Together:
    """All processes that torchrun started, by Lightning Fabric; one where it started none.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: of the computation, in Fabric's words.
    """

    def __init__(self, device: str = "auto", precision: Precision = "32-true") -> None:
        fabric = extra("lightning_fabric", "unrolled train", "train")
        options: dict[str, Any] = {"devices": 1}
        if "TORCHELASTIC_RUN_ID" in os.environ:
            here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
            options = {"devices": here, "num_nodes": everywhere // here, "strategy": "ddp"}
        self._fabric = fabric.Fabric(accelerator=device, precision=precision, **options)
        if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" and options.get("num_nodes") == 1:
            _meet_again(self._fabric.device)
        self._fabric.launch()
        self.share = Share(self._fabric.global_rank, self._fabric.world_size)
        self.device = self._fabric.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.share.part == 0

    def setup(self, model: nn.Module, optimizer: Optimizer) -> tuple[Any, Any]:
        made: tuple[Any, Any] = self._fabric.setup(model, optimizer)
        return made

    def backward(self, loss: Tensor) -> None:
        self._fabric.backward(loss)

    def clip(self, model: Any, optimizer: Any, norm: float) -> None:
        self._fabric.clip_gradients(model, optimizer, max_norm=norm, error_if_nonfinite=False)

    def total(self, sums: Tensor) -> Tensor:
        if self.share.of == 1:
            return sums
        return self._gathered(sums.to(self.device)).sum(0).to(sums.device)

    def joined(self, rows: Tensor, dim: int) -> Tensor:
        if self.share.of == 1:
            return rows
        return torch.cat(list(self._gathered(rows.contiguous())), dim)

    def _gathered(self, rows: Tensor) -> Tensor:
        """(processes, ...) every process's rows."""
        with warnings.catch_warnings():
            # Fabric 2.6 calls a function that torch 2.13 has a new name for.
            warnings.filterwarnings("ignore", ".*all_gather is deprecated")
            gathered: Tensor = self._fabric.all_gather(rows)
        return gathered

    def agreed(self, wish: bool) -> bool:
        if self.share.of == 1:
            return wish
        return bool(self._fabric.broadcast(wish, src=0))

    def wait(self) -> None:
        """Until every process is here."""
        self._fabric.barrier()


def _meet_again(device: torch.device) -> None:
    """Let processes that were started again find each other; Fabric goes on from there.

    torchrun keeps the store in which they leave their addresses (torch 2.13). One that looks early would find those of
    the processes before, so each start has a part of the store to itself. Nodes count their starts each for itself, so
    this holds for one node.
    """
    # Not every torch is built with it.
    from torch.distributed import PrefixStore, init_process_group  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    store, rank, of = next(rendezvous("env://"))
    own = PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    init_process_group(backend, store=own, rank=rank, world_size=of)
