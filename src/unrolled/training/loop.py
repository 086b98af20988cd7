"""The one training loop: steps, validations, the best weights, and a state from which it goes on exactly."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.budget import Budget
from unrolled.problems.problem import Problem, answer, summed
from unrolled.training.world import Alone, World


@dataclass(frozen=True)
class Progress:
    """Where a fit stands; one line of its metrics. `value` is the problem's metric on the validation set.

    `loss` is the training loss since the line before, in nats or squared units. `speed` is in steps a second.
    `figures` has everything that the validation gave.
    """

    step: int
    steps: int
    loss: float
    value: float
    best: float
    seconds: float
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def speed(self) -> float:
        return self.step / self.seconds if self.seconds > 0 else math.nan

    @property
    def seconds_left(self) -> float:
        return (self.steps - self.step) / self.speed if self.step else math.nan


@dataclass(frozen=True)
class Fit:
    """What came out: the metrics, the best validation, and why training ended ("steps", "patience" or "seconds")."""

    metrics: tuple[Progress, ...]
    best_step: int
    best_value: float
    stopped: str


class Diverged(RuntimeError):
    """The loss or the weights are no longer numbers."""


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Everything random follows from `seed`, and only deterministic algorithms run; both are undone afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    # cuBLAS reads this once, when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        # Nothing here reads memory that was not written, and filling it takes an eighth of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
            torch.use_deterministic_algorithms(before, warn_only=warn_only)


@dataclass
class State:
    """Everything that decides how a training goes on after a step.

    Attributes:
        step: steps that were taken.
        seconds: how long they took.
        losses: (processes, steps) each process's losses since the last validation.
        model, best: weights now and at the best validation.
        optimizer: the optimiser's state_dict.
        carried: states that the next batch goes on from, batch of all processes.
        generators: the state of torch's random numbers in each process, and of the device's where it has its own.
    """

    step: int
    seconds: float
    best_step: int
    best_value: float
    losses: Tensor
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Any]
    carried: tuple[Tensor, ...]
    generators: Tensor


class Training:
    """One training, from its start or from a state.

    Args:
        model: changed in place.
        problem: where batches come from.
        budget: how long, and with what.
        world: the processes and the device.
        inspect: further figures of a validation, made from the model.
    """

    def __init__(
        self,
        model: nn.Module,
        problem: Problem,
        budget: Budget,
        *,
        world: World | None = None,
        inspect: Callable[[nn.Module], Mapping[str, Any]] | None = None,
    ) -> None:
        self.model, self.problem, self.budget = model, problem, budget
        self.world: World = world or Alone()
        self._inspect = inspect or (lambda _: {})
        self._called, self._optimizer = self.world.setup(
            model.to(self.world.device).train(), budget.optimizer_for(model)
        )
        self._sign = 1 if problem.higher_is_better else -1
        self._step, self._seconds = 0, 0.0
        self._best_step, self._best_value, self._best = 0, math.nan, copy.deepcopy(model.state_dict())
        self._losses: list[Tensor] = []
        self._carried: Any = None
        self._stopped: str | None = None

    def run(
        self,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        after_step: Callable[[Training], bool] | None = None,
    ) -> Fit | None:
        """Train until the budget ends, and leave the model with the weights of its best validation, in eval mode.

        Args:
            on_progress: called after every validation.
            after_step: called after every step and the validation that follows it; True stops here.

        Returns:
            What came out, None if `after_step` stopped it.

        Raises:
            Diverged: the loss or the weights became NaN or infinite; names the step.
        """
        budget, metrics = self.budget, []
        start = time.perf_counter() - self._seconds
        while not self._stopped and self._step < budget.steps:
            self._take()
            self._seconds = time.perf_counter() - start
            if self._validates:
                metrics.append(self._validate())
                self._seconds = time.perf_counter() - start
                if on_progress:
                    on_progress(metrics[-1])
                self._stopped = self._why_stop()
            if after_step is not None and after_step(self) and not self._stopped:
                return None
        self.model.load_state_dict(self._best)
        self.model.eval()
        return Fit(tuple(metrics), self._best_step, self._best_value, self._stopped or "steps")

    @property
    def step(self) -> int:
        """Steps that were taken."""
        return self._step

    @property
    def ended(self) -> bool:
        """Whether the last step was taken."""
        return self._stopped is not None

    def state(self) -> State:
        """Where the training stands now. All processes have to ask for it together."""
        carried = self._carried if isinstance(self._carried, tuple) else (self._carried,)
        losses = torch.stack(self._losses) if self._losses else torch.empty(0, device=self.world.device)
        generator = torch.get_rng_state()
        if self.world.device.type == "cuda":
            generator = torch.cat((generator, torch.cuda.get_rng_state(self.world.device)))
        return State(
            self._step,
            self._seconds,
            self._best_step,
            self._best_value,
            self.world.joined(losses.unsqueeze(0), 0),
            self.model.state_dict(),
            self._best,
            self._optimizer.state_dict(),
            () if self._carried is None else tuple(self.world.joined(state, 1) for state in carried),
            self.world.joined(generator.unsqueeze(0), 0),
        )

    def restore(self, state: State) -> None:
        """Go on from a state that a training of the same budget had."""
        device, share = self.world.device, self.world.share
        self._step, self._seconds = state.step, state.seconds
        self._best_step, self._best_value, self._best = state.best_step, state.best_value, dict(state.best)
        # The mean of the processes' losses is that of the joint batch.
        losses = state.losses[share.part] if len(state.losses) == share.of else state.losses.mean(0)
        self._losses = list(losses.to(device))
        self.model.load_state_dict(state.model)
        self._optimizer.load_state_dict(state.optimizer)
        carried = tuple(s[:, share.rows(s.size(1))].clone().to(device) for s in state.carried)
        self._carried = None if not carried else carried if len(carried) > 1 else carried[0]
        # It may have been lost between its last checkpoint and its end.
        self._stopped = self._why_stop() if self._validates else None
        if len(state.generators) != share.of:
            # Another number of processes: none of the old random streams is theirs.
            torch.manual_seed(hash((state.step, share.part, share.of)) % 2**32)
            return
        generator = state.generators[share.part].clone()
        own = torch.get_rng_state().numel()
        torch.set_rng_state(generator[:own])
        if device.type == "cuda":
            torch.cuda.set_rng_state(generator[own:], device)

    @property
    def _validates(self) -> bool:
        """Whether a validation follows the step that was taken last."""
        return self._step % self.budget.validate_every == 0 or self._step == self.budget.steps

    def _take(self) -> None:
        """One step of the optimiser."""
        step, budget, share = self._step + 1, self.budget, self.world.share
        batch, count = self.problem.batch(step, share)
        batch = batch.to(self.world.device)
        for group in self._optimizer.param_groups:
            group["lr"] = budget.rate(step)
        answers, carried = answer(self._called, batch, self._carried)
        # Processes average their gradients: each gives its part of the joint mean times their number.
        loss = self.problem.loss(answers, batch) / (count / share.of)
        self._carried = _detached(carried)
        # What zero_grad does, without its profiling.
        for parameter in self.model.parameters():
            parameter.grad = None
        self.world.backward(loss)
        self.world.clip(self._called, self._optimizer, budget.clip)
        self._optimizer.step()
        self._losses.append(loss.detach())
        self._step = step

    def _validate(self) -> Progress:
        problem, budget, step = self.problem, self.budget, self._step
        share = self.world.share
        advice = f"; lower learning_rate ({budget.learning_rate}) or clip ({budget.clip})"
        mean_loss = float(self.world.total(torch.stack(self._losses).mean())) / share.of
        self._losses.clear()
        # A step can spoil the weights after its loss was taken; an accuracy would not show it.
        if not math.isfinite(mean_loss) or not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise Diverged(f"training on {problem.title} diverged: the loss is {mean_loss} by step {step}{advice}")
        figures = problem.figures(self.world.total(summed(self.model, problem, "validation", share)))
        value = figures[problem.metric]
        if not math.isfinite(value):
            raise Diverged(f"training on {problem.title} diverged: the validation gives {value} at step {step}{advice}")
        if math.isnan(self._best_value) or self._sign * value > self._sign * self._best_value:
            self._best_step, self._best_value = step, value
            self._best = copy.deepcopy(self.model.state_dict())
        return Progress(
            step,
            budget.steps,
            mean_loss,
            value,
            self._best_value,
            self._seconds,
            {**figures, **self._inspect(self.model)},
        )

    def _why_stop(self) -> str | None:
        budget, since = self.budget, self._step - self._best_step
        if budget.patience is not None and since >= budget.patience * budget.validate_every:
            return "patience"
        if self._step == budget.steps:
            return "steps"
        if budget.seconds is not None and self.world.agreed(self._seconds > budget.seconds):
            return "seconds"
        return None


def _detached(states: Any) -> Any:
    if isinstance(states, tuple):
        return tuple(state.detach() for state in states)
    return None if states is None else states.detach()


def as_row(progress: Progress) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return asdict(progress)
