"""A replay takes the recorded steps again, from any of them on, and refuses what it cannot."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import unrolled
from replayed import inputs_of, network, recorded, replay_of, resets_at
from unrolled.model import LAYERS
from unrolled.viewer.replaying import replay as replay_module
from unrolled.viewer.replaying.replay import Replay


def assert_replays(replay: Replay, answers: torch.Tensor, sequence: int, start: int, stop: int) -> None:
    """The answers of a window are those of the whole run, in both precisions."""
    replay.check(sequence, start, stop)
    with torch.no_grad():
        torch.testing.assert_close(replay.run(sequence, start, stop), answers[sequence, start:stop])
        exact = replay.run(sequence, start, stop, exact=True)
    assert exact.dtype is torch.float64
    torch.testing.assert_close(exact.float(), answers[sequence, start:stop], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cell", sorted(LAYERS))
@pytest.mark.parametrize("layers", [1, 2])
def test_window_of_every_cell_answers_as_the_whole_run_did(cell: str, layers: int) -> None:
    model, x = network(cell, layers=layers), inputs_of(23)
    replay, answers = replay_of(model, x), model(x).detach()
    for start, stop in ((0, 23), (0, 1), (7, 8), (5, 18), (22, 23)):
        assert replay.begin(start) == start
        assert_replays(replay, answers, 1, start, stop)


def test_window_with_resets_answers_as_the_whole_run_did() -> None:
    model, x = network("lstm", layers=2), inputs_of(23)
    reset = resets_at(23, (0, 0), (1, 9), (1, 10), (0, 15))
    answers = model(x, reset=reset).detach()
    for replay in (replay_of(model, x, reset=reset), Replay(model, recorded(model, x, reset=reset), x)):
        for start, stop in ((0, 23), (9, 12), (8, 9), (10, 11), (11, 20), (15, 16)):
            assert_replays(replay, answers, 1, start, stop)


def test_text_read_in_pieces_whose_states_go_on_is_replayed_across_them() -> None:
    model = network("gru", embedding_size=4)
    symbols = torch.randint(0, 2, (1, 30))
    answers, state = [], None
    with torch.no_grad(), unrolled.record(model, detach=True) as trace:
        for piece in symbols.split(7, 1):
            answer, state = model(piece, state, reset=piece == 1, carry=True)
            answers.append(answer)
    replay = Replay(model, trace, symbols, reset=symbols == 1, targets=symbols)
    assert replay.answers.loss == "classes"
    for start, stop in ((0, 30), (6, 9), (13, 14), (5, 30)):
        assert_replays(replay, torch.cat(answers, 1), 0, start, stop)


def test_recording_on_disk_and_part_of_it_are_replayed(tmp_path: Path) -> None:
    model, x = network("lstm", layers=2), inputs_of(40)
    answers = model(x).detach()
    recorded(model, x).save(tmp_path / "whole")
    trace = unrolled.Trace.load(tmp_path / "whole")
    assert_replays(Replay(model, trace, x), answers, 1, 11, 35)
    part = Replay(model, trace.select(sequences=1, steps=slice(10, 40)), x[1:, 10:])
    assert part.first == 1
    assert_replays(part, answers[1:, 10:], 0, 1, 25)
    with pytest.raises(ValueError, match="expected 1 to 29"):
        unrolled_gradient(part, step=0)
    with pytest.raises(ValueError, match="steps are left out"):
        Replay(model, trace.select(steps=slice(0, 40, 2)), x[:, ::2])
    some = trace.select("*.hidden", steps=slice(10, 40))
    with pytest.raises(ValueError, match="begins after its first step.*'recurrent.l0.cell' was not recorded"):
        Replay(model, some, x[:, 10:])


def unrolled_gradient(replay: Replay, *, step: int) -> object:
    from unrolled.viewer.replaying.gradients import gradient

    return gradient(replay, sequence=0, step=step, output=0)


def test_recording_that_began_at_other_states_is_replayed_from_its_first_step() -> None:
    model, x = network("lstm"), inputs_of(9)
    state = (torch.randn(1, 2, 5), torch.randn(1, 2, 5))
    with torch.no_grad(), unrolled.record(model, detach=True) as trace:
        answers = model(x, state)
    assert_replays(Replay(model, trace, x), answers, 1, 0, 4)


def test_without_some_states_it_is_run_from_the_beginning() -> None:
    model, x = network("lstm", layers=2), inputs_of(23)
    answers = model(x).detach()
    for names in ("*.l1.cell", "*.forget_gate"):
        replay = replay_of(model, x, names=names)
        assert replay.begin(12) == 0
        assert_replays(replay, answers, 0, 12, 15)
    assert_replays(replay_of(model, x, names=["*.hidden", "*.cell"]), answers, 0, 12, 15)


def test_bidirectional_layers_read_the_whole_sequence_and_no_padding() -> None:
    model, x = network("lstm", layers=2, bidirectional=True), inputs_of(23)
    lengths = [23, 14]
    replay, answers = replay_of(model, x, lengths=lengths), model(x, lengths=lengths).detach()
    assert not replay.causal
    assert replay.length(1) == 14
    assert_replays(replay, answers, 1, 5, 9)
    assert_replays(replay, answers, 0, 5, 23)


def test_lengths_are_those_of_the_trace_where_none_are_given() -> None:
    model, x = network("gru", bidirectional=True), inputs_of(9)
    replay = Replay(model, recorded(model, x, lengths=[4, 9]), x)
    assert [replay.length(0), replay.length(1)] == [4, 9]
    assert_replays(replay, model(x, lengths=[4, 9]).detach(), 0, 1, 3)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_class_of_a_sequence_is_answered_once(bidirectional: bool) -> None:
    model, x = network("lstm", bidirectional=bidirectional, readout="mean"), inputs_of(11)
    replay = replay_of(model, x, lengths=[6, 11])
    assert not replay.every
    replay.check(0, 2, 3)
    with torch.no_grad():
        expected = model(x, lengths=[6, 11])
        for sequence in (0, 1):
            torch.testing.assert_close(replay.run(sequence, 2, 3), expected[sequence : sequence + 1])


class Reader(nn.Module):
    """A user's model of torch.nn's own layers; `answer` makes what it gives from (B, T, 4)."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.core, self.answer = nn.GRU(2, 4, batch_first=True), answer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer(self.core(x)[0])


