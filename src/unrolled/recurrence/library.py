"""Where the native library is. Torch is not imported here: what an install has can be asked at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import unrolled

NAME = "libunrolled_native" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")

MISSING = (
    "the kernels were not built at install; with a C++20 compiler (GCC or Clang) on this machine, "
    "install unrolled again, which builds them or says why it cannot: "
    "UNROLLED_REQUIRE_NATIVE=1 pip install --force-reinstall --no-deps --no-cache-dir unrolled "
    "(in a checkout: UNROLLED_REQUIRE_NATIVE=1 pip install --no-deps -e .)"
)


def find() -> Path | None:
    """The native library's file, or None if this install was made without a compiler (`MISSING` says what to do).

    The environment variable UNROLLED_LIBRARY names another file, such as a build with sanitizers.

    Raises:
        FileNotFoundError: UNROLLED_LIBRARY is set and names no file.
    """
    named = os.environ.get("UNROLLED_LIBRARY")
    if named:
        path = Path(named).absolute()
        if not path.is_file():
            raise FileNotFoundError(
                f"UNROLLED_LIBRARY is {named!r}, and {path} is not a file; "
                f"expected the path of a {NAME}, or no such variable for the library that was installed"
            )
        return path
    # An editable install has two folders: that of the sources, and the one that the library was installed into.
    candidates = (Path(folder).absolute() / NAME for folder in unrolled.__path__)
    return next((path for path in candidates if path.is_file()), None)
