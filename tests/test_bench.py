"""The bench: it times what is right and nothing else, says so in the exit status, and keeps what it found."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unrolled
from unrolled.bench import (
    CELLS,
    ROWS,
    Absent,
    Failed,
    Measurement,
    Result,
    Row,
    Timing,
    Wrong,
    alternation,
    bench,
    machine,
    measure,
)
from unrolled.bench import memory as bench_memory
from unrolled.bench.alternation import FEWEST_SLOTS, alternate
from unrolled.bench.contestants import CONTESTANTS, PEERS
from unrolled.bench.numbers import draw
from unrolled.bench.results import mean_ratio
from unrolled.bench.rows import INFERENCE, LOSSES, TRAINING, TRAINING_TO_INPUT
from unrolled.bench.truth import TOLERANCE, Truth, judge
from unrolled.cli import main

TINY = Row(2, 4, 3, 5)
DEEP = Row(2, 3, 4, 5, layers=2, bidirectional=True)
ALONE = ["bench", "--rows", str(TINY), "--cells", "gru", "--no-peers", "--seconds", "0.001"]


@pytest.fixture(autouse=True)
def little_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(measure, "PRODUCT_SIZE", 64)
    threads = torch.get_num_threads()
    # Threads that wait for each other beside other tests take many times as long.
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def installed(peer: str) -> str:
    if missing := CONTESTANTS[peer].missing():
        pytest.skip(f"{missing[0]} is not installed")
    return peer


def judged(name: str, cell: str, row: Row, phase: str) -> float | Wrong:
    numbers, contestant = draw(cell, row), CONTESTANTS[name]
    work, read = contestant.enter(numbers, phase, torch.get_num_threads())
    return judge(read(work()), Truth(numbers).expected(phase, opened=contestant.opened))


# Rows


def test_rows_are_the_ten_sizes_a_deep_bidirectional_one_and_a_loss_of_the_last_step() -> None:
    assert [str(row) for row in ROWS] == [
        "1,128,64,64",
        "1,128,256,256",
        "16,128,32,32",
        "32,128,64,64",
        "32,128,128,128",
        "64,100,128,256",
        "64,100,512,512",
        "256,50,64,128",
        "32,1000,1,64",
        "32,100,1024,1024",
        "32,128,64,128:layers=2,bidirectional",
        "32,1000,1,64:loss=last",
    ]
    assert sum(row.plain for row in ROWS) == 10


@pytest.mark.parametrize("row", [*ROWS, replace(DEEP, loss="squares")], ids=str)
def test_row_is_read_from_its_own_text(row: Row) -> None:
    assert Row.parse(str(row)) == row


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,3", ["'1,2,3' has 3 sizes", "expected B,T,I,H"]),
        ("1,2,3,0", ["'0' in '1,2,3,0'", "at least 1"]),
        ("1,2,x,4", ["'x' in '1,2,x,4'", "whole number"]),
        ("1,2,3,4:layers=none", ["'none'", "whole number"]),
        ("1,2,3,4:deep", ["'deep'", "is not a setting"]),
        ("1,2,3,4:loss=first", ["'first'", "every, last, sum, squares"]),
    ],
)
def test_text_that_is_no_row_says_what_is_expected(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match="rows: ") as raised:
        Row.parse(text)
    for word in words:
        assert word in str(raised.value)


def test_operations_are_those_of_the_products_written_out_by_hand() -> None:
    # B T = 6 steps taken, G H = 20 pre-activations, I = 7, H = 5.
    row = Row(2, 3, 7, 5)
    assert row.operations("lstm", INFERENCE) == 2 * 6 * 20 * (7 + 5)
    assert row.operations("lstm", TRAINING) == 2 * 6 * 20 * (2 * (7 + 5) + 5)
    assert row.operations("lstm", TRAINING_TO_INPUT) == 2 * 6 * 20 * 3 * (7 + 5)
    assert row.operations("gru", INFERENCE) * 4 == row.operations("lstm", INFERENCE) * 3
    # The second layer reads 2 H and gives the first a gradient whether or not the input is to have one.
    deep = Row(2, 3, 7, 5, layers=2, bidirectional=True)
    first, second = 2 * (7 + 5) + 5, 3 * (10 + 5)
    assert deep.operations("rnn", TRAINING) == 2 * 2 * 6 * 5 * (first + second)


# What is right


@pytest.mark.parametrize("phase", [INFERENCE, TRAINING, TRAINING_TO_INPUT])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["torch", "closed", "open"])
def test_layers_agree_with_the_truth(name: str, cell: str, phase: str) -> None:
    error = judged(name, cell, DEEP, phase)
    assert isinstance(error, float)
    assert error < 1e-6


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_runtimes_agree_with_the_truth(name: str, cell: str) -> None:
    error = judged(installed(name), cell, DEEP, INFERENCE)
    assert isinstance(error, float)
    assert error < 1e-6


@pytest.mark.parametrize("cell", CELLS)
def test_jax_agrees_with_the_truth(cell: str) -> None:
    error = judged(installed("jax"), cell, DEEP, TRAINING_TO_INPUT)
    assert isinstance(error, float)
    assert error < 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_the_same_for_torch_and_jax(loss: str) -> None:
    row = replace(TINY, loss=loss)
    for name in ("closed", installed("jax")):
        assert isinstance(judged(name, "rnn", row, TRAINING), float)


def test_truth_holds_a_contestant_to_the_output_and_every_gradient() -> None:
    truth = Truth(draw("gru", TINY))
    weights = {f"gradient of {name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    assert set(truth.expected(INFERENCE, opened=False)) == {"output"}
    assert set(truth.expected(TRAINING, opened=False)) == {"output"} | weights
    assert set(truth.expected(TRAINING_TO_INPUT, opened=False)) == {"output", "gradient of x"} | weights
    states = {f"l0.{name}" for name in ("hidden", "reset_gate", "update_gate", "candidate")}
    assert set(truth.expected(TRAINING, opened=True)) == {"output"} | weights | states


def test_result_is_wrong_where_it_is_off_is_no_number_is_misshapen_or_is_missing() -> None:
    right = {"output": torch.tensor([1.0, -4.0], dtype=torch.float64)}
    inside, outside = 4 * 0.9 * TOLERANCE, 4 * 1.1 * TOLERANCE
    assert judge({"output": right["output"] + inside}, right) == pytest.approx(0.9 * TOLERANCE)
    for given, why in [
        ({"output": right["output"] + outside}, "output is off by"),
        ({"output": torch.tensor([1.0, torch.nan])}, "output is off by nan"),
        ({"output": right["output"][:1]}, "shape"),
        ({}, "output is missing"),
    ]:
        verdict = judge(given, right)
        assert isinstance(verdict, Wrong)
        assert why in verdict.why


# What is refused


def broken(name: str, change: Callable[[dict[str, Tensor]], object]) -> Any:
    """A contestant as it is in the table, but for a change to its results."""
    contestant = CONTESTANTS[name]

    def enter(*arguments: Any) -> Any:
        work, read = contestant.enter(*arguments)

        def changed(returned: Any) -> dict[str, Tensor]:
            results = {key: value.clone() for key, value in read(returned).items()}
            change(results)
            return results

        return work, changed

    return replace(contestant, enter=enter)


@pytest.mark.parametrize("name", ["torch", "closed", "open"])
def test_contestant_with_one_wrong_gradient_has_no_time_and_the_command_fails(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def change(results: dict[str, Tensor]) -> None:
        results["gradient of bias_hh_l0"].view(-1)[0] += 1

    monkeypatch.setitem(CONTESTANTS, name, broken(name, change))
    kept = tmp_path / "bench.json"
    assert main([*ALONE, "--phases", "training", "--json", str(kept)]) == 1
    out = capsys.readouterr().out
    assert "wrong" in out
    assert f"GRU {TINY} training: {name} is wrong: gradient of bias_hh_l0 is off by" in out
    (measured,) = Result.load(kept).measurements
    assert isinstance(measured.outcomes[name], Wrong)
    assert measured.seconds(name) is None
    assert measured.ratio(name) is None
    others = [outcome for other, outcome in measured.outcomes.items() if other != name]
    assert all(isinstance(outcome, Timing) for outcome in others)


def test_layer_whose_output_is_wrong_is_found_closed_and_recording(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = unrolled.GRU.forward

    def forward(self: Any, *arguments: Any) -> Any:
        output, final = right(self, *arguments)
        return output * 1.001, final

    monkeypatch.setattr(unrolled.GRU, "forward", forward)
    assert main([*ALONE, "--phases", "inference"]) == 1
    out = capsys.readouterr().out
    assert f"GRU {TINY} inference: closed is wrong: output" in out
    assert f"GRU {TINY} inference: open is wrong: output" in out
    assert "torch is wrong" not in out


def test_recording_with_one_wrong_gate_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(results: dict[str, Tensor]) -> None:
        results["l0.update_gate"][0, 0, 0] += 0.01

    monkeypatch.setitem(CONTESTANTS, "open", broken("open", change))
    (measured,) = bench([TINY], cells=["gru"], phases=["inference"], peers=(), seconds=0.001).measurements
    assert isinstance(measured.outcomes["open"], Wrong)
    assert "l0.update_gate" in measured.outcomes["open"].why


def test_contestant_that_goes_wrong_while_it_is_timed_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    def change(results: dict[str, Tensor]) -> None:
        reads.append(1)
        results["output"] += len(reads) - 1

    monkeypatch.setitem(CONTESTANTS, "closed", broken("closed", change))
    (measured,) = bench([TINY], cells=["rnn"], phases=["inference"], peers=(), seconds=0.001).measurements
    assert isinstance(measured.outcomes["closed"], Wrong)


def test_contestant_that_raises_is_told_and_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def enter(*_: Any) -> Any:
        raise RuntimeError("no such operator")

    monkeypatch.setitem(CONTESTANTS, "open", replace(CONTESTANTS["open"], enter=enter))
    assert main([*ALONE, "--phases", "inference"]) == 1
    out = capsys.readouterr().out
    assert "open failed: RuntimeError: no such operator" in out
    assert "torch failed" not in out


def test_mean_that_would_leave_out_a_wrong_row_is_not_given() -> None:
    def measured(hidden: int, outcome: Timing | Wrong) -> Measurement:
        outcomes = {"torch": Timing(8.0, 8.0, 8.0, 5, 1), "closed": outcome}
        return Measurement("rnn", Row(1, 1, 1, hidden), TRAINING, outcomes, Timing(1.0, 1.0, 1.0, 5, 1), 100, 10)

    two, four = Timing(2.0, 2.0, 2.0, 5, 1), Timing(1.0, 1.0, 1.0, 5, 1)
    assert mean_ratio([measured(1, two), measured(2, four)], "torch") == (pytest.approx(32**0.5), 2)
    assert mean_ratio([measured(1, two), measured(2, Wrong("off"))], "torch") == (None, 0)
    assert measured(1, two).share("closed") == pytest.approx(10 / 2 / 100)


# Measuring


class Clock:
    """A clock that only the works move, each by its own time, so that what is timed is known."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float) -> Callable[[], None]:
        """A work that takes these times in turn, the last one ever after."""
        left = list(seconds)

        def take() -> None:
            self.called.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return take


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(alternation, "time", made)
    return made


