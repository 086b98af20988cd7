"""The loop as the page asks for it: units of a span, spans like it with what stands there, and how labels agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from unrolled.selection import Region
from unrolled.source import state_of
from unrolled.viewer.asked import Asked
from unrolled.viewer.looking import Looking
from unrolled.viewer.recorded import Characters
from unrolled.viewer.searching.following import agreement, followers
from unrolled.viewer.searching.portions import values_of, width
from unrolled.viewer.searching.search import Place, Unit, matches, suggested, units_on
from unrolled.viewer.searching.units import is_on

Tell = Callable[[int, int], None]

MOST_AROUND, MOST_UNITS, MOST_MATCHES = 1000, 40, 50
# Steps that are shown before a match and after its first step.
BEFORE, AFTER = 24, 56
# Values are compared in float32, where a larger threshold is infinite.
HIGHEST = float(np.finfo(np.float32).max)


class Finding:
    """The loop on one recording."""

    def __init__(self, looking: Looking) -> None:
        self._looking = looking
        self._trace = looking.recorded.trace
        self._lengths = looking.lengths

    def suggested(self, asked: Asked) -> dict[str, float]:
        """A threshold for a span."""
        names, place = self._names(asked), self._place(asked)
        return {"threshold": suggested(self._trace, names, place, around=self._around(asked), lengths=self._lengths)}

    def units_on(self, asked: Asked) -> dict[str, Any]:
        """The units that are on in a span and off around it, the first of them; and how many there are."""
        found = units_on(
            self._trace,
            self._names(asked),
            self._place(asked),
            threshold=_threshold(asked),
            around=self._around(asked),
            lengths=self._lengths,
        )
        shown = [
            {**_unit(one.unit), "on": one.on, "around": one.around, "strength": one.strength}
            for one in found[:MOST_UNITS]
        ]
        return {"count": len(found), "units": shown}

    def matches(self, asked: Asked, tell: Tell) -> dict[str, Any]:
        """Spans elsewhere that are like a span, each with what stands there and where its units are on."""
        units, threshold = self._units(asked), _threshold(asked)
        found = matches(
            self._trace,
            units,
            self._place(asked),
            threshold=threshold,
            around=self._around(asked),
            limit=MOST_MATCHES,
            lengths=self._lengths,
            tell=tell,
        )
        return {
            "matches": [self._shown(one.place, units, threshold) | {"score": one.score, "on": one.on} for one in found]
        }

    def selected(self, asked: Asked) -> dict[str, Any]:
        """The chosen span as a match is shown."""
        return self._shown(self._place(asked), self._units(asked), _threshold(asked))

    def agreement(self, asked: Asked, tell: Tell) -> dict[str, Any]:
        """How "these units are on" agrees with a label: of all together, and of each alone."""
        units, threshold = self._units(asked), _threshold(asked)
        label, value = self._label(asked)
        of = len(units) + 1 if len(units) > 1 else 1

        def score(some: Sequence[Unit], number: int) -> dict[str, Any]:
            def told(done: int, total: int) -> None:
                tell(number * total + done, of * total)

            return asdict(
                agreement(self._trace, some, label, value, threshold=threshold, lengths=self._lengths, tell=told)
            )

        together = score(units, 0)
        alone = [score([unit], number) for number, unit in enumerate(units, 1)] if len(units) > 1 else [together]
        return {"together": together, "alone": [_unit(u) | {"score": s} for u, s in zip(units, alone, strict=True)]}

    def followers(self, asked: Asked, tell: Tell) -> dict[str, Any]:
        """The units that follow a label best."""
        label, value = self._label(asked)
        found = followers(self._trace, self._names(asked), label, value, limit=20, lengths=self._lengths, tell=tell)
        return {
            "followers": [
                {
                    **_unit(f.unit),
                    "threshold": f.threshold,
                    "auc": f.auc,
                    "found": asdict(f.found),
                    "held_out": asdict(f.held_out),
                }
                for f in found
            ]
        }

    def _shown(self, place: Place, units: Sequence[Unit], threshold: float) -> dict[str, Any]:
        """A span with what stands before, in and after it, and the share of the units that are on at each step."""
        length = self._lengths[place.sequence]
        start, stop = max(0, place.start - BEFORE), min(length, place.start + AFTER)
        on = np.zeros(stop - start)
        for name in dict.fromkeys(unit.name for unit in units):
            numbers = range(width(self._trace, name))
            region = Region(range(place.sequence, place.sequence + 1), range(start, stop), numbers)
            values = values_of(self._trace, name, region)[0]
            for unit in units:
                if unit.name == name:
                    on += is_on(values[:, unit.number], unit.sign, threshold)
        read = self._looking.recorded.read
        labels = {}
        for name, label in self._looking.labels.items():
            inside = label.values[place.sequence, place.start : place.stop]
            inside = inside[inside >= 0]
            if len(inside):
                labels[name] = float(inside.mean()) if label.names is None else label.names[int(inside[0])]
        return {
            **asdict(place),
            "from": start,
            "text": read.texts[place.sequence][start:stop] if isinstance(read, Characters) else None,
            "share": (on / len(units)).astype(np.float32),
            "labels": labels,
        }

    def _names(self, asked: Asked) -> list[str]:
        return asked.some("names", self._looking.names)

    def _place(self, asked: Asked) -> Place:
        sequence = self._looking.sequence(asked)
        return Place(sequence, *asked.span(self._lengths[sequence]))

    def _around(self, asked: Asked) -> int:
        return asked.whole("around", 0, MOST_AROUND)

    def _units(self, asked: Asked) -> list[Unit]:
        widths = {state["name"]: layer["units"] for layer in self._looking.layers for state in layer["states"]}
        found = []
        for one in asked.parts("units"):
            name = one.one("name", self._looking.names)
            number = one.whole("number", 0, widths[name] - 1)
            # 0 is no sign, and either would be a guess.
            found.append(Unit(name, number, one.whole("sign", -1, 1)))
        return found

    def _label(self, asked: Asked) -> tuple[Any, int | None]:
        label = self._looking.labels[asked.one("label", list(self._looking.labels))]
        return label.values, asked.whole("value", 0, max(0, label.most)) if "value" in asked else None


def _threshold(asked: Asked) -> float:
    """A threshold that values can reach."""
    threshold = asked.figure("threshold")
    if abs(threshold) > HIGHEST:
        raise ValueError(f"threshold: given {threshold}, expected a number from {-HIGHEST:.3g} to {HIGHEST:.3g}")
    return threshold


def _unit(unit: Unit) -> dict[str, Any]:
    return {"name": unit.name, "state": state_of(unit.name), "number": unit.number, "sign": unit.sign}
