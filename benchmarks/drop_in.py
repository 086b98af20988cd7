"""What a practitioner pays: streaming step by step, resets, lengths, and the LSTM's variants, beside torch.nn.

    python benchmarks/drop_in.py [--seconds 3] [--threads 2]

Every contestant of a table is timed in turn in one run; figures are medians. Each result, every gradient included, is
held to float64 before it is timed, and one that is wrong ends the run. A layer-normalised network makes rounding errors
grow from step to step, whoever computes it: a variant may be off by three times as much as PyTorch's steps in float32.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import unrolled
from unrolled.bench.alternation import alternate
from unrolled.bench.truth import TOLERANCE
from unrolled.recurrence.cells import NO_MASKS, Masks
from unrolled.variants import VARIANTS

KINDS = ("RNN", "GRU", "LSTM")
B, T, I, H = 32, 128, 128, 128  # noqa: E741
Works = dict[str, Callable[[], object]]


def checked(
    name: str, found: dict[str, Tensor], right: dict[str, Tensor], rounded: dict[str, Tensor] | None = None
) -> None:
    for result, exact in right.items():
        allowed = TOLERANCE if rounded is None else max(TOLERANCE, 3 * error(rounded[result], exact))
        if not error(found[result], exact) <= allowed:  # so that NaN is an error too
            raise SystemExit(f"{name}: {result} is off by {error(found[result], exact):.2g}, allowed is {allowed:.2g}")


def error(found: Tensor, exact: Tensor) -> float:
    """The largest difference beside the largest magnitude."""
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()


def trained(call: Callable[[], Tensor], layer: nn.Module, grad: Tensor) -> dict[str, Tensor]:
    """Forward, and backward to the weights."""
    layer.zero_grad(set_to_none=True)
    output = call()
    output.backward(grad.to(output.dtype))
    return {"output": output.detach(), **{name: p.grad for name, p in layer.named_parameters() if p.grad is not None}}


def table(title: str, works: Works, seconds: float, *, unit: float, beside: str, ratio: str) -> None:
    times = {name: timing.median for name, timing in alternate(works, seconds).items()}
    print(f"\n{title}\n")
    for name, time in times.items():
        print(f"  {name:46} {time * unit:9.2f}   {ratio.format(times[beside] / time, time / times[beside])}")


def streaming(seconds: float) -> None:
    for kind in KINDS:
        theirs = getattr(nn, kind)(64, 64)
        ours = unrolled.convert(copy.deepcopy(theirs))
        x, state = torch.randn(200, 1, 64), torch.zeros(1, 1, 64)
        before = (state, state) if kind == "LSTM" else state

        def steps(layer: Any, x: Tensor = x, before: Any = before) -> Tensor:
            outputs, state = [], before
            with torch.no_grad():
                for t in range(len(x)):
                    output, state = layer(x[t : t + 1], state)
                    outputs.append(output)
            return torch.cat(outputs)

        with torch.no_grad():
            right = {"output": copy.deepcopy(theirs).double()(x.double())[0]}
        for layer in (theirs, ours):
            checked(f"streaming {kind}", {"output": steps(layer)}, right)
        one = x[:1]

        def step(layer: Any, one: Tensor = one, before: Any = before) -> object:
            with torch.no_grad():
                return layer(one, before)

        works: Works = {"torch.nn": partial(step, theirs), "unrolled": partial(step, ours)}
        title = f"{kind}: one step at B = 1, H = 64, without gradients (microseconds; torch.nn over it)"
        table(title, works, seconds, unit=1e6, beside="torch.nn", ratio="{0:.2f}")


def in_pieces(layer: Any, x: Tensor, reset: Tensor) -> Tensor:
    """What is done with torch.nn's layers: a loop over the steps that zeroes the states."""
    outputs, state = [], None
    for t in range(len(x)):
        if state is not None:
            keep = (~reset[t]).to(x.dtype).unsqueeze(-1)
            state = tuple(s * keep for s in state) if isinstance(state, tuple) else state * keep
        output, state = layer(x[t : t + 1], state)
        outputs.append(output)
    return torch.cat(outputs)


