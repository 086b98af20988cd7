"""In which order the units of a state are shown: by how long they remember, by how alike they are, or by number."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unrolled.extras import extra
from unrolled.units import memory, strongest_first

By = Literal["timescale", "similarity", "index"]

# Above so many units the best order of the leaves takes too long.
MOST_FOR_BEST_LEAVES = 600


def order(values: NDArray[Any], by: By) -> NDArray[np.int64]:
    """The numbers of the units in the order in which they are shown, (H,).

    Args:
        values: (T, H) of one state or gate.
        by: "timescale": the slowest first. "similarity": units whose courses are correlated, or opposite, stand side by
            side: the leaves of a clustering with the distances 1 - |r| and average linkage, up to 600 units in the
            order in which neighbours are most alike. "index": by number.

    Returns:
        Every unit once. Units that do not vary, or have a value that is not finite, are last, by number.

    Raises:
        ValueError: values is no (T, H), or `by` none of these.
        ModuleNotFoundError: by similarity, and scipy is not installed.
    """
    _check(values)
    if by == "timescale":
        found: NDArray[np.int64] = strongest_first(memory(values))
        return found
    if by == "similarity":
        return _by_similarity(values)
    if by == "index":
        return np.arange(values.shape[1])
    raise ValueError(f"by: given {by!r}, expected one of {', '.join(get_args(By))}")


def timescales(values: NDArray[Any]) -> NDArray[np.float64]:
    """How long each unit remembers, in steps, (H,): the lag at which its autocorrelation first falls below 1/e.

    NaN for a unit that does not vary or has a value that is not finite. values: (T, H)
    """
    _check(values)
    found: NDArray[np.float64] = memory(values)
    return found


def _by_similarity(values: NDArray[Any]) -> NDArray[np.int64]:
    hierarchy = extra("scipy.cluster.hierarchy", "ordering units by similarity", "view")
    courses = np.array(values.T, dtype=np.float64, order="C")  # (H, T)
    finite = np.isfinite(courses).all(axis=1)
    courses[~finite] = 0
    # So that no course is too large or too small to be squared.
    courses /= np.maximum(np.abs(courses).max(axis=1, initial=0, keepdims=True), np.finfo(np.float64).tiny)
    courses -= courses.mean(axis=1, keepdims=True) if courses.size else 0
    size = np.linalg.norm(courses, axis=1)
    varying = np.flatnonzero(size > 1e-9 * np.sqrt(courses.shape[1]))
    still = np.setdiff1d(np.arange(len(courses)), varying)
    if len(varying) > 2:
        unit = courses[varying] / size[varying, None]
        above = np.triu_indices(len(varying), 1)
        distances = np.maximum(0, 1 - np.abs(unit @ unit.T))[above]
        best = len(varying) <= MOST_FOR_BEST_LEAVES
        tree = hierarchy.linkage(distances, method="average", optimal_ordering=best)
        varying = varying[hierarchy.leaves_list(tree)]
    return np.concatenate([varying, still]).astype(np.int64)


def _check(values: NDArray[Any]) -> None:
    if values.ndim != 2:
        raise ValueError(f"values: given shape {values.shape}, expected (T, H)")
