"""A stretch of a recording with everything in it, for a page that opens without a server."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.drawing.colours import PALETTES
from unrolled.units import correlation, memory, strongest_first
from unrolled.views import about

LEVELS = 65534
MISSING = 65535
FIRST_LABEL = "in_string"


@dataclass(frozen=True)
class Excerpt:
    """A stretch of one recorded sequence.

    Attributes:
        title: what was recorded, as shown, e.g. "LSTM with 64 units after 1,000 steps on code, 1.9 bits a character".
        text: the T characters read; None where what was read are figures, or is not known.
        states: state or gate by its recorded name ("l0.cell", or "cell" alone), each (T, H); shown in this order.
        labels: what is true at each step by name ("in_string", "bracket_depth", ...), each (T,).
        names: of the values of a label, where they have names.
        values: (T, C) the figures read, where they are known.
        channels: C names.
        first: the number that the first step had in the recording.

    Raises:
        ValueError: something has another number of steps, or there is no state or no step.
    """

    title: str
    text: str | None
    states: dict[str, NDArray[Any]]
    labels: dict[str, NDArray[Any]] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    values: NDArray[np.float32] | None = None
    channels: tuple[str, ...] = ()
    first: int = 0

    def __post_init__(self) -> None:
        if not self.states or self.steps == 0:
            raise ValueError(f"excerpt {self.title!r} needs at least one step and one state")
        if self.text is not None and len(self.text) != self.steps:
            raise ValueError(
                f"excerpt {self.title!r}: its text has {len(self.text)} characters, and its states {self.steps} steps"
            )
        for name, state in self.states.items():
            if state.ndim != 2 or len(state) != self.steps:
                raise ValueError(
                    f"excerpt {self.title!r}: {name} is {state.shape}, expected {self.steps} steps as in the others"
                )
        for name, label in self.labels.items():
            if label.shape != (self.steps,):
                raise ValueError(f"excerpt {self.title!r}: label {name} is {label.shape}, expected ({self.steps},)")
        if self.values is not None and self.values.shape != (self.steps, len(self.channels)):
            raise ValueError(
                f"excerpt {self.title!r}: values is {self.values.shape}, expected ({self.steps}, {len(self.channels)})"
            )

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(next(iter(self.states.values()))) if self.states else 0


def embedded(excerpt: Excerpt) -> dict[str, Any]:
    """Everything the page's script needs of one excerpt, as JSON."""
    shown = about.layers(excerpt.states)
    names = [state["name"] for layer in shown for state in layer["states"]]
    labels = {name: label.astype(np.int64) for name, label in excerpt.labels.items()}
    varying = {name: label for name, label in labels.items() if len(np.unique(label[label >= 0])) > 1}
    follows = {name: about.followed(excerpt.states[name], labels) for name in names}
    orders = {layer["name"]: _orders(excerpt.states[about.remembering(layer)], varying) for layer in shown}
    first = about.remembering(shown[0])
    leading = follows[first]["labels"].get(FIRST_LABEL)
    return {
        "about": {
            "title": excerpt.title,
            "kind": "characters" if excerpt.text is not None else "values" if excerpt.values is not None else None,
            "sequences": [{"length": excerpt.steps, "title": excerpt.title}],
            "layers": shown,
            "labels": [about.label(name, label[None], excerpt.names.get(name)) for name, label in labels.items()],
            "orders": list(next(iter(orders.values()))),
            "order_titles": about.ORDER_TITLES
            | {f"label:{name}": f"correlation with {name.replace('_', ' ')}" for name in varying},
            "palettes": PALETTES,
            "first": excerpt.first,
            "start": {
                "layer": shown[0]["name"],
                "state": shown[0]["states"][0]["state"],
                "unit": leading["best"] if leading else orders[shown[0]["name"]]["timescale"][0],
            },
        },
        "text": excerpt.text,
        "states": {name: _packed(excerpt.states[name]) for name in names},
        "labels": {name: label.tolist() for name, label in labels.items()},
        "values": None if excerpt.values is None else _packed(excerpt.values),
        "channels": list(excerpt.channels),
        "orders": orders,
        "follows": follows,
    }


def _orders(state: NDArray[Any], labels: dict[str, NDArray[np.int64]]) -> dict[str, list[int]]:
    orders = {"timescale": strongest_first(memory(state)), "index": np.arange(state.shape[1])}
    for name, label in labels.items():
        there = label >= 0
        orders[f"label:{name}"] = strongest_first(np.abs(correlation(state[there], label[there])))
    return {name: order.tolist() for name, order in orders.items()}


def _packed(values: NDArray[Any]) -> dict[str, Any]:
    """(T, H) as 16-bit steps between their extremes, and what is usual for each unit."""
    finite = np.isfinite(values)
    low = float(values[finite].min()) if finite.any() else 0.0
    high = float(values[finite].max()) if finite.any() else 0.0
    step = (high - low) / LEVELS or 1.0
    levels = np.where(finite, np.round((np.where(finite, values, low).astype(np.float64) - low) / step), MISSING)
    return {
        "low": low,
        "step": step,
        "levels": base64.b64encode(levels.astype("<u2").tobytes()).decode("ascii"),
        "centres": [float(f"{centre:.6g}") for centre in about.usual(values)],
    }
