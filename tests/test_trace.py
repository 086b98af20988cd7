"""record(): every state and gate by name, equal to what the layer computed, in its autograd graph."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import unrolled
from by_hand import GATES, KINDS, LENGTHS, B, H, Hand, I, Loop, T, close, inputs, layer

# Names


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_a_bare_layer_are_its_suffixes_and_states_and_gates(kind: str) -> None:
    model = layer(kind, num_layers=2, bidirectional=True)
    with unrolled.record(model) as trace:
        model(inputs())
    suffixes = ["l0", "l0_reverse", "l1", "l1_reverse"]
    assert list(trace) == [f"{suffix}.{name}" for suffix in suffixes for name in GATES[kind]]
    assert {tuple(tensor.shape) for tensor in trace.values()} == {(B, T, H)}


def test_names_in_a_model_begin_with_the_path_of_the_layer() -> None:
    model = nn.ModuleDict({"encoder": nn.ModuleDict({"lstm": layer()}), "decoder": Loop("GRU")})
    with unrolled.record(model) as trace:
        model["encoder"]["lstm"](inputs())
        model["decoder"](inputs())
    assert list(trace) == [
        *(f"encoder.lstm.l0.{name}" for name in GATES["LSTM"]),
        *(f"decoder.cell.{name}" for name in GATES["GRU"]),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_a_bare_cell_are_its_states_and_gates(kind: str) -> None:
    cell = getattr(nn, f"{kind}Cell")(I, H)
    with unrolled.record(cell) as trace:
        cell(torch.zeros(B, I))
    assert list(trace) == GATES[kind]
    assert trace["hidden"].shape == (B, 1, H)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("*.cell", ["l0.cell", "l1.cell"]),
        ("l1.*_gate", ["l1.input_gate", "l1.forget_gate", "l1.output_gate"]),
        (["l0.hidden", "*.cell"], ["l0.hidden", "l0.cell", "l1.cell"]),
        ("l1.candidate", ["l1.candidate"]),
    ],
)
def test_only_what_the_patterns_name_is_recorded(names: Any, expected: list[str]) -> None:
    model = layer(num_layers=2)
    with unrolled.record(model, names=names) as trace:
        model(inputs())
    assert list(trace) == expected
    assert len(trace) == len(expected)


# Values


def ulps(actual: Tensor, expected: np.ndarray) -> float:
    """The largest distance, in units in the last place of the expected value."""
    return float(np.max(np.abs(actual.detach().numpy() - expected) / np.spacing(np.abs(expected))))


@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_trace_satisfies_the_equations_of_the_cell_at_every_step(reverse: bool) -> None:
    model = layer(num_layers=2, bidirectional=True)
    with unrolled.record(model) as trace:
        model(inputs())
    for prefix in ("l0", "l1"):
        prefix += "_reverse" if reverse else ""
        hidden, cell, i, f, g, o = (trace[f"{prefix}.{name}"].detach() for name in GATES["LSTM"])
        start = trace.initial[f"{prefix}.cell"].unsqueeze(1)
        before = torch.cat([cell[:, 1:], start] if reverse else [start, cell[:, :-1]], dim=1)
        assert torch.equal(cell, f * before + i * g)
        assert ulps(hidden, o.numpy() * np.tanh(cell.numpy())) <= 4
        close(hidden, o * torch.tanh(cell), 1e-15)


@pytest.mark.parametrize("reverse", [False, True])
def test_gru_trace_satisfies_the_equation_of_the_state_at_every_step(reverse: bool) -> None:
    model = layer("GRU", bidirectional=True)
    with unrolled.record(model) as trace:
        model(inputs())
    prefix = "l0_reverse" if reverse else "l0"
    hidden, _, z, n = (trace[f"{prefix}.{name}"].detach() for name in GATES["GRU"])
    start = trace.initial[f"{prefix}.hidden"].unsqueeze(1)
    before = torch.cat([hidden[:, 1:], start] if reverse else [start, hidden[:, :-1]], dim=1)
    assert torch.equal(hidden, (1 - z) * n + z * before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given_states", [False, True])
def test_gates_are_those_of_the_weights_at_every_step(kind: str, given_states: bool) -> None:
    model, x = layer(kind), inputs()
    states = tuple(inputs(1, B, H) for _ in range(2 if kind == "LSTM" else 1)) if given_states else None
    with unrolled.record(model) as trace:
        model(x, states if kind == "LSTM" or states is None else states[0])
    start = trace.initial["l0.hidden"]
    assert torch.equal(start, states[0][0] if states else torch.zeros_like(start))
    hidden = trace["l0.hidden"].detach()
    before = torch.cat([start.unsqueeze(1), hidden[:, :-1]], dim=1)
    from_x = x @ model.weight_ih_l0.t() + model.bias_ih_l0
    from_h = before @ model.weight_hh_l0.t() + model.bias_hh_l0
    if kind == "RNN":
        close(hidden, torch.tanh(from_x + from_h).detach())
    elif kind == "LSTM":
        i, f, g, o = (from_x + from_h).detach().chunk(4, -1)
        for name, value in zip(GATES["LSTM"][2:], (i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()), strict=True):
            close(trace[f"l0.{name}"].detach(), value)
    else:
        (xr, xz, xn), (hr, hz, hn) = from_x.detach().chunk(3, -1), from_h.detach().chunk(3, -1)
        r = torch.sigmoid(xr + hr)
        for name, value in zip(GATES["GRU"][1:], (r, torch.sigmoid(xz + hz), torch.tanh(xn + r * hn)), strict=True):
            close(trace[f"l0.{name}"].detach(), value)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_of_the_last_layer_is_exactly_the_output(kind: str) -> None:
    model = layer(kind, num_layers=2, bidirectional=True)
    with unrolled.record(model, names="*.hidden") as trace:
        output, _ = model(inputs())
    assert torch.equal(torch.cat([trace["l1.hidden"], trace["l1_reverse.hidden"]], dim=-1), output)


def test_final_states_are_the_last_states_of_each_direction() -> None:
    model = layer(num_layers=2, bidirectional=True)
    with unrolled.record(model) as trace:
        _, (hidden, cell) = model(inputs())
    for row, (suffix, last) in enumerate([("l0", -1), ("l0_reverse", 0), ("l1", -1), ("l1_reverse", 0)]):
        assert torch.equal(trace[f"{suffix}.hidden"][:, last], hidden[row])
        assert torch.equal(trace[f"{suffix}.cell"][:, last], cell[row])


def test_projected_lstm_records_the_projected_hidden_state_and_the_wide_cell() -> None:
    model = layer(proj_size=2)
    with unrolled.record(model) as trace:
        output, _ = model(inputs())
    assert torch.equal(trace["l0.hidden"], output)
    assert trace["l0.cell"].shape == (B, T, H)
    before = trace["l0.output_gate"] * torch.tanh(trace["l0.cell"])
    close(trace["l0.hidden"], before @ model.weight_hr_l0.t())


@pytest.mark.parametrize("batch_first", [False, True])
def test_traces_are_batch_first_whatever_the_layer(batch_first: bool) -> None:
    model = nn.GRU(I, H, batch_first=batch_first)
    with unrolled.record(model) as trace:
        output, _ = model(torch.randn(*((B, T, I) if batch_first else (T, B, I))))
    assert torch.equal(trace["l0.hidden"], output if batch_first else output.transpose(0, 1))


def test_unbatched_input_is_a_batch_of_one() -> None:
    model = layer()
    with unrolled.record(model) as trace:
        output, _ = model(inputs(T, I))
    assert torch.equal(trace["l0.hidden"], output.unsqueeze(0))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_a_cell_in_a_users_loop_are_joined_along_time(kind: str) -> None:
    model, x = Loop(kind), inputs()
    same = getattr(unrolled, kind)(I, H, batch_first=True, dtype=torch.float64)
    same.load_state_dict({f"{name}_l0": value for name, value in model.cell.state_dict().items()})
    with unrolled.record(model) as trace:
        model(x)
    with unrolled.record(same) as expected:
        same(x)
    for name in GATES[kind]:
        close(trace[f"cell.{name}"], expected[f"l0.{name}"])
    assert trace.lengths("cell.hidden") is None


def test_unbatched_cell_in_a_users_loop_is_a_batch_of_one() -> None:
    cell = nn.GRUCell(I, H)
    with unrolled.record(cell) as trace:
        first = cell(torch.randn(I))
        second = cell(torch.randn(I), first)
    assert torch.equal(trace["hidden"], torch.stack([first, second]).unsqueeze(0))


def test_several_calls_of_one_layer_are_joined_in_the_order_of_the_calls() -> None:
    model, x = layer(), inputs()
    with unrolled.record(model) as trace:
        first, states = model(x[:, :2])
        assert torch.equal(trace["l0.hidden"], first)
        second, _ = model(x[:, 2:], states)
    assert torch.equal(trace["l0.hidden"], torch.cat([first, second], dim=1))
    assert not trace.initial["l0.hidden"].any()
    close(trace["l0.hidden"], model(x)[0])


def test_a_module_under_two_names_is_recorded_under_the_first() -> None:
    shared = layer()
    model = nn.ModuleDict({"first": shared, "second": shared})
    with unrolled.record(model, names="*.cell") as trace:
        model["first"](inputs())
        model["second"](inputs())
    assert list(trace) == ["first.l0.cell"]
    assert trace["first.l0.cell"].shape == (B, 2 * T, H)


# Sequences of unequal length


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given_states", [False, True])
def test_packed_sequences_are_in_the_users_order_and_zero_after_their_end(kind: str, given_states: bool) -> None:
    model, x = layer(kind, bidirectional=True), inputs()
    states = tuple(inputs(2, B, H) for _ in range(2 if kind == "LSTM" else 1)) if given_states else None
    hx = states if kind == "LSTM" or states is None else states[0]
    with unrolled.record(model) as trace:
        packed, _ = model(pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False), hx)
    output, _ = pad_packed_sequence(packed, batch_first=True)
    assert torch.equal(torch.cat([trace["l0.hidden"], trace["l0_reverse.hidden"]], dim=-1), output)
    for b, length in enumerate(LENGTHS.tolist()):
        row = None if states is None else tuple(state[:, b : b + 1] for state in states)
        with unrolled.record(model) as alone:
            model(x[b : b + 1, :length], row if kind == "LSTM" or row is None else row[0])
        for name, tensor in trace.items():
            close(tensor[b, :length], alone[name][0])
            assert not tensor[b, length:].any()
        for name, value in trace.initial.items():
            assert torch.equal(value[b], alone.initial[name][0])


def test_lengths_are_in_the_users_order_and_none_where_all_are_equal() -> None:
    model, x = layer(), inputs()
    with unrolled.record(model) as trace:
        model(pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False))
    assert torch.equal(trace.lengths("l0.cell"), LENGTHS)
    with unrolled.record(model) as trace:
        model(x)
    assert trace.lengths("l0.cell") is None


def test_gradient_by_a_state_of_a_packed_sequence_is_that_of_the_sequence_alone() -> None:
    model, x = layer(), inputs()
    packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    with unrolled.record(model) as trace:
        _, (hidden, _) = model(packed)
    (gradient,) = torch.autograd.grad(hidden.square().sum(), trace["l0.cell"])
    for b, length in enumerate(LENGTHS.tolist()):
        hand = Hand(model, x[b : b + 1, :length])
        hand["hidden"][-1].square().sum().backward()
        close(gradient[b : b + 1, :length], hand.gradient("cell"))
        assert not gradient[b, length:].any()


# The model is left as it was


class Doubling(nn.LSTM):
    """A user's layer with its own forward around torch's."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        output, states = super().forward(2 * input, hx)
        return output + 1, states


