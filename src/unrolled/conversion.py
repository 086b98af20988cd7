"""convert(): the recurrent layers of a model become unrolled ones in place, by a change of their class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from unrolled.layers import GRU, LSTM, RNN, GRUCell, Layer, LSTMCell, RNNCell, SingleStep

Model = TypeVar("Model", bound=nn.Module)

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
    return isinstance(module, (Layer, *_COUNTERPARTS))


# The classes made by `counterpart`, each once, so that equal classes stay equal.
_made: dict[type[nn.Module], type[nn.Module]] = {}


def counterpart(kind: type[nn.Module]) -> type[nn.Module]:
    """The unrolled class for a recurrent class: itself if it is one already.

    For a subclass of a torch.nn class it is a class that stands on both, so that `super().forward` inside the
    subclass reaches the unrolled layer.
    """
    if issubclass(kind, Layer | SingleStep):
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
