"""What the tests of intervene() share: layers, numbers, and the loop by hand that they are held to."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import unrolled
from exact import MODES, close, finals, wild
from unrolled import Ablate, Apply, Clamp, Patch, Push, Scale
from unrolled.interventions import InterventionWarning
from unrolled.recurrence import pieces
from unrolled.recurrence.cells import Masks

T, B, I, H = 9, 3, 3, 5  # noqa: E741


NAMES = {
    "RNN_TANH": ["hidden"],
    "RNN_RELU": ["hidden"],
    "GRU": ["hidden", "reset_gate", "update_gate", "candidate"],
    "LSTM": ["hidden", "cell", "input_gate", "forget_gate", "candidate", "output_gate"],
}


EVERY_NAME = [(mode, name) for mode in MODES for name in NAMES[mode]]


TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}


dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["reference", "kernels"])


every_name = pytest.mark.parametrize(("mode", "name"), EVERY_NAME)


every_mode = pytest.mark.parametrize("mode", MODES)


Change = Callable[[str, int, Tensor], Tensor]


def made(mode: str = "LSTM", **options: Any) -> Any:
    """A layer of torch.nn."""
    kind, _, nonlinearity = mode.partition("_")
    if nonlinearity:
        options["nonlinearity"] = nonlinearity.lower()
    return getattr(nn, kind)(I, H, **options)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, grad: bool = True) -> Tensor:
    """The same numbers in either dtype, as a leaf."""
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(dtype).requires_grad_(grad)


def before(module: Any, batch: int = B, *, seed: int = 1) -> tuple[Tensor, ...]:
    """Initial states of a layer, in its dtype."""
    rows = module.num_layers * (2 if module.bidirectional else 1)
    widths = (module.proj_size or H, H) if isinstance(module, nn.LSTM) else (H,)
    dtype = module.weight_ih_l0.dtype
    return tuple(drawn(rows, batch, width, seed=seed + i, dtype=dtype) for i, width in enumerate(widths))


def given(states: Sequence[Tensor]) -> Any:
    return tuple(states) if len(states) > 1 else states[0]


def untouched(name: str, t: int, value: Tensor) -> Tensor:
    return value


class Hand:
    """A layer of torch.nn written out, time first; what `change` makes of a value is what the step goes on with.

    Attributes:
        result: output and final states, as the layer returns them.
        nodes: name -> what a step went on with, for every step in the order of time.
    """

    def __init__(
        self, module: Any, x: Tensor, states: Sequence[Tensor], change: Change = untouched, reset: Tensor | None = None
    ) -> None:
        self.module, self.change = module, change
        self.nodes: dict[str, list[Tensor]] = {}
        ends: list[list[Tensor]] = []
        for layer in range(module.num_layers):
            outputs = []
            for way in range(2 if module.bidirectional else 1):
                suffix = f"l{layer}" + ("_reverse" if way else "")
                state = [s[len(ends)] for s in states]
                steps: list[Tensor] = []
                for t in reversed(range(len(x))) if way else range(len(x)):
                    if reset is not None:
                        state = [s * (~reset[t]).to(s).unsqueeze(1) for s in state]
                    state = self.step(suffix, t, x[t], *state)
                    steps.append(state[0])
                ends.append(state)
                if way:
                    steps.reverse()
                    for name, nodes in self.nodes.items():
                        if name.startswith(f"{suffix}."):
                            nodes.reverse()
                outputs.append(torch.stack(steps))
            x = torch.cat(outputs, dim=-1)
        self.result = (x, given([torch.stack(end) for end in zip(*ends, strict=True)]))

    def see(self, suffix: str, t: int, name: str, value: Tensor) -> Tensor:
        node = self.change(f"{suffix}.{name}", t, value.clone()).clone()
        if value.requires_grad and not node.requires_grad:
            node.requires_grad_()
        self.nodes.setdefault(f"{suffix}.{name}", []).append(node)
        return node

    def step(self, suffix: str, t: int, x: Tensor, hidden: Tensor, cell: Tensor | None = None) -> list[Tensor]:
        w = {name: getattr(self.module, f"{name}_{suffix}") for name in ("weight_ih", "weight_hh")}
        if self.module.bias:
            w |= {name: getattr(self.module, f"{name}_{suffix}") for name in ("bias_ih", "bias_hh")}
        from_x = x @ w["weight_ih"].t() + w.get("bias_ih", 0)
        from_h = hidden @ w["weight_hh"].t() + w.get("bias_hh", 0)
        see = partial(self.see, suffix, t)
        if isinstance(self.module, nn.RNN):
            return [see("hidden", getattr(torch, self.module.nonlinearity)(from_x + from_h))]
        if isinstance(self.module, nn.GRU):
            (x_r, x_z, x_n), (h_r, h_z, h_n) = from_x.chunk(3, -1), from_h.chunk(3, -1)
            r, z = see("reset_gate", (x_r + h_r).sigmoid()), see("update_gate", (x_z + h_z).sigmoid())
            n = see("candidate", (x_n + r * h_n).tanh())
            return [see("hidden", (1 - z) * n + z * hidden)]
        i, f, g, o = (from_x + from_h).chunk(4, -1)
        i, f = see("input_gate", i.sigmoid()), see("forget_gate", f.sigmoid())
        g, o = see("candidate", g.tanh()), see("output_gate", o.sigmoid())
        cell = see("cell", f * cell + i * g)
        hidden = o * cell.tanh()
        if self.module.proj_size:
            hidden = hidden @ getattr(self.module, f"weight_hr_{suffix}").t()
        return [see("hidden", hidden), cell]

    def joined(self, name: str) -> Tensor:
        return torch.stack(self.nodes[name], dim=1)

    def gradient(self, loss: Tensor, name: str) -> Tensor:
        found = torch.autograd.grad(loss, self.nodes[name], retain_graph=True, materialize_grads=True)
        return torch.stack(found, dim=1)


def placed(
    value: Tensor, changed: Tensor, *, units: Sequence[int] | None = None, rows: Sequence[int] | None = None
) -> Tensor:
    """`changed` where it is meant, `value` elsewhere."""
    where = torch.zeros(value.shape, dtype=torch.bool)
    for row in range(value.size(0)) if rows is None else rows:
        for unit in range(value.size(1)) if units is None else units:
            where[row, unit] = True
    return torch.where(where, changed.expand_as(value), value)


def at(
    pattern: str, steps: Sequence[int], how: Callable[[Tensor, str, int], Tensor], **places: Sequence[int]
) -> Change:
    """The change of some steps of the names that match."""

    def change(name: str, t: int, value: Tensor) -> Tensor:
        return placed(value, how(value, name, t), **places) if t in steps and fnmatchcase(name, pattern) else value

    return change


def both(*changes: Change) -> Change:
    def change(name: str, t: int, value: Tensor) -> Tensor:
        for one in changes:
            value = one(name, t, value)
        return value

    return change


def agree(
    found: Any, wanted: Any, leaves: Sequence[Tensor], exact_leaves: Sequence[Tensor], tolerance: float = 1e-11
) -> None:
    """Results, and the gradients of a loss of all of them for every leaf."""
    close([found[0], *finals(found)], [wanted[0], *finals(wanted)], tolerance)
    close(
        torch.autograd.grad(wild(found), leaves, materialize_grads=True),
        torch.autograd.grad(wild(wanted), exact_leaves, materialize_grads=True),
        tolerance,
    )


STEPS, UNITS, ROWS = [4, 5], [0, 2, 3], [0, 2]


WHERE: dict[str, Any] = {"steps": STEPS, "units": UNITS, "rows": ROWS}


SUFFIXES = ["l0", "l0_reverse"]


class Drawn:
    """What edits take, as leaves of one dtype."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.few = drawn(len(UNITS), seed=11, dtype=dtype)
        self.row = drawn(H, seed=12, dtype=dtype)
        self.batch = drawn(B, H, seed=13, dtype=dtype)
        self.source = {f"{s}.{name}": drawn(B, T, H, seed=14 + i, dtype=dtype) for i, s in enumerate(SUFFIXES)}
        self.leaves = [self.few, self.row, self.batch, *self.source.values()]
        self.others = torch.arange(B)  # whose values are taken by a resampled ablation


