"""Checking a hypothesis against labels: whether units are on where a label says so, and which units follow it best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.trace import Trace
from unrolled.viewer.searching.histograms import Histograms
from unrolled.viewer.searching.portions import Tell, checked_lengths, count, extent, portions, silent
from unrolled.viewer.searching.units import Unit, check_threshold, how_many, names_of, where_on

# Steps of a block; a short recording is cut into about so many shorter ones.
BLOCK, BLOCKS = 1000, 8
LEFT_OUT = -1


@dataclass(frozen=True)
class Score:
    """How well "these units are on" tells where a label holds.

    Attributes:
        precision: of the steps at which they are on, the share at which it holds; NaN if they never are.
        recall: of the steps at which it holds, the share at which they are on; NaN if it never does.
        f1: the harmonic mean of both, NaN if there is neither.
        threshold: at and above which sign * value is on.
        true: steps at which the label holds.
        predicted: steps at which the units are on.
        both: steps at which both are so.
        n: steps in all.
        prevalence: true / n: the precision of a unit that is on at random; NaN without steps.
    """

    precision: float
    recall: float
    f1: float
    threshold: float
    true: int
    predicted: int
    both: int
    n: int
    prevalence: float

    @classmethod
    def of(cls, on: NDArray[np.bool_], holds: NDArray[np.bool_], threshold: float) -> Score:
        """The score of some steps, (N,)."""
        true, predicted, both, n = int(holds.sum()), int(on.sum()), int((on & holds).sum()), len(on)
        return cls(
            precision=_share(both, predicted),
            recall=_share(both, true),
            f1=_share(2 * both, true + predicted),
            threshold=threshold,
            true=true,
            predicted=predicted,
            both=both,
            n=n,
            prevalence=_share(true, n),
        )


@dataclass(frozen=True)
class Follower:
    """A single unit that follows a label.

    Attributes:
        unit: which, with the sign with which it follows.
        threshold: where it is on.
        found: its score on the steps on which it and its threshold were chosen: flattering.
        held_out: its score on the other steps.
        auc: on those, the share of pairs of a step at which the label holds and one at which it does not in which
            sign * value is higher in the first, ties counting half; to within the width of a bin (see `followers`).
            NaN if the label does not vary there.
    """

    unit: Unit
    threshold: float
    found: Score
    held_out: Score
    auc: float


def agreement(
    trace: Trace,
    units: Sequence[Unit],
    label: NDArray[Any],
    value: int | None,
    *,
    threshold: float,
    lengths: Sequence[int] | None = None,
    tell: Tell = silent,
) -> Score:
    """How well "these units are on" tells where a label has a value.

    The units are on at a step where at least half of them are.

    Args:
        trace: what was recorded.
        units: one or more.
        label: (B, T) whole numbers; steps at which it is -1 are left out.
        value: which value of the label is meant; None for any above 0.
        threshold: a unit is on where sign * value >= threshold.
        lengths: the steps of each sequence; as the trace knows them if omitted. Steps after them are left out.
        tell: called with (portions read, portions in all); what it raises ends the reading.

    Raises:
        ValueError: no units are given or one is not in the trace; the label is not (B, T) whole numbers, or the value
            is -1; a number makes no sense.
    """
    check_threshold(threshold)
    names = names_of(trace, units)
    holds, counted = _asked(trace, names, label, value, lengths)
    on = 2 * how_many(where_on(trace, units, [threshold] * len(units), tell=tell)) >= len(units)
    return Score.of(on[counted], holds[counted], threshold)


def followers(
    trace: Trace,
    names: Sequence[str],
    label: NDArray[Any],
    value: int | None,
    *,
    limit: int = 20,
    lengths: Sequence[int] | None = None,
    tell: Tell = silent,
) -> list[Follower]:
    """The single units that follow a label best, of all those recorded under some names.

    The best of many units at the best of many thresholds looks better than it is. So the steps are cut into blocks of
    1,000 (fewer in a recording below 8,000 steps, which is cut into about 8), and every other block decides: there each
    unit, with either sign, gets the threshold with the highest F1, and units are ranked by it. `held_out` and `auc` are
    of the other blocks. In neighbouring sequences it is the other way round, so that short sequences decide by turns.

    All units are read once, into histograms of 1,024 bins a unit which are finest where its values are. A threshold is
    the edge of a bin, the middle one of those that do equally well, or a shorter number beside it. What is reported is
    then counted exactly at the threshold, in a second reading of the names of which a unit is reported. Memory doesn't
    grow with the recording but for the label's marks and one bit a step and unit reported.

    Args:
        trace: what was recorded.
        names: the recorded states and gates whose units are looked at.
        label: (B, T) whole numbers; steps at which it is -1 are left out.
        value: which value of the label is meant; None for any above 0.
        limit: at most so many.
        lengths: the steps of each sequence; as the trace knows them if omitted. Steps after them are left out.
        tell: called with (portions read, portions to read at most); what it raises ends the reading.

    Returns:
        Best first by F1 on the blocks that decide; each unit with the better one of its signs. Units that do no better
        there than one that is always on are left out; so are all, if the label does not vary there.

    Raises:
        ValueError: a name was not recorded; the label, the value or the limit makes no sense.
    """
    extent(trace, names)
    if limit < 1:
        raise ValueError(f"limit: given {limit}, expected 1 or more")
    names = list(dict.fromkeys(names))
    holds, counted = _asked(trace, names, label, value, lengths)
    deciding = _deciding(counted)
    prevalence = _share(int(holds[counted & deciding].sum()), int((counted & deciding).sum()))
    if not 0 < prevalence < 1:
        return []
    always = 2 * prevalence / (1 + prevalence) + 1e-9
    done, of = 0, 2 * count(trace, names)
    chosen: list[tuple[float, Unit, float, float]] = []
    for name in names:
        histograms = Histograms(trace, name)
        for portion in portions(trace, name):
            here = np.s_[portion.sequences.start : portion.sequences.stop, portion.steps.start : portion.steps.stop]
            kept = counted[here]
            histograms.add(portion.values[kept], holds[here][kept], deciding[here][kept])
            done += 1
            tell(done, of)
        best = histograms.best()
        auc = histograms.auc()
        for number in np.argsort(-best.f1, kind="stable")[:limit].tolist():
            sign = int(best.sign[number])
            unit = Unit(name, number, sign)
            chosen.append((float(best.f1[number]), unit, float(best.threshold[number]), _signed(auc[number], sign)))
    chosen = sorted((one for one in chosen if one[0] > always), key=lambda one: -one[0])[:limit]
    if not chosen:
        tell(of, of)
        return []
    units, thresholds = [unit for _, unit, _, _ in chosen], [threshold for _, _, threshold, _ in chosen]
    bits = where_on(trace, units, thresholds, tell=lambda further, _: tell(done + further, of))
    tell(of, of)
    found = []
    for at, (_, unit, threshold, area) in enumerate(chosen):
        on = (bits[..., at // 8] >> np.uint8(7 - at % 8)) & 1 == 1
        chose, held_out = (
            Score.of(on[part], holds[part], threshold) for part in (counted & deciding, counted & ~deciding)
        )
        found.append(Follower(unit, threshold, chose, held_out, area))
    return sorted(found, key=lambda one: -one.found.f1)


def _asked(
    trace: Trace, names: Sequence[str], label: NDArray[Any], value: int | None, lengths: Sequence[int] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where the label holds, and which steps count, each (B, T)."""
    given = np.asarray(label)
    shape = extent(trace, names)
    if given.shape != shape or given.dtype.kind not in "iub":
        raise ValueError(
            f"label: given {given.dtype} of shape {given.shape}, expected whole numbers of shape {shape}, one for each "
            "step of each sequence"
        )
    if value is not None and int(value) == LEFT_OUT:
        raise ValueError("value: given -1, which marks the steps that are left out")
    given = given.astype(np.int64)
    inside: NDArray[np.bool_] = np.arange(shape[1]) < checked_lengths(trace, names, lengths)[:, None]
    return given > 0 if value is None else given == value, inside & (given != LEFT_OUT)


def _deciding(counted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which steps are in the blocks that decide, (B, T)."""
    block = min(BLOCK, max(1, int(counted.sum()) // BLOCKS))
    sequences, steps = counted.shape
    numbers = np.arange(steps) // block + np.arange(sequences)[:, None]
    deciding: NDArray[np.bool_] = numbers % 2 == 0
    return deciding


def _signed(area: float, sign: int) -> float:
    return float(area) if sign > 0 else 1 - float(area)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
