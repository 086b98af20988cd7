"""The loop as the page asks for it: what is told of units and spans is so in the recording."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planted_traces import planted, random

pytest.importorskip("bokeh")

from unrolled.viewer import finding as module
from unrolled.viewer.asked import Asked
from unrolled.viewer.finding import Finding
from unrolled.viewer.looking import Looking
from unrolled.viewer.recorded import Characters, Label, Recorded
from unrolled.viewer.serving.packing import pack, unpack

STEPS = 300
# Where unit 1 of the cell is on, and unit 2 is low.
SPANS = ((20, 25), (100, 104), (200, 230), (290, 300))


def silent(done: int, of: int) -> None:
    pass


def inside(steps: int = STEPS) -> np.ndarray[Any, Any]:
    found = np.zeros(steps, np.int64)
    for start, stop in SPANS:
        found[start:stop] = 1
    return found


def loop(dtype: Any = np.float32) -> Finding:
    """Two sequences; in the second, of 50 steps, nothing is on. After its end everything is."""
    values = np.zeros((2, STEPS, 4), dtype)
    values[0, :, 1] = inside()
    values[0, :, 2] = -inside()
    values[0, 21, 1] = 0.5
    values[1, 50:] = 1
    hidden = random(0, 2, STEPS, 3) / 100
    text = "".join(chr(ord("a") + step % 26) for step in range(STEPS))
    labels = (
        Label("in_string", np.stack([inside(), np.where(np.arange(STEPS) < 50, 0, -1)])),
        Label("class", np.repeat([[0], [1]], STEPS, 1), ("left", "right")),
        Label("never", np.full((2, STEPS), -1)),
    )
    recorded = Recorded(
        title="a test",
        trace=planted(l0__cell=values, l0__hidden=hidden, lengths=[STEPS, 50]),
        lengths=(STEPS, 50),
        read=Characters((text, text[:50])),
        labels=labels,
    )
    return Finding(Looking(recorded))


SPAN: dict[str, Any] = {"sequence": 0, "start": 100, "stop": 104, "around": 3, "names": ["l0.cell", "l0.hidden"]}
UNITS = [{"name": "l0.cell", "number": 1, "sign": 1}, {"name": "l0.cell", "number": 2, "sign": -1}]
METHODS: dict[str, dict[str, Any]] = {
    "suggested": SPAN,
    "units_on": SPAN | {"threshold": 0.7},
    "selected": {**SPAN, "threshold": 0.7, "units": UNITS},
    "matches": {**SPAN, "threshold": 0.7, "units": UNITS},
    "agreement": {"units": UNITS, "threshold": 0.7, "label": "in_string", "value": 1},
    "followers": {"names": ["l0.cell", "l0.hidden"], "label": "in_string", "value": 1},
}


def ask(method: str, found: Finding | None = None, **changed: Any) -> Any:
    finding = found or loop()
    more = (silent,) if method in ("matches", "agreement", "followers") else ()
    answer = getattr(finding, method)(Asked(METHODS[method] | changed), *more)
    assert pack(answer)
    return answer


def test_suggested_threshold_finds_the_planted_units() -> None:
    threshold = ask("suggested")["threshold"]
    assert 0 < threshold <= 1
    found = ask("units_on", threshold=threshold)
    assert [(one["name"], one["number"], one["sign"]) for one in found["units"][:2]] == [
        ("l0.cell", 1, 1),
        ("l0.cell", 2, -1),
    ]
    assert found["units"][0] | {} == {
        "name": "l0.cell",
        "state": "cell",
        "number": 1,
        "sign": 1,
        "on": 1.0,
        "around": 0.0,
        "strength": 1.0,
    }


def test_only_the_first_units_are_listed_and_all_are_counted() -> None:
    values = np.zeros((1, 50, 100), np.float32)
    values[0, 10:20] = 1
    look = Looking(Recorded(title="t", trace=planted(values), lengths=(50,)))
    found = Finding(look).units_on(
        Asked({"sequence": 0, "start": 10, "stop": 20, "around": 3, "names": ["l0.cell"], "threshold": 0.5})
    )
    assert found["count"] == 100
    assert len(found["units"]) == module.MOST_UNITS


def test_matches_are_the_other_spans_with_what_stands_there() -> None:
    found = ask("matches")["matches"]
    # Unit 1 is not on at one step of the first.
    assert {(200, 230), (290, 300)} <= {(one["start"], one["stop"]) for one in found}
    assert all(one["sequence"] == 0 for one in found)
    assert all(one["stop"] <= 100 or one["start"] >= 104 for one in found)
    for one in found:
        start = max(0, one["start"] - module.BEFORE)
        stop = min(STEPS, one["start"] + module.AFTER)
        assert one["from"] == start
        assert one["text"] == "".join(chr(ord("a") + step % 26) for step in range(start, stop))
        on = inside()[start:stop].astype(np.float32)
        if start <= 21 < stop:
            on[21 - start] = 0.5
        np.testing.assert_array_equal(one["share"], on)
        assert one["labels"]["in_string"] == pytest.approx(inside()[one["start"] : one["stop"]].mean())
        assert one["labels"]["class"] == "left"
        assert "never" not in one["labels"]


def test_selected_span_is_shown_as_a_match_is() -> None:
    found = ask("selected")
    assert (found["start"], found["stop"], found["from"]) == (100, 104, 100 - module.BEFORE)
    assert found["labels"] == {"in_string": 1.0, "class": "left"}
    assert found["share"].dtype == np.float32
    np.testing.assert_array_equal(found["share"], inside()[76:156])


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (299, 300), (0, 300)])
def test_span_at_the_ends_is_shown_as_far_as_the_sequence_goes(start: int, stop: int) -> None:
    found = ask("selected", start=start, stop=stop)
    assert found["from"] == max(0, start - module.BEFORE)
    assert len(found["share"]) == len(found["text"]) == min(STEPS, start + module.AFTER) - found["from"]
    # What stands after the end of the second sequence is not shown.
    other = ask("selected", sequence=1, start=49, stop=50)
    assert len(other["share"]) == len(other["text"]) == 50 - (49 - module.BEFORE)
    assert not other["share"].any()
    assert other["labels"] == {"in_string": 0.0, "class": "right"}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_share_shown_is_of_the_units_that_the_search_takes_for_on(dtype: Any) -> None:
    # Just below and just at a threshold in each precision.
    values = np.zeros((1, 60, 1), dtype)
    below, at = np.nextafter(dtype(0.1), dtype(0)), dtype(0.1)
    values[0, 10:15], values[0, 30:35] = at, below
    threshold = float(at)
    look = Looking(Recorded(title="t", trace=planted(values), lengths=(60,)))
    given = {"sequence": 0, "start": 50, "stop": 51, "around": 3, "threshold": threshold}
    given["units"] = [{"name": "l0.cell", "number": 0, "sign": 1}]
    (found,) = Finding(look).matches(Asked(given), silent)["matches"]
    assert (found["start"], found["stop"]) == (10, 15)
    expected = np.zeros(60, np.float32)
    expected[10:15] = 1
    np.testing.assert_array_equal(found["share"], expected[: 10 + module.AFTER])


def test_agreement_counts_steps_of_all_units_together_and_of_each_alone() -> None:
    found = ask("agreement")
    true = int(inside().sum())
    # The second sequence has 50 steps, and none after them counts.
    assert found["together"]["n"] == STEPS + 50
    # Where unit 1 is off for a step, half of the units are still on.
    assert [found["together"][name] for name in ("true", "predicted", "both")] == [true] * 3
    assert [(one["number"], one["score"]["both"]) for one in found["alone"]] == [(1, true - 1), (2, true)]
    assert found["alone"][0]["score"]["precision"] == 1
    assert found["alone"][0]["score"]["recall"] == (true - 1) / true


def test_one_unit_alone_is_all_together() -> None:
    found = ask("agreement", units=UNITS[1:])
    assert [one["score"] for one in found["alone"]] == [found["together"]]
    assert found["together"]["f1"] == 1


def test_label_that_is_nowhere_defined_agrees_with_nothing() -> None:
    found = unpack(pack(ask("agreement", label="never", value=None)))["together"]
    assert found["n"] == 0
    assert math.isnan(found["precision"])
    assert math.isnan(found["prevalence"])
    assert ask("followers", label="never", value=None)["followers"] == []


def test_value_of_a_named_label_is_one_of_its_own() -> None:
    assert ask("agreement", label="class", value=1)["together"]["true"] == 50
    assert ask("agreement", label="class", value=0)["together"]["true"] == STEPS
    with pytest.raises(ValueError, match="^value: given 2, expected a whole number from 0 to 1"):
        ask("agreement", label="class", value=2)


def test_followers_are_the_units_that_follow() -> None:
    found = ask("followers")["followers"]
    assert {(one["name"], one["number"], one["sign"]) for one in found[:2]} == {("l0.cell", 1, 1), ("l0.cell", 2, -1)}
    best = next(one for one in found if one["number"] == 2)
    assert best["found"]["f1"] == best["held_out"]["f1"] == 1
    assert best["auc"] == 1


@pytest.mark.parametrize("method", ["matches", "agreement", "followers"])
def test_progress_grows_to_its_end(method: str) -> None:
    told: list[tuple[int, int]] = []
    getattr(loop(), method)(Asked(METHODS[method]), lambda done, of: told.append((done, of)))
    assert len({of for _, of in told}) == 1
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("method", ["matches", "agreement", "followers"])
def test_search_stops_when_it_is_told_to(method: str) -> None:
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        getattr(loop(), method)(Asked(METHODS[method]), stop)


@pytest.mark.parametrize("threshold", [1e39, -1e39, 1e300, 10**400, math.nan, math.inf, True, "1", None])
def test_threshold_that_no_value_has_is_refused(threshold: Any) -> None:
    for method in ("units_on", "selected", "matches", "agreement"):
        with pytest.raises(ValueError, match="^threshold: given"):
            ask(method, threshold=threshold)


@pytest.mark.parametrize("threshold", [3.4e38, -3.4e38, 0, 0.0, 5e-324])
def test_any_other_threshold_is_taken(threshold: float) -> None:
    for method in ("units_on", "selected", "matches", "agreement"):
        assert ask(method, threshold=threshold)


@pytest.mark.parametrize("sign", [0, 2, -2, 1.0, None, True])
def test_sign_is_one_of_two(sign: Any) -> None:
    with pytest.raises(ValueError, match="^sign: given"):
        ask("selected", units=[UNITS[0] | {"sign": sign}])


@pytest.mark.parametrize(
    ("unit", "blamed"),
    [
        ({"number": 4}, "number"),
        ({"number": -1}, "number"),
        ({"number": 1.0}, "number"),
        ({"name": "l0.hidden", "number": 3}, "number"),
        ({"name": "l9.cell"}, "name"),
        ({"name": None}, "name"),
    ],
    ids=str,
)
def test_unit_that_is_not_there_is_refused(unit: dict[str, Any], blamed: str) -> None:
    for method in ("selected", "matches", "agreement"):
        with pytest.raises(ValueError, match=f"^{blamed}: given"):
            ask(method, units=[UNITS[1], UNITS[0] | unit])


WRONG = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([[], {}, [1], [{}], ["l0.cell"], ["l0.cell"] * 2, "in_string", "never", "class", [None]])
)
FINDING = loop()


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_wrong_arguments_are_refused_by_name(method: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(METHODS[method])))
    value = data.draw(WRONG)
    try:
        ask(method, FINDING, **{name: value})
    except ValueError as refused:
        said = str(refused)
    else:
        return
    other = {"start": {"stop"}, "sequence": {"stop"}, "label": {"value"}, "units": {"name"}}
    assert said.partition(":")[0] in {name} | other.get(name, set())


@pytest.mark.parametrize("method", METHODS)
def test_arguments_that_are_missing_are_named(method: str) -> None:
    for name in METHODS[method].keys() - {"value"}:
        if method in ("selected", "matches") and name == "names":
            continue
        if method == "selected" and name == "around":
            continue
        with pytest.raises(ValueError, match=f"^{name}: given None"):
            ask(method, FINDING, **{name: None})
