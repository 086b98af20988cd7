"""Puts the page on disk: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from unrolled.storage import write_text
from unrolled.verdicts import Claim
from unrolled.views.excerpt import Excerpt


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    answer: str,
    claims: Sequence[Claim],
    table: Sequence[Mapping[str, str]] = (),
    excerpts: Sequence[Excerpt] = (),
    setup: Sequence[str] = (),
) -> Path:
    """Write the page of a comparison: one HTML file with everything in it, which opens offline.

    Args:
        path: the file to write; an older page there is replaced only once the new one is whole.
        title: the heading of the page.
        answer: a paragraph in plain words that answers the question of the page.
        claims: what was measured, in the order shown.
        table: the trained networks, a row each (column -> text).
        excerpts: recorded networks to look inside.
        setup: how it was measured, a line each.

    Returns:
        The path written.

    Raises:
        ModuleNotFoundError: bokeh is not installed.
        OSError: the file cannot be written; the message names it.
    """
    try:
        from unrolled.page.page import render
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"bokeh", "jinja2"}:
            raise
        message = f"the page needs {error.name}, which is not installed: pip install 'unrolled[view]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    page = render(title=title, answer=answer, claims=claims, table=table, excerpts=excerpts, setup=setup)
    return write_text(Path(path), page)
