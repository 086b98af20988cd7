"""What states or gates that are changed do to the answers, beside the answers as they were."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.edits import Ablate, Apply, Clamp, Edit
from unrolled.interventions import intervene
from unrolled.viewer.replaying.agreement import width_of
from unrolled.viewer.replaying.replay import Replay

Array = NDArray[Any]
Kind = Literal["ablate", "mean", "patch", "clamp"]

# Steps that are shown before the first changed one, and the most that are run for one effect.
BEFORE = 20
MOST_STEPS = 20_000
# How many of the most probable classes, before and after, are named.
_NAMED = 5


@dataclass(frozen=True)
class Change:
    """One change of some units of a state or gate.

    Attributes:
        kind: "ablate" puts in zero; "mean" what the unit is in the mean over the whole recording; "clamp" a value;
            "patch" what was recorded elsewhere.
        name: the recorded name that is changed, such as "recurrent.l0.cell".
        units: which units.
        steps: from the first step to before the second.
        value: for "clamp", what the units are held at.
        source: for "patch", the sequence and the first step whose recorded values are put in, step by step.
    """

    kind: Kind
    name: str
    units: tuple[int, ...]
    steps: tuple[int, int]
    value: float | None = None
    source: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Top:
    """The answers at one step, as they were and as they are after the changes.

    Attributes:
        step: the step.
        names: (n,) for classes the five most probable before and the five most probable after, without repetition, the
            more probable in either first; for values all outputs in their order.
        before, after: (n,) their probabilities, or values.
        target: for classes the name of the one that is right; None where that is not known.
    """

    step: int
    names: tuple[str, ...]
    before: Array
    after: Array
    target: str | None


@dataclass(frozen=True, eq=False)
class Effect:
    """What changes do to the answers.

    Attributes:
        start, stop: the steps of the arrays, from `start` to before `stop`; the last step of the sequence where that
            is answered.
        original, changed: (stop - start,) `measure` without and with the changes, NaN where there is no target.
        divergence: (stop - start,) how far the answers are apart: for classes the Kullback-Leibler divergence
            KL(original || changed) in bits, for values the mean absolute difference of the outputs.
        measure: what `original` and `changed` are: "bits of the target", that is -log2 of its probability, "bits of the
            answer" where there are no targets, the same of the class that was the most probable one without changes;
            for values "squared error", the mean over outputs, or the name of the first output, whose value it is, where
            there are no targets.
        top: the answers at one step.
    """

    start: int
    stop: int
    original: Array
    changed: Array
    divergence: Array
    measure: str
    top: Top


def effect(
    replay: Replay, changes: Sequence[Change], *, sequence: int, after: int = 100, at: int | None = None
) -> Effect:
    """Run a window of a recording as it was, and once more with changes.

    The window begins 20 steps before the first changed step. Where a layer reads from the end, `after` steps before it.

    Args:
        replay: the model with its recording.
        changes: what is changed, in this order where several change the same.
        sequence: of which sequence.
        after: how many steps are shown after the last changed one. At most 20,000 steps are run in all.
        at: the step whose answers are listed; the one where they differ most if omitted.

    Raises:
        ValueError: nothing is changed, a change does not fit the model or the recording, the steps come too late for a
            model that has to be run from the beginning, or the replay is not what was recorded.
    """
    length = replay.length(sequence)
    if not changes:
        raise ValueError("changes: none is given, so nothing would change")
    if operator.index(after) < 0:
        raise ValueError(f"after: given {after}, expected 0 steps or more")
    for change in changes:
        _check(replay, change, length)
    first = min(change.steps[0] for change in changes)
    start = max(replay.first, first - (BEFORE if replay.causal else max(BEFORE, after)))
    stop = min(length, max(change.steps[1] for change in changes) + after)
    if not replay.every:
        start, stop = length - 1, length
    elif stop - start > MOST_STEPS:
        raise ValueError(
            f"changes: they and {after} steps after them take {stop - start:,} steps; expected {MOST_STEPS:,} at most"
        )
    if at is not None and not start <= operator.index(at) < stop:
        raise ValueError(f"at: step {at} is not among those that are run; expected {start} to {stop - 1}")
    # The run's own step 0, from which the steps of edits are counted.
    begin = replay.begin(start)
    with replay.lock, torch.no_grad():
        edits = [_edit(replay, change, begin) for change in changes]
        replay.check(sequence, start, stop)
        original = replay.run(sequence, start, stop).double()
        with intervene(replay.model, *edits):
            changed = replay.run(sequence, start, stop).double()
    known = replay.answers
    known.check(original.size(1))
    right = known.right(sequence, start, stop)
    if known.loss == "classes":
        original, changed = original.log_softmax(-1), changed.log_softmax(-1)
        divergence = _divergence(original, changed)
        measure = "bits of the answer" if right is None else "bits of the target"
        asked = original.argmax(-1) if right is None else right
        figures = [_bits(scores, asked) for scores in (original, changed)]
    else:
        divergence = (original - changed).abs().mean(-1)
        measure = known.name(0) if right is None else "squared error"
        figures = [answers[:, 0] if right is None else _error(answers, right) for answers in (original, changed)]
    if at is None:
        apart = divergence.nan_to_num(nan=math.inf)
        at = start + int(apart.argmax()) if bool(apart.max() > 0) else min(max(first, start), stop - 1)
    place = at - start
    target = -1 if right is None or known.loss == "values" else int(right[place])
    return Effect(
        start=start,
        stop=stop,
        original=figures[0].numpy(),
        changed=figures[1].numpy(),
        divergence=divergence.numpy(),
        measure=measure,
        top=_top(replay, at, original[place], changed[place], None if target < 0 else known.name(target)),
    )


def _check(replay: Replay, change: Change, length: int) -> None:
    if change.kind not in get_args(Kind):
        raise ValueError(f"kind: given {change.kind!r}, expected one of {', '.join(get_args(Kind))}")
    if change.name not in replay.named:
        raise ValueError(f"name: {change.name!r} is not in the model; expected one of {', '.join(replay.named)}")
    width = width_of(replay.named, change.name)
    if not change.units:
        raise ValueError(f"units: none of {change.name!r} is given, so nothing would change")
    for unit in change.units:
        if not 0 <= operator.index(unit) < width:
            raise ValueError(f"units: {unit} is not one of {change.name!r}; expected 0 to {width - 1}")
    first, stop = map(operator.index, change.steps)
    if not replay.first <= first < stop <= length:
        raise ValueError(
            f"steps: from {first} to before {stop} does not fit; expected at least one step from {replay.first} to "
            f"before {length}"
        )
    if change.kind == "clamp" and (change.value is None or not math.isfinite(change.value)):
        raise ValueError(f"value: given {change.value}, expected the number at which {change.name!r} is held")
    if change.kind in ("mean", "patch") and change.name not in replay.trace:
        raise ValueError(f"name: {change.name!r} was not recorded, so there is nothing to put in its place")
    if change.kind == "patch":
        if change.source is None:
            raise ValueError("source: expected the sequence and the first step whose values are put in")
        other, begin = map(operator.index, change.source)
        there = replay.length(other)
        if not 0 <= begin <= there - (stop - first):
            raise ValueError(
                f"source: {stop - first} steps from step {begin} on are not in sequence {other}, which has {there}"
            )


def _edit(replay: Replay, change: Change, begin: int) -> Edit:
    """A change as `intervene` makes it in a run whose step 0 is step `begin`."""
    first, stop = change.steps[0] - begin, change.steps[1] - begin
    where: dict[str, Any] = {"steps": slice(first, stop), "units": change.units}
    if change.kind == "ablate":
        return Ablate(change.name, **where)
    if change.kind == "clamp":
        assert change.value is not None
        return Clamp(change.name, change.value, **where)
    if change.kind == "mean":
        return Clamp(change.name, replay.mean(change.name), **where)
    assert change.source is not None
    sequence, begins = change.source
    values = replay.recorded(change.name, sequence, range(begins, begins + stop - first))
    return Apply(change.name, lambda state, t: values[t - first].expand_as(state), **where)


def _divergence(original: Tensor, changed: Tensor) -> Tensor:
    """(n, K) log probabilities -> (n,) KL(original || changed) in bits."""
    shares = torch.where(original > -math.inf, original.exp() * (original - changed), 0)
    # Rounding may leave a sum that is zero a little below it.
    return shares.sum(-1).clamp(min=0) / math.log(2)


def _bits(scores: Tensor, classes: Tensor) -> Tensor:
    """(n, K) log probabilities -> (n,) bits of a class at each step, NaN where it is below 0."""
    found = scores.gather(1, classes.clamp(min=0).unsqueeze(1)).squeeze(1) / -math.log(2)
    return found.masked_fill(classes < 0, math.nan)


def _error(answers: Tensor, right: Tensor) -> Tensor:
    """(n, K) -> (n,) the mean squared error over the outputs that have a target, NaN where none has."""
    there = ~right.isnan()
    apart = torch.where(there, answers - right, 0).square()
    return apart.sum(-1) / torch.where(there.any(-1), there.sum(-1), math.nan)


def _top(replay: Replay, step: int, before: Tensor, after: Tensor, target: str | None) -> Top:
    """before, after: (K,) log probabilities, or values."""
    numbers = np.arange(len(before))
    if replay.answers.loss == "classes":
        before, after = before.exp(), after.exp()
        most = min(_NAMED, len(before))
        chosen = torch.cat([before.topk(most).indices, after.topk(most).indices]).unique()
        order = torch.maximum(before, after)[chosen].argsort(descending=True, stable=True)
        numbers = chosen[order].numpy()
    names = tuple(replay.answers.name(int(number)) for number in numbers)
    return Top(step, names, before.numpy()[numbers], after.numpy()[numbers], target)
