"""Runs of every kind, and one thread, on which networks this small are faster than on two."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tiny_commands import DATA, KINDS, OPTIONS, gestures, noisy_sine, train, words


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run of every kind."""
    folder = tmp_path_factory.mktemp("commands")
    words(folder / "texts")
    noisy_sine(folder / "s.csv")
    gestures(folder / "g.csv")
    for kind in KINDS:
        path = DATA[kind] if kind == "task" else folder / DATA[kind]
        assert train(kind, path, folder / kind, *OPTIONS[kind]) == 0
    return folder
