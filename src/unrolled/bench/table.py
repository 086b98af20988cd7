"""A bench's result for a terminal: the machine, then a table for each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unrolled.bench.contestants import CONTESTANTS, PEERS
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
_UNREST = ": these are not the times of a quiet machine"
_MEASURED_MEMORY = ("torch", "closed", "open")


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
        if any(measurement.cell == cell for measurement in result.measurements):
            console.print()
            console.print(_table(result, cell))
    for complaint in result.complaints():
        console.print(complaint, markup=False, soft_wrap=True)


def heading(result: Result) -> list[str]:
    """Where and how it was measured, and how to read it, a line each."""
    machine, settings = result.machine, result.settings
    rates = [m.product_operations / m.product.median / 1e9 for m in result.measurements]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    others = machine["others"]
    return [
        f"{machine['processor']}, {machine['instructions']}, {machine['cores']} cores, {machine['threads']} threads "
        f"for everyone, {settings['dtype']}",
        f"{versions}; unrolled's layers on: {machine['backend']}",
        "ms: median time of a call. The other columns: that contestant's time over unrolled's; above 1, unrolled is "
        "faster.",
        f"of product: rate of unrolled's own matrix products over that of a {settings['product_size']}³ torch.mm "
        f"in the same run, which was {min(rates):.0f} to {max(rates):.0f} GFLOP/s.",
        *(
            []
            if others is None
            else [f"Others kept {others:.2f} cores busy meanwhile{'' if others < _QUIET else _UNREST}."]
        ),
        f"Every result was within {settings['tolerance']:g} of torch.nn's in float64, relative to the largest "
        "magnitude; one that is not has no time.",
    ]


def _table(result: Result, cell: str) -> Table:
    from rich import box
    from rich.table import Table

    peers = [name for name in PEERS if name in result.settings["contestants"]]
    measured_memory = any(m.memory for m in result.measurements)
    table = Table(title=cell.upper(), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("B,T,I,H", no_wrap=True)
    headers = ["torch.nn\nms", "unrolled\nms", "of\nproduct", "torch.nn\n/ unrolled", "recording\n/ unrolled"]
    headers += [f"{CONTESTANTS[name].title}\n/ unrolled" for name in peers]
    headers += [f"{CONTESTANTS[name].title}\npeak MiB" for name in _MEASURED_MEMORY] if measured_memory else []
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for phase, title in _PHASES.items():
        measurements = result.of(cell, phase)
        if not measurements:
            continue
        table.add_section()
        table.add_row(f"[italic]{title}[/]")
        for m in measurements:
            columns = [_time(m, "torch"), _time(m, "closed"), _share(m)]
            columns += [_ratio(m, name) for name in ("torch", "open", *peers)]
            columns += [_memory(m, name) for name in _MEASURED_MEMORY] if measured_memory else []
            table.add_row(str(m.row).replace(":", "\n  "), *columns)
        means = {name: mean_ratio(measurements, name) for name in ("torch", "open", *peers)}
        counted = sum(m.row.plain for m in measurements)
        if counted > 1:
            table.add_row(
                f"geometric mean of {counted}", "", "", "", *(_mean(*mean, counted) for mean in means.values())
            )
    return table


def _time(measurement: Measurement, name: str) -> str:
    outcome = measurement.outcomes[name]
    return number(1e3 * outcome.median) if isinstance(outcome, Timing) else _verdict(outcome)


def _share(measurement: Measurement) -> str:
    share = measurement.share("closed")
    return "" if share is None else f"{100 * share:.0f} %"


def _ratio(measurement: Measurement, name: str) -> str:
    outcome, ratio = measurement.outcomes[name], measurement.ratio(name)
    if not isinstance(outcome, Timing):
        return _verdict(outcome)
    return "" if ratio is None else number(ratio)


def _mean(ratio: float | None, rows: int, counted: int) -> str:
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
