"""The layers a user constructs: torch.nn's own classes with every step in view.

Each layer is a subclass of its torch.nn class and changes only `forward`, so constructors, parameters, state_dicts,
initialisation and moving between devices are torch's own. A call that torch.nn would refuse is handed to torch.nn,
which refuses it in its own words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from unrolled.recurrence import dispatch, ops, reference
from unrolled.recurrence.cells import CELLS, Cell, States, Weights, separate
from unrolled.recurrence.result import Steps, Unrolled

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Opened:
    """What one call of one layer in one direction is seen to have done.

    Attributes:
        steps: name -> the state or gate at every step.
        initial: the states before the first step taken, name -> (B, ·).
        lengths: (B,) where the sequences are of unequal length, else None.
        order: (B,) where row b of the user's batch stands in these tensors, None if unchanged.
    """

    steps: dict[str, Steps]
    initial: dict[str, Tensor]
    lengths: Tensor | None = None
    order: Tensor | None = None


class Observer(Protocol):
    """Something that wants to see what layers do while it is installed with `observing`."""

    def wants(self, module: nn.Module, suffix: str) -> frozenset[str]:
        """The states and gates of this module's layer ("l0", "l1_reverse", "" for a cell) that are to be kept."""

    def observe(self, module: nn.Module, suffix: str, opened: Opened) -> None:
        """Called once a call's recurrence has been computed."""


_NOTHING: frozenset[str] = frozenset()
_observers: ContextVar[tuple[Observer, ...]] = ContextVar("unrolled_observers", default=())


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Show `observer` every call of a layer made in this thread inside the context."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


def _wanted(module: nn.Module, suffix: str) -> frozenset[str]:
    return frozenset().union(*(observer.wants(module, suffix) for observer in _observers.get()))


def _show(module: nn.Module, suffix: str, opened: Opened) -> None:
    for observer in _observers.get():
        observer.observe(module, suffix, opened)


def cell_of(module: nn.Module) -> Cell:
    """The row of the table of cells that a torch.nn or unrolled recurrent module computes."""
    if isinstance(module, nn.RNNBase):
        return CELLS[module.mode]
    if isinstance(module, nn.RNNCell):
        return CELLS[f"RNN_{module.nonlinearity.upper()}"]
    return CELLS["LSTM" if isinstance(module, nn.LSTMCell) else "GRU"]


def layer_suffixes(module: nn.Module) -> list[str]:
    """PyTorch's own suffixes of a module's layers and directions: "l0", "l0_reverse", ...; "" for a cell."""
    return _suffixes(module.num_layers, bool(module.bidirectional)) if isinstance(module, nn.RNNBase) else [""]


@cache
def _suffixes(layers: int, bidirectional: bool) -> list[str]:
    directions = ("", "_reverse") if bidirectional else ("",)
    return [f"l{layer}{direction}" for layer in range(layers) for direction in directions]


def weights_of(module: nn.Module, suffix: str = "") -> Weights:
    """The parameters of one layer in one direction, as they are now (parametrized ones computed)."""
    ih, hh, bias_ih, bias_hh, hr = _weight_names(suffix)
    return Weights(
        _parameter(module, ih),
        _parameter(module, hh),
        _parameter(module, bias_ih) if module.bias else None,
        _parameter(module, bias_hh) if module.bias else None,
        _parameter(module, hr) if getattr(module, "proj_size", 0) else None,
    )


def _parameter(module: nn.Module, name: str) -> Any:
    # What parametrize computes is no parameter; a look into the dictionary first spares torch's search for the rest.
    found = module._parameters.get(name)
    return found if found is not None else getattr(module, name)


