"""The future of time series: forecasts of several steps at once from a window of the past."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.problems.problem import ALL, Problem, Shape, Share, Shuffled, answer, evenly
from unrolled.problems.scales import DAY, Scales
from unrolled.tasks.task import SPLITS, Batch, Split

if TYPE_CHECKING:
    from unrolled.data.panel import Panel

Array = NDArray[Any]

# Windows that are looked at, spread evenly over the part.
MOST: dict[Split, int] = {"train": 20_000, "validation": 2_048, "test": 20_000}
_CHUNK = 256  # windows of a piece
# Quantiles of the validation residuals that are kept.
LEVELS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995)
RESIDUALS = "residuals.json"


@dataclass(frozen=True, kw_only=True)
class Windows(Batch):
    """A batch of windows.

    Attributes:
        targets: (B, T, horizon, K) float32 in scaled units, 0 where there is none.
        scored: (B, T, horizon, K) bool.
        last: (B, T, K) the last value of each target up to the step, in scaled units: what answers are added to.
        units: (B, K) how many of the target's units one scaled unit is.
        times: (B, T) int64 nanoseconds since 1970, of windows that are to be looked at and have times.
    """

    trained_on: ClassVar[tuple[str, ...]] = (*Batch.trained_on, "last", "units")

    last: Tensor
    units: Tensor
    times: Tensor | None = None


class Series(Problem):
    """Forecast the next `horizon` steps of every target, at once, from the `window` steps before them.

    The network answers at every step of a window by how much each of the next values will be above or below the last
    one; training scores the last three quarters of a window's steps, everything else the last step only. A part of
    time is for training, the next for validation, the last for testing; no forecast of one reaches into the next.

    Args:
        panel: the series.
        seed: decides the order of the windows.
        batch_size: windows of a batch.
        horizon: steps that are forecast.
        window: steps that are read.
        validation, test: shares of the time.
        season: steps of a season, for a baseline; those of a day where steps are shorter, if omitted.
        name: what the data are, for messages.
    """

    kind: ClassVar[str] = "series"
    metric: ClassVar[str] = "scaled_rmse"

    def __init__(
        self,
        panel: Panel,
        *,
        seed: int,
        batch_size: int,
        horizon: int,
        window: int,
        validation: float,
        test: float,
        season: int | None = None,
        name: str = "series",
    ) -> None:
        self.panel, self.name, self.horizon, self.window = panel, name, horizon, window
        self.season = season or _season(panel)
        cuts = _cuts(panel, (1 - validation - test, 1 - test))
        self.scales = Scales.of(panel, [cut[0] for cut in cuts])
        made = [self.scales.scaled(panel, index) for index in range(len(panel.series))]
        lengths = np.array([len(one.inputs) for one in made])
        self._inputs = np.concatenate([one.inputs for one in made])
        self._targets = np.concatenate([one.targets for one in made])
        self._units = np.stack([one.units for one in made])
        self._starts = np.cumsum([0, *lengths[:-1]])
        # Of each series and split, the first and one past the last step after which a forecast can be made.
        self._origins: dict[Split, Array] = {}
        for place, split in enumerate(SPLITS):
            ends = [(0, *cut, length)[place : place + 2] for cut, length in zip(cuts, lengths, strict=True)]
            first = np.array([max(begin - 1, window - 1) for begin, _ in ends])
            last = np.array([end - horizon for _, end in ends])
            self._origins[split] = np.stack((first, np.maximum(first, last)), 1)
            if not self._count(split):
                most = max(end - begin for begin, end in ends)
                raise ValueError(
                    f"{name}: its {split} part, of {most} steps of the longest series, has no room for a window of "
                    f"{window} and a horizon of {horizon} steps; give more rows, or set window or horizon lower"
                )
            if not self._known(split):
                raise ValueError(
                    f"{name}: its {split} part has no value of {', '.join(panel.targets)} that could be forecast, all "
                    "are missing; give other rows, or set validation and test to other shares"
                )
        # (steps, K, horizon) what comes at each step of the whole and after it, without a copy.
        self._coming = sliding_window_view(self._targets, horizon, axis=0)
        self._order = Shuffled(self._count("train"), batch_size, seed)
        self._batch_size = batch_size

    @property
    def title(self) -> str:
        return f"{', '.join(self.panel.targets)} of {self.name}, {self.horizon} steps ahead"

    @property
    def shape(self) -> Shape:
        return Shape(self.scales.width, self.horizon * len(self.panel.targets))

    @property
    def width(self) -> int:
        return 2 + 3 * len(self.panel.targets)

    def batch(self, step: int, share: Share) -> tuple[Batch, int]:
        numbers = self._order.rows(step)
        batch = self._made("train", numbers, scored_from=self.window // 4)
        count = max(1, int(batch.scored.sum()))
        return (batch if share.of == 1 else batch.rows(share.rows(len(numbers)))), count

    def pieces(self, split: Split, share: Share = ALL) -> Iterator[Windows]:
        chosen = self.spread(split)
        for index, at in enumerate(range(0, len(chosen), _CHUNK)):
            if index % share.of == share.part:
                yield self._made(split, chosen[at : at + _CHUNK], scored_from=self.window - 1)

    def spread(self, split: Split) -> Array:
        """The windows of a split that are looked at, evenly spread where there are many."""
        return evenly(self._count(split), MOST[split])

    def sample(self, split: Split, sequences: int, steps: int | None = None) -> Iterator[Windows]:
        """Windows spread evenly over the split, in one piece, every step scored, with their "series" and times."""
        numbers = evenly(self._count(split), sequences)
        series, begins = self._places(split, numbers)
        times = None
        panel_times = [found for found in self.panel.times if found is not None]
        if len(panel_times) == len(self.panel.times):
            places = zip(series, begins - self._starts[series], strict=True)
            read = [panel_times[number][at : at + self.window] for number, at in places]
            times = torch.from_numpy(np.stack(read).astype("datetime64[ns]").astype(np.int64))
        of = torch.from_numpy(series).unsqueeze(1).expand(-1, self.window).contiguous()
        yield replace(self._made(split, numbers, scored_from=0), labels={"series": of}, times=times)

    def forecasts(self, answers: Tensor, batch: Windows) -> Tensor:
        """answers: (B, T, horizon * K) -> (B, T, horizon, K) forecasts in scaled units."""
        return answers.view(*answers.shape[:2], self.horizon, -1) + batch.last.unsqueeze(2)

    def loss(self, answers: Tensor, batch: Batch) -> Tensor:
        assert isinstance(batch, Windows)
        error = self.forecasts(answers, batch) - batch.targets
        return (error * batch.scored).square().sum()

    def sums(self, answers: Tensor, batch: Batch) -> Tensor:
        assert isinstance(batch, Windows)
        return self.error_sums(self.forecasts(answers, batch)[:, -1], batch)

    def error_sums(self, forecasts: Tensor, batch: Windows) -> Tensor:
        """`sums` of forecasts (B, horizon, K) made after the last step, in scaled units."""
        there = batch.scored[:, -1]
        error = torch.where(there, forecasts - batch.targets[:, -1], 0).double()
        inside = error * batch.units.unsqueeze(1)
        each = torch.stack((inside.square().sum((0, 1)), inside.abs().sum((0, 1)), there.double().sum((0, 1))))
        return torch.cat((error.square().sum().view(1), there.double().sum().view(1), each.flatten()))

    def figures(self, sums: Tensor) -> dict[str, float]:
        found = {"scaled_rmse": float((sums[0] / sums[1]).sqrt())}
        for name, (squares, absolute, count) in zip(self.panel.targets, sums[2:].view(3, -1).t().tolist(), strict=True):
            end = "" if len(self.panel.targets) == 1 else f" {name}"
            found[f"rmse{end}"] = (squares / count) ** 0.5 if count else float("nan")
            found[f"mae{end}"] = absolute / count if count else float("nan")
        return found

    def learnt(self) -> dict[str, Any]:
        return {**asdict(self.scales), "horizon": self.horizon, "window": self.window}

    def afterwards(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        quantiles = self._quantiles(model)
        known = quantiles.astype(object)
        # JSON has no NaN: a step at which every target was missing has no quantiles.
        known[np.isnan(quantiles)] = None
        return {RESIDUALS: {"levels": list(LEVELS), "quantiles": known.tolist()}}

    def digest(self) -> str:
        whole = hashlib.sha256(repr((self.panel.series, self.panel.targets, self.panel.covariates)).encode())
        for values, times in zip(self.panel.values, self.panel.times, strict=True):
            whole.update(values.tobytes())
            if times is not None:
                whole.update(times.tobytes())
        return whole.hexdigest()

    def _quantiles(self, model: nn.Module) -> Array:
        """(levels, horizon, K) of truth less forecast over the validation part, in scaled units."""
        found = []
        device = next(model.parameters()).device
        with torch.no_grad():
            for piece in self.pieces("validation"):
                batch = piece.to(device)
                assert isinstance(batch, Windows)
                forecasts = self.forecasts(answer(model, batch, None)[0], batch)[:, -1]
                apart = torch.where(batch.scored[:, -1], batch.targets[:, -1] - forecasts, torch.nan)
                found.append(apart.cpu().numpy())
        residuals = np.concatenate(found)
        return np.stack([[_levels(column) for column in step.T] for step in residuals.transpose(1, 0, 2)]).transpose(
            2, 0, 1
        )

    def _count(self, split: Split) -> int:
        return int((self._origins[split][:, 1] - self._origins[split][:, 0]).sum())

    def _known(self, split: Split) -> bool:
        """Whether any value that is to be forecast is there."""
        reached = zip(self._starts, self._origins[split], strict=True)
        return any(
            not np.isnan(self._targets[start + first + 1 : start + last + self.horizon]).all()
            for start, (first, last) in reached
            if last > first
        )

    def _made(self, split: Split, numbers: Array, *, scored_from: int) -> Windows:
        """The windows of these numbers, counted over all series."""
        window = self.window
        series, begins = self._places(split, numbers)
        inputs = torch.from_numpy(np.stack([self._inputs[begin : begin + window] for begin in begins]))
        coming = torch.from_numpy(
            np.stack([self._coming[begin + 1 : begin + 1 + window] for begin in begins])
        ).transpose(2, 3)
        scored = ~coming.isnan()
        scored[:, :scored_from] = False
        return Windows(
            inputs=inputs,
            targets=coming.nan_to_num(),
            scored=scored,
            last=inputs[..., : len(self.panel.targets)],
            units=torch.from_numpy(self._units[series]),
        )

    def _places(self, split: Split, numbers: Array) -> tuple[Array, Array]:
        """Of windows with these numbers: which series each is of, and where it begins among the steps of all series."""
        origins = self._origins[split]
        ends = np.cumsum(origins[:, 1] - origins[:, 0])
        series = np.searchsorted(ends, numbers, side="right")
        within = numbers - np.concatenate(([0], ends[:-1]))[series]
        return series, self._starts[series] + origins[series, 0] + within - (self.window - 1)


def _season(panel: Panel) -> int | None:
    if panel.step is None or panel.step >= DAY or DAY % panel.step:
        return None
    return int(DAY // panel.step)


def _levels(column: Array) -> Array:
    """(levels,) quantiles of what is there of a column; NaN where nothing is."""
    there = column[~np.isnan(column)]
    return np.quantile(there, LEVELS) if len(there) else np.full(len(LEVELS), np.nan)


def _cuts(panel: Panel, shares: tuple[float, float]) -> list[tuple[int, int]]:
    """Of each series, how many of its steps lie before each share of the whole time."""
    if any(times is None for times in panel.times):
        return [(int(shares[0] * len(v)), int(shares[1] * len(v))) for v in panel.values]
    known = [times for times in panel.times if times is not None]
    first, last = min(times[0] for times in known), max(times[-1] for times in known)
    marks = [first + (last - first) * share for share in shares]
    return [(int(np.searchsorted(times, marks[0])), int(np.searchsorted(times, marks[1]))) for times in known]
