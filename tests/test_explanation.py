"""explain(): what it says of a call is what happens."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import unrolled
from unrolled.cli import main
from unrolled.layers import Weights, weights_of
from unrolled.recurrence import cpu, dispatch, library


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def chosen(text: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith(">"))
    return line.split()[1]


def test_float32_on_the_cpu_is_computed_by_the_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    unrolled.explain(unrolled.LSTM(3, 4), torch.zeros(5, 2, 3))
    text = said(capsys)
    assert chosen(text) == "cpu"
    assert f"{cpu.kernels().build} build" in text
    assert "LSTM(3, 4), input (5, 2, 3), float32 on cpu" in text


def test_the_reason_why_the_kernels_are_not_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    unrolled.explain(unrolled.GRU(3, 4).double(), torch.zeros(5, 2, 3).double())
    text = said(capsys)
    assert chosen(text) == "reference"
    assert "no: the kernels compute float32, the call is float64" in text


def test_a_packed_input_and_a_recorded_call_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    packed = pack_sequence([torch.zeros(4, 3), torch.zeros(2, 3)])
    unrolled.explain(unrolled.RNN(3, 4), packed, recorded=True)
    text = said(capsys)
    assert "packed input (6, 3)" in text
    assert "states are opened, torch's layer does not show them" in text


def test_a_layer_of_torch_is_told_to_compute_by_itself_until_it_is_converted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    unrolled.explain(nn.LSTM(3, 4), torch.zeros(5, 2, 3))
    assert "a layer of torch.nn computes by itself" in said(capsys)
    unrolled.explain(unrolled.convert(nn.LSTM(3, 4)), torch.zeros(5, 2, 3))
    assert "computes by itself" not in said(capsys)


def test_a_cell_is_told_to_have_no_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    unrolled.explain(unrolled.GRUCell(3, 4), torch.zeros(2, 3))
    text = said(capsys)
    assert chosen(text) == "reference"
    assert "one step at a time" in text


def test_a_forced_backend_is_said_to_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with unrolled.backend("reference"):
        unrolled.explain(unrolled.LSTM(3, 4), torch.zeros(5, 2, 3))
    text = said(capsys)
    assert chosen(text) == "reference"
    assert "asked for" in text


@pytest.mark.parametrize("in_a_call", [True, False])
def test_missing_kernels_are_explained_with_the_way_to_get_them(
    in_a_call: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "_load", lambda: library.MISSING)
    if in_a_call:
        unrolled.explain(unrolled.LSTM(3, 4), torch.zeros(5, 2, 3))
    else:
        unrolled.explain()
    assert library.MISSING in said(capsys)
    assert dispatch.choose(dispatch.Call(torch.zeros(5, 2, 3), [_weights()], False)) == "reference"


def _weights() -> Weights:
    return weights_of(unrolled.LSTM(3, 4), "l0")


def test_the_command_tells_what_this_installation_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    text = said(capsys)
    for build in cpu.kernels().builds:
        assert build in text


def test_what_is_not_a_layer_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="explain: module must be an RNN, GRU or LSTM .* given Linear"):
        unrolled.explain(nn.Linear(3, 4), torch.zeros(2, 3))
    with pytest.raises(TypeError, match="explain: x must be the input of the call of LSTM, given None"):
        unrolled.explain(unrolled.LSTM(3, 4))
