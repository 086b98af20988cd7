from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.tasks import TASKS, Adding, Code, Copy, Recall, Task, parse

counts = st.integers(2, 500)
spans = counts | st.tuples(counts, counts).map(lambda ends: (min(ends), max(ends)))
paths = st.text(st.characters(exclude_characters="="), max_size=20)

tasks: st.SearchStrategy[Task] = st.one_of(
    st.builds(Adding, length=spans),
    st.builds(Recall, lag=spans, symbols=counts, distractors=st.integers(0, 9), length=st.none() | st.just(502)),
    st.builds(Copy, lag=spans, symbols=counts, items=counts),
    st.builds(Code, length=counts, path=paths, characters=counts),
)


@given(task=tasks)
def test_parse_inverts_spec(task: Task) -> None:
    assert parse(task.spec()) == task


@pytest.mark.parametrize(
    ("spec", "task"),
    [
        ("recall", Recall()),
        ("recall:lag=1-40,symbols=8", Recall(lag=(1, 40), symbols=8)),
        ("recall:lag=5", Recall(lag=5)),
        ("adding:length=10-20", Adding(length=(10, 20))),
        ("copy:items=3,lag=9", Copy(items=3, lag=9)),
        ("code:path=/a,b/c:d,length=64", Code(path="/a,b/c:d", length=64)),
    ],
)
def test_spec_reads_as_written(spec: str, task: Task) -> None:
    assert parse(spec) == task


def test_every_task_stands_under_its_own_name() -> None:
    assert list(TASKS) == ["adding", "recall", "copy", "code"]
    assert all(task.name == name and task.summary for name, task in TASKS.items())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("recal", "task 'recal' is not known; the tasks are adding, recall, copy, code (did you mean recall?)"),
        ("", "task '' is not known; the tasks are adding, recall, copy, code"),
        (
            "recall:lags=3",
            "task recall: has no setting 'lags'; its settings are lag, symbols, distractors, length"
            " (did you mean lag?)",
        ),
        ("adding:name=3", "task adding: has no setting 'name'; its settings are length"),
        ("recall:lag=far", "task recall: lag is 'far'; expected a whole number or a range such as 1-40"),
        ("recall:symbols=1-4", "task recall: symbols is '1-4'; expected a whole number"),
        ("recall:lag=1-", "task recall: lag is '1-'; expected a whole number or a range such as 1-40"),
        ("recall:lag=", "task recall: lag is ''; expected a whole number or a range such as 1-40"),
        ("recall:40", "task recall: '40' is not a setting; settings are written recall:lag=VALUE"),
        ("recall:", "task recall: '' is not a setting; settings are written recall:lag=VALUE"),
        ("recall:lag=3,lag=4", "task recall: lag is given twice, 3 and '4'"),
        ("recall:lag=-3", "task recall: lag is -3; expected a whole number of at least 1"),
        ("recall:lag=9-3", "task recall: lag is 9-3; a range starts at its lower end, 3-9"),
    ],
)
def test_mistakes_are_named_with_what_was_expected(spec: str, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared in full below
        parse(spec)
    assert str(error.value) == message
