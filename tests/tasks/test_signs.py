"""Symbols of tasks as characters."""

from __future__ import annotations

import pytest

from unrolled.tasks import TASKS, parse
from unrolled.tasks.code import ALPHABET
from unrolled.tasks.signs import answer_signs, signs


def test_signs_of_recall_tell_cues_distractors_and_the_query_apart() -> None:
    assert signs(parse("recall:symbols=3,distractors=2")) == "ABCab?"
    assert signs(parse("recall:symbols=2,distractors=0")) == "AB·?"
    assert answer_signs(parse("recall:symbols=3,distractors=2")) == "ABC"


def test_signs_of_copy_end_with_the_blank_and_the_delimiter() -> None:
    assert signs(parse("copy:symbols=3")) == "ABC·|"
    assert answer_signs(parse("copy:symbols=3")) == "ABC·"


def test_source_is_its_own_sign_and_numbers_have_none() -> None:
    assert signs(parse("code")) == ALPHABET
    assert signs(parse("adding")) is None
    assert answer_signs(parse("adding")) is None


@pytest.mark.parametrize("spec", ["recall:symbols=60,distractors=70", "copy:symbols=50", *TASKS])
def test_every_symbol_has_one_character_of_its_own(spec: str) -> None:
    task = parse(spec)
    found = signs(task)
    if found is not None:
        assert len(found) == len(set(found)) == task.input_size
