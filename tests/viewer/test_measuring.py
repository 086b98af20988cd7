"""Every instrument answers for every kind of recording, or says why it cannot, in the same words both times."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("bokeh")
pytest.importorskip("sklearn")
pytest.importorskip("xarray")

import unrolled
from unrolled import instruments
from unrolled.intervals import number
from unrolled.model import SequenceModel
from unrolled.viewer.measuring import available, calling, measure
from unrolled.viewer.measuring.calling import another
from unrolled.viewer.measuring.subject import Subject
from unrolled.viewer.recorded import Characters, Label, Recorded

UNITS, SYMBOLS = 12, 7
NAMES = {
    "gradient_flow",
    "jacobian",
    "lyapunov",
    "timescales",
    "saturation",
    "decompose_cell",
    "memory_curve",
    "probe",
    "push_response",
    "context_use",
    "fixed_points",
    "patching",
    "carries",
    "gate_openness",
    "capacity",
}


def quiet(done: int, of: int) -> None:
    pass


def seen(model: SequenceModel, inputs: Tensor, **more: Any) -> Recorded:
    """What a network does on some inputs."""
    model.eval()
    with torch.no_grad(), unrolled.record(model, detach=True) as trace:
        model(inputs, reset=more.get("reset"), lengths=more.get("lengths"))
    lengths = more.pop("lengths", None)
    return Recorded(
        title="a test",
        trace=trace,
        lengths=(inputs.size(1),) * inputs.size(0) if lengths is None else tuple(lengths.tolist()),
        inputs=inputs,
        model=lambda: model,
        **more,
    )


def text(cell: str = "lstm", *, steps: int = 600, sequences: int = 4, **options: Any) -> Recorded:
    """Characters, with resets at symbol 0 and a label that the symbols say."""
    torch.manual_seed(1)
    model = SequenceModel(cell, SYMBOLS, UNITS, SYMBOLS, embedding_size=5, **options)
    symbols = torch.randint(1, SYMBOLS, (sequences, steps + 1))
    reads_back = options.get("bidirectional", False)  # which no reset can be for
    if not reads_back:
        symbols[:, 0] = symbols[0, steps // 2] = 0
    inputs = symbols[:, :-1].contiguous()
    vowel = np.where(inputs.numpy() == 0, -1, (inputs.numpy() > 3).astype(np.int64))
    return seen(
        model,
        inputs,
        targets=symbols[:, 1:].contiguous(),
        reset=None if reads_back else inputs == 0,
        labels=(Label("depth", inputs.numpy() % 3), Label("vowel", vowel)),
        read=Characters(tuple("".join(map(str, row)) for row in inputs.tolist())),
        outputs=tuple("abcdefg"),
        loss="classes",
    )


def series(cell: str = "gru") -> Recorded:
    """Windows of two columns, one of which is forecast three steps ahead, scored at the last step."""
    model = SequenceModel(cell, 2, UNITS, 3)
    values = torch.randn(20, 43, 2).cumsum(1) / 4
    targets = torch.stack([values[:, 1 + k : 41 + k, 0] - values[:, :40, 0] for k in range(3)], -1)
    targets[3, -1, 1] = torch.nan
    targets[:, :-1] = torch.nan
    return seen(
        model,
        values[:, :40].contiguous(),
        targets=targets,
        outputs=("one", "two", "three"),
        loss="values",
    )


def classes() -> Recorded:
    """Sequences of unequal length, each of one of three classes."""
    model = SequenceModel("lstm", 3, UNITS, 3, readout="mean")
    lengths = torch.arange(40) % 12 + 9
    numbers = torch.arange(40) % 3
    inputs = torch.randn(40, 20, 3)
    label = torch.where(torch.arange(20) < lengths[:, None], numbers[:, None], -1).numpy()
    return seen(
        model,
        inputs,
        lengths=lengths,
        targets=numbers,
        labels=(Label("class", label, ("a", "b", "c")),),
        outputs=("a", "b", "c"),
        loss="classes",
        readout="mean",
    )


RECORDINGS: dict[str, Callable[[], Recorded]] = {
    "text-lstm": text,
    "text-gru": lambda: text("gru"),
    "text-rnn": lambda: text("rnn"),
    "text-two-layers-both-ways": lambda: text("lstm", layers=2, bidirectional=True),
    "series-gru": series,
    "series-lstm": lambda: series("lstm"),
    "classes-lstm": classes,
}
# What cannot be asked of each.
LACKS = {
    "text-lstm": {"capacity"},
    "text-gru": {"capacity"},
    "text-rnn": {"capacity", "decompose_cell", "gate_openness"},
    "text-two-layers-both-ways": {"capacity"},
    "series-gru": {"capacity", "probe", "carries", "gate_openness"},
    "series-lstm": {"capacity", "probe", "carries", "gate_openness"},
    "classes-lstm": {"capacity", "gradient_flow", "gate_openness"},
}


@pytest.fixture(scope="module")
def recordings() -> dict[str, Recorded]:
    return {name: make() for name, make in RECORDINGS.items()}


@pytest.mark.parametrize("kind", list(RECORDINGS))
def test_all_fifteen_are_offered_and_only_these_lack_something(kind: str, recordings: dict[str, Recorded]) -> None:
    found = available(recordings[kind])
    assert [len(found), {one.name for one in found}] == [15, NAMES]
    assert {one.name for one in found if one.needs is not None} == LACKS[kind]
    assert all(one.title and one.about.endswith(".") for one in found)


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("kind", list(RECORDINGS))
def test_an_instrument_answers_or_says_what_it_lacks(kind: str, name: str, recordings: dict[str, Recorded]) -> None:
    needs = next(one.needs for one in available(recordings[kind]) if one.name == name)
    if needs is not None:
        with pytest.raises(ValueError, match=f"^{re.escape(needs)}$"):
            measure(recordings[kind], name, tell=quiet)
        return
    told: list[tuple[int, int]] = []
    found = measure(recordings[kind], name, tell=lambda done, of: told.append((done, of)))
    assert found.name == name
    assert found.summary.endswith(".")
    assert found.seconds > 0
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]
    assert all(0 <= done <= of for done, of in told)
    assert found.figures
    for figure in found.figures:
        json.dumps(figure, allow_nan=False)
        assert figure["title"]
        assert figure["doc"]["roots"][0]["id"] == figure["root_id"]
        assert figure["doc"]["roots"][0]["name"] == "Figure"
    names = [figure["name"] for figure in found.figures]
    assert len(set(names)) == len(names)


def test_the_summary_is_the_instruments_own(recordings: dict[str, Recorded]) -> None:
    recorded = recordings["series-gru"]
    assert recorded.inputs is not None
    assert recorded.model is not None
    own = instruments.saturation(recorded.model(), recorded.inputs).summary()
    assert measure(recorded, "saturation", tell=quiet).summary == own


def test_a_figure_names_its_curves_for_the_pages_legend(recordings: dict[str, Recorded]) -> None:
    (figure,) = measure(recordings["text-lstm"], "push_response", tell=quiet).figures
    assert figure["title"] == "What is left of a push on the cell state"
    assert [entry["label"] for entry in figure["legend"]] == ["all states", "the layer's output"]
    assert [(line["label"], line["value"]) for line in figure["lines"]] == [("half", "0.5")]
    assert figure["y_label"] == "distance, as a share of the push"
    assert f'"{figure["name"]}-1-line"' in json.dumps(figure["doc"])


def test_gate_openness_is_the_mean_of_the_recorded_gate() -> None:
    recorded = text()
    gate = recorded.trace["recurrent.l0.input_gate"].numpy()
    vowel = recorded.label("vowel").values
    expected = gate[vowel == 1].mean(), gate[vowel == 0].mean()
    words = measure(recorded, "gate_openness", label="vowel", tell=quiet).summary
    assert f"open by {expected[0]:.3f} where it matters and {expected[1]:.3f} elsewhere" in words


def test_a_grus_gate_lets_the_input_in_where_it_is_shut() -> None:
    recorded = text("gru")
    shut = 1 - recorded.trace["recurrent.l0.update_gate"].numpy()
    vowel = recorded.label("vowel").values
    words = measure(recorded, "gate_openness", label="vowel", tell=quiet).summary
    assert f"open by {shut[vowel == 1].mean():.3f} where it matters" in words


def test_a_gate_counts_only_where_its_sequence_goes_on(recordings: dict[str, Recorded]) -> None:
    whole = recordings["classes-lstm"]
    marked = np.zeros((40, 20), np.int64)
    marked[:, ::2] = 1
    recorded = dataclasses.replace(whole, labels=(Label("even", marked),))
    gate = recorded.trace["recurrent.l0.input_gate"].numpy()
    inside = np.arange(20) < np.array(recorded.lengths)[:, None]
    words = measure(recorded, "gate_openness", tell=quiet).summary
    assert f"open by {gate[inside & (marked == 1)].mean():.3f} where" in words


def test_without_a_network_only_gates_are_measured() -> None:
    recorded = dataclasses.replace(text(), model=None)
    assert [one.name for one in available(recorded) if one.needs is None] == ["gate_openness"]
    assert "the network itself" in str(available(recorded)[0].needs)
    measure(recorded, "gate_openness", tell=quiet)


def test_a_network_that_cannot_be_loaded_is_what_is_lacking() -> None:
    def load() -> Any:
        raise FileNotFoundError("weights.safetensors is gone")

    recorded = dataclasses.replace(text(), model=load)
    assert "weights.safetensors is gone" in str(next(one.needs for one in available(recorded) if one.name == "probe"))


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrolled.viewer.measuring.subject.PACKAGES", ("no_such_package",))
    needs = {one.name: one.needs for one in available(text())}
    assert "no_such_package, which is not installed: pip install 'unrolled[study]'" in str(needs["timescales"])
    assert "pip install" in str(needs["gate_openness"])


@pytest.mark.parametrize(
    ("change", "name", "lacking"),
    [
        ({"inputs": None}, "timescales", "what the network read"),
        ({"targets": None}, "gradient_flow", "what the network should answer"),
        ({"loss": None, "targets": None}, "patching", "what the network's outputs are"),
        ({"labels": ()}, "probe", "a label with two values or more"),
        ({"targets": torch.full((4, 600), -1)}, "context_use", "sequences at whose end an answer counts"),
        ({"reset": torch.ones(4, 600, dtype=torch.bool)}, "lyapunov", "sequences of 4 steps or more without a reset"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_lacking_is_said(change: dict[str, Any], name: str, lacking: str) -> None:
    recorded = dataclasses.replace(text(), **change)
    assert lacking in str(next(one.needs for one in available(recorded) if one.name == name))


def test_few_sequences_cannot_be_divided_for_a_readout() -> None:
    recorded = text(steps=50, sequences=2)
    assert "8 sequences" in str(next(one.needs for one in available(recorded) if one.name == "probe"))
    assert next(one.needs for one in available(recorded) if one.name == "timescales") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "thermometer"}, "no instrument 'thermometer'"),
        ({"layer": "l9"}, "layer: 'l9' is not recorded; expected one of recurrent.l0"),
        ({"label": "mood"}, "none named 'mood'"),
        ({"sequence": 4}, "sequence: given 4, expected 0 to 3"),
        ({"sequence": -1}, "sequence: given -1"),
        ({"step": 600}, "step: given 600, expected 0 to 599"),
        ({"name": "push_response", "state": "forget_gate"}, "state: 'forget_gate'"),
        ({"name": "gate_openness", "state": "cell"}, "state: 'cell' is no recorded gate"),
    ],
    ids=["name", "layer", "label", "sequence", "negative", "step", "state", "gate"],
)
def test_what_is_not_there_is_refused(options: dict[str, Any], message: str, recordings: dict[str, Recorded]) -> None:
    options = {"name": "timescales", **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        measure(recordings["text-lstm"], tell=quiet, **options)


class Stop(Exception):
    """What a user's cancelling raises."""


