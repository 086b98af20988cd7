"""A recording is cut into pieces of one length, in which nothing but steps that follow each other stands."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unrolled
from unrolled.viewer.measuring.pieces import cut, stretch_at, stretches
from unrolled.viewer.recorded import Recorded


def recorded(*lengths: int, resets: tuple[tuple[int, int], ...] = (), steps: int = 0) -> Recorded:
    steps = steps or max(*lengths, 1)
    model = unrolled.RNN(1, 1, batch_first=True)
    with torch.no_grad(), unrolled.record(model, detach=True) as trace:
        model(torch.zeros(len(lengths), steps, 1))
    reset = torch.zeros(len(lengths), steps, dtype=torch.bool)
    for row, step in resets:
        reset[row, step] = True
    return Recorded(title="a test", trace=trace, lengths=lengths, reset=reset if resets else None)


def test_sequences_of_one_length_are_whole() -> None:
    pieces = cut(recorded(250, 250))
    assert (pieces.length, pieces.places) == (250, ((0, 0), (1, 0)))


def test_a_long_sequence_is_cut_from_its_end() -> None:
    pieces = cut(recorded(650))
    assert (pieces.length, pieces.places) == (200, ((0, 50), (0, 250), (0, 450)))
    assert pieces.text == "3 pieces of 200 steps"


def test_no_reset_is_inside_of_a_piece() -> None:
    pieces = cut(recorded(500, resets=((0, 0), (0, 240))))
    assert (pieces.length, pieces.places) == (240, ((0, 0), (0, 260)))


def test_of_unequal_lengths_the_longest_that_uses_half_of_the_steps_is_taken() -> None:
    # 10 of 22 steps are used at length 10, and 12 at length 6.
    assert cut(recorded(6, 6, 10)).length == 6
    assert cut(recorded(6, 3, 10)).length == 10


def test_steps_after_the_end_of_a_sequence_are_in_no_piece() -> None:
    assert cut(recorded(4, 3, steps=9)).places == ((0, 0),)


def test_a_recording_without_steps_has_no_pieces() -> None:
    pieces = cut(recorded(0, 0))
    assert (len(pieces), pieces.length) == (0, 0)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 39)), max_size=6),
)
def test_pieces_are_disjoint_inside_of_stretches_and_use_half(lengths: list[int], at: list[tuple[int, int]]) -> None:
    resets = tuple((row, step) for row, step in at if row < len(lengths))
    found = recorded(*lengths, resets=resets, steps=40)
    pieces = cut(found)
    used = [(row, step) for row, start in pieces.places for step in range(start, start + pieces.length)]
    assert len(set(used)) == len(used)
    assert 2 * len(used) >= sum(lengths)
    for row, start in pieces.places:
        assert any(r == row and a <= start and start + pieces.length <= b for r, a, b in stretches(found))


def test_the_piece_of_the_step_comes_first() -> None:
    pieces = cut(recorded(650, 650))
    assert pieces.some(4, 1, 300).places[0] == (1, 250)
    assert pieces.some(4, 1).places[0] == (1, 50)
    # Left over before the first piece; and of a sequence that is in none.
    assert pieces.some(4, 1, 3).places[0] == (1, 50)
    assert pieces.some(1, 1, 649).places == ((1, 450),)


def test_some_are_spread_over_the_recording() -> None:
    pieces = cut(recorded(2000))
    assert pieces.some(3).places == ((0, 0), (0, 800), (0, 1800))
    assert pieces.some(100) == pieces


def test_values_of_pieces_are_those_of_their_places() -> None:
    pieces = cut(recorded(650, 650))
    values = torch.arange(1300).reshape(2, 650)
    assert pieces.of(values)[:, 0].tolist() == [50, 250, 450, 700, 900, 1100]
    assert pieces.of(values).shape == (6, 200)


def test_only_pieces_whose_answer_counts_are_kept() -> None:
    pieces = cut(recorded(650, 650))
    counts = torch.zeros(2, 650, dtype=torch.bool)
    counts[1, 449] = True
    assert pieces.where(counts).places == ((1, 250),)
    assert pieces.where(torch.tensor([True, False])).places == ((0, 50), (0, 250), (0, 450))


def test_the_stretch_of_a_step_ends_at_resets() -> None:
    found = recorded(30, 0, resets=((0, 10), (0, 14)), steps=30)
    assert [stretch_at(found, 0, step) for step in (0, 9, 10, 13, 14, 29)] == [
        (0, 10),
        (0, 10),
        (10, 14),
        (10, 14),
        (14, 30),
        (14, 30),
    ]
    assert stretch_at(found, 0, None) == (14, 30)
    with pytest.raises(ValueError, match="number 1 has no steps"):
        stretch_at(found, 1, None)
