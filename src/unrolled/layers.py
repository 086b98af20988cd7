"""The layers a user constructs: torch.nn's own classes with every step in view.

Each layer is a subclass of its torch.nn class and changes only `forward` and how parameters may start, so constructors,
parameters, state_dicts and moving between devices are torch's own. A call that torch.nn would refuse is handed to
torch.nn, which refuses it in its own words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from unrolled import compilation, inference, initialisation
from unrolled.marks import checked_lengths, checked_reset
from unrolled.observation import NOTHING, Coming, Opened, edits, observed, show, touched, wanted
from unrolled.precision import Precision, autocast_is_on
from unrolled.recurrence import dispatch, ops, pieces, reference
from unrolled.recurrence.cells import CELLS, NO_MASKS, Masks, States, Weights, separate
from unrolled.recurrence.result import Steps, Unrolled
from unrolled.structure import cell_of, layer_suffixes, state_sizes, weights_of

compilation.let_dynamo_in()


def _like(value: object, size: tuple[int, ...], x: Tensor, *, any_dtype: bool) -> bool:
    return (
        isinstance(value, Tensor)
        and value.size() == size
        and (value.dtype == x.dtype or (any_dtype and value.is_floating_point()))
        and value.device == x.device
    )


def _as_states(hx: Any, count: int) -> States | None:
    if count == 1:
        return (hx,)
    return tuple(hx) if isinstance(hx, tuple | list) and len(hx) == count else None


class _Initialised:
    """How the parameters of a layer start; a layer that was converted keeps those it has."""

    init: str = "torch"
    t_max: float | None = None
    forget_bias: float | None = None

    def __init__(
        self: Any,
        *args: Any,
        init: str = "torch",
        t_max: float | None = None,
        forget_bias: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        initialisation.check(self, init, t_max, forget_bias)
        self.init, self.t_max, self.forget_bias = init, t_max, forget_bias
        initialisation.apply(self, init, t_max, forget_bias)

    def reset_parameters(self: Any) -> None:
        """Draw all parameters anew, by torch.nn's scheme and then by the layer's own."""
        super().reset_parameters()  # type: ignore[misc]
        # torch calls this from its constructor too, before a cell is complete.
        if self.init != "torch" or self.forget_bias is not None:
            initialisation.apply(self, self.init, self.t_max, self.forget_bias)

    def extra_repr(self: Any) -> str:
        said = [super().extra_repr()]  # type: ignore[misc]
        for name in ("init", "t_max", "forget_bias"):
            value = getattr(self, name)
            if value != getattr(_Initialised, name):
                said.append(f"{name}={value!r}" if not isinstance(value, str) else f"{name}={value}")
        return ", ".join(said)


class Layer(_Initialised):
    """The forward of RNN, LSTM, GRU and their variants; what differs between them stands in the table of cells."""

    def forward(
        self: Any,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
    ) -> Any:
        """As the torch.nn layer of the same name: output and final states, packed where the input is packed.

        Args:
            input: (T, B, I), (B, T, I) with batch_first, (T, I) for one sequence, or a PackedSequence.
            hx: initial states, each (L * D, B, ·) or (L * D, ·); zero if omitted.
            lengths: (B,) whole numbers from 0 to T, on any device, in any order: how many steps of each sequence there
                are. Outputs after the end are zero, final states are those at the end. On a GPU nothing is copied to
                the CPU.
            reset: bool, laid out like the input without its last dimension. True at step t: hidden and cell are zeroed
                before step t is taken, and no gradient crosses.

        Raises:
            What torch.nn raises for the same call.
            TypeError: `lengths` or `reset` is of another kind than whole numbers or bool.
            ValueError: they do not fit the input; or `reset` is given to a bidirectional layer.
        """
        compiling = torch.compiler.is_compiling()
        plain = lengths is None and reset is None
        if lengths is None and not compiling and not torch.is_grad_enabled():
            result = inference.infer(self, input, hx, reset)
            if result is not None:
                return result
        batch: tuple[int, ...]
        if isinstance(input, PackedSequence):
            x, rank, batch = input.data, 2, (int(input.batch_sizes[0]),)
        else:
            x, rank = input, 3 if input.dim() == 3 else 2
            batch = (x.size(0 if self.batch_first else 1),) if rank == 3 else ()
        suffixes = layer_suffixes(self)
        weights = [weights_of(self, suffix) for suffix in suffixes]
        ih = weights[0].ih
        loose = autocast_is_on(x) if compiling else torch._C._is_any_autocast_enabled()
        if not (
            x.dim() == rank
            and x.size(-1) == self.input_size
            and x.numel() > 0
            and (x.dtype == ih.dtype or (loose and x.is_floating_point()))
            and x.device == ih.device
        ):
            return self._refuse(input, hx, x, plain)
        sizes = [(len(suffixes), *batch, size) for size in state_sizes(self).values()]
        if hx is None:
            states = tuple(x.new_zeros(size) for size in sizes)
        else:
            given = _as_states(hx, len(sizes))
            if given is None or not all(
                _like(state, size, x, any_dtype=loose) for state, size in zip(given, sizes, strict=True)
            ):
                return self._refuse(input, hx, x, plain)
            states = given

        sees = not compiling and observed()
        keeps = [wanted(self, suffix) for suffix in suffixes] if sees else [NOTHING] * len(suffixes)
        changed = sees and any(touched(self, suffix) for suffix in suffixes)
        beyond = self._beyond_torch(lengths, reset)
        if compiling:
            backend = "torch" if x.is_cuda and beyond is None else "cpu"
        else:
            backend = dispatch.choose(dispatch.Call(x, weights, changed or any(keeps), self.mode, beyond))
        if backend == "torch":
            return super().forward(input, hx)  # type: ignore[misc]
        run = _Run(self, suffixes, weights, keeps, changed, backend)
        if x.dtype is torch.float32 and not loose:
            output, final = self._run(run, input, x, states, hx is not None, lengths, reset)
        else:
            precision = Precision.of(x, keeps_halves=backend == "triton" and not changed)
            with precision.quiet:
                (x, *states_inside), weights = precision.enter(x, *states), [*map(precision.enter_weights, weights)]
                run = run._replace(weights=weights)
                output, final = self._run(run, input, x, tuple(states_inside), hx is not None, lengths, reset)
                output, final = precision.leave(output), tuple(precision.leave(state) for state in final)
        return output, final if len(final) > 1 else final[0]

    def _run(
        self: Any,
        run: _Run,
        input: Tensor | PackedSequence,
        x: Tensor,
        states: States,
        states_given: bool,
        lengths: Any,
        reset: Tensor | None,
    ) -> tuple[Any, States]:
        """The call in the layout of the recurrence, (T, B, ·), and its results laid out as the input is."""
        if isinstance(input, PackedSequence):
            if lengths is not None or reset is not None:
                name = "lengths" if lengths is not None else "reset"
                raise ValueError(f"{name}: a PackedSequence has lengths of its own; give a padded tensor instead")
            packed = PackedSequence(x, *input[1:])
            return _run_packed(run, packed, states, in_users_order=states_given)
        batched = input.dim() == 3
        if not batched:
            x, states = x.unsqueeze(1), tuple(state.unsqueeze(1) for state in states)
        elif self.batch_first:
            x = x.transpose(0, 1)
        steps, batch, _ = x.shape
        if lengths is not None:
            lengths = checked_lengths(lengths, steps, batch, x.device, batched=batched)
            # Nothing depends on what stands in the padding, but zero times a NaN there would be one in the gradients.
            x = x.masked_fill(~_taken(x, lengths).unsqueeze(-1), 0)
        if reset is not None:
            if self.bidirectional:
                raise ValueError(
                    "reset: a bidirectional layer also reads from the end, where a reset before step t would cut off "
                    "the other part of the sequence; use a layer of one direction, or run the pieces separately"
                )
            reset = checked_reset(reset, input.shape[:-1], x.device)
            reset = reset.t() if batched and self.batch_first else reset.view(steps, batch)
        output, final = _run_layers(run, x, states, lengths, reset)
        if not batched:
            return output.squeeze(1), tuple(state.squeeze(1) for state in final)
        return (output.transpose(0, 1) if self.batch_first else output), final

    def _beyond_torch(self, lengths: object, reset: object) -> str | None:
        """What torch's own layer would lack for a call."""
        if lengths is not None:
            return "lengths without packing"
        return "resets" if reset is not None else None

    def _refuse(self: Any, input: Any, hx: Any, x: Tensor, plain: bool) -> Any:
        """torch's error for a call, or its result for one that torch takes although no step of it can be shown."""
        result = super().forward(input, hx)  # type: ignore[misc]
        if not plain:
            raise ValueError(f"lengths and reset: cannot be used with input of shape {tuple(x.shape)}")
        return _unseen(result, self, x)

    @property
    def _quiet_mode(self: Any) -> str:
        """The row of the table that a call without random factors is."""
        return str(self.mode)

    def _noise(self, suffix: str, steps: int, batch: int, x: Tensor) -> Masks:
        """The random factors of one call of one layer in one direction."""
        return NO_MASKS


