"""The command line. Only what a command needs is imported, and nothing before its arguments are read."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from unrolled import __version__

if TYPE_CHECKING:
    from unrolled.bench import Result
    from unrolled.study import Study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 not understood, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] in _OF_A_RUN:
        # These read their own options.
        module = import_module(f"unrolled.commands.{given[0]}")
        return _run(lambda: module.main(given[1:]), _OF_A_RUN[given[0]][1])
    parser = _parser()
    options = parser.parse_args(given)
    if options.command is None:
        parser.print_help()
        return 2
    command, kept = {
        "compare": (_compare, "finished runs are kept, and the same command goes on from there"),
        "bench": (_bench, "nothing was written"),
        "explain": (_explain, "nothing was changed"),
    }[options.command]
    return _run(lambda: command(options), kept)


# What is done with one training, and what is left when it is interrupted.
_OF_A_RUN = {
    "train": ("train a network on your data", "--resume goes on from the last checkpoint, if there is one"),
    "predict": ("continue a text, forecast a series, name classes", "nothing more was written"),
    "evaluate": ("measure a trained network beside baselines", "nothing was written"),
    "record": ("write every state and gate over the test data", "what was recorded is unfinished"),
    "view": ("look at a recording, a run or a study in the browser", "nothing was written"),
}


def _run(command: Callable[[], int], kept: str) -> int:
    try:
        return command()
    except KeyboardInterrupt as error:
        print(f"{str(error) or 'interrupted'}; {kept}", file=sys.stderr)
        return getattr(error, "status", 130)
    except BrokenPipeError:
        # Whoever read the output has read enough. Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        # An OSError of ours has its whole message in strerror, and a number before it that tells the reader nothing.
        ours = isinstance(error, OSError) and error.filename is None and error.strerror
        print(f"unrolled: {ours or error}", file=sys.stderr)
        return 1


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
        "code:length=100. Without tasks the default study runs: about three minutes on two cores.",
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
    compare.add_argument("--jobs", type=int, help="runs at once (default, and at most: the number of processors)")
    compare.add_argument(
        "--backend",
        choices=["loky", "ray"],
        default="loky",
        help="where runs are done: by processes of this machine, or on a Ray cluster (default: loky)",
    )
    compare.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="head of a running Ray cluster, or auto (default: a cluster of this machine alone, for this study)",
    )
    compare.add_argument("--out", type=Path, help="folder of the study (default: runs/default, or the tasks' names)")
    compare.add_argument("--page", type=Path, help="file of the page (default: report.html in the study's folder)")
    for name, (purpose, _) in _OF_A_RUN.items():
        commands.add_parser(name, help=purpose)
    _add_bench(commands.add_parser)
    commands.add_parser(
        "explain",
        help="tell what the layers compute with on this machine, and why",
        description="Tell whether the kernels are there, which build of them runs, and how to get them if they "
        "are not. For a certain call: unrolled.explain(layer, input).",
    )
    return parser


def _add_bench(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    bench = add_parser(
        "bench",
        help="time the layers beside torch.nn and other runtimes",
        description="Time torch.nn's layers, unrolled's, unrolled's while everything is recorded, and those of ONNX "
        "Runtime, OpenVINO and JAX that are installed, alternately in one run; on a GPU unrolled's Triton kernels, a "
        "loop over torch.nn's cells, and FlashRNN and TorchRL if installed. Results are held to torch.nn in float64; "
        "what disagrees gets no time, and the command fails.",
        epilog="A row is B,T,I,H (batch, steps, inputs, hidden) and what differs from one layer in one direction with "
        "a loss of every step: 32,128,64,128:layers=2,bidirectional or 32,1000,1,64:loss=last (every, last, sum, "
        "squares).",
    )
    bench.add_argument("--device", help="cpu, or cuda for torch's current GPU (default: cpu)")
    bench.add_argument("--rows", nargs="+", metavar="ROW", help="sizes to time (default: twelve, on a GPU ten)")
    bench.add_argument("--cells", nargs="+", help="cells to time (default: rnn gru lstm)")
    bench.add_argument(
        "--dtypes",
        nargs="+",
        help="on a GPU: float32, tf32, bfloat16, float16 (default: all four); on the CPU: float32",
    )
    bench.add_argument("--phases", nargs="+", help="inference, training (default: both)")
    bench.add_argument("--input-gradient", action="store_true", help="train with a gradient to the input as well")
    bench.add_argument("--memory", action="store_true", help="measure the peak memory of training too")
    peers = bench.add_mutually_exclusive_group()
    peers.add_argument(
        "--peers", nargs="+", help="onnxruntime, openvino, jax; on a GPU flashrnn, torchrl (default: those installed)"
    )
    peers.add_argument("--no-peers", action="store_true", help="torch.nn and unrolled only")
    bench.add_argument("--seconds", type=float, help="time for each cell, row, dtype and phase (default: 2)")
    bench.add_argument("--threads", type=int, help="threads of everyone (default: torch's number)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios to torch.nn here, .svg or .png")
    bench.add_argument("--from", dest="stored", type=Path, metavar="FILE", help="show a result written by --json again")


def _compare(options: argparse.Namespace) -> int:
    # What the end needs is asked for first: a study should not fail for a missing package when it is done.
    _need("compare", "rich", "study")
    _need("compare", "joblib", "study")
    _need("compare", "sklearn", "study")
    _need("compare", "xarray", "study")
    _need("compare", "bokeh", "view")
    if options.backend == "ray":
        _need("compare --backend ray", "ray", "ray")
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
        backend=options.backend,
        address=options.address,
        folder=folder,
        display=TerminalDisplay(),
    )
    page = report(study, options.page or study.folder / "report.html")
    _print(study)
    print(f"\n{len(study.runs)} runs, {study.seconds:.0f} s. The page: {page.resolve()}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    _need("bench", "rich", "bench")
    if options.plot is not None:
        if options.plot.suffix not in (".svg", ".png"):
            raise ValueError(f"--plot: {options.plot} must end in .svg or .png")
        _need("bench --plot", "matplotlib", "bench")
    if options.stored is not None:
        _refuse_beside_from(options)
        if not options.stored.is_file():
            raise ValueError(f"--from: {options.stored} is not a file; expected one written by bench --json")
    for path in (options.json, options.plot):
        if path is not None:
            from unrolled.storage import writable

            # Asked for now: a bench should not end in a file that cannot be written.
            writable(path)
    from unrolled.bench.results import Result
    from unrolled.bench.table import show

    result = Result.load(options.stored) if options.stored is not None else _timed(options)
    if options.json is not None:
        result.save(options.json)
    show(result)
    if options.plot is not None:
        from unrolled.bench.plot import plot

        plot(result, options.plot)
    return 1 if result.complaints() else 0


def _refuse_beside_from(options: argparse.Namespace) -> None:
    chosen = ("device", "rows", "cells", "dtypes", "phases", "input_gradient", "memory", "peers", "no_peers", "seconds")
    for name in (*chosen, "threads", "json"):
        if getattr(options, name) not in (None, False):
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag}: given with --from, which shows a stored result and measures nothing; drop one")


def _timed(options: argparse.Namespace) -> Result:
    from rich.console import Console

    from unrolled.bench import CELLS, PHASES, Row, bench

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return bench(
        [Row.parse(text) for text in options.rows] if options.rows else None,
        device=options.device or "cpu",
        dtypes=options.dtypes,
        cells=options.cells or CELLS,
        phases=options.phases or PHASES,
        input_gradient=options.input_gradient,
        measure_memory=options.memory,
        peers=() if options.no_peers else options.peers,
        seconds=2.0 if options.seconds is None else options.seconds,
        threads=options.threads,
        tell=lambda line: console.print(line, markup=False),
    )


def _explain(options: argparse.Namespace) -> int:
    from unrolled.explanation import explain

    explain()
    return 0


def _need(command: str, module: str, extra: str) -> None:
    from importlib.util import find_spec

    from unrolled.extras import lacking

    if find_spec(module) is None:
        raise lacking(module, command, extra)


def _print(study: Study) -> None:
    """The verdicts as a table: one row for each claim and setting, with the figure that settles it."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from unrolled.intervals import number
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
            figure = f"{finding.interval.text} {finding.unit}; {number(finding.threshold)}"
            table.add_row("", escape(setting), verdict, figure)
    Console().print(table)