@cache
def _weight_names(suffix: str) -> tuple[str, ...]:
    end = f"_{suffix}" if suffix else ""
    return tuple(name + end for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"))


def state_sizes(module: nn.Module) -> dict[str, int]:
    """The width of each state of a recurrent module, in the table's order."""
    hidden_size = int(module.hidden_size)  # type: ignore[arg-type]
    output_size = int(getattr(module, "proj_size", 0)) or hidden_size
    return {name: output_size if name == "hidden" else hidden_size for name in cell_of(module).states}


def _like(value: object, size: tuple[int, ...], x: Tensor) -> bool:
    return isinstance(value, Tensor) and value.size() == size and value.dtype == x.dtype and value.device == x.device


def _as_states(hx: Any, count: int) -> States | None:
    if count == 1:
        return (hx,)
    return tuple(hx) if isinstance(hx, tuple | list) and len(hx) == count else None


class _Layer:
    """The forward of RNN, LSTM and GRU; what differs between them stands in the table of cells."""

    def forward(self: Any, input: Tensor | PackedSequence, hx: Any = None) -> Any:
        """As the torch.nn layer of the same name: output and final states, packed where the input is packed.

        Args:
            input: (T, B, I), (B, T, I) with batch_first, (T, I) for one sequence, or a PackedSequence.
            hx: initial states, each (L * D, B, ·) or (L * D, ·); zero if omitted.

        Raises:
            What torch.nn raises for the same call.
        """
        batch: tuple[int, ...]
        output: Any
        if isinstance(input, PackedSequence):
            x, rank, batch = input.data, 2, (int(input.batch_sizes[0]),)
        else:
            x, rank = input, 3 if input.dim() == 3 else 2
            batch = (x.size(0 if self.batch_first else 1),) if rank == 3 else ()
        suffixes = layer_suffixes(self)
        weights = [weights_of(self, suffix) for suffix in suffixes]
        ih = weights[0].ih
        if not (
            x.dim() == rank
            and x.size(-1) == self.input_size
            and x.numel() > 0
            and (x.dtype is ih.dtype or torch._C._is_any_autocast_enabled())
            and x.device == ih.device
        ):
            return _refused(super().forward(input, hx), self, x)  # type: ignore[misc]
        sizes = [(len(suffixes), *batch, size) for size in state_sizes(self).values()]
        if hx is None:
            states = tuple(x.new_zeros(size) for size in sizes)
        else:
            given = _as_states(hx, len(sizes))
            if given is None or not all(_like(state, size, x) for state, size in zip(given, sizes, strict=True)):
                return _refused(super().forward(input, hx), self, x)  # type: ignore[misc]
            states = given

        wanted = [_wanted(self, suffix) for suffix in suffixes] if _observers.get() else [_NOTHING] * len(suffixes)
        backend = dispatch.choose(dispatch.Call(x, weights, any(wanted)))
        if backend == "torch":
            return super().forward(input, hx)  # type: ignore[misc]
        run = _Run(self, suffixes, weights, wanted, backend)
        if isinstance(input, PackedSequence):
            output, final = _run_packed(run, input, states, in_users_order=hx is not None)
        elif rank == 2:
            states = tuple(state.unsqueeze(1) for state in states)
            output, final = _run_layers(run, x.unsqueeze(1), states)
            output, final = output.squeeze(1), tuple(state.squeeze(1) for state in final)
        elif self.batch_first:
            output, final = _run_layers(run, x.transpose(0, 1), states)
            output = output.transpose(0, 1)
        else:
            output, final = _run_layers(run, x, states)
        return output, final if len(final) > 1 else final[0]


def _refused(result: Any, module: nn.Module, x: Tensor) -> Any:
    """Passes on torch's result for a call that torch takes although no step of it can be shown."""
    if any(_wanted(module, suffix) for suffix in layer_suffixes(module)):
        raise ValueError(f"record: cannot open a call of {type(module).__name__} with input of shape {tuple(x.shape)}")
    return result


def _taken(x: Tensor, lengths: Tensor) -> Tensor:
    """(T, B) True at the steps inside each sequence; indexing with it gives the packed order."""
    return torch.arange(x.size(0), device=x.device).unsqueeze(1) < lengths


class _Run(NamedTuple):
    """One call of a layer: what of each layer and direction goes in, is wanted of it, and by which backend."""

    module: Any
    suffixes: list[str]
    weights: list[Weights]
    wanted: list[frozenset[str]]
    backend: str


def _run_packed(
    run: _Run, packed: PackedSequence, states: States, *, in_users_order: bool
) -> tuple[PackedSequence, States]:
    """All layers and directions over a PackedSequence; the final states are in the user's order."""
    if in_users_order and packed.sorted_indices is not None:
        states = tuple(state.index_select(1, packed.sorted_indices) for state in states)
    # Without its indices the sequence is padded in the order in which it is packed.
    x, lengths = pad_packed_sequence(PackedSequence(packed.data, packed.batch_sizes))
    lengths = lengths.to(x.device)
    output, final = _run_layers(run, x, states, lengths, packed.unsorted_indices)
    if packed.unsorted_indices is not None:
        final = tuple(state.index_select(1, packed.unsorted_indices) for state in final)
    data = output[_taken(output, lengths)]
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), final


