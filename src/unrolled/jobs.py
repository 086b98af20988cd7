"""What a training is, as options: the data, the network, how it is fitted. Read by the command line: no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from unrolled.budget import Budget

Cell = Literal[
    "rnn",
    "gru",
    "lstm",
    "coupled",
    "layer-norm",
    "peephole",
    "recurrent-dropout",
    "variational-dropout",
    "zoneout",
]
Kind = Literal["text", "series", "classify", "task"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network.

    Attributes:
        cell: what its recurrent layers are made of.
        hidden_size: units of each layer and direction.
        layers: how many are stacked.
        embedding_size: trained figures that stand for a symbol, for text.
        bidirectional: whether layers also read from the end; not for text and series, whose future is not known.
        dropout: share of the figures that are zeroed between layers and before the readout, in training.
        init: how weights start: as torch's, "orthogonal", or "chrono", which needs t_max.
        t_max: the longest dependency of "chrono", in steps.
        forget_bias: what the forget gates' bias starts from.
    """

    cell: Cell = "lstm"
    hidden_size: int = 128
    layers: int = 1
    embedding_size: int = 64
    bidirectional: bool = False
    dropout: float = 0.0
    init: Literal["torch", "orthogonal", "chrono"] = "torch"
    t_max: float | None = None
    forget_bias: float = 1.0

    def __post_init__(self) -> None:
        for name in ("hidden_size", "layers", "embedding_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, given {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must be from 0 to below 1, given {self.dropout}")
        # What the layers would refuse, before a folder is made.
        if self.init == "chrono" and self.cell == "rnn":
            raise ValueError("init: 'chrono' sets the biases of gates, and an rnn has none")
        if self.init == "chrono" and not (self.t_max is not None and 2 < self.t_max < math.inf):
            raise ValueError(f"t_max: init 'chrono' needs the longest dependency in steps, above 2, given {self.t_max}")
        if self.init != "chrono" and self.t_max is not None:
            raise ValueError(f"t_max: is for init 'chrono', given with init {self.init!r}")


@dataclass(frozen=True, kw_only=True)
class _Divided:
    """How data are divided.

    Attributes:
        validation: share of the data that the best weights are chosen by.
        test: share of the data that is looked at once, by evaluate.
    """

    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: must be between 0 and 1, given {getattr(self, name)}")
        if self.validation + self.test >= 0.9:
            raise ValueError(
                f"validation, test: {self.validation} and {self.test} leave too little to train on; "
                "their sum must be below 0.9"
            )


@dataclass(frozen=True, kw_only=True)
class TextData(_Divided):
    """Texts, whose next character is learnt.

    Attributes:
        path: a file, a folder, or one of: code, prose.
        encoding: of the files.
        pattern: which files of a folder.
        characters: at most this many are read; 4,000,000 of code, as the task of that name does, if omitted.
        length: characters of a piece, through which gradients flow.
        carry: whether states go on from piece to piece in training.
        symbols: characters of the vocabulary, the commonest ones.
        validation_characters: at most these are looked at in a validation.
    """

    path: str
    encoding: str = "utf-8"
    pattern: str = "*"
    characters: int | None = None
    length: int = 100
    carry: bool = True
    symbols: int = 512
    validation_characters: int = 200_000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("length", "symbols", "validation_characters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, given {getattr(self, name)}")
        if self.characters is not None and self.characters < 1:
            raise ValueError(f"characters: must be at least 1, given {self.characters}")


@dataclass(frozen=True, kw_only=True)
class SeriesData(_Divided):
    """Time series, whose future is learnt.

    Attributes:
        path: a CSV or Parquet file, or: weather.
        target: columns that are forecast; the only numeric one if omitted.
        covariates: further columns that are read; "all" for every numeric one.
        time: the column of times; rows are taken in order if omitted.
        group: the column that says which series a row belongs to, where there are several.
        horizon: steps that are forecast at once.
        window: steps that are read before a forecast.
        season: steps of a season, for the seasonal naive forecast; a day where steps are shorter, else none.
        encoding: of a CSV file; found out if "auto".
        delimiter: of a CSV file; found out if omitted.
        header: whether the first line of a CSV file names the columns; found out if omitted. Without one they are
            called 1, 2, ...
    """

    path: str
    target: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    time: str | None = None
    group: str | None = None
    horizon: int = 24
    window: int = 168
    season: int | None = None
    encoding: str = "auto"
    delimiter: str | None = None
    header: bool | None = None
    validation: float = 0.15
    test: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("horizon", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, given {getattr(self, name)}")
        if self.season is not None and not 1 <= self.season <= self.window:
            raise ValueError(f"season: must be from 1 to window={self.window}, given {self.season}")


@dataclass(frozen=True, kw_only=True)
class ClassifyData(_Divided):
    """Labelled sequences, whose class is learnt.

    Attributes:
        path: a .ts, .tsv, CSV or Parquet file, or one of: vowels, digits.
        test_path: a file of sequences to test on; a share of `path` if omitted.
        label: the column of labels, for CSV and Parquet.
        id: the column that says which sequence a row belongs to, for CSV and Parquet.
        encoding: of the file.
    """

    path: str
    test_path: str | None = None
    label: str | None = None
    id: str | None = None
    encoding: str = "utf-8"
    validation: float = 0.15
    test: float = 0.15


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A synthetic task with known truth.

    Attributes:
        path: the task with its settings, as recall:lag=1-40.
    """

    path: str


Data = TextData | SeriesData | ClassifyData | TaskData
DATA: dict[Kind, type[Data]] = {"text": TextData, "series": SeriesData, "classify": ClassifyData, "task": TaskData}


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that decides what a training comes to.

    Attributes:
        data: what is learnt from.
        network: what learns.
        budget: how it is fitted.
        seed: decides everything random.
        precision: what is computed with.
    """

    data: Data
    network: Network = dataclasses.field(default_factory=Network)
    budget: Budget = dataclasses.field(default_factory=Budget)
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        if self.network.bidirectional and self.kind in ("text", "series"):
            raise ValueError(f"bidirectional: reads what {self.kind} is to foresee; expected False")

    @property
    def kind(self) -> Kind:
        """The kind of work."""
        return next(kind for kind, made in DATA.items() if isinstance(self.data, made))

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Job:
        """The inverse of `as_json`.

        Raises:
            ValueError: it is no job; says what is wrong.
        """
        try:
            data: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in stored["data"].items()}
            return cls(
                data=DATA[stored["kind"]](**data),
                network=Network(**stored["network"]),
                budget=Budget(**stored["budget"]),
                seed=stored["seed"],
                precision=stored["precision"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"is not what a training was asked for ({error!r})") from error
