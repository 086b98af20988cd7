from __future__ import annotations

import math

import pytest
import torch

from unrolled.instruments import gate_openness

# One sequence of four steps with two units; the last two steps are marked.
GATE = torch.tensor([[[0.0, 0.8], [0.2, 1.0], [0.7, 0.1], [0.9, 0.1]]])
MARKS = torch.tensor([[False, False, True, True]])


def test_gate_openness_of_a_gate_worked_out_by_hand() -> None:
    found = gate_openness(GATE, MARKS)
    assert found.matter == pytest.approx((0.7 + 0.9 + 0.1 + 0.1) / 4)
    assert found.rest == pytest.approx((0.0 + 0.2 + 0.8 + 1.0) / 4)
    # The first unit opens by 0.7, the second shuts by 0.8.
    assert found.difference == pytest.approx((0.7 + 0.8) / 2)
    # Within the two kinds of steps the first spreads by 0.1 and 0.1, the second by 0 and 0.1.
    assert found.effect == pytest.approx((0.7 / 0.1 + 0.8 / math.sqrt(0.005)) / 2, rel=1e-5)


def test_gate_that_is_open_at_0_is_measured_the_other_way_round() -> None:
    plain, turned = gate_openness(GATE, MARKS), gate_openness(1 - GATE, MARKS, open_at=0)
    assert turned.matter == pytest.approx(plain.matter)
    assert turned.rest == pytest.approx(plain.rest)
    assert turned.effect == pytest.approx(plain.effect, rel=1e-5)
    assert gate_openness(GATE, MARKS, open_at=0).matter == pytest.approx(1 - plain.matter)


def test_gate_that_never_moves_has_no_effect() -> None:
    found = gate_openness(torch.full((2, 4, 3), 0.6), MARKS.expand(2, -1))
    assert found.difference == pytest.approx(0)
    assert found.effect == 0


def test_data_is_by_unit() -> None:
    data = gate_openness(GATE, MARKS).data
    assert {values.dims for values in data.data_vars.values()} == {("unit",)}
    assert data["unit"].values.tolist() == [0, 1]
    assert data["at_marked"].values == pytest.approx([0.8, 0.1])
    assert data["at_rest"].values == pytest.approx([0.1, 0.9])
    assert data["spread"].values == pytest.approx([0.1, math.sqrt(0.005)])


def test_summary_says_openness_difference_and_effect() -> None:
    said = gate_openness(GATE, MARKS).summary()
    assert "open by 0.45 where it matters and 0.5 elsewhere" in said
    assert "a difference of −0.05 (−9.58 to 9.48) over units" in said  # t of 1 degree of freedom: 12.706 * 0.75
    assert "(Cohen's d) 9.16" in said


@pytest.mark.parametrize("mark", [True, False])
def test_marks_that_leave_nothing_to_compare_are_refused(mark: bool) -> None:
    with pytest.raises(ValueError, match="marks: every step or no step is marked"):
        gate_openness(GATE, torch.full((1, 4), mark))


def test_marks_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"marks: shape \(1, 3\) does not fit gate \(1, 4, 2\)"):
        gate_openness(GATE, MARKS[:, :3])