def _run_layers(
    run: _Run, x: Tensor, states: States, lengths: Tensor | None = None, order: Tensor | None = None
) -> tuple[Tensor, States]:
    """All layers and directions over x: (T, B, I) -> output (T, B, D * P), final states each (L * D, B, ·)."""
    module, cell = run.module, cell_of(run.module)
    directions = 2 if module.bidirectional else 1
    finals: list[States] = []
    for first in range(0, len(run.suffixes), directions):
        outputs = []
        for index in range(first, first + directions):
            initial, keep = tuple(state[index] for state in states), run.wanted[index]
            result = _unroll(run, cell, index, x, initial, reverse=index > first, lengths=lengths)
            if keep:
                before = dict(zip(cell.states, initial, strict=True))
                _show(module, run.suffixes[index], Opened(result.steps, before, lengths, order))
            outputs.append(result.output)
            finals.append(result.final)
        x = torch.cat(outputs, dim=-1) if directions > 1 else outputs[0]
        if module.dropout and module.training and first + directions < len(run.suffixes):
            x = _dropout(x, module.dropout, lengths)
    return x, tuple(torch.stack(state) for state in zip(*finals, strict=True))


def _unroll(
    run: _Run, cell: Cell, index: int, x: Tensor, initial: States, *, reverse: bool, lengths: Tensor | None
) -> Unrolled:
    weights, keep = run.weights[index], run.wanted[index]
    if run.backend == "cpu":
        return ops.unroll(cell, run.module.mode, x, initial, weights, reverse=reverse, lengths=lengths, keep=keep)
    return reference.unroll(cell, x, initial, weights, reverse=reverse, lengths=lengths, keep=keep)


def _dropout(x: Tensor, probability: float, lengths: Tensor | None) -> Tensor:
    """Dropout that draws exactly the random numbers that torch.nn draws, on packed input too."""
    if lengths is None:
        return F.dropout(x, probability)
    taken = _taken(x, lengths)
    return torch.zeros_like(x).masked_scatter(taken.unsqueeze(-1), F.dropout(x[taken], probability))


class _SingleStep:
    """The forward of RNNCell, LSTMCell and GRUCell."""

    def forward(self: Any, input: Tensor, hx: Any = None) -> Any:
        """As the torch.nn cell of the same name: the states after one step.

        Args:
            input: (B, I) or (I,).
            hx: states before the step, each (B, H) or (H,); zero if omitted.

        Raises:
            What torch.nn raises for the same call.
        """
        cell = cell_of(self)
        batched = input.dim() == 2
        size = (input.size(0), self.hidden_size) if batched else (self.hidden_size,)
        count = len(cell.states)
        states = _as_states(hx, count) if hx is not None else (input.new_zeros(size),) * count
        weights = weights_of(self)
        if states is None or not (
            input.dim() in (1, 2)
            and input.size(-1) == self.input_size
            and (input.dtype == weights.ih.dtype or torch._C._is_any_autocast_enabled())
            and input.device == weights.ih.device
            and all(_like(state, size, input) for state in states)
        ):
            return _refused(super().forward(input, hx), self, input)  # type: ignore[misc]
        if not batched:
            input, states = input.unsqueeze(0), tuple(state.unsqueeze(0) for state in states)
        keep = _wanted(self, "")
        steps: dict[str, Steps] = {}

        def shown(name: str, value: Tensor) -> Tensor:
            if name in keep:
                value = separate(value)
                steps[name] = Steps(value.unsqueeze(0), (value,))
            return value

        new, _ = cell.step(cell.project(input, weights), states, weights, shown)
        if keep:
            _show(self, "", Opened(steps, dict(zip(cell.states, states, strict=True))))
        if not batched:
            new = tuple(state.squeeze(0) for state in new)
        return new if count > 1 else new[0]


