"""intervene(): states and gates changed on the way, against a loop over the steps that is written out here."""

from __future__ import annotations

import copy
import itertools
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given as drawing
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import unrolled
from exact import MODES, VARIANTS, close, finals, wild
from unrolled import Ablate, Apply, Clamp, Patch, Push, Scale
from unrolled.interventions import InterventionWarning
from unrolled.recurrence import cpu, ops, pieces, reference
from unrolled.recurrence.cells import CELLS, Masks

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


# The loop by hand


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


# Every edit of every name

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


@dtypes
@pytest.mark.parametrize("edit", KINDS_OF_EDIT)
@every_name
def test_every_edit_of_every_name_equals_the_hand_written_loop_in_results_and_all_gradients(
    mode: str, name: str, edit: str, dtype: torch.dtype
) -> None:
    module = made(mode, bidirectional=True, dtype=dtype)
    exact = copy.deepcopy(module).double()
    make, by_hand = KINDS_OF_EDIT[edit]
    mine, theirs = Drawn(name, dtype), Drawn(name, torch.float64)
    x, exact_x = drawn(T, B, I, dtype=dtype), drawn(T, B, I)
    states, exact_states = before(module), before(exact)
    if "resampled" in edit:
        theirs.others = others_of(edit, module, x, given(states), mine)
        assert "source" in edit or not (theirs.others == torch.arange(B)).any()
    with unrolled.intervene(module, make(f"*.{name}", mine)):
        found = module(x, given(states))
    hand = Hand(exact, exact_x, exact_states, at(f"*.{name}", STEPS, partial(by_hand, theirs), units=UNITS, rows=ROWS))
    leaves = [x, *states, *module.parameters(), *mine.leaves]
    exact_leaves = [exact_x, *exact_states, *exact.parameters(), *theirs.leaves]
    agree(found, hand.result, leaves, exact_leaves, TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("edit", ["zero", "mean", "clamp units", "push", "patch"])
@every_name
def test_what_is_recorded_and_gradients_by_it_equal_the_hand_written_loop_before_at_and_after_the_edit(
    mode: str, name: str, edit: str, dtype: torch.dtype
) -> None:
    module = made(mode, bidirectional=True, batch_first=True, dtype=dtype)
    exact = copy.deepcopy(module).double()
    make, by_hand = KINDS_OF_EDIT[edit]
    x, mine, theirs = drawn(B, T, I, dtype=dtype), Drawn(name, dtype), Drawn(name, torch.float64)
    with unrolled.record(module) as trace, unrolled.intervene(module, make(f"*.{name}", mine)):
        found = module(x)
    hand = Hand(
        exact,
        x.double().transpose(0, 1),
        [torch.zeros(2, B, H).double()] * (2 if mode == "LSTM" else 1),
        at(f"*.{name}", STEPS, partial(by_hand, theirs), units=UNITS, rows=ROWS),
    )
    assert set(trace) == set(hand.nodes)
    close([trace[one] for one in trace], [hand.joined(one) for one in trace], TOLERANCE[dtype])
    loss = wild((found[0].transpose(0, 1), found[1]))
    gradients = torch.autograd.grad(loss, [trace[one] for one in trace])
    close(gradients, [hand.gradient(wild(hand.result), one) for one in trace], TOLERANCE[dtype])


# Order inside a step


@pytest.fixture
def plain_and_edited() -> Callable[..., tuple[Any, Any, Tensor, Tensor]]:
    """The traces and outputs of an LSTM without and with edits."""

    def run(*edits: Any) -> tuple[Any, Any, Tensor, Tensor]:
        module, x = made(batch_first=True), drawn(B, T, I, dtype=torch.float32)
        with unrolled.record(module, detach=True) as plain:
            output, _ = module(x)
        with unrolled.record(module, detach=True) as trace, unrolled.intervene(module, *edits):
            edited, _ = module(x)
        return plain, trace, output, edited

    return run


def changed_steps(one: Tensor, other: Tensor) -> list[int]:
    return [t for t in range(one.size(1)) if (one[:, t] - other[:, t]).abs().max() > 1e-5]


def test_an_edit_of_the_cell_is_seen_by_the_hidden_state_of_the_same_step(plain_and_edited: Any) -> None:
    plain, trace, _, output = plain_and_edited(Push("l0.cell", 1.0, steps=4))
    assert changed_steps(plain["l0.cell"], trace["l0.cell"])[0] == 4
    assert changed_steps(plain["l0.output_gate"], trace["l0.output_gate"])[0] == 5
    close(trace["l0.cell"][:, 4], plain["l0.cell"][:, 4] + 1)
    close(trace["l0.hidden"][:, 4], trace["l0.output_gate"][:, 4] * torch.tanh(plain["l0.cell"][:, 4] + 1))
    assert torch.equal(output, trace["l0.hidden"])


def test_an_edit_of_the_hidden_state_is_seen_by_the_output_of_its_step_and_by_the_next(plain_and_edited: Any) -> None:
    plain, trace, before_output, output = plain_and_edited(Push("l0.hidden", 1.0, steps=4))
    for name in NAMES["LSTM"][1:]:
        assert changed_steps(plain[f"l0.{name}"], trace[f"l0.{name}"])[0] == 5
    close(output[:, 4], before_output[:, 4] + 1)


def test_an_edit_of_a_gate_is_seen_by_the_cell_of_the_same_step(plain_and_edited: Any) -> None:
    plain, trace, _, _ = plain_and_edited(Clamp("l0.forget_gate", 0.0, steps=4))
    close(trace["l0.cell"][:, 4], plain["l0.input_gate"][:, 4] * plain["l0.candidate"][:, 4])


def test_an_edit_of_the_last_step_is_in_the_final_states(plain_and_edited: Any) -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(module, Clamp("l0.cell", 0.5, steps=T - 1)):
        output, (hidden, cell) = module(x)
    assert torch.equal(cell, torch.full_like(cell, 0.5))
    assert torch.equal(hidden[0], output[-1])


def test_edits_of_one_name_are_made_in_the_order_in_which_they_are_given() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    push, scale = Push("l0.hidden", 1.0, steps=4), Scale("l0.hidden", 2.0, steps=4)
    plain = module(x)[0][4]
    with unrolled.intervene(module, push, scale):
        close(module(x)[0][4], (plain + 1) * 2)
    with unrolled.intervene(module, scale, push):
        close(module(x)[0][4], plain * 2 + 1)


def test_nested_contexts_edit_from_the_outer_to_the_inner_and_leave_one_by_one() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    plain = module(x)[0][4]
    with unrolled.intervene(module, Push("l0.hidden", 1.0, steps=4)):
        with unrolled.intervene(module, Scale("l0.hidden", 2.0, steps=4)):
            close(module(x)[0][4], (plain + 1) * 2)
        close(module(x)[0][4], plain + 1)
    assert torch.equal(module(x)[0][4], plain)


def test_contexts_of_a_model_and_of_a_part_of_it_are_both_at_work() -> None:
    model, x = nn.Sequential(made()), drawn(T, B, I, dtype=torch.float32)
    plain = model(x)[0]
    with (
        unrolled.intervene(model, Push("0.l0.hidden", 1.0, steps=8)),
        unrolled.intervene(model[0], Scale("l0.hidden", 2.0, steps=8)),
    ):
        close(model(x)[0][8], (plain[8] + 1) * 2)


@pytest.mark.parametrize("inside", [False, True])
def test_a_record_inside_or_outside_shows_what_the_step_goes_on_with(inside: bool) -> None:
    module, x = made(batch_first=True), drawn(B, T, I, dtype=torch.float32)
    edit = unrolled.intervene(module, Clamp("*.cell", 0.5, steps=[0, 6]))
    record = unrolled.record(module)
    with edit if inside else record as first, record if inside else edit as second:
        output, _ = module(x)
    trace = second if inside else first
    assert torch.equal(trace["l0.cell"][:, [0, 6]], torch.full((B, 2, H), 0.5))
    assert torch.equal(trace["l0.hidden"], output)
    assert not (trace["l0.cell"][:, 5] == 0.5).any()


# Options of the layers


@dtypes
@every_mode
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_stack_of_layers_equals_the_hand_written_one(
    mode: str, bidirectional: bool, batch_first: bool, dtype: torch.dtype
) -> None:
    module = made(mode, num_layers=2, bidirectional=bidirectional, batch_first=batch_first, dtype=dtype)
    exact = copy.deepcopy(module).double()
    x, exact_x = (drawn(T, B, I, dtype=one) for one in (dtype, torch.float64))
    push, exact_push = (drawn(H, seed=5, dtype=one) for one in (dtype, torch.float64))
    states, exact_states = before(module), before(exact)
    name = NAMES[mode][-1]
    edits = [Push("l0.hidden", push, steps=0), Scale(f"l1*.{name}", push, steps=[4, 8], rows=1)]
    change = both(
        at("l0.hidden", [0], lambda v, n, t: v + exact_push),
        at(f"l1*.{name}", [4, 8], lambda v, n, t: v * exact_push, rows=[1]),
    )
    with unrolled.intervene(module, *edits):
        output, final = module(x.transpose(0, 1) if batch_first else x, given(states))
    found = (output.transpose(0, 1) if batch_first else output, final)
    agree(
        found,
        Hand(exact, exact_x, exact_states, change).result,
        [x, push, *states, *module.parameters()],
        [exact_x, exact_push, *exact_states, *exact.parameters()],
        TOLERANCE[dtype],
    )


@dtypes
@every_mode
@pytest.mark.parametrize("bias", [False, True])
def test_one_sequence_without_a_batch_is_a_batch_of_one(mode: str, bias: bool, dtype: torch.dtype) -> None:
    module = made(mode, bias=bias, dtype=dtype)
    exact, x, exact_x = copy.deepcopy(module).double(), drawn(T, I, dtype=dtype), drawn(T, I)
    with unrolled.intervene(module, Push("*.hidden", 0.5, steps=4, rows=0)):
        output, final = module(x)
    zeros = [torch.zeros(1, 1, H).double()] * (2 if mode == "LSTM" else 1)
    hand = Hand(exact, exact_x.unsqueeze(1), zeros, at("*.hidden", [4], lambda v, n, t: v + 0.5))
    states = final if isinstance(final, tuple) else (final,)
    agree(
        (output.unsqueeze(1), given([s.unsqueeze(1) for s in states])),
        hand.result,
        [x, *module.parameters()],
        [exact_x, *exact.parameters()],
        TOLERANCE[dtype],
    )


@dtypes
@pytest.mark.parametrize("name", NAMES["LSTM"])
def test_a_projected_lstm_equals_the_hand_written_one(name: str, dtype: torch.dtype) -> None:
    module = made(proj_size=2, bidirectional=True, dtype=dtype)
    exact, x, exact_x = copy.deepcopy(module).double(), drawn(T, B, I, dtype=dtype), drawn(T, B, I)
    width = 2 if name == "hidden" else H
    push, exact_push = (drawn(width, seed=5, dtype=one) for one in (dtype, torch.float64))
    states, exact_states = before(module), before(exact)
    with unrolled.intervene(module, Push(f"*.{name}", push, steps=[4])):
        found = module(x, states)
    agree(
        found,
        Hand(exact, exact_x, exact_states, at(f"*.{name}", [4], lambda v, n, t: v + exact_push)).result,
        [x, push, *states, *module.parameters()],
        [exact_x, exact_push, *exact_states, *exact.parameters()],
        TOLERANCE[dtype],
    )


LENGTHS = torch.tensor([5, 2, 9])  # sorting them is not its own inverse


@dtypes
@every_name
@pytest.mark.parametrize("packed", [False, True])
def test_sequences_of_unequal_length_are_edited_as_each_alone(
    mode: str, name: str, packed: bool, dtype: torch.dtype
) -> None:
    module = made(mode, bidirectional=True, num_layers=2, dtype=dtype)
    exact = copy.deepcopy(module).double()
    x, exact_x = drawn(T, B, I, dtype=dtype), drawn(T, B, I)
    push, exact_push = (drawn(B, H, seed=5, dtype=one) for one in (dtype, torch.float64))
    states, exact_states = before(module), before(exact)
    steps = [1, 4, 8]
    edit = Push(f"*.{name}", push, steps=steps, rows=[0, 2])
    if packed:
        with unrolled.intervene(module, edit), unrolled.record(module) as trace:
            output, final = module(pack_padded_sequence(x, LENGTHS, enforce_sorted=False), given(states))
        output = pad_packed_sequence(output)[0]
    else:
        unrolled.convert(module)
        with unrolled.intervene(module, edit), unrolled.record(module) as trace:
            output, final = module(x, given(states), lengths=LENGTHS)
    found, values = (output, final), [trace[f"l1.{name}"], trace[f"l0_reverse.{name}"]]
    rows: list[list[Tensor]] = []
    for row, length in enumerate(LENGTHS.tolist()):

        def how(v: Tensor, n: str, t: int, row: int = row) -> Tensor:
            return v + exact_push[row] if row in (0, 2) else v

        alone = [s[:, row : row + 1] for s in exact_states]
        hand = Hand(exact, exact_x[:length, row : row + 1], alone, at(f"*.{name}", steps, how))
        fill = (0, 0, 0, 0, 0, T - length)
        seen = [
            nn.functional.pad(hand.joined(one).transpose(0, 1), fill) for one in (f"l1.{name}", f"l0_reverse.{name}")
        ]
        rows.append([nn.functional.pad(hand.result[0], fill), *finals(hand.result), *seen])
    output, *ends, one, other = (torch.cat(parts, 1) for parts in zip(*rows, strict=True))
    close(values, [one.transpose(0, 1), other.transpose(0, 1)], TOLERANCE[dtype])
    agree(
        found,
        (output, given(ends)),
        [x, push, *states, *module.parameters()],
        [exact_x, exact_push, *exact_states, *exact.parameters()],
        TOLERANCE[dtype],
    )


@dtypes
@every_mode
def test_resets_and_edits_of_the_same_and_other_steps(mode: str, dtype: torch.dtype) -> None:
    module = unrolled.convert(made(mode, num_layers=2, dtype=dtype))
    exact = copy.deepcopy(module).double()
    x, exact_x = drawn(T, B, I, dtype=dtype), drawn(T, B, I)
    reset = torch.zeros(T, B, dtype=torch.bool)
    for t, b in [(0, 1), (3, 0), (4, 0), (5, 2), (5, 1), (8, 0)]:
        reset[t, b] = True
    states, exact_states = before(module), before(exact)
    with unrolled.intervene(module, Push("*.hidden", 0.5, steps=[4])):
        found = module(x, given(states), reset=reset)
    agree(
        found,
        Hand(exact, exact_x, exact_states, at("*.hidden", [4], lambda v, n, t: v + 0.5), reset).result,
        [x, *states, *module.parameters()],
        [exact_x, *exact_states, *exact.parameters()],
        TOLERANCE[dtype],
    )


@every_mode
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_edited_in_float32_inside(mode: str, dtype: torch.dtype) -> None:
    module = made(mode, bidirectional=True).to(dtype)
    single, x = copy.deepcopy(module).float(), drawn(T, B, I, dtype=dtype, grad=False)
    seen: list[torch.dtype] = []
    edit = Apply("*.hidden", lambda state, t: seen.append(state.dtype) or state * 1.5, steps=4)
    with unrolled.intervene(module, edit):
        output, _ = module(x)
    with unrolled.intervene(single, edit):
        wanted, _ = single(x.float())
    assert set(seen) == {torch.float32}
    assert torch.equal(output, wanted.to(dtype))


def test_under_autocast_edits_are_made_in_float32_and_the_outputs_are_halves() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    edit = Push("l0.cell", drawn(H, dtype=torch.float64), steps=4)
    with unrolled.intervene(module, edit):
        wanted, _ = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, _ = module(x)
    assert output.dtype is torch.bfloat16
    close(output, wanted, 0.01)


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
@every_mode
def test_without_gradients_the_results_are_the_same(mode: str, without: Any) -> None:
    module, x = made(mode), drawn(T, B, I, dtype=torch.float32)
    for layer in (module, unrolled.convert(copy.deepcopy(module))):
        with unrolled.intervene(layer, Push("*.hidden", 0.5, steps=4)):
            wanted = layer(x)
            with without():
                found = layer(x)
        assert not found[0].requires_grad
        close([found[0], *finals(found)], [wanted[0], *finals(wanted)])


def test_dropout_between_layers_draws_the_same_numbers_when_edited() -> None:
    module, x = made(num_layers=2, dropout=0.5).train(), drawn(T, B, I, dtype=torch.float32)
    torch.manual_seed(1)
    plain, _ = module(x)
    torch.manual_seed(1)
    with unrolled.intervene(module, Scale("l0.cell", 1.0, steps=4)):
        close(module(x)[0], plain)


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


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_a_variant_in_pieces_equals_its_reference_under_the_same_seed(kind: str, training: bool) -> None:
    module = getattr(unrolled, kind)(I, H, 2, bidirectional=True).train(training)
    states, x = (drawn(4, B, H, seed=1), drawn(4, B, H, seed=2)), drawn(T, B, I)
    vector = drawn(H, seed=3)
    for name in CELLS[module.mode].names:
        found = []
        for one, backend in ((module, "cpu"), (copy.deepcopy(module).double(), "reference")):
            dtype = one.weight_ih_l0.dtype
            leaves = [t.detach().to(dtype).requires_grad_() for t in (x, vector, *states)]
            edit = Push(f"*.{name}", leaves[1], steps=[4], units=slice(1, 4), rows=[0, 2])
            torch.manual_seed(5)
            if cpu.missing() is not None:
                backend = "reference"
            with drawing_noise_in_float32(type(one)), unrolled.backend(backend), unrolled.intervene(one, edit):
                result = one(leaves[0], (leaves[2], leaves[3]))
            gradients = torch.autograd.grad(wild(result), [*leaves, *one.parameters()], materialize_grads=True)
            found.append([result[0], *result[1], *gradients])
        # What is nearly constant is normalised by a small number, which makes much of a rounding, edited or not.
        close(found[0], found[1], 2e-3 if kind == "LayerNormLSTM" else 1e-4)


# Cells in a user's loop


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


@dtypes
@pytest.mark.parametrize("edit", ["zero", "mean", "clamp units", "scale", "push", "patch"])
@every_name
def test_a_cell_in_a_users_loop_equals_the_hand_written_loop(
    mode: str, name: str, edit: str, dtype: torch.dtype
) -> None:
    model = Loop(mode, dtype=dtype)
    exact = layer_like(model.cell, mode)
    make, by_hand = KINDS_OF_EDIT[edit]
    mine, theirs = Drawn(name, dtype), Drawn(name, torch.float64)
    mine.source = {f"cell.{name}": mine.source[f"l0.{name}"]}
    x, exact_x = drawn(T, B, I, dtype=dtype), drawn(T, B, I)
    count = 2 if mode == "LSTM" else 1
    states = [drawn(B, H, seed=1 + i, dtype=dtype) for i in range(count)]
    exact_states = [drawn(B, H, seed=1 + i) for i in range(count)]
    with unrolled.intervene(model, make(f"cell.{name}", mine)):
        found = model(x, states)
    hand = Hand(
        exact,
        exact_x,
        [s.unsqueeze(0) for s in exact_states],
        at(f"l0.{name}", STEPS, partial(by_hand, theirs), units=UNITS, rows=ROWS),
    )
    output, final = hand.result
    agree(
        found,
        (output, given([s[0] for s in finals((output, final))])),
        [x, *states, *model.cell.parameters(), mine.few, mine.row, mine.batch, *mine.source.values()],
        [exact_x, *exact_states, *exact.parameters(), *theirs.leaves[:4]],
        TOLERANCE[dtype],
    )


def test_a_cell_is_recorded_as_it_is_edited_and_gradients_by_its_states_are_found() -> None:
    model = Loop(dtype=torch.float64)
    exact, x, states = layer_like(model.cell, "LSTM"), drawn(T, B, I), [drawn(B, H, seed=1), drawn(B, H, seed=2)]
    with unrolled.intervene(model, Clamp("cell.cell", 0.3, steps=4)), unrolled.record(model) as trace:
        result = model(x, states)
    hand = Hand(exact, x, [s.unsqueeze(0) for s in states], at("l0.cell", [4], lambda v, n, t: torch.full_like(v, 0.3)))
    output, final = hand.result
    gradients = torch.autograd.grad(wild(result), [trace[one] for one in trace])
    loss = wild((output, given([s[0] for s in finals((output, final))])))
    close(gradients, [hand.gradient(loss, one.replace("cell.", "l0.", 1)) for one in trace])


def test_one_sequence_without_a_batch_goes_through_an_edited_cell() -> None:
    cell, x = nn.GRUCell(I, H), drawn(I, dtype=torch.float32)
    with unrolled.intervene(cell, Push("hidden", 1.0, units=2)):
        edited = cell(x)
    wanted = cell(x).clone()
    wanted[2] += 1
    close(edited, wanted)


@pytest.mark.parametrize("edit", [Clamp("cell.hidden", 0.5), Clamp("cell.hidden", torch.full((B, H), 0.5))])
def test_states_that_were_edited_can_be_changed_in_place_by_the_user(edit: Any) -> None:
    model = Loop("GRU")
    with torch.no_grad(), unrolled.intervene(model, edit):
        _, state = model(drawn(T, B, I, dtype=torch.float32), [torch.zeros(B, H)])
    state[0, 0] = 7.0
    assert state[0].tolist() == [7.0, 0.5, 0.5, 0.5, 0.5]
    assert (state[1:] == 0.5).all()
    assert not isinstance(edit.value, Tensor) or (edit.value == 0.5).all()


# Counting steps


def edited_at(trace: Any, name: str) -> list[int]:
    """The steps, over all calls, at which a recorded state is as `CLAMP` makes it."""
    return [t for t in range(trace[name].size(1)) if (trace[name][:, t] == 9).all()]


def clamp(name: str, steps: Any) -> Any:
    return Clamp(name, 9.0, steps=steps)


def test_steps_begin_at_0_with_every_call_of_the_model() -> None:
    model, x = nn.Sequential(made()), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(model, clamp("0.l0.cell", 3)), unrolled.record(model) as trace:
        model(x)
        model(x)
    assert edited_at(trace, "0.l0.cell") == [3, T + 3]


def test_steps_are_counted_over_the_calls_of_a_cell_within_one_call_of_the_model() -> None:
    model, x = Loop("GRU"), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(model, clamp("cell.hidden", [0, 7])), unrolled.record(model) as trace:
        model(x, [torch.zeros(B, H)])
        model(x, [torch.zeros(B, H)])
    assert edited_at(trace, "cell.hidden") == [0, 7, T, T + 7]


class Twice(nn.Module):
    """Calls one layer twice, on halves of a sequence."""

    def __init__(self, mode: str = "LSTM", **options: Any) -> None:
        super().__init__()
        self.lstm = made(mode, **options)

    def forward(self, x: Tensor) -> Tensor:
        first, states = self.lstm(x[:4])
        second, _ = self.lstm(x[4:], states)
        return torch.cat([first, second])


@pytest.mark.parametrize("steps", [0, 3, 4, 8, [3, 4], slice(2, 6), slice(1, None, 3)])
def test_steps_are_counted_over_the_calls_of_a_layer_within_one_call_of_the_model(steps: Any) -> None:
    model, x = Twice(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(model, Push("lstm.l0.cell", 1.0, steps=steps)):
        found = model(x)
    with unrolled.intervene(model.lstm, Push("l0.cell", 1.0, steps=steps)):
        wanted, _ = model.lstm(x)
    close(found, wanted)
    assert changed_steps(found.transpose(0, 1), model(x).transpose(0, 1))


def test_a_bare_layer_goes_on_from_the_call_before_where_it_is_given_states() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(module, clamp("l0.cell", 5)), unrolled.record(module) as trace:
        for sequence in (x, 2 * x):
            states = None
            for piece in sequence.split(3):
                _, states = module(piece, states)
        for piece in x.split(3):
            states = None if piece.data_ptr() == x.data_ptr() else states
            _, states = module(piece, hx=states)
    assert edited_at(trace, "l0.cell") == [5, T + 5, 2 * T + 5]


def test_a_bare_layer_that_is_given_no_states_begins_anew() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(module, clamp("l0.cell", 5)), unrolled.record(module) as trace:
        module(x)
        module(x, None)
        module(x, hx=None)
    assert edited_at(trace, "l0.cell") == [5, T + 5, 2 * T + 5]


@every_mode
def test_a_bare_cell_goes_on_where_it_is_given_states(mode: str) -> None:
    cell, x = Loop(mode).cell, drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(cell, clamp("hidden", [0, 2])), unrolled.record(cell) as trace:
        for _ in range(2):
            state = None
            for step in x[:4]:
                state = cell(step, state)
    assert edited_at(trace, "hidden") == [0, 2, 4, 6]


def test_a_part_that_is_called_without_its_model_goes_on_counting() -> None:
    model, x = nn.ModuleDict({"lstm": made()}), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(model, clamp("lstm.l0.cell", [3, T + 2])), unrolled.record(model) as trace:
        model["lstm"](x)
        model["lstm"](x)
    assert edited_at(trace, "lstm.l0.cell") == [3, T + 2]


def test_steps_of_the_backward_direction_are_those_of_the_sequence() -> None:
    module, x = made(bidirectional=True), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(module, clamp("*.cell", 2)), unrolled.record(module) as trace:
        module(x)
    assert edited_at(trace, "l0.cell") == edited_at(trace, "l0_reverse.cell") == [2]


# Where


def where_changed(**places: Any) -> list[list[int]]:
    """[step, row, unit] of every number that a push of the hidden state changes, from zero weights."""
    module = made()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad(), unrolled.intervene(module, Push("l0.hidden", 1.0, **places)):
        output, _ = module(torch.zeros(T, B, I))
    return output.nonzero().tolist()


ALL_STEPS, ALL_ROWS, ALL_UNITS = list(range(T)), list(range(B)), list(range(H))


@pytest.mark.parametrize(
    ("steps", "meant"),
    [
        (None, ALL_STEPS),
        (0, [0]),
        (T - 1, [8]),
        ([7, 2, 2], [2, 7]),
        ((1, 2), [1, 2]),
        (range(3, 6), [3, 4, 5]),
        (slice(None), ALL_STEPS),
        (slice(6, None), [6, 7, 8]),
        (slice(None, 2), [0, 1]),
        (slice(1, 8, 3), [1, 4, 7]),
        (slice(7, 100), [7, 8]),
        (torch.tensor([4, 5]), [4, 5]),
        (torch.tensor(4), [4]),
    ],
)
def test_steps_are_a_number_several_or_a_slice(steps: Any, meant: list[int]) -> None:
    assert where_changed(steps=steps, rows=1, units=2) == [[t, 1, 2] for t in meant]


@pytest.mark.parametrize(
    ("places", "meant"),
    [
        (None, [0, 1, 2]),
        (1, [1]),
        (-1, [2]),
        ([2, 0], [0, 2]),
        ((1,), [1]),
        (range(1, 3), [1, 2]),
        (slice(1, None), [1, 2]),
        (slice(None, -1), [0, 1]),
        ([True, False, True], [0, 2]),
        (torch.tensor([False, True, False]), [1]),
        (torch.tensor([0, 1]), [0, 1]),
        (torch.tensor(2), [2]),
        ([], []),
    ],
)
def test_rows_are_a_number_several_a_slice_or_a_mask(places: Any, meant: list[int]) -> None:
    assert where_changed(steps=4, rows=places, units=0) == [[4, row, 0] for row in meant]


@pytest.mark.parametrize(
    ("places", "meant"),
    [
        (None, ALL_UNITS),
        (3, [3]),
        (-2, [3]),
        ([4, 1], [1, 4]),
        (range(0, 5, 2), [0, 2, 4]),
        (slice(3, None), [3, 4]),
        ([True, False, False, False, True], [0, 4]),
        (torch.arange(H) > 2, [3, 4]),
        (torch.tensor(1), [1]),
    ],
)
def test_units_are_a_number_several_a_slice_or_a_mask(places: Any, meant: list[int]) -> None:
    assert where_changed(steps=4, rows=0, units=places) == [[4, 0, unit] for unit in meant]


@pytest.mark.parametrize("units", [[3, 0], slice(0, 4, 3), torch.tensor([True, False, False, True, False]), (3, -5)])
def test_one_number_for_each_of_the_chosen_units_is_in_their_order(units: Any) -> None:
    module = made("GRU")
    first, second = (5.0, 4.0) if isinstance(units, list | tuple) else (4.0, 5.0)
    for edit in (Clamp("l0.hidden", [first, second], units=units, steps=8), Clamp("l0.hidden", 4.0, units=0, steps=8)):
        with unrolled.intervene(module, edit):
            output, _ = module(torch.zeros(T, B, I))
        assert (output[8, :, 0] == 4).all()
    with unrolled.intervene(module, Clamp("l0.hidden", torch.tensor([[first, second]] * B), units=units, steps=8)):
        output, _ = module(torch.zeros(T, B, I))
    assert (output[8, :, 3] == 5).all()
    assert (output[8].abs() < 1)[:, [1, 2, 4]].all()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.cell", ["l0.cell", "l0_reverse.cell", "l1.cell", "l1_reverse.cell"]),
        ("l1.*", [f"l1.{name}" for name in NAMES["LSTM"]]),
        ("l?_reverse.*_gate", [f"l{i}_reverse.{gate}_gate" for i in (0, 1) for gate in ("input", "forget", "output")]),
        ("l0.candidate", ["l0.candidate"]),
        ("*", [f"l{i}{way}.{name}" for i in (0, 1) for way in ("", "_reverse") for name in NAMES["LSTM"]]),
    ],
)
def test_a_pattern_stands_for_every_name_that_it_matches(pattern: str, names: list[str]) -> None:
    module = made(num_layers=2, bidirectional=True)
    with unrolled.intervene(module, clamp(pattern, 4)), unrolled.record(module) as trace:
        module(drawn(T, B, I, dtype=torch.float32))
    assert [name for name in trace if edited_at(trace, name) == [4]] == names


