"""A bench's result for a terminal: the machine, then a table for each cell and dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from unrolled.bench.contestants import CONTESTANTS, GPU_PEERS, PEERS
from unrolled.bench.results import Absent, Failed, Measurement, Result, Timing, Wrong, mean_ratio
from unrolled.bench.rows import CELLS, INFERENCE, TRAINING, TRAINING_TO_INPUT

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PHASES = {
    INFERENCE: "inference",
    TRAINING: "training, to the weights",
    TRAINING_TO_INPUT: "training, to the weights and the input",
}
# Cores that others may keep busy before threads that wait for each other are slowed many times over.
_QUIET = 0.1
# Where titles of contestants would make columns wide.
_SHORT = {"triton_open": "recording"}
_UNREST = ": these are not the times of a quiet machine"
_MEASURED_MEMORY = ("torch", "closed", "open")


class _Column(NamedTuple):
    """One column: its header, what it says of a measurement, and what of all plain ones together."""

    header: str
    of: Callable[[Measurement], str]
    of_all: Callable[[list[Measurement]], str] = lambda measurements: ""


def show(result: Result, console: Console | None = None) -> None:
    """Print a result; where there is no terminal, as wide as the tables are."""
    from rich.console import Console

    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=200)
    for line in heading(result):
        console.print(line, markup=False, soft_wrap=True)
    for cell in CELLS:
        for dtype in result.dtypes:
            if any((measurement.cell, measurement.dtype) == (cell, dtype) for measurement in result.measurements):
                console.print()
                console.print(_table(result, cell, dtype))
    for line in _absent(result) + result.complaints():
        console.print(line, markup=False, soft_wrap=True)


def heading(result: Result) -> list[str]:
    """Where and how it was measured, and how to read it, a line each."""
    if result.device == "cuda":
        return _gpu_heading(result)
    machine, settings = result.machine, result.settings
    rates = [m.product_operations / m.product.median / 1e9 for m in result.measurements]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return [
        f"{machine['processor']}, {machine['instructions']}, {machine['cores']} cores, {machine['threads']} threads "
        f"for everyone, {settings['dtype']}",
        f"{versions}; unrolled's layers on: {machine['backend']}",
        "ms: median time of a call. The other columns: that contestant's time over unrolled's; above 1, unrolled is "
        "faster.",
        f"of product: rate of unrolled's own matrix products over that of a {settings['product_size']}³ torch.mm "
        f"in the same run, which was {min(rates):.0f} to {max(rates):.0f} GFLOP/s.",
        *_of_others(result),
        f"Every result was within {settings['tolerance']:g} of torch.nn's in float64, relative to the largest "
        "magnitude; one that is not has no time.",
    ]


def _of_others(result: Result) -> list[str]:
    others = result.machine["others"]
    if others is None:
        return []
    return [f"Others kept {others:.2f} cores busy meanwhile{'' if others < _QUIET else _UNREST}."]


def _gpu_heading(result: Result) -> list[str]:
    machine, settings = result.machine, result.settings
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return [
        f"{machine['gpu']}, compute capability {machine['compute_capability']}, driver {machine['driver']}; "
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads",
        f"{versions}; unrolled's closed layers on: {machine['backend']}",
        "ms: median time of a call, the device synchronised. Triton, recording: unrolled's layer by its Triton kernels,"
        " closed, and with every state and gate recorded. The other columns: one time over another; above 1, unrolled "
        "is faster.",
        "Everyone projects the input as part of the work. The step loop, FlashRNN and TorchRL show states, not gates.",
        *_of_others(result),
        "Every result was within a part of the largest magnitude of torch's in float64, "
        + ", ".join(f"{dtype} {tolerance:.2g}" for dtype, tolerance in settings["tolerances"].items())
        + "; one that is not has no time.",
    ]


def _absent(result: Result) -> list[str]:
    """Why contestants did not enter on a GPU, a line for each reason."""
    if result.device == "cpu":
        return []
    outcomes = [outcome for m in result.measurements for outcome in m.outcomes.values()]
    return list(dict.fromkeys(f"n/a: {outcome.why}" for outcome in outcomes if isinstance(outcome, Absent)))


def _columns(result: Result) -> list[_Column]:
    entered = result.settings["contestants"]
    if result.device == "cuda":
        peers = [name for name in GPU_PEERS if name in entered]
        times = [_time_column(name) for name in ("torch", "closed", "triton", "triton_open")]
        pairs = [("torch", "closed"), ("torch", "triton"), ("torch", "triton_open"), ("steps", "triton_open")]
        return times + [_ratio_column(*pair) for pair in pairs + [(name, "triton_open") for name in peers]]
    columns = [_time_column("torch"), _time_column("closed"), _Column("of\nproduct", _share)]
    columns += [_ratio_column(name, "closed") for name in ("torch", "open", *PEERS) if name in entered]
    if any(m.memory for m in result.measurements):
        columns += [_memory_column(name) for name in _MEASURED_MEMORY]
    return columns


def _table(result: Result, cell: str, dtype: str) -> Table:
    from rich import box
    from rich.table import Table

    title = cell.upper() if result.device == "cpu" else f"{cell.upper()}, {dtype}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("B,T,I,H", no_wrap=True)
    columns = _columns(result)
    for column in columns:
        table.add_column(column.header, justify="right", no_wrap=True)
    for phase, title in _PHASES.items():
        measurements = result.of(cell, phase, dtype)
        if not measurements:
            continue
        table.add_section()
        table.add_row(f"[italic]{title}[/]")
        for m in measurements:
            table.add_row(str(m.row).replace(":", "\n  "), *(column.of(m) for column in columns))
        counted = sum(m.row.plain for m in measurements)
        if counted > 1:
            table.add_row(f"geometric mean of {counted}", *(column.of_all(measurements) for column in columns))
    return table


def _time_column(name: str) -> _Column:
    return _Column(f"{_SHORT.get(name, CONTESTANTS[name].title)}\nms", lambda m: _time(m, name))


def _ratio_column(name: str, to: str) -> _Column:
    over, under = (_SHORT.get(each, CONTESTANTS[each].title) for each in (name, to))
    return _Column(
        f"{over}\n/ {under}", lambda m: _ratio(m, name, to), lambda measurements: _mean(measurements, name, to)
    )


def _memory_column(name: str) -> _Column:
    return _Column(f"{CONTESTANTS[name].title}\npeak MiB", lambda m: _memory(m, name))


def _time(measurement: Measurement, name: str) -> str:
    outcome = measurement.outcomes[name]
    return number(1e3 * outcome.median) if isinstance(outcome, Timing) else _verdict(outcome)


def _share(measurement: Measurement) -> str:
    share = measurement.share("closed")
    return "" if share is None else f"{100 * share:.0f} %"


def _ratio(measurement: Measurement, name: str, to: str) -> str:
    outcome, ratio = measurement.outcomes[name], measurement.ratio(name, to)
    if not isinstance(outcome, Timing):
        return _verdict(outcome)
    return "" if ratio is None else number(ratio)


def _mean(measurements: list[Measurement], name: str, to: str) -> str:
    ratio, rows = mean_ratio(measurements, name, to)
    counted = sum(m.row.plain for m in measurements)
    if ratio is None:
        return ""
    return number(ratio) if rows == counted else f"{number(ratio)} ({rows})"


def _memory(measurement: Measurement, name: str) -> str:
    return f"{measurement.memory[name] / 2**20:.1f}" if name in measurement.memory else ""


def _verdict(outcome: Any) -> str:
    return {Wrong: "[bold red]wrong[/]", Failed: "[bold red]failed[/]", Absent: "n/a"}[type(outcome)]


def number(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