def test_works_are_timed_in_turn_in_an_order_that_moves(clock: Clock) -> None:
    works = {name: clock.work(name, 1.0) for name in "abc"}
    timings = alternate(works, 0.5)
    assert {timing.slots for timing in timings.values()} == {FEWEST_SLOTS}
    taken = "".join(clock.called)[6:]  # after the two calls of each that estimate its time
    assert [taken[place : place + 3] for place in range(0, len(taken), 3)] == ["abc", "cba", "bca", "acb", "cab"]


def test_time_is_the_median_of_the_slots_with_its_quartiles(clock: Clock) -> None:
    timing = alternate({"a": clock.work("a", 9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 50.0)}, 1.0)["a"]
    assert (timing.low, timing.median, timing.high) == (2.0, 3.0, 4.0)


def test_short_calls_share_a_slot_that_begins_with_one_that_is_not_timed(clock: Clock) -> None:
    # Two calls for the estimate; then each slot of ten begins with one of another length.
    seconds = [0.001] * 2 + [0.02, *[0.001] * 10] * FEWEST_SLOTS
    timing = alternate({"a": clock.work("a", *seconds)}, 0.001)["a"]
    assert timing.calls == 10
    assert timing.high == pytest.approx(0.001)
    assert len(clock.called) == len(seconds)


