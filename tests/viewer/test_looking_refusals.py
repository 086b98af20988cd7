"""What cannot be looked at is refused by name, and looking keeps no more than a bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from looked_at import asked, looking
from planted_traces import planted, random

pytest.importorskip("bokeh")
pytest.importorskip("scipy")

from unrolled.recording import extremes
from unrolled.viewer import looking as module
from unrolled.viewer.asked import Asked
from unrolled.viewer.looking import Looking
from unrolled.viewer.recorded import Characters, Label
from unrolled.viewer.serving.packing import pack

METHODS: dict[str, dict[str, Any]] = {
    "window": {
        "sequence": 0,
        "start": 2,
        "stop": 9,
        "columns": 3,
        "layer": "l0",
        "names": ["l0.cell"],
        "order": "index",
        "first": 0,
        "last": 2,
        "rows": 2,
    },
    "unit": {
        "sequence": 0,
        "start": 2,
        "stop": 9,
        "columns": 3,
        "layer": "l0",
        "names": ["l0.cell"],
        "unit": 1,
    },
    "track": {"sequence": 0, "start": 2, "stop": 9, "columns": 3},
    "text": {"sequence": 0, "start": 2, "stop": 9, "name": "l0.cell", "unit": 1},
    "exact": {"sequence": 0, "start": 2, "stop": 9, "layer": "l0", "units": [0, 1], "name": "l0.cell"},
    "find": {"sequence": 0, "text": "x", "after": 3},
    "follows": {"sequence": 0, "name": "l0.cell"},
    "order": {"layer": "l0", "by": "index"},
}


WRONG = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["l0.hidden", "l1", "", "index", 10**400, [1], [[]], ["l0.cell", 3], [{}], {}, -1, 20, 21])
    | st.text(max_size=3)
    | st.lists(st.integers(-3, 30) | st.none(), max_size=3)
)


@pytest.fixture(scope="module")
def small() -> Looking:
    trace = planted(l0__cell=random(0, 2, 20, 2), l1__hidden=random(0, 2, 20, 3))
    label = Label("in_string", np.tile(np.arange(20) % 2, (2, 1)))
    return looking(trace, [20, 7], read=Characters(("x" * 20, "y" * 7)), labels=(label,))


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_wrong_arguments_are_refused_by_name(small: Looking, method: str, data: st.DataObject) -> None:
    right = METHODS[method]
    name = data.draw(st.sampled_from(sorted(right)))
    given = right | {name: data.draw(WRONG)}
    if data.draw(st.booleans()):
        given.pop(name)
    try:
        found = getattr(small, method)(Asked(given))
    except ValueError as refused:
        said = str(refused)
    else:
        assert pack(found)
        return
    # Where two make sense only together it may be the other one that is named.
    other = {
        "start": {"stop"},
        "sequence": {"stop"},
        "first": {"last"},
        "layer": {"names", "name", "units", "unit", "last"},
        "name": {"unit"},
    }
    assert said.partition(":")[0] in {name} | other.get(name, set())


@pytest.mark.parametrize("method", METHODS)
def test_arguments_that_are_missing_are_named(small: Looking, method: str) -> None:
    for name in METHODS[method].keys() - {"units"}:
        given = {key: value for key, value in METHODS[method].items() if key != name}
        with pytest.raises(ValueError, match=f"^{name}: given None"):
            getattr(small, method)(Asked(given))


class TestMemory:
    def test_no_array_of_the_recordings_length_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(extremes, "MEMORY", 2**20)
        monkeypatch.setattr(extremes, "MEMORY_OF_BLOCKS", 2**18)
        monkeypatch.setattr(extremes, "PIECE", 2**16)
        steps, units = 200_000, 4
        trace = planted(np.zeros((1, steps, units), np.float32))
        look = looking(trace, [steps])
        look.about()
        for start in range(0, steps, 5000):
            stop = min(start + 4000, steps)
            look.window(asked(start=start, stop=stop, columns=1500, last=units, order="timescale"))
            look.exact(asked(start=start, stop=stop, units=[0, 1], name="l0.cell"))
        look.window(asked(stop=steps, columns=900, last=units))
        look.follows(Asked({"name": "l0.cell", "sequence": 0}))
        assert look._extremes._kept._bytes <= 2**20
        held = [values for by_name in (look._samples, look._usual) for values in by_name.values()]
        assert max(map(len, held)) <= module.FOR_COLOURS
        # Orders and what units follow are kept of a bounded number of states.
        for cache in (look._followed, look._ordered, look._ends):
            assert 0 < cache.cache_info().maxsize <= 256

    def test_closing_ends_the_threads(self) -> None:
        look = looking(planted(random(0, 1, 20, 2)), [20])
        look.window(asked(last=2))
        threads = list(look._pool._threads)
        look.close()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
