"""What instruments keep of a stream does not grow with it."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor

import unrolled
from networks import stirred
from unrolled.instruments import gradient_flow, saturation, timescales

BATCH, LENGTH = 8, 50
BATCH_BYTES = BATCH * LENGTH * 2 * 8  # of the inputs alone


def held() -> int:
    """Bytes of all living tensors, and of whatever else Python has allocated since tracing began."""
    gc.collect()
    storages = {}
    for tensor in [found for found in gc.get_objects() if issubclass(type(found), Tensor)]:
        # Sparse and wrapped ones, left by other tests, have no memory of their own.
        with suppress(RuntimeError, NotImplementedError):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values()) + tracemalloc.get_traced_memory()[0]


def growth(consume: Callable[[Iterable[Any]], object], *, early: int = 4, late: int = 34) -> float:
    """By how many bytes what is held grows with each batch that `consume` has been given."""
    seen = {}

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(late + 1):
            if number in (early, late):
                seen[number] = held()
            yield torch.randn(BATCH, LENGTH, 2, dtype=torch.float64), torch.zeros(BATCH)

    tracemalloc.start()
    try:
        kept = consume(batches())
    finally:
        tracemalloc.stop()
    assert kept is not None
    return (seen[late] - seen[early]) / (late - early)


def layer() -> Any:
    return stirred(unrolled.LSTM(2, 8, batch_first=True, dtype=torch.float64))


def test_what_keeps_batches_or_states_of_them_is_noticed() -> None:
    core = layer()

    def joined(batches: Iterable[Any]) -> Tensor:
        states = torch.zeros(0, LENGTH, 8)
        for x, _ in batches:
            states = torch.cat([states, core(x)[0].detach()])
        return states

    assert growth(list) > BATCH_BYTES
    assert growth(joined) > BATCH_BYTES
    assert growth(lambda batches: [core(x)[0].detach().numpy().copy() for x, _ in batches]) > BATCH_BYTES
    assert growth(lambda batches: sum(float(x.sum()) for x, _ in batches)) < 200


def test_timescales_keep_nothing_of_a_batch() -> None:
    assert growth(lambda batches: timescales(layer(), batches)) < 200


def test_saturation_keeps_nothing_of_a_batch() -> None:
    # Python keeps some freed tuples for later, which shows for the first hundred batches or so.
    assert growth(lambda batches: saturation(layer(), batches), early=100, late=200) < 200


def test_gradient_flow_keeps_a_rate_of_each_sequence_and_state_of_a_batch() -> None:
    def consume(batches: Iterable[Any]) -> object:
        return gradient_flow(layer(), batches, lambda output, _: output[0][:, -1].sum(-1))

    rates = 3 * BATCH * 8
    # Python keeps up to some 60 kB of freed tuples for later, which shows here as long as it grows.
    assert growth(consume) < rates + 1000


@pytest.mark.parametrize("length", [20, 80])
def test_gradient_flow_of_a_longer_sequence_keeps_no_more(length: int) -> None:
    x = torch.randn(BATCH, length, 2, dtype=torch.float64)
    flow = gradient_flow(layer(), x, lambda output: output[0][:, -1].sum(-1), max_lag=10)
    assert flow.data.nbytes < 2000