def of_units(amount: Tensor) -> Tensor:
    """One number for each of the chosen units, at their places."""
    return torch.stack([amount[UNITS.index(unit)] if unit in UNITS else amount.new_zeros(()) for unit in range(H)])


KINDS_OF_EDIT: dict[str, tuple[Callable[[str, Drawn], Any], Callable[[Drawn, Tensor, str, int], Tensor]]] = {
    "zero": (lambda n, d: Ablate(n, **WHERE), lambda d, v, n, t: v * 0),
    "mean": (lambda n, d: Ablate(n, "mean", **WHERE), lambda d, v, n, t: v.mean(0)),
    "resampled": (lambda n, d: Ablate(n, "resampled", **WHERE), lambda d, v, n, t: v[d.others]),
    "mean of a source": (
        lambda n, d: Ablate(n, "mean", source=d.source, **WHERE),
        lambda d, v, n, t: d.source[n].mean((0, 1)),
    ),
    "resampled from a source": (
        lambda n, d: Ablate(n, "resampled", source=d.source, **WHERE),
        lambda d, v, n, t: d.source[n][d.others, t],
    ),
    "clamp to a number": (lambda n, d: Clamp(n, 0.25, **WHERE), lambda d, v, n, t: torch.full_like(v, 0.25)),
    "clamp units": (lambda n, d: Clamp(n, d.few, **WHERE), lambda d, v, n, t: of_units(d.few)),
    "clamp within bounds": (
        lambda n, d: Clamp(n, low=-0.1, high=0.4, **WHERE),
        lambda d, v, n, t: torch.where(v < -0.1, -0.1, torch.where(v > 0.4, 0.4, v)),
    ),
    "scale": (lambda n, d: Scale(n, -1.5, **WHERE), lambda d, v, n, t: -1.5 * v),
    "scale by a vector": (lambda n, d: Scale(n, d.row, **WHERE), lambda d, v, n, t: d.row * v),
    "push": (lambda n, d: Push(n, d.batch, **WHERE), lambda d, v, n, t: v + d.batch),
    "push units": (lambda n, d: Push(n, d.few, **WHERE), lambda d, v, n, t: v + of_units(d.few)),
    "patch": (lambda n, d: Patch(n, source=d.source, **WHERE), lambda d, v, n, t: d.source[n][:, t]),
    "apply": (
        lambda n, d: Apply(n, lambda state, t: t * state.sin() / 3 + state.flip(0), **WHERE),
        lambda d, v, n, t: t * v.sin() / 3 + v.flip(0),
    ),
}