def test_layers_that_no_edit_names_keep_their_class_inside_the_context() -> None:
    model = nn.ModuleDict({"a": made(), "b": made("GRU")})
    with unrolled.intervene(model, Scale("a.*", 1.0)):
        assert [type(model[name]) for name in "ab"] == [unrolled.LSTM, nn.GRU]
        model["a"](drawn(T, B, I, dtype=torch.float32))


# The model is left as it was


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


def test_a_users_model_is_edited_inside_the_context_and_as_it_was_after_it() -> None:
    model, x = Model(), drawn(B, T, I, dtype=torch.float32)
    plain = model(x)
    kept = [(type(module), dict(module.__dict__)) for module in model.modules()]
    with unrolled.intervene(model, Ablate("encoder.l1.cell", steps=8), Scale("decoder.hidden", 0.5, steps=2)):
        assert isinstance(model.encoder, nn.LSTM)
        assert (model(x) - plain).abs().max() > 1e-3
    assert [(type(module), dict(module.__dict__)) for module in model.modules()] == kept
    assert not model._forward_pre_hooks
    assert torch.equal(model(x), plain)


def test_a_users_model_is_as_it_was_after_an_exception_which_is_what_is_raised() -> None:
    model, x = Model(), drawn(B, T, I, dtype=torch.float32)
    plain = model(x)

    def fails(state: Tensor, t: int) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), unrolled.intervene(model, Apply("encoder.l1.cell", fails, steps=5)):
        model(x)
    with pytest.raises(KeyError), unrolled.intervene(model, Ablate("encoder.l1.cell", steps=100)):
        raise KeyError
    assert [type(module) for module in (model, model.encoder, model.decoder)] == [Model, nn.LSTM, nn.GRUCell]
    assert not model._forward_pre_hooks
    assert torch.equal(model(x), plain)