def test_class_is_restored_after_the_context() -> None:
    model = nn.Sequential(layer(), Doubling(H, H), unrolled.GRU(H, H))
    with unrolled.record(model):
        assert all(isinstance(m, (unrolled.LSTM, unrolled.GRU)) for m in model)
    assert [type(module) for module in model] == [nn.LSTM, Doubling, unrolled.GRU]


def test_class_is_restored_after_an_exception() -> None:
    model = layer()
    with pytest.raises(ZeroDivisionError), unrolled.record(model):
        raise ZeroDivisionError
    assert type(model) is nn.LSTM
    with unrolled.record(model) as trace:
        model(inputs())
    assert len(trace) == len(GATES["LSTM"])


def test_layers_that_no_name_chooses_keep_their_class_inside_the_context() -> None:
    model = nn.ModuleDict({"a": layer(), "b": layer("GRU")})
    with unrolled.record(model, names="a.*"):
        assert type(model["b"]) is nn.GRU


def test_hooks_and_dict_are_untouched_and_hooks_are_called_once_a_call() -> None:
    model, called = layer(), []
    model.register_forward_hook(lambda module, args, output: called.append(output[0]))
    before = dict(model.__dict__)
    with unrolled.record(model):
        assert model.__dict__ == before
        output, _ = model(inputs())
    assert model.__dict__ == before
    assert len(called) == 1
    assert called[0] is output


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_outputs_are_bit_for_bit_those_of_the_unrolled_layer_and_near_torchs(kind: str) -> None:
    model, x = getattr(nn, kind)(I, H, num_layers=2, bidirectional=True), torch.randn(T, B, I)
    plain, _ = model(x)
    with unrolled.record(model):
        first, _ = model(x)
    with unrolled.record(model, names="*.hidden", detach=True):
        second, _ = model(x)
    again, _ = model(x)
    unrolled.convert(model)
    assert torch.equal(first, second)
    assert torch.equal(first, model(x)[0])
    assert torch.equal(again, plain)
    close(first, plain, 1e-6)