def _unseen(result: Any, module: nn.Module, x: Tensor) -> Any:
    if any(wanted(module, suffix) for suffix in layer_suffixes(module)):
        raise ValueError(f"record: cannot open a call of {type(module).__name__} with input of shape {tuple(x.shape)}")
    if any(touched(module, suffix) for suffix in layer_suffixes(module)):
        raise ValueError(
            f"intervene: cannot change a call of {type(module).__name__} with input of shape {tuple(x.shape)}"
        )
    return result


def _taken(x: Tensor, lengths: Tensor) -> Tensor:
    """(T, B) True at the steps inside each sequence; indexing with it gives the packed order."""
    return torch.arange(x.size(0), device=x.device).unsqueeze(1) < lengths


class _Run(NamedTuple):
    """One call of a layer: what of each layer and direction goes in, is wanted of it, and by which backend.

    `changed` says whether somebody may change what it does.
    """

    module: Any
    suffixes: list[str]
    weights: list[Weights]
    wanted: list[frozenset[str]]
    changed: bool
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
    output, final = _run_layers(run, x, states, lengths, packed_order=(packed.unsorted_indices,))
    if packed.unsorted_indices is not None:
        final = tuple(state.index_select(1, packed.unsorted_indices) for state in final)
    data = output[_taken(output, lengths)]
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), final


