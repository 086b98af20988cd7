from __future__ import annotations

import math

import pytest
import torch

from unrolled.tasks import Copy


def test_layout_is_that_of_arjovsky_et_al() -> None:
    # Their T is the lag: 10 symbols, T - 1 blanks, the delimiter, 10 blanks; T + 10 blanks, then the symbols.
    task = Copy(lag=5)
    batch = task.batch(40, seed=0)
    assert batch.symbols is not None
    assert batch.symbols.shape == (40, 25)
    assert batch.symbols[:, :10].lt(8).all()
    assert batch.symbols[:, 10:14].eq(8).all()
    assert batch.symbols[:, 14].eq(9).all()
    assert batch.symbols[:, 15:].eq(8).all()
    assert batch.targets[:, :15].eq(8).all()
    assert torch.equal(batch.targets[:, 15:], batch.symbols[:, :10])
    assert batch.scored.all()
    assert torch.equal(batch.inputs.argmax(dim=-1), batch.symbols)
    assert (task.input_size, task.output_size) == (10, 9)


def test_smallest_setting_has_the_delimiter_right_after_the_symbol() -> None:
    batch = Copy(lag=1, items=1, symbols=2).batch(1, seed=0)
    assert batch.symbols is not None
    symbol = int(batch.symbols[0, 0])
    assert batch.symbols.tolist() == [[symbol, 3, 2]]
    assert batch.targets.tolist() == [[2, 2, symbol]]


def test_item_label_holds_the_first_symbol_until_it_is_answered() -> None:
    batch = Copy(lag=4, items=3).batch(40, seed=0)
    item = batch.labels["item"]
    assert item[:, :8].eq(batch.targets[:, 7:8]).all()
    assert item[:, 8:].eq(-1).all()


def test_marks_pair_each_symbol_with_its_answer_lag_plus_items_later() -> None:
    batch = Copy(lag=4, items=3).batch(2, seed=0)
    assert batch.marks["store"][0].nonzero().flatten().tolist() == [0, 1, 2]
    assert batch.marks["load"][0].nonzero().flatten().tolist() == [7, 8, 9]


def test_symbols_are_uniform() -> None:
    symbols = Copy().batch(4000, seed=0).targets[:, -10:]
    shares = torch.bincount(symbols.flatten(), minlength=8) / symbols.numel()
    torch.testing.assert_close(shares, torch.full((8,), 1 / 8), rtol=0, atol=0.01)


def test_memoryless_answer_scores_the_baseline() -> None:
    task = Copy(lag=30, items=4, symbols=5)
    batch = task.batch(8, seed=0, split="test")
    # Sure of the blank while blanks are due, then uniform over the symbols: what a clock without memory can do.
    log_probability = torch.full((*batch.targets.shape, 6), -math.inf)
    log_probability[:, :34, 5] = 0
    log_probability[:, 34:, :5] = -math.log(5)
    nats = -log_probability.gather(-1, batch.targets[..., None]).mean().item()
    assert task.baseline().value == pytest.approx(nats / math.log(2))
    assert task.baseline().value == pytest.approx(4 * math.log2(5) / 38)


def test_baseline_of_mixed_lags_is_the_mean_over_lags() -> None:
    each = [Copy(lag=lag).baseline().value for lag in (3, 4, 5)]
    assert Copy(lag=(3, 5)).baseline().value == pytest.approx(sum(each) / 3)


def test_baseline_of_the_paper_in_nats() -> None:
    # Section 5.1: 10 log(8) / (T + 20).
    assert Copy(lag=100).baseline().value * math.log(2) == pytest.approx(10 * math.log(8) / 120)


def test_at_lag_and_lags() -> None:
    assert Copy(lag=(5, 20)).at_lag(7) == Copy(lag=7)
    assert Copy().at_lag(7).batch(1, seed=0).inputs.shape == (1, 27, 10)
    assert Copy(lag=(5, 20)).lags == (5, 10, 20, 40, 80)


@pytest.mark.parametrize(
    ("settings", "name"), [({"lag": 0}, "lag"), ({"items": 0}, "items"), ({"symbols": 1}, "symbols")]
)
def test_bad_setting_is_refused_by_name(settings: dict[str, int], name: str) -> None:
    with pytest.raises(ValueError, match=f"^task copy: {name} is "):
        Copy(**settings)
