"""A stretch of text with everything a network held while it read it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a recorded network on text.

    Attributes:
        title: what was recorded, as shown, e.g. "LSTM with 64 units after 1,000 steps on code, 1.9 bits a character".
        text: the T characters read.
        states: state or gate by name ("cell", "hidden", "input_gate", ...), each (T, H); shown in this order.
        labels: what is true of each character by name ("in_string", "bracket_depth", ...), each (T,).

    Raises:
        ValueError: a state or a label does not fit the text, or there is no state.
    """

    title: str
    text: str
    states: dict[str, np.ndarray]
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = len(self.text)
        if steps == 0 or not self.states:
            raise ValueError(f"excerpt {self.title!r} needs at least one character and one state")
        units = next(iter(self.states.values())).shape[-1]
        for name, state in self.states.items():
            if state.shape != (steps, units):
                raise ValueError(
                    f"excerpt {self.title!r}: {name} is {state.shape}, expected ({steps}, {units}) as in the others"
                )
        for name, label in self.labels.items():
            if label.shape != (steps,):
                raise ValueError(f"excerpt {self.title!r}: label {name} is {label.shape}, expected ({steps},)")

    @property
    def units(self) -> int:
        """How many units the network has."""
        return int(next(iter(self.states.values())).shape[-1])
