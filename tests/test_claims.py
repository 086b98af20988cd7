"""Each claim's verdict follows its data: true figures support it, false figures contradict it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from unrolled.claims import MEASUREMENTS, Run, judge
from unrolled.intervals import Interval
from unrolled.page.answer import answer
from unrolled.verdicts import Claim, Finding, across, all_of

SEEDS = range(4)
SETTING = "recall:lag=9"


def run(cell: str, seed: int, measured: dict[str, Any], *, skill: float = 0.9) -> Run:
    return Run(SETTING, cell, seed, 30, 6100, 0.9, skill, measured)


def decay(rate: float) -> list[float]:
    return [math.exp(rate * lag) for lag in range(41)]


def gradient(seed: int, **rates: float) -> dict[str, Any]:
    """Gradients that grow by `rates` nats a step, a little different for each seed."""
    rates = {state: rate * (1 + 0.01 * seed) for state, rate in rates.items()}
    return {
        "lags": list(range(41)),
        "norms": {state: decay(rate) for state, rate in rates.items()},
        "direct": decay(-0.01),
        "rate": dict(rates),
        "half_life": {state: None for state in rates},
        "fold": {state: rate * 39 / math.log(10) for state, rate in rates.items()},
        "untrained_rate": dict(rates),
        "exponent": max(rates.values()),
    }


def push(seed: int, left: float, half_life: float) -> dict[str, Any]:
    states = [1.0, left + 0.01 * seed, 0.0]
    return {"lags": [0, 1, 2], "states": states, "output": states, "half_life": half_life + 0.01 * seed}


def contents(seed: int, cell: float, hidden: float) -> dict[str, Any]:
    """Accuracies: `cell` and `hidden` are those of the far past; the near past has them the other way round."""

    def line(far: float, near: float) -> dict[str, Any]:
        return {"accuracy": [near + 0.001 * seed, far + 0.002 * seed], "control": [0.1, 0.1]}

    states = {"cell": line(cell, hidden), "hidden": line(hidden * 0.999, cell * 0.999 - 0.001 * seed)}
    names = ("both", "untrained cell", "untrained hidden", "untrained both", "input")
    curves = {**states, **{name: line(0.2, 0.2) for name in names}}
    labels = {"in_string": {name: {"accuracy": 0.8, "control": 0.6, "chance": 0.5, "steps": 100} for name in curves}}
    return {"lags": [0, 9], "curves": curves, "labels": labels}


def openness(seed: int, trained: float, untrained: float) -> dict[str, Any]:
    def one(difference: float) -> dict[str, Any]:
        return {
            "matter": 0.5,
            "rest": 0.5,
            "difference": difference + 0.001 * seed * difference,
            "effect": 1.0,
            "around": [None] * 4 + [0.5] * 9,
        }

    return {"store": {"gate": "input_gate", "trained": one(trained), "untrained": one(untrained)}}


def skills(seed: int, skill: float) -> dict[str, Any]:
    skill -= 0.001 * seed * skill
    return {"lags": [5, 9], "values": [0.5, 0.5], "skills": [skill] * 2, "longest_trained": skill}


def runs(claim: str, rnn: Any, lstm: Any) -> list[Run]:
    both = {"rnn": rnn, "lstm": lstm}
    return [run(cell, seed, {claim: make(seed)}) for seed in SEEDS for cell, make in both.items() if make]


TRUE = {
    "gradient": runs("gradient", lambda s: gradient(s, hidden=-0.3), lambda s: gradient(s, hidden=-0.02, cell=-0.01)),
    "overwrite": runs("overwrite", None, lambda s: {"hidden": push(s, 0.2, 0.6), "cell": push(s, 0.95, 20)}),
    "contents": runs("contents", None, lambda s: contents(s, 0.9, 0.5)),
    "storing": runs("storing", None, lambda s: openness(s, 0.4, 0.1)),
    "long_term": runs("long_term", lambda s: skills(s, 0.1), lambda s: skills(s, 0.9)),
}
FALSE = {
    "an RNN whose gradient neither vanishes nor explodes": (
        "gradient",
        runs("gradient", lambda s: gradient(s, hidden=-0.001), lambda s: gradient(s, hidden=-0.02, cell=-0.01)),
    ),
    "a cell whose gradient vanishes faster than the RNN's": (
        "gradient",
        runs("gradient", lambda s: gradient(s, hidden=-0.3), lambda s: gradient(s, hidden=-0.6, cell=-0.6)),
    ),
    "a cell whose gradient explodes faster than the RNN's vanishes": (
        "gradient",
        runs("gradient", lambda s: gradient(s, hidden=-0.3), lambda s: gradient(s, hidden=0.6, cell=0.6)),
    ),
    "a hidden state that keeps what is pushed into it": (
        "overwrite",
        runs("overwrite", None, lambda s: {"hidden": push(s, 0.9, 15), "cell": push(s, 0.95, 20)}),
    ),
    "a cell that forgets as fast as the hidden state": (
        "overwrite",
        runs("overwrite", None, lambda s: {"hidden": push(s, 0.2, 1.5), "cell": push(s, 0.2, 1.0)}),
    ),
    "a hidden state that knows the far past better": (
        "contents",
        runs("contents", None, lambda s: contents(s, 0.5, 0.9)),
    ),
    "gates that tell steps apart less after training": (
        "storing",
        runs("storing", None, lambda s: openness(s, 0.1, 0.4)),
    ),
    "an RNN that remembers better": (
        "long_term",
        runs("long_term", lambda s: skills(s, 0.9), lambda s: skills(s, 0.1)),
    ),
    "an RNN that remembers as well": (
        "long_term",
        runs("long_term", lambda s: skills(s, 1.0), lambda s: skills(s, 1.0)),
    ),
}


def judged(claim: str, evidence: list[Run]) -> Claim:
    return MEASUREMENTS[claim].judge(evidence)


@pytest.mark.parametrize("claim", TRUE)
def test_true_data_support_the_claim(claim: str) -> None:
    assert judged(claim, TRUE[claim]).verdict == "supported"


@pytest.mark.parametrize("case", FALSE)
def test_false_data_contradict_the_claim(case: str) -> None:
    claim, evidence = FALSE[case]
    assert judged(claim, evidence).verdict == "contradicted"


@pytest.mark.parametrize("claim", TRUE)
def test_one_seed_leaves_the_claim_undecided(claim: str) -> None:
    assert judged(claim, [r for r in TRUE[claim] if r.seed == 0]).verdict == "undecided"


@pytest.mark.parametrize("claim", TRUE)
def test_no_data_leave_the_claim_undecided(claim: str) -> None:
    assert judged(claim, []).verdict == "undecided"


@pytest.mark.parametrize("claim", TRUE)
def test_seeds_that_disagree_leave_the_claim_undecided(claim: str) -> None:
    false = next(evidence for name, evidence in FALSE.values() if name == claim)
    mixed = [r for r in TRUE[claim] if r.seed < 2] + [r for r in false if r.seed >= 2]
    assert judged(claim, mixed).verdict == "undecided"


@pytest.mark.parametrize("claim", ["contents", "storing"])
def test_a_network_that_learnt_nothing_has_no_say_about_what_is_learnt(claim: str) -> None:
    idle = [run(r.cell, r.seed, dict(r.measured), skill=0.01) for r in TRUE[claim]]
    result = judged(claim, idle)
    assert not result.findings
    assert any("did not learn" in remark for remark in result.remarks)


def test_a_claim_that_holds_in_one_setting_and_fails_in_another_depends_on_the_setting() -> None:
    _, false = FALSE["an RNN that remembers as well"]
    elsewhere = [Run("recall:lag=60", r.cell, r.seed, 30, 6100, 0.9, 0.9, r.measured) for r in false]
    claim = judged("long_term", TRUE["long_term"] + elsewhere)
    assert claim.settings == {SETTING: "supported", "recall:lag=60": "contradicted"}
    assert claim.depends
    assert claim.verdict == "undecided"


def test_the_answer_says_what_the_verdicts_say() -> None:
    true = answer(judge([r for evidence in TRUE.values() for r in evidence]))
    assert "the LSTM remembers better than an RNN of equal size" in true
    false = answer([judged(*FALSE["an RNN that remembers as well"])])
    assert "the LSTM remembers no better than an RNN of equal size" in false


def test_the_answer_counts_what_held_everywhere_somewhere_and_nowhere() -> None:
    claims = [judged("storing", TRUE["storing"]), judged(*FALSE["an RNN that remembers as well"])]
    assert answer(claims).startswith(
        "Of 2 parts of the folk answer, 1 held in every setting tried, 0 in some and 1 in none."
    )


def test_labels_are_shown_with_their_accuracy_and_selectivity() -> None:
    accuracy, selectivity = judged("contents", TRUE["contents"]).tables
    assert accuracy.rows[0][:3] == ("in string", "0.50", "0.80 ± 0.00")
    assert selectivity.rows[0][:2] == ("in string", "+0.20 ± 0.00")


def test_judging_does_not_change_the_evidence() -> None:
    evidence = [r for claim in TRUE.values() for r in claim]
    before = copy.deepcopy(evidence)
    judge(evidence)
    assert evidence == before


def test_interval_is_students() -> None:
    # t(0.975, 2) = 4.3027; standard error of 1, 2, 3 is 1 / sqrt(3).
    interval = Interval.over([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.high - interval.mean == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)


def test_interval_of_figures_with_nan_is_nan_and_decides_nothing() -> None:
    interval = Interval.over([1.0, math.nan, 3.0])
    assert math.isnan(interval.mean)
    assert Finding("s", "x", interval, 0.0, "u").verdict == "undecided"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [((1.0, 1.1, 1.2), "supported"), ((-1.0, -1.1, -1.2), "contradicted"), ((-1.0, 1.0, 0.1), "undecided")],
)
def test_finding_compares_the_whole_interval_with_the_threshold(values: tuple[float, ...], verdict: str) -> None:
    assert Finding("s", "x", Interval.over(values), 0.0, "u").verdict == verdict


def test_one_contradicted_part_contradicts_the_whole() -> None:
    assert all_of(["supported", "contradicted", "undecided"]) == "contradicted"
    assert all_of(["supported", "undecided"]) == "undecided"
    assert all_of([]) == "undecided"
    assert across(["supported", "contradicted"]) == "undecided"
    assert across(["contradicted", "contradicted"]) == "contradicted"
