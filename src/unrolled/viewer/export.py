"""A stretch of a recording as a page of its own, which opens without a server and without unrolled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from unrolled.selection import Region
from unrolled.storage import write_text
from unrolled.viewer.recorded import Characters, Recorded, Values
from unrolled.views.embedding import bokeh_script, item, script_json
from unrolled.views.excerpt import Excerpt, embedded
from unrolled.views.figures import views
from unrolled.views.resources import EXCERPT_SCRIPTS, VIEWS, resource, template

if TYPE_CHECKING:
    from unrolled.viewer.opening import StudyFolder

FILES = "unrolled.viewer.files"
# Values of all states in a page of about ten megabytes, which every browser opens.
MOST_VALUES = 4_000_000
MOST_STEPS = 5_000


def export(
    found: Recorded | StudyFolder,
    path: str | os.PathLike[str],
    *,
    sequence: int = 0,
    start: int | None = None,
    stop: int | None = None,
) -> Path:
    """Write a stretch of one sequence as a page with everything in it.

    Args:
        found: what is looked at.
        path: the file to write; an older one there is replaced once the new one is whole.
        sequence: which sequence.
        start: the first step; 0 if omitted.
        stop: the step after the last; as many as a page holds well if omitted.

    Returns:
        The path written.

    Raises:
        ValueError: the steps are not in the sequence, or more than a page holds; or it is a study, which has a page of
            its own.
        OSError: the file cannot be written; the message names it.
    """
    if not isinstance(found, Recorded):
        raise ValueError(
            "export: a study has a page of its own, report.html in its folder; give a run or a recording to export"
        )
    excerpt = cut(found, sequence, start, stop)
    page = template(FILES, "export.jinja").render(
        title=excerpt.title,
        served=False,
        fallback=excerpt.text or "",
        style=Markup(resource("views.css", VIEWS) + resource("viewer.css", FILES)),
        bokeh=bokeh_script(),
        views=script_json(item(views())),
        inside=script_json([embedded(excerpt)]),
        scripts=[Markup(resource(name, VIEWS)) for name in EXCERPT_SCRIPTS],
    )
    return write_text(Path(path), page)


def cut(found: Recorded, sequence: int = 0, start: int | None = None, stop: int | None = None) -> Excerpt:
    """A stretch of one sequence of a recording, read into memory.

    Raises:
        ValueError: as `export`.
    """
    if not 0 <= sequence < len(found.lengths):
        raise ValueError(f"sequence: given {sequence}, expected 0 to {len(found.lengths) - 1}")
    length = found.lengths[sequence]
    names = list(found.trace)
    widths = {name: found.trace._source.form(name).units for name in names}
    most = max(1, min(MOST_STEPS, MOST_VALUES // sum(widths.values())))
    first = 0 if start is None else start
    last = min(length, first + most) if stop is None else stop
    if not 0 <= first < last <= length:
        raise ValueError(f"steps: {first} to {last} are not in sequence {sequence}, which has {length} steps")
    if last - first > most:
        raise ValueError(
            f"steps: {last - first} steps of {sum(widths.values())} values are more than a page holds; "
            f"expected {most} or fewer"
        )
    states = {}
    for name in names:
        region = Region(range(sequence, sequence + 1), range(first, last), range(widths[name]))
        states[name] = found.trace._source.values(name, region)[0].detach().float().cpu().numpy()
    read = found.read
    return Excerpt(
        f"{found.title}, steps {first:,} to {last - 1:,}",
        read.texts[sequence][first:last] if isinstance(read, Characters) else None,
        states,
        {label.name: label.values[sequence, first:last] for label in found.labels},
        {label.name: label.names for label in found.labels if label.names is not None},
        values=np.asarray(read.values[sequence, first:last], np.float32) if isinstance(read, Values) else None,
        channels=read.channels if isinstance(read, Values) else (),
        first=first,
    )
