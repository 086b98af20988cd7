"""Timing several pieces of work against each other: in turn, in one run, on one machine in one mood."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

from unrolled.bench.results import Timing

Work = Callable[[], object]

FEWEST_SLOTS, MOST_SLOTS = 5, 200
_SLOT = 0.01  # seconds that a slot is to last at least, so that short calls are timed together
_LONGEST = 0.1  # seconds after which no more calls are begun in a slot
_SHORT = 0.05  # seconds below which a call is worth a first one that is not timed


def alternate(
    works: Mapping[str, Work], seconds: float, synchronise: Callable[[], object] = lambda: None
) -> dict[str, Timing]:
    """Time every work in slots taken in turn, until `seconds` have passed and at least FEWEST_SLOTS each are full.

    Every order is taken forwards and then backwards, and is rotated for the next two rounds, so that nobody always
    follows the same neighbour. A slot of short calls begins with one that is not timed: it finds the caches, and the
    threads that still spin, as the neighbour has left them.

    Args:
        works: what is timed, by name; each has been done before, so that whatever is compiled has been.
        seconds: how long to go on.
        synchronise: waits until the device has done all that it was given. The clock is read after it, at the beginning
            and at the end of a slot, so that a slot's calls may overlap as they do in use.
    """
    estimates = {name: min(_timed(work, 1, synchronise), _timed(work, 1, synchronise)) for name, work in works.items()}
    calls = {name: min(1000, max(1, math.ceil(_SLOT / max(once, 1e-9)))) for name, once in estimates.items()}
    found: dict[str, list[float]] = {name: [] for name in works}
    names, begin, rounds = list(works), time.perf_counter(), 0
    while rounds < FEWEST_SLOTS or (rounds < MOST_SLOTS and time.perf_counter() - begin < seconds):
        first = rounds // 2 % len(names)
        order = names[first:] + names[:first]
        for name in order if rounds % 2 == 0 else reversed(order):
            if estimates[name] < _SHORT:
                works[name]()
            found[name].append(_timed(works[name], calls[name], synchronise))
        rounds += 1
    return {name: _summary(times, calls[name]) for name, times in found.items()}


def _timed(work: Work, calls: int, synchronise: Callable[[], object]) -> float:
    synchronise()
    begin, done, seconds = time.perf_counter(), 0, 0.0
    # Calls that have come to take far longer than they did at first would hold up everyone else's slots.
    while done < calls and seconds < _LONGEST:
        work()
        done += 1
        seconds = time.perf_counter() - begin
    synchronise()
    return (time.perf_counter() - begin) / done


def _summary(times: list[float], calls: int) -> Timing:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, low, high, len(times), calls)
