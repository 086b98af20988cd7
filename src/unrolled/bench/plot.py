"""A bench's result as a picture: how many times as fast as torch.nn, one panel for each cell.

On a CPU that is unrolled closed; on a GPU, where closed calls go to torch, it is recording by Triton.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from unrolled.bench.contestants import CONTESTANTS
from unrolled.bench.results import Measurement, Result, mean_ratio
from unrolled.bench.rows import CELLS, INFERENCE, TRAINING
from unrolled.bench.table import number
from unrolled.storage import write

# Blue circles and orange diamonds: apart in every common form of colour blindness, in lightness and in shape.
# The last is how far below its row's line a marker stands, so that equal ratios do not hide each other.
_LOOKS = {INFERENCE: ("#0067a5", "o", -0.17), TRAINING: ("#d97706", "D", 0.17)}
_SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    # Equal results give equal files.
    "svg.hashsalt": "unrolled",
}


def plot(result: Result, path: Path) -> Path:
    """Draw a result into a file; the ending says what kind of picture, .svg or .png.

    Raises:
        ValueError: there is nothing to draw, or the ending is another.
        OSError: the file cannot be written; the message names it.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in ("svg", "png"):
        raise ValueError(f"plot: {path} must end in .svg or .png")
    subject = _subject(result)
    found = [m for m in result.measurements if m.phase in _LOOKS and m.ratio("torch", subject) is not None]
    cells = [cell for cell in CELLS if any(m.cell == cell for m in found)]
    if not cells:
        raise ValueError(f"plot: no row has a ratio of torch.nn to {CONTESTANTS[subject].title}")
    rows = list(dict.fromkeys(_place(m) for m in found))
    ratios = [ratio for m in found if (ratio := m.ratio("torch", subject)) is not None]

    matplotlib: Any = import_module("matplotlib")
    # A Figure of its own needs no window and leaves the state of pyplot alone.
    figures: Any = import_module("matplotlib.figure")
    with matplotlib.rc_context(_SETTINGS):
        figure = figures.Figure(
            figsize=(max(6.5, 2.4 + 2.7 * len(cells)), 1.5 + 0.28 * len(rows)), layout="constrained"
        )
        panels = figure.subplots(1, len(cells), sharex=True, sharey=True, squeeze=False)[0]
        for panel, cell in zip(panels, cells, strict=True):
            _draw(panel, [m for m in found if m.cell == cell], rows, subject)
            panel.set_title(f"{cell.upper()}{_means(result, cell)}", loc="left", fontsize=9)
        panels[0].set_yticks(range(len(rows)), rows)
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right"}
        panels[0].annotate("B,T,I,H", (0, 1), (-12, 6), **place)
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        _scale(panels[0], min(ratios), max(ratios))
        handles, labels = panels[0].get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside upper right", ncols=2, frameon=False)
        what = "" if subject == "closed" else f": {CONTESTANTS[subject].title}"
        figure.suptitle(f"How many times as fast as torch.nn{what}", x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.supxlabel(_machine(result), x=0.01, ha="left", fontsize=8, color="#6b7280")
        metadata = {"Date": None} if kind == "svg" else None
        return write(path, lambda file: figure.savefig(file, format=kind, dpi=150, metadata=metadata))


def _subject(result: Result) -> str:
    return "closed" if result.device == "cpu" else "triton_open"


def _place(measurement: Measurement) -> str:
    """The row as it is labelled, and what it was computed in if there is a choice."""
    label, dtype = _label(str(measurement.row)), measurement.dtype
    return label if dtype == "float32" else f"{label}  {dtype}"


def _draw(panel: Any, measurements: list[Measurement], rows: list[str], subject: str) -> None:
    panel.set_axisbelow(True)
    panel.grid(axis="x", which="major", color="#e5e7eb", linewidth=0.8)
    panel.axvline(1, color="#111827", linewidth=1.2)
    panel.tick_params(axis="y", length=0)
    for phase, (colour, marker, aside) in _LOOKS.items():
        of_phase = [m for m in measurements if m.phase == phase]
        if of_phase:
            places = [rows.index(_place(m)) + aside for m in of_phase]
            panel.scatter(
                [m.ratio("torch", subject) for m in of_phase],
                places,
                color=colour,
                marker=marker,
                s=34,
                label=phase,
                edgecolors="white",
                linewidths=0.6,
                zorder=3,
            )


def _scale(panel: Any, smallest: float, largest: float) -> None:
    """A log axis about everything and the line at 1, with round numbers written as they are."""
    ticker: Any = import_module("matplotlib.ticker")
    panel.set_xscale("log")
    panel.set_xlim(min(smallest, 1) / 1.3, max(largest, 1) * 1.3)
    wide = max(largest, 1) / min(smallest, 1) > 30
    panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3) if wide else (1, 2, 5)))
    panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}×"))
    panel.xaxis.set_minor_locator(ticker.NullLocator())


def _label(row: str) -> str:
    sizes, _, settings = row.partition(":")
    return sizes + (f"  {settings.replace(',', ', ')}" if settings else "")


def _machine(result: Result) -> str:
    machine, settings = result.machine, result.settings
    if result.device == "cuda":
        return f"{machine['gpu']}; torch {machine['versions']['torch']}, unrolled {machine['versions']['unrolled']}"
    return (
        f"{machine['processor']}, {machine['instructions']}, {machine['threads']} threads, {settings['dtype']}; "
        f"torch {machine['versions']['torch']}, unrolled {machine['versions']['unrolled']} ({machine['backend']})"
    )


def _means(result: Result, cell: str) -> str:
    if len(result.dtypes) > 1:
        return ""
    subject = _subject(result)
    means = [(phase, *mean_ratio(result.of(cell, phase), "torch", subject)) for phase in _LOOKS]
    written = [f"{phase} {number(mean)}×" for phase, mean, rows in means if mean is not None and rows > 1]
    return f"\nmean: {', '.join(written)}" if written else ""