def test_edits_that_change_nothing_leave_the_outputs_near_torchs() -> None:
    model, x = Model(), drawn(B, T, I, dtype=torch.float32)
    plain = model(x)
    with unrolled.intervene(model, Scale("*", 1.0)):
        close(model(x), plain, 1e-6)
    with unrolled.intervene(model):
        assert torch.equal(model(x), plain)


def test_a_users_subclass_is_edited_through_its_own_forward() -> None:
    class Doubling(nn.LSTM):
        def forward(self, input: Tensor, hx: Any = None) -> Any:
            output, states = super().forward(2 * input, hx)
            return output + 1, states

    module, x = Doubling(I, H), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(module, clamp("l0.hidden", 4)):
        output, _ = module(x)
    assert (output[4] == 10).all()
    assert type(module) is Doubling


def test_another_thread_is_not_edited() -> None:
    module, x, found = made(), drawn(T, B, I, dtype=torch.float32), []
    plain, _ = module(x)
    with unrolled.intervene(module, Push("l0.cell", 1.0, steps=4)):
        thread = threading.Thread(target=lambda: found.append(module(x)[0]))
        thread.start()
        thread.join()
        edited, _ = module(x)
    close(found[0], plain, 1e-6)
    assert (edited - plain).abs().max() > 0.01


