"""The class of the most similar training sequence: 1-nearest-neighbour, step by step or with the time warped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

# Cells of distance tables: a few minutes of work.
MOST = 2_000_000_000
# Values of the training sequences that are looked at side by side: 32 MiB of them.
_TOGETHER = 2**22


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """What the nearest neighbours say.

    Attributes:
        predictions: (M,) the label of the nearest training sequence for each test sequence.
        distances: (M,) how far that one is.
        remark: what a reader must know of how they were found, empty if nothing.
    """

    predictions: Array
    distances: Floats
    remark: str = ""


def nearest_neighbour(
    train_sequences: Sequence[Array],
    train_labels: Sequence[Any] | Array,
    test_sequences: Sequence[Array],
    *,
    band: float | None = None,
    most: int = MOST,
) -> Neighbours:
    """1-nearest-neighbour by dynamic time warping, on sequences of any lengths.

    The distance of two sequences is the least sum of squared Euclidean distances between steps that a path pairs, from
    both first steps to both last ones, each of its moves going one step on in the one, the other or both (Sakoe & Chiba
    1978, symmetric form P = 0 with unit weights). One path serves all channels: the dependent DTW of Shokoohi-Yekta et
    al. (2017). Channels count as they are; scale them first if their units differ.

    Of training sequences at one distance, the first in their order decides.

    Args:
        train_sequences: of each, (T, C).
        train_labels: one for each.
        test_sequences: of each, (T, C).
        band: how far the path may stray from the diagonal (Sakoe & Chiba 1978): steps i and j are paired only if
            |i - j| is at most this share of the longer of the two lengths, or their difference where that is more. From
            0 to 1; None is no limit.
        most: cells of distance tables, that is, the training steps times the test steps. Above it, as much of the
            training sequences as fits is taken, at random with the same in every run, each class in its share and at
            least one of each; `remark` tells.

    Raises:
        ValueError: an argument is not as described above; names the sequence.
    """
    train, test, labels = _checked(train_sequences, train_labels, test_sequences)
    if band is not None and not 0 <= band <= 1:
        raise ValueError(f"band: must be from 0 to 1, or None, given {band}")
    if most < 1:
        raise ValueError(f"most: must be at least 1, given {most}")
    kept = _kept(np.array([len(one) for one in train]), labels, most // sum(len(one) for one in test))
    remark = ""
    if len(kept) < len(train):
        remark = (
            f"{len(kept)} of {len(train)} training sequences were looked at, drawn from each class in its share: all "
            "would take too long"
        )
    longest = max(len(train[number]) for number in kept)
    rows = max(1, _TOGETHER // (longest * train[0].shape[1]))
    tables = [_Padded([train[number] for number in kept[at : at + rows]]) for at in range(0, len(kept), rows)]
    distances = np.array([np.concatenate([table.warped(one, band) for table in tables]) for one in test])  # (M, kept)
    nearest = distances.argmin(1)
    return Neighbours(predictions=labels[kept][nearest], distances=distances.min(1), remark=remark)


def euclidean(
    train_sequences: Sequence[Array], train_labels: Sequence[Any] | Array, test_sequences: Sequence[Array]
) -> Neighbours:
    """1-nearest-neighbour by the squared Euclidean distance over all steps and channels, on sequences of one length.

    Of training sequences at one distance, the first in their order decides.

    Args:
        train_sequences: of each, (T, C).
        train_labels: one for each.
        test_sequences: of each, (T, C).

    Raises:
        ValueError: lengths differ, or an argument is not as described above; names the sequence.
    """
    train, test, labels = _checked(train_sequences, train_labels, test_sequences)
    for name, sequences in (("train_sequences", train), ("test_sequences", test)):
        for number, sequence in enumerate(sequences):
            if len(sequence) != len(train[0]):
                raise ValueError(
                    f"{name}: sequence {number} has {len(sequence)} steps, the first of training {len(train[0])}; "
                    "expected one length, nearest_neighbour takes any"
                )
    table = np.stack(train).reshape(len(train), -1)
    # Differences are taken before squares: the shorter |a|² - 2ab + |b|² loses what is far from 0.
    distances = np.stack([((table - one.reshape(-1)) ** 2).sum(1) for one in test])  # (M, N)
    return Neighbours(predictions=labels[distances.argmin(1)], distances=distances.min(1))


class _Padded:
    """Training sequences side by side, the shorter ones filled up behind their end, where no distance looks."""

    def __init__(self, sequences: Sequence[Floats]) -> None:
        self._lengths = np.array([len(one) for one in sequences])
        self._steps = np.zeros((len(sequences), self._lengths.max(), sequences[0].shape[1]))
        for row, one in zip(self._steps, sequences, strict=True):
            row[: len(one)] = one
        # Which sequences end at each step.
        self._ending = [np.flatnonzero(self._lengths == length) for length in range(self._lengths.max() + 1)]

    def warped(self, sequence: Floats, band: float | None) -> Floats:
        """(N,) the distance of each training sequence from one of (T, C).

        Cells of one antidiagonal, i + j = s, depend on the two antidiagonals before it alone, so all of them are
        computed at once, for all training sequences. In an array of an antidiagonal, cell (i, s - i) stands at i + 1,
        and at 0 what is outside.
        """
        count, longest, _ = self._steps.shape
        length = len(sequence)
        backwards = sequence[::-1]
        # (N,) how far apart the paired steps may be.
        reach = np.abs(self._lengths - length)
        if band is None:
            reach[:] = longest + length
        else:
            reach = np.maximum(reach, np.floor(band * np.maximum(self._lengths, length)).astype(int))
        widest = int(reach.max())

        found = np.full(count, np.inf)
        earlier, last = np.full((2, count, longest + 1), np.inf)
        earlier[:, 0] = 0  # so that the first cell, (0, 0), has somewhere to come from
        for s in range(longest + length - 1):
            # |i - j| = |2 i - s| is at most `widest`.
            low = max(0, s - length + 1, (s - widest + 1) // 2)
            high = min(longest, s + 1, (s + widest) // 2 + 1)
            here = np.full((count, longest + 1), np.inf)
            if low < high:
                behind = length - 1 - s
                apart = self._steps[:, low:high] - backwards[behind + low : behind + high]
                cost = np.einsum("ntc,ntc->nt", apart, apart)
                if band is not None:
                    strayed = np.abs(2 * np.arange(low, high) - s)
                    cost[strayed > reach[:, None]] = np.inf
                before = np.minimum(last[:, low:high], last[:, low + 1 : high + 1])
                np.minimum(before, earlier[:, low:high], out=before)
                np.add(before, cost, out=here[:, low + 1 : high + 1])
            end = s - length + 2  # the length of training sequences whose last cell is on this antidiagonal
            if end > 0:
                ending = self._ending[end]
                found[ending] = here[ending, end]
            earlier, last = last, here
        return found


def _checked(
    train: Sequence[Array], labels: Sequence[Any] | Array, test: Sequence[Array]
) -> tuple[list[Floats], list[Floats], Array]:
    """Both sets in float64, and the labels as an array."""
    if len(labels) != len(train):
        raise ValueError(f"train_labels: expected one for each of {len(train)} training sequences, given {len(labels)}")
    found: list[list[Floats]] = []
    channels: int | None = None
    for name, sequences in (("train_sequences", train), ("test_sequences", test)):
        if not len(sequences):
            raise ValueError(f"{name}: has no sequence; give one or more")
        found.append([np.asarray(sequence, dtype=np.float64) for sequence in sequences])
        for number, sequence in enumerate(found[-1]):
            if sequence.ndim != 2 or not sequence.size:
                raise ValueError(
                    f"{name}: sequence {number} has shape {sequence.shape}; expected (T, C), none of them 0"
                )
            channels = channels or sequence.shape[1]
            if sequence.shape[1] != channels:
                raise ValueError(
                    f"{name}: sequence {number} has shape {sequence.shape}; expected (T, {channels}), the channels of "
                    "those before it"
                )
            if not np.isfinite(sequence).all():
                step, channel = (int(at) for at in np.argwhere(~np.isfinite(sequence))[0])
                raise ValueError(
                    f"{name}: sequence {number} has {sequence[step, channel]} at step {step}, channel {channel}; "
                    "expected finite numbers"
                )
    return found[0], found[1], np.asarray(labels)


def _kept(lengths: NDArray[np.int64], labels: Array, steps: int) -> NDArray[np.int64]:
    """Numbers of the sequences to keep, in order: those of at most `steps` steps, and at least one of each class."""
    if lengths.sum() <= steps:
        return np.arange(len(lengths))
    shuffled = np.random.default_rng(0).permutation(len(lengths))
    # By place within its class over the size of the class, so that the first sequences of any number are mixed alike.
    turn = np.empty(len(lengths))
    classes = np.unique(labels)
    for label in classes:
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members)) / len(members)
    taken = shuffled[turn[shuffled].argsort(kind="stable")]
    fits = int((lengths[taken].cumsum() <= steps).sum())
    return np.sort(taken[: max(fits, len(classes))])
