"""What is no recording, damaged blocks and windows that cannot be shown are refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr

from extremes_by_hand import B, T, U, calls, live, walks, without_extremes
from unrolled.recording import Stored, save
from unrolled.recording.extremes import Extremes, build, has_extremes


@pytest.mark.parametrize("use", [has_extremes, build])
def test_what_is_no_recording_is_refused(use: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no recording at"):
        use(tmp_path / "run.zarr")
    (tmp_path / "run.zarr").mkdir()
    with pytest.raises(ValueError, match="is not a recording"):
        use(tmp_path / "run.zarr")


def unlink_a_chunk(path: Path) -> None:
    (path / "cell_16" / "c" / "0" / "1" / "0" / "0").unlink()


def unlink_an_array(path: Path) -> None:
    shutil.rmtree(path / "cell_16")


def shorten(path: Path) -> None:
    group = zarr.open_group(path, mode="r+")
    group["cell_16"].resize((2, B, 7, U))


def scribble(path: Path) -> None:
    (path / "zarr.json").write_text("{")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", [unlink_a_chunk, unlink_an_array, shorten, scribble])
def test_damaged_blocks_are_told_with_the_folder_to_delete(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = save(live({"cell": walks()}), tmp_path / "run.zarr")
    damage(path / "l0" / "extremes")
    message = r"is damaged: 'l0\.cell' cannot be read \(.*\); it is whole but for its extremes: delete .*/l0/extremes, "
    with pytest.raises(ValueError, match=message):
        Extremes(Stored(path)).window("l0.cell", sequence=1, start=0, stop=T, columns=40)
    build(without_extremes(path))
    assert has_extremes(path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "l0.hidden"}, KeyError, r"'l0\.hidden' is not in this trace; it has l0\.cell"),
        ({"sequence": B}, IndexError, r"sequence must be 0 to 2 of 'l0\.cell', given 3"),
        ({"sequence": -1}, IndexError, r"given -1"),
        (
            {"start": -1},
            ValueError,
            r"start and stop must be steps of 'l0\.cell' with 0 <= start < stop <= 20, given -1",
        ),
        ({"start": 5, "stop": 5}, ValueError, r"given 5 and 5"),
        ({"stop": 21}, ValueError, r"given 0 and 21"),
        ({"columns": 0}, ValueError, r"columns must be at least 1, given 0"),
    ],
)
def test_what_cannot_be_shown_is_told(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    looked_at = Extremes(live({"cell": walks(steps=20)}))
    asked = {"name": "l0.cell", "sequence": 0, "start": 0, "stop": 20, "columns": 10, **arguments}
    with pytest.raises(error, match=message):
        looked_at.window(**asked)
    if "columns" not in arguments:
        del asked["columns"]
        with pytest.raises(error, match=message):
            looked_at.exact(**asked)


def test_a_layer_called_with_batches_of_different_sizes_is_refused() -> None:
    source = live({"cell": walks()})
    source.add("l0.", calls({"cell": walks(batch=2)})[0], frozenset({"cell"}))
    with pytest.raises(ValueError, match=r"'l0\.cell': its layer was called with batches of 2 and of 3"):
        Extremes(source).window("l0.cell", sequence=0, start=0, stop=10, columns=10)
