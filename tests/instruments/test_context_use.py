"""Context that a network uses by construction: the sum of its last inputs, and no more of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from planted import mirror, shift_register
from unrolled.instruments import context_use

USED, LENGTH, BATCH = 5, 20, 40
CONTEXTS = range(1, LENGTH + 1)
How = Literal["cut", "shuffle"]


class LastInputs(nn.Module):
    """Answers with the sum of its last USED inputs, weighed so that their order matters: (B, T, 1) -> (B, T)."""

    weights = torch.arange(1.0, USED + 1)

    def __init__(self) -> None:
        super().__init__()
        self.register = shift_register(1, USED)

    def forward(self, x: Tensor) -> Tensor:
        return self.register(x)[0] @ self.weights


def truth(x: Tensor) -> Tensor:
    return (x[:, -USED:, 0].flip(1) * LastInputs.weights).sum(1)


def loss(answers: Tensor, target: Tensor) -> Tensor:
    return (answers[:, -1] - target).square()


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.rand(BATCH, LENGTH, 1, generator=torch.Generator().manual_seed(seed))
    return x, truth(x)


@pytest.mark.parametrize("how", ["cut", "shuffle"])
def test_the_loss_rises_only_where_an_input_that_is_used_is_taken_away(how: How) -> None:
    found = context_use(LastInputs(), [batch()], loss, CONTEXTS, how=how)
    for context in CONTEXTS:
        if context < USED:
            assert found.rise(context).low > 0
        else:
            assert found.rise(context).mean == pytest.approx(0, abs=1e-9)
    assert found.used() == USED


def test_cutting_takes_exactly_the_inputs_that_are_further_back() -> None:
    x, target = batch()
    found = context_use(LastInputs(), [(x, target)], loss, [1, 3, 4])
    weighed = x[:, -USED:, 0].flip(1) * LastInputs.weights  # the last input first
    for context in (1, 3, 4):
        expected = weighed[:, context:].sum(1).square()
        np.testing.assert_allclose(found.data["loss"].sel(context=context), expected, rtol=1e-4)
    np.testing.assert_allclose(found.data["whole"], 0, atol=1e-9)


def test_shuffling_keeps_each_sequence_its_own_inputs() -> None:
    # What does not mind the order does not mind the shuffling.
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register = shift_register(1, LENGTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.register(x)[0].sum(-1)

    def of_the_sum(answers: Tensor) -> Tensor:
        return answers[:, -1]

    x, _ = batch()
    found = context_use(Sum(), x, of_the_sum, [1, 7, LENGTH], how="shuffle")
    np.testing.assert_allclose(found.data["loss"], np.tile(x.sum((1, 2)), (3, 1)), rtol=1e-5)
    cut = context_use(Sum(), x, of_the_sum, [7], how="cut")
    np.testing.assert_allclose(cut.data["loss"][0], x[:, -7:].sum((1, 2)), rtol=1e-5)


def test_each_sequence_is_shuffled_in_an_order_of_its_own_with_its_features_together() -> None:
    seen: list[Tensor] = []

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = mirror(2)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return self.rnn(x)[0]

    steps = torch.arange(LENGTH).float()
    x = torch.stack([steps, steps + 100], -1).expand(BATCH, -1, -1)
    context_use(Seen(), x, lambda answers: answers[:, -1, 0], [6], how="shuffle", seed=1)
    shuffled = seen[1]
    assert torch.equal(shuffled[:, -6:], x[:, -6:])
    assert torch.equal(shuffled[..., 0] + 100, shuffled[..., 1])
    assert torch.equal(shuffled[..., 0].sort(1)[0], x[..., 0])
    assert len({tuple(row.tolist()) for row in shuffled[..., 0]}) == BATCH


def test_orders_are_drawn_from_the_seed() -> None:
    first, again, other = (
        context_use(LastInputs(), [batch()], loss, [2], how="shuffle", seed=seed).data["loss"] for seed in (1, 1, 2)
    )
    assert first.equals(again)
    assert not first.equals(other)


def test_contexts_come_in_order_and_once() -> None:
    assert context_use(LastInputs(), [batch()], loss, [9, 2, 2, 4]).contexts == [2, 4, 9]


def test_a_stream_is_measured_sequence_by_sequence() -> None:
    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield batch(0)
        yield batch(1)

    found = context_use(LastInputs(), batches(), loss, [2, 8])
    assert found.data["loss"].shape == (2, 2 * BATCH)
    for part, seed in ((slice(BATCH), 0), (slice(BATCH, None), 1)):
        alone = context_use(LastInputs(), [batch(seed)], loss, [2, 8])
        np.testing.assert_allclose(found.data["loss"][:, part], alone.data["loss"], rtol=1e-5, atol=1e-9)


def test_batches_of_a_stream_may_differ_in_length() -> None:
    (x, _), (y, _) = batch(0), batch(1)
    found = context_use(LastInputs(), [(part, truth(part)) for part in (x, y[:, :9])], loss, [2, 9])
    assert found.rise(9).mean == pytest.approx(0, abs=1e-9)
    assert found.rise(2).low > 0


def test_symbols_may_be_cut_and_shuffled() -> None:
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register = shift_register(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.register(x.float().unsqueeze(-1))[0]

    symbols = torch.randint(1, 5, (BATCH, LENGTH))
    for how in ("cut", "shuffle"):
        found = context_use(Repeats(), symbols, lambda held: -held[:, -1, 2], [1, 3], how=how)  # type: ignore[arg-type]
        assert (found.rise(3).low, found.rise(3).high) == (0, 0)
    cut = context_use(Repeats(), symbols, lambda held: -held[:, -1, 2], [1, 3])
    np.testing.assert_allclose(cut.data["loss"].sel(context=1), 0)
    np.testing.assert_allclose(cut.data["whole"], -symbols[:, -3].numpy())


def test_where_the_loss_does_not_rise_no_more_than_the_shortest_context_is_used() -> None:
    found = context_use(mirror(1), torch.rand(BATCH, LENGTH, 1), lambda output: output[0][:, -1, 0], [1, 5, 10])
    assert found.used() == 1


def test_where_every_context_is_too_short_none_is_said_to_be_used() -> None:
    found = context_use(LastInputs(), [batch()], loss, [1, 2, 3])
    assert found.used() is None
    assert "is made good by more context than was left at most" in found.summary()


def test_the_summary_says_how_much_the_loss_rises_and_what_makes_it_good() -> None:
    # An answer that is off by 1 even with the whole context.
    found = context_use(LastInputs(), [batch()], lambda answers, target: loss(answers, target) + 1, CONTEXTS)
    assert found.summary() == (
        f"With the context beyond 1 step cut the loss rises by {found.rise(1).text} from 1; all but a twentieth of "
        "that is made good by a context of 5 steps."
    )


def test_the_model_is_left_as_it_was() -> None:
    model = LastInputs().train()
    context_use(model, [batch()], loss, [1])
    assert model.training
    assert model.register.training


# Errors


@pytest.mark.parametrize("context", [0, LENGTH + 1, -3])
def test_a_context_that_does_not_fit_is_refused(context: int) -> None:
    with pytest.raises(ValueError, match=rf"contexts: {context} does not fit sequences of {LENGTH} steps; expected 1"):
        context_use(LastInputs(), [batch()], loss, [3, context])


def test_no_contexts_are_refused() -> None:
    with pytest.raises(ValueError, match="contexts: none were given"):
        context_use(LastInputs(), [batch()], loss, [])


def test_another_way_of_taking_context_away_is_refused() -> None:
    with pytest.raises(ValueError, match="how: given 'drop', expected 'cut' or 'shuffle'"):
        context_use(LastInputs(), [batch()], loss, [3], how="drop")  # type: ignore[arg-type]


def test_a_loss_that_is_not_one_figure_for_each_sequence_is_refused() -> None:
    def mean(answers: Tensor, target: Tensor) -> Tensor:
        return loss(answers, target).mean()

    with pytest.raises(ValueError, match=r"loss: gave shape \(\); expected one for each sequence, \(40,\)"):
        context_use(LastInputs(), [batch()], mean, [3])


def test_an_empty_stream_and_one_of_something_else_are_refused() -> None:
    nothing: list[Any] = []
    with pytest.raises(ValueError, match="inputs: no batch was given"):
        context_use(LastInputs(), nothing, loss, [3])
    with pytest.raises(TypeError, match="inputs: expected tensors, or tuples that begin with one; given str"):
        context_use(LastInputs(), ["abc"], loss, [3])
