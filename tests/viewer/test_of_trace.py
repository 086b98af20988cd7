"""A trace of any model, with what its owner gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unrolled
from unrolled.viewer.opening.of_trace import inputs_of_file, of_trace, text_of_file
from unrolled.viewer.recorded import Characters, Values


def traced(batch: int, steps: int, **options: Any) -> tuple[torch.nn.Module, torch.Tensor, unrolled.Trace]:
    model, inputs = unrolled.GRU(2, 3, batch_first=True), torch.randn(batch, steps, 2)
    with torch.no_grad(), unrolled.record(model, detach=True) as trace:
        model(inputs, **options)
    return model, inputs, trace


def test_trace_alone_knows_its_lengths_and_resets() -> None:
    reset = torch.zeros(2, 4, dtype=torch.bool)
    reset[1, 2] = True
    _, _, trace = traced(2, 4, lengths=torch.tensor([4, 3]), reset=reset)
    found = of_trace(trace)
    assert found.lengths == (4, 3)
    assert found.reset is not None
    assert torch.equal(found.reset, reset)
    assert (found.read, found.labels, found.model, found.loss) == (None, (), None, None)


def test_inputs_are_shown_as_values_and_text_goes_before_them() -> None:
    _, inputs, trace = traced(1, 4)
    found = of_trace(trace, inputs=inputs)
    assert isinstance(found.read, Values)
    assert found.read.channels == ("input 0", "input 1")
    np.testing.assert_array_equal(found.read.values, inputs.numpy())
    assert of_trace(trace, inputs=inputs, text="a<b>").read == Characters(("a<b>",))


def test_one_sequence_may_be_given_without_its_dimension() -> None:
    _, inputs, trace = traced(1, 4)
    found = of_trace(trace, inputs=inputs[0].numpy(), labels={"even": [True, False, True, False], "n": np.arange(4)})
    assert found.inputs is not None
    assert torch.equal(found.inputs, inputs)
    assert found.label("even").values.tolist() == [[1, 0, 1, 0]]
    assert found.label("n").most == 3
    assert of_trace(trace, inputs=np.arange(4)).inputs is not None


def test_inputs_too_wide_to_be_read_are_kept_and_not_shown() -> None:
    _, _, trace = traced(1, 4)
    found = of_trace(trace, inputs=torch.zeros(1, 4, 98))
    assert found.read is None
    assert found.inputs is not None


def test_network_is_a_copy_in_eval_mode() -> None:
    model, _, trace = traced(1, 4)
    model.train()
    found = of_trace(trace, model=model)
    assert found.model is not None
    loaded = found.model()
    assert not loaded.training
    assert model.training
    assert loaded is not model


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"text": "abc"}, ValueError, "characters"),
        ({"text": ["abcd", "abcd"]}, ValueError, "text: 2 given, expected 1"),
        ({"labels": {"half": [0.5, 0, 0, 0]}}, TypeError, "labels: 'half' is of float64"),
        ({"labels": {"short": [1, 0]}}, ValueError, "label 'short'"),
        ({"inputs": torch.zeros(3, 4, 2)}, ValueError, "inputs: given"),
    ],
    ids=["short text", "two texts", "halves", "short label", "inputs"],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], error: type[Exception], said: str) -> None:
    _, _, trace = traced(1, 4)
    with pytest.raises(error, match=said):
        of_trace(trace, **given)


def test_text_of_a_file_is_a_character_a_step(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    for written, expected in (
        (b"ab\ncd", "ab\ncd"),
        (b"ab\r\ncd", "ab\ncd"),
        (b"ab\ncd\n", "ab\ncd"),
        ("a字\n".encode(), "a字"),
    ):
        path.write_bytes(written)
        assert text_of_file(path, [len(expected)]) == (expected,)
    # What was fed with its carriage return keeps it.
    path.write_bytes(b"ab\r\ncd")
    assert text_of_file(path, [6]) == ("ab\r\ncd",)


def test_text_of_several_sequences_is_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("abc\nab\n")
    assert text_of_file(path, [3, 2]) == ("abc", "ab")
    with pytest.raises(ValueError, match="has 2 lines; expected 3"):
        text_of_file(path, [3, 2, 1])


def test_text_of_another_length_or_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("abc")
    with pytest.raises(ValueError, match="has 3 characters, expected 5, one for each step"):
        text_of_file(path, [5])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="--text: .* is not UTF-8"):
        text_of_file(path, [2])


def test_inputs_of_a_file_of_numpy_are_read_and_nothing_in_it_is_run(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 4, 2), np.float32))
    assert inputs_of_file(tmp_path / "a.npy").inputs.shape == (1, 4, 2)
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="is no array"):
        inputs_of_file(tmp_path / "o.npy")
    (tmp_path / "e.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="is no array"):
        inputs_of_file(tmp_path / "e.npy")
