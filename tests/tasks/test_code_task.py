from __future__ import annotations

import sysconfig
import time
import tokenize
from pathlib import Path

import numpy as np
import pytest
import torch

from unrolled.tasks import Batch, Code, Split
from unrolled.tasks.code import ALPHABET, decode, encode
from unrolled.tasks.source_labels import label

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
LIBRARY = Path(sysconfig.get_path("stdlib"))
SMALL = Code(length=40, characters=400_000)


def windows(batch: Batch) -> list[str]:
    """The characters of each sequence, inputs and the last target."""
    assert batch.symbols is not None
    pairs = zip(batch.symbols, batch.targets, strict=True)
    return [decode(symbols) + decode(targets[-1:]) for symbols, targets in pairs]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eighty small files, enough for every split to have some."""
    (tmp_path / "inner").mkdir()
    for number in range(80):
        place = tmp_path / "inner" if number % 2 else tmp_path
        (place / f"file{number}.py").write_text(
            f"def f{number}(x):\n    return x + {number}  # é\n" * 5, encoding="utf-8"
        )
    return tmp_path


def test_alphabet_is_98_symbols_and_decode_inverts_encode_on_them() -> None:
    assert len(ALPHABET) == len(set(ALPHABET)) == 98
    assert encode(ALPHABET).tolist() == list(range(98))
    assert decode(torch.arange(98)) == ALPHABET
    assert decode(encode("aé\x0c\x7f\0\U0001f600\ud800~").tolist()) == "a" + "\ufffd" * 6 + "~"


def test_targets_are_the_next_characters() -> None:
    batch = SMALL.batch(16, seed=0)
    assert batch.symbols is not None
    assert torch.equal(batch.targets[:, :-1], batch.symbols[:, 1:])
    assert torch.equal(batch.inputs.argmax(dim=-1), batch.symbols)
    assert batch.scored.all()
    assert not batch.marks


@pytest.mark.parametrize("split", SPLITS)
def test_windows_come_from_the_files_of_their_split(split: Split) -> None:
    texts = {}
    for path in SMALL.files(split):
        with tokenize.open(LIBRARY / path) as file:
            texts[path] = decode(encode(file.read()).tolist())
    batch = SMALL.batch(16, seed=0, split=split)
    for window in windows(batch):
        assert any(window in text for text in texts.values())


def test_splits_share_no_file_and_are_about_80_10_10() -> None:
    task = Code()
    files = {split: set(task.files(split)) for split in SPLITS}
    total = sum(map(len, files.values()))
    assert len(set.union(*files.values())) == total
    assert 0.72 < len(files["train"]) / total < 0.88
    assert len(files["validation"]) > 10
    assert len(files["test"]) > 10


def test_a_file_stays_in_its_split_when_others_come(folder: Path) -> None:
    before = {split: set(Code(path=str(folder), length=8).files(split)) for split in SPLITS}
    for number in range(100, 130):
        (folder / f"file{number}.py").write_text("pass\n" * 10, encoding="utf-8")
    # Another budget, so that the corpus is read anew.
    after = {split: set(Code(path=str(folder), length=8, characters=3_999_999).files(split)) for split in SPLITS}
    assert all(before[split] and before[split] < after[split] for split in SPLITS)


def test_left_out_folders_are_not_read() -> None:
    paths = [path for split in SPLITS for path in Code().files(split)]
    parts = {part for path in paths for part in Path(path).parts}
    assert not parts & {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "turtledemo"}


def test_at_most_the_asked_characters_are_read() -> None:
    sizes = [(LIBRARY / path).stat().st_size for split in SPLITS for path in SMALL.files(split)]
    assert 300_000 < sum(sizes) <= 400_000


def test_labels_are_those_of_the_whole_file() -> None:
    batch = SMALL.batch(8, seed=2, split="test")
    assert set(batch.labels) == {"in_string", "in_comment", "bracket_depth", "indentation", "column"}
    files = []
    for path in SMALL.files("test"):
        with tokenize.open(LIBRARY / path) as file:
            text = file.read()
        files.append((decode(encode(text).tolist()), label(text)))
    for index, window in enumerate(windows(batch)):
        # A window may occur more than once: one place must have all its labels.
        assert any(
            all(np.array_equal(truth[name][start : start + 40], given[index]) for name, given in batch.labels.items())
            for text, truth in files
            for start in range(len(text))
            if text.startswith(window, start)
        )


def test_training_has_no_labels() -> None:
    assert SMALL.batch(2, seed=0).labels == {}


def test_every_position_of_a_split_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("abcdefgh", encoding="utf-8")
    (tmp_path / "b.py").write_text("ijk", encoding="utf-8")
    (tmp_path / "c.py").write_text("lm", encoding="utf-8")
    task = Code(path=str(tmp_path), length=2)
    found: set[str] = set()
    for split in SPLITS:
        if {"a.py", "b.py"} & set(task.files(split)):
            found |= set(windows(task.batch(400, seed=0, split=split)))
    assert found == {"abc", "bcd", "cde", "def", "efg", "fgh", "ijk"}


def test_baseline_is_the_cross_entropy_of_training_frequencies_on_test() -> None:
    counts, total = np.ones(98), 0.0
    for path in SMALL.files("train"):
        with tokenize.open(LIBRARY / path) as file:
            counts += np.bincount(encode(file.read()), minlength=98)
    bits = -np.log2(counts / counts.sum())
    size = 0
    for path in SMALL.files("test"):
        with tokenize.open(LIBRARY / path) as file:
            symbols = encode(file.read())
        total += bits[symbols].sum()
        size += len(symbols)
    assert SMALL.baseline().value == pytest.approx(total / size)
    # Drawn windows agree with it, as far as 400 of them can.
    targets = Code(length=128, characters=400_000).batch(400, seed=0, split="test").targets
    assert bits[targets.numpy()].mean() == pytest.approx(total / size, rel=0.05)


def test_excerpt_has_a_string_and_a_comment() -> None:
    batch = Code().excerpt(300, seed=0)
    assert batch.inputs.shape == (1, 300, 98)
    assert batch.labels["in_string"].any()
    assert batch.labels["in_comment"].any()
    again = Code().excerpt(300, seed=0)
    assert torch.equal(batch.inputs, again.inputs)
    assert not torch.equal(batch.inputs, Code().excerpt(300, seed=1).inputs)


def test_excerpt_without_a_string_anywhere_is_still_given(folder: Path) -> None:
    batch = Code(path=str(folder)).excerpt(20, seed=0)
    assert not batch.labels["in_string"].any()


def test_loading_is_fast() -> None:
    start = time.perf_counter()
    # Not the default, which another test may have loaded.
    Code(characters=3_999_998).batch(32, seed=0)
    assert time.perf_counter() - start < 2


def test_coding_line_byte_order_mark_and_line_ends_are_read_as_python_does(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes("# coding: latin-1\r\nx = 'é'\ry = 1\n".encode("latin-1"))
    (tmp_path / "b.py").write_bytes(b"\xef\xbb\xbfz = 2\n# and more of it, as long as the other")
    found: set[str] = set()
    for length, path in ((31, "a.py"), (12, "b.py")):
        task = Code(path=str(tmp_path), length=length)
        for split in SPLITS:
            if path in task.files(split):
                found |= set(windows(task.batch(400, seed=0, split=split)))
    assert "# coding: latin-1\nx = '\ufffd'\ny = 1\n" in found
    assert "z = 2\n# and m" in found
    assert not any("\ufffdz" in window for window in found)


def test_unreadable_files_are_passed_over(folder: Path) -> None:
    (folder / "bad.py").write_bytes(b"x = '\xff'\n" * 9)
    (folder / "cookie.py").write_bytes(b"# coding: nonsense\n" * 9)
    (folder / "hex.py").write_bytes(b"# coding: hex\n" * 9)
    (folder / "broken.py").symlink_to(folder / "nowhere")
    (folder / "large.py").write_text("#" * 200_001, encoding="utf-8")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.py").write_text("pass\n" * 9, encoding="utf-8")
    paths = {path for split in SPLITS for path in Code(path=str(folder)).files(split)}
    assert len(paths) == 80


def test_untokenizable_files_are_not_drawn_where_labels_are_read(folder: Path) -> None:
    task = Code(path=str(folder), length=8)
    spoiled, *_ = task.files("test")
    (folder / spoiled).write_text("a ? b (\n" * 2000, encoding="utf-8")
    task = Code(path=str(folder), length=8, characters=3_999_997)
    batch = task.batch(64, seed=0, split="test")
    assert batch.symbols is not None
    assert not any("?" in decode(symbols) for symbols in batch.symbols)
    assert spoiled in task.files("test")


def test_split_of_untokenizable_files_only_is_refused(folder: Path) -> None:
    task = Code(path=str(folder), length=8)
    for path in task.files("test"):
        (folder / path).write_text("a ? b (\n" * 5, encoding="utf-8")
    task = Code(path=str(folder), length=8, characters=3_999_996)
    with pytest.raises(ValueError, match=r"the test split of .* has no file of at least 9 characters that can be tok"):
        task.batch(4, seed=0, split="test")


def test_folder_without_source_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task code: no \.py source in .*; give a folder of \.py files, path=FOLDER"):
        Code(path=str(tmp_path)).batch(1, seed=0)
    with pytest.raises(ValueError, match=r"task code: path .* is not a folder; .* path=FOLDER"):
        Code(path=str(tmp_path / "none")).batch(1, seed=0)
    with pytest.raises(ValueError, match="is not a folder"):
        Code(path="\0").batch(1, seed=0)


def test_python_without_its_source_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match=r"no \.py source in .* path=FOLDER"):
        Code().batch(1, seed=0)


def test_folder_with_nothing_usable_names_the_first_bad_file(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(ValueError, match=r"no file of .* can be used \(1 skipped, the first is bad\.py: ") as error:
        Code(path=str(tmp_path)).batch(1, seed=0)
    assert "\n" not in str(error.value)


def test_files_shorter_than_the_window_are_refused_with_the_way_out(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"train split of .* has no file of at least 5001 characters"):
        Code(path=str(folder), length=5000).batch(1, seed=0)


@pytest.mark.parametrize("name", ["length", "characters"])
def test_bad_setting_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"^task code: {name} is 0; expected a whole number of at least 1"):
        Code(**{name: 0})  # type: ignore[arg-type]


def test_there_is_no_lag_to_set() -> None:
    assert Code().lags == ()
    with pytest.raises(ValueError, match="task code: has no lag to set, given lag=3"):
        Code().at_lag(3)
