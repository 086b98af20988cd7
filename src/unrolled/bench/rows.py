"""The rows of the bench: sizes, layers, directions and loss of what is timed, as text and as numbers.

A row is written B,T,I,H and, where it is not one layer in one direction with a loss of every step, what differs:
`32,128,64,128:layers=2,bidirectional` or `32,1000,1,64:loss=last`.
"""

from __future__ import annotations

from dataclasses import dataclass

CELLS = ("rnn", "gru", "lstm")
INFERENCE, TRAINING, TRAINING_TO_INPUT = "inference", "training", "training to input"
# What can be asked for; training in which the input is given its gradient too comes beside training.
PHASES = (INFERENCE, TRAINING)

LOSSES = {
    "every": "the gradient of the output is a fixed random number everywhere",
    "last": "the same, at the last step only",
    "sum": "the sum of the output, whose gradient is one number with stride 0",
    "squares": "the mean square of the distance to a fixed random target",
}
_GATES = {"rnn": 1, "gru": 3, "lstm": 4}
_EXPECTED = (
    "expected B,T,I,H as whole numbers of at least 1 and, if wanted, layers, bidirectional and loss: "
    "32,128,64,128 or 32,128,64,128:layers=2,bidirectional,loss=last"
)


@dataclass(frozen=True)
class Row:
    """One row of the bench: a batch of B sequences of T steps of I inputs, a layer of H units."""

    batch: int
    steps: int
    inputs: int
    hidden: int
    layers: int = 1
    bidirectional: bool = False
    loss: str = "every"

    @classmethod
    def parse(cls, text: str) -> Row:
        """A row from its text.

        Raises:
            ValueError: the text is not that of a row; the message says what is expected.

        >>> Row.parse("32,128,64,128:layers=2,bidirectional")
        Row(batch=32, steps=128, inputs=64, hidden=128, layers=2, bidirectional=True, loss='every')
        """
        sizes, _, rest = text.partition(":")
        numbers = [_whole(part, text) for part in sizes.split(",")]
        if len(numbers) != 4:
            raise ValueError(f"rows: {text!r} has {len(numbers)} sizes; {_EXPECTED}")
        layers, bidirectional, loss = 1, False, "every"
        for setting in rest.split(",") if rest else []:
            name, _, value = setting.partition("=")
            if setting == "bidirectional":
                bidirectional = True
            elif name == "layers":
                layers = _whole(value, text)
            elif name == "loss" and value in LOSSES:
                loss = value
            elif name == "loss":
                raise ValueError(f"rows: loss in {text!r} is {value!r}; expected one of {', '.join(LOSSES)}")
            else:
                raise ValueError(f"rows: {setting!r} in {text!r} is not a setting; {_EXPECTED}")
        batch, steps, inputs, hidden = numbers
        return cls(batch, steps, inputs, hidden, layers, bidirectional, loss)

    def __str__(self) -> str:
        """The text from which `parse` makes this row.

        >>> str(Row(32, 1000, 1, 64, loss="last"))
        '32,1000,1,64:loss=last'
        """
        settings = [f"layers={self.layers}"] * (self.layers > 1) + ["bidirectional"] * self.bidirectional
        settings += [f"loss={self.loss}"] * (self.loss != "every")
        return f"{self.batch},{self.steps},{self.inputs},{self.hidden}" + (":" + ",".join(settings) if settings else "")

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def plain(self) -> bool:
        """Whether it is one layer in one direction with a loss of every step: one of those that means are taken of."""
        return self == Row(self.batch, self.steps, self.inputs, self.hidden)

    def operations(self, cell: str, phase: str) -> int:
        """Floating-point operations of the matrix products alone, a multiplication and an addition being two.

        Forward: the input's and the state's projection. Training adds the gradients to both weights, to the state at
        every step and to the input, the first layer's input only in TRAINING_TO_INPUT. The product with the state
        before the first step is counted, as it would be with a state other than zero.
        """
        count = 0
        for layer in range(self.layers):
            inputs = self.hidden * self.directions if layer else self.inputs
            forward = inputs + self.hidden
            to_input = inputs if layer or phase == TRAINING_TO_INPUT else 0
            products = forward if phase == INFERENCE else forward + forward + self.hidden + to_input
            count += 2 * self.directions * self.batch * self.steps * _GATES[cell] * self.hidden * products
        return count


def _whole(text: str, row: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"rows: {text!r} in {row!r} is not a whole number of at least 1; {_EXPECTED}")
    return int(text)


ROWS = (
    Row(1, 128, 64, 64),
    Row(1, 128, 256, 256),
    Row(16, 128, 32, 32),
    Row(32, 128, 64, 64),
    Row(32, 128, 128, 128),
    Row(64, 100, 128, 256),
    Row(64, 100, 512, 512),
    Row(256, 50, 64, 128),
    Row(32, 1000, 1, 64),
    Row(32, 100, 1024, 1024),
    Row(32, 128, 64, 128, layers=2, bidirectional=True),
    Row(32, 1000, 1, 64, loss="last"),
)
GPU_ROWS = (
    Row(16, 1024, 64, 64),
    Row(16, 1024, 128, 128),
    Row(16, 1024, 256, 256),
    Row(16, 1024, 512, 512),
    # That of FlashRNN's published plot.
    Row(16, 1024, 768, 768),
    Row(16, 1024, 1024, 1024),
    Row(128, 1024, 512, 512),
    Row(1, 1024, 256, 256),
    # cuDNN's fastest kernels take B in eights and H in multiples of 128.
    Row(16, 1024, 200, 200),
    Row(37, 500, 100, 100),
)
