"""What the bench computes in: numbers rounded once, switches set alike for everyone, tolerances with a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from unrolled.bench import CELLS, DTYPES, Row, Wrong
from unrolled.bench.contestants import CONTESTANTS
from unrolled.bench.dtypes import products
from unrolled.bench.numbers import Numbers, draw
from unrolled.bench.rows import INFERENCE, TRAINING
from unrolled.bench.truth import Truth, judge

ROW = Row(4, 50, 6, 16)
MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


def switches() -> tuple[Any, ...]:
    return MATMUL.fp32_precision, CUDNN.rnn.fp32_precision, CUDNN.conv.fp32_precision


# Numbers


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_those_of_float32_rounded_to_the_dtype(dtype: str) -> None:
    drawn, rounded, stored = draw("lstm", ROW), draw("lstm", ROW, dtype), DTYPES[dtype].stored
    assert rounded.dtype == dtype
    assert torch.equal(rounded.x, drawn.x.to(stored))
    assert torch.equal(rounded.target, drawn.target.to(stored))
    for name, weight in drawn.weights.items():
        assert torch.equal(rounded.weights[name], weight.to(stored))
    layer = rounded.layer(nn.LSTM)
    assert {parameter.dtype for parameter in layer.parameters()} == {stored}


def test_truth_is_that_of_the_rounded_numbers() -> None:
    numbers = draw("gru", ROW, "bfloat16")
    layer = nn.GRU(6, 16, dtype=torch.float64)
    layer.load_state_dict(numbers.weights)
    right = layer(numbers.x.double())[0]
    assert torch.equal(Truth(numbers).expected(INFERENCE, opened=False)["output"], right)


@pytest.mark.parametrize("phase", [INFERENCE, TRAINING])
def test_truth_is_not_computed_by_cudnn(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, right = [], nn.GRU.forward

    def forward(self: Any, *arguments: Any) -> Any:
        seen.append(torch.backends.cudnn.enabled)
        return right(self, *arguments)

    monkeypatch.setattr(nn.GRU, "forward", forward)
    Truth(draw("gru", ROW)).expected(phase, opened=False)
    assert seen == [False]
    assert torch.backends.cudnn.enabled


def test_truth_asks_of_a_loop_the_states_and_not_the_gates() -> None:
    truth = Truth(draw("lstm", Row(2, 3, 4, 5, bidirectional=True)))
    asked = truth.expected(INFERENCE, opened=False, stepped=True)
    assert set(asked) == {"output", "l0.hidden", "l0.cell", "l0_reverse.hidden", "l0_reverse.cell"}


# Tolerances


def test_tolerances_are_sixteen_units_of_what_is_rounded() -> None:
    assert DTYPES["float32"].tolerance == 5e-5
    assert DTYPES["bfloat16"].tolerance == 16 * torch.finfo(torch.bfloat16).eps / 2
    assert DTYPES["float16"].tolerance == 16 * torch.finfo(torch.float16).eps / 2
    # tf32 has the significant bits of float16.
    assert DTYPES["tf32"].tolerance == DTYPES["float16"].tolerance


def test_rounded_sum_may_be_off_by_twice_the_root_of_its_terms() -> None:
    unit = torch.finfo(torch.bfloat16).eps / 2
    assert DTYPES["bfloat16"].tolerance_of_rounded_sums(1024) == 64 * unit
    assert DTYPES["bfloat16"].tolerance_of_rounded_sums(4) == 16 * unit
    # Sums of float32 are far within what its products may be off by.
    for dtype in ("float32", "tf32"):
        assert DTYPES[dtype].tolerance_of_rounded_sums(1024) == DTYPES[dtype].tolerance


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("cell", CELLS)
def test_loop_that_rounds_every_state_is_well_within_the_tolerance(cell: str, dtype: str) -> None:
    numbers = draw(cell, ROW, dtype)
    work, read = CONTESTANTS["steps"].enter(numbers, TRAINING, 1)
    right = Truth(numbers).expected(TRAINING, opened=False, stepped=True)
    of_gradients = DTYPES[dtype].tolerance_of_rounded_sums(ROW.steps)
    assert isinstance(judge(read(work()), right, DTYPES[dtype].tolerance / 2, of_gradients / 2), float)


def with_weights(numbers: Numbers, name: str, change: Any) -> dict[str, torch.Tensor]:
    """Results of a layer of torch.nn one of whose weights is another."""
    layer: Any = nn.LSTM(6, 16, dtype=numbers.x.dtype)
    layer.load_state_dict({**numbers.weights, name: change(numbers.weights[name])})
    return {"output": layer(numbers.x)[0].detach()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_mistake_is_outside_every_tolerance(dtype: str) -> None:
    numbers = draw("lstm", ROW, dtype)
    right, tolerance = Truth(numbers).expected(INFERENCE, opened=False), DTYPES[dtype].tolerance
    assert isinstance(judge(with_weights(numbers, "bias_ih_l0", lambda bias: bias), right, tolerance), float)
    for name, change in [
        ("weight_hh_l0", lambda weight: weight.roll(16, 0)),  # gates in another order
        ("weight_hh_l0", torch.zeros_like),  # steps that do not see the one before
        ("bias_hh_l0", torch.zeros_like),
    ]:
        assert isinstance(judge(with_weights(numbers, name, change), right, tolerance), Wrong)


def test_gradients_have_a_tolerance_of_their_own() -> None:
    right = {"gradient of weight_ih_l0": torch.tensor([1.0]), "output": torch.tensor([1.0])}
    off = torch.tensor([1.1])
    assert isinstance(judge(right | {"gradient of weight_ih_l0": off}, right, 0.01, 0.2), float)
    assert isinstance(judge(right | {"output": off}, right, 0.01, 0.2), Wrong)


# Switches


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "ieee")])
def test_products_are_exact_or_in_tf32_for_everyone(dtype: str, precision: str) -> None:
    before = switches()
    with products(DTYPES[dtype]):
        assert switches() == (precision,) * 3
        # By their older names too, which can't be read where they disagree.
        assert (MATMUL.allow_tf32, CUDNN.allow_tf32) == (precision == "tf32",) * 2
        assert torch.get_float32_matmul_precision() == ("high" if precision == "tf32" else "highest")
    assert switches() == before


def test_switches_are_the_user_s_again_after_an_error() -> None:
    before = switches()
    with pytest.raises(KeyError), products(DTYPES["tf32"]):
        raise KeyError
    assert switches() == before


def test_switches_that_the_user_has_set_by_one_name_only_are_kept() -> None:
    before = MATMUL.fp32_precision
    try:
        MATMUL.fp32_precision = "tf32"
        with products(DTYPES["float32"]):
            assert MATMUL.fp32_precision == "ieee"
        assert MATMUL.fp32_precision == "tf32"
    finally:
        MATMUL.allow_tf32 = False
        MATMUL.fp32_precision = before
