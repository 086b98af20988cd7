"""record() and Trace: every state and gate of any model's recurrent layers, by name, in the autograd graph."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.conversion import counterpart, is_recurrent
from unrolled.observation import Opened, observing
from unrolled.recurrence.result import Steps
from unrolled.structure import cell_of, layer_suffixes


@dataclass(frozen=True)
class _Call:
    """One call of one layer: the steps of one state, and how they are laid out for the user."""

    steps: Steps
    lengths: Tensor | None
    order: Tensor | None
    reset: Tensor | None = None

    def lay_out(self, values: Tensor) -> Tensor:
        """(..., T, B, ·) -> (..., B, T, ·): zero after each end, rows in the user's order."""
        values = values.transpose(-3, -2)
        if self.lengths is not None:
            after = torch.arange(values.size(-2), device=values.device) >= self.lengths.unsqueeze(1)
            values = values.masked_fill(after.unsqueeze(-1), 0)
        return values if self.order is None else values.index_select(-3, self.order)

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, T and the state's width."""
        steps, batch, width = self.steps.shape
        return batch, steps, width


class State(Tensor):
    """A recorded state or gate: a tensor (B, T, ·) that also knows the steps it was joined from.

    It is used like any tensor: a loss of it flows back into the weights. Besides, `torch.autograd.grad` takes it, or
    a part of it got by indexing, as an input: the result is the gradient of the loss with respect to the state at
    each step, along every path by which the loss depends on that step.
    """

    _calls: tuple[_Call, ...]
    _index: tuple[Any, ...]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.autograd.grad:
            return _grad(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
            if func is Tensor.__getitem__ and isinstance(args[0], State):
                return _as_state(result, args[0]._calls, (*args[0]._index, args[1]))
        return result

    def __deepcopy__(self, memo: Any) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor).detach().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            plain: Any = self.as_subclass(Tensor).detach()
            return plain.__reduce_ex__(protocol)


def _as_state(value: Tensor, calls: tuple[_Call, ...], index: tuple[Any, ...]) -> State:
    state = value.as_subclass(State)
    state._calls, state._index = calls, index
    return state


def _grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """torch.autograd.grad in which a recorded State stands for the steps it was joined from."""
    if materialize_grads and allow_unused is False:
        raise ValueError("Expected allow_unused to be True or not passed when materialize_grads=True, but got: False.")
    sources = [_sources(tensor) for tensor in inputs]
    calls = [call for tensor in inputs if isinstance(tensor, State) for call in tensor._calls]
    with torch._C.DisableTorchFunctionSubclass(), ExitStack() as asked:
        for call in calls:
            asked.enter_context(call.steps.asked())
        found = iter(
            torch.autograd.grad(
                outputs,
                [source for group in sources for source in group],
                grad_outputs,
                retain_graph=retain_graph,
                create_graph=create_graph,
                allow_unused=True,
                is_grads_batched=is_grads_batched,
            )
        )
        batches = (_first(grad_outputs).size(0),) if is_grads_batched else ()
        result: list[Tensor | None] = []
        for tensor, group in zip(inputs, sources, strict=True):
            gradients = [next(found) for _ in group]
            if any(gradient is not None for gradient in gradients) or materialize_grads:
                # A step on which the loss does not depend, such as one after it, has gradient zero.
                filled = [
                    source.new_zeros((*batches, *source.shape)) if gradient is None else gradient
                    for gradient, source in zip(gradients, group, strict=True)
                ]
                result.append(_like_state(filled, tensor, batched=is_grads_batched))
            elif allow_unused:
                result.append(None)
            else:
                raise RuntimeError(
                    "One of the differentiated Tensors appears to not have been used in the graph. "
                    "Set allow_unused=True if this is the desired behavior."
                )
    return tuple(result)


def _sources(tensor: Tensor) -> list[Tensor]:
    """What stands in the graph for an input of `torch.autograd.grad`: the steps of a State, else itself."""
    return (
        [source for call in tensor._calls for source in call.steps.sources] if isinstance(tensor, State) else [tensor]
    )


def _like_state(gradients: list[Tensor], tensor: Tensor, *, batched: bool) -> Tensor:
    """The gradients of a State's steps laid out as the State is, after the batch of gradients if there is one."""
    if not isinstance(tensor, State):
        return gradients[0]
    rest = iter(gradients)
    parts = [call.lay_out(call.steps.join([next(rest) for _ in call.steps.sources])) for call in tensor._calls]
    joined = torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0]
    if batched:
        return torch.stack([_indexed(gradient, tensor._index) for gradient in joined])
    return _indexed(joined, tensor._index)


