"""An answer comes out of its bytes as it went in, in Python and in the browser's language."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unrolled.viewer.serving.packing import pack, unpack


@dataclass
class Span:
    first: int
    values: Any


def header(packed: bytes) -> Any:
    return json.loads(packed[4 : 4 + int.from_bytes(packed[:4], "little")])


def test_bytes_of_a_known_answer() -> None:
    packed = pack({"a": np.array([1, 2], dtype="uint16")})
    text = b'{"a":{"$array":["uint16",[2],0]}}'
    assert packed == len(text).to_bytes(4, "little") + text + bytes(3) + b"\x01\x00\x02\x00" + bytes(4)


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -3, 1.5, 2**40, "", "é\u2028<b>\x00", "\udc80", [], {}, [[], {}], {"": {"a": [None, 1]}}],
    ids=repr,
)
def test_plain_values_come_back(value: object) -> None:
    assert unpack(pack(value)) == value
    assert type(unpack(pack(value))) is type(value)


@pytest.mark.parametrize("name", ["float32", "float64", "uint8", "uint16", "int32"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 1), (0,), (4, 0)], ids=str)
def test_array_keeps_its_type_shape_and_values(name: str, shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape), dtype=name).reshape(shape)
    back = unpack(pack([array]))[0]
    assert (back.dtype, back.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (np.array([1, -(2**31)]), "int32"),
        (np.array([2**31 - 1]), "int32"),
        (np.array([2**31]), "float64"),
        (np.array([-(2**31) - 1]), "float64"),
        (np.array([], dtype="int64"), "int32"),
        (np.array([2**32 - 1], dtype="uint32"), "float64"),
        (np.array([7], dtype="uint64"), "int32"),
        (np.array([-128], dtype="int8"), "int32"),
        (np.array([-(2**15)], dtype="int16"), "int32"),
        (np.array([True, False]), "uint8"),
        (np.array([0.5, 65504], dtype="float16"), "float32"),
        (np.array([0.5], dtype=">f8"), "float64"),
        (np.array([1, 2], dtype=">u2"), "uint16"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype.str}-{value.size}",
)
def test_array_of_another_type_is_sent_as_one_that_holds_its_values(given: Any, sent: str) -> None:
    back = unpack(pack(given))
    assert back.dtype == np.dtype(sent)
    np.testing.assert_array_equal(back, given)


@pytest.mark.parametrize("view", [np.s_[::2], np.s_[::-1], np.s_[:, 1], np.s_[1:, ::3]], ids=str)
def test_array_that_is_not_contiguous_is_sent_in_order(view: Any) -> None:
    array = np.arange(40.0).reshape(8, 5)[view]
    np.testing.assert_array_equal(unpack(pack(array)), array)
    np.testing.assert_array_equal(unpack(pack(array.T)), array.T)


def test_nan_and_infinities_are_kept_in_numbers_and_in_arrays() -> None:
    values = [math.nan, math.inf, -math.inf, -0.0]
    back = unpack(pack({"numbers": values, "array": np.array(values, dtype="float32")}))
    np.testing.assert_array_equal(back["numbers"], values)
    np.testing.assert_array_equal(back["array"], np.array(values, dtype="float32"))
    assert math.copysign(1, back["numbers"][3]) == -1
    assert header(pack(values))[:3] == [{"$number": "nan"}, {"$number": "inf"}, {"$number": "-inf"}]


def test_every_array_begins_at_a_multiple_of_eight() -> None:
    for length in range(12):
        packed = pack({"x" * length: [np.ones(size, "uint8") for size in range(10)]})
        begin = 4 + int.from_bytes(packed[:4], "little")
        begin += -begin % 8
        [arrays] = header(packed).values()
        for size, one in enumerate(arrays):
            offset = one["$array"][2]
            assert offset % 8 == 0
            assert packed[begin + offset : begin + offset + size] == b"\x01" * size


def test_dataclasses_become_dicts_and_tuples_lists() -> None:
    back = unpack(pack((Span(3, [Span(4, np.arange(2))]), 1)))
    assert back[0]["first"] == 3
    np.testing.assert_array_equal(back[0]["values"][0]["values"], [0, 1])
    assert back[1] == 1


def test_scalars_of_numpy_become_numbers() -> None:
    back = unpack(pack([np.float32(0.5), np.int64(2), np.bool_(True), np.float64("nan")]))
    assert back[:3] == [0.5, 2, True]
    assert [type(one) for one in back] == [float, int, bool, float]


def test_array_of_strings_becomes_lists() -> None:
    assert unpack(pack(np.array([["a", "é"], ["", "b"]]))) == [["a", "é"], ["", "b"]]
    assert unpack(pack(np.array([None, 1, "x"], dtype=object))) == [None, 1, "x"]


@pytest.mark.parametrize(
    "value", [{"$array": ["uint8", [9], 0]}, {"$number": "nan"}, {"$": 1, "$$a": 2, "a$": 3}], ids=repr
)
def test_names_that_look_like_the_markers_stay_names(value: object) -> None:
    assert unpack(pack(value)) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [0, {1, 2}]}, r"answer\.a\[1\] is a set"),
        (b"raw", "answer is a bytes"),
        ({"a": {1: 2}}, r"answer\.a has the key 1"),
        (Span, "answer is a type"),
        (Span(1, 2j), r"answer\.values is a complex"),
        (np.array([1j]), "ndarray of complex128"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "datetime64"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "MaskedArray"),
        (np.array([object()], dtype=object), r"answer\[0\] is a object"),
    ],
)
def test_what_cannot_be_packed_is_named_with_its_place(value: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        pack(value)


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def in_javascript(packed: bytes, expression: str, folder: Path) -> Any:
    """The expression's value in JavaScript, as JSON, where `value` is what the browser unpacks."""
    (folder / "packed").write_bytes(packed)
    script = files("unrolled.viewer.files") / "packing.js"
    program = f"""
        const {{unpack}} = require({json.dumps(str(script))});
        const bytes = require("fs").readFileSync({json.dumps(str(folder / "packed"))});
        const value = unpack(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
        console.log(JSON.stringify({expression}));"""
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
@pytest.mark.parametrize("name", ["float32", "float64", "uint8", "uint16", "int32"])
def test_browser_reads_each_type(name: str, tmp_path: Path) -> None:
    array = np.arange(6, dtype=name).reshape(2, 3)
    packed = pack({"odd": np.ones(3, "uint8"), "a": array, "none": array[:0], "one": array[1, 2:].reshape(())})
    expression = (
        "[value.a.constructor.name, [...value.a], value.a.shape, value.none.shape, [...value.one], value.one.shape]"
    )
    kind = f"{name.capitalize()}Array"
    assert in_javascript(packed, expression, tmp_path) == [kind, [0, 1, 2, 3, 4, 5], [2, 3], [0, 3], [5], []]


@needs_node
def test_browser_reads_texts_numbers_and_nothing_else_changes(tmp_path: Path) -> None:
    plain = {
        "text": "é</script>\u2028\U0001f600",
        "list": [1, None, [True, {"a": 0.5}]],
        "$array": ["uint8", [1], 0],
        "$$": 1,
    }
    assert in_javascript(pack(plain), "value", tmp_path) == plain


@needs_node
def test_browser_reads_nan_and_infinities(tmp_path: Path) -> None:
    packed = pack({"n": [math.nan, math.inf, -math.inf], "a": np.array([math.nan, math.inf])})
    expression = "[...value.n.map(String), ...[...value.a].map(String)]"
    assert in_javascript(packed, expression, tmp_path) == ["NaN", "Infinity", "-Infinity", "NaN", "Infinity"]


@needs_node
def test_names_of_the_recording_cannot_reach_javascripts_prototypes(tmp_path: Path) -> None:
    packed = pack({"__proto__": {"polluted": 1}, "constructor": {"prototype": {"polluted": 1}}})
    expression = "[({}).polluted ?? null, value.polluted ?? null, Object.keys(value)]"
    assert in_javascript(packed, expression, tmp_path) == [None, None, ["__proto__", "constructor"]]
