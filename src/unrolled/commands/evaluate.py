"""unrolled evaluate: a trained run on its test part, beside baselines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

from unrolled.commands.options import positional, read

_TEXT = """How good a run is on its test part, beside baselines on the same part.

Attributes:
    run: the run's folder; evaluation.json is written there.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    kind = make_dataclass("Options", [("run", positional(Path, "RUN"))], frozen=True, namespace={"__doc__": _TEXT})
    options: Any = read(kind, arguments, command="evaluate", description=_TEXT.splitlines()[0])
    from unrolled.evaluation import evaluate
    from unrolled.runs import Run

    found = evaluate(Run.open(options.run), tell=lambda line: print(line, file=sys.stderr))
    print(found.summary())
    return 0
