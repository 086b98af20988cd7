"""The programs in examples/ run, and print what they are there to show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from unrolled import instruments

EXAMPLES = Path(__file__).parent.parent / "examples"


def printed(name: str, *options: str) -> dict[str, list[float]]:
    """The figures that each line of an example's output ends in, by the words that it starts with."""
    command = [sys.executable, str(EXAMPLES / name), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    rows = re.findall(r"^ *(\S.*?) {2,}(-?\d+\.\d.*)$", run.stdout, re.MULTILINE)
    return {words: [float(figure) for figure in re.findall(r"-?\d+\.\d+", figures)] for words, figures in rows}


def test_the_agent_remembers_the_cue_and_without_memory_it_can_only_guess() -> None:
    returns = printed("recurrent_agent.py")
    (chance,) = returns["best possible without memory"]
    assert returns["LSTM"][0] > 0.8
    assert abs(returns["the same, reset at every step"][0] - chance) < 0.2


def test_the_tagger_beats_both_baselines_on_files_held_out() -> None:
    shares = printed("tagger.py")
    lstm, character, majority = shares["all"]
    assert lstm > 0.9 > character > majority
    assert shares["keyword"][0] > 0.8 > shares["keyword"][1]
    assert shares["string"][0] > 0.8 > shares["string"][1]


def test_the_forecaster_beats_persistence_and_seasonal_naive_but_not_the_lower_bound() -> None:
    # It stops with an error if what is streamed is not what one call gives.
    errors = {name: figures[-1] for name, figures in printed("streaming_forecaster.py").items()}
    naive = min(errors[name] for name in ("persistence", "seasonal naive, day", "seasonal naive, week"))
    assert errors["lower bound"] < errors["GRU"] < 0.7 * naive


def test_the_look_inside_says_what_every_instrument_found_and_draws_it(tmp_path: Path) -> None:
    options = ("--steps", "20", "--sequences", "24", "--out", str(tmp_path))
    assert 2 < printed("inside_a_network.py", *options)["trained"][0] < 6.6
    drawn = {page.stem for page in tmp_path.glob("*.html")}
    by_name = set(instruments.__all__) & {name for name in dir(instruments) if name.islower()}
    without_a_model = {"bias_of", "timescale_of", "gate_openness", "capacity", "carries"}
    assert drawn == by_name - without_a_model | {"carries_cell", "carries_hidden"}