def test_a_compiled_model_is_edited_too() -> None:
    model, x = Model(), drawn(B, T, I, dtype=torch.float32)
    compiled = torch.compile(model, backend="eager")
    plain = compiled(x)
    with unrolled.intervene(model, Ablate("encoder.l1.hidden", steps=8)):
        wanted = model(x)
        assert torch.equal(compiled(x), wanted)
        assert torch.equal(compiled(x), wanted)
    with unrolled.intervene(compiled, Ablate("*.encoder.l1.hidden", steps=8)):
        assert torch.equal(compiled(x), wanted)
    assert (wanted - plain).abs().max() > 1e-4
    close(compiled(x), plain, 1e-6)


def test_steps_of_a_compiled_bare_layer_are_counted_as_those_of_the_layer() -> None:
    module, x = unrolled.LSTM(I, H), drawn(T, B, I, dtype=torch.float32)
    compiled = torch.compile(module, backend="eager")
    with unrolled.intervene(compiled, clamp("*.l0.cell", 5)), unrolled.record(module) as trace:
        _, states = compiled(x[:3])
        compiled(x[3:], states)
    assert edited_at(trace, "l0.cell") == [5]


# Pieces


def spans(edited: Sequence[int], length: int) -> list[tuple[int, int, bool]]:
    return list(pieces._spans(edited, length))


@pytest.mark.parametrize(
    ("edited", "length", "wanted"),
    [
        ([], 5, [(0, 5, False)]),
        ([0], 1, [(0, 1, True)]),
        ([0], 9, [(0, 1, True), (1, 9, False)]),
        ([8], 9, [(0, 8, False), (8, 9, True)]),
        ([4], 9, [(0, 4, False), (4, 5, True), (5, 9, False)]),
        ([2], 9, [(0, 3, True), (3, 9, False)]),
        ([3], 9, [(0, 3, False), (3, 4, True), (4, 9, False)]),
        ([6], 9, [(0, 6, False), (6, 9, True)]),
        ([5], 9, [(0, 5, False), (5, 6, True), (6, 9, False)]),
        ([10, 11], 30, [(0, 10, False), (10, 12, True), (12, 30, False)]),
        ([10, 13], 30, [(0, 10, False), (10, 14, True), (14, 30, False)]),
        ([10, 14], 30, [(0, 10, False), (10, 11, True), (11, 14, False), (14, 15, True), (15, 30, False)]),
        (list(range(9)), 9, [(0, 9, True)]),
    ],
)
def test_the_reference_takes_edited_steps_and_gaps_too_short_for_a_call(
    edited: list[int], length: int, wanted: list[tuple[int, int, bool]]
) -> None:
    assert spans(edited, length) == wanted


steps_of_a_sequence = st.integers(1, 40).flatmap(
    lambda length: st.tuples(st.sets(st.integers(0, length - 1)).map(sorted), st.just(length))
)


@drawing(steps_of_a_sequence)
def test_pieces_cover_the_sequence_in_turns_and_hold_every_edited_step(case: tuple[list[int], int]) -> None:
    edited, length = case
    found = spans(edited, length)
    assert [first for first, _, _ in found] + [length] == [0, *(end for _, end, _ in found)]
    assert all(first < end for first, end, _ in found)
    assert all(one[2] != other[2] for one, other in itertools.pairwise(found))
    by_reference = {t for first, end, changes in found if changes for t in range(first, end)}
    assert by_reference >= set(edited)
    for first, end, changes in found:
        if changes:
            assert any(first <= t < end for t in edited)
        else:
            assert end - first >= pieces._WORTH_A_CALL or length == end - first
    for t in by_reference - set(edited):
        assert any(abs(t - other) < pieces._WORTH_A_CALL + 1 for other in edited)


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


