"""Each claim's verdict follows its data: true figures support it, false figures contradict it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from unrolled.claims import MEASUREMENTS, Run, Subject, judge
from unrolled.intervals import Interval
from unrolled.model import SequenceModel
from unrolled.page.answer import answer
from unrolled.problems.problem import ALL
from unrolled.problems.synthetic import Synthetic
from unrolled.tasks import parse
from unrolled.training import Budget, fit
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


def held(seed: int, **figures: float) -> dict[str, Any]:
    """What carries() finds of a state, a little different for each seed."""
    figures = {"score": 0.9, "gain": 0.3, "effect": 0.5, "left": 0.95} | figures
    parts = {"decodable": figures["gain"] > 0, "used": figures["effect"] > 0.01, "persistent": figures["left"] > 0.5}
    moved = {name: value + 0.002 * seed for name, value in figures.items()}
    return {**parts, "carried": all(parts.values()), **moved}


def contents(
    seed: int,
    cell: float = 0.9,
    hidden: float = 0.5,
    *,
    carried: dict[str, float] | None = None,
    left_in_hidden: float = 0.1,
) -> dict[str, Any]:
    """Accuracies: `cell` and `hidden` are those of the far past; the near past has them the other way round.

    Of the cue the cell has what it would have if it carried it, but for the figures in `carried`.
    """

    def line(far: float, near: float) -> dict[str, Any]:
        return {"accuracy": [near + 0.001 * seed, far + 0.002 * seed], "control": [0.1, 0.1]}

    states = {"cell": line(cell, hidden), "hidden": line(hidden * 0.999, cell * 0.999 - 0.001 * seed)}
    names = ("both", "untrained cell", "untrained hidden", "untrained both", "input")
    curves = {**states, **{name: line(0.2, 0.2) for name in names}}
    labels = {"in_string": {name: {"accuracy": 0.8, "selectivity": 0.2, "chance": 0.5} for name in curves}}
    cue = {"cell": held(seed, **(carried or {})), "hidden": held(seed, left=left_in_hidden)}
    return {"lags": [0, 9], "curves": curves, "labels": labels, "carries": {"the cue": cue}}


def split_error(seed: int, bias: float, variance: float) -> dict[str, Any]:
    """Bias and variance as shares of an error of 0.2 without skill."""
    bias, variance = 0.2 * bias * (1 + 0.01 * seed), 0.2 * variance * (1 + 0.02 * seed)
    parts = {"bias": bias, "variance": variance, "error": bias + variance}
    sizes = {"parameters": 30, "hidden_size": 20}
    return {"no_skill": 0.2, "sizes": sizes, "parameters": parts, "hidden_size": dict(parts)}


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
    "contents": runs("contents", None, contents),
    "storing": runs("storing", None, lambda s: openness(s, 0.4, 0.1)),
    "long_term": runs("long_term", lambda s: skills(s, 0.1), lambda s: skills(s, 0.9)),
    "capacity": runs("capacity", lambda s: split_error(s, 0.5, 0.1), lambda s: split_error(s, 0.1, 0.4)),
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
    "a cell from which the cue is read no better than off its controls": (
        "contents",
        runs("contents", None, lambda s: contents(s, carried={"gain": -0.1})),
    ),
    "a cell whose cue moves no answer": (
        "contents",
        runs("contents", None, lambda s: contents(s, carried={"effect": 0.0})),
    ),
    "a cell that loses the cue": (
        "contents",
        runs("contents", None, lambda s: contents(s, carried={"left": 0.2})),
    ),
    "a hidden state that keeps the cue as well": (
        "contents",
        runs("contents", None, lambda s: contents(s, left_in_hidden=0.95)),
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
    "an LSTM of higher bias": (
        "capacity",
        runs("capacity", lambda s: split_error(s, 0.1, 0.1), lambda s: split_error(s, 0.5, 0.4)),
    ),
    "an LSTM of lower variance": (
        "capacity",
        runs("capacity", lambda s: split_error(s, 0.5, 0.4), lambda s: split_error(s, 0.1, 0.1)),
    ),
    "an LSTM with the bias and the variance of the RNN": (
        "capacity",
        runs("capacity", lambda s: split_error(s, 0.3, 0.3), lambda s: split_error(s, 0.3, 0.3)),
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


def table(claim: Claim, title: str) -> tuple[tuple[str, ...], ...]:
    """The rows of the one table whose title begins so."""
    (found,) = [table for table in claim.tables if table.title.startswith(title)]
    assert all(len(row) == len(found.columns) for row in found.rows)
    return found.rows


def test_the_rates_of_all_states_are_shown() -> None:
    rows = table(judged("gradient", TRUE["gradient"]), "How fast gradients shrink")
    assert [row[:2] for row in rows] == [(SETTING, state) for state in ("RNN hidden", "LSTM hidden", "LSTM cell")]


def test_labels_are_shown_with_their_accuracy_and_selectivity() -> None:
    claim = judged("contents", TRUE["contents"])
    assert table(claim, "Balanced accuracy")[0][:3] == ("in string", "0.50", "0.80 ± 0.00")
    assert table(claim, "Selectivity")[0][:2] == ("in string", "+0.20 ± 0.00")


def test_what_each_state_carries_is_shown_with_its_parts() -> None:
    # The figures are those of 0.95 and of 0.1 left, and means over four seeds that grow by 0.002.
    cell, hidden = table(judged("contents", TRUE["contents"]), "Which state carries what")
    assert cell[:6] == ("the cue", "LSTM cell", "4 of 4", "4 of 4", "4 of 4", "4 of 4")
    assert hidden[:6] == ("the cue", "LSTM hidden", "4 of 4", "4 of 4", "0 of 4", "0 of 4")
    assert cell[-3:] == ("0.90", "0.50", "0.95")
    assert hidden[-1] == "0.10"


@pytest.mark.parametrize("figure", ["gain", "effect", "left"])
def test_a_part_of_carrying_that_was_not_measured_in_one_network_leaves_the_claim_undecided(figure: str) -> None:
    evidence = copy.deepcopy(TRUE["contents"])
    evidence[0].measured["contents"]["carries"]["the cue"]["cell"][figure] = None
    claim = judged("contents", evidence)
    assert claim.verdict == "undecided"
    assert [f.verdict for f in claim.findings].count("undecided") == (2 if figure == "left" else 1)


def test_bias_and_variance_are_compared_at_equal_parameters_and_at_equal_hidden_size() -> None:
    claim = judged("capacity", TRUE["capacity"])
    assert [f.statement.partition(" than ")[0] for f in claim.findings] == [
        "the LSTM has lower bias",
        "the LSTM has higher variance",
    ] * 2
    assert [f.statement.partition(" at ")[2] for f in claim.findings] == [
        *["an equal number of parameters"] * 2,
        *["an equal hidden size"] * 2,
    ]
    # 0.5 less 0.1, each 1.015 times as large in the mean over seeds.
    assert claim.findings[0].interval.mean == pytest.approx(0.4 * 1.015)
    assert claim.findings[1].interval.mean == pytest.approx(0.3 * 1.03)


def test_a_claim_about_capacity_that_fails_at_one_size_is_contradicted() -> None:
    evidence = copy.deepcopy(TRUE["capacity"])
    for one in evidence:
        if one.cell == "lstm":
            one.measured["capacity"]["hidden_size"]["bias"] = 0.19
    claim = judged("capacity", evidence)
    assert claim.verdict == "contradicted"
    assert [f.verdict for f in claim.findings] == ["supported", "supported", "contradicted", "supported"]


def test_capacity_is_shown_as_shares_of_the_error_without_skill() -> None:
    rows = table(judged("capacity", TRUE["capacity"]), "Bias, variance and their sum")
    assert [row[1:3] for row in rows] == [
        (words, f"{cell} ({units} units)")
        for words, units in (("an equal number of parameters", 30), ("an equal hidden size", 20))
        for cell in ("RNN", "LSTM")
    ]
    assert rows[0][3].startswith("0.507 (")
    assert rows[1][4].startswith("0.412 (")


def test_capacity_without_an_rnn_to_compare_with_says_nothing() -> None:
    claim = judged("capacity", [r for r in TRUE["capacity"] if r.cell == "lstm"])
    assert claim.verdict == "undecided"
    assert not claim.findings


# Measured on networks that were just trained


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads only cost time on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(task: str, cell: str, steps: int = 20, hidden_size: int = 6) -> Subject:
    made = parse(task)
    torch.manual_seed(0)
    model = SequenceModel(cell, made.input_size, hidden_size, made.output_size)
    untrained = copy.deepcopy(model)
    budget = Budget(steps=steps, batch_size=16, validate_every=steps, validation_size=16)
    fit(model, made, budget, seed=0)
    return Subject(cell, model, untrained, made, 0, budget)


def measured(claim: str, subject: Subject) -> dict[str, Any]:
    """As it is read back from a file."""
    found = MEASUREMENTS[claim].measure(subject)
    assert found is not None
    back: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    return back


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_contents_are_measured_on_recall(cell: str) -> None:
    found = measured("contents", trained("recall:lag=9", cell))
    states = {"hidden", "cell", "both"} if cell == "lstm" else {"hidden"}
    assert found["lags"] == [0, 1, 2, 3, 5, 8, 10]
    assert set(found["curves"]) == states | {f"untrained {state}" for state in states} | {"input"}
    assert all(len(line["accuracy"]) == len(line["control"]) == 7 for line in found["curves"].values())
    assert found["curves"]["input"]["accuracy"][0] == 1
    assert list(found["carries"]) == ["the cue"]
    assert set(found["carries"]["the cue"]) == states - {"both"}
    assert found["labels"] == {}
    claim = MEASUREMENTS["contents"].judge([run(cell, seed, {"contents": found}) for seed in range(2)])
    assert bool(claim.findings) == (cell == "lstm")


@pytest.mark.usefixtures("one_thread")
def test_contents_are_measured_on_code_with_the_tokenizers_labels() -> None:
    found = measured("contents", trained("code:length=30", "lstm"))
    assert {"in_string", "indentation"} <= set(found["labels"])
    for label in found["labels"].values():
        assert set(label) >= {"hidden", "cell", "both", "untrained both", "input"}
        assert all(0 <= one["accuracy"] <= 1 for one in label.values())
    assert set(found["carries"]) == {"in_string", "indentation"}
    assert 0 < found["carries"]["in_string"]["cell"]["score"] <= 1
    claim = MEASUREMENTS["contents"].judge([run("lstm", seed, {"contents": found}) for seed in range(2)])
    assert len(table(claim, "Which state carries what")) == 4


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("task", ["adding:length=12", "recall:lag=3"])
def test_contents_say_nothing_of_inputs_without_symbols_or_without_a_far_past(task: str) -> None:
    assert MEASUREMENTS["contents"].measure(trained(task, "lstm")) is None


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("task", ["adding:length=10", "recall:lag=3", "code:length=12"])
def test_capacity_is_measured(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrolled.claims.capacity._STEPS", 12)
    monkeypatch.setattr("unrolled.claims.capacity._EXAMPLES", 64)
    found = {cell: measured("capacity", trained(task, cell)) for cell in ("rnn", "lstm")}
    for figures in found.values():
        assert figures["sizes"]["parameters"] == 6
        for match in ("parameters", "hidden_size"):
            parts = figures[match]
            assert parts["bias"] + parts["variance"] == pytest.approx(parts["error"])
            assert parts["variance"] > 0
        # Networks that have hardly been trained know next to nothing.
        assert 0.5 < figures["parameters"]["error"] / figures["no_skill"] < 8
    assert found["lstm"]["sizes"]["hidden_size"] == 6
    assert found["rnn"]["sizes"]["hidden_size"] < 6
    claim = MEASUREMENTS["capacity"].judge(
        [run(cell, seed, {"capacity": figures}) for cell, figures in found.items() for seed in range(2)]
    )
    assert len(claim.findings) == 4


@pytest.mark.usefixtures("one_thread")
def test_capacity_is_measured_on_the_same_sets_for_every_cell_and_on_others_for_every_seed() -> None:
    from unrolled.claims.capacity import _BATCHES, _batch_of_set

    task = parse("recall:lag=3")

    def drawn(number: int) -> set[bytes]:
        one = Synthetic(task, seed=number, batch_size=4, draw=partial(_batch_of_set, number))
        batches = [one.batch(step, ALL)[0] for step in range(1, 5 * _BATCHES)]
        assert all(batch.symbols is not None for batch in batches)
        return {batch.symbols.numpy().tobytes() for batch in batches if batch.symbols is not None}

    sets = [drawn(number) for number in range(5)]
    assert all(len(one) == _BATCHES for one in sets)  # no more than a set has, however long it is trained on
    assert len(set.union(*sets)) == 5 * _BATCHES
    assert drawn(3) == sets[3]
    # What is tested on is the task's.
    piece = next(
        Synthetic(task, seed=0, batch_size=4, sizes={"test": 4}, draw=partial(_batch_of_set, 0)).pieces("test", ALL)
    )
    assert torch.equal(piece.inputs, task.batch(4, seed=0, split="test").inputs)


@pytest.mark.usefixtures("one_thread")
def test_capacity_is_not_measured_on_sequences_too_long_for_a_study() -> None:
    assert MEASUREMENTS["capacity"].measure(trained("recall:lag=60", "lstm", steps=1)) is None


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