def _first(grad_outputs: Any) -> Tensor:
    return grad_outputs if isinstance(grad_outputs, Tensor) else next(g for g in grad_outputs if g is not None)


def _indexed(tensor: Tensor, index: tuple[Any, ...]) -> Tensor:
    for part in index:
        tensor = tensor[part]
    return tensor


class Trace(Mapping[str, Tensor]):
    """What a model's recurrent layers did: name -> tensor (B, T, ·), batch first.

    A name is the module's path, PyTorch's layer suffix and the state or gate: "encoder.lstm.l0.cell",
    "encoder.lstm.l1_reverse.forget_gate", "decoder.hidden" for an LSTMCell; for a bare layer "l0.cell". Layers that
    were called several times have their calls joined along time, in the order of the calls. Sequences of unequal
    length are zero after their end.
    """

    def __init__(self, possible: Sequence[str], *, detach: bool) -> None:
        self._possible = tuple(possible)
        self._detach = detach
        self._calls: dict[str, list[_Call]] = {}
        self._joined: dict[str, tuple[int, Tensor]] = {}
        self._initial: dict[str, Tensor] = {}

    def _add(self, prefix: str, opened: Opened, names: frozenset[str]) -> None:
        for name in names:
            steps = opened.steps[name].detached() if self._detach else opened.steps[name]
            self._calls.setdefault(prefix + name, []).append(_Call(steps, opened.lengths, opened.order, opened.reset))
        for name, value in opened.initial.items():
            if self._detach:
                value = value.detach()
            self._initial.setdefault(prefix + name, value if opened.order is None else value[opened.order])

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._calls:
            if name in self._possible:
                raise KeyError(f"{name!r} was not recorded: its layer was not called in the context of record()")
            raise KeyError(f"{name!r} is not in this trace; it has {', '.join(self._possible) or 'nothing'}")
        calls = tuple(self._calls[name])
        known, joined = self._joined.get(name, (0, None))
        if joined is None or known != len(calls):
            sizes = sorted({call.shape[0] for call in calls})
            if len(sizes) > 1:
                raise ValueError(
                    f"trace {name!r}: its layer was called with batches of {' and of '.join(map(str, sizes))}, "
                    "which cannot be joined along time; record each call in a context of its own"
                )
            # The graph belongs to the recording, wherever it is first read.
            if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
                joined = self._joined_anew(calls)
            else:
                with torch.inference_mode(False), torch.enable_grad():
                    joined = self._joined_anew(calls)
            self._joined[name] = (len(calls), joined)
        return joined

    def _joined_anew(self, calls: tuple[_Call, ...]) -> Tensor:
        """The values of all calls along time: (B, T, ·)."""
        parts = [call.lay_out(call.steps.values) for call in calls]
        joined = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return joined if self._detach else _as_state(joined, calls, ())

    def __contains__(self, name: object) -> bool:
        return name in self._calls

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._possible if name in self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def initial(self) -> Mapping[str, Tensor]:
        """The states before the first step of the first call: name -> (B, ·)."""
        return dict(self._initial)

    def lengths(self, name: str) -> Tensor | None:
        """(B,) the steps taken by each sequence where they are of unequal length, else None."""
        self[name]
        calls = self._calls[name]
        if all(call.lengths is None for call in calls):
            return None
        total = torch.zeros(calls[0].shape[0], dtype=torch.int64)
        for call in calls:
            taken = torch.full_like(total, call.shape[1]) if call.lengths is None else call.lengths.cpu()
            total += taken if call.order is None else taken[call.order.cpu()]
        return total

    def resets(self, name: str) -> Tensor | None:
        """(B, T) bool, True at the steps before which the states were zeroed, None if they never were."""
        self[name]
        calls = self._calls[name]
        if all(call.reset is None for call in calls):
            return None
        parts = []
        for call in calls:
            batch, steps, _ = call.shape
            reset = call.reset.t() if call.reset is not None else torch.zeros(batch, steps, dtype=torch.bool)
            parts.append(reset.cpu())
        return torch.cat(parts, dim=1)

    def __repr__(self) -> str:
        rows = []
        for name in self:
            calls = self._calls[name]
            batch = " and ".join(map(str, sorted({call.shape[0] for call in calls})))
            rows.append(f"  {name}: ({batch}, {sum(call.shape[1] for call in calls)}, {calls[0].shape[2]})")
        return "Trace of " + (f"{len(rows)} sequences\n" + "\n".join(rows) if rows else "nothing yet")


