"""The colour scales of states and gates: told apart in every common form of colour blindness, even in steps seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bokeh.palettes import Cividis256
from numpy.typing import NDArray

# Blue over a neutral middle to orange: sign is read from the hue, size from the distance in lightness from the middle.
LIGHT_ANCHORS = ("#0b2a4a", "#15568f", "#4f93c4", "#a9cde4", "#f8f8f6", "#f6cf9c", "#e39a45", "#b0620f", "#562b05")
# The same for a dark ground, where the middle is dark and the ends are light.
DARK_ANCHORS = ("#c6e2f7", "#74b4e6", "#2f7fc0", "#1d4a75", "#1c2026", "#5f3a12", "#a8691f", "#e0a050", "#fbe0bd")

# sRGB (IEC 61966-2-1) to XYZ with the white point D65.
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def channels(colours: Sequence[str]) -> NDArray[np.float64]:
    """(N, 3) red, green and blue from 0 to 255 of colours as "#rrggbb"."""
    return np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours], dtype=np.float64)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) CIE 1976 L*a*b* of channels from 0 to 255, in which equal distances look about equally large."""
    part = rgb / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def blended(anchors: tuple[str, ...], count: int) -> list[str]:
    """`count` colours from the first to the last of the `anchors`, neighbours equally far apart as they are seen."""
    given = channels(anchors)
    places = np.linspace(0, len(anchors) - 1, 64 * len(anchors))
    fine = np.stack([np.interp(places, np.arange(len(anchors)), given[:, i]) for i in range(3)], axis=1)
    way = np.concatenate(([0], np.linalg.norm(np.diff(lab(fine), axis=0), axis=1).cumsum()))
    even = np.linspace(0, way[-1], count)
    return _written(np.stack([np.interp(even, way, fine[:, i]) for i in range(3)], axis=1))


def _written(rgb: NDArray[np.float64]) -> list[str]:
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in rgb.round().astype(int).tolist()]


def _diverging(anchors: tuple[str, ...]) -> list[str]:
    """255 colours: each arm is even in itself, and zero has a colour of its own."""
    middle = len(anchors) // 2
    return blended(anchors[: middle + 1], 128)[:-1] + blended(anchors[middle:], 128)


PALETTES: dict[str, list[str]] = {
    "diverging": _diverging(LIGHT_ANCHORS),
    "diverging-dark": _diverging(DARK_ANCHORS),
    "sequential": list(Cividis256),
}


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
