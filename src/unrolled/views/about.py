"""What a page is told of a recording: layers, states and their colours, labels, and what units follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.drawing.colours import scale_of
from unrolled.source import by_layer, state_of
from unrolled.units import auc, correlation, is_binary, memory, strongest_first

ORDER_TITLES = {"timescale": "timescale, slowest first", "similarity": "similarity", "index": "index"}
_FIRST = ("cell", "hidden")


def layers(samples: Mapping[str, NDArray[np.float32]]) -> list[dict[str, Any]]:
    """The layers with their states and gates, each with the colours it is shown in.

    A hidden state that is projected to another width than its layer's gates has units of its own; it is listed as a
    layer of its own.

    Args:
        samples: recorded name -> (T, H) some of its values, from which the ends of its colour scale are taken.
    """
    found = []
    for layer, names in by_layer(list(samples)).items():
        widths = list(dict.fromkeys(samples[name].shape[1] for name in names))
        for width in widths:
            of_width = sorted((name for name in names if samples[name].shape[1] == width), key=_rank)
            title = layer or "the cell"
            part = "" if len(widths) == 1 else f" ({', '.join(map(state_of, of_width))})"
            states = []
            for name in of_width:
                palette, bottom, top = scale_of(state_of(name), samples[name])
                states.append({"name": name, "state": state_of(name), "palette": palette, "bottom": bottom, "top": top})
            found.append({"name": layer + part, "title": title + part, "units": width, "states": states})
    return found


def remembering(layer: Mapping[str, Any]) -> str:
    """The recorded name of the state by which a layer's units are ordered: its cell where it has one."""
    return str(layer["states"][0]["name"])


def label(name: str, values: NDArray[np.int64], names: Sequence[str] | None = None) -> dict[str, Any]:
    """One label: values (B, T), -1 where it is not defined."""
    changes = np.count_nonzero(np.diff(values))
    return {
        "name": name,
        "title": name,
        "most": int(values.max(initial=0)),
        "binary": names is None and int(values.max(initial=0)) <= 1,
        "names": None if names is None else list(names),
        # The column of a character never holds still long enough to be seen as a band, and a class holds throughout.
        "band": bool(changes < values.size / 2 and (changes or names is None)),
    }


def followed(state: NDArray[np.float32], labels: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
    """How long each unit of a state remembers, and how it follows each label that varies.

    Args:
        state: (T, H).
        labels: name -> (T,), -1 where it is not defined.

    Returns:
        steps, T; memory, a time for each unit; labels: name -> correlation and AUC of each unit (None unless the label
        says yes or no), and the best unit: farthest from chance, or of the largest correlation.
    """
    found: dict[str, Any] = {}
    for name, values in labels.items():
        there = values >= 0
        if len(np.unique(values[there])) < 2:
            continue
        part, truth = state[there], values[there]
        correlations = correlation(part, truth)
        areas = None
        if is_binary(truth):
            areas = np.where(np.isnan(part).any(axis=0), np.nan, auc(part, truth))
        strength = np.abs(correlations) if areas is None else np.abs(areas - 0.5)
        found[name] = {
            "correlation": rounded(correlations),
            "auc": None if areas is None else rounded(areas),
            "best": int(strongest_first(strength)[0]),
        }
    return {"steps": len(state), "memory": rounded(memory(state)), "labels": found}


def usual(values: NDArray[Any]) -> NDArray[np.float32]:
    """(H,) what is usual for each unit: the median of its finite values, 0 where it has none. values: (T, H)"""
    finite = np.isfinite(values)
    if finite.all():
        middle = np.median(values.astype(np.float64), axis=0)
    else:
        held = np.where(finite | ~finite.any(axis=0), np.nan_to_num(values, nan=0, posinf=0, neginf=0), np.nan)
        middle = np.nanmedian(held.astype(np.float64), axis=0)
    most = np.finfo(np.float32).max
    return middle.clip(-most, most).astype(np.float32)


def rounded(figures: NDArray[Any]) -> list[float | None]:
    """Figures for JSON, which knows no NaN."""
    return [round(float(v), 4) if math.isfinite(v) else None for v in figures]


def _rank(name: str) -> int:
    return _FIRST.index(state_of(name)) if state_of(name) in _FIRST else len(_FIRST)
