"""A recorded state or gate as a tensor that knows its steps, so that torch.autograd.grad can be asked for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unrolled.recurrence.result import Steps


@dataclass(frozen=True)
class Call:
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

    def taken(self) -> Tensor | None:
        """(B, T) bool, True at the steps inside each sequence, None where all are equally long."""
        if self.lengths is None:
            return None
        lengths = self.lengths if self.order is None else self.lengths[self.order.to(self.lengths.device)]
        return (torch.arange(self.shape[1], device=lengths.device) < lengths.unsqueeze(1)).cpu()

    def resets(self) -> Tensor | None:
        """(B, T) bool, True at the steps before which the states were zeroed, None if they never were."""
        return None if self.reset is None else self.reset.t().cpu()

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

    _calls: tuple[Call, ...]
    _index: tuple[Any, ...]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.autograd.grad:
            return _grad(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
            if func is Tensor.__getitem__ and isinstance(args[0], State):
                return as_state(result, args[0]._calls, (*args[0]._index, args[1]))
        return result

    def __deepcopy__(self, memo: Any) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor).detach().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            plain: Any = self.as_subclass(Tensor).detach()
            return plain.__reduce_ex__(protocol)


def as_state(value: Tensor, calls: tuple[Call, ...], index: tuple[Any, ...]) -> State:
    """Values (B, T, ·), or what indexing by `index`, one after the other, made of them, with the calls they are of."""
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
    with torch._C.DisableTorchFunctionSubclass(), ExitStack() as stack:
        for call in calls:
            stack.enter_context(call.steps.asked())
        found = iter(
            torch.autograd.grad(
                outputs,
                [source for group in sources for source, asked in _asked(group) if asked],
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
            gradients = [next(found) if asked else None for _, asked in _asked(group)]
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


def _asked(sources: list[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Which of an input's sources are asked for: one that no gradient reaches would make torch refuse them all."""
    reached = any(source.requires_grad for source in sources)
    return ((source, source.requires_grad or not reached) for source in sources)


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