@settings(max_examples=60)
@drawing(calls())
def test_pieces_of_a_call_equal_the_reference_in_values_and_gradients(case: dict[str, Any]) -> None:
    cell, length = CELLS[case["mode"]], case["length"]
    if cpu.missing() is not None:
        pytest.skip("the kernels were not built")
    kind = {"LSTM_PEEPHOLE": "PeepholeLSTM", "LSTM_COUPLED": "CoupledLSTM"}.get(case["mode"])
    module = getattr(unrolled, kind)(I, H) if kind else unrolled.convert(made(case["mode"]))
    names = list(cell.names)
    reset = torch.rand(length, B, generator=torch.Generator().manual_seed(case["seed"])) < 0.2

    def run(dtype: torch.dtype) -> list[Tensor]:
        from unrolled.structure import weights_of

        layer = copy.deepcopy(module).to(dtype)
        x = drawn(length, B, I, dtype=dtype, seed=case["seed"])
        states = tuple(drawn(B, H, dtype=dtype, seed=1 + i) for i in range(len(cell.states)))
        vector = drawn(H, dtype=dtype, seed=3)

        def edit(t: int, name: str, value: Tensor) -> Tensor:
            return value + (1 + names.index(name)) * vector / 9 if t in case["edited"] else value

        way: Any = partial(reference.unroll, cell)
        if dtype is torch.float32:
            way = partial(pieces.unroll, partial(ops.unroll, case["mode"]), cell, edited=case["edited"])
        lengths = None if case["lengths"] is None else torch.tensor(case["lengths"])
        options = {"reverse": case["reverse"], "lengths": lengths, "reset": reset if case["reset"] else None}
        result = way(x, states, weights_of(layer, "l0"), edit=edit, keep=names, **options)
        assert list(result.steps) == names
        inside = torch.ones(length, B, dtype=torch.bool)
        if lengths is not None:
            inside = torch.arange(length).unsqueeze(1) < lengths
        kept = [result.steps[name].values.masked_fill(~inside.unsqueeze(-1), 0) for name in names]
        loss = sum((tensor.pow(3) + tensor).sum() for tensor in (result.output, *result.final, *kept))
        gradients = torch.autograd.grad(loss, [x, *states, vector, *layer.parameters()], materialize_grads=True)
        return [result.output, *result.final, *kept, *gradients]

    found, wanted = run(torch.float32), run(torch.float64)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Who took how many steps, call by call."""
    if cpu.missing() is not None:
        pytest.skip("the kernels were not built")
    calls: list[tuple[str, int]] = []
    by_kernels, by_reference = ops.unroll, reference.unroll

    def fused(mode: str, x: Tensor, *args: Any, **options: Any) -> Any:
        calls.append(("kernels", len(x)))
        return by_kernels(mode, x, *args, **options)

    def plain(cell: Any, x: Tensor, *args: Any, **options: Any) -> Any:
        calls.append(("reference", len(x)))
        return by_reference(cell, x, *args, **options)

    monkeypatch.setattr(ops, "unroll", fused)
    monkeypatch.setattr(reference, "unroll", plain)
    return calls


@every_mode
def test_only_the_edited_step_of_a_long_sequence_is_taken_by_the_reference(
    mode: str, taken: list[tuple[str, int]]
) -> None:
    module, x = made(mode), drawn(1000, B, I, dtype=torch.float32)
    with unrolled.intervene(module, Ablate("*.hidden", steps=[400, 800])), unrolled.record(module):
        wild(module(x)).backward()
    assert taken == [("kernels", 400), ("reference", 1), ("kernels", 399), ("reference", 1), ("kernels", 199)]


def test_the_backward_direction_is_taken_from_its_end(taken: list[tuple[str, int]]) -> None:
    module, x = made(bidirectional=True), drawn(100, B, I, dtype=torch.float32)
    with unrolled.intervene(module, Ablate("*_reverse.hidden", steps=30)):
        module(x)
    assert taken == [("kernels", 100), ("kernels", 69), ("reference", 1), ("kernels", 30)]


def test_layers_and_calls_that_are_not_edited_are_taken_by_the_kernels_alone(taken: list[tuple[str, int]]) -> None:
    model, x = Twice(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(model, Ablate("lstm.l0.hidden", steps=[8])):
        model(x)
    assert taken == [("kernels", 4), ("kernels", 4), ("reference", 1)]


def test_steps_that_no_edit_reaches_are_never_shown_to_it() -> None:
    module, seen = made(), []
    edit = Apply("l0.hidden", lambda state, t: seen.append(t) or state, steps=[3, 5])
    with unrolled.intervene(module, edit):
        module(drawn(T, B, I, dtype=torch.float32))
    assert seen == [3, 5]


# Gradients by recorded states


@dtypes
@every_mode
def test_gradients_by_recorded_states_do_not_cross_a_state_that_is_wholly_clamped(
    mode: str, dtype: torch.dtype
) -> None:
    module, x = made(mode, batch_first=True, dtype=dtype), drawn(B, T, I, dtype=dtype)
    names = ["l0.hidden", "l0.cell"] if mode == "LSTM" else ["l0.hidden"]
    edits = [Clamp(name, 0.3, steps=4) for name in names]
    with unrolled.intervene(module, *edits), unrolled.record(module) as trace:
        output, _ = module(x)
    for name, gradient in zip(names, torch.autograd.grad(output[:, -1].sum(), [trace[n] for n in names]), strict=True):
        assert not gradient[:, :4].any()
        assert gradient[:, 4].abs().max() > 0, name
        assert gradient[:, 5:].abs().sum((0, 2)).gt(0)[-1 if name == "l0.hidden" else 0]


@dtypes
@pytest.mark.parametrize("part", [lambda s: s[:, 4], lambda s: s[1, 3:6], lambda s: s[:, 5:, [2, 0]]])
def test_gradient_by_an_indexed_part_of_an_edited_state_is_that_part(part: Any, dtype: torch.dtype) -> None:
    module, x = made(batch_first=True, dtype=dtype), drawn(B, T, I, dtype=dtype)
    with unrolled.intervene(module, Scale("l0.cell", 2.0, steps=4)), unrolled.record(module) as trace:
        output, _ = module(x)
    (whole,) = torch.autograd.grad(output.pow(3).sum(), trace["l0.cell"], retain_graph=True)
    (found,) = torch.autograd.grad(output.pow(3).sum(), part(trace["l0.cell"]))
    assert torch.equal(found, part(whole))


@dtypes
@every_mode
def test_frozen_weights_and_a_pushed_vector_alone_that_wants_a_gradient(mode: str, dtype: torch.dtype) -> None:
    module = made(mode, batch_first=True, bidirectional=True, dtype=dtype).requires_grad_(False)
    exact, x = copy.deepcopy(module).double(), drawn(B, T, I, dtype=dtype, grad=False)
    push, exact_push = drawn(H, seed=5, dtype=dtype), drawn(H, seed=5)
    with unrolled.intervene(module, Push("*.hidden", push, steps=4)), unrolled.record(module) as trace:
        output, _ = module(x)
    hand = Hand(
        exact,
        x.double().transpose(0, 1),
        [torch.zeros(2, B, H).double()] * (2 if mode == "LSTM" else 1),
        at("*.hidden", [4], lambda v, n, t: v + exact_push),
    )
    wanted_loss = hand.result[0].pow(3).sum()
    loss = output.pow(3).sum()
    by_push, *gradients = torch.autograd.grad(loss, [push, *(trace[name] for name in trace)])
    (wanted,) = torch.autograd.grad(wanted_loss, exact_push, retain_graph=True)
    close(by_push, wanted, TOLERANCE[dtype])
    for name, gradient in zip(trace, gradients, strict=True):
        nodes = hand.nodes[name]
        reached = [t for t, node in enumerate(nodes) if node.requires_grad]
        assert set(reached) | {4} == set(range(5) if "reverse" in name else range(4, T))
        by_hand = torch.autograd.grad(wanted_loss, [nodes[t] for t in reached], retain_graph=True)
        close(gradient[:, reached], torch.stack(by_hand, dim=1), TOLERANCE[dtype])
        assert not gradient[:, [t for t in range(T) if t not in reached]].any()


@dtypes
@every_mode
def test_frozen_weights_and_an_edit_in_the_second_call_of_a_layer(mode: str, dtype: torch.dtype) -> None:
    model, x = Twice(mode, dtype=dtype).requires_grad_(False), drawn(T, B, I, dtype=dtype, grad=False)
    push = drawn(H, seed=5, dtype=dtype)
    with unrolled.intervene(model, Push("*.hidden", push, steps=6)), unrolled.record(model) as trace:
        output = model(x)
    names = [name for name in trace if name.endswith(("hidden", "cell"))]
    with unrolled.intervene(model.lstm, Push("*.hidden", push, steps=6)), unrolled.record(model.lstm) as whole:
        wanted, _ = model.lstm(x)
    found = torch.autograd.grad(output[-1].pow(3).sum(), [trace[name] for name in names], allow_unused=True)
    close(
        [gradient[:, 6:] for gradient in found],
        torch.autograd.grad(wanted[-1].pow(3).sum(), [whole[name.replace("lstm.", "")][:, 6:] for name in names]),
        TOLERANCE[dtype],
    )
    assert not any(gradient[:, :6].any() for gradient in found)


@dtypes
@every_mode
def test_frozen_weights_and_an_edit_in_a_users_loop(mode: str, dtype: torch.dtype) -> None:
    model, x = Loop(mode, dtype=dtype).requires_grad_(False), drawn(T, B, I, dtype=dtype, grad=False)
    push = drawn(H, seed=5, dtype=dtype)
    states = [torch.zeros(B, H, dtype=dtype)] * (2 if mode == "LSTM" else 1)
    with unrolled.intervene(model, Push("*.hidden", push, steps=8)), unrolled.record(model) as trace:
        output, _ = model(x, states)
    (gradient,) = torch.autograd.grad(output[-1].pow(3).sum(), trace["cell.hidden"])
    close(gradient[:, -1], 3 * output[-1].pow(2), TOLERANCE[dtype])
    assert not gradient[:, :-1].any()


def test_frozen_weights_without_any_leaf_leave_nothing_to_differentiate() -> None:
    module, x = made().requires_grad_(False), drawn(T, B, I, dtype=torch.float32, grad=False)
    with unrolled.intervene(module, Push("l0.hidden", 1.0, steps=4)), unrolled.record(module) as trace:
        output, _ = module(x)
    assert not output.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(output.sum(), trace["l0.hidden"])


@dtypes
@every_mode
def test_batched_upstream_gradients_give_what_a_loop_over_them_gives(mode: str, dtype: torch.dtype) -> None:
    module, x = made(mode, batch_first=True, bidirectional=True, dtype=dtype), drawn(B, T, I, dtype=dtype)
    push = drawn(H, seed=5, dtype=dtype)
    with unrolled.intervene(module, Push("*.hidden", push, steps=4)), unrolled.record(module) as trace:
        output, _ = module(x)
    upstream = torch.randn(4, *output.shape, dtype=dtype)
    wanted = [*(trace[name] for name in trace), push, x, trace["l0.hidden"][:, 3:6]]
    batched = torch.autograd.grad(output, wanted, upstream, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(output, wanted, one, retain_graph=True) for one in upstream]
    for found, expected in zip(batched, zip(*each, strict=True), strict=True):
        close(found, torch.stack(expected), TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
def test_second_derivatives_through_an_edit_equal_the_hand_written_ones(mode: str, dtype: torch.dtype) -> None:
    module = made(mode, batch_first=True, dtype=dtype)
    exact, x = copy.deepcopy(module).double(), drawn(B, T, I, dtype=dtype)
    push, exact_push = drawn(H, seed=5, dtype=dtype), drawn(H, seed=5)
    with unrolled.intervene(module, Scale("*.hidden", push, steps=4)), unrolled.record(module) as trace:
        output, _ = module(x)
    (gradient,) = torch.autograd.grad(output[:, -1].pow(3).sum(), trace["l0.hidden"], create_graph=True)
    found = torch.autograd.grad(gradient.square().sum(), [push, module.weight_hh_l0, trace["l0.hidden"]])
    hand = Hand(
        exact,
        x.double().transpose(0, 1),
        [torch.zeros(1, B, H).double()] * (2 if mode == "LSTM" else 1),
        at("*.hidden", [4], lambda v, n, t: v * exact_push),
    )
    first = torch.autograd.grad(hand.result[0][-1].pow(3).sum(), hand.nodes["l0.hidden"], create_graph=True)
    loss = torch.stack(first).square().sum()
    wanted = torch.autograd.grad(loss, [exact_push, exact.weight_hh_l0], retain_graph=True)
    close(found, [*wanted, hand.gradient(loss, "l0.hidden")], 1e-11 if dtype is torch.float64 else 1e-4)


@dtypes
def test_loss_of_a_recorded_state_flows_through_the_edit(dtype: torch.dtype) -> None:
    module, x = made(batch_first=True, dtype=dtype), drawn(B, T, I, dtype=dtype)
    exact = copy.deepcopy(module).double()
    with unrolled.intervene(module, Scale("l0.forget_gate", 0.5, steps=4)), unrolled.record(module) as trace:
        module(x)
    loss = trace["l0.cell"][:, 5].pow(3).sum() + trace["l0.forget_gate"].pow(2).sum()
    found = torch.autograd.grad(loss, [*module.parameters(), trace["l0.forget_gate"]])
    hand = Hand(
        exact,
        x.double().transpose(0, 1),
        [torch.zeros(1, B, H).double()] * 2,
        at("l0.forget_gate", [4], lambda v, n, t: v / 2),
    )
    wanted_loss = hand.nodes["l0.cell"][5].pow(3).sum() + hand.joined("l0.forget_gate").pow(2).sum()
    wanted = torch.autograd.grad(wanted_loss, list(exact.parameters()), retain_graph=True)
    close(found, [*wanted, hand.gradient(wanted_loss, "l0.forget_gate")], TOLERANCE[dtype])


# Patches


@every_mode
@pytest.mark.parametrize("steps", [None, [0], [3, 4], [8]])
def test_a_patch_from_the_same_run_changes_nothing(mode: str, steps: Any) -> None:
    module = made(mode, num_layers=2, bidirectional=True)
    packed = pack_padded_sequence(drawn(T, B, I, dtype=torch.float32), LENGTHS, enforce_sorted=False)
    with unrolled.record(module) as trace:
        plain = module(packed)
    with unrolled.intervene(module, Patch("*", source=trace, steps=steps)):
        found = module(packed)
    close([found[0].data, *finals(found)], [plain[0].data, *finals(plain)], 1e-6)


@every_mode
def test_patching_all_states_of_a_step_makes_the_rest_that_of_the_other_run(mode: str) -> None:
    module = made(mode, num_layers=2)
    x, other = drawn(T, B, I, dtype=torch.float32), drawn(T, B, I, seed=9, dtype=torch.float32)
    other = torch.cat([other[:5], x[5:]])
    with unrolled.record(module) as trace:
        wanted, ends = module(other)
    names = ["*.hidden", "*.cell"] if mode == "LSTM" else ["*.hidden"]
    with unrolled.intervene(module, *(Patch(name, source=trace, steps=4) for name in names)):
        found, final = module(x)
    close([found[4:], *finals((found, final))], [wanted[4:], *finals((wanted, ends))], 1e-6)
    assert (found[:4] - wanted[:4]).abs().max() > 0.01


def test_patching_the_hidden_state_alone_leaves_the_cell_which_makes_another_rest() -> None:
    module = made()
    x, other = drawn(T, B, I, dtype=torch.float32), drawn(T, B, I, seed=9, dtype=torch.float32)
    other = torch.cat([other[:5], x[5:]])
    with unrolled.record(module) as trace:
        wanted, _ = module(other)
    with unrolled.intervene(module, Patch("l0.hidden", source=trace, steps=4)):
        found, _ = module(x)
    close(found[4], wanted[4])
    assert (found[5:] - wanted[5:]).abs().max() > 0.01


@dtypes
def test_gradients_flow_into_the_run_that_a_patch_is_from(dtype: torch.dtype) -> None:
    module = made(batch_first=True, dtype=dtype)
    exact = copy.deepcopy(module).double()
    x, other = drawn(B, T, I, dtype=dtype), drawn(B, T, I, seed=9, dtype=dtype)
    with unrolled.record(module) as trace:
        module(other)
    with unrolled.intervene(module, Patch("l0.cell", source=trace, steps=4, units=[1, 3])):
        output, _ = module(x)
    found = torch.autograd.grad(output.pow(3).sum(), [x, other, *module.parameters(), trace["l0.forget_gate"]])
    zeros = [torch.zeros(1, B, H).double()] * 2
    exact_x, exact_other = (t.detach().double().requires_grad_() for t in (x, other))
    source = Hand(exact, exact_other.transpose(0, 1), zeros)
    hand = Hand(
        exact,
        exact_x.transpose(0, 1),
        zeros,
        at("l0.cell", [4], lambda v, n, t: source.nodes["l0.cell"][t], units=[1, 3]),
    )
    loss = hand.result[0].pow(3).sum()
    wanted = torch.autograd.grad(loss, [exact_x, exact_other, *exact.parameters()], retain_graph=True)
    close(found, [*wanted, source.gradient(loss, "l0.forget_gate")], TOLERANCE[dtype])
    assert found[-1][:, :5].any()
    assert not found[-1][:, 5:].any()


def test_a_detached_trace_is_patched_from_without_a_gradient() -> None:
    module, x, other = made(), drawn(T, B, I, dtype=torch.float32), drawn(T, B, I, seed=9, dtype=torch.float32)
    with unrolled.record(module, detach=True) as trace:
        module(other)
    with unrolled.intervene(module, Patch("l0.cell", source=trace, steps=4)):
        output, _ = module(x)
    assert torch.autograd.grad(output.sum(), [other], allow_unused=True) == (None,)


def test_a_source_of_one_sequence_is_given_to_all_and_any_mapping_will_do() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.record(module) as trace:
        module(x[:, 1:2])
    for source in (trace, {"l0.cell": trace["l0.cell"].detach().double()}):
        with unrolled.intervene(module, Patch("l0.cell", source=source, steps=4)), unrolled.record(module) as patched:
            module(x)
        close(patched["l0.cell"][:, 4], trace["l0.cell"][:, 4].expand(B, -1), 1e-7)


def test_a_patch_from_a_trace_that_was_saved_is_that_of_the_trace(tmp_path: Any) -> None:
    pytest.importorskip("zarr")
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    with unrolled.record(module) as trace:
        module(2 * x)
    trace.save(tmp_path / "run.zarr")
    found = []
    for source in (trace, unrolled.Trace.load(tmp_path / "run.zarr")):
        with unrolled.intervene(module, Patch("l0.cell", source=source, steps=[4, 6])):
            found.append(module(x)[0])
    assert torch.equal(*found)


def test_a_patch_between_sequences_of_unequal_length_is_row_by_row_in_the_users_order() -> None:
    module, x = made(), drawn(T, B, I, dtype=torch.float32)
    packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    source = {"l0.hidden": torch.arange(B).float().view(B, 1, 1).expand(B, T, H)}
    with unrolled.intervene(module, Patch("l0.hidden", source=source, steps=1)), unrolled.record(module) as trace:
        module(packed)
    assert torch.equal(trace["l0.hidden"][:, 1], source["l0.hidden"][:, 1])


# Ablations


def test_a_resampled_ablation_takes_the_same_other_row_at_every_step_and_for_every_name() -> None:
    module, x = made(num_layers=2, batch_first=True), drawn(7, T, I, dtype=torch.float32)
    with unrolled.record(module, detach=True) as plain:
        module(x)
    others = []
    for name in plain:
        for t in (0, 4, 8):
            edit = Ablate(name, "resampled", steps=t)
            with unrolled.intervene(module, edit), unrolled.record(module, detach=True) as trace:
                module(x)
            others.append(taken_from(trace[name][:, t], plain[name][:, t]).tolist())
    assert all(one == others[0] for one in others)
    assert sorted(others[0]) == list(range(7))
    assert all(row != other for row, other in enumerate(others[0]))


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


def test_the_seed_of_a_resampled_ablation_is_of_its_draw_alone() -> None:
    torch.manual_seed(1)
    first, state = resampled_rows(0), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(state, (resampled_rows(3), torch.get_rng_state())[1])
    torch.rand(3)
    assert resampled_rows(0) == first
    drawn_ones = {tuple(resampled_rows(seed)) for seed in range(20)}
    assert len(drawn_ones) > 5
    for rows in drawn_ones:
        assert sorted(rows) == list(range(5))
        assert all(row != other for row, other in enumerate(rows))


def test_a_resampled_ablation_takes_only_rows_that_still_go_on() -> None:
    module = unrolled.LSTM(I, H, batch_first=True)
    lengths, x = torch.tensor([5, 9, 2, 7, 9]), drawn(5, T, I, dtype=torch.float32)
    with unrolled.record(module, detach=True) as plain:
        module(x, lengths=lengths)
    for t in range(T):
        edit = Ablate("l0.cell", "resampled", steps=t, seed=1)
        with unrolled.intervene(module, edit), unrolled.record(module, detach=True) as trace:
            module(x, lengths=lengths)
        going_on = (lengths > t).nonzero().squeeze(1)
        others = going_on[taken_from(trace["l0.cell"][going_on, t], plain["l0.cell"][going_on, t])]
        assert sorted(others.tolist()) == going_on.tolist()
        assert (others != going_on).all()
        assert not trace["l0.cell"][lengths <= t, t].any()


def test_resampling_chosen_rows_takes_values_of_all() -> None:
    taken = resampled_rows(0)
    some = resampled_rows(0, rows=[1, 3])
    assert some == [0, taken[1], 2, taken[3], 4]


def test_the_mean_is_over_the_sequences_that_go_on() -> None:
    module, x = unrolled.LSTM(I, H, batch_first=True), drawn(B, T, I, dtype=torch.float32)
    with unrolled.record(module, detach=True) as plain:
        module(x)
    edit = Ablate("l0.cell", "mean", steps=[4])
    with unrolled.intervene(module, edit), unrolled.record(module, detach=True) as trace:
        module(x, lengths=LENGTHS)
    close(trace["l0.cell"][[0, 2], 4], plain["l0.cell"][[0, 2], 4].mean(0).expand(2, -1))
    with unrolled.intervene(module, Ablate("l0.cell", "mean", steps=[4], rows=1)), unrolled.record(module) as trace:
        module(x)
    wanted = plain["l0.cell"][:, 4].clone()
    wanted[1] = wanted.mean(0)
    close(trace["l0.cell"][:, 4], wanted)


@pytest.mark.parametrize("to", ["mean", "resampled"])
def test_steps_that_no_sequence_has_any_more_are_left_as_they_are(to: Any) -> None:
    module, x = unrolled.LSTM(I, H, batch_first=True), drawn(B, T, I, dtype=torch.float32)
    lengths = torch.tensor([4, 4, 4])
    with unrolled.intervene(module, Ablate("l0.cell", to)):
        found, _ = module(x, lengths=lengths)
        wanted, _ = module(x[:, :4])
    close(found[:, :4], wanted, 1e-6)
    assert not found[:, 4:].any()


def test_the_mean_of_a_source_is_over_all_steps_that_its_sequences_have() -> None:
    module, x = unrolled.LSTM(I, H, batch_first=True), drawn(B, T, I, dtype=torch.float32)
    with unrolled.record(module, detach=True) as source:
        module(3 * x, lengths=LENGTHS)
    alone = torch.cat([source["l0.cell"][row, :length] for row, length in enumerate(LENGTHS.tolist())])
    edit = Ablate("l0.cell", "mean", source=source, steps=[0, 8])
    with unrolled.intervene(module, edit), unrolled.record(module) as trace:
        module(x)
        module(x[:1])
    close(trace._source._calls["l0.cell"][0].steps.values[[0, 8]], alone.mean(0).expand(2, B, -1))


def test_a_mean_of_a_source_of_several_calls_is_over_the_steps_that_were_taken() -> None:
    module, x = unrolled.LSTM(I, H, batch_first=True), drawn(B, T, I, dtype=torch.float32)
    with unrolled.record(module, detach=True) as source:
        module(3 * x, lengths=LENGTHS)
        module(2 * x, lengths=LENGTHS.flip(0))
    inside = torch.cat([torch.arange(T) < lengths.unsqueeze(1) for lengths in (LENGTHS, LENGTHS.flip(0))], 1)
    with (
        unrolled.intervene(module, Ablate("l0.cell", "mean", source=source, steps=4)),
        unrolled.record(module) as trace,
    ):
        module(x)
    close(trace["l0.cell"][:, 4], source["l0.cell"][inside].mean(0).expand(B, -1))


def test_resampling_from_a_source_takes_one_of_its_rows_as_long_as_it_goes_on() -> None:
    module, x = unrolled.LSTM(I, H, batch_first=True), drawn(8, T, I, dtype=torch.float32)
    lengths = torch.tensor([9, 4, 9, 6])
    with unrolled.record(module, detach=True) as source:
        module(drawn(4, T, I, seed=9, dtype=torch.float32), lengths=lengths)
    edit = Ablate("l0.cell", "resampled", source=source)
    with unrolled.intervene(module, edit), unrolled.record(module, detach=True) as trace:
        module(x)
    rows = torch.stack([taken_from(trace["l0.cell"][:, t], source["l0.cell"][:, t]) for t in range(T)])
    assert {1, 3} & set(rows[0].tolist())
    assert len(set(rows[0].tolist())) > 2
    for t in range(T):
        assert (lengths[rows[t]] > t).all()
        stays = lengths[rows[0]] > t
        assert torch.equal(rows[t][stays], rows[0][stays])


# Functions


def test_a_function_is_shown_the_state_and_the_step_and_its_result_is_gone_on_with() -> None:
    module, x, seen = made(), drawn(T, B, I, dtype=torch.float32), []

    def function(state: Tensor, t: int) -> Tensor:
        seen.append((tuple(state.shape), t))
        return state * t

    with unrolled.record(module) as plain:
        module(x)
    with unrolled.intervene(module, Apply("l0.cell", function, steps=[3])), unrolled.record(module) as trace:
        module(x)
    assert seen == [((B, H), 3)]
    close(trace["l0.cell"][:, 3], 3 * plain["l0.cell"][:, 3])


@pytest.mark.parametrize("grad", [False, True])
@dtypes
def test_a_function_may_change_the_state_in_place_but_only_where_the_edit_is(grad: bool, dtype: torch.dtype) -> None:
    module, x = made(dtype=dtype), drawn(T, B, I, dtype=dtype)
    edit = {"steps": 4, "units": [1], "rows": [2]}
    with torch.set_grad_enabled(grad):
        with unrolled.intervene(module, Apply("*.forget_gate", lambda state, t: state.mul_(2), **edit)):
            found = module(x)
        with unrolled.intervene(module, Apply("*.forget_gate", lambda state, t: state * 2, **edit)):
            wanted = module(x)
    assert torch.equal(found[0], wanted[0])
    if grad:
        leaves = [x, *module.parameters()]
        close(torch.autograd.grad(wild(found), leaves), torch.autograd.grad(wild(wanted), leaves))


# What is refused


def refused(message: str, *edits: Any, error: type[Exception] = ValueError, model: Any = None) -> None:
    with pytest.raises(error, match=message), unrolled.intervene(made("GRU") if model is None else model, *edits):
        raise AssertionError


@pytest.mark.parametrize("wrong", [None, nn.LSTM, torch.zeros(2)])
def test_what_is_not_a_module_is_refused(wrong: Any) -> None:
    message = f"intervene: model must be a torch.nn.Module, given {type(wrong).__name__}"
    with pytest.raises(TypeError, match=message), unrolled.intervene(wrong):
        pass


@pytest.mark.parametrize("wrong", [lambda state, t: state, "l0.hidden", [Scale("l0.hidden", 1.0)]])
def test_what_is_no_edit_is_refused(wrong: Any) -> None:
    refused(f"edits: expected Ablate, .* or Apply, given {type(wrong).__name__}", wrong, error=TypeError)


def test_a_name_that_the_model_does_not_have_is_refused_with_those_it_has() -> None:
    refused(r"edits: 'l0\.cell' matches nothing in the model; it has l0\.hidden, l0\.reset_gate", Ablate("l0.cell"))
    refused("matches nothing in the model; it has no recurrent layer", Ablate("*"), model=nn.Linear(2, 2))


def source(*shape: int) -> dict[str, Tensor]:
    return {"l0.hidden": torch.zeros(shape)}


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (Ablate("*.hidden", "noise"), ValueError, "to: given 'noise', expected 'zero', 'mean' or 'resampled'"),
        (Ablate("*.hidden", "mean", source=source(2, 3, 4)), ValueError, r"source: 'l0.hidden' is \(2, 3, 4\); .* 5\)"),
        (Ablate("*.hidden", "mean", source=[1]), TypeError, "source: expected a trace or a mapping .*, given list"),
        (Patch("*.hidden", source=source(2, 5)), ValueError, r"source: 'l0.hidden' is \(2, 5\); expected \(B, T, 5\)"),
        (Patch("*.candidate", source=source(1, 1, 5)), ValueError, "source: has nothing .* 'l0.candidate'; it has l0"),
        (Patch("*.hidden", source={}), ValueError, "it has nothing"),
        (Patch("*.hidden", source=None), TypeError, "source: .* given NoneType"),
        (Clamp("*.hidden"), ValueError, r"Clamp\('\*.hidden'\): expected a value, or low and high; given neither"),
        (Clamp("*.hidden", 0.0, low=1.0), ValueError, "expected a value, or low and high; given both"),
        (Clamp("*.hidden", torch.zeros(H), high=1.0), ValueError, "given both"),
        (Clamp("*.hidden", [1.0, 2.0]), ValueError, r"value: of shape \(2,\) does not fit; expected a last size of 5$"),
        (Scale("*.hidden", torch.ones(4)), ValueError, r"factor: of shape \(4,\) does not fit"),
        (Push("*.hidden", torch.ones(B, 4)), ValueError, r"vector: of shape \(3, 4\) does not fit"),
        (Push("*.hidden", torch.ones(1, B, H)), ValueError, r"vector: of shape \(1, 3, 5\) does not fit; .* at most"),
        (Push("*.hidden", torch.ones(4), units=[0, 1]), ValueError, "a last size of 5, or 2 for the chosen units"),
        (Scale("*.hidden", 1.0, units=[0, 5]), ValueError, r"units of 'l0.hidden': \[0, 5\] does not fit; .* 0 to 4"),
        (Scale("*.hidden", 1.0, units=-6), ValueError, "units of 'l0.hidden': -6 does not fit; expected 0 to 4"),
        (Scale("*.hidden", 1.0, units=[True, False]), ValueError, r"a mask of shape \(2,\) does not fit; .* \(5,\)"),
        (Scale("*.hidden", 1.0, units=[0.5]), TypeError, "expected whole numbers or a bool mask, given torch.float32"),
        (Scale("*.hidden", 1.0, steps=-1), ValueError, "steps: -1 counts from the end, .* expected from 0 on"),
        (Scale("*.hidden", 1.0, steps=[3, -2]), ValueError, "steps: -2 counts from the end"),
        (Scale("*.hidden", 1.0, steps=slice(-3, None)), ValueError, r"steps: slice\(-3, None, None\) counts"),
        (Scale("*.hidden", 1.0, steps=slice(None, -1)), ValueError, "counts from the end"),
        (Scale("*.hidden", 1.0, steps=[True, False]), TypeError, "steps: expected whole numbers, given torch.bool"),
        (Scale("*.hidden", 1.0, steps=2.5), TypeError, "steps: expected whole numbers, given torch.float32"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_before_anything_runs(
    edit: Any, error: type[Exception], message: str
) -> None:
    refused(message, edit, error=error)


def test_a_bare_layer_is_left_as_it_was_by_edits_that_were_refused() -> None:
    module = made("GRU")
    refused("matches nothing", Scale("l0.hidden", 1.0), Scale("l0.cell", 1.0), model=module)
    assert type(module) is nn.GRU
    assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Scale("*.hidden", 1.0, rows=3), "rows: 3 does not fit; expected 0 to 2"),
        (Scale("*.hidden", 1.0, rows=[True] * 4), r"rows: a mask of shape \(4,\) does not fit; expected \(3,\)"),
        (Push("*.hidden", torch.ones(2, H)), r"an amount of shape \(2, 5\) does not fit; the batch has 3 sequences"),
        (Patch("*.hidden", source=source(2, T, H)), "source: 'l0.hidden' has 2 sequences, and the batch has 3"),
        (Patch("*.hidden", source=source(3, 4, H)), "source: 'l0.hidden' has 4 steps, and step 4 is patched"),
        (
            Ablate("*.hidden", "resampled", source=source(1, 4, H)),
            "source: 'l0.hidden' has 4 steps, and step 4 is ablated",
        ),
        (Apply("*.hidden", lambda s, t: s[:1]), r"function: gave \(1, 5\) for 'l0.hidden' of shape \(3, 5\)"),
        (Apply("*.hidden", lambda s, t: None), r"function: gave NoneType for 'l0.hidden' of shape \(3, 5\)"),
    ],
)
def test_an_edit_that_does_not_fit_the_batch_is_refused_at_the_call(edit: Any, message: str) -> None:
    module = made("GRU")
    with unrolled.intervene(module, edit), pytest.raises(ValueError, match=message):
        module(torch.zeros(T, B, I))


@pytest.mark.parametrize("to", ["mean", "resampled"])
def test_an_ablation_needs_another_sequence(to: Any) -> None:
    module = unrolled.GRU(I, H)
    message = r"Ablate\('l0.hidden'\): one sequence of the batch has step {}, .* or source=, a trace of others"
    with unrolled.intervene(module, Ablate("l0.hidden", to)):
        with pytest.raises(ValueError, match=message.format(0)):
            module(torch.zeros(T, 1, I))
        with pytest.raises(ValueError, match=message.format(5)):
            module(torch.zeros(T, B, I), lengths=LENGTHS)


def test_a_source_whose_sequences_have_all_ended_is_refused() -> None:
    module = unrolled.GRU(I, H)
    with unrolled.record(module) as trace:
        module(torch.zeros(T, 2, I), lengths=[3, 4])
    with (
        unrolled.intervene(module, Ablate("l0.hidden", "resampled", source=trace, steps=[4])),
        pytest.raises(ValueError, match="source: no sequence of 'l0.hidden' has step 4"),
    ):
        module(torch.zeros(T, B, I))


def test_a_patch_from_after_the_end_of_a_sequence_is_refused_where_the_row_goes_on() -> None:
    module, x = unrolled.GRU(I, H), drawn(T, B, I, dtype=torch.float32)
    with unrolled.record(module) as trace:
        module(x, lengths=LENGTHS)
    with unrolled.intervene(module, Patch("l0.hidden", source=trace, steps=[4])):
        with pytest.raises(ValueError, match="source: 'l0.hidden' has ended before step 4 in row 1, .* choose rows="):
            module(x)
        module(x, lengths=LENGTHS)
    with unrolled.intervene(module, Patch("l0.hidden", source=trace, steps=[4], rows=[0, 2])):
        module(x)


def test_a_call_that_torch_takes_but_that_has_no_steps_to_change_is_refused() -> None:
    module = made()
    with (
        pytest.raises(ValueError, match=r"intervene: cannot change a call of LSTM with input of shape \(9, 0, 3\)"),
        unrolled.intervene(module, Ablate("l0.cell")),
    ):
        module(torch.zeros(T, 0, I))


# Edits that never took place


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


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Ablate("l0.cell", steps=9), "intervene: Ablate('l0.cell', steps=9) did not take place: its layer took 9"),
        (Ablate("l0.cell", steps=slice(9, None)), "did not take place: its layer took 9 steps"),
        (Ablate("*.cell", steps=[4, 9, 11]), "did not take place at steps [9, 11]: its layer took 9 steps"),
        (Ablate("l0.cell", steps=[]), "did not take place: its layer took 9 steps"),
        (Scale("l1.*", 2.0, steps=20, units=[1], rows=0), "Scale('l1.*', steps=20, units=[1], rows=0) did not take"),
    ],
)
def test_an_edit_whose_steps_never_came_warns_at_the_end_of_the_context(edit: Any, said: str) -> None:
    (message,) = warned(edit)
    assert said in message


def test_an_edit_whose_layer_was_not_called_warns() -> None:
    (message,) = warned(Ablate("l0.cell"), calls=0)
    assert message == "intervene: Ablate('l0.cell') did not take place: its layer was not called"


def test_each_edit_that_did_not_take_place_warns_and_the_others_do_not() -> None:
    messages = warned(Ablate("l0.cell", steps=4), Ablate("l0.hidden", steps=40), Ablate("l1.hidden", steps=41))
    assert ["steps=40" in messages[0], "steps=41" in messages[1], len(messages)] == [True, True, 2]


@pytest.mark.parametrize("steps", [None, 8, [0, 8], slice(2, 100), range(9)])
def test_an_edit_that_took_place_is_silent(steps: Any) -> None:
    assert warned(Ablate("*.cell", steps=steps), calls=2) == []


def test_steps_that_came_in_one_of_several_calls_are_enough() -> None:
    module = made()
    with unrolled.intervene(module, Ablate("l0.cell", steps=[3, 6])):
        module(drawn(4, B, I, dtype=torch.float32))
        module(drawn(T, B, I, dtype=torch.float32))


def test_an_exception_is_not_followed_by_a_warning() -> None:
    with pytest.raises(ZeroDivisionError), unrolled.intervene(made(), Ablate("l0.cell", steps=100)):
        raise ZeroDivisionError


@pytest.mark.parametrize("edit", [Push, Scale, Apply])
def test_an_edit_that_would_do_nothing_is_no_edit(edit: Any) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        edit("l0.hidden")