def test_slot_whose_calls_have_become_slow_is_cut_short(clock: Clock) -> None:
    timing = alternate({"a": clock.work("a", 0.001, 0.001, 1.0)}, 0.001)["a"]
    assert timing.median == 1.0
    assert len(clock.called) == 2 + 2 * FEWEST_SLOTS


def test_more_time_gives_more_slots(clock: Clock) -> None:
    assert alternate({"a": clock.work("a", 1.0), "b": clock.work("b", 2.0)}, 60.0)["a"].slots == 20


def test_everything_that_is_installed_is_measured_and_what_cannot_train_says_so() -> None:
    told: list[str] = []
    result = bench([TINY], cells=["lstm"], input_gradient=True, seconds=0.001, tell=told.append)
    assert [m.phase for m in result.measurements] == [INFERENCE, TRAINING, TRAINING_TO_INPUT]
    there = [peer for peer in PEERS if not CONTESTANTS[peer].missing()]
    for m in result.measurements:
        assert set(m.outcomes) == {"torch", "closed", "open", *there}
        assert m.share("closed") is not None
        assert not any(isinstance(outcome, Wrong | Failed) for outcome in m.outcomes.values())
        for peer in there:
            expected = Timing if CONTESTANTS[peer].trains or m.phase == INFERENCE else Absent
            assert isinstance(m.outcomes[peer], expected)
    assert [line.split()[0] for line in told] == ["[1/3]", "[2/3]", "[3/3]"]
    assert result.machine["threads"] == torch.get_num_threads()
    if sys.platform == "linux":
        assert 0 <= result.machine["others"] <= result.machine["cores"]


