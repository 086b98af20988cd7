"""bench(): every cell, row, dtype and phase asked for in turn; a contestant is timed once its results are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch

from unrolled.bench import machine, memory
from unrolled.bench.alternation import FEWEST_SLOTS, alternate
from unrolled.bench.contestants import CONTESTANTS, PEERS, Contestant, Read, Work
from unrolled.bench.devices import Device, device_of
from unrolled.bench.dtypes import DTYPES, products
from unrolled.bench.numbers import draw
from unrolled.bench.results import Absent, Failed, Measurement, Outcome, Result, Timing, Wrong
from unrolled.bench.rows import CELLS, INFERENCE, PHASES, TRAINING, TRAINING_TO_INPUT, Row
from unrolled.bench.truth import Truth, judge

# Products large enough that a library reaches its best rate.
PRODUCT_SIZE, GPU_PRODUCT_SIZE = 2048, 8192

# Where the allocator finds room is a matter of chance, by up to a quarter of a small row's peak.
MEMORY_PROCESSES = 3

Tell = Callable[[str], object]


def bench(
    rows: Sequence[Row] | None = None,
    *,
    device: str | Device = "cpu",
    dtypes: Sequence[str] | None = None,
    cells: Sequence[str] = CELLS,
    phases: Sequence[str] = PHASES,
    input_gradient: bool = False,
    measure_memory: bool = False,
    peers: Sequence[str] | None = None,
    seconds: float = 2.0,
    threads: int | None = None,
    tell: Tell = lambda line: None,
) -> Result:
    """Time torch.nn, unrolled closed and recording, and others, alternately.

    Args:
        rows: sizes and losses; those of the device if None.
        device: "cpu", or "cuda" for torch's current GPU. A Device is for who measures a bench on another.
        dtypes: of "float32", "tf32" (float32 with such products), "bfloat16" and "float16"; all that the device has if
            None. A CPU has float32.
        cells: of "rnn" (with tanh), "gru" and "lstm".
        phases: of "inference" and "training" (forward, and backward to the weights).
        input_gradient: train with a gradient to the input too, beside training without.
        measure_memory: also measure the peak memory of training steps, each in a process of its own.
        peers: on the CPU of "onnxruntime", "openvino" and "jax", on a GPU of "flashrnn" and "torchrl"; those installed
            if None.
        seconds: how long to go on with one cell, row, dtype and phase; at least five slots each are timed.
        threads: of every contestant; torch's number if None.
        tell: is given a line after each cell, row, dtype and phase.

    Returns:
        The Result; a contestant that disagrees with torch.nn in float64 has no time in it.

    Raises:
        ValueError: an argument is not understood, or there is no GPU; the message says what is expected.
        ModuleNotFoundError: a peer asked for is not installed.
    """
    on = device_of(device) if isinstance(device, str) else device
    rows = on.rows if rows is None else rows
    dtypes = on.dtypes if dtypes is None else dtypes
    _known("cells", cells, CELLS)
    _known("phases", phases, PHASES)
    _known("dtypes", dtypes, on.dtypes, of=on.name)
    _known("peers", peers or (), on.peers, of=on.name)
    if not rows:
        raise ValueError("rows: none given")
    if not seconds > 0:
        raise ValueError(f"seconds: must be above 0, given {seconds:g}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads: must be at least 1, given {threads}")
    for asked, name in ((measure_memory, "memory"), (input_gradient, "input_gradient")):
        if asked and TRAINING not in phases:
            raise ValueError(f"{name}: is about training, which phases ({', '.join(phases)}) leaves out")
    if measure_memory and on.name != "cpu":
        raise ValueError(f"memory: is measured of a process on the CPU only, device is {on.name}; drop one of them")
    if measure_memory and not memory.measurable():
        raise ValueError("memory: cannot be measured on this system; it needs Linux's /proc/self/clear_refs")
    for peer in peers or ():
        if missing := CONTESTANTS[peer].missing():
            raise ModuleNotFoundError(
                f"{peer} needs {missing[0]}, which is not installed: pip install {CONTESTANTS[peer].install}"
            )
    entered = [peer for peer in on.peers if (peer in peers if peers is not None else not CONTESTANTS[peer].missing())]

    steps = [phase for phase in PHASES if phase in phases] + [TRAINING_TO_INPUT] * input_gradient
    todo = [
        (cell, row, dtype, phase)
        for cell in dict.fromkeys(cells)
        for row in dict.fromkeys(rows)
        for dtype in dict.fromkeys(dtypes)
        for phase in steps
        # A loss makes no difference to inference.
        if phase != INFERENCE or row.loss == "every" or replace(row, loss="every") not in rows
    ]
    with _threads(threads) as count, machine.watched() as others:
        where = on.facts(count, dict.fromkeys(name for peer in entered for name in CONTESTANTS[peer].packages))
        names = [*on.own, *entered]
        measurements: list[Measurement] = []
        truth = None
        for done, (cell, row, dtype, phase) in enumerate(todo, 1):
            if truth is None or (truth.numbers.cell, truth.numbers.row, truth.numbers.dtype) != (cell, row, dtype):
                # The one before is let go first: on a GPU its float64 states may take what the next one needs.
                truth = None
                truth = Truth(draw(cell, row, dtype, on.place))
            # On a CPU the switches are of no meaning, and stay as the user has set them.
            with nullcontext() if on.name == "cpu" else products(DTYPES[dtype]):
                measurement = _measure(truth, phase, names, seconds, count, on)
            if measure_memory and phase != INFERENCE:
                measurement = _with_memory(measurement, count)
            measurements.append(measurement)
            tell(f"[{done}/{len(todo)}] {_line(measurement)}")
        where["others"] = others()
    settings: dict[str, Any] = {
        "seconds": seconds,
        "fewest_slots": FEWEST_SLOTS,
        # The widest, which is the only one on the CPU.
        "tolerance": max(DTYPES[dtype].tolerance for dtype in dtypes),
        "tolerances": {dtype: DTYPES[dtype].tolerance for dtype in dict.fromkeys(dtypes)},
        "dtype": ", ".join(dict.fromkeys(dtypes)),
        "device": on.name,
        "product_size": _product_size(on),
        "contestants": names,
    }
    return Result(where, settings, tuple(measurements))


def _known(argument: str, given: Sequence[str], known: Sequence[str], of: str | None = None) -> None:
    for name in given:
        if name not in known:
            on = f" on the device {of}" if of else ""
            raise ValueError(f"{argument}: {name!r} is not known{on}; expected {', '.join(known)}")


def _product_size(on: Device) -> int:
    return PRODUCT_SIZE if on.name == "cpu" else GPU_PRODUCT_SIZE


@contextmanager
def _threads(threads: int | None) -> Iterator[int]:
    """torch's number of threads inside the context."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _measure(truth: Truth, phase: str, names: Sequence[str], seconds: float, threads: int, on: Device) -> Measurement:
    numbers = truth.numbers
    outcomes: dict[str, Outcome] = {}
    works: dict[str, Callable[[], object]] = {}
    checks: dict[str, Callable[[], float | Wrong]] = {}
    for name in names:
        contestant = CONTESTANTS[name]
        refusal = contestant.refusal(numbers, phase)
        if refusal is not None:
            outcomes[name] = Absent(refusal)
            continue
        try:
            work, read = contestant.enter(numbers, phase, threads)
            check: Callable[[], float | Wrong] = partial(_check, work, read, contestant, truth, phase)
            # It is the first call too, in which kernels are compiled and tuned.
            judged = check()
        except Exception as error:
            # One runtime that cannot do one row must not cost the others their figures; it is told, and is no success.
            outcomes[name] = Failed(f"{type(error).__name__}: {error}")
            continue
        if isinstance(judged, Wrong):
            outcomes[name] = judged
        else:
            works[name], checks[name] = work, check
    size = _product_size(on)
    left, right, out = (numbers.x.new_ones(size, size) for _ in range(3))
    timings = alternate({**works, "product": lambda: torch.mm(left, right, out=out)}, seconds, on.synchronise)
    for name in works:
        # Once more: what is kept from call to call may have gone wrong meanwhile.
        judged = checks[name]()
        outcomes[name] = judged if isinstance(judged, Wrong) else replace(timings[name], error=judged)
    return Measurement(
        numbers.cell,
        numbers.row,
        phase,
        {name: outcomes[name] for name in names},
        timings["product"],
        2 * size**3,
        numbers.row.operations(numbers.cell, phase),
        dtype=numbers.dtype,
    )


