"""The kernels as torch operators: torch's own checks, values, compiled graphs, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from exact import MODES, B, H, I, T, close
from unrolled.recurrence import cpu, ops, reference
from unrolled.recurrence.cells import CELLS, Weights

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason="the kernels were not built")

assert ops  # whose import registers the operators
recurrence: Any = torch.ops.unrolled.recurrence
recurrence_backward: Any = torch.ops.unrolled.recurrence_backward
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
LENGTHS = torch.tensor([2, 6, 3])

CASES: dict[str, Any] = {
    "plain": {},
    "without bias": {"bias": False},
    "with lengths": {"lengths": LENGTHS},
    "reverse": {"reverse": True},
    "reverse with lengths": {"reverse": True, "lengths": LENGTHS},
}


def arguments(
    mode: str,
    *,
    bias: bool = True,
    lengths: Tensor | None = None,
    reverse: bool = False,
    wanting: str = "",
    dtype: torch.dtype = torch.float32,
) -> list[Any]:
    """x, hidden, cell, weights, lengths, mode, reverse; `wanting` names what requires grad: x, states, weights."""
    rows = max(len(CELLS[mode].gates), 1) * H
    numbers = torch.Generator().manual_seed(0)

    def draw(*shape: int, of: str) -> Tensor:
        return (0.5 * torch.randn(shape, generator=numbers)).to(dtype).requires_grad_(of in wanting)

    x, hidden = draw(T, B, I, of="x"), draw(B, H, of="states")
    cell = draw(B, H, of="states") if mode == "LSTM" else None
    weights = [draw(rows, I, of="weights"), draw(rows, H, of="weights")]
    biases = [draw(rows, of="weights"), draw(rows, of="weights")] if bias else [None, None]
    return [x, hidden, cell, *weights, *biases, lengths, mode, reverse]


def wanting_gradients(given: list[Any]) -> list[Tensor]:
    return [value for value in given if isinstance(value, Tensor) and value.requires_grad]


def loss_of(results: Any) -> Tensor:
    """A loss of output and final states, those results that are there whatever is kept."""
    total = torch.zeros((), dtype=results[0].dtype)
    for result in results[:3]:
        total = total + (result.pow(3) + result).sum()
    return total


def upstream(mode: str) -> list[Tensor | None]:
    """Gradients of everything that a call with `keep` returns."""
    cells = (B, H) if mode == "LSTM" else None
    shapes = [(T, B, H), (B, H), cells, (T, *cells) if cells else None]
    blocks = cpu.KERNELS[mode].stored
    return [torch.randn(shape) if shape else None for shape in (*shapes, (T, B, blocks * H) if blocks else None)]


# torch's own checks


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_operator_passes_torchs_checks(mode: str, keep: bool, case: str) -> None:
    torch.library.opcheck(recurrence, (*arguments(mode, **CASES[case]), keep), test_utils=CHECKS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("wanting", ["x states weights", pytest.param("states", marks=pytest.mark.slow)])
def test_operator_passes_torchs_checks_where_gradients_are_wanted(
    mode: str, keep: bool, case: str, wanting: str
) -> None:
    # With gradients everything is kept, whatever is asked for.
    given = arguments(mode, **CASES[case], wanting=wanting)
    torch.library.opcheck(recurrence, (*given, keep), test_utils=CHECKS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("need_x", "need_weights"), [(True, True), (True, False), (False, True)])
def test_backward_operator_passes_torchs_checks(mode: str, case: str, need_x: bool, need_weights: bool) -> None:
    given = arguments(mode, **CASES[case])
    output, _, _, cells, gates = recurrence(*given, True)
    torch.library.opcheck(
        recurrence_backward,
        (*given, output, cells, gates, *upstream(mode), need_x, need_weights),
        test_utils=CHECKS,
    )


@pytest.mark.parametrize("mode", MODES)
def test_backward_operator_passes_torchs_checks_without_some_upstream_gradients(mode: str) -> None:
    given = arguments(mode)
    output, _, _, cells, gates = recurrence(*given, True)
    some = [upstream(mode)[0], None, None, None, None]
    torch.library.opcheck(recurrence_backward, (*given, output, cells, gates, *some, True, True), test_utils=CHECKS)


# Values


def by_reference(given: list[Any]) -> Any:
    x, hidden, cell, *weights, lengths, mode, reverse = given
    states = (hidden,) if cell is None else (hidden, cell)
    names = CELLS[mode].names
    return reference.unroll(CELLS[mode], x, states, Weights(*weights), lengths=lengths, reverse=reverse, keep=names)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_operator_and_its_gradients_equal_the_reference_in_float64(mode: str, case: str) -> None:
    given = arguments(mode, **CASES[case], wanting="x states weights")
    exact = arguments(mode, **CASES[case], wanting="x states weights", dtype=torch.float64)
    results, expected = recurrence(*given, True), by_reference(exact)
    taken = torch.ones(T, B, 1, dtype=torch.bool)
    if given[7] is not None:
        taken = torch.arange(T).view(T, 1, 1) < given[7].view(1, B, 1)
    close([results[0], *results[1 : 1 + len(expected.final)]], [expected.output, *expected.final])
    for index, gate in enumerate(CELLS[mode].gates):
        values = results[4][..., index * H : (index + 1) * H]
        close(values * taken, expected.steps[gate].values * taken)
    if mode == "LSTM":
        close(results[3] * taken, expected.steps["cell"].values * taken)
    loss, exact_loss = loss_of(results), loss_of([expected.output, *expected.final])
    close(
        torch.autograd.grad(loss, wanting_gradients(given)), torch.autograd.grad(exact_loss, wanting_gradients(exact))
    )


@pytest.mark.parametrize("mode", ["GRU", "LSTM"])
def test_second_derivative_of_the_operator_equals_the_reference_in_float64(mode: str) -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        given = arguments(mode, wanting="x states weights", dtype=dtype)
        results = recurrence(*given, True) if dtype is torch.float32 else None
        exact = by_reference(given) if results is None else None
        loss = loss_of(results if exact is None else [exact.output, *exact.final])
        (first,) = torch.autograd.grad(loss, given[0], create_graph=True)
        found.append(torch.autograd.grad(first.pow(2).sum(), wanting_gradients(given)))
    close(*found, tolerance=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_without_keep_no_more_is_returned_than_output_and_final_states(mode: str) -> None:
    output, final_hidden, final_cell, cells, gates = recurrence(*arguments(mode), False)
    assert output.shape == (T, B, H)
    assert final_hidden.shape == (B, H)
    assert final_cell.shape == ((B, H) if mode == "LSTM" else (0,))
    assert cells.shape == gates.shape == (0,)


@pytest.mark.parametrize("mode", MODES)
def test_with_keep_cells_and_gates_of_every_step_are_returned(mode: str) -> None:
    _, _, _, cells, gates = recurrence(*arguments(mode), True)
    assert cells.shape == ((T, B, H) if mode == "LSTM" else (0,))
    assert gates.shape == ((T, B, 4 * H) if mode in ("GRU", "LSTM") else (0,))


@pytest.mark.parametrize("mode", MODES)
def test_fake_tensors_of_any_size_have_the_shapes_of_the_real_ones(mode: str) -> None:
    given = arguments(mode, wanting="x states weights")
    with FakeTensorMode() as fake:
        made = [fake.from_tensor(value) if isinstance(value, Tensor) else value for value in given]
        results = recurrence(*made, True)
        gradients = torch.autograd.grad(loss_of(results), wanting_gradients(made))
    assert [tuple(r.shape) for r in results] == [tuple(r.shape) for r in recurrence(*given, True)]
    assert [tuple(g.shape) for g in gradients] == [tuple(v.shape) for v in wanting_gradients(given)]


@pytest.mark.parametrize("mode", MODES)
def test_results_share_no_memory_with_each_other_or_with_the_arguments(mode: str) -> None:
    given = arguments(mode)
    results = recurrence(*given, True)
    tensors = [value for value in (*given, *results) if isinstance(value, Tensor) and value.numel()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)


# Compiled graphs


def compiled(function: Callable[..., Any], *, dynamic: bool | None = None) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)


def around(*given: Any) -> Tensor:
    """A function with a call of the operator in its middle."""
    x, *rest = given
    results = recurrence(torch.tanh(2 * x), *rest, True)
    return loss_of(results) + results[0][-1].sin().sum()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ["plain", "without bias", "reverse with lengths"])
def test_compiled_function_equals_the_eager_one_with_its_gradients(mode: str, case: str) -> None:
    given = arguments(mode, **CASES[case], wanting="x states weights")
    found = []
    for function in (around, compiled(around)):
        value = function(*given)
        found.append([value.detach(), *torch.autograd.grad(value, wanting_gradients(given))])
    close(*found, tolerance=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_compiled_function_equals_the_eager_one_without_gradients(mode: str) -> None:
    given = arguments(mode)
    with torch.no_grad():
        close(compiled(around)(*given), around(*given), 1e-6)


def test_one_compiled_graph_serves_every_length_of_sequence() -> None:
    compiles = []

    def counting(graph: Any, _: Any) -> Any:
        compiles.append(graph)
        return graph.forward

    torch._dynamo.reset()
    function = torch.compile(around, fullgraph=True, backend=counting, dynamic=True)
    given = arguments("LSTM")
    for steps in (7, 9, 13):  # of no other size in the call, which torch would take for the same one
        x = torch.randn(steps, B, I)
        close(function(x, *given[1:]), around(x, *given[1:]), 1e-6)
    assert len(compiles) == 1


def test_compiled_gradients_of_kept_cells_and_gates_equal_the_eager_ones() -> None:
    given = arguments("LSTM", wanting="x states weights")

    def function(*values: Any) -> Tensor:
        _, _, _, cells, gates = recurrence(*values, True)
        return cells.pow(2).sum() + gates.pow(3).sum()

    found = [torch.autograd.grad(made(*given), wanting_gradients(given)) for made in (function, compiled(function))]
    close(*found, tolerance=1e-6)


# Calls that no layer makes


UNFIT = ["dtype of x", "width of weight_hh", "no cell", "int32 lengths", "lengths beyond the steps", "negative lengths"]


@pytest.mark.parametrize("changed", [*UNFIT, "unknown mode", "rows of hidden"])
def test_operator_refuses_arguments_that_do_not_fit(changed: str) -> None:
    given = arguments("LSTM", lengths=LENGTHS)
    index, value = {
        "dtype of x": (0, given[0].double()),
        "width of weight_hh": (4, given[4][:, :-1]),
        "no cell": (2, None),
        "int32 lengths": (7, LENGTHS.int()),
        "lengths beyond the steps": (7, LENGTHS + 100),
        "negative lengths": (7, LENGTHS - 100),
        "unknown mode": (8, "LTSM"),
        "rows of hidden": (1, given[1][:1]),
    }[changed]
    given[index] = value
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        recurrence(*given, True)


def test_second_derivative_by_what_the_reference_has_not_is_refused_and_not_zero() -> None:
    given = arguments("GRU", wanting=("weights",))
    gates = recurrence(*given, True)[4]
    with pytest.raises(NotImplementedError, match="fourth block of a GRU"):
        torch.autograd.grad(gates[..., 3 * H :].sum(), given[4], create_graph=True)


def test_transforms_of_torch_func_are_refused_by_the_operator_itself() -> None:
    x, *rest = arguments("LSTM")
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda value: recurrence(value, *rest, True)[0].sum())(x)
