"""How time series are made into what a network reads, by what their training part says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from unrolled.data.panel import Panel

Array = NDArray[Any]

DAY = np.timedelta64(1, "D")


class Scaled(NamedTuple):
    """One series in scaled units.

    Attributes:
        inputs: (T, I) the columns, each missing value the last one before it; whether each was missing; and the time.
        targets: (T, K) NaN where missing.
        mean, units: (K,) of each target: what 0 is, and what a scaled unit is.
    """

    inputs: Array
    targets: Array
    mean: Array
    units: Array


@dataclass(frozen=True, kw_only=True)
class Scales:
    """How a panel is made into inputs; what the training part decided.

    Attributes:
        targets, covariates: columns.
        mean, std: series -> (C,) of each column over the training part.
        masked: columns with missing values, of which the network is told.
        daily, weekly, yearly: whether the network is told the time of the day, of the week, of the year.
    """

    targets: tuple[str, ...]
    covariates: tuple[str, ...]
    mean: dict[str, list[float]]
    std: dict[str, list[float]]
    masked: tuple[str, ...]
    daily: bool
    weekly: bool
    yearly: bool

    @classmethod
    def of(cls, panel: Panel, ends: Sequence[int]) -> Scales:
        """From the first `ends[i]` rows of each series; one that has no value there is scaled as all together are."""
        columns = (*panel.targets, *panel.covariates)
        parts = [values[:end] for values, end in zip(panel.values, ends, strict=True)]
        known = [~np.isnan(part).all(0) for part in parts]
        whole = _moments(np.concatenate(parts)) if not np.all(known) else ([0.0], [1.0])
        mean, std = {}, {}
        for name, part, there in zip(panel.series, parts, known, strict=True):
            found = zip(_moments(part), whole, strict=True)
            mean[name], std[name] = (np.where(there, own, joint).tolist() for own, joint in found)
        missing = np.any([np.isnan(part).any(0) for part in parts], axis=0)
        step = panel.step
        days = 0.0 if step is None else float(step / DAY) * max(ends)
        return cls(
            targets=tuple(panel.targets),
            covariates=tuple(panel.covariates),
            mean=mean,
            std=std,
            masked=tuple(name for name, gone in zip(columns, missing, strict=True) if gone),
            daily=bool(step is not None and step < DAY),
            weekly=bool(step is not None and step <= DAY and days >= 14),
            # Less than two years do not tell what a season does.
            yearly=days >= 730,
        )

    @property
    def width(self) -> int:
        """I of the inputs."""
        columns = len(self.targets) + len(self.covariates)
        return columns + len(self.masked) + 2 * (self.daily + self.weekly + self.yearly)

    def scaled(self, panel: Panel, index: int) -> Scaled:
        """One series as the network reads it; a series that was not in training is scaled by its own figures."""
        name, values = panel.series[index], panel.values[index]
        if name in self.mean:
            mean, std = self.mean[name], self.std[name]
        else:
            mean, std = _moments(values)
        units = np.asarray(std, np.float32)
        scaled = (values - np.asarray(mean, np.float32)) / units
        gone = np.isnan(scaled)
        columns = (*self.targets, *self.covariates)
        parts = [_filled(scaled, gone), gone[:, [columns.index(name) for name in self.masked]]]
        times = panel.times[index]
        if times is not None:
            for told, period in ((self.daily, 1.0), (self.weekly, 7.0), (self.yearly, 365.2425)):
                if told:
                    angle = (times - np.datetime64(0, "D")) / DAY % period * (2 * np.pi / period)
                    parts.append(np.stack((np.sin(angle), np.cos(angle)), 1))
        inputs = np.concatenate(parts, 1, dtype=np.float32, casting="unsafe")
        kept = len(self.targets)
        return Scaled(inputs, scaled[:, :kept], np.asarray(mean[:kept]), units[:kept])


def _moments(values: Array) -> tuple[list[float], list[float]]:
    """(C,) mean and standard deviation of values: (T, C) without those that are missing; 0 and 1 where all are."""
    there = ~np.isnan(values)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, values, 0).sum(0, dtype=np.float64) / count
    spread = np.sqrt(np.where(there, values - mean, 0).__pow__(2).sum(0, dtype=np.float64) / count)
    return mean.tolist(), np.where(spread > 1e-12 * np.maximum(1, abs(mean)), spread, 1.0).tolist()


def _filled(values: Array, gone: Array) -> Array:
    """values: (T, C) with each missing one the last that was there, 0 before the first."""
    if not gone.any():
        return values
    at = np.where(gone, -1, np.arange(len(values))[:, None])
    np.maximum.accumulate(at, axis=0, out=at)
    return np.where(at < 0, 0, np.take_along_axis(values, np.maximum(at, 0), axis=0)).astype(np.float32)
