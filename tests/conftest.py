"""What every test relies on: the same draws on every run, and no time limit on a drawn example."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("unrolled", deadline=None, derandomize=True)
settings.load_profile("unrolled")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)