def test_a_users_subclass_is_recorded_through_its_own_forward() -> None:
    model, x = Doubling(I, H, batch_first=True), torch.randn(B, T, I)
    expected, _ = model(x)
    with unrolled.record(model) as trace:
        output, _ = model(x)
    close(output, expected, 1e-6)
    assert torch.equal(trace["l0.hidden"] + 1, output)
    assert type(model) is Doubling


def test_dropout_draws_the_same_numbers_inside_the_context() -> None:
    model, x = layer(num_layers=2, dropout=0.5), inputs()
    torch.manual_seed(1)
    expected, _ = model(x)
    torch.manual_seed(1)
    with unrolled.record(model):
        output, _ = model(x)
    close(output, expected)


def test_calls_before_and_after_the_context_are_not_recorded() -> None:
    model = unrolled.LSTM(I, H, batch_first=True, dtype=torch.float64)
    model(inputs())
    with unrolled.record(model) as trace:
        model(inputs())
    model(inputs())
    assert trace["l0.cell"].shape == (B, T, H)


def test_a_trace_is_readable_while_it_grows() -> None:
    model = layer()
    with unrolled.record(model) as trace:
        assert repr(trace) == "Trace of nothing yet"
        assert (len(trace), list(trace)) == (0, [])
        model(inputs())
        assert trace["l0.cell"].shape == (B, T, H)
        assert trace["l0.cell"] is trace["l0.cell"]
        model(inputs())
        assert trace["l0.cell"].shape == (B, 2 * T, H)
        assert "l0.cell: (3, 10, 4)" in repr(trace)


