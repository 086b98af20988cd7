"""How each instrument is called on a recording: which pieces of it, how many, and with what arguments.

The amounts are such that an LSTM of 512 units takes well under a minute on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from unrolled import instruments
from unrolled.instruments import Result
from unrolled.instruments.reading import symbols_of
from unrolled.structure import widths
from unrolled.viewer.measuring.pieces import Pieces, stretch_at
from unrolled.viewer.measuring.subject import Subject, first_layer, last_loss, recorded_gates
from unrolled.viewer.recorded import Recorded

Tell = Callable[[int, int], None]

_BATCH = 16  # pieces of a batch, at least, where there are so many
_GATE_STEPS = 50_000
_AROUND = 10, 40  # steps after and before the one whose input is exchanged
_AROUND_MEAN = 64  # either way, where the whole sequence is answered
_PATCHED = 14  # steps at which states are patched
_HELD = 200  # steps for which the constant input is held after each piece
_LAGS = (0, 1, 2, 3, 5, 8, 12, 20)

# Of as many pieces at most.
MOST = {
    "gradient_flow": 48,
    "context_use": 64,
    "timescales": 256,
    "saturation": 256,
    "decompose_cell": 16,
    "memory_curve": 128,
    "probe": 128,
    "carries": 64,
    "push_response": 16,
    "lyapunov": 8,
    "jacobian": 2,
    "fixed_points": 16,
}


def used(subject: Subject, name: str) -> Pieces:
    """The pieces that an instrument is given."""
    whole = subject.counting() if name in ("gradient_flow", "context_use") else subject.pieces
    return whole.some(MOST[name], subject.sequence, subject.step)


def gradient_flow(subject: Subject, tell: Tell) -> Result:
    pieces = used(subject, "gradient_flow")
    batches = _batches(pieces, tell, _inputs(subject), _targets(subject.recorded, pieces))
    loss = partial(last_loss, subject.recorded)
    return instruments.gradient_flow(subject.model, batches, loss, layer=subject.layer)


def context_use(subject: Subject, tell: Tell) -> Result:
    pieces = used(subject, "context_use")
    batches = _batches(pieces, tell, _inputs(subject), _targets(subject.recorded, pieces))
    contexts = [*(2**k for k in range(pieces.length.bit_length()) if 2**k < pieces.length), pieces.length]
    return instruments.context_use(subject.model, batches, partial(last_loss, subject.recorded), contexts)


def timescales(subject: Subject, tell: Tell) -> Result:
    batches = _batches(used(subject, "timescales"), tell, _inputs(subject))
    return instruments.timescales(subject.model, batches, layer=subject.layer)


def saturation(subject: Subject, tell: Tell) -> Result:
    batches = _batches(used(subject, "saturation"), tell, _inputs(subject))
    return instruments.saturation(subject.model, batches, layer=subject.layer)


def decompose_cell(subject: Subject, tell: Tell) -> Result:
    x, length = _given(subject, "decompose_cell"), subject.pieces.length
    steps = sorted({length // 4, length // 2, length - 1})
    return instruments.decompose_cell(subject.model, x, layer=subject.layer, steps=steps)


def memory_curve(subject: Subject, tell: Tell) -> Result:
    pieces = used(subject, "memory_curve")
    lags = [lag for lag in _LAGS if 2 * lag < pieces.length]
    x = _inputs(subject)
    # A penalty even for values: a few short sequences have fewer steps than the layer has units.
    # Symbols are asked for as they are, of values the first channel.
    past = () if _symbols(pieces.of(x)) else (pieces.of(x[..., 0].double()),)
    batches = _batches(pieces, tell, x, *past)
    return instruments.memory_curve(subject.model, batches, lags, kind="ridge", layer=subject.layer, max_steps=3000)


def probe(subject: Subject, tell: Tell) -> Result:
    pieces = used(subject, "probe")
    batches = _batches(pieces, tell, _inputs(subject), pieces.of(_labels(subject)))
    return instruments.probe(subject.model, batches, layer=subject.layer, deals=3, max_steps=3000)


def carries(subject: Subject, tell: Tell) -> Result:
    pieces = used(subject, "carries")
    state = subject.named_state or subject.cell.states[-1]
    horizon = min(8, pieces.length // 2)
    x, labels = pieces.of(_inputs(subject)), pieces.of(_labels(subject))
    return instruments.carries(subject.model, x, labels, state=state, layer=subject.layer, horizon=horizon)


def push_response(subject: Subject, tell: Tell) -> Result:
    x, length = _given(subject, "push_response"), subject.pieces.length
    state = subject.named_state or subject.cell.states[-1]
    # A quarter of the way, so that there is more to follow than was read before.
    at = length - 1 - length // 4 if subject.opened.reverse else length // 4
    return instruments.push_response(subject.model, x, state=state, at=at, layer=subject.layer)


def lyapunov(subject: Subject, tell: Tell) -> Result:
    x, length = _given(subject, "lyapunov"), subject.pieces.length
    count = min(10, subject.units)
    return instruments.lyapunov(subject.model, x, layer=subject.layer, count=count, warm_up=min(20, length // 4))


def jacobian(subject: Subject, tell: Tell) -> Result:
    x, length = _given(subject, "jacobian"), subject.pieces.length
    # A step of n units of state takes n³ operations, most of them for singular values.
    chosen = _spread(0, length - 1, max(4, min(50, int(8 * (1024 / subject.units) ** 2))))
    return instruments.jacobian(subject.model, x, layer=subject.layer, steps=chosen)


def fixed_points(subject: Subject, tell: Tell) -> Result:
    layer = first_layer(subject)
    own = replace(subject, named_layer=layer)
    x = _given(own, "fixed_points")
    rest = _rest(own, x)
    # Half of the starts are where the constant input leads, from which the search arrives more often.
    held = torch.cat([x, rest.expand(len(x), _HELD, *rest.shape)], dim=1)
    constant = _layer_input(own.model, own.opened.module, rest)
    # A step of the search takes some n³ operations for each start.
    size = (1024 / own.units) ** 3
    starts, iterations = max(3, min(48, int(3 * size))), max(40, min(100, int(40 * size)))
    return instruments.fixed_points(
        own.model, held, constant, layer=own.layer, starts=starts, iterations=iterations, tolerance=1e-7
    )


def patching(subject: Subject, tell: Tell) -> Result:
    recorded, inputs = subject.recorded, _inputs(subject)
    start, stop = stretch_at(recorded, subject.sequence, subject.step)
    step = (start + stop) // 2 if subject.step is None else subject.step
    after, before = (_AROUND_MEAN, _AROUND_MEAN) if recorded.readout == "mean" else _AROUND
    first, last = max(start, step - before), min(stop - 1, step + after)
    clean = inputs[subject.sequence : subject.sequence + 1, first : last + 1]
    corrupted = clean.clone()
    corrupted[0, step - first] = another(inputs[subject.sequence, start:stop], inputs[subject.sequence, step])
    with torch.no_grad():
        liked = int(_end(recorded, subject.model(clean)).argmax())

    def behaviour(output: Tensor) -> Tensor:
        answer = _end(recorded, output)
        return answer.log_softmax(-1)[:, liked] if recorded.loss == "classes" else answer.mean(-1)

    found = instruments.patching(
        subject.model,
        clean,
        corrupted,
        behaviour,
        layers=[subject.layer],
        states=None if subject.named_state is None else [subject.named_state],
        steps=_spread(max(0, step - first - 1), last - first, _PATCHED),
        groups=min(8, *widths(subject.opened.module).values()),
        on_progress=tell,
    )
    # Steps are counted as in the recording.
    return type(found)(found.data.assign_coords(step=found.data["step"] + first))


def another(inputs: Tensor, given: Tensor) -> Tensor:
    """What to put in the place of an input: the commonest other symbol, or the input that is farthest from it.

    Args:
        inputs: (T,) symbols or (T, I), among which one is chosen.
        given: one of them.

    Raises:
        ValueError: all are the same.
    """
    rows = inputs.reshape(len(inputs), -1)
    apart = (rows - given.reshape(1, -1)).double().norm(dim=1)
    if not bool((apart > 0).any()):
        raise ValueError("step: every input of this sequence is the same, so there is no other to put in its place")
    if not _symbols(inputs.unsqueeze(0)):
        return inputs[int(apart.argmax())]
    kinds, which, times = rows.unique(dim=0, return_inverse=True, return_counts=True)
    times[which[apart == 0]] = 0
    commonest: Tensor = kinds[int(times.argmax())]
    return commonest.reshape(given.shape)


def gate_openness(subject: Subject, tell: Tell) -> Result:
    """From the recording alone, at the steps that have the label."""
    gate = asked_gate(subject)
    label = subject.marking()
    name = f"{subject.layer}.{gate}" if subject.layer else gate
    row_count, steps = label.values.shape
    rows = max(1, min(row_count, _GATE_STEPS // steps))
    recorded = subject.recorded.trace.select(name, sequences=slice(rows), steps=slice(_GATE_STEPS))[name]
    values = torch.from_numpy(label.values[:rows, :_GATE_STEPS])
    inside = torch.arange(values.size(1)) < torch.tensor(subject.recorded.lengths[:rows]).unsqueeze(1)
    there = inside & (values >= 0)
    if not bool(there.any()):
        raise ValueError(f"label: {label.name!r} is defined at none of the first {rows * values.size(1):,} steps")
    open_at = {gate: at for gate, at in reversed(subject.cell.opens.values())}.get(gate, 1)
    return instruments.gate_openness(recorded[there].unsqueeze(0), (values[there] > 0).unsqueeze(0), open_at=open_at)


def asked_gate(subject: Subject) -> str:
    """The gate that was named, or the one that lets the input into the state, or the first that was recorded.

    Raises:
        ValueError: the one that was named is none, or was not recorded.
    """
    gates = recorded_gates(subject)
    if subject.named_state is not None:
        if subject.named_state not in gates:
            raise ValueError(f"state: {subject.named_state!r} is no recorded gate; expected one of {', '.join(gates)}")
        return subject.named_state
    writes = subject.cell.opens.get("write", ("", 1))[0]
    return writes if writes in gates else gates[0]


def _inputs(subject: Subject) -> Tensor:
    assert subject.recorded.inputs is not None
    return subject.recorded.inputs


def _given(subject: Subject, name: str) -> Tensor:
    """(N, L[, I]) the inputs of the pieces that an instrument is given."""
    return used(subject, name).of(_inputs(subject))


def _targets(recorded: Recorded, pieces: Pieces) -> Tensor:
    """(N[, K]) what is to be answered at the end of each piece."""
    assert recorded.targets is not None
    if recorded.readout == "mean":
        return torch.stack([recorded.targets[row] for row, _ in pieces.places])
    return torch.stack([recorded.targets[row, start + pieces.length - 1] for row, start in pieces.places])


def _labels(subject: Subject) -> Tensor:
    """(B, T)"""
    return torch.from_numpy(subject.label().values)


def _batches(pieces: Pieces, tell: Tell, inputs: Tensor, *rest: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Batches of pieces, and what belongs to them; tells how many were read of all.

    What comes after the last batch counts as one more.

    Args:
        pieces: which.
        tell: is called with what is done and all there is to do.
        inputs: (B, T[, I]) of the recording.
        rest: (N, ...) of each piece.
    """
    parts = torch.arange(len(pieces)).tensor_split(max(1, len(pieces) // _BATCH))
    x = pieces.of(inputs)
    for number, part in enumerate(parts):
        tell(number, len(parts) + 1)
        yield (x[part], *(values[part] for values in rest))
    tell(len(parts), len(parts) + 1)


def _spread(first: int, last: int, most: int) -> list[int]:
    """At most so many numbers from first to last, both included, at equal distances."""
    count = min(most, last - first + 1)
    return sorted({first + round(i * (last - first) / max(1, count - 1)) for i in range(count)})


def _symbols(inputs: Tensor) -> bool:
    """Whether the input is symbols, as whole numbers or one-hot."""
    return symbols_of(inputs) is not None


def _end(recorded: Recorded, output: Tensor) -> Tensor:
    """(B, K) the answer at the last step, or to the sequence."""
    return output[:, -1] if recorded.readout == "every" else output


def _rest(subject: Subject, inputs: Tensor) -> Tensor:
    """([I]) the input under which the network is to come to rest: that of the step, or the commonest, or the mean."""
    whole = _inputs(subject)
    if subject.step is not None:
        return whole[subject.sequence, subject.step]
    rows = inputs.flatten(0, 1)
    if not _symbols(inputs):
        return rows.mean(0)
    kinds, times = rows.unique(dim=0, return_counts=True)
    commonest: Tensor = kinds[int(times.argmax())]
    return commonest


def _layer_input(model: nn.Module, module: nn.Module, given: Tensor) -> Tensor:
    """(I,) what a recurrent module reads when the model reads `given`."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(
        lambda _, arguments, named: seen.append(next(iter((*arguments, *named.values()))).detach()), with_kwargs=True
    )
    try:
        with torch.no_grad():
            model(given.reshape(1, 1, *given.shape))
    finally:
        handle.remove()
    return seen[0].flatten()
