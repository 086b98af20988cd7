"""A trace as an xarray.DataTree: arrays whose dimensions and places have names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from unrolled.extras import extra
from unrolled.recording import layout
from unrolled.source import Source, by_layer, state_of

if TYPE_CHECKING:
    import xarray


def tree(source: Source) -> xarray.DataTree:
    """All of a source, read into memory: a node for each layer, the root for a bare cell.

    Raises:
        ModuleNotFoundError: xarray is not installed.
        ValueError: a layer was called with batches of several sizes.
    """
    xr = extra("xarray", "to_xarray", "trace")
    nodes: dict[str, Any] = {}
    for layer, names in by_layer(source.names).items():
        projected = source.projected(layer)
        variables: dict[str, Any] = {}
        for name in names:
            last = layout.unit_dimension(state_of(name), projected=projected)
            variables[state_of(name)] = _variable((layout.SEQUENCE, layout.STEP, last), source.values(name))
        for name in layout.initial_of(source, layer):
            last = layout.unit_dimension(state_of(name), projected=projected)
            variables[layout.initial_variable(state_of(name))] = _variable(
                (layout.SEQUENCE, last), source.initial(name)
            )
        taken, resets = source.taken(names[0]), source.resets(names[0])
        if taken is not None:
            variables[layout.TAKEN] = _variable((layout.SEQUENCE, layout.STEP), taken)
            variables[layout.LENGTHS] = _variable((layout.SEQUENCE,), taken.sum(1))
        if resets is not None:
            variables[layout.RESET] = _variable((layout.SEQUENCE, layout.STEP), resets)
        labels = layout.layer_labels(source, layer, names)
        coordinates = {dimension: list(numbers) for dimension, numbers in labels.items()}
        nodes[f"/{layout.node(layer)}"] = xr.Dataset(variables, coords=coordinates)
    made: xarray.DataTree = xr.DataTree.from_dict(nodes)
    return made


def _variable(dimensions: tuple[str, ...], values: Tensor) -> tuple[tuple[str, ...], Any]:
    return dimensions, layout.as_array(values)
