"""What every instrument returns: labelled figures, a sentence that says them, and a plot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unrolled.extras import extra

if TYPE_CHECKING:
    from bokeh.models.ui.ui_element import UIElement
    from xarray import Dataset

    from unrolled.drawing.panels import Dots, HeatMap, Panel


@dataclass(frozen=True, eq=False, repr=False)
class Result(ABC):
    """Figures with named dimensions and their coordinates.

    Attributes:
        data: an xarray.Dataset; what its variables are stands with each instrument.
    """

    data: Dataset

    @abstractmethod
    def summary(self) -> str:
        """The main figure and its interval, in a sentence."""

    @abstractmethod
    def panels(self) -> Sequence[Panel | HeatMap | Dots]:
        """What the plot shows."""

    def plot(self) -> UIElement:
        """The result as a Bokeh figure; needs the extra `view`."""
        drawn: UIElement = extra("unrolled.drawing.standalone", "plot", "view").draw(self.panels())
        return drawn

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.summary()}"


Variable = tuple[Sequence[str], Any]


def labelled(variables: Mapping[str, Variable], coords: Mapping[str, Any], **attributes: Any) -> Dataset:
    """A Dataset: name -> (names of dimensions, values), the dimensions' coordinates, and what else is to be known."""
    data: Dataset = extra("xarray", "instruments", "study").Dataset(
        {name: (list(dims), values) for name, (dims, values) in variables.items()}, dict(coords), attributes
    )
    return data
