"""Whether a model is the one that a recording was made of, by names, by sizes, and by what its units do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unrolled.structure import widths
from unrolled.trace import Trace

# The largest difference from the recording, as a share of the unit's largest value (of 1 where that is less, of a
# hundredth of the largest unit's where that is more, for rounding is a share of all that is summed): far above what the
# kernels of another machine round differently, and far below what other weights make.
TOLERANCE = 1e-3


def first_step(trace: Trace, named: Mapping[str, tuple[nn.Module, str, str]], inputs: Tensor) -> int:
    """Hold names and sizes of a trace against a model and its inputs -> the first step that can be replayed.

    Args:
        trace: of the model.
        named: all that can be recorded of the model.
        inputs: (B, T, ...).

    Returns:
        0; 1 where the trace is a part that begins later than its recording, so that the states before its first step
        are not known.

    Raises:
        ValueError: they do not fit.
    """
    if not len(trace):
        raise ValueError("trace: nothing is in it")
    size = tuple(inputs.shape[:2])
    if len(size) < 2:
        raise ValueError(f"inputs: shape {size} does not fit; expected (B, T) or (B, T, I)")
    first = 0
    for name in trace:
        if name not in named:
            raise ValueError(
                f"trace: {name!r} is not in the model, which has {', '.join(named) or 'no recurrent layer'}; it was "
                "recorded of another network"
            )
        whole, width = trace._source.form(name).whole(name), width_of(named, name)
        if len(whole.units) != width:
            raise ValueError(f"trace: {name!r} has {len(whole.units)} units, and the model's has {width}")
        if (len(whole.sequences), len(whole.steps)) != size:
            raise ValueError(
                f"inputs: are {size[0]} sequences of {size[1]} steps, and {name!r} was recorded of "
                f"{len(whole.sequences)} of {len(whole.steps)}"
            )
        steps = trace._source.labels(name).steps
        if steps != range(steps[0], steps[0] + size[1]):
            raise ValueError(f"trace: {name!r} is a selection in which steps are left out; give all steps")
        first = 1 if steps[0] else 0
    return first


def width_of(named: Mapping[str, tuple[nn.Module, str, str]], name: str) -> int:
    """The units that a state or gate has in the model."""
    module, _, state = named[name]
    return widths(module)[state]


def compare(name: str, again: Tensor, recorded: Tensor, sequence: int, steps: range) -> None:
    """Complain where a state is not what was recorded of it.

    Args:
        name: of the state.
        again, recorded: (n, H) at the steps.
        sequence, steps: which they are, for the message.

    Raises:
        ValueError: they are further apart than rounding makes them.
    """
    again, recorded = again.detach().as_subclass(Tensor).double(), recorded.double()
    if again.shape != recorded.shape:
        raise ValueError(f"model: its layer of {name!r} takes {len(again)} steps where {len(recorded)} were recorded")
    apart = (again - recorded).abs().nan_to_num(torch.inf)
    apart[(again == recorded) | (again.isnan() & recorded.isnan())] = 0
    # One cell that has counted to a thousand must not hide what the others do.
    size = recorded.abs().nan_to_num(0, posinf=0).amax(0)
    beyond = apart / torch.maximum(size, size.max() / 100).clamp(min=1)
    if not float(beyond.max()) <= TOLERANCE:
        worst, unit = divmod(int(beyond.argmax()), apart.size(1))
        raise ValueError(
            f"trace: the model does not do what was recorded: unit {unit} of {name!r} at step {steps[worst]} of "
            f"sequence {sequence} is {float(recorded[worst, unit]):.4g} in the recording and "
            f"{float(again[worst, unit]):.4g} when replayed; give the network, weights and inputs that the recording "
            "was made with"
        )
