"""Labelled sequences come from the file as they stand there; what is wrong is named with file, line and channel."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unrolled.data.labelled import load_labelled

TS = "# a comment\n% another\n@problemName Small\n@timeStamps false\n@classLabel true up down\n@data\n"
LONG = "run,kind,speed,weight\na,up,1,10\na,up,2,20\nb,down,3,30\n"


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_archive_of_several_channels_and_unequal_lengths(tmp_path: Path) -> None:
    path = written(tmp_path, "a.ts", TS + "1,2,3:4,5,6:up\n\n-1.5,2e1:7, 8 :down\n")
    read = load_labelled(path)
    assert (read.path, read.channels, read.labels) == (str(path), ("1", "2"), ("up", "down"))
    assert [sequence.tolist() for sequence in read.sequences] == [[[1, 4], [2, 5], [3, 6]], [[-1.5, 7], [20, 8]]]
    assert all(sequence.dtype == np.float32 for sequence in read.sequences)


def test_header_of_archive_is_read_in_any_case_and_after_a_byte_order_mark(tmp_path: Path) -> None:
    text = "@CLASSLABEL TRUE Up Down\r\n@Univariate True\r\n@DATA\r\n1,2:up\r\n3:DOWN\r\n"
    assert load_labelled(written(tmp_path, "a.TS", b"\xef\xbb\xbf" + text.encode())).labels == ("up", "DOWN")


def test_missing_values_stand_on_the_line_between_their_neighbours_and_ends_are_held(tmp_path: Path) -> None:
    path = written(tmp_path, "a.ts", TS + "?,1,?,?,7,NaN:up\n1:down\n")
    assert load_labelled(path).sequences[0][:, 0].tolist() == [1, 1, 3, 5, 7, 7]


@pytest.mark.parametrize("divider", ["\t", "   ", ","])
@pytest.mark.parametrize("suffix", [".tsv", ".txt"])
def test_ucr_archive_ends_a_sequence_where_only_nan_follows(tmp_path: Path, divider: str, suffix: str) -> None:
    lines = ["1 1 NaN 3 4", "-1 5 6 NaN NaN", "2 NaN 8 9 nan"]
    read = load_labelled(written(tmp_path, f"a{suffix}", "\n".join(line.replace(" ", divider) for line in lines)))
    assert read.labels == ("1", "-1", "2")
    assert [sequence[:, 0].tolist() for sequence in read.sequences] == [[1, 2, 3, 4], [5, 6], [8, 8, 9]]


def test_empty_cells_of_tabs_are_missing_and_old_labels_lose_their_decimals(tmp_path: Path) -> None:
    read = load_labelled(written(tmp_path, "a.tsv", "1.0000000e+00\t1\t\t3\t\t\nb\t2\n"))
    assert read.labels == ("1", "b")
    assert [sequence[:, 0].tolist() for sequence in read.sequences] == [[1, 2, 3], [2]]


@pytest.mark.parametrize("divider", [",", ";", "\t"])
def test_long_form_gathers_the_rows_of_a_sequence_in_their_order(tmp_path: Path, divider: str) -> None:
    text = "speed,kind,run,weight\n1,up,a,10\n3,down,b,\n,up,a,NA\n\n5,up,a,30\n4, down , b,40\n"
    read = load_labelled(written(tmp_path, "a.csv", text.replace(",", divider)), id="run", label="kind")
    assert (read.channels, read.labels) == (("speed", "weight"), ("up", "down"))
    assert [sequence.tolist() for sequence in read.sequences] == [[[1, 10], [3, 20], [5, 30]], [[3, 40], [4, 40]]]


def test_parquet_holds_the_same_as_csv(tmp_path: Path) -> None:
    columns = {
        "run": pa.array([1, 2, 1, 2]),
        "kind": pa.array(["up", "down", "up", "down"]).dictionary_encode(),
        "speed": pa.array([1.5, None, float("nan"), 4.0]),
        "weight": pa.array([1, 2, 3, 4], pa.int8()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    from_csv = written(tmp_path, "a.csv", "run,kind,speed,weight\n1,up,1.5,1\n2,down,,2\n1,up,nan,3\n2,down,4.0,4\n")
    ours, theirs = (load_labelled(path, id="run", label="kind") for path in (tmp_path / "a.parquet", from_csv))
    assert (ours.channels, ours.labels) == (theirs.channels, theirs.labels)
    for one, other in zip(ours.sequences, theirs.sequences, strict=True):
        np.testing.assert_array_equal(one, other)
    assert ours.sequences[0].tolist() == [[1.5, 1], [1.5, 3]]


def test_class_of_a_single_sequence_is_fine(tmp_path: Path) -> None:
    assert load_labelled(written(tmp_path, "a.ts", TS + "1:up\n2:up\n3:down\n")).labels == ("up", "up", "down")


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def sets(draw: st.DrawFn) -> tuple[list[np.ndarray], list[str]]:
    channels = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(1, 6), min_size=2, max_size=6))
    sequences = [
        np.array(draw(st.lists(finite, min_size=n * channels, max_size=n * channels)), np.float32).reshape(n, channels)
        for n in lengths
    ]
    labels = draw(st.lists(st.sampled_from(["a", "B", "3"]), min_size=len(lengths) - 2, max_size=len(lengths) - 2))
    return sequences, ["a", "B", *labels]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(sets())
def test_sequences_written_in_any_format_come_back_equal(
    tmp_path: Path, made: tuple[list[np.ndarray], list[str]]
) -> None:
    sequences, labels = made
    pairs = list(zip(sequences, labels, strict=True))
    ts = "".join(":".join(",".join(map(repr, map(float, c))) for c in s.T) + f":{label}\n" for s, label in pairs)
    names = [f"c{column}" for column in range(sequences[0].shape[1])]
    rows = [(at, label, *map(float, step)) for at, (s, label) in enumerate(pairs) for step in s]
    table = {"id": [row[0] for row in rows], "y": [row[1] for row in rows]}
    table |= {name: [row[2 + column] for row in rows] for column, name in enumerate(names)}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    csv = "\n".join([",".join(("id", "y", *names)), *(",".join(map(str, row)) for row in rows)])
    read = [
        load_labelled(written(tmp_path, "a.ts", "@classLabel true a b 3\n@data\n" + ts)),
        load_labelled(written(tmp_path, "a.csv", csv), id="id", label="y"),
        load_labelled(tmp_path / "a.parquet", id="id", label="y"),
    ]
    if len(names) == 1:
        ucr = "".join("\t".join((label, *map(str, map(float, s[:, 0])))) + "\n" for s, label in pairs)
        read.append(load_labelled(written(tmp_path, "a.tsv", ucr)))
    for one in read:
        assert one.labels == tuple(labels)
        for ours, theirs in zip(one.sequences, sequences, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text("@classlabeltrue data10,.:?-e\nN\t#", max_size=120), st.sampled_from([".ts", ".tsv", ".csv"]))
def test_any_text_is_read_or_refused_with_the_name_of_the_file(tmp_path: Path, text: str, suffix: str) -> None:
    path = written(tmp_path, "a" + suffix, text if suffix != ".ts" else "@classLabel true\n@data\n" + text)
    columns = {"id": "a", "label": "l"} if suffix == ".csv" else {}
    read, refusal = None, ""
    try:
        read = load_labelled(path, **columns)
    except ValueError as error:
        refusal = str(error)
    if read is None:
        assert str(path) in refusal
    else:
        assert all(np.isfinite(sequence).all() and len(sequence) for sequence in read.sequences)
        assert len(set(read.labels)) > 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TS + "1:up\n1,x2,3:down\n", r"a\.ts: line 8, channel 1 has 'x2' at step 2; expected a number, or \?"),
        (TS + "1:2:up\n1:,2:down\n", r"a\.ts: line 8, channel 2 has '' at step 1; expected a number"),
        (TS + "1:up\n1,inf:down\n", r"a\.ts: line 8, channel 1 has inf at step 2; expected finite"),
        (TS + "1:up\n1,1e39:down\n", r"a\.ts: line 8, channel 1 has 1e\+39 at step 2; expected finite"),
        (TS + "1:2:up\n1,2:?,?:down\n", r"a\.ts: line 8, channel 2 has no value at all"),
        (TS + "1:2:up\n1:down\n", r"a\.ts: line 8 has 1 channel, the sequences before it have 2"),
        (TS + "1:2:up\n1:2,3:down\n", r"a\.ts: line 8, channel 2 has 2 steps, channel 1 has 1"),
        (TS + "1:up\n:down\n", r"a\.ts: line 8, channel 1 has no values; leave the sequence out"),
        (TS + "1:up\n1,2\n", r"a\.ts: line 8 has '1,2' as its label, .* expected one of up, down, as @classLabel says"),
        (TS + "1:up\n1:left\n", r"a\.ts: line 8 has 'left' as its label"),
        (TS + "1:up\n1,2:\n", r"a\.ts: line 8 has nothing as its label"),
        (TS + "1:up\n2:up\n", r"a\.ts: all 2 sequences have the label 'up'; expected two classes or more"),
        (TS, r"a\.ts has no sequences"),
        ("", r"a\.ts has no line @data; expected a \.ts file"),
        (TS.replace("@data\n", ""), r"a\.ts has no line @data"),
        ("1,2:up\n" + TS, r"a\.ts: line 1 stands before @data and begins with '1,2:up'"),
        (TS.replace("Stamps false", "Stamps true") + "(0,1):up", r"a\.ts says @timestamps true: values with times are"),
        ("@targetLabel true\n" + TS, r"a\.ts says @targetlabel true: its sequences have a number to predict instead"),
        ("@classLabel false\n@data\n1\n", r"a\.ts says @classlabel false: its sequences have no class"),
        ("@dimensions 2\n" + TS + "1:up\n", r"a\.ts: line 8 has 1 channel, the header says 2"),
        ("@univariate true\n" + TS + "1:2:up\n", r"a\.ts: line 8 has 2 channels, the header says 1"),
        ("@dimensions two\n" + TS, r"a\.ts says @dimensions two; expected a whole number"),
    ],
)
def test_what_is_wrong_in_an_archive_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_labelled(written(tmp_path, "a.ts", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\t1\n2\t1\tfoo\n", r"a\.tsv: line 2, channel 1 has 'foo' at step 2; expected a number"),
        ("1\t1\n2\tNaN\tNaN\n", r"a\.tsv: line 2 has a label, '2', but no values; leave the line out"),
        ("1\t1\n2\n", r"a\.tsv: line 2, channel 1 has no values"),
        ("1\t1\n\t1\n", r"a\.tsv: line 2 has no label"),
        ("1\t1\nNaN\t1\n", r"a\.tsv: line 2 has no label"),
        ("1\t1\n2\tinf\t1\n", r"a\.tsv: line 2, channel 1 has inf at step 1"),
        ("1\t1\n1.0\t2\n", r"a\.tsv: all 2 sequences have the label '1'"),
        ("\n \n", r"a\.tsv has no sequences"),
    ],
)
def test_what_is_wrong_in_a_ucr_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_labelled(written(tmp_path, "a.tsv", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LONG + "b,down,fast,1\n", r"a\.csv: line 5, column 'speed' has 'fast'; expected a finite number"),
        (LONG + 'b,down,"1\n2",1\n', r"a\.csv: line 5, column 'speed' has '1\\n2'"),
        (
            LONG.replace("a,up,1", 'a,"u\np",1') + "b,down,x,1\n",
            r"a\.csv: line 4 has 'up' .* has 'u\\np' from line 2 on",
        ),
        (LONG + "\nb,down,1,-inf\n", r"a\.csv: line 6, column 'weight' has '-inf'; expected a finite number"),
        (LONG + "b,up,1,1\n", r"a\.csv: line 5 has 'up' in column 'kind', but sequence 'b' has 'down' from line 4 on"),
        (LONG + ",up,1,1\n", r"a\.csv: line 5 has nothing in column 'run'; every row needs its sequence's name"),
        (LONG + "c, ,1,1\n", r"a\.csv: line 5 has nothing in column 'kind'; every row needs its sequence's class"),
        (LONG + "c,up,1\n", r"a\.csv: line 5 has 3 cells; the header has 4 columns"),
        (LONG + "c,up,,1\n", r"a\.csv: sequence 'c' from line 5 on, channel speed has no value at all"),
        (LONG + 'c,up,"1,1\n', r"a\.csv: line 5 cannot be read as CSV \(unexpected end of data\)"),
        (LONG + "c,up,1e39,1\n", r"a\.csv: sequence 'c' from line 5 on, channel speed has 1e\+39 at step 1"),
        (LONG.replace("down", "up"), r"a\.csv: all 2 sequences have the label 'up'"),
        ("run,kind,speed\n", r"a\.csv has a header but no rows"),
        ("", r"a\.csv is empty; expected a header"),
        ("run,kind\na,up\n", r"a\.csv has no columns besides id='run' and label='kind'"),
        ("run,kind,x,x\na,up,1,1\n", r"a\.csv has 2 columns named 'x'"),
        (
            "runs,kind,x\na,up,1\n",
            r"a\.csv has no column 'run' for id=; its columns are .* \(did you mean runs\?",
        ),
        ("run,class,x\na,up,1\n", r"a\.csv has no column 'kind' for label=; its columns are run, class, x$"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_labelled(written(tmp_path, "a.csv", text), id="run", label="kind")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"name the column of the sequence that a row belongs to with id=; its columns are run, kind, speed",
        ),
        ({"id": "run"}, r"name the column of the class with label=; its columns are run, kind, speed, weight"),
        ({"id": "run", "label": "run"}, r"id= and label= are both 'run'; they are two columns"),
    ],
)
def test_columns_of_a_table_have_to_be_named(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_labelled(written(tmp_path, "a.csv", LONG), **options)


def test_what_is_wrong_in_parquet_is_named_with_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"run": ["a", "b"], "kind": ["x", "y"], "speed": ["1", "fast"]}), path)
    with pytest.raises(ValueError, match=r"a\.parquet: row 2, column 'speed' has 'fast'; expected a finite number"):
        load_labelled(path, id="run", label="kind")
    pq.write_table(pa.table({"run": ["a", "b"], "kind": ["x", None], "speed": [1, math.inf]}), path)
    with pytest.raises(ValueError, match=r"a\.parquet: row 2 has nothing in column 'kind'"):
        load_labelled(path, id="run", label="kind")
    with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet file that can be read"):
        load_labelled(written(tmp_path, "a.parquet", b"no parquet file"), id="run", label="kind")


def test_parquet_without_pyarrow_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    path = written(tmp_path, "a.parquet", b"")
    with pytest.raises(ModuleNotFoundError, match=r"needs pyarrow.*pip install 'unrolled\[train\]'"):
        load_labelled(path, id="run", label="kind")


def test_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"b\.ts does not exist; give a file that ends in \.ts, \.tsv"):
        load_labelled(tmp_path / "b.ts")
    with pytest.raises(ValueError, match=r"is a folder; expected a file that ends in \.ts"):
        load_labelled(tmp_path)
    with pytest.raises(ValueError, match=r"a\.json ends in '\.json'; expected a file that ends in \.ts"):
        load_labelled(written(tmp_path, "a.json", "{}"))
    with pytest.raises(ValueError, match=r"id= and label= name columns of \.csv and \.parquet files"):
        load_labelled(written(tmp_path, "a.ts", TS + "1:up\n2:down\n"), label="kind")


def test_encoding_is_named_with_the_line_or_used(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "run,kind,x\na,Süd,1\nb,Nord,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.csv: line 2 is not utf-8 .*name the file's encoding with encoding="):
        load_labelled(path, id="run", label="kind")
    assert load_labelled(path, id="run", label="kind", encoding="latin-1").labels == ("Süd", "Nord")
    with pytest.raises(ValueError, match=r"encoding 'latin-99' is not known"):
        load_labelled(path, id="run", label="kind", encoding="latin-99")
