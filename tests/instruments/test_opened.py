from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unrolled
from networks import BATCH, Headed, Loop, Packing, forced_lstm, inputs_of, padded
from unrolled.instruments.opened import course, exact, open_layer, stream


def test_stream_of_one_tensor_is_one_batch() -> None:
    x = inputs_of()
    (batch,) = stream(x)
    assert batch.inputs is x
    assert batch.rest == ()


def test_stream_takes_tensors_and_tuples_and_lists_that_begin_with_one() -> None:
    x, labels = inputs_of(), torch.arange(BATCH)
    found = list(stream(iter([x, (x, labels, "name"), [x, labels], (x,)])))
    assert all(batch.inputs is x for batch in found)
    assert [batch.rest for batch in found] == [(), (labels, "name"), (labels,), ()]


def test_stream_takes_a_data_loader() -> None:
    data = torch.utils.data.TensorDataset(inputs_of(batch=5), torch.arange(5))
    found = list(stream(torch.utils.data.DataLoader(data, batch_size=2)))
    assert [len(batch.inputs) for batch in found] == [2, 2, 1]
    assert [batch.rest[0].tolist() for batch in found] == [[0, 1], [2, 3], [4]]


def test_stream_asks_for_a_batch_only_when_it_is_wanted() -> None:
    asked = []

    def batches() -> Iterator[Tensor]:
        for number in range(3):
            asked.append(number)
            yield inputs_of()

    found = stream(batches())
    assert asked == []
    next(found)
    assert asked == [0]


@pytest.mark.parametrize("given", [["a"], [("a", 1)], [np.zeros((2, 3, 4))], [{"x": 1}]])
def test_stream_of_something_else_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="inputs: expected tensors, or tuples that begin with one; given "):
        list(stream(given))


def test_empty_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="inputs: no batch was given"):
        list(stream([]))


def test_only_layer_of_a_model_need_not_be_named() -> None:
    found = open_layer(Headed("GRU"), None)
    assert (found.name, found.prefix, found.suffix, found.mode) == (
        "encoder.core.l0",
        "encoder.core.l0.",
        "l0",
        "GRU",
    )
    assert open_layer(unrolled.RNN(2, 3, nonlinearity="relu"), None).mode == "RNN_RELU"


def test_cell_of_a_loop_is_a_layer_and_so_is_a_bare_cell() -> None:
    assert open_layer(Loop("LSTM"), None).prefix == "cell."
    bare = open_layer(nn.GRUCell(2, 3), "")
    assert (bare.name, bare.prefix, bare.mode) == ("", "", "GRU")


def test_layer_of_several_has_to_be_named() -> None:
    model = nn.LSTM(2, 4, num_layers=2, bidirectional=True)
    every = "l0, l0_reverse, l1, l1_reverse"
    with pytest.raises(ValueError, match=f"layer: the model has 4 recurrent layers; expected one of {every}"):
        open_layer(model, None)
    with pytest.raises(ValueError, match=f"layer: 'l2' is not in the model; expected one of {every}"):
        open_layer(model, "l2")
    assert open_layer(model, "l1_reverse").reverse
    assert not open_layer(model, "l1").reverse


def test_model_without_a_recurrent_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="model: Linear has no recurrent layer"):
        open_layer(nn.Linear(2, 3), None)
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module, given function"):
        open_layer(lambda x: x, None)  # type: ignore[arg-type]


def test_exact_copy_is_in_float64_and_draws_nothing() -> None:
    model = Headed("LSTM").train()
    found = exact(model)
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float64}
    assert not any(module.training for module in found.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.training


def test_course_has_before_each_step_what_was_after_the_one_before() -> None:
    layer, x = unrolled.LSTM(2, 4, batch_first=True, dtype=torch.float64), inputs_of(8)
    begin = torch.randn(2, BATCH, 4, dtype=torch.float64).split(1)

    class From(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.core(x, begin)[0]

    model = From()
    found = course(model, x, open_layer(model, None))
    for state, first in zip(range(2), begin, strict=True):
        assert torch.equal(found.before[state][:, 0], first[0])
        assert torch.equal(found.before[state][:, 1:], found.after[state][:, :-1])
    assert torch.equal(found.after[0], layer(x, begin)[0])
    assert len(found.gates) == 4
    forget, cell = found.gates[1], found.gates[0] * found.gates[2]
    torch.testing.assert_close(found.after[1], forget * found.before[1] + cell)
    assert not any(tensor.requires_grad for part in found for tensor in part)


def test_course_of_a_reverse_layer_runs_from_the_end() -> None:
    layer, x = unrolled.GRU(2, 4, batch_first=True, bidirectional=True, dtype=torch.float64), inputs_of(8)
    found = course(layer, x, open_layer(layer, "l0_reverse"))
    assert torch.equal(found.after[0], layer(x)[0][..., 4:].flip(1))
    assert not found.before[0][:, 0].any()
    reset, update, candidate = found.gates
    torch.testing.assert_close(found.after[0], (1 - update) * candidate + update * found.before[0])
    assert reset.shape == (BATCH, 8, 4)


def test_course_of_sequences_of_unequal_length_is_refused() -> None:
    model = Packing(forced_lstm(0.9))
    with pytest.raises(ValueError, match=r"inputs: the sequences of 'core.l0' are of unequal length or are reset"):
        course(model, padded(inputs_of(8), [8, 3, 5]), open_layer(model, None))


def test_course_of_sequences_that_are_reset_is_refused() -> None:
    class Resetting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = forced_lstm(0.9)

        def forward(self, x: Tensor) -> Tensor:
            return self.core(x, reset=x[..., 0] > 0)[0]

    model = Resetting()
    with pytest.raises(ValueError, match=r"inputs: the sequences of 'core.l0' are of unequal length or are reset"):
        course(model, inputs_of(8), open_layer(model, None))
