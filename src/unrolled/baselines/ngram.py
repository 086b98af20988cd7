"""A character n-gram model, which knows what usually follows the last few characters and nothing before them.

An n-gram is n characters, as in Chen & Goodman (1999): a model of order 5 looks at the 4 characters before the one it
foretells. (Compression counts otherwise: there an order-5 model, as in PPM, looks at 5.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]

_MOST_SYMBOLS = 65_536
_UNSEEN = -1  # in place of the number of an n-gram that training does not have


def ngram_bits(train: Integers, test: Integers, *, order: int = 5, symbols: int) -> float:
    """Bits per character that an n-gram model of one text needs for another; see `NGrams`.

    Args:
        train: (N,) the symbol numbers of the text to count.
        test: (M,) those of the text to foretell, all of which count; its context grows from its first character and
            flows through it.
        order: the longest n: contexts have up to `order` - 1 characters.
        symbols: how many there are; all numbers are below it.

    Raises:
        ValueError: an argument is not as described above.
    """
    foretold = NGrams.of(train, order=order, symbols=symbols).probabilities(test)
    return float(-np.log2(foretold).mean())


@dataclass(frozen=True, eq=False)
class _Order:
    """The n-grams of one n.

    An n-gram's number is its place in `keys`; its key is the number of the n - 1 characters before its last one, times
    the number of symbols, plus the last one. So n-grams of any length fit an int64.

    Attributes:
        keys: (G,) sorted.
        shares: (G,) max(c - D(c), 0) over the sum of c over n-grams of the same context: the first term of p.
        left: (contexts,) gamma, what the discounts leave for the next shorter context; 1 for a context after
            which nothing was counted.
    """

    keys: NDArray[np.int64]
    shares: Floats
    left: Floats


@dataclass(frozen=True, eq=False)
class NGrams:
    """Interpolated n-grams with modified Kneser-Ney smoothing (Chen & Goodman 1999, section 3).

    p(w | h) = max(c(h w) - D(c(h w)), 0) / sum_v c(h v) + gamma(h) p(w | h'), where h' is h without its first character
    and gamma(h) makes the sum over w one; below the single characters stands the uniform 1 / symbols, so no symbol has
    probability 0. c counts the longest n-grams in the training text, and for shorter ones the different characters
    that stand before them. D has three values for each n, for counts of 1, 2 and 3 or more, by their eq. 17. Where the
    counts are too few or too even for that, as with small alphabets, D is 0.5, 1 and 1.5.

    Attributes:
        symbols: how many there are.
        orders: the n-grams for n = 1, 2, ...
    """

    symbols: int
    orders: tuple[_Order, ...]

    @classmethod
    def of(cls, train: Integers, *, order: int = 5, symbols: int) -> NGrams:
        """Count a text, (N,) symbol numbers. Takes about 50 bytes of memory for each of its characters.

        Raises:
            ValueError: the text is empty or has a number that is not below `symbols`, or a setting is out of range.
        """
        if order < 1:
            raise ValueError(f"order: must be at least 1, given {order}")
        if not 1 <= symbols <= _MOST_SYMBOLS:
            raise ValueError(f"symbols: must be from 1 to {_MOST_SYMBOLS}, given {symbols}")
        text = _checked("train", train, symbols)
        contexts, orders = 1, []
        # numbers[i]: that of the n-gram whose last character is text[n - 1 + i].
        keys, numbers, counts = _counted(text)
        for n in range(1, order + 1):
            if n < order:
                longer = _counted(numbers[:-1] * symbols + text[n:])
                # The n-gram within each longer one, without its first character; all places agree on it.
                within = np.empty(len(longer[0]), dtype=np.int64)
                within[longer[1]] = numbers[1:]
                counts = np.bincount(within, minlength=len(keys))
            orders.append(_smoothed(keys, counts, contexts, symbols))
            if n < order:
                contexts = len(keys)
                keys, numbers, counts = longer
        return cls(symbols, tuple(orders))

    def probabilities(self, text: Integers) -> Floats:
        """(M,) the probability of each character of a text given those before it.

        Raises:
            ValueError: the text is empty or has a number that is not below `symbols`.
        """
        symbols = _checked("test", text, self.symbols)
        found = np.full(len(symbols), 1 / self.symbols)
        before = np.zeros(
            len(symbols), dtype=np.int64
        )  # of the characters with n - 1 before them, the context's number
        for n, order in enumerate(self.orders, start=1):
            if n > len(symbols):
                break
            here = symbols[n - 1 :]
            known = before != _UNSEEN
            keys = before * self.symbols + here
            numbers = _looked_up(order.keys, np.where(known, keys, _UNSEEN))
            seen = numbers != _UNSEEN
            # From n - 1 on: earlier characters have no context this long, and keep what the shorter ones say.
            rest = found[n - 1 :]
            rest[known] *= order.left[before[known]]
            rest[seen] += order.shares[numbers[seen]]
            before = numbers[:-1]
        return found


def _checked(name: str, text: Integers, symbols: int) -> NDArray[np.int64]:
    if text.ndim != 1 or not np.issubdtype(text.dtype, np.integer):
        raise ValueError(f"{name}: expected (N,) whole numbers, given shape {text.shape} of {text.dtype}")
    if not len(text):
        raise ValueError(f"{name}: has no characters; give one or more")
    low, high = int(text.min()), int(text.max())
    if low < 0 or high >= symbols:
        wrong = low if low < 0 else high
        at = int((text == wrong).argmax())
        raise ValueError(f"{name}: has {wrong} at {at}; expected numbers from 0 to symbols - 1 = {symbols - 1}")
    return text.astype(np.int64, copy=False)


def _counted(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The different keys, sorted; the place among them of each key; and how often each one occurs."""
    found, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return found, places, counts


def _smoothed(keys: NDArray[np.int64], counts: NDArray[np.int64], contexts: int, symbols: int) -> _Order:
    context = keys // symbols
    discounted = _discounts(counts)[np.minimum(counts, 3)]
    total = np.bincount(context, weights=counts, minlength=contexts)
    taken = np.bincount(context, weights=discounted, minlength=contexts)
    # The one n-gram that stands only where the text begins has nothing before it, and its count is 0.
    empty = total == 0
    divisor = np.where(empty, 1, total)
    return _Order(keys, (counts - discounted) / divisor[context], np.where(empty, 1, taken / divisor))


def _discounts(counts: NDArray[np.int64]) -> Floats:
    """(4,) what is taken off counts of 0, 1, 2 and 3 or more (eq. 17)."""
    n1, n2, n3, n4 = (int(number) for number in np.bincount(np.minimum(counts, 5), minlength=6)[1:5])
    if min(n1, n2, n3, n4):
        y = n1 / (n1 + 2 * n2)
        found = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        # More than a count cannot be taken off it, and with nothing taken off unseen characters would have nothing.
        if (found[1:] > 0).all():
            return found
    return np.array([0, 0.5, 1, 1.5])


def _looked_up(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each wanted key among sorted ones, `_UNSEEN` where it is not there."""
    if not len(keys):
        return np.full(len(wanted), _UNSEEN)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, _UNSEEN)
