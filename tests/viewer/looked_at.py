"""A recording as it is looked at, and what a page asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import unrolled
from unrolled.viewer.asked import Asked
from unrolled.viewer.looking import Looking
from unrolled.viewer.recorded import Recorded


def looking(trace: unrolled.Trace, lengths: Sequence[int], **more: Any) -> Looking:
    return Looking(Recorded(title="a test", trace=trace, lengths=tuple(lengths), **more))


def asked(**changed: Any) -> Asked:
    """The whole first sequence of 20 steps, as a page asks for it, but for what is changed."""
    whole: dict[str, Any] = {"sequence": 0, "start": 0, "stop": 20, "columns": 10, "layer": "l0"}
    whole |= {"names": ["l0.cell"], "order": "index", "first": 0, "last": 1, "rows": 1}
    return Asked(whole | changed)
