"""What is measured: a recording, one layer of its network, and the reasons why an instrument cannot be asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.extras import lacking
from unrolled.instruments.opened import OpenLayer, open_layer
from unrolled.recurrence.cells import CELLS, Cell
from unrolled.source import layer_of, state_of
from unrolled.structure import state_sizes
from unrolled.viewer.measuring.pieces import Pieces, cut
from unrolled.viewer.recorded import Label, Recorded

PACKAGES = ("xarray", "scipy", "sklearn")
SHORTEST = 4  # steps of a piece


@dataclass(frozen=True)
class Subject:
    """A recording and what of it is looked at.

    Attributes:
        recorded: the recording.
        named_layer: a recorded layer; the last that reads from the beginning, if None.
        named_label: a label; the first that fits the instrument, if None.
        named_state: a state or gate; what the instrument usually takes, if None.
        sequence: at which sequence of the recording the user stands.
        step: and at which of its steps.
    """

    recorded: Recorded
    named_layer: str | None = None
    named_label: str | None = None
    named_state: str | None = None
    sequence: int = 0
    step: int | None = None

    def check(self) -> None:
        """Complain about names and numbers that the recording does not have.

        Raises:
            ValueError: one is not there; says which there are.
        """
        if self.named_layer is not None and self.named_layer not in self.layers:
            raise ValueError(f"layer: {self.named_layer!r} is not recorded; expected one of {', '.join(self.layers)}")
        if self.named_label is not None:
            self._label()
        count = len(self.recorded.lengths)
        if not 0 <= self.sequence < count:
            raise ValueError(f"sequence: given {self.sequence}, expected 0 to {count - 1}")
        length = self.recorded.lengths[self.sequence]
        if self.step is not None and not 0 <= self.step < length:
            raise ValueError(f"step: given {self.step}, expected 0 to {length - 1}")

    @cached_property
    def model(self) -> nn.Module:
        """The network; there has to be one."""
        assert self.recorded.model is not None
        return self.recorded.model()

    @cached_property
    def pieces(self) -> Pieces:
        return cut(self.recorded)

    @cached_property
    def layers(self) -> list[str]:
        """The recorded layers, in the order of the model."""
        return list(dict.fromkeys(map(layer_of, self.recorded.trace)))

    @property
    def layer(self) -> str:
        if self.named_layer is not None:
            return self.named_layer
        return next((name for name in reversed(self.layers) if not name.endswith("_reverse")), self.layers[-1])

    @cached_property
    def opened(self) -> OpenLayer:
        return open_layer(self.model, self.layer)

    @property
    def units(self) -> int:
        """Of all states of the layer together."""
        return sum(state_sizes(self.opened.module).values())

    @cached_property
    def cell(self) -> Cell:
        """The layer's row in the table of cells; without a network, the first that has all that was recorded of it."""
        if self.recorded.model is not None:
            return self.opened.cell
        names = {state_of(name) for name in self.recorded.trace if layer_of(name) == self.layer}
        return next(cell for cell in CELLS.values() if names <= set(cell.names))

    def counting(self) -> Pieces:
        """The pieces at whose end an answer counts."""
        found = counts(self.recorded)
        return self.pieces if found is None else self.pieces.where(found)

    def label(self) -> Label:
        """The label that was named, or the first that tells steps apart; rather one that says yes or no."""
        if self.named_label is not None:
            return self._label()
        telling = [label for label in self.recorded.labels if label.most > 0]
        return next((label for label in telling if label.binary), telling[0])

    def marking(self) -> Label:
        """The label that was named, or the first whose values above 0 mark the steps that matter."""
        if self.named_label is not None:
            return self._label()
        return next(label for label in sorted(self.recorded.labels, key=lambda one: not one.binary) if marks(label))

    def _label(self) -> Label:
        assert self.named_label is not None
        try:
            return self.recorded.label(self.named_label)
        except KeyError as error:
            raise ValueError(error.args[0]) from None


def marks(label: Label) -> bool:
    """Whether a label says yes or no, or counts, and is not always the same."""
    return label.names is None and label.most > 0 and bool((label.values == 0).any())


def counts(recorded: Recorded) -> Tensor | None:
    """(B, T) bool, or (B,) where the readout is the mean: the answers that count; None without targets."""
    targets = recorded.targets
    if targets is None:
        return None
    return targets.isfinite().any(-1) if recorded.loss == "values" else targets >= 0


def last_loss(recorded: Recorded, answers: Tensor, targets: Tensor) -> Tensor:
    """(N,) the loss at the last step, or of the whole sequence where the readout is the mean.

    Cross-entropy in nats, or the mean squared error over the values that are there.

    Args:
        recorded: says what the answers are.
        answers: (N, T, K), or (N, K).
        targets: those of the last step.
    """
    at = answers[:, -1] if recorded.readout == "every" else answers
    if recorded.loss == "classes":
        return F.cross_entropy(at, targets, reduction="none")
    there = targets.isfinite()
    error = torch.where(there, at - targets.nan_to_num().to(at), 0)
    return error.square().sum(-1) / there.sum(-1)


