"""How one answer depends on every state before it, by a replay of the steps in between."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.source import layer_of, state_of
from unrolled.structure import cell_of
from unrolled.trace import record
from unrolled.viewer.replaying.replay import LONGEST, Replay

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Gradient:
    """The gradient of one answer with respect to the states around it.

    Attributes:
        start, stop: the steps of the curves, from `start` to before `stop`.
        curves: recorded name of a state -> (stop - start,) the Euclidean norm over units of d answer / d state at each
            step, along every path.
        output: what is differentiated, in words.
        value: of it: nats for a class, else the output's units, or their square for an error.
        units: name -> (stop - start, H) the gradient itself.
        step: the step that is answered.
        direct: name -> (stop - start,) the norm along the state's own path alone: that at the step itself times the
            gates that keep, all gates held fixed. Of states that have such a gate, and where the step is answered by a
            model that reads from the beginning only.
    """

    start: int
    stop: int
    curves: dict[str, Array]
    output: str
    value: float
    units: dict[str, Array] | None
    step: int
    direct: dict[str, Array]


def gradient(replay: Replay, *, sequence: int, step: int, output: int | None, back: int = 200) -> Gradient:
    """The gradient of one answer to every state of every layer at the steps before it.

    Computed in float64, so that small gradients are not lost. A reset on the way makes it exactly zero before.

    Args:
        replay: the model with its recording.
        sequence: of which sequence.
        step: the step whose answer is differentiated. Where the sequence is answered it is that answer whatever the
            step, and the curves are over the whole sequence.
        output: which output: for classes its log probability in nats, for values itself. None for the target's log
            probability, or the mean squared error of the step's values.
        back: how many steps back; as many after the step where a layer reads from the end. 5,000 at most.

    Raises:
        ValueError: a number is out of range, there is no target, the steps come too late for a model that has to be run
            from the beginning, or the replay is not what was recorded.
    """
    length = replay.length(sequence)
    step = operator.index(step)
    if not replay.first <= step < length:
        raise ValueError(f"step: {step} cannot be replayed; expected {replay.first} to {length - 1}")
    if not 0 <= operator.index(back) <= LONGEST:
        raise ValueError(f"back: given {back}, expected 0 to {LONGEST:,} steps")
    start, stop = max(replay.first, step - back), min(length, step + 1 + (0 if replay.causal else back))
    if not replay.every:
        start, stop = 0, length
    keeps = _keeps(replay)
    window = slice(start - replay.begin(start), stop - replay.begin(start))
    with replay.lock, torch.enable_grad():
        replay.check(sequence, start, stop)
        with record(replay.exact, names=[*replay.states, *keeps.values()]) as trace:
            answers = replay.run(sequence, start, stop, exact=True)
        value, said = _differentiated(replay, answers[step - start if replay.every else 0], sequence, step, output)
        names = [name for name in replay.states if name in trace]
        found = torch.autograd.grad(value, [trace[name] for name in names], materialize_grads=True)
        gradients = {name: g.detach()[0, window] for name, g in zip(names, found, strict=True)}
        gates = {name: trace[gate].detach()[0, window] for name, gate in keeps.items() if name in gradients}
    direct = {
        name: _along(gradients[name], gate, _open(replay, keeps[name]), replay.resets(sequence, start, stop))
        for name, gate in gates.items()
    }
    return Gradient(
        start=start,
        stop=stop,
        curves={name: g.norm(dim=-1).numpy() for name, g in gradients.items()},
        output=said,
        value=float(value.detach()),
        units={name: g.numpy() for name, g in gradients.items()},
        step=step,
        direct={name: g.norm(dim=-1).numpy() for name, g in direct.items()},
    )


def _differentiated(replay: Replay, answer: Tensor, sequence: int, step: int, output: int | None) -> tuple[Tensor, str]:
    """answer: (K,) -> what is differentiated, and what it is called."""
    known, count = replay.answers, answer.size(0)
    known.check(count)
    if output is not None:
        number = operator.index(output)
        if not 0 <= number < count:
            raise ValueError(f"output: {output} is not one of the model's; expected 0 to {count - 1}")
        if known.loss == "values":
            return answer[number], known.name(number)
    else:
        right = known.right(sequence, step, step + 1)
        if right is None:
            raise ValueError("output: expected the number of one, since there are no targets")
        there = right[0] >= 0 if known.loss == "classes" else ~right[0].isnan()
        if not there.any():
            raise ValueError(f"output: step {step} has no target; expected the number of an output")
        if known.loss == "values":
            return (answer - right[0])[there].square().mean(), "squared error"
        number = int(right[0])
    return answer.log_softmax(-1)[number], f"log probability of {known.name(number)}"


def _keeps(replay: Replay) -> dict[str, str]:
    """Names of states that a gate keeps -> those of the gates, where there is a direct path from the answer back."""
    if not replay.every or not replay.causal:
        return {}
    found = {}
    for name in replay.states:
        cell = cell_of(replay.named[name][0])
        # The cell state of zoneout is also kept by chance, which no gate shows.
        if "keep" in cell.opens and state_of(name) == cell.states[-1] and "cell_zone" not in cell.masks:
            layer, gate = layer_of(name), cell.opens["keep"][0]
            found[name] = f"{layer}.{gate}" if layer else gate
    return found


def _open(replay: Replay, gate: str) -> int:
    return cell_of(replay.named[gate][0]).opens["keep"][1]


def _along(gradients: Tensor, gate: Tensor, opens: int, reset: Tensor | None) -> Tensor:
    """(n, H) gradients and the gate of the state, the answered step last -> the gradient along the direct path."""
    keep = gate if opens else 1 - gate
    if reset is not None:
        keep = keep.masked_fill(reset.unsqueeze(-1), 0)
    since = torch.ones_like(keep)
    since[:-1] = keep[1:].flip(0).cumprod(0).flip(0)
    return gradients[-1] * since
