"""The network that studies train: its size, its forget bias and the search for a hidden size."""

from __future__ import annotations

import pytest
import torch

from unrolled.model import SequenceModel, count_parameters, matched_hidden_size

BLOCKS = {"rnn": 1, "gru": 3, "lstm": 4}


def closed_form(cell: str, inputs: int, hidden: int, outputs: int) -> int:
    """Parameters of a layer with torch's two biases, and of the readout."""
    return BLOCKS[cell] * hidden * (inputs + hidden + 2) + outputs * (hidden + 1)


@pytest.mark.parametrize("cell", BLOCKS)
def test_number_of_parameters_is_the_closed_form(cell: str) -> None:
    assert count_parameters(SequenceModel(cell, 5, 7, 3)) == closed_form(cell, 5, 7, 3)


@pytest.mark.parametrize("cell", BLOCKS)
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (17, 8), (96, 96)])
def test_matched_hidden_size_is_the_nearest_of_all(cell: str, inputs: int, outputs: int) -> None:
    sizes = range(1, 120)
    for parameters in (closed_form(cell, inputs, 1, outputs), 700, 701, 1_234, 6_100, 12_345):
        if closed_form(cell, inputs, 1, outputs) > 2 * parameters:
            continue
        found = matched_hidden_size(cell, inputs, outputs, parameters)
        distances = {size: abs(closed_form(cell, inputs, size, outputs) - parameters) for size in sizes}
        assert distances[found] == min(distances.values())


@pytest.mark.parametrize("cell", BLOCKS)
def test_matched_hidden_size_of_an_exact_number_is_exact(cell: str) -> None:
    for hidden in (1, 2, 3, 8, 33):
        assert matched_hidden_size(cell, 4, 2, closed_form(cell, 4, hidden, 2)) == hidden


@pytest.mark.parametrize("cell", BLOCKS)
def test_too_few_parameters_are_refused_with_what_one_unit_takes(cell: str) -> None:
    one = closed_form(cell, 17, 1, 8)
    assert matched_hidden_size(cell, 17, 8, (one + 1) // 2) == 1
    with pytest.raises(ValueError, match=f"parameters: {(one - 1) // 2} is too few for a {cell} .* takes {one}"):
        matched_hidden_size(cell, 17, 8, (one - 1) // 2)


@pytest.mark.parametrize("bias", [-1.0, 1.0, 3.0])
def test_forget_gates_of_an_lstm_start_from_the_forget_bias(bias: float) -> None:
    torch.manual_seed(3)
    layer = SequenceModel("lstm", 2, 4, 1, forget_bias=bias).recurrent
    torch.manual_seed(3)
    other = SequenceModel("lstm", 2, 4, 1, forget_bias=7.0).recurrent
    total = layer.bias_ih_l0 + layer.bias_hh_l0
    assert (total[4:8] == bias).all()
    # Everything else is torch's own initialisation.
    kept = [*range(4), *range(8, 16)]
    assert torch.equal(layer.bias_ih_l0[kept], other.bias_ih_l0[kept])
    assert (total[kept] != bias).all()


def test_answers_are_read_at_every_step() -> None:
    assert SequenceModel("gru", 3, 5, 2)(torch.zeros(4, 6, 3)).shape == (4, 6, 2)


def test_unknown_cell_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="cell: unknown cell 'mamba'; expected one of rnn, gru, lstm"):
        SequenceModel("mamba", 2, 3, 1)
