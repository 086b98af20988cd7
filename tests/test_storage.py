"""Files are there whole or not at all, and a damaged one is named."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import IO

import pytest
import torch
from safetensors.torch import save

from unrolled.storage import finite, read_json, read_weights, sweep, write, write_json, write_text, write_weights


class Failure(Exception):
    pass


def half_written(error: BaseException) -> object:
    def fill(file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    return fill


@pytest.mark.parametrize("error", [Failure(), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = write_text(tmp_path / "notes.txt", "old")
    with pytest.raises(type(error)):
        write(path, half_written(error))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_failed_first_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(Failure):
        write(tmp_path / "notes.txt", half_written(Failure()))
    assert os.listdir(tmp_path) == []


def test_write_replaces_the_old_file_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "notes.txt"
    write_text(path, "old and long")
    assert write_text(path, "new") == path
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["notes.txt"]


def test_written_file_can_be_read_by_those_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = write_text(tmp_path / "notes.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_text_with_a_lone_surrogate_is_still_written(tmp_path: Path) -> None:
    assert write_text(tmp_path / "notes.txt", "a\udc80é").read_bytes() == b"a?\xc3\xa9"


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "below" / "notes.txt"
    with pytest.raises(OSError, match="cannot write .*; choose another folder") as caught:
        write_text(path, "x")
    assert str(path) in str(caught.value)


def test_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(path, half_written(OSError(28, "No space left on device")))
    assert str(path) in str(caught.value)


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    data = {"a": [1, 2.5, None], "é": {"nested": True}}
    assert read_json(write_json(tmp_path / "x.json", data)) == data


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_figure_that_is_not_a_number_is_not_written(tmp_path: Path, value: float) -> None:
    path = write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match=r"x\.json"):
        write_json(path, {"a": [value]})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"a": 1',
        b'{"a": NaN}',
        b'{"a": [-Infinity]}',
        b'{"a": 1e999}',
        b"[1, 2]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_damaged_json_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run" / "run.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged .*delete .* to have it made again") as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    weights = {"a": torch.randn(3, 4), "turned": torch.randn(5, 2).T, "none": torch.zeros(0)}
    found = read_weights(write_weights(tmp_path / "w.safetensors", weights))
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_numbers_are_named(tmp_path: Path, value: float) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(save({"good": torch.ones(2), "bad": torch.tensor([1.0, value])}))
    with pytest.raises(ValueError, match="holds NaN or infinity in 'bad'; delete") as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


def test_weights_cut_short_anywhere_are_named(tmp_path: Path) -> None:
    whole = save({"a": torch.ones(4)})
    path = tmp_path / "w.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is damaged") as caught:
            read_weights(path)
        assert str(path) in str(caught.value)


def test_weights_with_any_byte_changed_are_read_or_named(tmp_path: Path) -> None:
    whole = save({"a": torch.ones(4)})
    path = tmp_path / "w.safetensors"
    for at in range(len(whole)):
        for change in (0x01, 0x80):
            changed = bytearray(whole)
            changed[at] ^= change
            path.write_bytes(changed)
            if complaint := complaint_about(path):
                assert str(path) in complaint


def complaint_about(path: Path) -> str | None:
    try:
        read_weights(path)
    except ValueError as error:
        return str(error)
    return None


def test_finite_keeps_numbers_only() -> None:
    assert finite(2.5) == 2.5
    assert finite(math.nan) is finite(math.inf) is finite(-math.inf) is None


def test_sweep_removes_what_a_killed_writer_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    left, kept = tmp_path / "run" / ".run.json.abc.part", tmp_path / "run" / "run.json"
    left.write_text("{")
    kept.write_text("{}")
    sweep(tmp_path)
    assert not left.exists()
    assert kept.read_text() == "{}"
