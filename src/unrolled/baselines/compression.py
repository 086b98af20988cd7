"""What a general compressor makes of a text: it finds what is repeated, and knows nothing of language."""

from __future__ import annotations

import lzma

_PRESET = 9 | lzma.PRESET_EXTREME
_PRESET_DICTIONARY = 64 * 2**20  # bytes, that of preset 9
_LARGEST_DICTIONARY = 1536 * 2**20  # bytes, the format's limit for compressing


def xz_bits(text: str, *, primed_by: str = "") -> float:
    """Bits per character, not per byte, of a text in UTF-8 compressed by `xz -9e`.

    The file's frame counts, about 60 bytes.

    Args:
        text: what to compress.
        primed_by: a text that is compressed before it and whose own size is taken off, with a dictionary that holds
            both: what `text` costs one who knows `primed_by` by heart, as a network has seen its training text.

    Raises:
        ValueError: the text is empty, or both together are above 1.5 GiB.
    """
    if not text:
        raise ValueError("text: has no characters; give one or more")
    # A lone surrogate, which UTF-8 has no bytes for, is no reason to stop.
    content, before = (part.encode("utf-8", "surrogatepass") for part in (text, primed_by))
    length = len(before) + len(content)
    if length > _LARGEST_DICTIONARY:
        raise ValueError(
            f"text: has {length} bytes with primed_by, and xz sees at most {_LARGEST_DICTIONARY} together; give less "
            "of primed_by"
        )
    dictionary = max(_PRESET_DICTIONARY, length)
    size = _size(before + content, dictionary) - (_size(before, dictionary) if before else 0)
    return 8 * size / len(text)


def _size(content: bytes, dictionary: int) -> int:
    """Bytes of the compressed content; `dictionary` is how far back repetitions are found, in bytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": _PRESET, "dict_size": dictionary}]
    return len(lzma.compress(content, format=lzma.FORMAT_XZ, filters=filters))