def test_loss_is_not_measured_in_inference_again() -> None:
    last = replace(TINY, loss="last")
    result = bench([TINY, last], cells=["rnn"], peers=(), seconds=0.001)
    assert [(m.row, m.phase) for m in result.measurements] == [
        (TINY, INFERENCE),
        (TINY, TRAINING),
        (last, TRAINING),
    ]
    assert [m.phase for m in bench([last], cells=["rnn"], peers=(), seconds=0.001).measurements] == [
        INFERENCE,
        TRAINING,
    ]


def test_cores_that_others_keep_busy_are_what_is_left_of_the_machine_s_work_without_our_own(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(machine, "time", clock)
    busy, own = [100.0, 118.0], [5.0, 11.0]
    monkeypatch.setattr(machine, "_busy", lambda: busy.pop(0))
    monkeypatch.setattr(machine, "_own", lambda: own.pop(0))
    with machine.watched() as others:
        clock.now += 10
        assert others() == pytest.approx(1.2)


def test_threads_and_random_numbers_are_the_user_s_again_afterwards() -> None:
    threads, before = torch.get_num_threads(), torch.random.get_rng_state()
    result = bench([TINY], cells=["rnn"], phases=["training"], peers=(), seconds=0.001, threads=threads + 1)
    assert result.machine["threads"] == threads + 1
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.skipif(not bench_memory.measurable(), reason="needs /proc/self/clear_refs")
def test_memory_of_training_is_at_least_what_it_has_to_keep() -> None:
    # torch.nn keeps the output and, for backward, at least the four gates of every step.
    row = Row(16, 100, 8, 128)
    kept = 4 * row.batch * row.steps * row.hidden * (1 + 4)
    peak = bench_memory.peak("torch", "lstm", row, TRAINING, 1)
    assert kept < peak < 10 * kept


def test_memory_is_the_median_of_several_processes_of_those_that_were_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"torch": [7, 9, 8], "closed": [3, 1, 2], "open": []}

    def peak(name: str, *_: object) -> int:
        if not peaks[name]:
            raise RuntimeError("killed")
        return peaks[name].pop(0)

    monkeypatch.setattr(bench_memory, "peak", peak)
    monkeypatch.setattr(bench_memory, "measurable", lambda: True)
    result = bench([TINY], cells=["rnn"], peers=(), seconds=0.001, measure_memory=True)
    inference, training = result.measurements
    assert inference.memory == {}
    assert training.memory == {"torch": 8, "closed": 2}
    assert training.outcomes["open"] == Failed("killed")


# The command


