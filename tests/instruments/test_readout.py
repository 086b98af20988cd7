"""Readouts, what they are fitted to, and how sequences are divided, on figures worked out by hand."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from planted import Circuits, Relay, bits
from unrolled.instruments.opened import open_layer
from unrolled.instruments.reading import (
    Split,
    as_labels,
    input_read,
    spread_symbols,
    states_read,
    symbols_of,
    untrained_copy,
)
from unrolled.instruments.readout import Reservoir, Score, fit, score

Kind = Literal["linear", "ridge", "logistic"]


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Readouts


@pytest.mark.parametrize("kind", ["linear", "ridge", "logistic"])
@pytest.mark.parametrize("classes", [2, 3])
def test_every_kind_of_readout_tells_separate_classes_apart(kind: Kind, classes: int) -> None:
    labels = random().integers(0, classes, 300)
    features = 6 * np.eye(classes, 5)[labels] + random(1).normal(size=(300, 5))
    assert (fit(features, labels, kind).answers(features) == labels).mean() > 0.98


@pytest.mark.parametrize("kind", ["linear", "ridge"])
def test_a_readout_of_values_finds_a_linear_function(kind: Kind) -> None:
    features = random().normal(3, 2, size=(500, 4))
    values = features @ np.array([1.0, -2.0, 0.5, 0.0]) + 7
    readout = fit(features, values, kind, penalty=1e-6)
    np.testing.assert_allclose(readout.answers(features), values, atol=1e-4)


def test_the_penalty_draws_answers_to_the_mean() -> None:
    features, values = random().normal(size=(100, 1)), random().normal(size=100)
    answers = fit(features, values, penalty=1e9).answers(features)
    np.testing.assert_allclose(answers, values.mean(), atol=1e-5)


def test_the_penalty_of_a_logistic_readout_shrinks_its_weights() -> None:
    labels = random().integers(0, 2, 200)
    features = labels[:, None] + random(1).normal(size=(200, 3))
    loose, tight = (np.abs(fit(features, labels, "logistic", penalty=p).weights).max() for p in (1e-2, 1e2))
    assert tight < loose / 5


def test_a_logistic_readout_refuses_values() -> None:
    with pytest.raises(ValueError, match="kind: 'logistic' tells classes apart, and the labels are values"):
        fit(np.zeros((4, 1)), np.arange(4.0), "logistic")


def test_a_readout_of_one_class_always_answers_it() -> None:
    readout = fit(random().normal(size=(20, 3)), np.full(20, 4))
    assert (readout.answers(random(1).normal(size=(5, 3))) == 4).all()


@pytest.mark.parametrize("kind", ["linear", "ridge", "logistic"])
def test_a_feature_that_never_changed_is_left_out_whatever_it_is_later(kind: Kind) -> None:
    labels = random().integers(0, 2, 100)
    features = np.stack([labels.astype(np.float64), np.full(100, 0.3)], axis=1)
    readout = fit(features, labels, kind)
    features[:, 1] = 1e6
    assert (readout.answers(features) == labels).all()


def test_the_size_and_place_of_a_feature_make_no_difference() -> None:
    labels = random().integers(0, 2, 400)
    features = np.stack([labels + random(i).normal(size=400) for i in range(3)], axis=1)
    plain, moved = features, features * np.array([1e-5, 1.0, 1e5]) + np.array([0, 5, -1e5])
    np.testing.assert_allclose(fit(plain, labels).scores(plain), fit(moved, labels).scores(moved), atol=1e-6)


# Scores


def two_sequences() -> Score:
    """Of class 0 sequence 7 has 3 steps, all found; of class 1 it has 1, missed, and sequence 9 has 4, two found."""
    answers = np.array([0, 0, 0, 0, 1, 1, 0, 0])
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    features = np.eye(2)[answers]
    readout = fit(np.eye(2)[labels], labels)
    assert (readout.answers(features) == answers).all()
    return score(readout, features, labels, np.array([7, 7, 7, 7, 9, 9, 9, 9]))


def test_balanced_accuracy_is_the_mean_share_found_of_each_class() -> None:
    found = two_sequences()
    assert found.metric == "balanced accuracy"
    assert found.value == pytest.approx((3 / 3 + 2 / 5) / 2)
    assert (found.chance, found.steps) == (0.5, 8)


def test_resamples_are_of_sequences() -> None:
    # Twice the first: 3/3 and 0/1. Twice the second: 2/4 of the only class there is. One of each: 0.7.
    drawn = two_sequences().resampled(seed=0)
    shares = {value: float(np.isclose(drawn, value).mean()) for value in (0.5, 0.7)}
    assert sum(shares.values()) == 1
    assert shares[0.7] == pytest.approx(0.5, abs=0.05)


def test_the_interval_of_a_score_covers_the_truth_19_times_of_20() -> None:
    covered = []
    for seed in range(200):
        # 60 sequences of 10 steps that are all found or all missed: 60 independent figures, not 600.
        right = np.repeat(random(seed).random(60) < 0.7, 10)
        labels = np.tile([0, 1], 300)
        tally = score(fit(np.eye(2), np.arange(2)), np.eye(2)[np.where(right, labels, 1 - labels)], labels,
                      np.repeat(np.arange(60), 10))  # fmt: skip
        interval = tally.interval(seed)
        covered.append(interval.low <= 0.7 <= interval.high)
    assert 0.90 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_r2_is_the_share_of_the_spread_that_is_explained(offset: float, dtype: Any) -> None:
    if dtype == np.float32 and offset:
        offset = 1e3
    values = random().normal(size=400)
    noise = random(1).normal(scale=0.5, size=400)
    readout = fit(values[:, None] + offset, values + offset, "linear")
    labels = (values + noise + offset).astype(dtype)
    found = score(readout, values[:, None] + offset, labels, np.arange(400))
    expected = 1 - (noise**2).sum() / ((values + noise) ** 2).sum()
    assert found.metric == "R²"
    assert found.chance == 0
    assert found.value == pytest.approx(expected, abs=2e-3)


def test_answering_the_mean_has_an_r2_of_0_and_answering_worse_is_below() -> None:
    values = random().normal(size=300)
    mean = fit(np.zeros((300, 1)), values)
    assert score(mean, np.zeros((300, 1)), values, np.arange(300)).value == pytest.approx(0, abs=1e-12)
    assert score(mean, np.zeros((300, 1)), values + 2, np.arange(300)).value < -2


# The reservoir


def test_a_reservoir_keeps_no_more_than_its_size_of_a_stream() -> None:
    reservoir = Reservoir(50, random())
    for i in range(100):
        reservoir.add({"a": np.full(33, i), "b": np.zeros((33, 4))})
        assert len(reservoir) == min(50, 33 * (i + 1))
        assert reservoir["a"].shape == (len(reservoir),)
        assert reservoir["b"].shape == (len(reservoir), 4)
        assert reservoir["b"].base is None  # no view that keeps a whole batch alive


def test_a_reservoir_keeps_columns_together() -> None:
    reservoir = Reservoir(20, random())
    for i in range(30):
        numbers = np.arange(7) + 7 * i
        reservoir.add({"a": numbers, "b": -numbers[:, None]})
    assert (reservoir["a"] == -reservoir["b"][:, 0]).all()
    assert len(set(reservoir["a"])) == 20


def test_a_reservoir_draws_evenly_from_a_stream_of_uneven_batches() -> None:
    sizes, rounds, size = [1, 40, 9, 0, 100, 50], 600, 20
    counts = np.zeros(sum(sizes))
    for seed in range(rounds):
        reservoir, first = Reservoir(size, random(seed)), 0
        for batch in sizes:
            reservoir.add({"a": np.arange(first, first + batch)})
            first += batch
        counts[reservoir["a"]] += 1
    expected = rounds * size / sum(sizes)
    spread = math.sqrt(expected * (1 - size / sum(sizes)))
    chi2 = float((((counts - expected) / spread) ** 2).sum())
    # The sum over 200 places of squared deviations has a mean of 200 and a standard deviation of 20.
    assert 140 < chi2 < 260
    early, late = counts[:50].mean(), counts[-50:].mean()
    assert early == pytest.approx(late, rel=0.05)


# Dividing sequences


@pytest.mark.parametrize("batches", [[100], [1] * 100, [1, 1, 98], [37, 63]])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_a_stream_is_divided_in_its_share_however_it_is_batched(batches: list[int], share: float) -> None:
    split = Split(share, seed=3)
    parts = [split.next(batch) for batch in batches]
    testing = np.concatenate([part[0] for part in parts])
    assert testing.sum() == round(100 * share)
    assert (np.concatenate([part[1] for part in parts]) == np.arange(100)).all()


@pytest.mark.parametrize("batches", [[2], [1, 1]])
@pytest.mark.parametrize("share", [0.01, 0.99])
def test_of_two_sequences_one_is_fitted_to_and_one_tested_on(batches: list[int], share: float) -> None:
    split = Split(share, seed=0)
    assert sum(int(split.next(batch)[0].sum()) for batch in batches) == 1
    split.check()


def test_the_division_is_drawn_from_the_seed() -> None:
    first, again, other = (Split(0.4, seed).next(50)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_one_sequence_cannot_be_divided() -> None:
    split = Split(0.4, seed=0)
    split.next(1)
    with pytest.raises(ValueError, match="inputs: 1 sequence is too few"):
        split.check()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2])
def test_the_share_has_to_leave_something_on_both_sides(share: float) -> None:
    with pytest.raises(ValueError, match="test_share: given .* expected a number between 0 and 1"):
        Split(share, seed=0)


# What is read


def test_states_are_read_as_they_were_and_two_of_them_together() -> None:
    model = Circuits()
    x, given = bits(6, 5)
    reads = states_read(model, open_layer(model, None), x)
    assert {name: values.shape for name, values in reads.items()} == {
        "hidden": (6, 5, 4),
        "cell": (6, 5, 4),
        "both": (6, 5, 8),
    }
    assert (np.sign(reads["cell"][:, :, 0]) == np.where(given, 1, -1)[:, None]).all()
    assert (reads["both"] == np.concatenate([reads["hidden"], reads["cell"]], axis=-1)).all()


def test_gates_are_read_where_they_are_named() -> None:
    model = Relay()
    x, _ = bits(4, 6, query=True)
    reads = states_read(model, open_layer(model, "encoder.l0"), x, ["output_gate"])
    assert list(reads) == ["output_gate"]
    assert (reads["output_gate"][:, -1, 1] == 1).all()
    assert (reads["output_gate"][:, :-1] == 0).all()


def test_a_name_that_the_layer_has_not_is_refused_with_those_it_has() -> None:
    with pytest.raises(ValueError, match="names: 'cell' is not of this layer; expected some of .*hidden"):
        states_read(nn.GRU(2, 3), open_layer(nn.GRU(2, 3), None), torch.zeros(1, 2, 2), ["cell"])


def test_symbols_are_whole_numbers_or_one_hot() -> None:
    numbers = torch.tensor([[2, 0, 1]])
    hot = nn.functional.one_hot(numbers, 3).float()
    for inputs in (numbers, numbers.to(torch.uint8), hot):
        found = symbols_of(inputs)
        assert found is not None
        assert found.tolist() == [[2, 0, 1]]
    for inputs in (hot * 0.5, hot * 0, torch.ones(1, 3, 1), torch.rand(1, 3)):
        assert symbols_of(inputs) is None


def test_the_input_is_read_as_it_is_with_its_features_in_a_row() -> None:
    x = torch.rand(2, 3, 4, 5)
    assert input_read(x).shape == (2, 3, 20)
    assert (input_read(x[..., 0, 0])[..., 0] == x[..., 0, 0].numpy()).all()


def test_symbols_become_one_feature_for_each_that_occurs_in_any_part() -> None:
    parts = Reservoir(10, random()), Reservoir(10, random())
    parts[0].add({"input": input_read(torch.tensor([[7, 3, 3]]))[0]})
    parts[1].add({"input": input_read(torch.tensor([[900, 3]]))[0]})
    spread_symbols(parts)
    assert parts[0]["input"].tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert parts[1]["input"].tolist() == [[0, 0, 1], [1, 0, 0]]


# Labels


def test_one_label_for_a_sequence_belongs_to_its_last_step() -> None:
    x = torch.zeros(2, 3, 1)
    assert as_labels(torch.tensor([4, 5]), x).tolist() == [[-1, -1, 4], [-1, -1, 5]]
    assert np.isnan(as_labels(np.array([0.5, 1.5]), x)[:, :2]).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32])
def test_labels_of_every_whole_type_are_classes(dtype: torch.dtype) -> None:
    for shape in ((2,), (2, 3)):
        found: NDArray[Any] = as_labels(torch.ones(shape, dtype=dtype), torch.zeros(2, 3, 1))
        assert found.dtype == np.int64
        assert (found[:, -1] == 1).all()


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1), ()])
def test_labels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"labels: shape .* does not fit inputs \(2, 3, 1\); expected \(B, T\) or"):
        as_labels(np.zeros(shape, dtype=np.int64), torch.zeros(2, 3, 1))


def test_labels_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="labels: expected whole numbers or floating point, given <U1"):
        as_labels(np.array([["a", "b"]]), torch.zeros(1, 2, 1))


# The untrained network


def test_an_untrained_copy_is_drawn_anew_and_leaves_the_model_and_the_draws_alone() -> None:
    torch.manual_seed(5)  # the draws of seed 0 would be those of the model itself
    model = nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 4))
    before = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    first, again, other = (untrained_copy(model, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for own, was, one, two, three in zip(
        model.parameters(), before, first.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(own, was)
        assert torch.equal(one, two)
        assert not torch.equal(one, own)
        assert not torch.equal(one, three)


def test_a_module_that_cannot_be_drawn_anew_asks_for_the_untrained_network() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError, match="untrained: 0 has parameters and no reset_parameters .*give untrained="):
        untrained_copy(nn.Sequential(Scaled(), nn.LSTM(3, 4)), 0)
