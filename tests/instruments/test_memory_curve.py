"""Memory curves of networks whose memory is known: shift registers, latches and linear networks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from planted import Circuits, Linear, bits, latch, one_hot, shift_register
from unrolled.instruments import memory_curve

Floats = NDArray[np.float64]


def symbols_of(batch: int, length: int, kinds: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(kinds, (batch, length), generator=torch.Generator().manual_seed(seed))


# Symbols


def test_memory_of_a_shift_register_ends_with_its_stages() -> None:
    curve = memory_curve(shift_register(4, 3), one_hot(symbols_of(120, 25), 4), range(6))
    assert curve.lags == (0, 1, 2, 3, 4, 5)
    assert curve.scores("hidden")[:3] == (1, 1, 1)
    # Some 1,000 steps are tested: a standard error of 0.014.
    assert curve.scores("hidden")[3:] == pytest.approx([0.25] * 3, abs=0.06)
    assert curve.controls("hidden") == pytest.approx([0.25] * 6, abs=0.06)
    assert (curve.data["chance"] == 0.25).all()
    assert curve.data.attrs["metric"] == "balanced accuracy"
    assert curve.reach("hidden") == 2


def test_the_input_alone_is_known_at_lag_0_only() -> None:
    curve = memory_curve(shift_register(4, 3), one_hot(symbols_of(120, 25), 4), range(3))
    assert curve.scores("input")[0] == 1
    assert curve.scores("input")[1:] == pytest.approx([0.25] * 2, abs=0.06)
    assert curve.reach("input") == 0


def test_only_what_is_asked_for_counts() -> None:
    symbols = symbols_of(200, 6, kinds=2)
    asked = torch.full_like(symbols, -1)
    asked[:, 0] = symbols[:, 0]
    symbols[:, 1:] = 2  # what the latch does not mind
    x = one_hot(symbols, 3)
    assert memory_curve(latch(3), x, [0, 3, 5], past=asked).scores("hidden") == (1, 1, 1)


def test_both_states_of_an_lstm_are_read_together_too() -> None:
    x, given = bits(100, 8)
    past = torch.full_like(x, -1)
    past[:, 0] = given
    curve = memory_curve(Circuits(), x, [0, 7], past=past)
    assert curve.reads == ["hidden", "cell", "both", "input"]
    for read in ("hidden", "cell", "both"):
        assert curve.scores(read) == (1, 1)
    assert curve.scores("input")[0] == 1
    assert curve.interval("input", 7).low < 0.5 < curve.interval("input", 7).high


def test_lags_come_in_order_however_they_were_asked_for() -> None:
    curve = memory_curve(shift_register(4, 2), one_hot(symbols_of(60, 12), 4), [3, 1, 1, 0])
    assert curve.lags == (0, 1, 3)
    assert curve.reach("hidden") == 1


def test_reach_ends_where_a_gap_begins() -> None:
    # The state knows lags 0 and 2, not 1: what is known again after a gap is not reach.
    symbols = symbols_of(120, 20)
    known = one_hot(torch.stack([symbols, symbols.roll(2, 1)], -1), 4).flatten(2)
    curve = memory_curve(shift_register(8, 1), known, range(3), past=symbols)
    assert curve.scores("hidden")[2] > 0.9
    assert curve.reach("hidden") == 0


def test_a_state_that_knows_nothing_reaches_nowhere() -> None:
    silent = latch(4)
    with torch.no_grad():
        silent.weight_ih_l0.zero_()
    curve = memory_curve(silent, one_hot(symbols_of(60, 12), 4), [0, 1])
    assert curve.scores("hidden") == (0.25, 0.25)
    assert curve.reach("hidden") == -1
    assert "hidden: at no lag" in curve.summary()


# Values: the capacity of a linear network


def rotated(eigenvalues: list[float], drive: list[float]) -> tuple[Tensor, Tensor]:
    """A network (W, w) of independent modes, seen in other coordinates."""
    turn = torch.linalg.qr(torch.randn(len(drive), len(drive), dtype=torch.float64))[0]
    return turn @ torch.diag(torch.tensor(eigenvalues).double()) @ turn.T, turn @ torch.tensor(drive).double()


def orthogonal() -> tuple[Tensor, Tensor]:
    return 0.9 * torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0], torch.randn(6, dtype=torch.float64)


MODES = [0.9, 0.7, 0.4, -0.3, -0.6, -0.85]
NETWORKS = {
    "all of its modes apart and driven": (lambda: rotated(MODES, [1.0] * 6), 6),
    "a rotation that shrinks": (orthogonal, 6),
    "three modes that nothing drives": (lambda: rotated(MODES, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]), 3),
    "each mode twice": (lambda: rotated([0.8, 0.8, 0.5, 0.5, -0.6, -0.6], [1.0, 2.0, 1.0, 0.5, 1.0, 1.0]), 3),
    "no recurrence": (lambda: (torch.zeros(6, 6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)), 1),
}


def closed_form(recurrent: Tensor, drive: Tensor, lags: range) -> Floats:
    """R² of the input k steps back in h = Σ W^k w u_(t-k) of white noise: (W^k w)ᵀ (Σ W^j w (W^j w)ᵀ)⁺ (W^k w)."""
    columns = [drive]
    for _ in range(400):
        columns.append(recurrent @ columns[-1])
    reached = torch.stack(columns, 1)
    inverse = torch.linalg.pinv(reached @ reached.T, rtol=1e-10, hermitian=True)
    return np.array([float(reached[:, k] @ inverse @ reached[:, k]) for k in lags])


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_capacity_of_a_linear_network_is_the_rank_of_its_controllability_matrix(name: str) -> None:
    # Jaeger (2001), proposition 2.
    make, expected = NETWORKS[name]
    recurrent, drive = make()
    powers = [torch.linalg.matrix_power(recurrent, k) @ drive for k in range(6)]
    assert int(torch.linalg.matrix_rank(torch.stack(powers, 1), rtol=1e-6)) == expected
    network, lags, begun = Linear(recurrent, drive), range(40), 60
    noise = 0.02 * torch.randn(200, 220, 1, dtype=torch.float64)
    assert (network(noise) > 0.05).all()  # inside the linear part
    past = noise[..., 0].clone()
    past[:, :begun] = math.nan  # until the states have forgotten where they began
    curve = memory_curve(network, noise, lags, past=past, max_steps=20_000)
    assert curve.data.attrs["metric"] == "R²"
    truth = closed_form(recurrent, drive, lags)
    assert truth.sum() == pytest.approx(expected, abs=0.01)
    np.testing.assert_allclose(curve.scores("hidden"), truth, atol=0.025)
    assert curve.total("hidden") == pytest.approx(expected, abs=0.2)


def test_a_single_value_is_its_own_past_if_nothing_else_is_asked_for() -> None:
    x = torch.rand(100, 20, 1)
    curve = memory_curve(shift_register(1, 2), x, [0, 1, 2])
    assert curve.scores("hidden")[:2] == pytest.approx((1, 1), abs=1e-6)
    assert curve.scores("hidden")[2] == pytest.approx(0, abs=0.05)
    assert curve.total("hidden") == pytest.approx(2, abs=0.05)
    assert curve.controls("hidden") == pytest.approx([0] * 3, abs=0.05)


def test_r2_below_0_counts_as_no_capacity() -> None:
    curve = memory_curve(shift_register(1, 5), torch.rand(8, 12, 1), range(5, 9))
    scores = np.array(curve.scores("hidden"))
    assert (scores < 0).any()
    assert curve.total("hidden") == pytest.approx(scores[scores > 0].sum())


# Streams


def test_a_stream_is_measured_as_one_batch_would_be() -> None:
    x = one_hot(symbols_of(120, 25), 4)
    curve = memory_curve(shift_register(4, 3), (part for part in x.split(30)), range(5))
    assert curve.scores("hidden")[:3] == (1, 1, 1)
    assert curve.reach("hidden") == 2


def test_a_stream_may_say_what_is_asked_for() -> None:
    symbols = symbols_of(120, 10)
    asked = (symbols + 1) % 4
    batches = [(one_hot(s, 4), a) for s, a in zip(symbols.split(40), asked.split(40), strict=True)]
    assert memory_curve(shift_register(4, 2), batches, [0, 1]).scores("hidden") == (1, 1)


def test_batches_of_symbols_need_not_hold_the_same_ones() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = shift_register(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(one_hot(x, 6))[0]

    def batches() -> Iterator[Tensor]:
        yield symbols_of(60, 12, kinds=3)
        yield symbols_of(60, 12, kinds=6, seed=1)

    curve = memory_curve(Embedded(), batches(), [0, 1])
    assert curve.scores("hidden") == (1, 1)
    assert curve.scores("input")[0] == 1


# Errors


@pytest.mark.parametrize("lag", [-1, 25])
def test_a_lag_beyond_the_sequence_is_refused(lag: int) -> None:
    with pytest.raises(ValueError, match=rf"lags: {lag} does not fit sequences of 25 steps; expected 0 to 24"):
        memory_curve(shift_register(4, 1), one_hot(symbols_of(10, 25), 4), [0, lag])


def test_no_lags_are_refused() -> None:
    with pytest.raises(ValueError, match="lags: none were given"):
        memory_curve(shift_register(4, 1), one_hot(symbols_of(10, 25), 4), [])


def test_an_input_of_several_values_asks_what_is_meant() -> None:
    with pytest.raises(ValueError, match=r"past: inputs of shape \(10, 5, 4\) are neither symbols nor single values"):
        memory_curve(shift_register(4, 1), torch.rand(10, 5, 4), [0])


def test_a_single_sequence_has_no_control() -> None:
    x = one_hot(symbols_of(10, 25), 4)
    with pytest.raises(ValueError, match="inputs: a batch of 1 sequence has no other to be the control"):
        memory_curve(shift_register(4, 1), x.split(1), [0])


def test_asking_for_nothing_is_refused_with_the_lag() -> None:
    x = one_hot(symbols_of(10, 25), 4)
    past = torch.full((10, 25), -1)
    past[:, -1] = torch.arange(10) % 4
    with pytest.raises(ValueError, match="past: at lag 2 nothing is asked for"):
        memory_curve(shift_register(4, 1), x, [0, 2], past=past)


def test_asking_for_one_symbol_is_refused() -> None:
    x = one_hot(symbols_of(10, 25), 4)
    with pytest.raises(ValueError, match="past: at lag 1 fewer than two symbols are asked for"):
        memory_curve(shift_register(4, 1), x, [1], past=torch.zeros(10, 25, dtype=torch.long))


def test_where_other_sequences_are_asked_for_nothing_the_control_is_not_a_number() -> None:
    x = one_hot(symbols_of(40, 40), 4)
    past = torch.full((40, 40), -1)
    steps = torch.arange(40)
    past[steps, steps] = x.argmax(-1)[steps, steps]  # at another step in each sequence
    curve = memory_curve(shift_register(4, 1), x, [0], past=past)
    assert math.isnan(curve.controls("hidden")[0])
    assert curve.reach("hidden") == 0