def test_nested_records_each_hold_what_they_asked_for_while_they_were_open() -> None:
    model = layer()
    with unrolled.record(model) as outer:
        model(inputs())
        with unrolled.record(model, names="*.cell", detach=True) as inner:
            model(inputs())
        assert isinstance(model, unrolled.LSTM)
        model(inputs())
    assert type(model) is nn.LSTM
    assert outer["l0.cell"].shape == (B, 3 * T, H)
    assert list(inner) == ["l0.cell"]
    assert torch.equal(inner["l0.cell"], outer["l0.cell"][:, T : 2 * T])
    assert outer["l0.cell"].requires_grad


def test_records_of_a_part_and_of_the_whole_name_it_from_their_own_root() -> None:
    model = nn.ModuleDict({"part": layer()})
    with unrolled.record(model) as whole, unrolled.record(model["part"]) as part:
        model["part"](inputs())
    assert torch.equal(whole["part.l0.cell"], part["l0.cell"])


def test_records_in_two_threads_hold_their_own_calls_and_restore_the_class() -> None:
    model, xs, traces = layer(), [inputs(), inputs()], {}
    both = threading.Barrier(2, timeout=30)

    def work(index: int) -> None:
        with unrolled.record(model, detach=True) as trace:
            both.wait()
            for _ in range(5):
                model(xs[index])
            both.wait()
            traces[index] = trace

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert type(model) is nn.LSTM
    for index, x in enumerate(xs):
        close(traces[index]["l0.hidden"], model(x)[0].detach().repeat(1, 5, 1))


