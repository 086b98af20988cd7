"""A network that takes the steps of its recording again, so that they can be differentiated or changed.

A `SequenceModel` goes on from the recorded states, so that a window anywhere in a long recording costs as much as its
own steps. Whatever cannot do that is run from the beginning, within a bound. What is replayed is held against the
recording first: another network's figures would look as good.
"""

from __future__ import annotations

import copy
import inspect
import operator
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.instruments.opened import as_exact, exact
from unrolled.model import SequenceModel
from unrolled.source import state_of
from unrolled.structure import cell_of
from unrolled.trace import Trace, record, recordable
from unrolled.viewer.replaying.agreement import compare, first_step, width_of
from unrolled.viewer.replaying.answers import Answers, Loss

# The last step that is replayed where a run has to begin at the beginning.
LONGEST = 5_000
# Steps that are held against the recording, each taken from the recorded states before it.
_SAMPLES = 256
# Steps that a model of unknown form is called with to see what it answers.
_PROBE = 64
# Values that are read of a recording at once for a mean.
_READ = 1 << 22


class Replay:
    """A model beside its recording.

    Everything is computed on copies on the CPU in eval mode: the model that was given is not touched. Several threads
    may share a replay; `gradient` and `effect` take turns by its `lock`.

    Args:
        model: a SequenceModel, which goes on from the recorded states at any step; or any module that maps inputs,
            batch first, to answers, which is run from the beginning. So is a SequenceModel that reads from the end,
            answers once a sequence, or whose states were not all recorded.
        trace: what the model did with the inputs: states (B, T, H) by name.
        inputs: (B, T, I), or (B, T) symbols: what the model read.
        lengths: (B,) steps of each sequence; those of the trace if omitted.
        reset: (B, T) bool, where the states were zeroed before a step; those of the trace if omitted.
        targets: what is right. For classes (B, T) whole numbers, below 0 where nothing is; for values (B, T, K), or
            (B, T) where K is 1, NaN where nothing is. Without the T where the model answers once a sequence.
        outputs: K names of the outputs; their numbers if omitted.
        loss: whether the answers are "classes" (K scores, of which one class is right) or "values"; if omitted, as the
            targets are: classes where they are whole numbers. Values where there are no targets.

    Attributes:
        model: the copy in eval mode.
        named: all that can be recorded of the model: name -> (module, layer suffix, state or gate).
        states: the names of every state of the model, whether recorded or not.
        answers: what is known of its answers.
        every: whether every step is answered; else the sequence.
        causal: whether answers depend on nothing that comes after them.
        first: the first step that can be replayed: 1 where the trace is a part that begins later than its recording.

    Raises:
        TypeError: `model` is no module, or `targets` are of another kind than `loss`.
        ValueError: trace, inputs, lengths, resets, targets or outputs do not fit the model or one another.
    """

    def __init__(
        self,
        model: nn.Module,
        trace: Trace,
        inputs: Tensor,
        *,
        lengths: Sequence[int] | None = None,
        reset: Tensor | None = None,
        targets: Tensor | None = None,
        outputs: Sequence[str] = (),
        loss: Loss | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, given {type(model).__name__}")
        self.lock = threading.RLock()
        self.model = copy.deepcopy(model).to("cpu").eval()
        self.trace, self.inputs = trace, inputs.detach().cpu()
        self.named = recordable(self.model)
        self.states = tuple(name for name, (module, _, state) in self.named.items() if state in cell_of(module).states)
        self.first = first_step(trace, self.named, self.inputs)
        some = next(iter(trace))
        self._lengths = self._checked_lengths(trace.lengths(some) if lengths is None else lengths)
        self._reset = self._checked_reset(trace.resets(some) if reset is None else reset)
        self.causal = not any(suffix.endswith("_reverse") for _, suffix, _ in self.named.values())
        self.every = self._answers_every_step(targets)
        self.answers = Answers(self.inputs, self.every, targets, outputs, loss)
        self._from_the_beginning = self._obstacle()
        if self.first and self._from_the_beginning:
            raise ValueError(
                f"trace: is a part of a recording that begins after its first step, and the model has to be run from "
                f"the beginning, since {self._from_the_beginning}; give the whole recording"
            )
        if isinstance(model, SequenceModel):
            self.answers.check(model.head.out_features)
        # Of each sequence, the last step up to which a run from the beginning was found to agree.
        self._agreed: dict[int, int] = {}
        self._means: dict[str, Tensor] = {}

    def length(self, sequence: int) -> int:
        """The steps of a sequence.

        Raises:
            ValueError: there is no such sequence, or it has no step.
        """
        number, count = operator.index(sequence), self.inputs.size(0)
        if not 0 <= number < count:
            raise ValueError(f"sequence: {sequence} is not in the recording; expected 0 to {count - 1}")
        if not self._lengths[number]:
            raise ValueError(f"sequence: {sequence} has no steps")
        return self._lengths[number]

    @cached_property
    def exact(self) -> nn.Module:
        """The model in float64."""
        return exact(self.model).requires_grad_(True)

    def begin(self, start: int) -> int:
        """The step at which a run for a window from `start` on begins, and that it numbers 0."""
        return 0 if self._from_the_beginning else start

    def run(self, sequence: int, start: int, stop: int, *, exact: bool = False) -> Tensor:
        """The answers at the steps from `start` to before `stop`.

        Args:
            sequence, start, stop: which steps.
            exact: in float64, by the copy that `exact` is.

        Returns:
            (stop - start, K); (1, K) where the sequence is answered.

        Raises:
            ValueError: the window ends too late for a run from the beginning.
        """
        begin, end = self._bounds(sequence, start, stop)
        model = self.exact if exact else self.model
        x = self.inputs[sequence : sequence + 1, begin:end]
        given: dict[str, Any] = {}
        if self._reset is not None and bool(self._reset[sequence, begin:end].any()):
            given["reset"] = self._reset[sequence : sequence + 1, begin:end]
        if not self._from_the_beginning:
            before = self._before(sequence, range(start, start + 1))
            given["state"] = self._laid_out(before, torch.float64 if exact else self._dtype)
        answers = model(as_exact(x) if exact else x, **given)
        found: Tensor = answers[0] if isinstance(answers, tuple | list) else answers
        if not self.every:
            return found.reshape(1, -1)
        return found[0].reshape(end - begin, -1)[start - begin : stop - begin]

    def check(self, sequence: int, start: int, stop: int) -> None:
        """Hold a window against the recording.

        A model that goes on from recorded states takes up to 256 of the window's steps, evenly spread, each from the
        states that were recorded before it: then rounding does not grow, however chaotic the network is. One that is
        run from the beginning is run once.

        Raises:
            ValueError: what is replayed is not what was recorded.
        """
        with torch.no_grad():
            if self._from_the_beginning:
                end = self._bounds(sequence, start, stop)[1]
                if self._agreed.get(sequence, 0) >= end:
                    return
                kept = [name for name in self.trace if name in self.states] or list(self.trace)
                with record(self.model, names=kept, detach=True) as again:
                    self.run(sequence, start, stop)
                for name in kept:
                    compare(name, again[name][0], self.recorded(name, sequence, range(end)), sequence, range(end))
                self._agreed[sequence] = end
                return
            steps = range(start, stop, -(-(stop - start) // _SAMPLES))
            x = self.inputs[sequence, steps.start : steps.stop : steps.step].unsqueeze(1)
            given: dict[str, Any] = {"state": self._laid_out(self._before(sequence, steps), self._dtype)}
            if self._reset is not None:
                given["reset"] = self._reset[sequence, steps.start : steps.stop : steps.step].unsqueeze(1)
            _, after = self.model(x, carry=True, **given)
            for name, value in zip(self.states, self._by_name(after), strict=True):
                compare(name, value, self.recorded(name, sequence, steps), sequence, steps)

    def recorded(self, name: str, sequence: int, steps: range) -> Tensor:
        """(n, H) what was recorded of one state or gate at some steps."""
        part = self.trace.select(name, sequences=sequence, steps=steps)[name]
        return part.detach().as_subclass(Tensor)[0].cpu()

    def mean(self, name: str) -> Tensor:
        """(H,) the mean of a state or gate over all steps of all sequences, read in parts."""
        if name not in self._means:
            batch, length = self.inputs.shape[:2]
            width = width_of(self.named, name)
            size = max(1, _READ // (batch * width))
            total = torch.zeros(width, dtype=torch.float64)
            ends = torch.tensor(self._lengths)
            for at in range(0, length, size):
                steps = range(at, min(at + size, length))
                part = self.trace.select(name, steps=steps)[name].detach().as_subclass(Tensor).cpu()
                inside = torch.arange(steps.start, steps.stop) < ends.unsqueeze(1)
                total += part.masked_fill(~inside.unsqueeze(-1), 0).sum((0, 1), dtype=torch.float64)
            self._means[name] = total / sum(self._lengths)
        return self._means[name]

    def resets(self, sequence: int, start: int, stop: int) -> Tensor | None:
        """(n,) bool, whether the states were zeroed before each step; None if they never were."""
        return None if self._reset is None else self._reset[sequence, start:stop]

    @property
    def _dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    def _bounds(self, sequence: int, start: int, stop: int) -> tuple[int, int]:
        """The steps that are taken for the sake of a window."""
        if not self._from_the_beginning:
            return start, stop
        end = stop if self.every and self.causal else self.length(sequence)
        if end > LONGEST:
            what = f"the window ends at step {end}" if end == stop else f"sequence {sequence} has {end} steps"
            raise ValueError(
                f"steps: {what}, and the model has to be run from the beginning, since {self._from_the_beginning}; "
                f"that is done for {LONGEST:,} steps at most"
            )
        return 0, end

    def _before(self, sequence: int, steps: range) -> list[Tensor]:
        """By state (n, H), as it was recorded before each step."""
        found = []
        for name in self.states:
            parts = []
            if steps.start == 0:
                there = name in self.trace._source.initial_names
                width = width_of(self.named, name)
                initial = self.trace._source.initial(name)[sequence] if there else torch.zeros(width)
                parts.append(initial.detach().as_subclass(Tensor).cpu().unsqueeze(0))
            later = steps[1:] if steps.start == 0 else steps
            if len(later):
                earlier = range(later.start - 1, later.stop - 1, later.step)
                parts.append(self.recorded(name, sequence, earlier))
            found.append(torch.cat(parts))
        return found

    def _laid_out(self, by_name: list[Tensor], dtype: torch.dtype) -> Any:
        """States as the model takes them: (L, n, H) each."""
        kinds = list(dict.fromkeys(map(state_of, self.states)))
        stacked = tuple(
            torch.stack([v for name, v in zip(self.states, by_name, strict=True) if state_of(name) == kind]).to(dtype)
            for kind in kinds
        )
        return stacked if len(stacked) > 1 else stacked[0]

    def _by_name(self, states: Any) -> list[Tensor]:
        """(n, H) of each name in `states`, of the states as the model gives them."""
        kinds = list(dict.fromkeys(map(state_of, self.states)))
        stacked = dict(zip(kinds, states if isinstance(states, tuple) else (states,), strict=True))
        layers = {kind: iter(value.unbind(0)) for kind, value in stacked.items()}
        return [next(layers[state_of(name)]) for name in self.states]

    def _checked_lengths(self, lengths: Any) -> list[int]:
        batch, steps = self.inputs.shape[:2]
        if lengths is None:
            return [steps] * batch
        found = [int(length) for length in lengths]
        if len(found) != batch or not all(0 <= length <= steps for length in found):
            raise ValueError(f"lengths: given {found}, expected {batch} whole numbers from 0 to {steps}")
        return found

    def _checked_reset(self, reset: Tensor | None) -> Tensor | None:
        if reset is None or not bool(reset.any()):
            return None
        if reset.dtype is not torch.bool or reset.shape != self.inputs.shape[:2]:
            raise ValueError(
                f"reset: given {tuple(reset.shape)} of {reset.dtype}, expected {tuple(self.inputs.shape[:2])} of bool"
            )
        if "reset" not in inspect.signature(self.model.forward).parameters:
            raise ValueError(
                f"reset: states are zeroed on the way, and {type(self.model).__name__}.forward takes no `reset`"
            )
        return reset.cpu()

    def _answers_every_step(self, targets: Tensor | None) -> bool:
        if isinstance(self.model, SequenceModel):
            return self.model.readout == "every"
        steps = min(_PROBE, max(self._lengths, default=0))
        if not steps:
            raise ValueError("inputs: no sequence has a step")
        with torch.no_grad():
            longest = self._lengths.index(max(self._lengths))
            answers = self.model(self.inputs[longest : longest + 1, :steps])
        answers = answers[0] if isinstance(answers, tuple | list) else answers
        if not isinstance(answers, Tensor) or answers.dim() < 1 or answers.size(0) != 1:
            given = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
            raise ValueError(f"model: answered one sequence of {steps} steps with {given}; expected (1, {steps}, K)")
        if answers.dim() < 2 or answers.size(1) != steps:
            return False
        # (1, n) may be n outputs of the sequence, or one output of each step.
        return answers.dim() > 2 or (targets is not None and targets.shape == self.inputs.shape[:2])

    def _obstacle(self) -> str:
        """Why the model cannot go on from recorded states; empty if it can."""
        if not isinstance(self.model, SequenceModel):
            return f"{type(self.model).__name__} is no SequenceModel, which could go on from recorded states"
        if not self.causal:
            return "it also reads from the end"
        if not self.every:
            return "it answers once a sequence"
        missing = [name for name in self.states if name not in self.trace]
        return f"{missing[0]!r} was not recorded" if missing else ""
