"""Characters and the symbols that stand for them."""

from __future__ import annotations

from unrolled.problems.text import BOUNDARY, OTHER, Vocabulary


def test_vocabulary_has_the_commonest_characters_in_the_order_of_their_code_points() -> None:
    assert Vocabulary.of(["bbbaac", "cd"], 3).characters == "abc"
    # Of characters that are as common as each other the first is taken.
    assert Vocabulary.of(["dcba"], 2).characters == "ab"
    assert Vocabulary.of(["é\U0001f600aa"], 9).characters == "aé\U0001f600"
    assert len(Vocabulary("abc")) == 5


def test_symbols_begin_with_the_boundary_and_the_unknown_character() -> None:
    vocabulary = Vocabulary("ace")
    assert (BOUNDARY, OTHER) == (0, 1)
    assert vocabulary.encode("eca").tolist() == [4, 3, 2]
    # Before, between and after those that are known.
    assert vocabulary.encode("`bdf\U0001f600").tolist() == [OTHER] * 5
    assert vocabulary.encode("").tolist() == []
    assert vocabulary.decode([0, 1, 2, 3, 4]) == "\f\ufffdace"


def test_encoding_is_undone_by_decoding_for_every_text_in_the_vocabulary() -> None:
    text = "".join(map(chr, [*range(32, 600), 0x1F600, 0xD800]))
    vocabulary = Vocabulary.of([text], 10_000)
    assert vocabulary.decode(vocabulary.encode(text).tolist()) == text
