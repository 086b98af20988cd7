"""What only a real GPU can show is marked `gpu`, and skipped where there is none."""

from __future__ import annotations

import os

import pytest
import torch

# Tests fill new memory with NaN, which torch does where it is deterministic: its products then ask for this.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("there is no GPU: Triton's interpreter cannot show this")
