"""JAX on the same weights: a jitted scan over time, the input's projection taken out of it as one product.

The steps are written as in the papers, independently of unrolled's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from unrolled.bench.numbers import Numbers
from unrolled.bench.rows import INFERENCE, TRAINING_TO_INPUT

_Entered = tuple[Callable[[], Any], Callable[[Any], dict[str, Tensor]]]


def scan(numbers: Numbers, phase: str, threads: int) -> _Entered:
    """The forward pass, or the loss and its gradients, compiled.

    Raises:
        RuntimeError: JAX has been started in this process before with another number of threads.
    """
    _set_threads(threads)
    jax: Any = import_module("jax")
    weights = {name: jax.numpy.asarray(value.numpy()) for name, value in numbers.weights.items()}
    x, target = jax.numpy.asarray(numbers.x.numpy()), jax.numpy.asarray(numbers.target.numpy())
    forward = _forward(jax, numbers)
    if phase == INFERENCE:
        infer = jax.jit(forward)
        return lambda: jax.block_until_ready(infer(weights, x)), lambda output: {"output": _as_torch(output)}
    to_input = phase == TRAINING_TO_INPUT

    def loss(weights: Any, x: Any, target: Any) -> Any:
        output = forward(weights, x)
        return _loss(jax.numpy, numbers.row.loss, output, target), output

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1) if to_input else 0, has_aux=True))

    def read(returned: Any) -> dict[str, Tensor]:
        (_, output), found = returned
        to_weights = found[0] if to_input else found
        results = {"output": output} | {f"gradient of {name}": value for name, value in to_weights.items()}
        if to_input:
            results["gradient of x"] = found[1]
        return {name: _as_torch(value) for name, value in results.items()}

    return lambda: jax.block_until_ready(step(weights, x, target)), read


def _set_threads(threads: int) -> None:
    # XLA sizes its pool of threads once, when its first computation starts, and takes the number from here.
    if "jax" not in sys.modules:
        os.environ["NPROC"] = str(threads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    started = os.environ.get("NPROC", str(cores))
    if started != str(threads):
        raise RuntimeError(f"JAX was started with {started} threads, and can be with {threads} in a new process only")


def _loss(np: Any, name: str, output: Any, target: Any) -> Any:
    """The loss whose gradient is that of `backward` in numbers.py."""
    if name == "every":
        return np.vdot(output, target)
    if name == "last":
        return np.vdot(output[-1], target[-1])
    return output.sum() if name == "sum" else np.square(output - target).mean()


def _forward(jax: Any, numbers: Numbers) -> Callable[[Any, Any], Any]:
    """weights, x: (T, B, I) -> output: (T, B, D * H), every layer and direction."""
    np, row, lstm = jax.numpy, numbers.row, numbers.cell == "lstm"
    step = {"rnn": _rnn, "gru": _gru, "lstm": _lstm}[numbers.cell]
    # Only the GRU's second bias is inside the step, under the reset gate.
    inside = numbers.cell == "gru"

    def direction(weights: Any, x: Any, suffix: str) -> Any:
        recurrent, bias = weights[f"weight_hh_{suffix}"].T, weights[f"bias_hh_{suffix}"]
        projected = x @ weights[f"weight_ih_{suffix}"].T + weights[f"bias_ih_{suffix}"] + (0 if inside else bias)
        zero = np.zeros((row.batch, row.hidden), x.dtype)

        def body(states: Any, gates_x: Any) -> Any:
            new = step(jax, gates_x, states, recurrent, bias)
            return new, new[0]

        initial = (zero, zero) if lstm else (zero,)
        return jax.lax.scan(body, initial, projected, reverse=suffix.endswith("_reverse"))[1]

    def forward(weights: Any, x: Any) -> Any:
        for layer in range(row.layers):
            suffixes = [f"l{layer}{direction}" for direction in ("", "_reverse")[: row.directions]]
            x = np.concatenate([direction(weights, x, suffix) for suffix in suffixes], axis=-1)
        return x

    return forward


def _rnn(jax: Any, x: Any, states: Any, recurrent: Any, bias: Any) -> Any:
    return (jax.numpy.tanh(x + states[0] @ recurrent),)


def _gru(jax: Any, x: Any, states: Any, recurrent: Any, bias: Any) -> Any:
    (hidden,) = states
    x_reset, x_update, x_candidate = jax.numpy.split(x, 3, axis=-1)
    h_reset, h_update, h_candidate = jax.numpy.split(hidden @ recurrent + bias, 3, axis=-1)
    reset, update = jax.nn.sigmoid(x_reset + h_reset), jax.nn.sigmoid(x_update + h_update)
    candidate = jax.numpy.tanh(x_candidate + reset * h_candidate)
    return ((1 - update) * candidate + update * hidden,)


def _lstm(jax: Any, x: Any, states: Any, recurrent: Any, bias: Any) -> Any:
    hidden, cell = states
    i, f, g, o = jax.numpy.split(x + hidden @ recurrent, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jax.numpy.tanh(g)
    return jax.nn.sigmoid(o) * jax.numpy.tanh(cell), cell


def _as_torch(value: Any) -> Tensor:
    numpy: Any = import_module("numpy")
    return torch.from_numpy(numpy.array(value))