def test_any_module_is_run_from_the_beginning() -> None:
    x = inputs_of(80)
    every, last = Reader(lambda y: y), Reader(lambda y: y[:, -1])
    scalar = Reader(lambda y: y[..., 0])
    assert_replays(replay_of(every, x), every(x).detach(), 1, 70, 75)
    replay = replay_of(last, x)
    assert not replay.every
    torch.testing.assert_close(replay.run(1, 3, 4), last(x)[1:])
    replay = replay_of(scalar, x, targets=torch.zeros(2, 80))
    assert_replays(replay, scalar(x).detach().unsqueeze(-1), 1, 70, 75)
    bare = nn.LSTM(2, 3, batch_first=True)
    assert_replays(replay_of(bare, x), bare(x)[0].detach(), 1, 70, 75)


def test_bare_layer_takes_resets_and_a_model_that_cannot_refuses_them() -> None:
    layer, x, reset = unrolled.GRU(2, 3, batch_first=True), inputs_of(12), resets_at(12, (1, 6))
    assert_replays(replay_of(layer, x, reset=reset), layer(x, reset=reset)[0].detach(), 1, 5, 9)
    reader = Reader(lambda y: y)
    with pytest.raises(ValueError, match=r"Reader.forward takes no `reset`"):
        Replay(reader, recorded(reader, x), x, reset=reset)


def test_the_model_that_is_given_is_not_touched() -> None:
    model, x = network("lstm", dropout=0.5), inputs_of(9)
    trace = recorded(model, x)
    model.train()
    before = copy.deepcopy(model.state_dict())
    replay = Replay(model, trace, x)
    replay.check(0, 0, 9)
    unrolled_gradient(replay, step=5)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("names", ["*", "*.hidden"])
def test_other_weights_are_an_error(names: str) -> None:
    model, x = network("lstm"), inputs_of(300)
    trace = recorded(model, x, names=names)
    with torch.no_grad():
        model.recurrent.weight_hh_l0[3, 2] += 0.2
    with pytest.raises(ValueError, match="the model does not do what was recorded: unit . of 'recurrent.l0"):
        Replay(model, trace, x).check(0, 100, 300)


def test_other_inputs_are_an_error() -> None:
    model, x = network("lstm"), inputs_of(30)
    with pytest.raises(ValueError, match="give the network, weights and inputs"):
        Replay(model, recorded(model, x), inputs_of(30)).check(0, 10, 20)