@pytest.mark.parametrize("name", ["timescales", "gradient_flow", "context_use", "memory_curve", "probe", "patching"])
def test_telling_may_stop_an_instrument(name: str, recordings: dict[str, Recorded]) -> None:
    def stop(done: int, of: int) -> None:
        if done == 1:
            raise Stop

    with pytest.raises(Stop):
        measure(recordings["text-lstm"], name, tell=stop)


def test_a_layer_that_reads_from_the_end_carries_nothing_onwards(recordings: dict[str, Recorded]) -> None:
    recorded = recordings["text-two-layers-both-ways"]
    with pytest.raises(ValueError, match="a layer that reads from the beginning"):
        measure(recorded, "carries", layer="recurrent.l1_reverse", tell=quiet)
    measure(recorded, "push_response", layer="recurrent.l1_reverse", tell=quiet)


def test_fixed_points_are_of_a_layer_that_reads_the_input(recordings: dict[str, Recorded]) -> None:
    recorded = recordings["text-two-layers-both-ways"]
    with pytest.raises(ValueError, match="a layer that reads the network's input"):
        measure(recorded, "fixed_points", layer="recurrent.l1", tell=quiet)
    measure(recorded, "fixed_points", layer="recurrent.l0_reverse", tell=quiet)


def test_fixed_points_are_those_under_the_input_of_the_step() -> None:
    recorded = text()
    assert recorded.inputs is not None
    assert recorded.model is not None
    model: Any = recorded.model()
    symbol = int(recorded.inputs[1, 17])
    pieces = Subject(recorded, sequence=1, step=17).pieces.some(16, 1, 17).of(recorded.inputs)
    held = torch.cat([pieces, torch.full((len(pieces), 200), symbol)], dim=1)
    vector = model.embedding.weight[symbol].detach()
    own = instruments.fixed_points(model, held, vector, starts=48, iterations=100, tolerance=1e-7).summary()
    assert measure(recorded, "fixed_points", sequence=1, step=17, tell=quiet).summary == own


