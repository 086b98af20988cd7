"""What the page's plots ask of one recording: windows of values at the size they are drawn in, and exact values.

Nothing is kept of a request but what was read last, within a bound: memory stays flat in the recording's length.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.drawing.colours import PALETTES
from unrolled.recording.extremes import Extremes, Window
from unrolled.viewer.asked import Asked
from unrolled.viewer.orders import order
from unrolled.viewer.recorded import Characters, Recorded, Values
from unrolled.views import about

Figures = NDArray[np.float32]

# Steps from which colours, and those from which orders and what units follow, are taken.
FOR_COLOURS, FOR_ORDERS = 2048, 4096
MOST_COLUMNS, MOST_ROWS = 4096, 2048
# Steps of a text that is shown or coloured at once.
MOST_CHARACTERS = 10_000
# Characters of a text that is looked for.
MOST_SOUGHT = 1_000
# Steps in view when a recording is opened.
AT_FIRST = 1200
ORDERS = ("timescale", "similarity", "index")
FIRST_LABEL = "in_string"


class Looking:
    """One recording as it is looked at; several threads may ask."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.lengths = recorded.lengths
        self._extremes = Extremes(recorded.trace._source)
        self._pool = ThreadPoolExecutor(2, "reading")
        self.labels = {label.name: label for label in recorded.labels}
        self._followed = lru_cache(maxsize=32)(self._follows)
        self._ordered = lru_cache(maxsize=64)(self._order)
        self._ends = lru_cache(maxsize=256)(self._unit_ends)

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def prepare(self) -> None:
        """Read what the first picture needs besides itself."""
        self._ordered(self.layers[0]["name"], ORDERS[0])

    @cached_property
    def layers(self) -> list[dict[str, Any]]:
        """The layers as the page is told of them."""
        return about.layers(self._samples)

    @cached_property
    def names(self) -> list[str]:
        """The recorded names that are shown."""
        return [state["name"] for layer in self.layers for state in layer["states"]]

    @cached_property
    def _samples(self) -> dict[str, Figures]:
        sequence = max(range(len(self.lengths)), key=self.lengths.__getitem__)
        return {name: self._sample(name, sequence, FOR_COLOURS) for name in self.recorded.trace}

    @cached_property
    def _usual(self) -> dict[str, Figures]:
        """Of each name (H,) what is usual for a unit: what is far from it is shown first where there is no room."""
        return {name: about.usual(values) for name, values in self._samples.items()}

    def about(self) -> dict[str, Any]:
        """What the page is told before it asks for anything."""
        recorded = self.recorded
        kind = {Characters: "characters", Values: "values"}.get(type(recorded.read))
        layer = self.layers[0]
        return {
            "title": recorded.title,
            "kind": kind,
            "sequences": [{"length": n, "title": self._title(i)} for i, n in enumerate(self.lengths)],
            "layers": self.layers,
            "labels": [about.label(label.name, label.values, label.names) for label in recorded.labels],
            "channels": list(recorded.read.channels) if isinstance(recorded.read, Values) else [],
            "orders": list(ORDERS),
            "order_titles": about.ORDER_TITLES,
            "palettes": PALETTES,
            "outputs": list(recorded.outputs),
            "loss": recorded.loss,
            "readout": recorded.readout,
            "model": recorded.model is not None and recorded.inputs is not None,
            "start": {
                "layer": layer["name"],
                "state": layer["states"][0]["state"],
                "unit": None,
                "stop": min(AT_FIRST, self.lengths[0]) if kind == "characters" else self.lengths[0],
            },
        }

    def window(self, asked: Asked) -> dict[str, Any]:
        """Maps of some states: of each dot the value in it that is farthest from what is usual for its unit."""
        sequence, start, stop, columns = self._asked_steps(asked)
        layer = self._layer(asked)
        names = asked.some("names", [state["name"] for state in layer["states"]])
        units = self._ordered(layer["name"], asked.one("order", ORDERS))
        first = asked.whole("first", 0, len(units) - 1)
        chosen = units[first : asked.whole("last", first + 1, len(units))]
        group = -(-len(chosen) // asked.whole("rows", 1, MOST_ROWS))

        quick = asked.flag("quick")

        def drawn(name: str) -> tuple[Window, Figures]:
            window = self._window(name, sequence, start, stop, columns, quick=quick)
            return window, _farthest(window.low, window.high, self._usual[name], chosen, group)

        # Unpacking and comparing leave the interpreter to others.
        found = dict(zip(names, self._pool.map(drawn, names), strict=True))
        window, _ = found[names[0]]
        maps = {name: values for name, (_, values) in found.items()}
        return {"start": window.start, "span": window.span, "group": group, "maps": maps}

    def unit(self, asked: Asked) -> dict[str, Any]:
        """Lowest and highest values of one unit in every state of its layer, column by column."""
        sequence, start, stop, columns = self._asked_steps(asked)
        layer = self._layer(asked)
        names = asked.some("names", [state["name"] for state in layer["states"]])
        number = asked.whole("unit", 0, layer["units"] - 1)
        windows = {
            name: self._window(name, sequence, start, stop, columns, unit=number, quick=asked.flag("quick"))
            for name in names
        }
        first = next(iter(windows.values()))
        return {
            "start": first.start,
            "span": first.span,
            "low": {name: np.ascontiguousarray(window.low[:, 0]) for name, window in windows.items()},
            "high": {name: np.ascontiguousarray(window.high[:, 0]) for name, window in windows.items()},
        }

    def track(self, asked: Asked) -> dict[str, Any]:
        """What was read and what was true, column by column; of several steps a label's highest value."""
        sequence, start, stop, columns = self._asked_steps(asked)
        span = max(1, -(-(stop - start) // columns))
        first = start // span * span
        edges = np.arange(first, stop, span)
        read, text, channels = self.recorded.read, None, None
        if isinstance(read, Characters) and stop - start <= MOST_CHARACTERS:
            text = read.texts[sequence][start:stop]
        if isinstance(read, Values):
            part = read.values[sequence, first:stop]
            # Channels have units of their own: beside each other they are shown in their own spread.
            centre, spread = self._spread
            scaled = (part - centre) / spread
            at = edges - first
            channels = {
                "names": list(read.channels),
                "low": np.ascontiguousarray(np.fmin.reduceat(scaled, at).T.astype(np.float32)),
                "high": np.ascontiguousarray(np.fmax.reduceat(scaled, at).T.astype(np.float32)),
            }
        labels = {
            name: np.maximum.reduceat(label.values[sequence, first:stop], edges - first).astype(np.int32)
            for name, label in self.labels.items()
        }
        return {"start": first, "span": span, "labels": labels, "text": text, "channels": channels}

    def text(self, asked: Asked) -> dict[str, Any]:
        """A stretch of text, and the exact values of one unit at each of its characters."""
        sequence = self.sequence(asked)
        read = self.recorded.read
        if not isinstance(read, Characters):
            raise ValueError("text: what this recording read is not known as text")
        start, stop = asked.span(self.lengths[sequence])
        if stop - start > MOST_CHARACTERS:
            raise ValueError(f"stop: {stop - start} steps from start, expected {MOST_CHARACTERS} at most")
        name = asked.one("name", self.names)
        unit = asked.whole("unit", 0, self._samples[name].shape[1] - 1)
        values = self._extremes.exact(name, sequence=sequence, start=start, stop=stop)[:, unit]
        low, high = self._ends(name, sequence, unit)
        return {
            "text": read.texts[sequence][start:stop],
            "values": np.ascontiguousarray(values),
            "low": low,
            "high": high,
        }

    def find(self, asked: Asked) -> dict[str, int | None]:
        """Where a piece of text begins next after a step, around the end if need be; None where it is nowhere."""
        sequence = self.sequence(asked)
        read = self.recorded.read
        if not isinstance(read, Characters):
            raise ValueError("text: what this recording read is not known as text")
        text, whole = asked.text("text", MOST_SOUGHT), read.texts[sequence]
        at = whole.find(text, asked.whole("after", -1, self.lengths[sequence]) + 1)
        at = whole.find(text) if at < 0 else at
        return {"step": None if at < 0 else at}

    def exact(self, asked: Asked) -> dict[str, Any]:
        """What stands at a place of the plots: one step of one unit, or the extremes of the several of a dot."""
        sequence = self.sequence(asked)
        start, stop = asked.span(self.lengths[sequence])
        layer = self._layer(asked)
        read = self.recorded.read
        found: dict[str, Any] = {"text": None, "labels": {}}
        if isinstance(read, Characters):
            found["text"] = read.texts[sequence][start : min(stop, start + 40)]
        if stop - start == 1:
            found["labels"] = {
                name: _spoken(label.values[sequence, start], label.names) for name, label in self.labels.items()
            }
            if isinstance(read, Values):
                found["channels"] = dict(zip(read.channels, read.values[sequence, start].tolist(), strict=True))
                found["time"] = read.times[sequence][start] if read.times else None
        if "units" not in asked:
            return found
        units = asked.wholes("units", 0, layer["units"] - 1)
        if stop - start == 1 and len(units) == 1:
            found["values"] = {
                state["state"]: float(
                    self._extremes.exact(state["name"], sequence=sequence, start=start, stop=stop)[0, units[0]]
                )
                for state in layer["states"]
            }
            return found
        name = asked.one("name", [state["name"] for state in layer["states"]])
        found |= self._bounds(name, sequence, start, stop, units)
        return found

    def follows(self, asked: Asked) -> dict[str, Any]:
        """What every unit of a state remembers and follows, over the first steps of a sequence."""
        found: dict[str, Any] = self._followed(asked.one("name", self.names), self.sequence(asked))
        return found

    def order(self, asked: Asked) -> list[int]:
        """The units of a layer in an order, the first on top."""
        found: list[int] = self._ordered(self._layer(asked)["name"], asked.one("by", ORDERS)).tolist()
        return found

    def sequence(self, asked: Asked) -> int:
        """Which sequence is asked for."""
        return asked.whole("sequence", 0, len(self.lengths) - 1)

    def values(self, name: str, sequence: int, start: int, stop: int) -> Figures:
        """(stop - start, U) exact values."""
        return self._extremes.exact(name, sequence=sequence, start=start, stop=stop)

    def _asked_steps(self, asked: Asked) -> tuple[int, int, int, int]:
        sequence = self.sequence(asked)
        start, stop = asked.span(self.lengths[sequence])
        return sequence, start, stop, asked.whole("columns", 1, MOST_COLUMNS)

    def _layer(self, asked: Asked) -> Mapping[str, Any]:
        name = asked.one("layer", [layer["name"] for layer in self.layers])
        return next(layer for layer in self.layers if layer["name"] == name)

    def _window(
        self,
        name: str,
        sequence: int,
        start: int,
        stop: int,
        columns: int,
        *,
        quick: bool = False,
        unit: int | None = None,
    ) -> Window:
        window = self._extremes.window(
            name, sequence=sequence, start=start, stop=stop, columns=columns, unit=unit, quick=quick
        )
        length = self.lengths[sequence]
        if window.stop <= length:
            return window
        # The last column goes on into what stands after the sequence's end, which was never a state.
        last = self.values(name, sequence, window.start + (len(window.low) - 1) * window.span, length)
        last = last if unit is None else last[:, unit : unit + 1]
        low = np.concatenate([window.low[:-1], last.min(axis=0, keepdims=True)])
        high = np.concatenate([window.high[:-1], last.max(axis=0, keepdims=True)])
        return replace(window, stop=length, low=low, high=high)

    def _bounds(self, name: str, sequence: int, start: int, stop: int, units: list[int]) -> dict[str, Any]:
        """Lowest and highest of some units in some steps, and where; from a piece at a time."""
        found: dict[str, Any] = {}
        for begin in range(start, stop, FOR_ORDERS):
            part = self.values(name, sequence, begin, min(begin + FOR_ORDERS, stop))[:, units]
            if np.isnan(part).all():
                continue
            for bound, at in (("low", np.nanargmin(part)), ("high", np.nanargmax(part))):
                step, place = np.unravel_index(at, part.shape)
                value = float(part[step, place])
                if bound not in found or (value < found[bound] if bound == "low" else value > found[bound]):
                    found |= {bound: value, f"{bound}_at": [begin + int(step), units[int(place)]]}
        nowhere = {"low": np.nan, "high": np.nan, "low_at": [start, units[0]], "high_at": [start, units[0]]}
        return {**nowhere, **found}

    def _sample(self, name: str, sequence: int, most: int) -> Figures:
        return self._extremes.exact(name, sequence=sequence, start=0, stop=min(most, self.lengths[sequence]))

    def _follows(self, name: str, sequence: int) -> dict[str, Any]:
        values = self._sample(name, sequence, FOR_ORDERS)
        labels = {label: held.values[sequence, : len(values)] for label, held in self.labels.items()}
        return about.followed(values, labels)

    def _order(self, layer: str, by: str) -> NDArray[np.int64]:
        of = next(found for found in self.layers if found["name"] == layer)
        if by == "index":
            return np.arange(of["units"])
        longest = max(range(len(self.lengths)), key=self.lengths.__getitem__)
        return order(self._sample(about.remembering(of), longest, FOR_ORDERS), by)  # type: ignore[arg-type]

    def _unit_ends(self, name: str, sequence: int, unit: int) -> tuple[float, float]:
        """Lowest and highest value of a unit in a sequence."""
        window = self._window(name, sequence, 0, self.lengths[sequence], 64)
        low, high = float(window.low[:, unit].min()), float(window.high[:, unit].max())
        if not np.isnan(low):
            return low, high
        # A column in which one value is missing tells nothing of the others.
        found = self._bounds(name, sequence, 0, self.lengths[sequence], [unit])
        return (0.0, 0.0) if np.isnan(found["low"]) else (found["low"], found["high"])

    @cached_property
    def _spread(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(C,) mean and standard deviation of what was read, by channel."""
        assert isinstance(self.recorded.read, Values)
        steps = np.concatenate([v[:n] for v, n in zip(self.recorded.read.values, self.lengths, strict=True)])
        there = np.isfinite(steps)
        count = np.maximum(there.sum(0), 1)
        centre = np.where(there, steps, 0).sum(0, dtype=np.float64) / count
        spread = np.sqrt(np.where(there, steps - centre, 0).astype(np.float64).__pow__(2).sum(0) / count)
        return centre, np.where(spread > 0, spread, 1.0)

    def _title(self, sequence: int) -> str:
        named = [label for label in self.recorded.labels if label.names is not None]
        classes = [_spoken(label.values[sequence, 0], label.names) for label in named if self.lengths[sequence]]
        return f"{sequence}: {', '.join(classes)}" if classes else str(sequence)


def _farthest(low: Figures, high: Figures, usual: Figures, chosen: NDArray[np.int64], group: int) -> Figures:
    """(R, C) of every column and every `group` of the chosen units the value farthest from what is usual.

    NaN wherever one is. low, high: (C, U); usual: (U,); chosen: (N,) numbers of units.
    """
    # The highest numbers there are may be farther apart than that. Low is NaN wherever a value is.
    with np.errstate(over="ignore", invalid="ignore"):
        farther = np.where(high - usual >= usual - low, high, low)[:, chosen]
        if group == 1:
            return np.ascontiguousarray(farther.T)
        apart = np.abs(farther - usual[chosen])
    # What is not a number is farther than anything.
    apart[np.isnan(farther)] = np.inf
    found, most = farther[:, ::group].copy(), apart[:, ::group].copy()
    for place in range(1, group):
        value, size = farther[:, place::group], apart[:, place::group]
        members = size.shape[1]
        more = size > most[:, :members]
        np.copyto(found[:, :members], value, where=more)
        np.copyto(most[:, :members], size, where=more)
    return np.ascontiguousarray(found.T)


def _spoken(value: Any, names: tuple[str, ...] | None) -> str:
    if value < 0:
        return "not defined"
    return str(int(value)) if names is None else names[int(value)]
