"""Puts the page on disk: whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from unrolled.report.excerpt import Excerpt
from unrolled.verdicts import Claim


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
        from unrolled.report.page import render
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"bokeh", "jinja2"}:
            raise
        message = f"the page needs {error.name}, which is not installed: pip install 'unrolled[view]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    target = Path(path)
    page = render(title=title, answer=answer, claims=claims, table=table, excerpts=excerpts, setup=setup)
    write_whole(target, page)
    return target


def write_whole(target: Path, text: str) -> None:
    """Write `text` to `target` through a temporary file beside it, so that no reader ever sees half a page."""
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        # A lone surrogate in a recorded text must not cost the reader the page.
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files only their owner can read; a page is there to be passed on.
        os.chmod(temporary, 0o666 & ~current_umask())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(error.errno, f"cannot write the page {target}: {reason}") from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def current_umask() -> int:
    """The permission bits new files are made without."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
