"""Every kind of trace, and chunks so small that a short recording has many."""

from __future__ import annotations

import pytest

import unrolled
from by_hand import H
from stored_traces import TRACES
from unrolled.recording import layout


@pytest.fixture(params=TRACES)
def trace(request: pytest.FixtureRequest) -> unrolled.Trace:
    return TRACES[request.param]()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one sequence and three steps of H numbers in float64."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 3 * H * 8)
