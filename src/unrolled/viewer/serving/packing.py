"""How an answer with arrays in it travels to the page: a JSON header, then the arrays' bytes.

    4 bytes     length of the header, little-endian
    header      JSON in ASCII; an array stands there as {"$array": [dtype, shape, offset]}, a float that JSON cannot
                write as {"$number": "nan" | "inf" | "-inf"}; a key that begins with "$" has one "$" more
    zeros       up to the next multiple of 8, where the data begin
    data        little-endian, in C order; `offset` counts from where the data begin and is a multiple of 8

Numbers must not pass through text: a window of a recording is hundreds of thousands of them. `packing.js` reads the
same bytes in the browser, without copying the arrays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What JavaScript has a typed array for, of what we send.
_TYPES = ("float32", "float64", "uint8", "uint16", "int32")
# The types that hold every value of another one.
_WIDER = {"bool": "uint8", "int8": "int32", "int16": "int32", "float16": "float32"}
_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def pack(value: Any) -> bytes:
    """Pack nested dicts, lists, tuples, dataclasses, strings, numbers, booleans and None with numpy arrays among them.

    Arrays keep float32, float64, uint8, uint16 and int32. bool becomes uint8, smaller types the next that holds them,
    float16 float32; other integers become int32 where all of them fit and else float64, which is exact up to 2**53.
    An array of strings or objects becomes nested lists. Tuples come back as lists, dataclasses as dicts.

    Raises:
        TypeError: something else is in it, or a key that is not a string; the message says where.
    """
    arrays: list[bytes] = []
    header = json.dumps(_plain(value, "answer", _Data(arrays)), allow_nan=False, separators=(",", ":")).encode("ascii")
    return b"".join([len(header).to_bytes(4, "little"), header, bytes(-(4 + len(header)) % 8), *arrays])


def unpack(packed: bytes) -> Any:
    """What `pack` packed: dicts, lists, strings, numbers, booleans, None and read-only arrays."""
    end = 4 + int.from_bytes(packed[:4], "little")
    return _restored(json.loads(packed[4:end]), memoryview(packed)[end + -end % 8 :])


class _Data:
    """The bytes of the arrays so far, and where the next one begins."""

    def __init__(self, parts: list[bytes]) -> None:
        self.parts = parts
        self.length = 0

    def add(self, array: NDArray[Any]) -> int:
        begin = self.length
        content = array.tobytes()
        padding = bytes(-len(content) % 8)
        self.parts += [content, padding]
        self.length += len(content) + len(padding)
        return begin


def _plain(value: Any, where: str, data: _Data) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if math.isfinite(number) else {"$number": str(number)}
    if isinstance(value, np.ndarray):
        return _array(value, where, data)
    if isinstance(value, list | tuple):
        return [_plain(one, f"{where}[{i}]", data) for i, one in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name), f"{where}.{field.name}", data) for field in fields(value)
        }
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; the keys of what is packed are strings")
        return {f"${k}" if k.startswith("$") else k: _plain(one, f"{where}.{k}", data) for k, one in value.items()}
    raise TypeError(f"{where} is a {type(value).__name__}, which cannot be packed")


def _array(array: NDArray[Any], where: str, data: _Data) -> Any:
    if array.dtype.kind in "UOT":
        return _plain(array.tolist(), where, data)
    # A masked array's bytes hold numbers under the mask.
    if array.dtype.kind not in "biuf" or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{where} is a {type(array).__name__} of {array.dtype}, which cannot be packed")
    name = array.dtype.name
    if name not in _TYPES:
        name = _WIDER.get(name) or ("int32" if array.dtype.kind in "iu" and _fits(array) else "float64")
    sent = array.astype(np.dtype(name).newbyteorder("<"), copy=False)
    return {"$array": [name, list(array.shape), data.add(sent)]}


def _fits(array: NDArray[Any]) -> bool:
    limits = np.iinfo(np.int32)
    return array.size == 0 or (int(array.min()) >= limits.min and int(array.max()) <= limits.max)


def _restored(value: Any, data: memoryview) -> Any:
    if isinstance(value, list):
        return [_restored(one, data) for one in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        name, shape, offset = value["$array"]
        dtype = np.dtype(name).newbyteorder("<")
        return (
            np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)
            if 0 not in shape
            else _none(shape, dtype)
        )
    if "$number" in value:
        return _NUMBERS[value["$number"]]
    return {key.removeprefix("$"): _restored(one, data) for key, one in value.items()}


def _none(shape: list[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    empty = np.empty(shape, dtype)
    empty.flags.writeable = False
    return empty
