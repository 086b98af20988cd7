"""What a bench found, as it is kept in JSON: for each cell, row and phase what came of every contestant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from unrolled.bench.rows import Row
from unrolled.storage import read_json, write_json

_FORMAT = 1


@dataclass(frozen=True)
class Timing:
    """The times of one contestant whose results were right.

    Attributes:
        median, low, high: seconds of one call; median and quartiles over the slots.
        slots: how many there were.
        calls: calls in each slot, over which its time is shared.
        error: the largest error of any result, relative to the largest magnitude of the right one.
    """

    median: float
    low: float
    high: float
    slots: int
    calls: int
    error: float = 0.0


@dataclass(frozen=True)
class Wrong:
    """A contestant that disagrees with the truth: it has no time."""

    why: str


@dataclass(frozen=True)
class Failed:
    """A contestant that raised an error."""

    why: str


@dataclass(frozen=True)
class Absent:
    """A contestant that cannot do this row or phase."""

    why: str


Outcome = Timing | Wrong | Failed | Absent
_OUTCOMES: dict[str, type[Outcome]] = {"timing": Timing, "wrong": Wrong, "failed": Failed, "absent": Absent}


@dataclass(frozen=True)
class Measurement:
    """One cell, row and phase.

    Attributes:
        outcomes: contestant -> what came of it.
        product: seconds of the large matrix product timed alternately with the contestants.
        product_operations: floating-point operations of that product.
        operations: floating-point operations of the row's own products.
        memory: contestant -> bytes by which one training step's peak is above the level before; empty if not asked.
        dtype: what it was computed in, a name of the table of dtypes.
    """

    cell: str
    row: Row
    phase: str
    outcomes: Mapping[str, Outcome]
    product: Timing
    product_operations: int
    operations: int
    memory: Mapping[str, int] = field(default_factory=dict)
    dtype: str = "float32"

    def __str__(self) -> str:
        """Cell, row, phase, and the dtype unless it is float32."""
        dtype = "" if self.dtype == "float32" else f" in {self.dtype}"
        return f"{self.cell.upper()} {self.row} {self.phase}{dtype}"

    def seconds(self, contestant: str) -> float | None:
        """The median time of one call, if the contestant was right."""
        outcome = self.outcomes.get(contestant)
        return outcome.median if isinstance(outcome, Timing) else None

    def ratio(self, contestant: str, to: str = "closed") -> float | None:
        """A contestant's time over unrolled's: above 1, unrolled is the faster."""
        over, under = self.seconds(contestant), self.seconds(to)
        return over / under if over is not None and under is not None else None

    def share(self, contestant: str) -> float | None:
        """The rate of the row's own products over that of the large product in the same run."""
        seconds = self.seconds(contestant)
        if seconds is None:
            return None
        return (self.operations / seconds) / (self.product_operations / self.product.median)


@dataclass(frozen=True)
class Result:
    """A whole bench: where it ran, how, and what was measured."""

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    measurements: tuple[Measurement, ...]

    def complaints(self) -> list[str]:
        """One line for each contestant that was wrong or failed."""
        return [
            f"{m}: {name} {'is wrong' if isinstance(outcome, Wrong) else 'failed'}: {outcome.why}"
            for m in self.measurements
            for name, outcome in m.outcomes.items()
            if isinstance(outcome, Wrong | Failed)
        ]

    @property
    def device(self) -> str:
        """What was measured, "cpu" or "cuda". Files that do not say so are of a CPU."""
        return str(self.settings.get("device", "cpu"))

    @property
    def dtypes(self) -> list[str]:
        """What was computed in, in the order of the measurements."""
        return list(dict.fromkeys(m.dtype for m in self.measurements))

    def of(self, cell: str, phase: str, dtype: str | None = None) -> list[Measurement]:
        return [m for m in self.measurements if m.cell == cell and m.phase == phase and dtype in (None, m.dtype)]

    def save(self, path: Path) -> Path:
        """Write the result as JSON.

        Raises:
            OSError: the file cannot be written; the message names it.
        """
        data = {
            "format": _FORMAT,
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "measurements": [_measurement_as_json(m) for m in self.measurements],
        }
        return write_json(path, data)

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read what `save` has written.

        Raises:
            ValueError: the file is damaged or is not a bench's result; the message names it.
            OSError: the file cannot be read.
        """
        try:
            data = read_json(path)
        except ValueError as error:
            # storage's own message would have the reader delete the folder, which here is the reader's.
            raise ValueError(f"{path} is not a result of unrolled bench: it is no JSON object") from error
        try:
            if data["format"] != _FORMAT:
                raise ValueError(f"format {data['format']!r}, expected {_FORMAT}")
            measurements = tuple(_measurement_from_json(each) for each in data["measurements"])
            if not measurements:
                raise ValueError("nothing was measured")
            return cls(data["machine"], data["settings"], measurements)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not a result of unrolled bench ({type(error).__name__}: {error})") from error


def mean_ratio(measurements: Iterable[Measurement], contestant: str, to: str = "closed") -> tuple[float | None, int]:
    """The geometric mean of a contestant's ratios over the plain rows, and over how many it is.

    There is none if a row has no ratio for a contestant that was wrong or failed: the others alone would flatter.
    """
    plain = [m for m in measurements if m.row.plain]
    if any(isinstance(m.outcomes.get(name), Wrong | Failed) for m in plain for name in (contestant, to)):
        return None, 0
    ratios = [ratio for m in plain if (ratio := m.ratio(contestant, to)) is not None and math.isfinite(ratio)]
    return (geometric_mean(ratios) if ratios else None), len(ratios)


def _measurement_as_json(measurement: Measurement) -> dict[str, Any]:
    kinds = {kind: name for name, kind in _OUTCOMES.items()}
    outcomes = {name: {"kind": kinds[type(each)], **asdict(each)} for name, each in measurement.outcomes.items()}
    shares = {name: share for name in measurement.outcomes if (share := measurement.share(name)) is not None}
    bases = ("closed", "torch", "steps") if "steps" in measurement.outcomes else ("closed",)
    return {
        "cell": measurement.cell,
        "row": str(measurement.row),
        "phase": measurement.phase,
        "outcomes": outcomes,
        # These can be computed from the rest; they are there for who reads the file without this package.
        **{f"ratios_to_{base}": _ratios(measurement, base) for base in bases},
        "shares_of_product": shares,
        "product": asdict(measurement.product),
        "product_operations": measurement.product_operations,
        "operations": measurement.operations,
        "memory": dict(measurement.memory),
        "dtype": measurement.dtype,
    }


def _ratios(measurement: Measurement, base: str) -> dict[str, float]:
    """Every contestant's time over that of one of them."""
    found = {name: measurement.ratio(name, base) for name in measurement.outcomes}
    return {name: ratio for name, ratio in found.items() if ratio is not None}


def _measurement_from_json(data: Mapping[str, Any]) -> Measurement:
    outcomes: dict[str, Outcome] = {}
    for name, each in data["outcomes"].items():
        fields = dict(each)
        outcomes[name] = _OUTCOMES[fields.pop("kind")](**fields)
    return Measurement(
        data["cell"],
        Row.parse(data["row"]),
        data["phase"],
        outcomes,
        Timing(**data["product"]),
        data["product_operations"],
        data["operations"],
        data["memory"],
        # Only float32 was measured before there was a bench on a GPU.
        data.get("dtype", "float32"),
    )
