"""How closely a unit follows a label, and how long it remembers: the figures beside the text of an excerpt."""

from __future__ import annotations

import numpy as np


def correlation(state: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Pearson correlation of every unit with a label; NaN where either does not vary.

    state: (T, H), label: (T,) -> (H,)
    """
    units = state.astype(np.float64) - state.mean(axis=0, dtype=np.float64)
    truth = label.astype(np.float64) - label.mean(dtype=np.float64)
    size = np.sqrt((units**2).sum(axis=0) * (truth**2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(size > 0, truth @ units / size, np.nan))


def auc(state: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of every unit for a label of zeros and ones: the share of (1, 0) pairs in order.

    NaN if the label does not vary. state: (T, H), label: (T,) -> (H,)
    """
    held, free = state[label == 1], state[label == 0]
    areas = np.full(state.shape[1], np.nan)
    if len(held) == 0 or len(free) == 0:
        return areas
    for unit in range(state.shape[1]):
        sorted_free = np.sort(free[:, unit])
        below = np.searchsorted(sorted_free, held[:, unit], side="left")
        not_above = np.searchsorted(sorted_free, held[:, unit], side="right")
        areas[unit] = (below + not_above).mean() / 2 / len(free)
    return areas


def is_binary(label: np.ndarray) -> bool:
    """Whether a label says yes or no, and both occur."""
    return set(np.unique(label).tolist()) == {0, 1}


def memory(state: np.ndarray) -> np.ndarray:
    """Autocorrelation time of every unit in steps: the lag at which its autocorrelation first falls below 1/e.

    NaN for a unit that does not vary; T if it never falls that far. state: (T, H) -> (H,)
    """
    steps, units = state.shape
    centred = state.astype(np.float64) - state.mean(axis=0, dtype=np.float64)
    padded = np.fft.rfft(centred, n=2 * steps, axis=0)
    products = np.fft.irfft(np.abs(padded) ** 2, axis=0)[:steps]  # (T, H)
    times = np.full(units, np.nan)
    floor = 1 / np.e
    for unit in range(units):
        if not np.isfinite(products[0, unit]) or products[0, unit] <= 1e-12 * steps:
            continue
        decay = products[:, unit] / products[0, unit]
        lags = np.flatnonzero(decay < floor)
        if len(lags) == 0:
            times[unit] = steps
            continue
        after = int(lags[0])
        before = after - 1
        times[unit] = before + (decay[before] - floor) / (decay[before] - decay[after])
    return times


def strongest_first(figures: np.ndarray) -> np.ndarray:
    """The units from the largest figure to the smallest, those without one last. (H,) -> (H,)"""
    return np.argsort(-np.nan_to_num(figures, nan=-np.inf), kind="stable")
