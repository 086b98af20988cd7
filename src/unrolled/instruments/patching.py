"""Which state at which step makes the difference: states of a clean run put into a corrupted one, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.drawing.panels import HeatMap
from unrolled.edits import Patch
from unrolled.instruments.opened import checked_steps
from unrolled.instruments.reading import measured
from unrolled.instruments.result import Result, labelled
from unrolled.intervals import Interval
from unrolled.interventions import intervene
from unrolled.structure import cell_of, widths
from unrolled.trace import record, recordable


@dataclass(frozen=True, eq=False, repr=False)
class Patching(Result):
    """How much of the difference between two runs each patch makes good.

    Variables of `data`:
        metric (layer, state, step, group, sequence): of the corrupted run with one patch.
        clean, corrupted (sequence): of the two runs.
        units (group): which units the group is, as text.
    """

    def effect(self) -> Any:
        """(layer, state, step, group) an xarray.DataArray: 0 as corrupted, 1 as clean, means over sequences.

        The ratio of means, so that sequences in which the two runs hardly differ do not count for more than they are.
        """
        gap = (self.data["clean"] - self.data["corrupted"]).mean("sequence")
        return (self.data["metric"] - self.data["corrupted"]).mean("sequence") / gap

    def interval(self, layer: str, state: str, step: int, group: int = 0) -> Interval:
        """The effect of one patch with its interval over sequences.

        That of a ratio (Cochran 1977, section 6.8): what counts of a sequence is how far it is from the effect times
        its own difference, so that a patch which makes all of every difference good is sure, however much these vary.
        """
        made_good = self.data["metric"].sel(layer=layer, state=state, step=step, group=group) - self.data["corrupted"]
        gap = self.data["clean"] - self.data["corrupted"]
        effect = float(made_good.mean() / gap.mean())
        return Interval.over((effect + (made_good - effect * gap) / gap.mean()).values)

    def strongest(self) -> dict[str, Any]:
        """Where the largest effect is: layer, state, step and group."""
        effect = self.effect()
        place = np.unravel_index(int(np.nanargmax(effect.values)), effect.shape)
        found = {dim: effect[dim].values[i] for dim, i in zip(effect.dims, place, strict=True)}
        return {str(dim): str(value) if dim in ("layer", "state") else int(value) for dim, value in found.items()}

    def summary(self) -> str:
        at = self.strongest()
        over = self.interval(**at)
        units = str(self.data["units"].sel(group=at["group"]).values)
        return (
            f"The patch that makes most of the difference good is {at['state']} of layer {at['layer'] or 'itself'}, "
            f"units {units}, at step {at['step']}: {over.text} of it."
        )

    def panels(self) -> Sequence[HeatMap]:
        effect = self.effect()
        found = []
        reach = float(np.nanmax(np.abs(effect.values), initial=1.0))
        for layer in map(str, effect["layer"].values):
            for state in map(str, effect["state"].values):
                values = effect.sel(layer=layer, state=state).transpose("group", "step").values
                if np.isfinite(values).any():
                    found.append(_heat_map(self.data, f"{layer} {state}".strip(), values, reach))
        return found


def _heat_map(data: Any, title: str, values: NDArray[np.float64], reach: float) -> HeatMap:
    return HeatMap(
        f"Share of the difference made good by patching {title}",
        "step",
        "units",
        tuple(map(float, data["step"].values)),
        tuple(map(str, data["units"].values)),
        tuple(tuple(map(float, row)) for row in values),
        -reach,
        reach,
        diverging=True,
    )


def patching(
    model: nn.Module,
    clean: Tensor,
    corrupted: Tensor,
    metric: Callable[[Any], Tensor],
    *,
    layers: Sequence[str] | None = None,
    states: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    groups: Sequence[Sequence[int]] | int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Patching:
    """Put states of a clean run into a corrupted one, for every layer, state, step and group of units in turn.

    Activation patching (Vig et al. 2020; Meng et al. 2022): what makes the corrupted run behave like the clean one
    carries the difference at that step.

    Args:
        model: any module that `record` takes.
        clean: (B, T, I) or (B, T), an input.
        corrupted: an input of the same shape that differs in what is in question.
        metric: the model's output -> (B,) the behaviour of each sequence.
        layers: recorded layers such as "encoder.l0"; all if omitted.
        states: states or gates; "hidden" and "cell" if omitted.
        steps: which; all if omitted. The model runs once for each layer, state, step and group.
        groups: units that are patched together, or a number of groups into which they are divided in order.
        on_progress: called with the runs done and the runs to do.

    Raises:
        ValueError: inputs of different shapes, names the model does not have, groups that do not fit, or a metric whose
            mean is the same in both runs, so that there is no difference to be made good.
    """
    if clean.shape != corrupted.shape:
        raise ValueError(f"corrupted: shape {tuple(corrupted.shape)} is not that of clean, {tuple(clean.shape)}")
    possible = recordable(model)
    all_layers = list(dict.fromkeys(name.rpartition(".")[0] for name in possible))
    chosen_layers = _known("layers", layers, all_layers)
    every_state = list(dict.fromkeys(name for module, _, _ in possible.values() for name in cell_of(module).states))
    every_name = list(dict.fromkeys(name for module, _, _ in possible.values() for name in cell_of(module).names))
    chosen_states = every_state if states is None else _known("states", states, every_name)
    names = {
        (layer, state): name
        for layer in chosen_layers
        for state in chosen_states
        if (name := f"{layer}.{state}" if layer else state) in possible
    }
    with measured(model), record(model, names=list(names.values()), detach=True) as trace:
        of_clean = _behaviour(metric(model(clean)), clean)
    with measured(model):
        of_corrupted = _behaviour(metric(model(corrupted)), clean)
    if float((of_clean - of_corrupted).mean()) == 0:
        raise ValueError(
            "metric: its mean is the same for clean and corrupted inputs, so there is no difference to be made good"
        )
    length = next(iter(trace.values())).size(1)
    chosen_steps = list(range(length)) if steps is None else checked_steps(steps, length)
    every_width = {widths(possible[name][0])[state] for (_, state), name in names.items()}
    width = min(every_width)
    if isinstance(groups, int) and groups > 1 and len(every_width) > 1:
        raise ValueError(
            f"groups: {groups} groups of states that are {', '.join(map(str, sorted(every_width)))} units wide; choose "
            "layers and states of one width, or give the groups as units"
        )
    units = _grouped(groups, width)
    shape = (len(chosen_layers), len(chosen_states), len(chosen_steps), len(units), clean.size(0))
    figures = np.full(shape, np.nan)
    done, total = 0, len(names) * len(chosen_steps) * len(units)
    for (layer, state), name in names.items():
        for i, t in enumerate(chosen_steps):
            for j, group in enumerate(units):
                patch = Patch(name, source=trace, steps=t, units=None if len(units) == 1 == groups else group)
                with measured(model), intervene(model, patch):
                    behaviour = _behaviour(metric(model(corrupted)), clean)
                figures[chosen_layers.index(layer), chosen_states.index(state), i, j] = behaviour.numpy(force=True)
                done += 1
                if on_progress:
                    on_progress(done, total)
    variables = {
        "metric": (("layer", "state", "step", "group", "sequence"), figures),
        "clean": (("sequence",), of_clean.numpy(force=True)),
        "corrupted": (("sequence",), of_corrupted.numpy(force=True)),
        "units": (("group",), [_named(group) for group in units]),
    }
    coords = {
        "layer": chosen_layers,
        "state": chosen_states,
        "step": chosen_steps,
        "group": np.arange(len(units)),
        "sequence": np.arange(clean.size(0)),
    }
    return Patching(labelled(variables, coords))


def _known(argument: str, given: Sequence[str] | None, possible: list[str]) -> list[str]:
    for name in given or ():
        if name not in possible:
            raise ValueError(f"{argument}: {name!r} is not in the model; expected some of {', '.join(possible)}")
    return possible if given is None else list(given)


def _behaviour(value: Tensor, inputs: Tensor) -> Tensor:
    if value.shape != inputs.shape[:1]:
        raise ValueError(
            f"metric: gave shape {tuple(value.shape)}; expected one for each sequence, ({inputs.size(0)},)"
        )
    return value.double()


def _grouped(groups: Sequence[Sequence[int]] | int, width: int) -> list[list[int]]:
    if isinstance(groups, int):
        if not 1 <= groups <= width:
            raise ValueError(f"groups: {groups} groups of {width} units; expected 1 to {width}")
        return [part.tolist() for part in np.array_split(np.arange(width), groups)]
    found = [[int(unit) for unit in group] for group in groups]
    for group in found:
        if not group or not all(0 <= unit < width for unit in group):
            raise ValueError(f"groups: {group} does not fit; expected units from 0 to {width - 1}")
    return found


def _named(group: list[int]) -> str:
    """Units as text: "3", "0-15", or "1, 4, 5"."""
    if len(group) > 1 and group == list(range(group[0], group[-1] + 1)):
        return f"{group[0]}-{group[-1]}"
    return ", ".join(map(str, group))
