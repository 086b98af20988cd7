"""What a recurrent module consists of: its row in the table of cells, its layers and directions, weights and states."""

from __future__ import annotations

from typing import Any

from torch import nn

from unrolled.recurrence.cells import CELLS, Cell, Weights


def cell_of(module: nn.Module) -> Cell:
    """The row of the table of cells that a recurrent module computes."""
    return CELLS[mode_of(module)]


def mode_of(module: nn.Module) -> str:
    """The key of that row."""
    if isinstance(module, nn.RNNBase):
        return module.mode
    if isinstance(module, nn.RNNCell):
        return f"RNN_{module.nonlinearity.upper()}"
    return "LSTM" if isinstance(module, nn.LSTMCell) else "GRU"


# Names are made once: functools.cache would do it, but warns whenever torch.compile meets it.
_suffixes: dict[tuple[int, bool], list[str]] = {}
_names: dict[tuple[str, str], tuple[str, ...]] = {}


def layer_suffixes(module: nn.Module) -> list[str]:
    """PyTorch's own suffixes of a module's layers and directions: "l0", "l0_reverse", ...; "" for a cell."""
    if not isinstance(module, nn.RNNBase):
        return [""]
    key = (module.num_layers, bool(module.bidirectional))
    if key not in _suffixes:
        directions = ("", "_reverse") if module.bidirectional else ("",)
        _suffixes[key] = [f"l{layer}{direction}" for layer in range(module.num_layers) for direction in directions]
    return _suffixes[key]


def parameter_names(mode: str, suffix: str) -> tuple[str, ...]:
    """The names of a layer's parameters, in the order of `Weights` up to `hr`, then the cell's own."""
    key = (mode, suffix)
    if key not in _names:
        end = f"_{suffix}" if suffix else ""
        stems = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", *CELLS[mode].parameters)
        _names[key] = tuple(stem + end for stem in stems)
    return _names[key]


def weights_of(module: Any, suffix: str = "") -> Weights:
    """The parameters of one layer in one direction, as they are now (parametrized ones computed)."""
    mode = mode_of(module)
    ih, hh, bias_ih, bias_hh, hr, *own = parameter_names(mode, suffix)
    biased = bool(module.bias)
    weights = Weights(
        _parameter(module, ih),
        _parameter(module, hh),
        _parameter(module, bias_ih) if biased else None,
        _parameter(module, bias_hh) if biased else None,
        _parameter(module, hr) if getattr(module, "proj_size", 0) else None,
    )
    if not own:
        return weights
    fields = zip(CELLS[mode].parameters, own, strict=True)
    return weights._replace(
        **{field: _parameter(module, name) for field, name in fields if biased or not field.endswith("bias")}
    )


def _parameter(module: Any, name: str) -> Any:
    # What parametrize computes is no parameter; a look into the dictionary first spares torch's search for the rest.
    found = module._parameters.get(name)
    return found if found is not None else getattr(module, name)


def state_sizes(module: Any) -> dict[str, int]:
    """The width of each state of a recurrent module, in the table's order."""
    hidden_size = int(module.hidden_size)
    output_size = int(getattr(module, "proj_size", 0)) or hidden_size
    return {name: output_size if name == "hidden" else hidden_size for name in cell_of(module).states}


def widths(module: Any) -> dict[str, int]:
    """The width of everything that can be recorded of a recurrent module, states first."""
    sizes = state_sizes(module)
    return sizes | {gate: int(module.hidden_size) for gate in cell_of(module).gates}
