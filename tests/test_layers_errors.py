"""A call that torch.nn refuses is refused with torch.nn's own exception type and message."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import unrolled

LAYERS = ["RNN", "GRU", "LSTM"]
CELLS = ["RNNCell", "GRUCell", "LSTMCell"]
I, H, T, B = 3, 4, 5, 2  # noqa: E741


def refusal(make: Any, *args: Any, **kwargs: Any) -> tuple[type[Exception], str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - torch's own exception is what is compared
        make(*args, **kwargs)
    return type(caught.value), str(caught.value)


def states(kind: str, *shape: int, dtype: torch.dtype = torch.float32) -> Any:
    hidden = torch.zeros(shape, dtype=dtype)
    return (hidden, hidden.clone()) if kind.startswith("LSTM") else hidden


def packed(size: int) -> Any:
    return pack_padded_sequence(torch.zeros(T, B, size), torch.tensor([5, 2]))


# What is wrong with the call -> its arguments, given the kind of layer.
BAD_LAYER_CALLS: dict[str, Any] = {
    "input of one dimension": lambda kind: (torch.zeros(I),),
    "input of four dimensions": lambda kind: (torch.zeros(T, B, I, 1),),
    "input of no dimension": lambda kind: (torch.zeros(()),),
    "input not a tensor": lambda kind: ([0.0],),
    "input of another size": lambda kind: (torch.zeros(T, B, I + 1),),
    "unbatched input of another size": lambda kind: (torch.zeros(T, I + 1),),
    "input of another dtype": lambda kind: (torch.zeros(T, B, I, dtype=torch.float64),),
    "input of integers": lambda kind: (torch.zeros(T, B, I, dtype=torch.int64),),
    "sequence of length zero": lambda kind: (torch.zeros(0, B, I),),
    "unbatched sequence of length zero": lambda kind: (torch.zeros(0, I),),
    "states of another batch size": lambda kind: (torch.zeros(T, B, I), states(kind, 1, B + 1, H)),
    "states of another width": lambda kind: (torch.zeros(T, B, I), states(kind, 1, B, H + 1)),
    "states of too many layers": lambda kind: (torch.zeros(T, B, I), states(kind, 2, B, H)),
    "states of another dtype": lambda kind: (torch.zeros(T, B, I), states(kind, 1, B, H, dtype=torch.float64)),
    "unbatched states for batched input": lambda kind: (torch.zeros(T, B, I), states(kind, 1, H)),
    "batched states for unbatched input": lambda kind: (torch.zeros(T, I), states(kind, 1, 1, H)),
    "states of one dimension": lambda kind: (torch.zeros(T, B, I), states(kind, H)),
    "packed input of another size": lambda kind: (packed(I + 1),),
    "packed input with states of another batch size": lambda kind: (packed(I), states(kind, 1, B + 1, H)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("wrong", BAD_LAYER_CALLS)
def test_layer_refuses_what_torch_refuses_in_the_same_words(kind: str, wrong: str) -> None:
    args = BAD_LAYER_CALLS[wrong](kind)
    assert refusal(getattr(unrolled, kind)(I, H), *args) == refusal(getattr(nn, kind)(I, H), *args)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


BAD_LSTM_STATES: dict[str, Any] = {
    "a tensor instead of a tuple": lambda: zeros(1, B, H),
    "a tuple of one": lambda: (zeros(1, B, H),),
    "a cell of another width": lambda: (zeros(1, B, H), zeros(1, B, H + 1)),
    "a cell of another batch size": lambda: (zeros(1, B, H), zeros(1, B + 1, H)),
    "an unbatched cell": lambda: (zeros(1, B, H), zeros(1, H)),
}


@pytest.mark.parametrize("wrong", BAD_LSTM_STATES)
def test_lstm_refuses_the_states_that_torch_refuses_in_the_same_words(wrong: str) -> None:
    args = (zeros(T, B, I), BAD_LSTM_STATES[wrong]())
    assert refusal(unrolled.LSTM(I, H), *args) == refusal(nn.LSTM(I, H), *args)


def test_projected_lstm_refuses_a_hidden_state_of_the_cells_width_in_torchs_words() -> None:
    args = (zeros(T, B, I), (zeros(1, B, H), zeros(1, B, H)))
    assert refusal(unrolled.LSTM(I, H, proj_size=2), *args) == refusal(nn.LSTM(I, H, proj_size=2), *args)


@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_a_tuple_of_states_for_a_layer_with_one_state_is_refused_in_torchs_words(kind: str) -> None:
    args = (zeros(T, B, I), (zeros(1, B, H), zeros(1, B, H)))
    assert refusal(getattr(unrolled, kind)(I, H), *args) == refusal(getattr(nn, kind)(I, H), *args)


BAD_CELL_CALLS: dict[str, Any] = {
    "input of no dimension": lambda kind: (torch.zeros(()),),
    "input of three dimensions": lambda kind: (torch.zeros(1, B, I),),
    "input of another size": lambda kind: (torch.zeros(B, I + 1),),
    "unbatched input of another size": lambda kind: (torch.zeros(I + 1),),
    "input of another dtype": lambda kind: (torch.zeros(B, I, dtype=torch.float64),),
    "states of another batch size": lambda kind: (torch.zeros(B, I), states(kind, B + 1, H)),
    "states of another width": lambda kind: (torch.zeros(B, I), states(kind, B, H + 1)),
    "states of three dimensions": lambda kind: (torch.zeros(B, I), states(kind, 1, B, H)),
    "states of another dtype": lambda kind: (torch.zeros(B, I), states(kind, B, H, dtype=torch.float64)),
    "unbatched states for batched input": lambda kind: (torch.zeros(B, I), states(kind, H)),
}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("wrong", BAD_CELL_CALLS)
def test_cell_refuses_what_torch_refuses_in_the_same_words(kind: str, wrong: str) -> None:
    args = BAD_CELL_CALLS[wrong](kind)
    assert refusal(getattr(unrolled, kind)(I, H), *args) == refusal(getattr(nn, kind)(I, H), *args)


BAD_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {"input_size": 3, "hidden_size": 0}) for kind in LAYERS),
    *((kind, {"input_size": 3, "hidden_size": 4.0}) for kind in LAYERS),
    *((kind, {"input_size": 3, "hidden_size": 4, "num_layers": 0}) for kind in LAYERS),
    *((kind, {"input_size": 3, "hidden_size": 4, "dropout": 1.5}) for kind in LAYERS),
    *((kind, {"input_size": 3, "hidden_size": 4, "unknown": 1}) for kind in LAYERS + CELLS),
    *((kind, {"input_size": 3}) for kind in LAYERS + CELLS),
    ("LSTM", {"input_size": 3, "hidden_size": 4, "proj_size": 4}),
    ("LSTM", {"input_size": 3, "hidden_size": 4, "proj_size": -1}),
    ("GRU", {"input_size": 3, "hidden_size": 4, "proj_size": 2}),
    ("RNN", {"input_size": 3, "hidden_size": 4, "nonlinearity": "sigmoid"}),
]


@pytest.mark.parametrize(("kind", "options"), BAD_OPTIONS)
def test_constructor_refuses_the_options_that_torch_refuses_in_the_same_words(kind: str, options: Any) -> None:
    assert refusal(getattr(unrolled, kind), **options) == refusal(getattr(nn, kind), **options)