def _check(work: Work, read: Read, contestant: Contestant, truth: Truth, phase: str) -> float | Wrong:
    expected = truth.expected(phase, opened=contestant.opened, stepped=contestant.stepped)
    dtype = DTYPES[truth.numbers.dtype]
    of_gradients = dtype.tolerance_of_rounded_sums(truth.numbers.row.steps) if contestant.rounded_sums else None
    return judge(read(work()), expected, dtype.tolerance, of_gradients)


def _with_memory(measurement: Measurement, threads: int) -> Measurement:
    """The measurement with the peak of each of torch.nn, unrolled and recording that was right: a median."""
    asked = measurement.cell, measurement.row, measurement.phase, threads
    outcomes, peaks = dict(measurement.outcomes), dict[str, int]()
    for name, outcome in measurement.outcomes.items():
        if name in PEERS or not isinstance(outcome, Timing):
            continue
        try:
            peaks[name] = int(median(memory.peak(name, *asked) for _ in range(MEMORY_PROCESSES)))
        except RuntimeError as error:
            outcomes[name] = Failed(str(error))
    return replace(measurement, outcomes=outcomes, memory=peaks)


def _line(measurement: Measurement) -> str:
    """What a watcher is told of one measurement."""
    parts = []
    for name, outcome in measurement.outcomes.items():
        title = CONTESTANTS[name].title
        if isinstance(outcome, Timing):
            parts.append(f"{title} {1e3 * outcome.median:.3g} ms")
        elif isinstance(outcome, Wrong | Failed):
            parts.append(f"{title} {type(outcome).__name__.lower()}: {outcome.why}")
    return f"{measurement}: {', '.join(parts)}"
