"""Resets, the LSTM's variants and calls of few steps in the kernels, against the reference in float64."""

from __future__ import annotations

import itertools

import pytest

from against_reference import (
    BUILDS,
    MODES,
    VARIANTS,
    Case,
    assert_matches_reference,
    pytestmark_native,
    uneven_lengths,
)

pytestmark = pytestmark_native
builds = pytest.mark.parametrize("build", BUILDS)

# T, B, I, H
SIZES = [(5, 6, 3, 19), (7, 5, 4, 17), (6, 3, 9, 33), (3, 9, 17, 65), (2, 4, 33, 130), (2, 3, 2, 3), (70, 3, 2, 9)]
# Weights whose gradients are left to large products; threads that share the units of all sequences.
LARGE = [(9, 5, 300, 300), (12, 1, 5, 256), (7, 3, 9, 520)]
# So few products that the weights are read where they stand.
FEW = [(1, 1, 5, 19), (1, 1, 64, 64), (1, 3, 17, 33), (2, 2, 33, 130), (4, 1, 1, 16), (1, 1, 300, 280)]
OPTIONS = list(itertools.product((False, True), repeat=3))  # reverse, lengths, bias


def cases(modes: list[str], sizes: list[tuple[int, int, int, int]], *, reset: bool) -> list[Case]:
    """Each size once for each mode, with the options taken by turns."""
    turn = itertools.cycle(OPTIONS)
    found = []
    for mode, size in itertools.product(modes, sizes):
        reverse, lengths, bias = next(turn)
        found.append(Case(mode, *size, reverse, uneven_lengths(*size[:2]) if lengths else None, bias, reset))
    return found


@pytest.mark.parametrize("tested", cases(MODES, SIZES, reset=True), ids=str)
@builds
def test_resets_match_the_reference(tested: Case, build: str) -> None:
    assert_matches_reference(tested, build)


@pytest.mark.parametrize("tested", cases(MODES, LARGE, reset=True), ids=str)
@builds
def test_resets_of_large_layers_on_two_threads_match_the_reference(tested: Case, build: str) -> None:
    assert_matches_reference(tested, build, threads=2)


@pytest.mark.parametrize("tested", cases(VARIANTS, SIZES, reset=False), ids=str)
@builds
def test_variants_match_the_reference(tested: Case, build: str) -> None:
    assert_matches_reference(tested, build)


@pytest.mark.parametrize("tested", cases(VARIANTS, SIZES[:4], reset=True), ids=str)
@builds
def test_variants_with_resets_match_the_reference(tested: Case, build: str) -> None:
    assert_matches_reference(tested, build)


@pytest.mark.parametrize("tested", cases(VARIANTS, LARGE, reset=False), ids=str)
@builds
def test_large_variants_on_two_threads_match_the_reference(tested: Case, build: str) -> None:
    assert_matches_reference(tested, build, threads=2)


@pytest.mark.parametrize("tested", cases(MODES + VARIANTS, FEW, reset=False), ids=str)
@builds
def test_calls_of_few_steps_match_the_reference(tested: Case, build: str) -> None:
    assert_matches_reference(tested, build)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES + VARIANTS)
@pytest.mark.parametrize("threads", [1, 2])
@builds
def test_all_sizes_with_all_options_match_the_reference(mode: str, threads: int, build: str) -> None:
    for size, (reverse, lengths, bias), reset in itertools.product(SIZES + LARGE + FEW, OPTIONS, (False, True)):
        tested = Case(mode, *size, reverse, uneven_lengths(*size[:2]) if lengths else None, bias, reset)
        assert_matches_reference(tested, build, threads)
