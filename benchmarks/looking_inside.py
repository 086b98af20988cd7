"""What it costs to look inside: an edit of one step, and a million steps through the instruments that stream.

    python benchmarks/looking_inside.py [--seconds 3] [--threads 2]

An edited call is timed in turn with the plain one, after its result was held to float64. The million steps of an LSTM
with 256 units go through `saturation` and `timescales` in batches; the mean of each gate is held to a pass by hand over
the first batch, and the memory taken is the process's own largest.
"""

from __future__ import annotations

import argparse
import copy
import resource
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import unrolled
from unrolled import instruments
from unrolled.bench.alternation import alternate
from unrolled.bench.truth import TOLERANCE

STEPS, AT = 1000, 500
MILLION, B, T, H = 1_000_000, 50, 500, 256


def edited(kind: str, batch: int, hidden_size: int, seconds: float) -> None:
    layer = getattr(unrolled, kind)(hidden_size, hidden_size, batch_first=True)
    x = torch.randn(batch, STEPS, hidden_size)
    edit = unrolled.Ablate("l0.hidden", steps=AT)
    exact = copy.deepcopy(layer).double()
    with torch.no_grad():
        with unrolled.intervene(exact, edit):
            right = exact(x.double())[0]
        with unrolled.intervene(layer, edit):
            error = float((layer(x)[0].double() - right).abs().max() / right.abs().max())
    if not error <= TOLERANCE:
        raise SystemExit(f"{kind}: an edited call is off by {error:.2g}, allowed is {TOLERANCE:.2g}")

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def training() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x)[0].sum().backward()

    def inside(work: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            with unrolled.intervene(layer, edit):
                work()

        return call

    for name, work in (("forward", forward), ("forward and backward", training)):
        times = {n: t.median for n, t in alternate({"plain": work, "edited": inside(work)}, seconds).items()}
        ratio = times["edited"] / times["plain"]
        where = f"{kind} {batch},{STEPS},{hidden_size},{hidden_size} {name}"
        print(f"  {where:46} {1e3 * times['plain']:8.2f} ms {1e3 * times['edited']:8.2f} ms   {ratio:.2f}")


def a_million(steps: int) -> None:
    torch.manual_seed(0)
    layer = unrolled.LSTM(H, H, batch_first=True)
    inputs = torch.randn(B, T, H)
    rounds = steps // (B * T)

    def batches() -> Iterator[Tensor]:
        for _ in range(rounds):
            yield inputs

    begin = time.perf_counter()
    saturation = instruments.saturation(layer, batches())
    between = time.perf_counter()
    timescales = instruments.timescales(layer, batches())
    end = time.perf_counter()
    with torch.no_grad(), unrolled.record(layer, detach=True) as trace:
        layer(inputs)
    for name in ("forget_gate", "output_gate"):
        found = torch.from_numpy(saturation.data["mean"].sel(name=name).values)
        error = float((found - trace[f"l0.{name}"].double().mean((0, 1))).abs().max())
        if not error < 1e-6:
            raise SystemExit(f"saturation: the mean of the {name} is off by {error:.2g}")
    mean_log = trace["l0.forget_gate"].double().log().mean((0, 1))
    error = float((torch.from_numpy(timescales.of("gate")) * mean_log + 1).abs().max())
    if not error < 1e-5:
        raise SystemExit(f"timescales: off by {error:.2g}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  saturation {between - begin:.1f} s, timescales {end - between:.1f} s, {end - begin:.1f} s together")
    print(f"  {rounds * B * T:,} steps in batches of {B} x {T}; the process took {memory:.0f} MiB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row (default: 3)")
    parser.add_argument("--threads", type=int, help="of torch (default: torch's number)")
    parser.add_argument("--steps", type=int, default=MILLION, help="through the instruments (default: a million)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print("\nAn edit of one step of a thousand (plain, edited, edited over plain)\n")
    for kind in ("RNN", "GRU", "LSTM"):
        for batch, hidden_size in ((1, 64), (32, 64)):
            edited(kind, batch, hidden_size, options.seconds)
    print(f"\nLSTM with {H} units\n")
    a_million(options.steps)


if __name__ == "__main__":
    main()
