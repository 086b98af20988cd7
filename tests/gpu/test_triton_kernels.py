"""The Triton kernels against the reference in float64: values, states, gates, gradients and totals."""

from __future__ import annotations

import itertools

import pytest
import torch

from against_reference import Case, uneven_lengths
from by_triton import MODES, ON_GPU, assert_matches_reference, launch
from unrolled.recurrence.gpu.shares import Processors, share_out

# T, B, I, H: single ones, and on both sides of the blocks of 16 rows, 16 units and 32 units.
ODD_SIZES = [
    (1, 1, 1, 1),
    (4, 3, 2, 5),
    (2, 15, 1, 15),
    (2, 16, 3, 16),
    (2, 17, 2, 17),
    (2, 1, 5, 33),
    (2, 2, 3, 37),
    (1, 70, 1, 5),
]
OPTIONS = list(itertools.product((False, True), repeat=3))  # reverse, lengths, reset


def case(
    mode: str, sizes: tuple[int, int, int, int], reverse: bool, lengths: bool, reset: bool, bias: bool = True
) -> Case:
    return Case(mode, *sizes, reverse, uneven_lengths(*sizes[:2]) if lengths else None, bias, reset)


def in_turn() -> list[Case]:
    """Each size once for each mode, with the options taken by turns: another one for each mode."""
    return [
        case(mode, size, *OPTIONS[(first + number) % len(OPTIONS)], bias=(first + number) % 3 != 0)
        for first, mode in enumerate(MODES)
        for number, size in enumerate(ODD_SIZES)
    ]


@pytest.mark.parametrize("tested", in_turn(), ids=str)
def test_odd_sizes_match_the_reference(tested: Case) -> None:
    assert_matches_reference(tested)


ALL_OPTIONS = [
    case(mode, (3, 5, 2, 9), *options, bias=number % 2 == 0) for mode in MODES for number, options in enumerate(OPTIONS)
]


@pytest.mark.parametrize("tested", ALL_OPTIONS, ids=str)
def test_every_direction_lengths_and_resets_match_the_reference(tested: Case) -> None:
    assert_matches_reference(tested)


# Of a device, and whether programs hold their weights, how many share the units, and how many the sequences.
WAYS = {
    "held-one-slice": (Processors(1, 1 << 20), (2, 35, 2, 19), (True, 1, 1)),
    "held-slices": (Processors(4, 64 << 10), (2, 19, 2, 37), (True, 2, 2)),
    "streamed-slices": (Processors(4, 0), (2, 3, 2, 37), (False, 3, 1)),
    "streamed-one-slice": (Processors(1, 0), (2, 3, 2, 37), (False, 1, 1)),
    "streamed-columns": (Processors(8, 0), (2, 35, 1, 17), (False, 2, 3)),
}


@pytest.mark.skipif(ON_GPU, reason="a GPU's own multiprocessors and memory are taken")
@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM_PEEPHOLE", "LSTM_VARIATIONAL_DROPOUT"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_share_out_a_call_matches_the_reference(
    mode: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processors, sizes, expected = WAYS[way]
    monkeypatch.setattr(launch, "_INTERPRETED", processors)
    number = MODES.index(mode) + list(WAYS).index(way)
    tested = case(mode, sizes, *OPTIONS[number % len(OPTIONS)])
    shares = share_out(mode, sizes[3], sizes[1], torch.float32, "interpreted", processors, passed=1)
    assert (shares.resident > 0, shares.slices, shares.columns) == expected
    assert_matches_reference(tested)


@pytest.mark.parametrize("mode", MODES)
def test_weights_of_several_blocks_match_the_reference(mode: str) -> None:
    assert_matches_reference(case(mode, (2, 3, 2, 70), *OPTIONS[MODES.index(mode) % len(OPTIONS)]))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_all_sizes_with_all_options_match_the_reference(mode: str) -> None:
    for size, options, bias in itertools.product([*ODD_SIZES, (9, 20, 4, 130)], OPTIONS, (True, False)):
        assert_matches_reference(case(mode, size, *options, bias=bias))
