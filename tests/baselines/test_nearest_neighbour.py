"""Warped distances are those of a plain triple loop, and the archive's accuracy on vowels is met."""

from __future__ import annotations

import itertools
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unrolled.baselines import neighbour
from unrolled.baselines.neighbour import euclidean, nearest_neighbour

Array = NDArray[Any]


def by_loops(one: Array, other: Array, band: float | None) -> float:
    n, m = len(one), len(other)
    reach = n + m if band is None else max(abs(n - m), math.floor(band * max(n, m)))
    table = {(-1, -1): 0.0}
    for i in range(n):
        for j in range(m):
            if abs(i - j) <= reach:
                cost = 0.0
                for channel in range(one.shape[1]):
                    cost += (one[i, channel] - other[j, channel]) ** 2
                table[i, j] = cost + min(table.get(at, math.inf) for at in ((i - 1, j), (i, j - 1), (i - 1, j - 1)))
    return table[n - 1, m - 1]


def drawn(lengths: list[int], channels: int, *, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, channels)).cumsum(0) for length in lengths]


@pytest.mark.parametrize("band", [None, 0.0, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_nearest_is_the_one_that_plain_loops_find(band: float | None, channels: int) -> None:
    train = drawn([1, 2, 3, 5, 8, 8, 13, 20, 20, 7], channels, seed=0)
    test = drawn([1, 2, 4, 8, 13, 20, 31], channels, seed=1)
    distances = np.array([[by_loops(one, other, band) for other in train] for one in test])
    found = nearest_neighbour(train, range(10), test, band=band)
    assert found.predictions.tolist() == distances.argmin(1).tolist()
    np.testing.assert_allclose(found.distances, distances.min(1), rtol=1e-12)
    assert found.remark == ""


@pytest.mark.parametrize("band", [None, 0.0, 0.2, 0.4])
def test_every_pair_of_lengths_has_the_distance_of_plain_loops(band: float | None) -> None:
    for n, m in itertools.product(range(1, 8), repeat=2):
        [one], [other] = drawn([n], 2, seed=n), drawn([m], 2, seed=100 + m)
        found = nearest_neighbour([one], ["a"], [other], band=band).distances[0]
        assert found == pytest.approx(by_loops(one, other, band), rel=1e-12), (n, m)


def test_small_tables_side_by_side_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = drawn([5, 9, 3, 12, 7, 7, 2], 2, seed=0), drawn([6, 10, 3], 2, seed=1)
    whole = nearest_neighbour(train, range(7), test)
    monkeypatch.setattr(neighbour, "_TOGETHER", 50)
    parts = nearest_neighbour(train, range(7), test)
    assert parts.predictions.tolist() == whole.predictions.tolist()
    np.testing.assert_array_equal(parts.distances, whole.distances)


def test_slower_copy_is_at_distance_zero() -> None:
    [wave] = drawn([20], 2, seed=0)
    found = nearest_neighbour([np.zeros((20, 2)), wave], ["flat", "wave"], [wave.repeat(3, axis=0)])
    assert found.predictions.tolist() == ["wave"]
    assert found.distances.tolist() == [0]


def test_one_path_serves_all_channels() -> None:
    # Each channel alone could be warped to a distance of 0, but not by one path.
    one = np.array([[1, 0], [0, 1], [0, 0.0]])
    other = np.array([[0, 1], [1, 0], [0, 0.0]])
    assert by_loops(one[:, :1], other[:, :1], None) + by_loops(one[:, 1:], other[:, 1:], None) < 4
    found = nearest_neighbour([one], [0], [other]).distances[0]
    assert found == by_loops(one, other, None)
    assert found > by_loops(one[:, :1], other[:, :1], None) + by_loops(one[:, 1:], other[:, 1:], None)


def test_band_of_zero_is_euclidean_on_one_length() -> None:
    train, test = drawn([9] * 12, 3, seed=0), drawn([9] * 7, 3, seed=1)
    warped, plain = nearest_neighbour(train, range(12), test, band=0), euclidean(train, range(12), test)
    assert warped.predictions.tolist() == plain.predictions.tolist()
    np.testing.assert_allclose(warped.distances, plain.distances, rtol=1e-12)
    by_hand = [[((one - other) ** 2).sum() for other in train] for one in test]
    assert plain.predictions.tolist() == np.argmin(by_hand, axis=1).tolist()
    np.testing.assert_allclose(plain.distances, np.min(by_hand, axis=1), rtol=1e-12)


@pytest.mark.parametrize("find", [nearest_neighbour, euclidean])
def test_of_equally_near_ones_the_first_decides(find: Any) -> None:
    same = np.ones((4, 1))
    assert find([same, same, same], ["b", "a", "c"], [same]).predictions.tolist() == ["b"]


def test_above_most_each_class_keeps_its_share_and_the_remark_tells() -> None:
    # Of 50 sequences 40, 8 and 2 are of each class; the work of 25 is allowed.
    labels = np.repeat(["x", "y", "z"], [40, 8, 2])
    train = [np.full((4, 1), float(number)) for number in range(50)]
    found = nearest_neighbour(train, labels, train, most=25 * 4 * 50 * 4)
    assert found.remark.startswith("25 of 50 training sequences")
    # Those that were kept are those that find themselves.
    kept = found.distances == 0
    assert kept.sum() == 25
    assert [int(kept[labels == label].sum()) for label in "xyz"] == [20, 4, 1]
    again = nearest_neighbour(train, labels, train, most=25 * 4 * 50 * 4)
    assert again.predictions.tolist() == found.predictions.tolist()


def test_one_of_each_class_is_kept_whatever_most_is() -> None:
    train = [np.full((4, 1), float(number)) for number in range(9)]
    found = nearest_neighbour(train, [0, 0, 0, 1, 1, 1, 2, 2, 2], train, most=1)
    assert found.remark.startswith("3 of 9 training sequences")
    assert set(found.predictions.tolist()) == {0, 1, 2}


def test_most_that_fits_leaves_nothing_out() -> None:
    train = [np.full((4, 1), float(number)) for number in range(9)]
    labels = ["a", "b", "b"] * 3
    assert nearest_neighbour(train, labels, train, most=36 * 36).remark == ""
    assert nearest_neighbour(train, labels, train, most=36 * 36 - 1).remark.startswith("8 of 9")


def vowels(part: str) -> tuple[list[Array], list[str]]:
    """Read here and not by the package's reader, which is tested elsewhere."""
    spec = find_spec("aeon")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("aeon, in whose files the vowels are, is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "JapaneseVowels"
    sequences, labels = [], []
    for line in (folder / f"JapaneseVowels_{part}.ts").read_text().partition("@data\n")[2].splitlines():
        *channels, label = line.split(":")
        sequences.append(np.array([[float(value) for value in channel.split(",")] for channel in channels]).T)
        labels.append(label)
    return sequences, labels


def test_vowels_reach_the_published_accuracy() -> None:
    train, train_labels = vowels("TRAIN")
    test, test_labels = vowels("TEST")
    assert (len(train), len(test), train[0].shape[1]) == (270, 370, 12)
    found = nearest_neighbour(train, train_labels, test)
    # Bagnall et al. (2018), The UEA multivariate time series classification archive: DTW_D without a band, 0.949.
    assert round((found.predictions == np.array(test_labels)).mean(), 3) == 0.949


GOOD = [np.zeros((3, 2)), np.ones((4, 2))]


@pytest.mark.parametrize(
    ("train", "labels", "test", "options", "message"),
    [
        ([], [], GOOD, {}, "train_sequences: has no sequence"),
        (GOOD, [0, 1], [], {}, "test_sequences: has no sequence"),
        (GOOD, [0], GOOD, {}, "train_labels: expected one for each of 2 training sequences, given 1"),
        (GOOD, [0, 1], [np.zeros((3, 1))], {}, r"test_sequences: sequence 0 has shape \(3, 1\); expected \(T, 2\)"),
        ([GOOD[0], np.zeros(3)], [0, 1], GOOD, {}, r"train_sequences: sequence 1 has shape \(3,\)"),
        ([np.zeros((0, 2))], [0], GOOD, {}, r"train_sequences: sequence 0 has shape \(0, 2\)"),
        (GOOD, [0, 1], [np.array([[0, 0], [0, np.nan]])], {}, "sequence 0 has nan at step 1, channel 1"),
        (GOOD, [0, 1], GOOD, {"band": 1.5}, "band: must be from 0 to 1, or None, given 1.5"),
        (GOOD, [0, 1], GOOD, {"band": -0.1}, "band: must be"),
        (GOOD, [0, 1], GOOD, {"most": 0}, "most: must be at least 1, given 0"),
    ],
)
def test_wrong_arguments_are_named(train: Any, labels: Any, test: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_neighbour(train, labels, test, **options)


def test_unequal_lengths_have_no_euclidean_distance() -> None:
    with pytest.raises(
        ValueError, match="train_sequences: sequence 1 has 4 steps, the first of training 3; .* takes any"
    ):
        euclidean(GOOD, [0, 1], GOOD)
