"""Recordings of few steps whose blocks are of several lengths."""

from __future__ import annotations

import pytest

from unrolled.recording import blocks, layout


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several lengths of blocks, and several chunks of each, in a recording of a thousand steps of a few units."""
    monkeypatch.setattr(blocks, "SHORTEST", blocks.FINEST + 1)
    monkeypatch.setattr(blocks, "FEWEST", 4)
    monkeypatch.setattr(layout, "CHUNK_BYTES", 2000)
