"""Stand-ins for FlashRNN and TorchRL with their signatures, shapes and orders of gates, and plain steps inside.

Of flashrnn 1.0.8 and torchrl 0.14.1, neither of which runs without a GPU.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor


def module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A module of that name that can be found and imported."""
    made = types.ModuleType(name)
    made.__spec__ = ModuleSpec(name, None, is_package=True)
    made.__dict__.update(__path__=[], **content)
    monkeypatch.setitem(sys.modules, name, made)


@dataclass
class FlashRNNConfig:
    backend: str = "cuda_fused"
    function: str = "lstm"
    hidden_dim: int = -1
    num_heads: int = -1
    head_dim: int = -1
    batch_size: int = 8
    input_shape: str = "BTGHD"
    output_shape: str = "SBTHD"
    dtype: str = "bfloat16"
    dtype_b: str | None = None
    dtype_r: str | None = None
    dtype_w: str | None = None


def install_flashrnn(monkeypatch: pytest.MonkeyPatch) -> list[FlashRNNConfig]:
    """Those configurations that are used from now on."""
    used: list[FlashRNNConfig] = []

    def flashrnn(
        Wx: Tensor,
        R: Tensor,
        b: Tensor,
        states: Tensor | None = None,
        function: str = "lstm",
        config: FlashRNNConfig | None = None,
        backend: str = "cuda_fused",
        dtype: str = "bfloat16",
    ) -> tuple[Tensor, Tensor]:
        assert config is not None
        assert states is None
        assert (config.input_shape, config.output_shape) == ("TBGHD", "STBHD")
        used.append(config)
        gates = {"lstm": (4, 4, 4), "gru": (3, 3, 4), "elman": (1, 1, 1)}[config.function]
        size, batch = config.head_dim, config.batch_size
        assert Wx.shape[1:] == (batch, gates[0], 1, size)
        assert (R.shape, b.shape) == ((gates[1], 1, size, size), (gates[2], 1, size))
        assert all(str(each.dtype) == f"torch.{config.dtype}" for each in (Wx, R, b))
        step = {"lstm": _flash_lstm, "gru": _flash_gru, "elman": _flash_elman}[config.function]
        hidden = cell = Wx.new_zeros(batch, size)
        kept = []
        for now in Wx[:, :, :, 0]:
            product = torch.einsum("bp,gdp->gbd", hidden, R[:, 0])
            hidden, cell = step(now.transpose(0, 1), product, b, hidden, cell)
            kept.append(torch.stack((hidden, cell)[: 2 if config.function == "lstm" else 1]))
        found = torch.stack(kept, 1).unsqueeze(3)  # (S, T, B, N, D)
        return found, found[:, -1:]

    module(monkeypatch, "flashrnn", flashrnn=flashrnn, FlashRNNConfig=FlashRNNConfig)
    return used


def _flash_lstm(x: Tensor, product: Tensor, b: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    i, f, z, o = x + product + b
    cell = f.sigmoid() * cell + i.sigmoid() * z.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _flash_gru(x: Tensor, product: Tensor, b: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    reset, keep = (x[0] + product[1] + b[1]).sigmoid(), (x[1] + product[2] + b[2]).sigmoid()
    candidate = (x[2] + b[3] + reset * (product[0] + b[0])).tanh()
    return keep * hidden + (1 - keep) * candidate, cell


def _flash_elman(x: Tensor, product: Tensor, b: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    return (x[0] + product[0] + b[0]).tanh(), cell


def install_torchrl(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, str | None]]:
    """The dtypes and precisions that are asked for from now on."""
    used: list[tuple[torch.dtype, str | None]] = []

    def run(mode: Callable[..., Any], x: Tensor, first: tuple[Tensor, ...], weights: Any, is_init: Tensor) -> Any:
        assert x.is_contiguous()
        assert x.dtype is torch.float32
        assert all(state.shape == (*x.shape[:2], weights[1].size(1)) for state in first)
        assert (is_init.shape, is_init.dtype) == (x.shape[:2], torch.bool)
        assert not is_init.any()
        # Their products with the input read the older switch of torch, which fails where only the newer was set.
        assert torch.backends.cuda.matmul.allow_tf32 == (used[-1][1] == "tf32")
        return mode(x, tuple(state[:, 0] for state in first), weights)

    def gru_triton(
        x: Tensor,
        hidden: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
        is_init: Tensor,
        compute_dtype: torch.dtype = torch.float32,
        *,
        recompute: bool = False,
        input_precision: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        used.append((compute_dtype, input_precision))
        found: tuple[Tensor, Tensor] = run(_gru, x, (hidden,), (w_ih, w_hh, b_ih, b_hh), is_init)
        return found

    def lstm_triton(
        x: Tensor,
        hidden: Tensor,
        cell: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
        is_init: Tensor,
        compute_dtype: torch.dtype = torch.float32,
        *,
        recompute: bool = False,
        input_precision: str | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        used.append((compute_dtype, input_precision))
        found: tuple[Tensor, ...] = run(_lstm, x, (hidden, cell), (w_ih, w_hh, b_ih, b_hh), is_init)
        return found  # type: ignore[return-value]

    for package in ("torchrl", "torchrl.modules", "torchrl.modules.tensordict_module"):
        module(monkeypatch, package)
    kernels = "torchrl.modules.tensordict_module._rnn_triton"
    module(monkeypatch, kernels, gru_triton=gru_triton, lstm_triton=lstm_triton)
    # The kernels need Triton, the stand-ins do not.
    if find_spec("triton") is None:
        module(monkeypatch, "triton")
    return used


def _gru(x: Tensor, first: tuple[Tensor, ...], weights: Any) -> Any:
    kept, hidden = [], first[0]
    for now in x.unbind(1):
        hidden = torch._VF.gru_cell(now, hidden, *weights)  # type: ignore[attr-defined]
        kept.append(hidden)
    return torch.stack(kept, 1), hidden


def _lstm(x: Tensor, first: tuple[Tensor, ...], weights: Any) -> Any:
    kept, states = [], first
    for now in x.unbind(1):
        states = torch._VF.lstm_cell(now, states, *weights)  # type: ignore[attr-defined]
        kept.append(torch.stack(states))
    return (*torch.stack(kept, 2), *states)