def packed(layer: Any, x: Tensor, lengths: Tensor) -> Tensor:
    output, _ = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    return pad_packed_sequence(output, total_length=len(x))[0]


def resets_and_lengths(seconds: float) -> None:
    x, grad = torch.randn(T, B, I), torch.randn(T, B, H)
    reset, lengths = torch.rand(T, B) < 0.02, torch.randint(1, T + 1, (B,))
    for kind in KINDS:
        theirs = getattr(nn, kind)(I, H)
        ours = unrolled.convert(copy.deepcopy(theirs))
        exact = copy.deepcopy(theirs).double()
        calls: dict[str, tuple[nn.Module, Callable[[], Tensor], Callable[[], Tensor]]] = {
            "unrolled": (ours, lambda m=ours: m(x)[0], lambda m=exact: m(x.double())[0]),
            "unrolled, reset=": (
                ours,
                lambda m=ours: m(x, reset=reset)[0],
                lambda m=exact: in_pieces(m, x.double(), reset),
            ),
            "unrolled, lengths=": (
                ours,
                lambda m=ours: m(x, lengths=lengths)[0],
                lambda m=exact: packed(m, x.double(), lengths),
            ),
            "torch.nn": (theirs, lambda m=theirs: m(x)[0], lambda m=exact: m(x.double())[0]),
            "torch.nn, packed": (
                theirs,
                lambda m=theirs: packed(m, x, lengths),
                lambda m=exact: packed(m, x.double(), lengths),
            ),
            "torch.nn, a loop of steps with resets": (
                theirs,
                lambda m=theirs: in_pieces(m, x, reset),
                lambda m=exact: in_pieces(m, x.double(), reset),
            ),
        }
        works: Works = {}
        for name, (layer, call, truth) in calls.items():
            checked(f"{kind}, {name}", trained(call, layer, grad), trained(truth, exact, grad))
            works[name] = lambda c=call, m=layer: trained(c, m, grad)
        title = f"{kind}: training at {B},{T},{I},{H} (milliseconds; over unrolled without marks)"
        table(title, works, seconds, unit=1e3, beside="unrolled", ratio="{1:.2f}")


def held(masks: Masks, dtype: torch.dtype) -> Masks:
    if masks is NO_MASKS:
        return masks
    return Masks(*(None if mask is None else mask.to(dtype) for mask in masks))


def variants(seconds: float) -> None:
    x, grad = torch.randn(T, B, I), torch.randn(T, B, H)
    plain, theirs = unrolled.LSTM(I, H), nn.LSTM(I, H)
    works: Works = {
        "unrolled.LSTM": lambda: trained(lambda: plain(x)[0], plain, grad),
        "torch.nn.LSTM": lambda: trained(lambda: theirs(x)[0], theirs, grad),
    }
    for variant in VARIANTS.values():
        kind, layer = variant.__name__, variant(I, H).train()
        exact, fixed = copy.deepcopy(layer).double(), copy.deepcopy(layer)
        # The same draw for both: random numbers of another dtype would be others.
        masks = layer._noise("l0", T, B, x)
        for one, dtype in ((fixed, torch.float32), (exact, torch.float64)):
            drawn = held(masks, dtype)
            one._noise = lambda *_, m=drawn: m
        found = trained(lambda m=fixed: m(x)[0], fixed, grad)
        with unrolled.backend("reference"):
            rounded = trained(lambda m=fixed: m(x)[0], fixed, grad)
        checked(kind, found, trained(lambda m=exact: m(x.double())[0], exact, grad), rounded)
        works[kind] = lambda m=layer: trained(lambda: m(x)[0], m, grad)
    title = f"training at {B},{T},{I},{H}, noise on (milliseconds; over unrolled.LSTM)"
    table(title, works, 3 * seconds, unit=1e3, beside="unrolled.LSTM", ratio="{1:.2f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=3.0, help="time for each table (default: 3)")
    options.add_argument("--threads", type=int, help="threads of everyone (default: torch's number)")
    chosen = options.parse_args()
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32")
    streaming(chosen.seconds)
    resets_and_lengths(chosen.seconds)
    variants(chosen.seconds)


if __name__ == "__main__":
    main()
