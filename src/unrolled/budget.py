"""How a model is fitted: the options of a training and the optimiser they make. Read by the command line: no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How a model is fitted.

    Attributes:
        steps: optimiser steps at most.
        batch_size: sequences a step.
        learning_rate: the highest one of the schedule.
        clip: the gradient's norm is cut to this.
        validate_every: steps between validations; the weights of the best validation are kept.
        validation_size: sequences in the validation set, of tasks that draw as many as are wanted.
        patience: stop after this many validations without a better one; None never stops early.
        seconds: stop at the first validation after this time; None sets no limit. A run it cuts short depends on the
            machine's speed and not on the seed alone.
        optimizer: "adam" (Kingma & Ba 2015), "adamw" (Loshchilov & Hutter 2019; beta2 is 0.99, which follows the fast
            changes of a recurrent network's gradients), "rmsprop", or "sgd" with momentum 0.9.
        weight_decay: of "adamw", and of the others as torch adds it to the gradient.
        schedule: how the learning rate falls until the last step: "constant" not at all, "linear" to 0, "cosine" to a
            fiftieth.
        warmup: steps over which the learning rate rises first.
    """

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 3e-3
    clip: float = 1.0
    validate_every: int = 100
    validation_size: int = 256
    patience: int | None = None
    seconds: float | None = None
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "clip", "validate_every", "validation_size"):
            value = getattr(self, name)
            if not value > 0 or not math.isfinite(value):
                raise ValueError(f"{name}: must be above 0, given {value}")
        for name in ("patience", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: must be above 0 or None, given {value}")
        for name in ("weight_decay", "warmup"):
            value = getattr(self, name)
            if not value >= 0 or not math.isfinite(value):
                raise ValueError(f"{name}: must be 0 or more, given {value}")
        for name, known in (("optimizer", _OPTIMIZERS), ("schedule", _FLOORS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: given {getattr(self, name)!r}, expected one of {', '.join(known)}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 1."""
        rising = min(1.0, step / self.warmup) if self.warmup else 1.0
        done = (step - 1) / self.steps
        falling = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.schedule]
        floor = _FLOORS[self.schedule]
        return self.learning_rate * rising * (floor + (1 - floor) * falling)

    def optimizer_for(self, model: nn.Module) -> Optimizer:
        """The optimiser of a model's parameters."""
        from torch import optim

        made: dict[str, type[Optimizer]] = {
            "adam": optim.Adam,
            "adamw": optim.AdamW,
            "rmsprop": optim.RMSprop,
            "sgd": optim.SGD,
        }
        options: dict[str, Any] = {"lr": self.rate(1), "weight_decay": self.weight_decay, **_OPTIMIZERS[self.optimizer]}
        return made[self.optimizer](model.parameters(), **options)


# What each optimiser is given beside torch's own defaults. Fused ones take a third of the time; "adam" stays as it is,
# since it rounds otherwise and the figures of studies would be others.
_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw": {"betas": (0.9, 0.99), "fused": True},
    "rmsprop": {},
    "sgd": {"momentum": 0.9, "fused": True},
}
# The share of the learning rate that is left at the end of a schedule.
_FLOORS = {"constant": 1.0, "linear": 0.0, "cosine": 0.02}
