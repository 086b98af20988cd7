"""What is not among the package's own dependencies, imported when it is needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def extra(module: str, use: str, name: str) -> Any:
    """Import a module that the extra `name` installs, for `use`.

    Raises:
        ModuleNotFoundError: it is not installed; the message names the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise lacking(error.name or module, use, name) from None


def lacking(module: str, use: str, name: str) -> ModuleNotFoundError:
    """The error that says what is missing for `use`, and how to get it."""
    return ModuleNotFoundError(
        f"{use} needs {module}, which is not installed: pip install 'unrolled[{name}]'", name=module
    )