# What is refused


def test_a_name_whose_layer_was_not_called_is_a_key_error_that_says_so() -> None:
    with unrolled.record(layer()) as trace:
        pass
    with pytest.raises(KeyError, match=r"'l0\.cell' was not recorded: its layer was not called"):
        trace["l0.cell"]
    assert "l0.cell" not in trace


def test_a_name_that_is_not_in_the_trace_is_a_key_error_that_lists_the_names() -> None:
    model = layer("GRU")
    with unrolled.record(model) as trace:
        model(inputs())
    with pytest.raises(KeyError, match=r"'l0\.cell' is not in this trace; it has l0\.hidden, l0\.reset_gate"):
        trace["l0.cell"]
    with pytest.raises(KeyError, match="is not in this trace"):
        trace.lengths("cell")


def test_calls_with_batches_of_different_sizes_cannot_be_joined() -> None:
    model = layer()
    with unrolled.record(model) as trace:
        model(inputs(2, T, I))
        model(inputs(3, T, I))
    with pytest.raises(ValueError, match=r"'l0\.cell': its layer was called with batches of 2 and of 3"):
        trace["l0.cell"]
    assert "l0.cell" in trace
    assert "l0.cell: (2 and 3, 10, 4)" in repr(trace)


def test_a_pattern_that_matches_nothing_is_refused_with_the_names_there_are() -> None:
    with (
        pytest.raises(ValueError, match=r"names='\*\.cells' matches nothing in the model; it has l0\.hidden, l0\.cell"),
        unrolled.record(layer(), names=["*.hidden", "*.cells"]),
    ):
        pass


def test_a_model_without_recurrent_layers_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="record: model Linear has no recurrent layer"),
        unrolled.record(nn.Linear(2, 2)),
    ):
        pass


@pytest.mark.parametrize("wrong", [None, nn.LSTM, torch.zeros(2)])
def test_what_is_not_a_module_is_refused(wrong: Any) -> None:
    message = f"record: model must be a torch.nn.Module, given {type(wrong).__name__}"
    with pytest.raises(TypeError, match=message), unrolled.record(wrong):
        pass


def test_a_call_that_torch_takes_but_that_has_no_steps_to_show_is_refused_while_recording() -> None:
    model = layer()
    with (
        unrolled.record(model),
        pytest.raises(ValueError, match=r"cannot open a call of LSTM with input .*\(0, 5, 2\)"),
    ):
        model(inputs(0, T, I))


# A recorded tensor is a tensor


def saved_and_loaded(tensor: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda t: pickle.loads(pickle.dumps(t)), saved_and_loaded]
)
@pytest.mark.parametrize("part", [lambda s: s, lambda s: s[:, 1]])
def test_a_copy_of_a_recorded_tensor_is_a_plain_tensor_of_the_same_values(copied: Any, part: Any) -> None:
    model = layer()
    with unrolled.record(model) as trace:
        model(inputs())
    tensor = part(trace["l0.cell"])
    replica = copied(tensor)
    assert type(replica) is Tensor
    assert not replica.requires_grad
    assert torch.equal(replica, tensor)


def test_a_recorded_tensor_is_read_as_any_tensor() -> None:
    model = layer()
    with unrolled.record(model) as trace:
        output, _ = model(inputs())
    hidden = trace["l0.hidden"]
    assert np.array_equal(hidden.detach().numpy(), output.detach().numpy())
    assert hidden.tolist() == output.tolist()
    assert hidden[0, 0, 0].item() == output[0, 0, 0].item()
    assert "grad_fn" in repr(hidden)
    assert type(hidden + 1) is Tensor
    assert type(hidden.mean()) is Tensor
    assert [type(row) for row in hidden] == [Tensor] * B
    assert type(torch.cat([hidden, output])) is Tensor
    assert isinstance(hidden, Tensor)
    with torch.no_grad(), unrolled.record(model) as trace:
        model(inputs())
    assert trace["l0.hidden"].numpy().shape == (B, T, H)
