"""Writing files so that a reader finds the old file or the new one whole, never half of one."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


# The end of a temporary file's name.
_PART = ".part"


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder and those below it."""
    for left in folder.rglob(f".*{_PART}"):
        left.unlink(missing_ok=True)


def writable(path: Path) -> None:
    """Raise the OSError that writing this file would raise; an existing file stays as it is."""
    trial = path.with_name(f".{path.name}.trial{_PART}")
    try:
        write(trial, lambda file: None)
    except OSError as error:
        raise type(error)(error.errno, str(error.strerror).replace(str(trial), str(path))) from None
    trial.unlink()


def write(path: Path, fill: Callable[[IO[bytes]], object]) -> Path:
    """Write a file by way of a temporary one beside it: `fill` is given the open file.

    Raises:
        OSError: the folder cannot be made or written; the message names the path.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=_PART, delete=False) as file:
            try:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
                # A temporary file is its owner's alone; what is written here is there to be passed on.
                os.chmod(file.name, 0o666 & ~_umask())
                os.replace(file.name, path)
                _flush_folder(path.parent)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write {path}: {error.strerror or error}; choose another folder"
        ) from None
    return path


def _flush_folder(folder: Path) -> None:
    """Have the new name on disk too, where the system lets a folder be opened."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8."""
    # A lone surrogate in recorded text must not cost the reader the file.
    return write(path, lambda file: file.write(text.encode(errors="replace")))


def write_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write JSON; NaN and infinities are refused, since a figure that is not a number must be said so in words.

    Raises:
        ValueError: a figure is NaN or infinite; the message names the path.
        OSError: the folder cannot be made or written.
    """
    try:
        text = json.dumps(data, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} is not written: it would hold a figure that is not a number ({error})") from error
    return write_text(path, text)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file is damaged or holds NaN; the message names it and what to do.
    """

    def refuse(constant: str) -> float:
        raise ValueError(f"holds {constant}")

    def figure(text: str) -> float:
        return float(text) if math.isfinite(float(text)) else refuse(text)

    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse, parse_float=figure)
        if not isinstance(data, dict):
            raise ValueError("is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete {path.parent} to have it made again") from error
    return data


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> Path:
    """Write a state_dict as safetensors."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    return write(path, lambda file: file.write(content))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state_dict.

    Raises:
        ValueError: the file is damaged or holds NaN; the message names it and what to do.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights: dict[str, Tensor] = load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete {path.parent} to have it made again") from error
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{path} holds NaN or infinity in {name!r}; delete {path.parent} to have it made again")
    return weights


def finite(value: float) -> float | None:
    """A figure as JSON can hold it: None where it is not a number."""
    return float(value) if math.isfinite(value) else None
