"""Times torch.nn's layers, unrolled's and unrolled's while everything is recorded, alternately in one run.

No speed is printed for a result that disagrees with torch.nn's. Times are medians in milliseconds of forward and of
forward plus backward;
ratios are torch's time over ours, so above 1 is faster than torch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import torch
from torch import Tensor, nn

import unrolled

CONFIGURATIONS = ((1, 128, 64, 64), (32, 128, 64, 64), (32, 128, 128, 128), (64, 100, 128, 256))


def call(layer: nn.RNNBase, x: Tensor, *, train: bool, record: bool) -> Tensor:
    with unrolled.record(layer) if record else nullcontext(), torch.set_grad_enabled(train):
        output: Tensor = layer(x)[0]
        if train:
            layer.zero_grad()
            output.square().mean().backward()
    return output.detach()


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, medians of {repeats}")
    print(f"{'cell':5} {'B,T,I,H':16} {'':6} {'torch.nn':>9} {'unrolled':>9} {'recorded':>9} {'ratio':>6} {'ratio':>6}")
    for name in ("RNN", "GRU", "LSTM"):
        for batch, steps, inputs, hidden in CONFIGURATIONS:
            torch.manual_seed(0)
            theirs = getattr(nn, name)(inputs, hidden, batch_first=True)
            ours = getattr(unrolled, name)(inputs, hidden, batch_first=True)
            ours.load_state_dict(theirs.state_dict())
            x = torch.randn(batch, steps, inputs)
            for train in (False, True):
                slots = {
                    "torch.nn": lambda m=theirs, x=x, t=train: call(m, x, train=t, record=False),
                    "unrolled": lambda m=ours, x=x, t=train: call(m, x, train=t, record=False),
                    "recorded": lambda m=ours, x=x, t=train: call(m, x, train=t, record=True),
                }
                results = {slot: work() for slot, work in slots.items()}
                for slot, result in results.items():
                    if not torch.allclose(result, results["torch.nn"], atol=1e-5, rtol=1e-4):
                        raise SystemExit(
                            f"{name} {batch},{steps},{inputs},{hidden}: {slot} disagrees with torch.nn; no speed "
                            "is given"
                        )
                times: dict[str, list[float]] = {slot: [] for slot in slots}
                for _ in range(repeats):
                    for slot, work in slots.items():
                        times[slot].append(timed(work))
                m = {slot: median(values) for slot, values in times.items()}
                print(
                    f"{name:5} {f'{batch},{steps},{inputs},{hidden}':16} {'train' if train else 'infer':6} "
                    + " ".join(f"{m[slot]:9.2f}" for slot in slots)
                    + f" {m['torch.nn'] / m['unrolled']:6.2f} {m['torch.nn'] / m['recorded']:6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