def taken_from(edited: Tensor, candidates: Tensor) -> Tensor:
    """(B,) the row of the candidates that each row is."""
    apart = (edited.unsqueeze(1) - candidates.unsqueeze(0)).abs().amax(-1)
    assert apart.amin(1).max() < 1e-5
    return apart.argmin(1)


def others_of(edit: str, module: Any, x: Tensor, states: Any, drawn_in: Drawn) -> Tensor:
    """Which rows a resampled ablation takes, read from what it does to the whole first state that is changed."""
    source = drawn_in.source if "source" in edit else None
    name = next(iter(drawn_in.source))
    with torch.no_grad():
        with unrolled.record(module) as plain:
            module(x, states)
        ablated = Ablate(name, "resampled", source=source, steps=STEPS[0])
        with unrolled.intervene(module, ablated), unrolled.record(module) as trace:
            module(x, states)
    return taken_from(trace[name][:, STEPS[0]], (source or plain)[name][:, STEPS[0]].detach())


def changed_steps(one: Tensor, other: Tensor) -> list[int]:
    return [t for t in range(one.size(1)) if (one[:, t] - other[:, t]).abs().max() > 1e-5]


LENGTHS = torch.tensor([5, 2, 9])  # sorting them is not its own inverse


@contextmanager
def drawing_noise_in_float32(kind: Any) -> Iterator[None]:
    """The masks of a variant are the same in both dtypes."""
    noise = kind._noise

    def drawn_in_float32(self: Any, suffix: str, steps: int, batch: int, x: Tensor) -> Masks:
        masks = noise(self, suffix, steps, batch, x.float())
        return Masks(*(None if mask is None else mask.to(x.dtype) for mask in masks))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kind, "_noise", drawn_in_float32)
        yield


