"""Text as a problem: symbols, streams and pieces against what they are said to be, and bits against a plain loop."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unrolled.model import LAYERS, SequenceModel
from unrolled.problems.problem import ALL, Share, answer, summed
from unrolled.problems.text import BOUNDARY, OTHER, Text, joined

PARTS = {
    "train": ["abcab" * 30, "bcd" * 41, "dab\n" * 33],
    "validation": ["abcd" * 40, "dcba" * 31],
    "test": ["ab" * 50],
}


def made(**options: Any) -> Text:
    return Text(**{"parts": PARTS, "seed": 1, "batch_size": 4, "length": 10, **options})


def distinct(count: int) -> str:
    """A text in which no character comes twice."""
    return "".join(chr(0x4E00 + index) for index in range(count))


def network(problem: Text, cell: str = "lstm", layers: int = 1) -> SequenceModel:
    size = problem.shape.input_size
    return SequenceModel(cell, size, 6, size, embedding_size=5, layers=layers).eval()


def a_pass(problem: Text, first: int = 1) -> list[Any]:
    """The batches from a step that begins a pass to the last of that pass."""
    batches = [problem.batch(first, ALL)[0]]
    while (batch := problem.batch(first + len(batches), ALL)[0]).goes_on:
        batches.append(batch)
    return batches


def test_characters_that_training_does_not_have_are_unknown_elsewhere() -> None:
    problem = made(parts={**PARTS, "test": ["xyz" * 40]})
    assert set(problem.symbols["test"].tolist()) == {BOUNDARY, OTHER}
    assert made(most_symbols=2).shape.input_size == 4


def test_a_boundary_stands_before_each_document_and_after_the_last() -> None:
    one, two = np.array([2, 3], np.int32), np.array([4], np.int32)
    assert joined([one, two]).tolist() == [BOUNDARY, 2, 3, BOUNDARY, 4, BOUNDARY]


@pytest.mark.parametrize("step", [1, 2, 9, 40])
def test_targets_are_the_next_characters(step: int) -> None:
    problem = made()
    batch, count = problem.batch(step, ALL)
    following, _ = problem.batch(step + 1, ALL)
    assert count == batch.targets.numel() == 40
    assert torch.equal(batch.targets[:, :-1], batch.inputs[:, 1:])
    if following.goes_on:
        assert torch.equal(batch.targets[:, -1], following.inputs[:, 0])
    assert bool(batch.scored.all())
    assert torch.equal(batch.reset, batch.inputs == BOUNDARY)


def test_targets_follow_their_inputs_in_the_text() -> None:
    """Where no character comes twice, the next one is known from the one before."""
    text = distinct(400)
    problem = made(parts={**PARTS, "train": [text]}, most_symbols=400)
    code = problem.vocabulary.encode(text).tolist()
    after = dict(zip([BOUNDARY, *code], [*code, BOUNDARY], strict=True))
    for step in range(1, 31):
        batch, _ = problem.batch(step, ALL)
        assert [after[symbol] for symbol in batch.inputs.flatten().tolist()] == batch.targets.flatten().tolist()


@pytest.mark.parametrize(
    ("characters", "batch_size", "length"),
    [(400, 4, 10), (399, 4, 10), (399, 1, 10), (399, 8, 5), (359, 3, 7), (99, 1, 100)],
)
def test_streams_of_a_pass_cover_the_text_without_reading_anything_twice(
    characters: int, batch_size: int, length: int
) -> None:
    text = distinct(characters)
    problem = made(parts={**PARTS, "train": [text]}, most_symbols=characters, batch_size=batch_size, length=length)
    batches = a_pass(problem)
    read = torch.cat([batch.inputs.flatten() for batch in batches]).tolist()
    asked = torch.cat([batch.targets.flatten() for batch in batches]).tolist()
    assert len(read) == len(set(read)) == len(set(asked)) == len(batches) * batch_size * length
    # What is left out is less than a piece of every stream.
    assert characters + 1 - len(read) < batch_size * (length + 1)


def test_each_row_goes_on_where_the_batch_before_left_it() -> None:
    problem = made()
    batches = a_pass(problem)
    assert len(batches) == 10
    for one, two in pairwise(batches):
        assert torch.equal(one.targets[:, -1], two.inputs[:, 0])
    assert not batches[0].goes_on
    assert all(batch.goes_on for batch in batches[1:])


def test_without_carrying_no_batch_goes_on() -> None:
    problem, carried = made(carry=False), made()
    for step in range(1, 25):
        batch = problem.batch(step, ALL)[0]
        assert not batch.goes_on
        assert torch.equal(batch.inputs, carried.batch(step, ALL)[0].inputs)


def test_every_pass_has_a_new_order_and_a_new_beginning() -> None:
    texts = [distinct(400)[at : at + 20] for at in range(0, 400, 20)]
    problem = made(parts={**PARTS, "train": texts}, most_symbols=400, batch_size=1, length=20)
    number = {problem.vocabulary.encode(text[0]).item(): index for index, text in enumerate(texts)}
    orders, begins = [], []
    first = 1
    for _ in range(4):
        batches = a_pass(problem, first)
        first += len(batches)
        symbols = torch.cat([batch.inputs.flatten() for batch in batches]).tolist()
        begins.append(symbols[0])
        orders.append([number[symbol] for symbol in symbols if symbol in number])
    assert all(len(order) >= 18 for order in orders)
    assert len({tuple(order) for order in orders}) == len(set(begins)) == 4
    assert all(order != sorted(order) for order in orders)


def test_seed_decides_the_order() -> None:
    batches = [made(seed=seed).batch(3, ALL)[0].inputs for seed in (1, 1, 2)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def test_batch_of_a_step_is_the_same_whatever_was_asked_before() -> None:
    asked = made()
    steps = list(range(1, 35))
    random.Random(0).shuffle(steps)
    for step in steps:
        one, two = asked.batch(step, ALL)[0], made().batch(step, ALL)[0]
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.targets, two.targets)
        assert one.goes_on == two.goes_on


@pytest.mark.parametrize("of", [2, 3, 4])
def test_shares_of_processes_make_up_the_batch(of: int) -> None:
    problem = made(batch_size=12)
    for step in (1, 2, 5):
        whole, count = problem.batch(step, ALL)
        shares = [problem.batch(step, Share(part, of)) for part in range(of)]
        assert [its for _, its in shares] == [count] * of
        for name in ("inputs", "targets", "scored", "reset"):
            assert torch.equal(torch.cat([getattr(batch, name) for batch, _ in shares]), getattr(whole, name))
        assert {batch.goes_on for batch, _ in shares} == {whole.goes_on}


@pytest.mark.parametrize("of", [1, 2, 3])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_pieces_of_a_split_ask_each_character_once(split: str, of: int) -> None:
    text = distinct(32 * 17 + 5)
    problem = made(parts={**PARTS, split: [text], "train": [text]}, most_symbols=2000)
    asked, expected = [], problem.symbols[split][1 : 32 * 17 + 1].tolist()
    for part in range(of):
        rows: list[list[int]] = []
        for piece in problem.pieces(split, Share(part, of)):
            assert piece.goes_on == bool(rows)
            rows = rows or [[] for _ in piece.targets]
            for row, targets in zip(rows, piece.targets.tolist(), strict=True):
                row += targets
        asked += [symbol for row in rows for symbol in row]
    # Streams stand one after the other in the text; fewer characters than there are streams are left at its end.
    assert asked == expected


def test_validation_looks_at_so_many_characters_and_test_at_all() -> None:
    parts = {**PARTS, "test": ["abcd" * 100], "validation": ["abcd" * 100]}
    problem = made(parts=parts, validation_characters=320)
    assert sum(piece.targets.numel() for piece in problem.pieces("validation", ALL)) == 320
    assert sum(piece.targets.numel() for piece in problem.pieces("test", ALL)) == 32 * (401 // 32)


@pytest.mark.parametrize("cell", LAYERS)
def test_state_after_a_boundary_does_not_depend_on_what_was_before(cell: str) -> None:
    problem = made()
    model = network(problem, cell, layers=2)
    batch = next(batch for step in range(1, 40) if bool((batch := problem.batch(step, ALL)[0]).reset[:, 1:].any()))
    row = int(batch.reset[:, 1:].any(1).nonzero()[0])
    at = int(batch.reset[row].nonzero()[-1])
    changed = batch.inputs.clone()
    changed[row, :at] = 2 + (changed[row, :at] + 1) % 3
    with torch.no_grad():
        _, before = model(torch.full((4, 5), 3), carry=True)
        one = model(batch.inputs, reset=batch.reset)[row]
        two = model(changed, before, reset=batch.reset)[row]
        alone = model(batch.inputs[row : row + 1, at:])[0]
    assert torch.equal(one[at:], two[at:])
    torch.testing.assert_close(one[at:], alone)
    if at:
        assert not torch.equal(one[:at], two[:at])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_bits_are_those_of_a_plain_loop_through_the_streams(cell: str) -> None:
    problem = made()
    model = network(problem, cell)
    stream = problem.symbols["validation"].tolist()
    each = (len(stream) - 1) // 32
    bits, right = 0.0, 0
    with torch.no_grad():
        for begin in range(0, 32 * each, each):
            state = None
            for at in range(begin, begin + each):
                if stream[at] == BOUNDARY:
                    state = None
                logits, state = model(torch.tensor([[stream[at]]]), state, carry=True)
                bits += float(F.cross_entropy(logits[0].double(), torch.tensor([stream[at + 1]]))) / math.log(2)
                right += int(logits.argmax()) == stream[at + 1]
    figures = problem.figures(summed(model, problem, "validation"))
    assert figures["bits"] == pytest.approx(bits / (32 * each), rel=1e-5)
    assert figures["accuracy"] == right / (32 * each)


def test_sums_of_shares_add_up_to_those_of_one_process() -> None:
    problem = made()
    model = network(problem)
    whole = summed(model, problem, "validation")
    shares = sum(summed(model, problem, "validation", Share(part, 3)) for part in range(3))
    torch.testing.assert_close(shares, whole, rtol=1e-6, atol=0)


def test_summing_leaves_the_mode_of_the_model_and_knows_no_dropout() -> None:
    problem = made()
    size = problem.shape.input_size
    model = SequenceModel("lstm", size, 6, size, embedding_size=5, dropout=0.5)
    sums = [summed(model.train(mode), problem, "validation") for mode in (True, True, False)]
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])
    assert summed(model.train(), problem, "test") is not None
    assert model.training


def test_loss_is_the_sum_of_the_cross_entropies_in_nats() -> None:
    problem = made()
    batch, _ = problem.batch(1, ALL)
    answers, state = answer(network(problem), batch, None)
    expected = -answers.log_softmax(-1).gather(-1, batch.targets.unsqueeze(-1)).sum()
    torch.testing.assert_close(problem.loss(answers, batch), expected)
    assert len(state) == 2


def test_states_are_carried_where_a_batch_goes_on_and_nowhere_else() -> None:
    problem = made()
    model = network(problem)
    first, second = a_pass(problem)[:2]
    with torch.no_grad():
        _, state = answer(model, first, None)
        both = model(torch.cat((first.inputs, second.inputs), 1), reset=torch.cat((first.reset, second.reset), 1))
        torch.testing.assert_close(answer(model, second, state)[0], both[:, 10:])
        assert torch.equal(answer(model, first, state)[0], answer(model, first, None)[0])


def test_sample_goes_on_along_a_few_places_of_a_split() -> None:
    problem = made()
    pieces = list(problem.sample("validation", 3, 25))
    assert [tuple(piece.inputs.shape) for piece in pieces] == [(3, 10), (3, 10), (3, 5)]
    assert [piece.goes_on for piece in pieces] == [False, True, True]
    stream = torch.from_numpy(problem.symbols["validation"].astype(np.int64))
    each = (len(stream) - 1) // 3
    whole = torch.cat([piece.inputs for piece in pieces], 1)
    for row, begin in enumerate((0, each, 2 * each)):
        assert torch.equal(whole[row], stream[begin : begin + 25])


def test_too_little_text_is_said_with_what_would_do() -> None:
    with pytest.raises(ValueError, match="too few for batch_size=50 times length=10; set batch_size to 40 or less"):
        made(batch_size=50)
    made(batch_size=40)
    with pytest.raises(ValueError, match="its test part has 11 characters; expected 64 or more"):
        made(parts={**PARTS, "test": ["abcdefghij"]})


def test_digest_tells_texts_parts_and_their_cuts_apart() -> None:
    texts = ["ab" * 40, "cd" * 40]
    digests = {
        made(parts={"train": [*PARTS["train"], *first], "validation": second, "test": third}).digest()
        for first, second, third in (
            (texts, texts, texts),
            (texts[:1], texts, texts),
            (["".join(texts)], texts, texts),
            (texts[::-1], texts, texts),
            (texts, texts[:1], texts),
            (texts, texts, texts[:1]),
        )
    }
    assert len(digests) == 6
    assert made().digest() == made(seed=5, batch_size=2).digest()