def test_a_unit_that_counts_far_does_not_hide_what_the_others_do() -> None:
    model, x = network("lstm"), inputs_of(30)
    trace = recorded(model, x)
    cell = trace["recurrent.l0.cell"].clone()
    with torch.no_grad():
        cell[..., 0] = 2_000
        cell[0, 15, 1] += 0.1
    from unrolled.viewer.replaying.agreement import compare

    far = recorded(model, x)["recurrent.l0.cell"].clone()
    far[..., 0] = 2_000.5
    compare("cell", far[0, :15], cell[0, :15], 0, range(15))
    with pytest.raises(ValueError, match="unit 1 of 'cell' at step 15"):
        compare("cell", far[0], cell[0], 0, range(30))


def test_states_that_are_not_numbers_agree_with_themselves_only() -> None:
    model, x = network("rnn"), inputs_of(12)
    x[0, 5] = torch.nan
    replay = replay_of(model, x)
    replay.check(0, 0, 12)
    x = x.clone()
    x[0, 5] = 0
    with pytest.raises(ValueError, match=r"step 5 of sequence 0 is nan"):
        Replay(model, replay.trace, x).check(0, 0, 12)


def test_windows_that_end_late_are_refused_where_a_run_begins_at_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "LONGEST", 20)
    x = inputs_of(30)
    causal, both = network("rnn"), network("rnn", bidirectional=True)
    replay = replay_of(Reader(lambda y: y), x)
    replay.check(0, 10, 20)
    with pytest.raises(ValueError, match=r"the window ends at step 21.*Reader is no SequenceModel.*20 steps at most"):
        replay.run(0, 20, 21)
    with pytest.raises(ValueError, match=r"sequence 0 has 30 steps.*also reads from the end"):
        replay_of(both, x).run(0, 1, 2)
    with pytest.raises(ValueError, match="answers once a sequence"):
        replay_of(network("rnn", readout="mean"), x).run(0, 1, 2)
    replay_of(causal, x).run(0, 25, 30)


def test_means_are_over_the_steps_that_were_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network("lstm", bidirectional=True), inputs_of(13)
    trace = recorded(model, x)
    cell = trace["recurrent.l0.cell"]
    expected = torch.cat([cell[0, :13], cell[1, :4]]).double().mean(0)
    for size in (1 << 22, 40):
        monkeypatch.setattr(replay_module, "_READ", size)
        replay = Replay(model, trace, x, lengths=[13, 4])
        torch.testing.assert_close(replay.mean("recurrent.l0.cell"), expected)


def test_what_does_not_fit_is_refused() -> None:
    model, x = network("lstm"), inputs_of(8)
    trace = recorded(model, x)
    targets = torch.zeros(2, 8, dtype=torch.long)
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module"):
        Replay("model", trace, x)
    with pytest.raises(ValueError, match="'recurrent.l0.cell' is not in the model"):
        Replay(network("gru"), trace, x)
    with pytest.raises(ValueError, match="has 5 units, and the model's has 7"):
        Replay(unrolled.model.SequenceModel("lstm", 2, 7, 3), trace, x)
    with pytest.raises(ValueError, match="inputs: are 2 sequences of 7 steps.*of 2 of 8"):
        Replay(model, trace, x[:, :7])
    with pytest.raises(ValueError, match="lengths: given"):
        Replay(model, trace, x, lengths=[8, 9])
    with pytest.raises(ValueError, match="reset: given"):
        Replay(model, trace, x, reset=torch.ones(2, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="outputs: 2 names were given, and the model has 3"):
        Replay(model, trace, x, outputs=["a", "b"])
    with pytest.raises(ValueError, match="targets: class 3 is among them"):
        Replay(model, trace, x, targets=targets + 3)
    with pytest.raises(ValueError, match=r"targets: shape \(2, 7\)"):
        Replay(model, trace, x, targets=targets[:, :7])
    with pytest.raises(ValueError, match="targets: have 1 values an answer"):
        Replay(model, trace, x, targets=torch.zeros(2, 8))
    with pytest.raises(TypeError, match="targets: expected whole numbers"):
        Replay(model, trace, x, targets=torch.zeros(2, 8), loss="classes")
    with pytest.raises(ValueError, match="loss: given 'mse'"):
        Replay(model, trace, x, loss="mse")
    with unrolled.record(model) as empty:
        pass
    with pytest.raises(ValueError, match="trace: nothing is in it"):
        Replay(model, empty, x)
    replay = Replay(model, trace, x, lengths=[8, 0])
    with pytest.raises(ValueError, match="sequence: 2 is not in the recording; expected 0 to 1"):
        replay.length(2)
    with pytest.raises(ValueError, match="sequence: 1 has no steps"):
        replay.length(1)