class Loop(nn.Module):
    """A loop over a cell as users write it."""

    def __init__(self, mode: str = "LSTM", **options: Any) -> None:
        super().__init__()
        kind, _, nonlinearity = mode.partition("_")
        if nonlinearity:
            options["nonlinearity"] = nonlinearity.lower()
        self.cell = getattr(nn, f"{kind}Cell")(I, H, **options)

    def forward(self, x: Tensor, states: Sequence[Tensor]) -> Any:
        outputs, state = [], given(states)
        for step in x:
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs), state


def layer_like(cell: Any, mode: str) -> Any:
    """The layer of torch.nn with a cell's weights, in float64."""
    layer = made(mode, dtype=torch.float64)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    return layer


def edited_at(trace: Any, name: str) -> list[int]:
    """The steps, over all calls, at which a recorded state is as `CLAMP` makes it."""
    return [t for t in range(trace[name].size(1)) if (trace[name][:, t] == 9).all()]


def clamp(name: str, steps: Any) -> Any:
    return Clamp(name, 9.0, steps=steps)


class Twice(nn.Module):
    """Calls one layer twice, on halves of a sequence."""

    def __init__(self, mode: str = "LSTM", **options: Any) -> None:
        super().__init__()
        self.lstm = made(mode, **options)

    def forward(self, x: Tensor) -> Tensor:
        first, states = self.lstm(x[:4])
        second, _ = self.lstm(x[4:], states)
        return torch.cat([first, second])


def where_changed(**places: Any) -> list[list[int]]:
    """[step, row, unit] of every number that a push of the hidden state changes, from zero weights."""
    module = made()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad(), unrolled.intervene(module, Push("l0.hidden", 1.0, **places)):
        output, _ = module(torch.zeros(T, B, I))
    return output.nonzero().tolist()


ALL_STEPS, ALL_ROWS, ALL_UNITS = list(range(T)), list(range(B)), list(range(H))


class Model(nn.Module):
    """A user's model, which knows nothing of any of this."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = made(num_layers=2, batch_first=True)
        self.decoder = nn.GRUCell(H, H)
        self.head = nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        output, (hidden, _) = self.encoder(x)
        state = hidden[-1]
        for step in output.unbind(1):
            state = self.decoder(step, state)
        return self.head(state)


def spans(edited: Sequence[int], length: int) -> list[tuple[int, int, bool]]:
    return list(pieces._spans(edited, length))


steps_of_a_sequence = st.integers(1, 40).flatmap(
    lambda length: st.tuples(st.sets(st.integers(0, length - 1)).map(sorted), st.just(length))
)


@st.composite
def calls(draw: Any) -> dict[str, Any]:
    length = draw(st.integers(1, 17))
    return {
        "mode": draw(st.sampled_from(["RNN_TANH", "RNN_RELU", "GRU", "LSTM", "LSTM_PEEPHOLE", "LSTM_COUPLED"])),
        "length": length,
        "edited": sorted(draw(st.sets(st.integers(0, length - 1), max_size=4))),
        "reverse": draw(st.booleans()),
        "lengths": draw(st.none() | st.lists(st.integers(0, length), min_size=B, max_size=B)),
        "reset": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
    }


def resampled_rows(seed: int, **options: Any) -> list[int]:
    state = torch.arange(5.0).unsqueeze(1).expand(5, H)
    cell = nn.GRUCell(I, H)
    found: list[Tensor] = []
    edits = [
        Apply("hidden", lambda value, t: state),
        Ablate("hidden", "resampled", seed=seed, **options),
        Apply("hidden", lambda value, t: found.append(value) or value),
    ]
    with torch.no_grad(), unrolled.intervene(cell, *edits):
        cell(torch.zeros(5, I))
    return found[0][:, 0].int().tolist()


def refused(message: str, *edits: Any, error: type[Exception] = ValueError, model: Any = None) -> None:
    with pytest.raises(error, match=message), unrolled.intervene(made("GRU") if model is None else model, *edits):
        raise AssertionError


def source(*shape: int) -> dict[str, Tensor]:
    return {"l0.hidden": torch.zeros(shape)}


def warned(*edits: Any, calls: int = 1, model: Any = None) -> list[str]:
    """The warnings of a context in which a layer, or a model, is called with T steps."""
    model = made(num_layers=2) if model is None else model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with unrolled.intervene(model, *edits):
            for _ in range(calls):
                model(drawn(T, B, I, dtype=torch.float32))
    assert all(warning.category is InterventionWarning and warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]
