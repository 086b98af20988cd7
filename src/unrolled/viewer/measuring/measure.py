"""Every instrument on demand: which can be asked of a recording, and what one of them finds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from unrolled.instruments import Result
from unrolled.viewer.measuring import calling, subject
from unrolled.viewer.measuring.calling import Tell
from unrolled.viewer.measuring.plotted import embedded
from unrolled.viewer.measuring.subject import Subject
from unrolled.viewer.recorded import Recorded


@dataclass(frozen=True)
class Instrument:
    """What can be measured of a recording.

    Attributes:
        name: as in `unrolled.instruments`.
        title: what it is about, in plain words.
        about: what is done, and on how much data.
        needs: what is missing for it, None if it can be asked.
    """

    name: str
    title: str
    about: str
    needs: str | None


@dataclass(frozen=True)
class Measured:
    """What an instrument found.

    Attributes:
        name: of the instrument.
        summary: what it says of itself.
        figures: its plots, as `plotted.embedded` gives them.
        seconds: how long it took.
    """

    name: str
    summary: str
    figures: list[dict[str, Any]]
    seconds: float


@dataclass(frozen=True)
class _Row:
    """One line of the table: what is said of an instrument, how it is called, and what it needs, in that order."""

    title: str
    about: str
    call: Callable[[Subject, Tell], Result]
    needs: tuple[Callable[[Subject], str | None], ...]


_NETWORK = (subject.needs_packages, subject.needs_network, subject.needs_some_pieces)
_MANY = (subject.needs_packages, subject.needs_network, subject.needs_many_pieces)


def _never(subject: Subject, tell: Tell) -> Result:
    raise AssertionError("what always needs something is not called")


_TABLE: dict[str, _Row] = {
    "gradient_flow": _Row(
        "How far gradients reach",
        "The gradient of the loss at the last step, to the states of every step before it.",
        calling.gradient_flow,
        (*_NETWORK, subject.needs_answers_at_steps, subject.needs_answers),
    ),
    "context_use": _Row(
        "How much of the past is used",
        "The loss at the end when only the last inputs are left, for ever more of them.",
        calling.context_use,
        (*_NETWORK, subject.needs_answers),
    ),
    "timescales": _Row(
        "For how many steps units remember",
        "Each unit's timescale, from the bias of its gate, from the gate as it was, and from how the state moves.",
        calling.timescales,
        _NETWORK,
    ),
    "push_response": _Row(
        "How long a push stays",
        "One state is pushed a little at one step, and what is left of the push is followed to the end.",
        calling.push_response,
        _NETWORK,
    ),
    "memory_curve": _Row(
        "How far back the input can be read",
        "A linear readout of the input some steps back, from each state, fitted to some sequences and tested on "
        "others. Of an input of several values it is the first.",
        calling.memory_curve,
        (*_MANY, subject.needs_different_inputs),
    ),
    "probe": _Row(
        "What can be read from the states",
        "A linear readout of a label from each state, beside control labels, untrained networks and the input alone.",
        calling.probe,
        (*_MANY, subject.needs_label),
    ),
    "carries": _Row(
        "Whether a state carries a label",
        "Whether a label can be read from a state, is used by what follows, and stays.",
        calling.carries,
        (*_MANY, subject.needs_label, subject.needs_forward),
    ),
    "patching": _Row(
        "Which state makes the difference",
        "The input at the chosen step is exchanged for another of its sequence; then states of the original are put "
        "back, one at a time. What is followed is the answer ten steps later, or to the whole sequence.",
        calling.patching,
        (*_NETWORK, subject.needs_outputs, subject.needs_different_inputs),
    ),
    "gate_openness": _Row(
        "When a gate opens",
        "How open a gate is at the steps at which a label is above zero, beside those at which it is zero, over the "
        "first 50,000 recorded steps.",
        calling.gate_openness,
        (subject.needs_packages, subject.needs_gate),
    ),
    "saturation": _Row(
        "How often gates are fully open or shut",
        "The share of steps at which each unit's gates and states stand at the ends of their range.",
        calling.saturation,
        (*_NETWORK, subject.needs_bounds),
    ),
    "decompose_cell": _Row(
        "Which steps wrote the state",
        "The kept state at some steps, as a sum of what each earlier step wrote into it.",
        calling.decompose_cell,
        (*_NETWORK, subject.needs_a_gate_that_keeps),
    ),
    "jacobian": _Row(
        "What one step does to the states",
        "The derivative of a step, from every state to every state, and by how much it can magnify a change.",
        calling.jacobian,
        (*_NETWORK, partial(subject.needs_few_units, 2048)),
    ),
    "lyapunov": _Row(
        "Whether nearby courses part",
        "The Lyapunov exponents: how fast two courses that are almost the same part or meet.",
        calling.lyapunov,
        _NETWORK,
    ),
    "fixed_points": _Row(
        "Where the network comes to rest",
        "States that stay as they are under a constant input: that of the chosen step, else the commonest or mean "
        "one. The search begins where this input leads; of the widest layers it has three starts only, and what it "
        "does not find may be there.",
        calling.fixed_points,
        (*_NETWORK, subject.needs_first_layer, partial(subject.needs_few_units, 1024)),
    ),
    "capacity": _Row(
        "Bias and variance",
        "The error of networks that were trained on different sets, in the two parts that sum to it.",
        _never,
        (subject.needs_training,),
    ),
}


def available(recorded: Recorded) -> list[Instrument]:
    """Every instrument, in the order of the page, with what is missing for those that cannot be asked.

    It is for the last recorded layer that reads from the beginning (of fixed_points the first); another may lack
    something else, which `measure` then says.
    """
    seen = Subject(recorded)
    found = []
    for name, row in _TABLE.items():
        needs = _missing(row, seen)
        about = row.about
        if needs is None and name in calling.MOST:
            about += f" On {calling.used(seen, name).text}, each read from zero states."
        found.append(Instrument(name, row.title, about, needs))
    return found


def measure(
    recorded: Recorded,
    name: str,
    *,
    layer: str | None = None,
    label: str | None = None,
    state: str | None = None,
    sequence: int = 0,
    step: int | None = None,
    tell: Callable[[int, int], None],
) -> Measured:
    """Ask one instrument of a recording.

    Args:
        recorded: what is looked at.
        name: of the instrument.
        layer: a recorded layer; as in `available` if omitted.
        label: for probe, carries and gate_openness; the first that fits, rather one of yes and no, if omitted.
        state: for carries (a state or gate), push_response (a state), patching and gate_openness (a gate). If omitted
            the one that is kept; for patching every state, and for gate_openness the gate that lets the input in.
        sequence, step: where the user stands. patching exchanges the input of this step, fixed_points holds it; the
            others take the piece that holds it among theirs.
        tell: called with the parts done and all parts; what it raises goes through, which is how to stop.

    Raises:
        ValueError: there is no such instrument, layer, label or state; the instrument lacks something, as `available`
            says; or it cannot be taken of these data.
    """
    if name not in _TABLE:
        raise ValueError(f"name: there is no instrument {name!r}; expected one of {', '.join(_TABLE)}")
    begun = time.perf_counter()
    seen = Subject(recorded, layer, label, state, sequence, step)
    seen.check()
    row = _TABLE[name]
    needs = _missing(row, seen)
    if needs is not None:
        raise ValueError(needs)
    tell(0, 1)
    result = row.call(seen, tell)
    figures = [embedded(panel, f"{name}-{index}") for index, panel in enumerate(result.panels())]
    summary = result.summary()
    tell(1, 1)
    return Measured(name, summary, figures, time.perf_counter() - begun)


def _missing(row: _Row, seen: Subject) -> str | None:
    return next((reason for need in row.needs if (reason := need(seen)) is not None), None)
