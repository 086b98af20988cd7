"""Probes of networks in which what can be read, and what cannot, is planted."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import unrolled
from planted import STORE, Circuits, bits, latch, mirror, one_hot, shift_register
from unrolled.instruments import ProbeResult, probe
from unrolled.instruments.probe import control_labels
from unrolled.instruments.readout import Reservoir

Labels = NDArray[np.int64]


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def above_0(x: NDArray[Any]) -> Tensor:
    """Features (B, T, F) as inputs that `mirror` takes."""
    return torch.as_tensor(x - x.min()).float()


def clusters(labels: Labels, kinds: int = 3, width: int = 10) -> Tensor:
    """Inputs for `mirror` that tell labels apart linearly, in noise."""
    return above_0(4 * np.eye(kinds, width)[labels] + random(1).normal(size=(*labels.shape, width)))


def latched(batch: int = 60, length: int = 20, kinds: int = 8, seed: int = 0) -> tuple[Tensor, Labels]:
    """Symbols for `latch` of which the first two come seldom, and which of these came last; -1 before any."""
    symbols = random(seed).choice(kinds, size=(batch, length), p=[0.05, 0.05, *[0.9 / (kinds - 2)] * (kinds - 2)])
    last = np.full(batch, -1)
    labels = np.empty_like(symbols)
    for t in range(length):
        last = np.where(symbols[:, t] < 2, symbols[:, t], last)
        labels[:, t] = last
    return one_hot(torch.as_tensor(symbols), kinds), labels


# What is there is found


@pytest.mark.parametrize("kind", ["ridge", "linear", "logistic"])
def test_a_planted_linear_label_is_found(kind: Any) -> None:
    labels = random().integers(0, 3, (50, 20))
    found = probe(mirror(10), clusters(labels), labels, kind=kind)
    assert found.score("hidden").mean > 0.98
    assert found.chance == pytest.approx(1 / 3)
    assert found.data.attrs["metric"] == "balanced accuracy"
    assert found.data.attrs["steps"] == 20 * 20
    assert found.data.attrs["sequences"] == 20
    assert found.selectivity("hidden").low > 0


@pytest.mark.parametrize("kind", ["ridge", "linear"])
def test_a_planted_value_is_found(kind: Any) -> None:
    x = torch.rand(50, 20, 5)
    values = x.numpy() @ np.array([1.0, -2.0, 3.0, 0.0, 0.5]) + 4
    found = probe(mirror(5), x, values, kind=kind)
    assert found.score("hidden").mean > 0.999
    assert found.chance == 0
    assert found.data.attrs["metric"] == "R²"
    assert found.selectivity("hidden").low > 0.9
    noisy = values + random().normal(scale=values.std(), size=values.shape)
    assert probe(mirror(5), x, noisy, kind=kind).score("hidden").mean == pytest.approx(0.5, abs=0.06)


def test_a_label_that_the_state_keeps_and_the_input_does_not_show_is_selective() -> None:
    x, labels = latched()
    found = probe(latch(8), x, labels)
    assert found.data.attrs["control"] == "symbols"
    assert found.score("hidden").mean == 1
    for over in ("control", "untrained", "input"):
        assert found.gain("hidden", over).low > 0.1
    assert found.gain("input", "control").low <= 0


def test_a_label_is_selective_against_other_sequences_too() -> None:
    x, labels = latched()
    found = probe(latch(8), x, labels, control="sequences")
    assert found.selectivity("hidden").low > 0
    # Other sequences' labels cannot be known from any state.
    assert found.data["control"].sel(read="hidden").mean() == pytest.approx(0.5, abs=0.06)


def test_the_unit_that_holds_the_label_is_found_alone() -> None:
    x, labels = latched()
    alone = probe(latch(8), x, labels, units=True).data["unit_score"].sel(unit_of="hidden")
    assert alone.values.tolist() == [0.5, 1.0, 0.5, 0.5]


def test_units_of_each_state_are_scored_under_their_own_numbers() -> None:
    x, given = bits(60, 8)
    labels = np.repeat(given.numpy()[:, None], 8, axis=1)
    found = probe(Circuits(), x, labels, units=True, only=[3, STORE], control="sequences")
    assert found.data["unit_score"].sel(unit=STORE).values.tolist() == [1, 1]
    assert (found.data["unit_score"].sel(unit=3) < 0.8).all()
    assert found.data["unit_of"].values.tolist() == ["hidden", "cell"]


def test_only_the_chosen_units_are_read() -> None:
    x, labels = latched()
    assert probe(latch(8), x, labels, only=[1]).score("hidden").mean == 1
    assert probe(latch(8), x, labels, only=[0, 2, 3]).score("hidden").mean == 0.5


def test_only_the_named_states_and_gates_are_read() -> None:
    x, given = bits(40, 6)
    found = probe(Circuits(), x, given, names=["cell", "input_gate"])
    assert found.data["read"].values.tolist() == [
        "cell",
        "input_gate",
        "untrained cell",
        "untrained input_gate",
        "input",
    ]
    assert found.score("cell").mean == 1
    assert found.score("input_gate").mean == pytest.approx(0.5, abs=0.3)


def test_one_label_for_each_sequence_is_read_at_its_last_step() -> None:
    x, given = bits(50, 10)
    found = probe(Circuits(), x, given)
    assert found.data.attrs["steps"] == found.data.attrs["sequences"] == 20
    assert found.score("cell").mean == 1
    assert found.score("input").low < 0.6


def test_a_layer_inside_a_model_is_read_by_its_name() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = mirror(10), latch(10)

        def forward(self, x: Tensor) -> Tensor:
            self.second(one_hot(x[..., 0].long() * 0 + 5, 10))
            return self.first(x)[0]

    labels = random().integers(0, 3, (50, 20))
    with pytest.raises(ValueError, match="layer: the model has 2 recurrent layers; expected one of first.l0, second"):
        probe(Stack(), clusters(labels), labels)
    first, second = (probe(Stack(), clusters(labels), labels, layer=name) for name in ("first.l0", "second.l0"))
    assert first.score("hidden").mean > 0.99
    assert second.score("hidden").mean == pytest.approx(1 / 3)


def test_the_untrained_network_may_be_given() -> None:
    labels = random().integers(0, 3, (50, 20))
    found = probe(mirror(10), clusters(labels), labels, untrained=mirror(10))
    assert found.gain("hidden", "untrained").mean == 0
    assert found.score("untrained hidden").mean == found.score("hidden").mean


def test_of_several_untrained_networks_the_mean_is_compared_with_and_their_spread_makes_less_sure() -> None:
    labels = random().integers(0, 3, (50, 20))
    x, silent = clusters(labels), mirror(10)
    with torch.no_grad():
        silent.weight_ih_l0.zero_()
    alone = probe(mirror(10), x, labels, untrained=silent)
    several = probe(mirror(10), x, labels, untrained=[silent, mirror(10)])
    score = alone.score("hidden").mean
    assert several.score("untrained hidden").mean == pytest.approx((score + 1 / 3) / 2)
    assert several.gain("hidden", "untrained").mean == pytest.approx((score - 1 / 3) / 2)
    assert alone.gain("hidden", "untrained").low > 0.5
    assert several.gain("hidden", "untrained").low < 0


def test_a_probe_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    model = nn.LSTM(3, 4, batch_first=True, dropout=0.0).train()
    weights = [parameter.clone() for parameter in model.parameters()]
    x, state = torch.randn(20, 6, 3), torch.get_rng_state()
    probe(model, x, random().integers(0, 2, (20, 6)))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        assert torch.equal(parameter, weight)
        assert parameter.grad is None


def test_equal_seeds_give_equal_results() -> None:
    x, labels = latched()
    first, again, other = (probe(latch(8), x, labels, seed=seed).data for seed in (3, 3, 4))
    assert first.identical(again)
    assert not first.identical(other)


# What is not there is not found


def wrongly_selective(probed: Callable[[int], ProbeResult]) -> int:
    """In how many of 100 networks something is found selective: the count of whatever is found so most often.

    Selective is a selectivity whose interval is above 0; one that is not a number counts too.
    """
    counts: Counter[str] = Counter()
    for seed in range(100):
        torch.manual_seed(seed)
        found = probed(seed)
        counts.update(str(read) for read in found.data["read"].values if not found.selectivity(str(read)).low <= 0)
    return max(counts.values(), default=0)


@pytest.mark.parametrize("held", [False, True], ids=["a label a step", "a label a sequence"])
def test_labels_that_no_state_can_know_are_found_selective_in_fewer_than_6_of_100_networks(held: bool) -> None:
    def probed(seed: int) -> ProbeResult:
        labels = random(1000 + seed).integers(0, 2, (40, 1 if held else 12)).repeat(12 if held else 1, axis=1)
        return probe(nn.LSTM(3, 4, batch_first=True), torch.randn(40, 12, 3), labels, seed=seed)

    assert wrongly_selective(probed) <= 5


def test_values_that_no_state_can_know_are_found_selective_in_fewer_than_6_of_100_networks() -> None:
    def probed(seed: int) -> ProbeResult:
        labels = random(1000 + seed).normal(size=(40, 12))
        return probe(nn.RNN(3, 4, batch_first=True), torch.randn(40, 12, 3), labels, seed=seed)

    assert wrongly_selective(probed) <= 5


def test_one_more_deal_of_the_control_is_found_selective_in_fewer_than_6_of_100_networks() -> None:
    def probed(seed: int) -> ProbeResult:
        symbols = random(1000 + seed).integers(0, 8, (40, 12))
        dealt = random(2000 + seed).permutation([0, 1, *random(3000 + seed).integers(0, 2, 6)])
        found = probe(nn.LSTM(8, 4, batch_first=True), one_hot(torch.as_tensor(symbols), 8), dealt[symbols], seed=seed)
        assert found.data.attrs["control"] == "symbols"
        return found

    assert wrongly_selective(probed) <= 5


def test_an_untrained_network_is_found_better_than_untrained_networks_in_fewer_than_6_of_100() -> None:
    better = 0
    for seed in range(100):
        torch.manual_seed(seed)
        symbols = random(1000 + seed).integers(0, 4, (40, 12))
        labels = np.roll(symbols, 3, axis=1) % 2
        labels[:, :3] = -1
        # What came three steps ago: some networks that were drawn at random know it better than others.
        found = probe(nn.GRU(4, 4, batch_first=True), one_hot(torch.as_tensor(symbols), 4), labels, seed=seed)
        better += not found.gain("hidden", "untrained").low <= 0
    assert better <= 5


def test_noise_is_read_at_chance() -> None:
    scores = []
    for seed in range(20):
        labels = random(100 + seed).integers(0, 2, (50, 20))
        x = torch.rand(50, 20, 5, generator=torch.Generator().manual_seed(seed))
        scores.append(probe(mirror(5), x, labels, seed=seed).score("hidden").mean)
    # 400 steps are tested: a standard error of 0.025 each, 0.0056 for the mean.
    assert max(abs(score - 0.5) for score in scores) < 0.1
    assert np.mean(scores) == pytest.approx(0.5, abs=0.02)


def test_values_of_noise_have_an_r2_of_0_or_less() -> None:
    values = random().normal(size=(50, 20))
    found = probe(mirror(5), torch.rand(50, 20, 5), values)
    assert -0.1 < found.score("hidden").mean < 0.02


def test_a_probe_does_not_profit_from_knowing_the_sequence() -> None:
    # Every sequence has one label and names itself: by single steps the label would be known everywhere.
    x = torch.eye(40)[:, None].expand(-1, 10, -1)
    labels = np.repeat(random().integers(0, 2, (40, 1)), 10, axis=1)
    assert probe(mirror(40), x, labels).score("hidden").mean == 0.5


def test_rare_classes_count_as_much_as_common_ones() -> None:
    labels = (random().random((50, 20)) < 0.02).astype(np.int64)
    # Answering 0 is right at 98 % of the steps.
    assert probe(mirror(2), torch.rand(50, 20, 2), labels).score("hidden").mean < 0.8


@pytest.mark.parametrize("kind", ["ridge", "linear", "logistic"])
def test_a_rare_class_is_found_where_it_is_plain(kind: Any) -> None:
    labels = (random().random((50, 20)) < 0.03).astype(np.int64)
    x = above_0(labels[..., None] * 3.0 + random(1).normal(size=(50, 20, 2)))
    assert probe(mirror(2), x, labels, kind=kind).score("hidden").mean > 0.9


def test_a_label_that_follows_from_the_symbol_is_not_selective() -> None:
    symbols = random().integers(0, 10, (60, 20))
    found = probe(mirror(10), one_hot(torch.as_tensor(symbols), 10), symbols % 2)
    assert found.score("hidden").mean == 1
    assert (found.data["control"].sel(read="hidden") == 1).all()
    assert found.selectivity("hidden").mean == found.selectivity("hidden").low == 0
    assert found.gain("hidden", "input").mean == 0


def test_features_that_never_change_tell_nothing() -> None:
    labels = random().integers(0, 2, (50, 20))
    assert probe(mirror(3), torch.full((50, 20, 3), 7.0), labels).score("hidden").mean == 0.5


def test_steps_without_a_label_are_left_out() -> None:
    labels = random().integers(0, 2, (50, 20))
    features = np.where(labels == 1, 1.0, 0.0)[..., None].repeat(3, -1)
    features[:, ::2] = 1 - features[:, ::2]  # where there is no label the features say the opposite
    labels[:, ::2] = -1
    found = probe(mirror(3), torch.as_tensor(features).float(), labels)
    assert found.score("hidden").mean == 1
    assert found.data.attrs["steps"] == 20 * 10
    values = np.where(labels < 0, math.nan, labels)
    by_value = probe(mirror(3), torch.as_tensor(features).float(), values, kind="linear")
    assert by_value.score("hidden").mean == pytest.approx(1)
    assert by_value.data.attrs["steps"] == 20 * 10


# The control


def deals(symbols: Labels, labels: Labels, seed: int = 4) -> list[tuple[Labels, Labels]]:
    """Control labels of the first 20 sequences, fitted to, and of the rest."""
    parts = []
    for rows in (slice(20), slice(20, None)):
        part = Reservoir(10**6, random())
        there = labels[rows] >= 0
        part.add({"label": labels[rows][there], "dealt": symbols[rows][there]})
        parts.append(part)
    return control_labels(parts[0], parts[1], "symbols", 3, seed)


def test_control_labels_depend_on_the_symbol_only_and_have_every_class() -> None:
    symbols = random().integers(0, 12, (30, 20))
    labels = random(1).integers(0, 3, (30, 20))
    labels[:, :5] = -1
    seen = set()
    for fitted, tested in deals(symbols, labels):
        of_steps = np.concatenate([symbols[:20, 5:].ravel(), symbols[20:, 5:].ravel()])
        dealt = np.concatenate([fitted, tested])
        assert set(dealt) == {0, 1, 2}
        for symbol in range(12):
            assert len(set(dealt[of_steps == symbol])) == 1
        seen.add(tuple(dealt))
    assert len(seen) == 3


def test_control_labels_are_as_frequent_as_the_labels() -> None:
    symbols = np.tile(np.arange(400), (30, 1))
    labels = (random().random((30, 400)) < 0.2).astype(np.int64)
    shares = [fitted.mean() for fitted, _ in deals(symbols, labels)]
    assert np.mean(shares) == pytest.approx(0.2, abs=0.04)


def test_every_class_is_dealt_to_a_symbol_that_is_fitted_to() -> None:
    # Most symbols are only in the sequences that are tested on; class 1 is too rare to be dealt by chance.
    symbols = np.zeros((30, 20), dtype=np.int64)
    symbols[:20] = random().integers(0, 2, (20, 20))
    symbols[20:] = random().integers(0, 60, (10, 20))
    labels = np.zeros((30, 20), dtype=np.int64)
    labels[::10, 0] = 1
    for seed in range(20):
        for fitted, _ in deals(symbols, labels, seed):
            assert set(fitted) == {0, 1}


def test_a_control_that_has_one_class_to_be_fitted_to_is_at_chance() -> None:
    # Two of forty sequences have class 1; among the labels of other sequences often none that is fitted to.
    labels = np.zeros((40, 4), dtype=np.int64)
    labels[[3, 30]] = 1
    x = above_0(labels[..., None] + np.zeros(3))
    found = {seed: probe(mirror(3), x, labels, control="sequences", test_share=0.5, seed=seed)
             for seed in range(12) if _on_both_sides(labels, seed)}  # fmt: skip
    assert found
    controls = [result.data["control"].sel(read="hidden").values for result in found.values()]
    assert (np.stack(controls) == 0.5).any()
    assert np.isfinite(np.stack(controls)).all()


def _on_both_sides(labels: Labels, seed: int) -> bool:
    from unrolled.instruments.reading import Split

    testing, _ = Split(0.5, seed).next(len(labels))
    return bool(testing[3] != testing[30])


def test_a_probe_whose_deals_disagree_is_less_sure_of_its_selectivity() -> None:
    x, labels = latched()
    few, many = (probe(latch(8), x, labels, deals=n, control="sequences").selectivity("hidden") for n in (2, 20))
    assert many.high - many.low < few.high - few.low


# Streams


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    for seed in range(count):
        labels = random(seed).integers(0, 3, (20, 25))
        yield clusters(labels), torch.as_tensor(labels)


def test_a_stream_of_batches_with_their_labels_is_probed() -> None:
    found = probe(mirror(10), batches(5))
    assert found.score("hidden").mean > 0.99
    assert found.data.attrs["sequences"] == 40
    assert found.data.attrs["steps"] == 40 * 25


def test_no_more_steps_are_kept_than_was_asked_for() -> None:
    found = probe(mirror(10), batches(5), max_steps=300)
    assert found.data.attrs["steps"] == 300
    assert found.score("hidden").mean > 0.95


def test_memory_does_not_grow_with_the_stream() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        probe(mirror(10), batches(count), max_steps=150, deals=2)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)  # what is only loaded once
    short, long = peak(30), peak(300)  # the resamples of 112 and of nearly 150 tested sequences are the difference
    assert long < 1.5 * short


def test_batches_of_symbols_need_not_hold_the_same_ones() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = shift_register(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(one_hot(x, 6))[0]

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for kinds in (3, 6, 4):
            symbols = torch.as_tensor(random(kinds).integers(0, kinds, (30, 12)))
            yield symbols, symbols % 2

    found = probe(Embedded(), stream())
    assert found.data.attrs["control"] == "symbols"
    assert found.score("hidden").mean == found.score("input").mean == 1


def test_values_without_a_feature_dimension_are_read_as_they_are() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = mirror(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x.unsqueeze(-1))[0]

    x = torch.rand(40, 10)
    found = probe(Wide(), x, x.numpy())
    assert found.score("input").mean > 0.999
    assert found.gain("hidden", "input").mean == pytest.approx(0, abs=1e-6)


# What is said of it


def test_the_summary_says_the_figures_of_each_state() -> None:
    x, given = bits(50, 10)
    said = probe(Circuits(), x, given).summary()
    assert said.startswith("Balanced accuracy (chance 0.5) on other sequences: hidden 1")
    for part in ("cell 1", "both 1", "selectivity"):
        assert part in said
    assert "untrained" not in said


# Errors


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels: shape \(10, 4\) does not fit inputs \(10, 5, 2\)"):
        probe(mirror(2), torch.rand(10, 5, 2), np.zeros((10, 4), dtype=np.int64))


def test_a_probe_without_labels_asks_for_them() -> None:
    with pytest.raises(ValueError, match="labels: none were given"):
        probe(mirror(2), torch.rand(10, 5, 2))


def test_states_that_are_not_numbers_are_refused_by_name() -> None:
    x = torch.rand(10, 5, 2)
    x[3, 2, 1] = math.inf
    with pytest.raises(ValueError, match="hidden: holds NaN or infinity"):
        probe(mirror(2), x, np.zeros((10, 5), dtype=np.int64))


def test_a_single_sequence_is_refused() -> None:
    x = one_hot(torch.zeros(1, 5, dtype=torch.long), 2)
    with pytest.raises(ValueError, match="inputs: 1 sequence is too few"):
        probe(mirror(2), x, np.zeros((1, 5), dtype=np.int64))


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match="labels: fewer than two classes"):
        probe(mirror(2), torch.rand(10, 5, 2), np.zeros((10, 5), dtype=np.int64))


def test_labels_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match="labels: no step of the sequences"):
        probe(mirror(2), torch.rand(10, 5, 2), np.full((10, 5), -1))


def test_one_deal_has_no_spread_and_is_refused() -> None:
    with pytest.raises(ValueError, match="deals: given 1, expected 2 or more"):
        probe(mirror(2), torch.rand(10, 5, 2), np.zeros((10, 5), dtype=np.int64), deals=1)


def test_more_deals_than_other_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="deals: 5 needs batches of more sequences than that, given 5"):
        probe(mirror(2), torch.rand(5, 5, 2), np.zeros((5, 5), dtype=np.int64))


def test_a_control_by_symbols_needs_symbols() -> None:
    with pytest.raises(ValueError, match="control: 'symbols' needs an input of symbols"):
        probe(mirror(2), torch.rand(10, 5, 2), np.zeros((10, 5), dtype=np.int64), control="symbols")


def test_a_logistic_probe_of_values_is_refused() -> None:
    with pytest.raises(ValueError, match="kind: 'logistic' tells classes apart"):
        probe(mirror(2), torch.rand(10, 5, 2), np.zeros((10, 5)), kind="logistic")


def test_an_unknown_layer_and_an_unknown_state_are_refused_with_those_there_are() -> None:
    labels = np.zeros((10, 5), dtype=np.int64)
    with pytest.raises(ValueError, match="layer: 'l7' is not in the model; expected one of l0"):
        probe(unrolled.LSTM(2, 3, batch_first=True), torch.rand(10, 5, 2), labels, layer="l7")
    with pytest.raises(ValueError, match="names: 'reset_gate' is not of this layer"):
        probe(unrolled.LSTM(2, 3, batch_first=True), torch.rand(10, 5, 2), labels, names=["reset_gate"])


def test_inputs_that_are_not_batch_first_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inputs: \(20, 30, 3\) is not batch first, .* took 30 sequences of 20"):
        probe(torch.nn.LSTM(3, 4), torch.randn(20, 30, 3), torch.randint(2, (20, 30)))