def _run_layers(
    run: _Run,
    x: Tensor,
    states: States,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    packed_order: tuple[Tensor | None] | None = None,
) -> tuple[Tensor, States]:
    """All layers and directions over x: (T, B, I) -> output (T, B, D * P), final states each (L * D, B, ·).

    `packed_order` says that the sequences were packed, and where each row of the user's batch stands, None if
    unchanged.
    """
    module, cell = run.module, cell_of(run.module)
    order = packed_order[0] if packed_order else None
    directions = 2 if module.bidirectional else 1
    finals: list[States] = []
    if torch.compiler.is_compiling() and torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        from unrolled import onnx_nodes

        take = onnx_nodes.layer
    else:
        take = _layer
    for first in range(0, len(run.suffixes), directions):
        initial = tuple(state[first : first + directions] for state in states)
        x, final = take(run, cell, first, x, initial, lengths, reset, order)
        finals.append(final)
        if module.dropout and module.training and first + directions < len(run.suffixes):
            x = _dropout(x, module.dropout, lengths if packed_order else None)
    if len(finals) == 1:
        return x, finals[0]
    return x, tuple(torch.cat(state) for state in zip(*finals, strict=True))


def _layer(
    run: _Run,
    cell: Any,
    first: int,
    x: Tensor,
    initial: States,
    lengths: Tensor | None,
    reset: Tensor | None,
    order: Tensor | None,
) -> tuple[Tensor, States]:
    """One layer, from place `first` on, in both of its directions if it has two; states are (D, B, ·)."""
    module, outputs, finals = run.module, [], []
    for direction in range(initial[0].size(0)):
        index = first + direction
        suffix, keep, before = run.suffixes[index], run.wanted[index], tuple(state[direction] for state in initial)
        masks = module._noise(suffix, x.size(0), x.size(1), x)
        mode = module.mode if masks is not NO_MASKS else module._quiet_mode
        unroll = _way(run, suffix, mode, Coming(x.size(0), x.size(1), lengths, order))
        result: Unrolled = unroll(
            x,
            before,
            run.weights[index],
            reverse=direction > 0,
            lengths=lengths,
            reset=reset,
            masks=masks,
            keep=keep,
        )
        if keep:
            named = dict(zip(cell.states, before, strict=True))
            show(module, suffix, Opened(result.steps, named, lengths, order, reset))
        outputs.append(result.output)
        finals.append(result.final)
    output = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
    return output, tuple(torch.stack(state) for state in zip(*finals, strict=True))


