"""The n-gram model is a probability, and the one that the formula gives."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unrolled.baselines.ngram import NGrams, ngram_bits


def discounts(counts: list[int]) -> dict[int, float]:
    n = Counter(counts)
    if all(n[count] for count in (1, 2, 3, 4)):
        y = n[1] / (n[1] + 2 * n[2])
        found = {k: k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)}
        if min(found.values()) > 0:
            return found
    return {1: 0.5, 2: 1.0, 3: 1.5}


class ByDictionary:
    """Interpolated modified Kneser-Ney, word for word from the formula."""

    def __init__(self, train: list[int], order: int, symbols: int) -> None:
        self.order, self.symbols = order, symbols
        self.counts: dict[int, dict[tuple[int, ...], dict[int, int]]] = {}
        self.discounts: dict[int, dict[int, float]] = {}
        for n in range(1, order + 1):
            counted: Counter[tuple[int, ...]] = Counter()
            if n == order:
                counted.update(tuple(train[at : at + n]) for at in range(len(train) - n + 1))
            else:
                longer = {tuple(train[at : at + n + 1]) for at in range(len(train) - n)}
                counted.update(gram[1:] for gram in longer)
            after: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
            for gram, count in counted.items():
                after[gram[:-1]][gram[-1]] = count
            self.counts[n], self.discounts[n] = after, discounts(list(counted.values()))

    def probability(self, symbol: int, context: tuple[int, ...]) -> float:
        n = len(context) + 1
        lower = self.probability(symbol, context[1:]) if context else 1 / self.symbols
        after = self.counts[n].get(context)
        if not after:
            return lower
        discount = self.discounts[n]
        total = sum(after.values())
        gamma = sum(discount[min(count, 3)] for count in after.values()) / total
        count = after.get(symbol, 0)
        share = (count - discount[min(count, 3)]) / total if count else 0.0
        return share + gamma * lower

    def probabilities(self, test: list[int]) -> list[float]:
        return [
            self.probability(symbol, tuple(test[max(0, at - self.order + 1) : at])) for at, symbol in enumerate(test)
        ]


def drawn(length: int, symbols: int, *, seed: int) -> NDArray[np.int64]:
    """A text with some order in it: a symbol often follows from the two before it."""
    rng = np.random.default_rng(seed)
    text = [0, 1]
    for _ in range(length - 2):
        text.append((text[-1] + 2 * text[-2]) % symbols if rng.random() < 0.6 else int(rng.integers(symbols)))
    return np.array(text[:length])


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize(("length", "symbols"), [(1, 2), (2, 2), (3, 3), (40, 2), (300, 4), (4_000, 30)])
def test_probabilities_are_those_of_the_formula(order: int, length: int, symbols: int) -> None:
    train, test = drawn(length, symbols, seed=1), drawn(200, symbols, seed=2)
    expected = ByDictionary(train.tolist(), order, symbols).probabilities(test.tolist())
    found = NGrams.of(train, order=order, symbols=symbols).probabilities(test)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert ngram_bits(train, test, order=order, symbols=symbols) == pytest.approx(-np.log2(expected).mean(), rel=1e-12)


def test_estimated_discounts_are_reached_by_the_test_of_the_formula() -> None:
    # Else that test would see the fixed discounts alone.
    train = drawn(4_000, 30, seed=1).tolist()
    slow = ByDictionary(train, 3, 30)
    assert slow.discounts[3] != {1: 0.5, 2: 1.0, 3: 1.5}
    assert slow.discounts[2] != {1: 0.5, 2: 1.0, 3: 1.5}


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(("length", "symbols"), [(1, 3), (5, 3), (60, 3), (500, 4)])
def test_probabilities_sum_to_one_after_every_context(order: int, length: int, symbols: int) -> None:
    # The last symbol is not in the training text.
    model = NGrams.of(drawn(length, symbols - 1, seed=3), order=order, symbols=symbols)
    for context in itertools.product(range(symbols), repeat=order):
        after = [model.probabilities(np.array([*context, symbol]))[-1] for symbol in range(symbols)]
        assert sum(after) == pytest.approx(1, abs=1e-12)
        assert min(after) > 0


def test_single_characters_by_hand() -> None:
    # a a b: no count of 3 or 4, so the discounts are 0.5 and 1. p(a) = (2 - 1) / 3 + (1 + 0.5) / 3 / 2.
    model = NGrams.of(np.array([0, 0, 1]), order=1, symbols=2)
    np.testing.assert_allclose(model.probabilities(np.array([0, 1])), [7 / 12, 5 / 12], rtol=1e-15)


def test_order_counts_the_character_itself() -> None:
    # Four texts in turn, character by character, each of which seldom changes: the character four before tells most,
    # those after it nothing.
    rng = np.random.default_rng(0)
    changes = rng.random((10_000, 4)) < 0.1
    text = (changes.cumsum(0) % 2).reshape(-1)
    entropy = -0.1 * np.log2(0.1) - 0.9 * np.log2(0.9)
    train, test = text[:36_000], text[36_000:]
    assert ngram_bits(train, test, order=5, symbols=2) == pytest.approx(entropy, abs=0.02)
    assert ngram_bits(train, test, order=4, symbols=2) == pytest.approx(1, abs=0.02)


def test_random_text_costs_its_entropy() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 4, 200_000), rng.integers(0, 4, 20_000)
    assert ngram_bits(train, test, order=3, symbols=4) == pytest.approx(2, abs=0.002)


def test_symbols_that_training_lacks_have_a_finite_cost() -> None:
    bits = ngram_bits(np.zeros(100, dtype=np.uint8), np.full(10, 200, dtype=np.uint8), order=5, symbols=256)
    assert 8 < bits < 30


def test_character_before_the_test_text_does_not_matter() -> None:
    train, test = drawn(500, 5, seed=1), drawn(50, 5, seed=2)
    model = NGrams.of(train, order=3, symbols=5)
    np.testing.assert_array_equal(model.probabilities(test)[:20], model.probabilities(test[:20]))
    assert model.probabilities(test[5:])[2:] == pytest.approx(model.probabilities(test)[7:])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_every_kind_of_whole_number_gives_the_same(dtype: Any) -> None:
    train, test = drawn(500, 100, seed=1), drawn(200, 100, seed=2)
    expected = ngram_bits(train, test, symbols=100)
    assert ngram_bits(train.astype(dtype), test.astype(dtype), symbols=100) == expected


def test_largest_symbols_at_high_orders_do_not_overflow() -> None:
    train = np.tile(np.array([65_535, 65_534, 65_533]), 300)
    assert ngram_bits(train, train, order=9, symbols=65_536) < 0.3


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        ([], [0], {}, "train: has no characters"),
        ([0], [], {}, "test: has no characters"),
        ([0, 3, 4], [0], {}, r"train: has 4 at 2; expected numbers from 0 to symbols - 1 = 3"),
        ([0], [1, -1], {}, r"test: has -1 at 1"),
        ([[0]], [0], {}, r"train: expected \(N,\) whole numbers, given shape \(1, 1\)"),
        ([0.5], [0], {}, "whole numbers, given shape .* of float64"),
        ([0], [0], {"order": 0}, "order: must be at least 1, given 0"),
        ([0], [0], {"symbols": 65_537}, "symbols: must be from 1 to 65536, given 65537"),
    ],
)
def test_wrong_arguments_are_named(train: list[Any], test: list[Any], options: dict[str, int], message: str) -> None:
    def numbers(values: list[Any]) -> NDArray[Any]:
        return np.array(values) if values else np.zeros(0, dtype=int)

    with pytest.raises(ValueError, match=message):
        ngram_bits(numbers(train), numbers(test), **{"symbols": 4, **options})
