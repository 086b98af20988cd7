"""The colour scales of states and gates: told apart in every common form of colour blindness, even in lightness."""

from __future__ import annotations

import numpy as np
from bokeh.palettes import Cividis256

# Blue over white to orange; both arms darken evenly, so sign is read from the hue and size from the lightness.
ANCHORS = ("#0b2a4a", "#15568f", "#4f93c4", "#a9cde4", "#f8f8f6", "#f6cf9c", "#e39a45", "#b0620f", "#562b05")


def blended(anchors: tuple[str, ...], count: int) -> list[str]:
    """`count` colours at even distances along the `anchors`."""
    channels = np.array([[int(a[i : i + 2], 16) for i in (1, 3, 5)] for a in anchors], dtype=np.float64)
    places = np.linspace(0, len(anchors) - 1, count)
    mixed = [np.interp(places, np.arange(len(anchors)), channels[:, i]).round().astype(int) for i in range(3)]
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in zip(*mixed, strict=True)]


# An odd number of colours gives zero a colour of its own.
PALETTES: dict[str, list[str]] = {"diverging": blended(ANCHORS, 255), "sequential": list(Cividis256)}


def scale_of(name: str, values: np.ndarray) -> tuple[str, float, float]:
    """The palette of a state or gate and the values at its two ends; an unbounded state gets a range about zero."""
    if name.endswith("_gate"):
        return "sequential", 0.0, 1.0
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 1.0
    if largest <= 1 and name != "cell":
        return "diverging", -1.0, 1.0
    # A few units that count upwards must not wash out everything else; beyond the reach the colour is the last one.
    reach = float(np.quantile(finite, 0.9)) if finite.size else 1.0
    step = 10.0 ** np.floor(np.log10(reach)) / 2 if reach > 0 else 1.0
    reach = float(np.ceil(reach / step) * step) if reach > 0 else 1.0
    return "diverging", -reach, reach
