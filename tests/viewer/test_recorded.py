"""What is looked at fits together, or says what does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import unrolled
from unrolled.viewer.recorded import Characters, Label, Recorded, Values


def trace_of(batch: int = 2, steps: int = 4, **options: Any) -> unrolled.Trace:
    model = torch.nn.LSTM(3, 5, batch_first=True)
    with torch.no_grad(), unrolled.record(model, detach=True) as trace:
        model(torch.zeros(batch, steps, 3), **options)
    return trace


def recorded(**changes: Any) -> Recorded:
    return Recorded(**{"title": "a", "trace": trace_of(), "lengths": (4, 2)} | changes)


def label(*rows: Any, names: tuple[str, ...] | None = None) -> Label:
    return Label("l", np.array(rows, np.int64), names)


def test_shape_is_that_of_every_state() -> None:
    assert recorded().shape == (2, 4)


def test_label_of_zero_and_one_is_binary_unless_its_values_have_names() -> None:
    assert label([0, 1, -1]).binary
    assert not label([0, 2, -1]).binary
    assert not label([0, 1, -1], names=("no", "yes")).binary


def test_most_of_a_label_that_is_nowhere_defined_is_below_zero() -> None:
    assert label([-1, -1]).most == -1
    assert label([3, -1]).most == 3
    assert Label("none", np.zeros((0, 4), np.int64)).most == -1


@pytest.mark.parametrize(
    ("values", "names", "said"),
    [
        (np.zeros((2, 3)), None, r"expected values \(B, T\) of int64, given \(2, 3\) of float64"),
        (np.zeros(3, np.int64), None, r"given \(3,\) of int64"),
        ([[1]], None, "given list"),
        (np.array([[-2]]), None, "holds -2"),
        (np.array([[2]]), ("a", "b"), "holds 2, and its values have 2 names"),
    ],
    ids=["float", "flat", "list", "below", "unnamed"],
)
def test_label_that_is_none_is_refused(values: Any, names: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Label("l", values, names)


def test_label_is_found_by_its_name() -> None:
    own = label([0] * 4, [1] * 4)
    assert recorded(labels=(own,)).label("l") is own
    with pytest.raises(KeyError, match="'m', only l"):
        recorded(labels=(own,)).label("m")
    with pytest.raises(KeyError, match="no label at all"):
        recorded().label("m")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lengths": (4,)}, "lengths: given 4, expected one from 0 to 4 for each of 2 sequences"),
        ({"lengths": (4, 5)}, "lengths: given 4, 5"),
        ({"lengths": ()}, "lengths: given none"),
        ({"read": Characters(("abcd", "abc"))}, "read: its texts have 4, 3 characters, and the sequences 4, 2 steps"),
        ({"read": Values(np.zeros((2, 4, 1), np.float32), ("a", "b"))}, r"read: its values have shape \(2, 4, 1\)"),
        (
            {"read": Values(np.zeros((2, 4, 1), np.float32), ("a",), (("x",) * 4, ("x",) * 4))},
            "read: its times are 4, 4, and the sequences have 4, 2 steps",
        ),
        ({"labels": (label([0]),)}, r"labels: 'l' has shape \(1, 1\), expected \(2, 4\)"),
        ({"labels": (label([0] * 4, [0] * 4),) * 2}, "labels: 'l' is there twice"),
        ({"inputs": torch.zeros(2, 3, 1)}, r"inputs: given \(2, 3, 1\)"),
        ({"inputs": torch.zeros(2, 4, 1, 1)}, r"inputs: given \(2, 4, 1, 1\)"),
        ({"reset": torch.zeros(2, 4)}, r"reset: given \(2, 4\) of torch.float32"),
        ({"targets": torch.zeros(2, 4)}, "targets: given .* expected .* of whole numbers"),
        ({"targets": torch.zeros(2, 4, 2), "loss": "values", "outputs": ("a",)}, r"targets: .* expected \(2, 4, 1\)"),
        ({"targets": torch.zeros(2, 4).long(), "readout": "mean"}, r"targets: .* expected \(2,\)"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, dict) else "",
)
def test_what_does_not_fit_the_trace_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recorded(**changes)


def test_what_fits_is_taken() -> None:
    recorded(
        read=Characters(("abcd", "ab")),
        inputs=torch.zeros(2, 4, dtype=torch.int64),
        targets=torch.zeros(2, 4, dtype=torch.int64),
        reset=torch.zeros(2, 4, dtype=torch.bool),
        loss="classes",
    )
    recorded(targets=torch.zeros(2, 1), outputs=("a",), loss="values", readout="mean", lengths=(0, 4))


def test_layers_without_a_common_axis_are_refused_with_a_way_out() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.GRU(1, 2, batch_first=True), torch.nn.GRU(2, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x)[0][:, ::2])[0]  # type: ignore[no-any-return]

    model = Two()
    with torch.no_grad(), unrolled.record(model, detach=True) as trace:
        model(torch.zeros(1, 6, 1))
    with pytest.raises(ValueError, match=r"\(1, 6\) of 'a.l0.* and \(1, 3\) of 'b.l0.*trace.select"):
        Recorded(title="", trace=trace, lengths=(6,))
    assert Recorded(title="", trace=trace.select(layers="b*"), lengths=(3,)).shape == (1, 3)


def test_empty_trace_is_refused() -> None:
    with unrolled.record(torch.nn.GRU(1, 2)) as trace:
        pass
    with pytest.raises(ValueError, match="there is nothing in it"):
        Recorded(title="", trace=trace, lengths=())
