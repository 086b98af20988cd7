"""Reading a command's options from its dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from unrolled.extras import extra

T = TypeVar("T")


def read(kind: type[T], arguments: Sequence[str], *, command: str, description: str, default: Any = None) -> T:
    """The options that arguments give; prints and exits with 2 where they are not understood, with 0 for --help."""
    tyro = extra("tyro", f"unrolled {command.split()[0]}", "train")
    options: dict[str, Any] = {} if default is None else {"default": default}
    found: T = tyro.cli(
        kind,
        args=list(arguments),
        prog=f"unrolled {command}",
        description=description,
        config=(tyro.conf.OmitArgPrefixes,),
        **options,
    )
    return found


def positional(kind: Any, name: str) -> Any:
    """The type of a dataclass field that is given by its place."""
    tyro = extra("tyro", "unrolled train", "train")
    return Annotated[kind, tyro.conf.Positional, tyro.conf.arg(metavar=name)]
