"""The books of a Bible as the modules of the pythonbible packages hold them, read without running or importing those.

Such a module is one call, Bible(version, text, verse_starts, verse_ends, max_verses, short_titles, ...), of literals.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from unrolled.data.texts import Documents


def load_books(path: Path) -> Documents:
    """One document for each book, in the order of the books, under its short title.

    A paragraph is a line, as in the module; every chapter begins a line as well, since the module has some books, the
    Psalms among them, in one piece. Brackets around words that the translators added are left out, the words stay.

    Args:
        path: a module of plain text without verse numbers, plain_text_readers_bible.py.

    Raises:
        ValueError: the module is not built as described above.
    """
    try:
        (call,) = (
            node.value
            for node in ast.parse(path.read_bytes()).body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        )
        text = ast.literal_eval(call.args[1])
        # A verse is book * 1,000,000 + chapter * 1,000 + verse.
        starts = ast.literal_eval(call.args[2])
        # The keys are members of an enumeration, in the order of the books' numbers; the values are literals.
        titles = call.args[5]
        if not (isinstance(text, str) and isinstance(starts, dict) and isinstance(titles, ast.Dict)):
            raise TypeError("its second, third and sixth argument are not text, verses and titles")
        names = tuple(ast.literal_eval(title) for title in titles.values)
        chapters: dict[int, dict[int, int]] = {}
        for verse, at in sorted(starts.items()):
            chapters.setdefault(verse // 1_000_000, {}).setdefault(verse // 1_000, at)
        begins = [list(chapters[book].values()) for book in range(1, len(names) + 1)]
    except (SyntaxError, ValueError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a module of pythonbible's as expected ({error})") from error
    ends = [first for first, *_ in begins[1:]] + [len(text)]
    texts = tuple(_book(text, begun, end) for begun, end in zip(begins, ends, strict=True))
    return Documents(path=str(path), names=names, texts=texts)


def _book(text: str, chapters: list[int], end: int) -> str:
    pieces = zip(chapters, [*chapters[1:], end], strict=True)
    book = "\n".join(text[begin:stop] for begin, stop in pieces).replace("[", "").replace("]", "").replace("( ", "(")
    return re.sub(r" *\n[ \n]*", "\n", re.sub(" +", " ", book)).strip() + "\n"