class RNN(_Layer, nn.RNN):
    """torch.nn.RNN with every step in view; same arguments, parameters, outputs and errors."""


class GRU(_Layer, nn.GRU):
    """torch.nn.GRU with every step in view; same arguments, parameters, outputs and errors."""


class LSTM(_Layer, nn.LSTM):
    """torch.nn.LSTM with every step in view; same arguments, parameters, outputs and errors."""


class RNNCell(_SingleStep, nn.RNNCell):
    """torch.nn.RNNCell with its step in view; same arguments, parameters, outputs and errors."""


class GRUCell(_SingleStep, nn.GRUCell):
    """torch.nn.GRUCell with its step in view; same arguments, parameters, outputs and errors."""


class LSTMCell(_SingleStep, nn.LSTMCell):
    """torch.nn.LSTMCell with its step in view; same arguments, parameters, outputs and errors."""


_COUNTERPARTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: RNN,
    nn.GRU: GRU,
    nn.LSTM: LSTM,
    nn.RNNCell: RNNCell,
    nn.GRUCell: GRUCell,
    nn.LSTMCell: LSTMCell,
}


def is_recurrent(module: nn.Module) -> bool:
    """Whether a module is one of torch.nn's recurrent layers or cells, or a subclass of one, unrolled's included."""
    return isinstance(module, tuple(_COUNTERPARTS))


# The classes made by `counterpart`, each once, so that equal classes stay equal.
_made: dict[type[nn.Module], type[nn.Module]] = {}


def counterpart(kind: type[nn.Module]) -> type[nn.Module]:
    """The unrolled class for a recurrent class: itself if it is one already.

    For a subclass of a torch.nn class it is a class that stands on both, so that `super().forward` inside the
    subclass reaches the unrolled layer.
    """
    if issubclass(kind, _Layer | _SingleStep):
        return kind
    if kind in _COUNTERPARTS:
        return _COUNTERPARTS[kind]
    if kind not in _made:
        _made.setdefault(kind, _reparametrized(kind) if _is_parametrized(kind) else _standing_on_both(kind))
    return _made[kind]


def _standing_on_both(kind: type[nn.Module]) -> type[nn.Module]:
    ours = next(ours for theirs, ours in _COUNTERPARTS.items() if issubclass(kind, theirs))

    def reduce(self: Any, protocol: Any) -> tuple[Callable[..., Any], tuple[Any], Any]:
        return _rebuild, (kind,), self.__getstate__()

    return type(kind.__name__, (kind, ours), {"__module__": kind.__module__, "__reduce_ex__": reduce})


def _is_parametrized(kind: type[nn.Module]) -> bool:
    """Whether torch.nn.utils.parametrize made this class, to hold the parametrized weights as properties."""
    return getattr(vars(kind).get("__getstate__"), "__module__", None) == parametrize.__name__


def _reparametrized(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that torch would have made on the unrolled layer; only from such a one can it remove a weight again."""
    members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return type(kind.__name__, (counterpart(kind.__bases__[0]),), members)


def _rebuild(kind: type[nn.Module]) -> nn.Module:
    made = counterpart(kind)
    return made.__new__(made)


def convert(model: Model) -> Model:
    """Turn every torch.nn recurrent layer and cell in `model` into its unrolled counterpart, in place.

    The modules stay the same objects with the very same parameters, so optimizers, tied weights, hooks and
    references to a layer stay valid; only their class changes. Subclasses of torch.nn's layers are converted too.

    Returns:
        The model itself.

    Raises:
        TypeError: `model` is not a torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: model must be a torch.nn.Module, given {type(model).__name__}")
    for module in model.modules():
        if is_recurrent(module):
            module.__class__ = counterpart(type(module))
    return model
