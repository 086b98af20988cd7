"""The named real data with the base preset over three seeds, beside baselines: docs/results.json and docs/results.md.

    python benchmarks/real_data.py [weather vowels digits code prose] [--seeds 3] [--out runs/results]

Every network is trained and evaluated by the commands that a user gives, one after another. Runs that are finished in
the folder are not done again; docs/results.md is made from what is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from unrolled.bench.machine import facts
from unrolled.intervals import Interval
from unrolled.storage import write_json, write_text

KINDS = {"weather": "series", "vowels": "classify", "digits": "classify", "code": "text", "prose": "text"}
DOCS = Path(__file__).parents[1] / "docs"
# What a reader is told of each, and how its figures are written.
TITLES = {
    "weather": "Temperature of the next 24 hours at three airports, root mean squared error in °F and scaled",
    "vowels": "Which of nine speakers says a vowel, accuracy",
    "digits": "Which digit, read row by row, accuracy",
    "code": "The next character of Python's standard library, bits per character",
    "prose": "The next character of the King James Version, bits per character",
}


def measured(name: str, seed: int, out: Path) -> dict[str, Any]:
    """One run and its evaluation."""
    run = out / f"{name}-{seed}"
    command = [sys.executable, "-m", "unrolled"]
    if not (run / "fit.json").exists():
        subprocess.run(
            [*command, "train", KINDS[name], name, "--seed", str(seed), "--out", str(run), "--resume"], check=True
        )
    if not (run / "evaluation.json").exists():
        subprocess.run([*command, "evaluate", str(run)], check=True)
    *_, last = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    fit = json.loads((run / "fit.json").read_text())
    return {"seed": seed, "seconds": last["seconds"], "steps": last["step"], "best_step": fit["best_step"], **found}


def section(name: str, runs: list[dict[str, Any]]) -> str:
    """The part of docs/results.md about one set of data."""
    metric, first = runs[0]["metric"], runs[0]["figures"]
    columns = list(dict.fromkeys(column for row in first.values() for column in row))
    lines = [
        f"## {name}",
        "",
        f"{TITLES[name]}. Compared by `{metric}`, {'higher' if runs[0]['higher_is_better'] else 'lower'} is better.",
        "",
        f"    unrolled train {KINDS[name]} {name} --seed SEED --out RUN && unrolled evaluate RUN",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for who in first:
        cells = []
        for column in columns:
            values = [run["figures"][who][column] for run in runs if column in run["figures"][who]]
            same = len(set(values)) == 1
            cells.append("" if not values else f"{values[0]:.4f}" if same else Interval.over(values).text)
        lines.append(f"| {who} | " + " | ".join(cells) + " |")
    winners = [run["winner"] for run in runs]
    counted = "; ".join(f"{who} in {winners.count(who)} of {len(runs)}" for who in dict.fromkeys(winners))
    minutes = ", ".join(f"{run['seconds'] / 60:.1f}" for run in runs)
    each = ", ".join(f"{run['figures']['network'][metric]:.4f}" for run in runs)
    lines += [
        "",
        f"Best: {counted}. The network's `{metric}` of each seed: {each}. Minutes of training: {minutes}.",
        *runs[0]["remarks"],
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", default=["weather", "vowels", "digits", "code"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    options = parser.parse_args()
    stored = DOCS / "results.json"
    kept: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {"data": {}}
    for name in options.names:
        kept["data"][name] = [measured(name, seed, options.out) for seed in range(options.seeds)]
        kept["machine"] = facts(torch.get_num_threads(), ())
        write_json(stored, kept)
    ordered = [name for name in KINDS if name in kept["data"]]
    machine = kept["machine"]
    text = [
        "# Results on real data",
        "",
        "The base preset of `unrolled train`, by `python benchmarks/real_data.py`. Means over seeds with their 95 % "
        f"interval; a figure without one is the same for every seed. {machine['processor']}, {machine['threads']} "
        f"threads; torch {machine['versions']['torch']}, Python {machine['python']}. [Training](training.md) says what "
        "each figure and baseline is, and how the data are divided.",
        "",
        *(section(name, kept["data"][name]) for name in ordered),
    ]
    write_text(DOCS / "results.md", "\n".join(text))


if __name__ == "__main__":
    main()