def test_patching_counts_steps_as_the_recording_does() -> None:
    recorded = text()
    words = measure(recorded, "patching", sequence=2, step=500, tell=quiet).summary
    at = int(words.split("at step ")[1].split(":")[0])
    assert 499 <= at <= 510


def test_both_states_put_back_at_the_step_of_the_change_make_it_all_good() -> None:
    """An RNN has one state: what is patched at the last step is the answer itself."""
    recorded = text("rnn", steps=60)
    model = SequenceModel("rnn", SYMBOLS, 1, SYMBOLS, embedding_size=5)
    words = measure(dataclasses.replace(recorded, model=lambda: model.eval()), "patching", step=40, tell=quiet).summary
    assert words.endswith(": 1 of it.")


@pytest.mark.parametrize("step", [0, 299, 300, 599, None])
def test_the_ends_of_a_stretch_can_be_patched(step: int | None) -> None:
    measure(text(), "patching", step=step, tell=quiet)


def test_another_symbol_is_the_commonest_other_one() -> None:
    assert int(another(torch.tensor([5, 1, 5, 2, 2, 5]), torch.tensor(5))) == 2
    assert int(another(torch.tensor([5, 1, 5, 2, 2, 5]), torch.tensor(2))) == 5


def test_another_one_hot_symbol_is_one_hot() -> None:
    rows = torch.eye(3)[[0, 1, 1, 2, 0, 0]]
    assert another(rows, rows[1]).tolist() == [1, 0, 0]
    assert another(rows, rows[0]).tolist() == [0, 1, 0]


