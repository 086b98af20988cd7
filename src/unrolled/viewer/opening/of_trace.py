"""A trace and what its owner knows of it, as what is looked at: for recordings of any model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.readings import Reading
from unrolled.trace import Trace
from unrolled.viewer.opening.of_reading import own_lengths, shown
from unrolled.viewer.recorded import Characters, Label, Recorded, trace_shape

Text = str | Sequence[str]


def of_trace(
    trace: Trace,
    *,
    text: Text | None = None,
    inputs: Any = None,
    labels: Mapping[str, Any] | None = None,
    model: nn.Module | None = None,
    title: str | None = None,
    path: Path | None = None,
) -> Recorded:
    """What is looked at, of a trace alone.

    Args:
        trace: the recording; all its layers must have one number of sequences and of steps.
        text: what was read, a character a step: of each sequence one, or a single one.
        inputs: what the network was given: (B, T, I), or (B, T) whole numbers. Of a single sequence B may be left out.
        labels: what is true at each step, name -> (B, T) whole numbers or bool, -1 where it is not defined. Of a single
            sequence B may be left out.
        model: the network; a copy of it in eval mode is looked at.
        title: in a few words.
        path: the recording's directory.

    Raises:
        ValueError: something given does not fit the trace; names it.
        TypeError: labels are not whole numbers.
    """
    batch, steps = trace_shape(trace)
    lengths = own_lengths(trace)
    given = None if inputs is None else _with_batch(torch.as_tensor(inputs).detach().cpu(), batch, steps)
    texts = None if text is None else (text,) if isinstance(text, str) else tuple(text)
    if texts is not None and len(texts) != batch:
        raise ValueError(f"text: {len(texts)} given, expected {batch}, one for each sequence")
    read = Characters(texts) if texts is not None else None if given is None else shown(given)
    made = [Label(name, _label(name, values, batch, steps)) for name, values in (labels or {}).items()]
    return Recorded(
        title=title or f"{batch} x {steps} steps",
        trace=trace,
        lengths=lengths,
        read=read,
        labels=tuple(made),
        inputs=given,
        reset=trace.resets(next(iter(trace))),
        model=None if model is None else _kept(model),
        path=path,
    )


def inputs_of_file(path: Path) -> Reading:
    """What was read, from a .safetensors file that has a tensor named inputs, or a .npy file with one array.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or something else.
    """
    if path.suffix != ".npy":
        return Reading.read(path)
    try:
        return Reading(inputs=torch.from_numpy(np.load(path, allow_pickle=False)))
    except (ValueError, EOFError, TypeError) as error:
        raise ValueError(f"{path} is no array that can be read ({error}); expected one of numpy.save") from error


def text_of_file(path: Path, lengths: Sequence[int]) -> tuple[str, ...]:
    """The text of each sequence: of one all of a file, of several a line for each.

    What an editor adds is left out where the text has too many characters: carriage returns, and a last line end.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not UTF-8, or has other numbers of characters or lines than there are steps or sequences.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"--text: {path} is not UTF-8 text ({error})") from error
    if len(lengths) == 1:
        plain = text.replace("\r\n", "\n")
        ways = [way for way in (text, plain, plain.removesuffix("\n")) if len(way) == lengths[0]]
        if not ways:
            raise ValueError(f"--text: {path} has {len(text)} characters, expected {lengths[0]}, one for each step")
        return (ways[0],)
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if tuple(map(len, lines)) != tuple(lengths):
        raise ValueError(
            f"--text: {path} has {len(lines)} lines; expected {len(lengths)}, one for each sequence and each with as "
            "many characters as the sequence has steps"
        )
    return tuple(lines)


def _with_batch(inputs: Tensor, batch: int, steps: int) -> Tensor:
    if batch == 1 and inputs.shape[:2] != (1, steps) and inputs.dim() in (1, 2) and len(inputs) == steps:
        return inputs.unsqueeze(0)
    return inputs


def _label(name: str, values: Any, batch: int, steps: int) -> Any:
    found = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if found.dtype != bool and not np.issubdtype(found.dtype, np.integer):
        raise TypeError(f"labels: {name!r} is of {found.dtype}; expected whole numbers or bool, a value a step")
    if batch == 1 and found.shape == (steps,):
        found = found[None]
    return found.astype(np.int64)


def _kept(model: nn.Module) -> Callable[[], nn.Module]:
    return partial(_in_eval_mode, model)


def _in_eval_mode(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).eval()