def _way(run: _Run, suffix: str, mode: str, coming: Coming) -> Callable[..., Unrolled]:
    """What computes one layer in one direction: a backend, and the changes that are to be made on the way."""
    changes = edits(run.module, suffix, coming) if run.changed else []
    by_reference = partial(reference.unroll, CELLS[mode])
    by_kernels = None if run.backend == "reference" else partial(ops.unroll, mode, by=ops.kernels_of(run.backend))
    if not changes:
        return by_kernels or by_reference

    def edit(t: int, name: str, value: Tensor) -> Tensor:
        for change in changes:
            value = change.edit(t, name, value)
        return value

    if by_kernels:
        steps = sorted({t for change in changes for t in change.steps})
        return partial(pieces.unroll, by_kernels, CELLS[mode], edited=steps, edit=edit)
    return partial(by_reference, edit=edit)


def _dropout(x: Tensor, probability: float, packed_lengths: Tensor | None) -> Tensor:
    """Dropout that draws exactly the random numbers that torch.nn draws, on packed input too."""
    if packed_lengths is None:
        return F.dropout(x, probability)
    taken = _taken(x, packed_lengths)
    return torch.zeros_like(x).masked_scatter(taken.unsqueeze(-1), F.dropout(x[taken], probability))


class SingleStep(_Initialised):
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
        loose = autocast_is_on(input) if torch.compiler.is_compiling() else torch._C._is_any_autocast_enabled()
        if states is None or not (
            input.dim() in (1, 2)
            and input.size(-1) == self.input_size
            and (input.dtype == weights.ih.dtype or (loose and input.is_floating_point()))
            and input.device == weights.ih.device
            and all(_like(state, size, input, any_dtype=loose) for state in states)
        ):
            return _unseen(super().forward(input, hx), self, input)  # type: ignore[misc]
        precision = Precision.of(input)
        with precision.quiet:
            (x, *states_inside), weights = precision.enter(input, *states), precision.enter_weights(weights)
            new = self._step(cell, x, tuple(states_inside), weights, batched=batched)
            new = tuple(precision.leave(state) for state in new)
        return new if count > 1 else new[0]

    def _step(self: Any, cell: Any, x: Tensor, states: States, weights: Weights, *, batched: bool) -> States:
        if not batched:
            x, states = x.unsqueeze(0), tuple(state.unsqueeze(0) for state in states)
        compiling = torch.compiler.is_compiling()
        keep = NOTHING if compiling else wanted(self, "")
        changes = edits(self, "", Coming(1, x.size(0))) if not compiling and observed() else []
        steps: dict[str, Steps] = {}

        def shown(name: str, value: Tensor) -> Tensor:
            computed = value
            for change in changes:
                value = change.edit(0, name, value)
            if name in keep:
                value = separate(value, computed)
                steps[name] = Steps(value.unsqueeze(0), (value,))
            return value

        new, _ = cell.step(cell.project(x, weights), states, weights, shown)
        if keep:
            show(self, "", Opened(steps, dict(zip(cell.states, states, strict=True))))
        return new if batched else tuple(state.squeeze(0) for state in new)


class RNN(Layer, nn.RNN):
    """torch.nn.RNN with every step in view; same arguments, parameters, outputs and errors.

    Besides those it takes, by name only, `init` ("torch" or "orthogonal"): see `unrolled.initialisation`; its call
    takes `lengths` and `reset`.
    """


class GRU(Layer, nn.GRU):
    """torch.nn.GRU with every step in view; same arguments, parameters, outputs and errors.

    Besides those it takes, by name only, `init` ("torch", "orthogonal", or "chrono" with `t_max`): see
    `unrolled.initialisation`; its call takes `lengths` and `reset`.
    """


class LSTM(Layer, nn.LSTM):
    """torch.nn.LSTM with every step in view; same arguments, parameters, outputs and errors.

    Besides those it takes, by name only, `init` ("torch", "orthogonal", or "chrono" with `t_max`) and `forget_bias`:
    see `unrolled.initialisation`; its call takes `lengths` and `reset`.
    """


class RNNCell(SingleStep, nn.RNNCell):
    """torch.nn.RNNCell with its step in view; same arguments, parameters, outputs and errors."""


class GRUCell(SingleStep, nn.GRUCell):
    """torch.nn.GRUCell with its step in view; same arguments, parameters, outputs and errors."""


class LSTMCell(SingleStep, nn.LSTMCell):
    """torch.nn.LSTMCell with its step in view; same arguments, parameters, outputs and errors."""
