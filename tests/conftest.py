"""What every test relies on: the same draws on every run, and no time limit on a drawn example."""

import os

import pytest
import torch
from hypothesis import settings

# Where there is no GPU, Triton's kernels are run by its interpreter, which has to be said before triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("unrolled", deadline=None, derandomize=True)
settings.load_profile("unrolled")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)
