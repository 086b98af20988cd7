"""The command line. Only what a command needs is imported, and nothing before its arguments are read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unrolled import __version__

if TYPE_CHECKING:
    from unrolled.study import Study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 not understood, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    try:
        _compare(options)
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        # An OSError of ours has its whole message in strerror, and a number before it that tells the reader nothing.
        ours = isinstance(error, OSError) and error.filename is None and error.strerror
        print(f"unrolled: {ours or error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unrolled", description="Recurrent networks with every step in view.")
    parser.add_argument("--version", action="version", version=f"unrolled {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    compare = commands.add_parser(
        "compare",
        help="train RNN, GRU and LSTM and measure what their states do",
        description="Train every cell on every task with every seed, measure how the cell state and the hidden state "
        "differ, print the verdicts and write a page. Finished runs are kept: the same command goes on where it "
        "was stopped.",
        epilog="A task is a name and its settings: adding:length=50, recall:lag=1-40,symbols=8, copy:lag=20, "
        "code:length=100. Without tasks the default study runs: about five minutes on two cores.",
    )
    compare.add_argument("tasks", nargs="*", help="adding, recall, copy or code, with settings")
    compare.add_argument(
        "--cells", nargs="+", default=["rnn", "gru", "lstm"], help="cells to train (default: rnn gru lstm)"
    )
    compare.add_argument("--seeds", type=int, default=3, help="networks of each kind (default: 3)")
    compare.add_argument("--parameters", type=int, help="parameters of each network (default: 6100; 48000 for code)")
    compare.add_argument(
        "--steps",
        type=int,
        help="optimiser steps of each (default: 500 for code, 1500 for others, 750 if long)",
    )
    compare.add_argument("--jobs", type=int, help="runs at once (default: the number of processors)")
    compare.add_argument("--out", type=Path, help="folder of the study (default: runs/default, or the tasks' names)")
    compare.add_argument("--page", type=Path, help="file of the page (default: report.html in the study's folder)")
    return parser


def _compare(options: argparse.Namespace) -> None:
    # What the end needs is asked for first: a study should not fail for a missing package when it is done.
    _need("rich", "study")
    _need("joblib", "study")
    _need("sklearn", "study")
    _need("bokeh", "view")
    from unrolled.page import report
    from unrolled.progress import TerminalDisplay
    from unrolled.storage import writable
    from unrolled.study import DEFAULT_TASKS, compare

    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs: must be at least 1, given {options.jobs}")
    if options.page is not None:
        # Asked for now: a study should not end in a page that cannot be written.
        writable(options.page)
    folder = options.out or (None if options.tasks else Path("runs/default"))
    study = compare(
        options.tasks or DEFAULT_TASKS,
        cells=options.cells,
        seeds=options.seeds,
        parameters=options.parameters,
        steps=options.steps,
        jobs=options.jobs,
        folder=folder,
        display=TerminalDisplay(),
    )
    page = report(study, options.page or study.folder / "report.html")
    _print(study)
    print(f"\n{len(study.runs)} runs, {study.seconds:.0f} s. The page: {page.resolve()}")


def _need(module: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise ModuleNotFoundError(f"compare needs {module}, which is not installed: pip install 'unrolled[{extra}]'")


def _print(study: Study) -> None:
    """The verdicts as a table: one row for each claim and setting, with the figure that settles it."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from unrolled.page import wording

    table = Table(title="How do the cell state and the hidden state differ?", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("claim", "setting", "verdict"):
        table.add_column(column, no_wrap=True)
    table.add_column("figure with 95 % interval, and what it must be above", overflow="fold")
    for claim in study.claims:
        table.add_section()
        overall = "depends" if claim.depends else claim.verdict
        table.add_row(f"[bold]{claim.id}[/]", "[bold]all[/]", f"[bold]{overall}[/]", "")
        for setting, verdict in claim.settings.items():
            finding = wording.settling(claim, setting)
            figure = f"{wording.measured(finding.interval)} {finding.unit}; {wording.number(finding.threshold)}"
            table.add_row("", escape(setting), verdict, figure)
    Console().print(table)