class _Recorder:
    """The observer behind one record() context."""

    def __init__(self, prefixes: dict[int, str], trace: Trace, names: Mapping[tuple[int, str], frozenset[str]]) -> None:
        self._prefixes = prefixes
        self._trace = trace
        self._names = names

    def wants(self, module: nn.Module, suffix: str) -> frozenset[str]:
        return self._names.get((id(module), suffix), frozenset())

    def observe(self, module: nn.Module, suffix: str, opened: Opened) -> None:
        names = self.wants(module, suffix)
        if names:
            self._trace._add(_joined(self._prefixes[id(module)], suffix, ""), opened, names)


def _joined(*parts: str) -> str:
    """Parts of a name joined with dots; a last empty part leaves the dot at the end."""
    return ".".join(part for part in parts[:-1] if part) + ("." if any(parts[:-1]) else "") + parts[-1]


# Modules whose class is changed at the moment: how many contexts hold it so, and the class to go back to.
_opened: dict[int, tuple[int, type[nn.Module]]] = {}
_opened_lock = threading.Lock()


@contextmanager
def _classes_opened(modules: Sequence[nn.Module]) -> Iterator[None]:
    """torch.nn layers take their steps in view inside the context; several contexts and threads may hold one model."""
    changed: list[nn.Module] = []
    try:
        with _opened_lock:
            for module in modules:
                count, original = _opened.get(id(module), (0, type(module)))
                if counterpart(original) is not original:
                    module.__class__ = counterpart(original)
                    _opened[id(module)] = (count + 1, original)
                    changed.append(module)
        yield
    finally:
        with _opened_lock:
            for module in changed:
                count, original = _opened.pop(id(module))
                if count > 1:
                    _opened[id(module)] = (count - 1, original)
                else:
                    module.__class__ = original


def recordable(model: nn.Module) -> dict[str, tuple[nn.Module, str, str]]:
    """Everything record() can see of a model: name -> (module, layer suffix, state or gate)."""
    found: dict[str, tuple[nn.Module, str, str]] = {}
    for path, module in model.named_modules():
        if is_recurrent(module):
            for suffix in layer_suffixes(module):
                for name in cell_of(module).names:
                    found[_joined(path, suffix, name)] = (module, suffix, name)
    return found


@contextmanager
def record(model: nn.Module, *, names: str | Sequence[str] = "*", detach: bool = False) -> Iterator[Trace]:
    """Record what the recurrent layers of `model` do inside the context.

    Args:
        model: any module that holds torch.nn or unrolled recurrent layers or cells; a bare layer too.
        names: which states and gates, as patterns in which * stands for anything; everything by default.
        detach: keep values only, outside the autograd graph.

    Yields:
        The Trace, which fills as the model is called and stays usable after the context.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `model` has no recurrent layer, or a pattern matches nothing in it.

    >>> import torch, unrolled
    >>> model = torch.nn.LSTM(3, 4, batch_first=True)
    >>> with unrolled.record(model, names="*.cell") as trace:
    ...     output, _ = model(torch.zeros(2, 5, 3))
    >>> trace["l0.cell"].shape
    torch.Size([2, 5, 4])
    >>> (gradient,) = torch.autograd.grad(output[:, -1].sum(), trace["l0.cell"])
    >>> gradient.shape
    torch.Size([2, 5, 4])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"record: model must be a torch.nn.Module, given {type(model).__name__}")
    possible = recordable(model)
    if not possible:
        kind = type(model).__name__
        raise ValueError(f"record: model {kind} has no recurrent layer (RNN, GRU, LSTM or a cell of one)")
    patterns = [names] if isinstance(names, str) else list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in possible):
            raise ValueError(f"record: names={pattern!r} matches nothing in the model; it has {', '.join(possible)}")
    chosen = {name: at for name, at in possible.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
    wanted: dict[tuple[int, str], frozenset[str]] = {}
    for module, suffix, name in chosen.values():
        wanted[id(module), suffix] = wanted.get((id(module), suffix), frozenset()) | {name}
    modules = list({id(module): module for module, _, _ in chosen.values()}.values())
    prefixes = {id(module): path for path, module in model.named_modules()}
    trace = Trace(tuple(chosen), detach=detach)
    with _classes_opened(modules), observing(_Recorder(prefixes, trace, wanted)):
        yield trace
