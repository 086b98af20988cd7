"""Figures of single units: how closely each follows a label, and how long it remembers."""

from __future__ import annotations

import numpy as np

AT_ONCE = 32  # units whose autocorrelation is taken together: what they need fits a cache


def correlation(state: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Pearson correlation of every unit with a label; NaN where either does not vary.

    state: (T, H), label: (T,) -> (H,)
    """
    truth = label.astype(np.float64) - label.mean(dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        units = state.astype(np.float64) - state.mean(axis=0, dtype=np.float64)
        size = np.sqrt((units**2).sum(axis=0) * (truth**2).sum())
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

    NaN for a unit that does not vary, or has a value that is not finite.
    state: (T, H) -> (H,)
    """
    steps, units = state.shape
    times = np.full(units, np.nan)
    if steps < 2:
        return times
    floor = 1 / np.e
    size = 1 << (2 * steps - 1).bit_length()  # so long that no lag wraps around, and quick to transform
    for first in range(0, units, AT_ONCE):
        part = np.ascontiguousarray(state[:, first : first + AT_ONCE].T, dtype=np.float64)  # (units, T)
        part[~np.isfinite(part).all(axis=1)] = 0
        part -= part.mean(axis=1, keepdims=True)
        with np.errstate(over="ignore", invalid="ignore"):
            power = np.abs(np.fft.rfft(part, n=size)) ** 2
            products = np.fft.irfft(power, n=size)[:, :steps]
        varying = np.flatnonzero(np.isfinite(products[:, 0]) & (products[:, 0] > 1e-12 * steps))
        decay = products[varying] / products[varying, :1]
        # Every one falls: the mean is taken off, so that autocorrelations of all lags sum to minus half of the first.
        after = (decay < floor).argmax(axis=1)
        before, rows = after - 1, np.arange(len(varying))
        drop = decay[rows, before] - decay[rows, after]
        times[first + varying] = before + (decay[rows, before] - floor) / drop
    return times


def strongest_first(figures: np.ndarray) -> np.ndarray:
    """The units from the largest figure to the smallest, those without one last. (H,) -> (H,)"""
    return np.argsort(-np.nan_to_num(figures, nan=-np.inf), kind="stable")
