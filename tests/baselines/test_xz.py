"""A compressor's figures are per character, and priming takes off what the primer costs."""

from __future__ import annotations

import lzma

import numpy as np
import pytest

from unrolled.baselines import compression
from unrolled.baselines.compression import xz_bits


def random_text(length: int, *, seed: int) -> str:
    """Letters without order, log2 26 = 4.70 bits each."""
    return bytes(np.random.default_rng(seed).integers(97, 123, length, dtype=np.uint8)).decode()


def test_bits_are_those_of_the_command() -> None:
    text = random_text(5_000, seed=0)
    size = len(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    # Its checksum may be another, its length is all that counts.
    assert xz_bits(text) == pytest.approx(8 * size / 5_000, abs=8 * 8 / 5_000)


def test_random_letters_cost_about_their_entropy() -> None:
    assert np.log2(26) < xz_bits(random_text(50_000, seed=0)) < np.log2(26) + 0.3


def test_bits_are_counted_per_character_and_not_per_byte() -> None:
    # Random kana: two characters of three bytes each, one bit each.
    rng = np.random.default_rng(0)
    text = "".join("あい"[choice] for choice in rng.integers(0, 2, 30_000))
    assert 1 <= xz_bits(text) < 1.6


def test_text_that_the_primer_holds_costs_nearly_nothing() -> None:
    primer = random_text(50_000, seed=0)
    text = primer[10_000:30_000]
    assert xz_bits(text) > 4.5
    assert xz_bits(text, primed_by=primer) < 0.05


def test_unlike_primer_hardly_helps() -> None:
    text = random_text(30_000, seed=1)
    assert xz_bits(text, primed_by=random_text(30_000, seed=2)) == pytest.approx(xz_bits(text), abs=0.1)


def test_dictionary_reaches_back_over_the_whole_primer(monkeypatch: pytest.MonkeyPatch) -> None:
    # With a preset of 64 KiB this size shows what a primer above 64 MiB would.
    monkeypatch.setattr(compression, "_PRESET_DICTIONARY", 2**16)
    primer = random_text(200_000, seed=0)
    assert xz_bits(primer[:20_000], primed_by=primer) < 0.1


def test_lone_surrogate_is_compressed_too() -> None:
    assert xz_bits("a\udc80" * 100) > 0


def test_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match="text: has no characters"):
        xz_bits("", primed_by="abc")


def test_text_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_LARGEST_DICTIONARY", 10)
    with pytest.raises(ValueError, match="has 11 bytes with primed_by, .* at most 10 together"):
        xz_bits("é" * 3, primed_by="abcde")
