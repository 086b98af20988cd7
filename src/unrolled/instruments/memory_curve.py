"""How far back the input can be read off a state: accuracy of a linear probe for the input k steps back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unrolled.instruments.probe import Figures, Labels, probe


@dataclass(frozen=True)
class MemoryCurve:
    """Balanced accuracy for the symbol k steps back.

    Attributes:
        lags: the k asked for.
        accuracy: at each k.
        control: at each k, for the symbol at the same place of another sequence; a probe that finds it finds chance.
        chance: at each k, 1 / number of symbols that occur.
    """

    lags: tuple[int, ...]
    accuracy: tuple[float, ...]
    control: tuple[float, ...]
    chance: tuple[float, ...]


def memory_curve(
    features: Figures, symbols: Labels, lags: Sequence[int], *, seed: int = 0, max_steps: int = 4000
) -> MemoryCurve:
    """Decode the symbol k steps back from the features at each step (after Jaeger 2001, for symbols).

    Args:
        features: (B, T, F) a state, several side by side, or the raw input.
        symbols: (B, T) the input; -1 where a symbol is not to be asked for.
        lags: the k to try, each less than T.
        seed: of the probe's split.
        max_steps: steps a probe is fitted to at most.

    Raises:
        ValueError: a lag is longer than the sequences.
    """
    length = symbols.shape[1]
    for lag in lags:
        if not 0 <= lag < length:
            raise ValueError(f"lags: {lag} does not fit sequences of {length} steps; expected 0 to {length - 1}")
    found = []
    for lag in lags:
        back = symbols[:, : length - lag]
        found.append(probe(features[:, lag:], back, control=np.roll(back, 1, axis=0), seed=seed, max_steps=max_steps))
    return MemoryCurve(
        tuple(lags),
        tuple(r.accuracy for r in found),
        tuple(float(r.control or 0.0) for r in found),
        tuple(r.chance for r in found),
    )