# Each says why an instrument cannot be asked, None if it can.


def needs_packages(subject: Subject) -> str | None:
    missing = next((name for name in PACKAGES if find_spec(name) is None), None)
    return None if missing is None else str(lacking(missing, "this instrument", "study"))


def needs_network(subject: Subject) -> str | None:
    if subject.recorded.model is None:
        return "the network itself; this recording has only what its states did"
    try:
        subject.model  # noqa: B018
        subject.opened  # noqa: B018
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        return f"the network itself, which cannot be loaded: {error}"
    return None


def needs_pieces(least: int, subject: Subject) -> str | None:
    if subject.recorded.inputs is None:
        return "what the network read; this recording has only what its states did"
    pieces = subject.pieces
    if pieces.length < SHORTEST:
        return (
            f"sequences of {SHORTEST} steps or more without a reset; "
            f"most of this recording's have {pieces.length or 'none'}"
        )
    if len(pieces) < least:
        return f"{least} sequences, or pieces of one, to tell chance from more; this recording gives {len(pieces)}"
    return None


def needs_answers(subject: Subject) -> str | None:
    if subject.recorded.loss is None or subject.recorded.targets is None:
        return "what the network should answer, which this recording does not have"
    if not len(subject.counting()):
        return "sequences at whose end an answer counts; this recording has none"
    return None


def needs_outputs(subject: Subject) -> str | None:
    return None if subject.recorded.loss is not None else "to know what the network's outputs are"


def needs_answers_at_steps(subject: Subject) -> str | None:
    if subject.recorded.readout == "mean":
        return (
            "an answer at a step; this network answers for the whole sequence from the mean over its steps, "
            "to which every step has a path of its own"
        )
    return None


def needs_different_inputs(subject: Subject) -> str | None:
    inputs = subject.recorded.inputs
    ever_differs = inputs is not None and inputs.numel() > 0 and bool((inputs != inputs[:1, :1]).any())
    return None if ever_differs else "an input that changes"


def needs_a_gate_that_keeps(subject: Subject) -> str | None:
    cell = subject.cell
    if "keep" not in cell.opens:
        return f"a cell with a gate that keeps its state; this is an {cell.name.upper()}"
    if subject.opened.mode == "LSTM_ZONEOUT":
        return "a state that is what its gates keep and write; zoneout keeps more"
    return None


def needs_bounds(subject: Subject) -> str | None:
    """A ReLU's states have no ends."""
    return "gates, or states with ends; a ReLU's have none" if subject.opened.mode == "RNN_RELU" else None


def needs_few_units(most: int, subject: Subject) -> str | None:
    if subject.units <= most:
        return None
    return f"a layer whose states have {most:,} units at most, to end within a minute; this has {subject.units:,}"


def needs_label(subject: Subject) -> str | None:
    if not any(label.most > 0 for label in subject.recorded.labels):
        return "a label with two values or more, of what is true at each step; this recording has none"
    return None


def needs_forward(subject: Subject) -> str | None:
    if not subject.layer.endswith("_reverse"):
        return None
    return "a layer that reads from the beginning, in which later steps come after"


def needs_first_layer(subject: Subject) -> str | None:
    if first_layer(subject) is None:
        return "a layer that reads the network's input; of this network only layers above the first were recorded"
    return None


def first_layer(subject: Subject) -> str | None:
    """The layer that was named, or the first that reads the input from the beginning; None if it is a higher one."""
    named = subject.layers if subject.named_layer is None else [subject.named_layer]
    suffixes = {name: name.rpartition(".")[2] for name in named}
    lowest = [name for name, end in suffixes.items() if not _higher(end)]
    return next((name for name in lowest if not name.endswith("_reverse")), lowest[0] if lowest else None)


def _higher(suffix: str) -> bool:
    """Whether a layer of this suffix reads a layer below: l1, l2_reverse, ..."""
    digits = suffix.removesuffix("_reverse").removeprefix("l")
    return suffix.startswith("l") and digits.isdigit() and digits != "0"


def needs_gate(subject: Subject) -> str | None:
    if not recorded_gates(subject):
        return "a gate that was recorded; there is none of this layer"
    if not any(map(marks, subject.recorded.labels)):
        return "a label that is yes or no at each step, or a count; this recording has none"
    return None


def recorded_gates(subject: Subject) -> list[str]:
    """The gates between 0 and 1 that were recorded of the layer."""
    names = [state_of(name) for name in subject.recorded.trace if layer_of(name) == subject.layer]
    return [name for name in names if name.endswith("_gate")]


def needs_training(subject: Subject) -> str | None:
    return "to train the network anew on several training sets, which `unrolled compare` does"


needs_some_pieces = partial(needs_pieces, 1)
needs_many_pieces = partial(needs_pieces, 8)
