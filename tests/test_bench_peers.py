"""The loop over torch.nn's cells, FlashRNN and TorchRL in the bench: given the row's numbers, read by their names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench_peers_of_a_gpu import install_flashrnn, install_torchrl
from unrolled.bench import CELLS, DTYPES, Row, Wrong, flash_rnn, torch_rl
from unrolled.bench.contestants import CONTESTANTS, GPU_PEERS
from unrolled.bench.dtypes import products
from unrolled.bench.numbers import draw
from unrolled.bench.rows import INFERENCE, TRAINING, TRAINING_TO_INPUT
from unrolled.bench.truth import Truth, judge

ENTRIES = [(name, cell) for name in ("steps", *GPU_PEERS) for cell in CELLS if (name, cell) != ("torchrl", "rnn")]
DEEP = Row(2, 3, 4, 5, layers=2, bidirectional=True)


def judged(name: str, cell: str, row: Row, phase: str, dtype: str = "float32") -> float | Wrong:
    contestant, numbers = CONTESTANTS[name], draw(cell, row, dtype)
    assert contestant.refusal(numbers, phase) is None
    with products(DTYPES[dtype]):
        work, read = contestant.enter(numbers, phase, 1)
        results = read(work())
    expected = Truth(numbers).expected(phase, opened=contestant.opened, stepped=contestant.stepped)
    assert set(results) == set(expected)
    return judge(results, expected, DTYPES[dtype].tolerance)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    install_flashrnn(monkeypatch)
    install_torchrl(monkeypatch)


@pytest.mark.parametrize("phase", [INFERENCE, TRAINING, TRAINING_TO_INPUT])
@pytest.mark.parametrize(("name", "cell"), ENTRIES)
def test_states_and_every_gradient_are_those_of_the_row(stand_ins: None, name: str, cell: str, phase: str) -> None:
    error = judged(name, cell, DEEP, phase)
    assert isinstance(error, float)
    assert error < 1e-6


@pytest.mark.parametrize("loss", ["last", "sum", "squares"])
@pytest.mark.parametrize("name", ["steps", *GPU_PEERS])
def test_every_loss_is_that_of_the_row(stand_ins: None, name: str, loss: str) -> None:
    error = judged(name, "gru", replace(DEEP, loss=loss), TRAINING_TO_INPUT)
    assert isinstance(error, float)
    assert error < 1e-6


@pytest.mark.parametrize("name", ["steps", *GPU_PEERS])
def test_second_call_leaves_the_gradients_of_one(stand_ins: None, name: str) -> None:
    numbers, contestant = draw("lstm", DEEP), CONTESTANTS[name]
    with products(DTYPES["float32"]):
        work, read = contestant.enter(numbers, TRAINING_TO_INPUT, 1)
        first = {key: value.clone() for key, value in read(work()).items()}
        again = read(work())
    assert first.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in first.items())


@pytest.mark.parametrize("name", ["steps", *GPU_PEERS])
def test_random_numbers_stay_the_user_s(stand_ins: None, name: str) -> None:
    numbers, before = draw("lstm", DEEP), torch.random.get_rng_state()
    CONTESTANTS[name].enter(numbers, TRAINING, 1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_loop_of_steps_computes_in_the_dtype_of_the_row(dtype: str) -> None:
    numbers = draw("lstm", DEEP, dtype)
    work, read = CONTESTANTS["steps"].enter(numbers, TRAINING, 1)
    assert {value.dtype for value in read(work()).values()} == {DTYPES[dtype].stored}
    assert isinstance(judged("steps", "lstm", DEEP, TRAINING, dtype), float)


def test_flashrnn_is_given_the_dtype_and_its_fused_kernels_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    used = install_flashrnn(monkeypatch)
    for dtype, cell, hidden, backend in [
        ("bfloat16", "lstm", 32, "cuda_fused"),
        ("float16", "rnn", 16, "cuda_fused"),
        # Fused kernels multiply float32 in tf32.
        ("tf32", "lstm", 32, "cuda_fused"),
        ("float32", "lstm", 32, "cuda"),
        # There are none for a GRU, and none for sizes that are no multiple of 16.
        ("bfloat16", "gru", 32, "cuda"),
        ("bfloat16", "lstm", 24, "cuda"),
    ]:
        assert isinstance(judged("flashrnn", cell, Row(2, 3, 4, hidden), INFERENCE, dtype), float)
        assert (used[-1].backend, used[-1].dtype) == (backend, "float32" if dtype == "tf32" else dtype)


def test_flashrnn_does_not_enter_in_tf32_where_it_would_multiply_exactly() -> None:
    for cell, hidden, enters in [("lstm", 32, True), ("gru", 32, False), ("lstm", 24, False)]:
        refusal = flash_rnn.refusal(draw(cell, Row(2, 3, 4, hidden), "tf32"))
        assert refusal is None if enters else "no tf32" in str(refusal)
    assert flash_rnn.refusal(draw("gru", DEEP, "float32")) is None


def test_torchrl_is_asked_for_the_precision_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    used = install_torchrl(monkeypatch)
    for dtype, precision in [("float32", "ieee"), ("tf32", "tf32")]:
        assert isinstance(judged("torchrl", "lstm", DEEP, TRAINING, dtype), float)
        assert set(used) == {(torch.float32, precision)}
        used.clear()


@pytest.mark.parametrize(
    ("cell", "dtype", "why"), [("rnn", "float32", "no kernels for an RNN"), ("gru", "bfloat16", "take float32")]
)
def test_torchrl_does_not_enter_where_it_has_no_kernels(cell: str, dtype: str, why: str) -> None:
    assert why in str(torch_rl.refusal(draw(cell, DEEP, dtype)))


def test_peer_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrolled.bench.contestants.find_spec", lambda name: None)
    for name in GPU_PEERS:
        assert f"pip install {name}" in str(CONTESTANTS[name].refusal(draw("lstm", DEEP), INFERENCE))