def test_another_value_is_the_farthest() -> None:
    assert another(torch.tensor([[0.0], [1.5], [-4.0]]), torch.tensor([1.5])).tolist() == [-4.0]


def test_there_is_no_other_input_where_all_are_the_same() -> None:
    with pytest.raises(ValueError, match="every input of this sequence is the same"):
        another(torch.ones(5, dtype=torch.int64), torch.tensor(1))


def test_a_binary_label_is_taken_before_a_count() -> None:
    assert Subject(text()).label().name == "vowel"
    assert Subject(text(), named_label="depth").label().name == "depth"


def test_the_kept_state_is_what_is_pushed_and_carries() -> None:
    assert "cell state" in measure(text(), "push_response", tell=quiet).summary
    assert "hidden state" in measure(text("gru"), "push_response", tell=quiet).summary
    assert measure(text(), "carries", state="hidden", tell=quiet).summary.startswith("The hidden state")


def test_the_loss_is_taken_where_an_answer_counts() -> None:
    """Of sequences without a target at the last step nothing is in the figure, nor of a value that is missing."""
    recorded = series()
    assert recorded.inputs is not None
    assert recorded.targets is not None
    assert recorded.model is not None
    targets = recorded.targets.clone()
    targets[5:] = torch.nan
    few = dataclasses.replace(recorded, targets=targets)
    with torch.no_grad():
        answers = recorded.model()(recorded.inputs)[:5, -1]
    whole = float(((answers - targets[:5, -1]) ** 2).nanmean(-1).mean())
    assert f"from {number(whole)};" in measure(few, "context_use", tell=quiet).summary


def test_networks_are_left_in_the_mode_they_had(recordings: dict[str, Recorded]) -> None:
    recorded = text()
    assert recorded.model is not None
    for name in ("probe", "timescales", "patching"):
        measure(recorded, name, tell=quiet)
    assert not recorded.model().training


def test_one_unit_is_enough() -> None:
    torch.manual_seed(0)
    model = SequenceModel("lstm", SYMBOLS, 1, SYMBOLS, embedding_size=2)
    inputs = torch.randint(0, SYMBOLS, (8, 30))
    marked = (inputs > 3).long().numpy()
    recorded = seen(
        model,
        inputs,
        targets=inputs,
        labels=(Label("high", marked),),
        outputs=tuple("abcdefg"),
        loss="classes",
    )
    for one in available(recorded):
        if one.needs is None:
            assert measure(recorded, one.name, tell=quiet).figures, one.name


def test_amounts_shrink_with_the_square_of_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide layer is measured at fewer steps, so that it ends in time."""
    asked: dict[str, Any] = {}

    def spy(model: Any, inputs: Tensor, **options: Any) -> Any:
        asked.update(options)
        return instruments.timescales(model)

    monkeypatch.setattr(calling.instruments, "jacobian", spy)
    measure(text(), "jacobian", tell=quiet)
    assert len(asked["steps"]) == 50
    torch.manual_seed(0)
    wide = seen(SequenceModel("lstm", 3, 600, 3), torch.randn(2, 30, 3))
    measure(wide, "jacobian", tell=quiet)
    assert asked["steps"] == [0, 7, 14, 22, 29]
    huge = seen(SequenceModel("rnn", 3, 2100, 3), torch.randn(2, 30, 3))
    assert "1,024 units at most, to end within a minute; this has 2,100" in str(
        next(one.needs for one in available(huge) if one.name == "fixed_points")
    )
