"""Texts are read whole or passed over with a word, and divided by a rule that keeps every file in its part."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.data.texts import FEW_DOCUMENTS, Documents, divided, load_documents
from unrolled.tasks import Code
from unrolled.tasks.task import SPLITS


def written(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def documents(texts: dict[str, str]) -> Documents:
    return Documents(path="made", names=tuple(texts), texts=tuple(texts.values()))


def test_one_file_is_one_document_with_line_feeds_and_no_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path, {"a.txt": b"\xef\xbb\xbfone\r\ntwo\rthr\xc3\xa9e\n"}) / "a.txt"
    read = load_documents(path)
    assert (read.path, read.names, read.texts, read.remarks) == (str(path), ("a.txt",), ("one\ntwo\nthrée\n",), ())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, {"a.txt": "naïve\r\ncafé".encode(encoding)}) / "a.txt"
    assert load_documents(path, encoding=encoding).texts == ("naïve\ncafé",)


@pytest.mark.parametrize("length", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_line_ends_and_characters_across_pieces_of_a_long_file_are_whole(tmp_path: Path, length: int) -> None:
    for ending in ("é", "\r\n", "\r", "\U0001f600"):
        text = "x" * (length - 1) + ending + "y"
        path = written(tmp_path, {"a.txt": text}) / "a.txt"
        assert load_documents(path).texts == (text.replace("\r\n", "\n").replace("\r", "\n"),), ending


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    path = written(tmp_path, {"a.txt.gz": gzip.compress(b"packed\r\n")}) / "a.txt.gz"
    assert load_documents(path).texts == ("packed\n",)


def test_folder_is_read_in_the_order_of_the_hashes_of_its_paths(tmp_path: Path) -> None:
    names = [f"part{number % 3}/{number}.py" for number in range(40)]
    written(tmp_path, {name: f"x = '{name}'\n" for name in names})
    read = load_documents(tmp_path)
    assert sorted(read.names) == sorted(names)
    assert read.texts == tuple(f"x = '{name}'\n" for name in read.names)
    code = Code(path=str(tmp_path))
    within = [[name for name in read.names if name in code.files(split)] for split in SPLITS]
    assert [tuple(names) for names in within] == [code.files(split) for split in SPLITS]


def test_hidden_files_caches_and_names_outside_the_pattern_are_left_out(tmp_path: Path) -> None:
    files = ("a.txt", "b.md", ".hidden.txt", ".git/c.txt", "__pycache__/d.txt", "sub/e.txt")
    written(tmp_path, dict.fromkeys(files, "x"))
    assert sorted(load_documents(tmp_path).names) == ["a.txt", "b.md", "sub/e.txt"]
    assert sorted(load_documents(tmp_path, pattern="*.txt").names) == ["a.txt", "sub/e.txt"]
    assert load_documents(tmp_path, pattern="sub/*").names == ("sub/e.txt",)


def test_files_that_are_not_text_are_left_out_and_told_of(tmp_path: Path) -> None:
    written(tmp_path, {"a.txt": "text", "b.bin": b"GIF\0", "c.txt": b"caf\xe9", "d.gz": b"no gzip", "e.txt": ""})
    read = load_documents(tmp_path)
    assert read.texts == ("text",)
    refused, empty = read.remarks
    assert refused.startswith("3 of 5 files of")
    assert "cannot be read as utf-8 text" in refused
    assert empty.startswith("1 of 5 files of")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"abc\0def", r"a NUL at byte 3"),
        (b"caf\xe9 au lait", r"byte 3 is not utf-8: invalid continuation byte"),
        (b"x" * (1 << 20) + b"\xc3\xa9\xff", rf"byte {(1 << 20) + 2} is not utf-8"),
        (b"x" * ((1 << 20) - 1) + b"\xc3 ", rf"byte {(1 << 20) - 1} is not utf-8"),
        (b"caf\xc3", r"byte 3 is not utf-8: unexpected end of data"),
    ],
)
def test_only_file_that_is_not_text_is_named_with_the_byte(tmp_path: Path, content: bytes, why: str) -> None:
    path = written(tmp_path, {"a.txt": content}) / "a.txt"
    for given_path in (path, tmp_path):
        with pytest.raises(ValueError, match=rf"a\.txt cannot be read as utf-8 text \({why}.*encoding=latin-1"):
            load_documents(given_path)


def test_characters_limit_what_is_read(tmp_path: Path) -> None:
    written(tmp_path, {f"{number}.txt": "é" * 100 for number in range(10)})
    read = load_documents(tmp_path, characters=250)
    assert [len(text) for text in read.texts] == [100, 100, 50]
    assert read.names == load_documents(tmp_path).names[:3]
    assert read.remarks == ("reading stopped at characters=250; 7 of 10 files were not read",)
    assert load_documents(tmp_path, characters=1000).texts == load_documents(tmp_path).texts


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"a.txt": ""}, {}, r"is empty: there is no text in its 1 file$"),
        ({"a.txt": b"\xef\xbb\xbf", "b.txt": ""}, {}, r"no text in its 2 files$"),
        ({"a.txt": "x"}, {"pattern": "*.md"}, r"has no file that matches pattern='\*\.md'"),
        ({}, {}, r"has no file that matches pattern='\*'"),
        ({"a.txt": "x"}, {"encoding": "utf8x"}, r"encoding 'utf8x' is not known; expected one such as utf-8"),
        ({"a.txt": "x"}, {"encoding": "hex"}, r"encoding 'hex' is not known"),
        ({"a.txt": "x"}, {"characters": 0}, r"characters is 0; expected 1 or more"),
    ],
)
def test_nothing_to_read_is_said(
    tmp_path: Path, files: dict[str, str | bytes], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_documents(written(tmp_path, files), **options)  # type: ignore[arg-type]


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give a text file or a folder"):
        load_documents(tmp_path / "nowhere")


def test_many_documents_are_divided_whole_as_the_task_code_divides_them(tmp_path: Path) -> None:
    written(tmp_path, {f"{number}.py": f"x = {number}\n" for number in range(200)})
    parts = divided(load_documents(tmp_path))
    code = Code(path=str(tmp_path))
    assert parts.parts == {split: code.texts(split) for split in SPLITS}
    assert parts.how.startswith("200 documents, each whole in one part")


def test_file_stays_in_its_part_when_others_come() -> None:
    few = documents({f"{number}": f"{number}" for number in range(100)})
    many = documents({f"{number}": f"{number}" for number in range(300)})
    before, after = divided(few, validation=0.15, test=0.25).parts, divided(many, validation=0.15, test=0.25).parts
    for split in SPLITS:
        assert set(before[split]) == set(after[split]) & set(few.texts)


def test_shares_are_kept() -> None:
    parts = divided(documents({f"{number}": "x" for number in range(20_000)}), validation=0.05, test=0.25).parts
    assert len(parts["validation"]) / 20_000 == pytest.approx(0.05, abs=0.006)
    assert len(parts["test"]) / 20_000 == pytest.approx(0.25, abs=0.012)


def test_few_documents_are_each_cut_by_position_at_line_ends() -> None:
    lines = [f"line {number}\n" for number in range(1000)]
    parts = divided(documents({"a": "".join(lines), "b": "".join(lines)}))
    assert parts.how == (
        "each of 2 documents cut by position: the first 80% for training, the next 10% for validation, "
        "the last 10% for test"
    )
    for at in (0, 1):
        pieces = [parts.parts[split][at] for split in SPLITS]
        assert "".join(pieces) == "".join(lines)
        assert all(piece.endswith("\n") for piece in pieces)
        sizes = [len(piece) / len("".join(lines)) for piece in pieces]
        assert sizes == pytest.approx([0.8, 0.1, 0.1], abs=0.001)


def test_documents_that_leave_a_part_empty_are_cut_by_position() -> None:
    # All names whose last bytes put them into the training part.
    names = [name for name in map(str, range(200)) if name in divided_names("train")][:FEW_DOCUMENTS]
    assert len(names) == FEW_DOCUMENTS
    parts = divided(documents({name: "0123456789" for name in names}))
    assert parts.parts == {"train": ("01234567",) * 20, "validation": ("8",) * 20, "test": ("9",) * 20}
    assert "cut by position" in parts.how


def divided_names(split: str) -> set[str]:
    names = documents({str(number): str(number) for number in range(200)})
    return {text for part, texts in divided(names).parts.items() if part == split for text in texts}


@given(st.text(min_size=30), st.floats(0.1, 0.4), st.floats(0.1, 0.4))
def test_pieces_of_a_cut_document_are_its_whole_text(text: str, validation: float, test: float) -> None:
    parts = divided(documents({"a": text}), validation=validation, test=test).parts
    assert "".join(parts[split][0] for split in SPLITS) == text


def test_too_little_text_for_three_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="made: its 3 characters are too few to give a test part"):
        divided(documents({"a": "abc"}))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"validation": 0.0}, "validation is 0.0; expected a share between 0 and 1"),
        ({"test": 1.5}, "test is 1.5"),
        ({"validation": float("nan")}, "validation is nan"),
        ({"validation": 0.5, "test": 0.5}, r"validation \+ test is 1, which leaves nothing for training"),
    ],
)
def test_bad_shares_are_refused_by_name(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        divided(documents({"a": "some text"}), **shares)
