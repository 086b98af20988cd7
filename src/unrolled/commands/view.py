"""unrolled view: a recording, a trained run or a study in the browser."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

from unrolled.commands.options import positional, read

_TEXT = """Look at what the states of a network do, in the browser.

A run that has no recording yet is recorded first, over a part of its test data.

Attributes:
    path: a recording (a zarr directory), the folder of a run, or the folder of a study.
    inputs: what a recording read, a .safetensors or .npy file; the file beside it if omitted.
    text: the text that a recording read, a file with a character for each step.
    host: the address to listen on. Others than this machine can open the page only with the link that is printed.
    port: the port to listen on; any that is free if 0.
    open: open the page in the browser.
    export: write one sequence as a page of its own to this file instead, which opens without a server.
    steps: which steps to export, as FIRST:STOP, from 0 and without the last; as many as fit well if omitted.
    sequence: which sequence to export, from 0.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    kind = make_dataclass(
        "Options",
        [
            ("path", positional(Path, "PATH")),
            ("inputs", Path | None, None),
            ("text", Path | None, None),
            ("host", str, "127.0.0.1"),
            ("port", int, 0),
            ("open", bool, True),
            ("export", Path | None, None),
            ("steps", str | None, None),
            ("sequence", int | None, None),
        ],
        frozen=True,
        namespace={"__doc__": _TEXT},
    )
    options: Any = read(kind, arguments, command="view", description=_TEXT.splitlines()[0])
    start, stop = _steps(options.steps)
    _check(options)
    from unrolled.extras import extra

    # What the end needs is asked for first: nothing should be recorded for a page that cannot be shown.
    extra("bokeh", "unrolled view", "view")
    extra("tornado", "unrolled view", "view")
    if options.export is not None:
        from unrolled.storage import writable

        writable(options.export)
    from unrolled.viewer.opening import open_path

    found = open_path(options.path, inputs=options.inputs, text=options.text, tell=_tell)
    if options.export is not None:
        from unrolled.viewer.export import export

        export(found, options.export, sequence=options.sequence or 0, start=start, stop=stop)
        print(f"The page: {options.export.resolve()}")
        return 0
    from unrolled.viewer.service import Service
    from unrolled.viewer.serving.server import serve

    service = Service(found)
    Thread(target=service.prepare, daemon=True).start()
    serve(service, host=options.host, port=options.port, open_browser=options.open)
    _leave()


def _leave() -> NoReturn:
    """End the process at once, whatever its threads do: nothing that is under way for a page is of use after it."""
    # An instrument that runs would hold up the interpreter's end, and native threads may abort in it.
    print(file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _check(options: Any) -> None:
    if not 0 <= options.port < 65536:
        raise ValueError(f"--port: given {options.port}, expected one from 0 to 65535")
    if options.sequence is not None and options.sequence < 0:
        raise ValueError(f"--sequence: must be at least 0, given {options.sequence}")
    for name in ("steps", "sequence"):
        if options.export is None and getattr(options, name) is not None:
            raise ValueError(f"--{name}: says what --export writes; the page in the browser shows everything")


def _steps(given: str | None) -> tuple[int | None, int | None]:
    """The first step and the one after the last, each None where it is not told."""
    if given is None:
        return None, None
    ends = re.fullmatch(r"(\d*):(\d*)", given, re.ASCII)
    if ends is None:
        raise ValueError(f"--steps: given {given!r}, expected FIRST:STOP, such as 200:700")
    start, stop = (int(end) if end else None for end in ends.groups())
    if stop is not None and stop <= (start or 0):
        raise ValueError(f"--steps: given {given!r}, which holds no step; STOP must be above FIRST")
    return start, stop


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
