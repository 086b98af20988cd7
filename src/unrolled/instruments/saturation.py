"""How much of the time gates and states stand at the ends of their range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from unrolled.drawing.panels import Panel, bare
from unrolled.instruments.opened import Batches, open_layer, stream
from unrolled.instruments.reading import measured, over_steps
from unrolled.instruments.result import Result, labelled
from unrolled.intervals import Interval
from unrolled.trace import record

_LEFT, _RIGHT = 0.1, 0.9  # Karpathy et al. (2015), section 4.2


@dataclass(frozen=True, eq=False, repr=False)
class Saturation(Result):
    """The share of steps at which each unit is saturated.

    Variables of `data`, by name and unit (NaN where a state has fewer units):
        left (name, unit): at the lower end: a gate below 0.1, a candidate or hidden state below -0.9.
        right (name, unit): at the upper end: above 0.9.
        mean (name, unit): mean value.
    """

    def share(self, name: str, side: str) -> Interval:
        """Mean over units of the share of steps saturated on a side, "left" or "right"; interval over units."""
        values = self.data[side].sel(name=name).values
        return Interval.over(values[np.isfinite(values)])

    def summary(self) -> str:
        said = [
            f"{name.replace('_', ' ')} {self.share(name, 'left').text} low, {self.share(name, 'right').text} high"
            for name in map(str, self.data["name"].values)
        ]
        steps = int(self.data.attrs["steps"])
        return f"Share of {steps:,} steps at which a unit is saturated, mean over units: {'; '.join(said)}."

    def panels(self) -> Sequence[Panel]:
        found = []
        for side, title in (("left", "Saturated low"), ("right", "Saturated high")):
            curves = []
            for place, name in enumerate(map(str, self.data["name"].values)):
                values = self.data[side].sel(name=name).values
                ordered = np.sort(values[np.isfinite(values)])[::-1]
                cell = ("lstm", "gru", "rnn")[place % 3]
                curves.append(bare(name.replace("_", " "), cell, name, np.arange(len(ordered)), ordered))
            found.append(Panel(f"{title}: share of steps", "unit, the most saturated first", "share", tuple(curves)))
        return tuple(found)


def saturation(model: nn.Module, inputs: Batches, *, layer: str | None = None) -> Saturation:
    """Measure how often gates, candidate and hidden state are saturated (Karpathy et al. 2015).

    A hidden state that is projected (proj_size) or a ReLU's has no ends and is left out.

    Args:
        model: any module that `record` takes.
        inputs: (B, T, I), what the model is called with; or an iterable of batches. What is kept of a stream does not
            grow with it. Steps after a sequence's end do not count.
        layer: the recorded layer; may be omitted where there is one.

    Raises:
        ValueError: the layer is not in the model.
    """
    opened = open_layer(model, layer)
    boundless = opened.mode == "RNN_RELU" or opened.weights.hr is not None
    bounded = [name for name in (*opened.cell.gates, "hidden") if not (name == "hidden" and boundless)]
    if not bounded:
        raise ValueError(f"layer: nothing of the {opened.cell.name} {opened.name!r} is bounded, so nothing saturates")
    names = [opened.prefix + name for name in bounded]
    totals: dict[str, list[Any]] = {}
    for batch in stream(inputs):
        with measured(model), record(model, names=names, detach=True) as trace:
            model(batch.inputs)
        for name, full in zip(bounded, names, strict=True):
            values, lengths = trace[full], trace.lengths(full)
            whole = values.size(0) * values.size(1)
            count = whole if lengths is None else int(lengths.sum())
            low = _LEFT if name.endswith("_gate") else -_RIGHT
            left = over_steps((values < low).to(values.dtype))
            # Zeros stand after the ends; they are no values of the state.
            left -= whole - count if low > 0 else 0
            sums = (left, over_steps((values > _RIGHT).to(values.dtype)), over_steps(values))
            kept = totals.setdefault(name, [0, 0, 0, 0])
            totals[name] = [kept[0] + count, *(k + s for k, s in zip(kept[1:], sums, strict=True))]
    width = max(len(total[1]) for total in totals.values())

    def by_name(place: int) -> Any:
        rows = [(total[place] / total[0]).numpy(force=True) for total in totals.values()]
        return np.array([np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in rows])

    variables = {
        "left": (("name", "unit"), by_name(1)),
        "right": (("name", "unit"), by_name(2)),
        "mean": (("name", "unit"), by_name(3)),
    }
    coords = {"name": bounded, "unit": np.arange(width)}
    return Saturation(labelled(variables, coords, layer=opened.name, steps=int(totals[bounded[0]][0])))