def test_help_does_not_wait_for_torch() -> None:
    code = """
import sys
from unrolled.cli import main
try:
    main(["bench", "--help"])
finally:
    print([name for name in ("torch", "numpy", "rich", "matplotlib", "jax") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "[]\n"
    assert "--input-gradient" in done.stdout


def test_stored_result_is_shown_again_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "results" / "bench.json"
    assert main([*ALONE, "--json", str(kept)]) == 0
    first = capsys.readouterr()
    assert first.out.count(str(TINY)) == 2
    for word in ("GRU", "torch.nn", "recording", "threads for everyone", "GFLOP/s", "layers on"):
        assert word in first.out
    assert "[2/2] GRU 2,4,3,5 training: torch.nn " in first.err
    data = json.loads(kept.read_text(encoding="utf-8"))
    outcome = data["measurements"][1]["outcomes"]["closed"]
    assert outcome["kind"] == "timing"
    assert outcome["low"] <= outcome["median"] <= outcome["high"]
    assert outcome["error"] < TOLERANCE
    assert outcome["slots"] >= FEWEST_SLOTS

    assert main(["bench", "--from", str(kept)]) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert again.err == ""


def test_plot_is_drawn_from_a_stored_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    kept, pictures = tmp_path / "bench.json", [tmp_path / "one.svg", tmp_path / "two.svg"]
    assert main([*ALONE, "--json", str(kept)]) == 0
    for picture in pictures:
        assert main(["bench", "--from", str(kept), "--plot", str(picture)]) == 0
    assert "<svg" in pictures[0].read_text(encoding="utf-8")
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_wrong_stored_result_fails_when_it_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "bench.json"
    result = bench([TINY], cells=["gru"], phases=["inference"], peers=(), seconds=0.001)
    (measured,) = result.measurements
    wrong = replace(measured, outcomes={**measured.outcomes, "closed": Wrong("output is off")})
    replace(result, measurements=(wrong,)).save(kept)
    assert main(["bench", "--from", str(kept)]) == 1
    assert "closed is wrong: output is off" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "1,2,3"], ["rows: '1,2,3'", "expected B,T,I,H"]),
        (["--cells", "mamba"], ["cells: 'mamba'", "rnn, gru, lstm"]),
        (["--phases", "sleep"], ["phases: 'sleep'", "inference, training"]),
        (["--peers", "tensorflow"], ["peers: 'tensorflow'", "onnxruntime, openvino, jax"]),
        (["--seconds", "0"], ["seconds: ", "above 0, given 0"]),
        (["--seconds", "nan"], ["seconds: ", "above 0, given nan"]),
        (["--threads", "0"], ["threads: ", "at least 1, given 0"]),
        (["--phases", "inference", "--memory"], ["memory: ", "training", "(inference)"]),
        (["--phases", "inference", "--input-gradient"], ["input_gradient: ", "training"]),
        (["--plot", "speed.pdf"], ["--plot: speed.pdf", ".svg or .png"]),
        (["--from", "nowhere.json"], ["--from: nowhere.json is not a file"]),
        (["--from", "nowhere.json", "--rows", "1,2,3,4"], ["--rows: given with --from"]),
        (["--from", "nowhere.json", "--no-peers"], ["--no-peers: given with --from"]),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_change(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("unrolled: ")
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "machine": {}, "settings": {}}'])
def test_file_that_is_no_result_is_named(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "bench.json"
    kept.write_text(content)
    assert main(["bench", "--from", str(kept)]) == 1
    error = capsys.readouterr().err
    assert f"{kept} is not a result of unrolled bench" in error
    assert "delete" not in error


def test_file_that_cannot_be_written_is_named_before_anything_is_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    kept = tmp_path / "file" / "bench.json"
    assert main([*ALONE, "--json", str(kept)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"unrolled: cannot write {kept}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [("rich", []), ("matplotlib", ["--plot", "speed.svg"]), ("jax", ["--peers", "jax"])],
)
def test_missing_package_is_named_with_the_command_that_installs_it(
    missing: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == missing else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    monkeypatch.setattr("unrolled.bench.contestants.find_spec", without)
    assert main(["bench", *arguments]) == 1
    error = capsys.readouterr().err
    assert f"needs {missing}, which is not installed: pip install 'unrolled[bench]'" in error
    assert error.count("\n") == 1


def test_interrupted_bench_says_that_nothing_was_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "alternate", interrupt)
    assert main(ALONE) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
