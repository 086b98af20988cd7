"""One graph: torch.compile without a break, torch.export with any batch and time, and ONNX's own nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import unrolled
from exact import KINDS, VARIANTS
from unrolled import compilation

B, T, I, H = 3, 6, 4, 5  # noqa: E741

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*isinstance.*LeafSpec", "ignore::UserWarning:torch"
)


class Model(nn.Module):
    """A layer between others, as in a user's model."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Linear(I, I)
        self.recurrent = getattr(unrolled, kind)(I, H, batch_first=True, **options)
        self.head = nn.Linear(H * (2 if options.get("bidirectional") else 1), 2)

    def forward(
        self, x: Tensor, hx: Any = None, lengths: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        output, final = self.recurrent(torch.tanh(self.embed(x)), hx, lengths=lengths, reset=reset)
        return self.head(output), final


def drawn(batch: int = B, steps: int = T) -> Tensor:
    return torch.randn(batch, steps, I)


def marks(which: str, batch: int = B, steps: int = T) -> dict[str, Tensor]:
    if which == "lengths":
        return {"lengths": torch.tensor([steps, *[steps // 2] * (batch - 1)])}
    if which == "resets":
        return {"reset": torch.rand(batch, steps) < 0.3}
    return {}


def flat(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in flat(part)]


def close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    for one, other in zip(flat(found), flat(wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def gradients(model: nn.Module, result: tuple[Tensor, Any]) -> list[Tensor]:
    loss = sum(tensor.pow(2).sum() for tensor in flat(result))
    return list(torch.autograd.grad(loss, list(model.parameters())))


def compiled(model: nn.Module, backend: str = "aot_eager") -> tuple[Any, CompileCounterWithBackend]:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    return torch.compile(model, fullgraph=True, dynamic=True, backend=counter), counter


# torch.compile


@pytest.mark.parametrize("kind", KINDS + VARIANTS)
@pytest.mark.parametrize("which", ["plain", "lengths", "resets"])
def test_one_graph_without_a_break_serves_every_batch_and_time(kind: str, which: str) -> None:
    model = Model(kind, num_layers=2, bidirectional=which != "resets").eval()
    graph, counter = compiled(model)
    graphs = set()
    for batch, steps in [(3, 6), (4, 9), (7, 23)]:
        x, given = drawn(batch, steps), marks(which, batch, steps)
        found, wanted = graph(x, **given), model(x, **given)
        close(found, wanted)
        close(gradients(model, found), gradients(model, wanted), 1e-4)
        graphs.add(counter.frame_count)
    assert len(graphs) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_initial_states_go_through_the_graph(kind: str) -> None:
    model, x = Model(kind), drawn()
    state = torch.randn(1, B, H)
    hx = (state, state + 1) if kind == "LSTM" else state
    close(compiled(model)[0](x, hx), model(x, hx))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_default_backend_of_torch_compile_gives_the_same(kind: str) -> None:
    model = Model(kind, num_layers=2)
    graph, _ = compiled(model, "inductor")
    x = drawn()
    found, wanted = graph(x), model(x)
    close(found, wanted)
    close(gradients(model, found), gradients(model, wanted), 1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_one_graph_too(dtype: torch.dtype) -> None:
    model = Model("LSTM").to(dtype)
    x = drawn().to(dtype)
    graph, _ = compiled(model)
    found, wanted = graph(x), model(x)
    close(found, wanted, 2e-2 if dtype is torch.bfloat16 else 1e-12)
    close(gradients(model, found), gradients(model, wanted), 5e-2 if dtype is torch.bfloat16 else 1e-12)


def test_a_projection_is_one_graph_too() -> None:
    module = unrolled.LSTM(I, H, proj_size=2, batch_first=True)
    x = drawn()
    close(compiled(module)[0](x), module(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_graph_is_as_small_for_many_steps_as_for_few(dtype: torch.dtype) -> None:
    nodes = []

    def counting(graph: Any, _: Any) -> Any:
        nodes.append(len(graph.graph.nodes))
        return graph.forward

    for steps in (5, 500):
        torch._dynamo.reset()
        model = Model("LSTM").to(dtype)
        torch.compile(model, fullgraph=True, dynamic=False, backend=counting)(drawn(B, steps).to(dtype))
    assert nodes[0] == nodes[1] > 0


def test_autocast_inside_the_graph_gives_what_it_gives_outside() -> None:
    model, x = Model("LSTM").eval(), drawn()

    def call(x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    torch._dynamo.reset()
    found, wanted = torch.compile(call, fullgraph=True, backend="aot_eager")(x), call(x)
    assert [tensor.dtype for tensor in flat(found)] == [tensor.dtype for tensor in flat(wanted)]
    assert flat(wanted)[1].dtype is torch.bfloat16
    close(found, wanted, 2e-2)


def test_noise_is_drawn_anew_at_each_call_of_a_graph() -> None:
    graph, _ = compiled(unrolled.ZoneoutLSTM(I, H, zoneout_cell=0.5).train())
    x = torch.randn(T, B, I)
    assert not torch.equal(graph(x)[0], graph(x)[0])


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_single_cells_are_one_graph(kind: str) -> None:
    cell, x = getattr(unrolled, kind)(I, H), torch.randn(B, I)
    close(compiled(cell)[0](x), cell(x))


COMPILED_FIRST = """
import sys, torch
before = "torch._dynamo" in sys.modules
import unrolled
from unrolled import compilation
model = torch.nn.Sequential(unrolled.LSTM(3, 4))
assert before or "torch._dynamo" not in sys.modules, "torch.compile was imported before it was used"
print(torch.compile(model, fullgraph=True, backend="eager")(torch.zeros(2, 1, 3))[0].shape)
"""


def test_torch_compile_takes_a_layer_however_late_it_is_imported() -> None:
    said = subprocess.run([sys.executable, "-c", COMPILED_FIRST], capture_output=True, text=True, check=True).stdout
    assert "torch.Size([2, 1, 4])" in said


def test_recording_a_compiled_model_sees_its_steps() -> None:
    model, x = Model("LSTM"), drawn()
    graph, _ = compiled(model)
    graph(x)
    with unrolled.record(model) as trace:
        found = graph(x)
    assert trace["recurrent.l0.cell"].shape == (B, T, H)
    close(found, graph(x))


def test_recordings_that_end_in_another_order_than_they_began_leave_a_compiled_model_compiled() -> None:
    model, x = Model("GRU"), drawn()
    calls = []

    def counting(graph: Any, _: Any) -> Any:
        def run(*given: Any) -> Any:
            calls.append(1)
            return graph.forward(*given)

        return run

    torch._dynamo.reset()
    compiled_model = torch.compile(model, backend=counting)
    compiled_model(x)
    # What each recording enters, here as if in two threads.
    first, second = compilation.set_aside(), compilation.set_aside()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    compiled_model(x)
    assert len(calls) == 1
    second.__exit__(None, None, None)
    compiled_model(x)
    assert len(calls) == 2


# torch.export


@pytest.mark.parametrize("kind", KINDS + VARIANTS)
@pytest.mark.parametrize("which", ["plain", "lengths", "resets"])
def test_an_exported_program_takes_any_batch_and_time(kind: str, which: str, tmp_path: Path) -> None:
    model = Model(kind, num_layers=2, bidirectional=which != "resets").eval()
    batch, time = torch.export.Dim("batch", min=2), torch.export.Dim("time", min=2)
    shapes: dict[str, Any] = {"x": {0: batch, 1: time}}
    given = marks(which)
    if which != "plain":
        shapes |= {"lengths": {0: batch}} if which == "lengths" else {"reset": {0: batch, 1: time}}
    program = torch.export.export(model, (drawn(),), given, dynamic_shapes=shapes)
    operators = [str(node.target) for node in program.graph.nodes if "unrolled" in str(node.target)]
    assert operators == ["unrolled.recurrence.default"] * (2 if which == "resets" else 4)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for size in [(3, 6), (5, 11)]:
        x, given = drawn(*size), marks(which, *size)
        close(loaded(x, **given), model(x, **given))


# ONNX


def runs(file: Path, *given: Any) -> list[Tensor]:
    """What ONNX Runtime finds."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    feeds = dict(zip([one.name for one in session.get_inputs()], (t.numpy() for t in flat(given)), strict=True))
    return [torch.from_numpy(np.asarray(result)) for result in session.run(None, feeds)]


def exported(model: nn.Module, x: Tensor, hx: Any, lengths: Tensor | None, file: Path) -> list[str]:
    """Write a model as ONNX, for any batch and time; returns its recurrent nodes."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    of_states = tuple({1: batch} for _ in hx) if isinstance(hx, tuple) else {1: batch}
    shapes = {
        "x": {0: batch, 1: time},
        "hx": None if hx is None else of_states,
        "lengths": None if lengths is None else {0: batch},
    }
    torch.onnx.export(model, (x, hx, lengths), file, dynamic_shapes=shapes, dynamo=True, verbose=False)
    graph = onnx.load(file)
    onnx.checker.check_model(graph)
    return [node.op_type for node in graph.graph.node if node.op_type in ("RNN", "GRU", "LSTM")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}],
    ids=["plain", "two layers in both directions", "without bias"],
)
@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_onnx_runtime_runs_standard_nodes_with_equal_results(
    kind: str, options: dict[str, Any], with_states: bool, with_lengths: bool, tmp_path: Path
) -> None:
    model = Model(kind, **options).eval()
    rows = 4 if options.get("bidirectional") else 1

    def states(batch: int) -> Any:
        drawn_states = tuple(torch.randn(rows, batch, H) for _ in range(2))
        return (drawn_states if kind == "LSTM" else drawn_states[0]) if with_states else None

    def lengths(batch: int, steps: int) -> Tensor | None:
        return torch.tensor([steps, *[max(steps - 2, 1)] * (batch - 1)]) if with_lengths else None

    file = tmp_path / "model.onnx"
    nodes = exported(model, drawn(), states(B), lengths(B, T), file)
    assert nodes == [kind] * options.get("num_layers", 1)
    for batch, steps in [(B, T), (5, 11), (1, 3)]:
        x, hx, counted = drawn(batch, steps), states(batch), lengths(batch, steps)
        given = {} if counted is None else {"lengths": counted}
        inputs = [x, *([] if hx is None else [hx]), *([] if counted is None else [counted])]
        close(runs(file, *inputs), model(x, hx, **given))


def test_a_relu_network_is_exported_as_one(tmp_path: Path) -> None:
    model = Model("RNN", nonlinearity="relu", bidirectional=True).eval()
    file = tmp_path / "model.onnx"
    assert exported(model, drawn(), None, None, file) == ["RNN"]
    x = drawn(4, 9)
    close(runs(file, x), model(x))


@pytest.mark.parametrize("kind", ["VariationalDropoutLSTM", "RecurrentDropoutLSTM"])
def test_dropout_that_is_off_is_exported_as_the_lstm_that_it_is(kind: str, tmp_path: Path) -> None:
    model = Model(kind).eval()
    file = tmp_path / "model.onnx"
    assert exported(model, drawn(), None, None, file) == ["LSTM"]
    x = drawn()
    close(runs(file, x), model(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_older_exporter_writes_standard_nodes_too(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model, file = Model("LSTM", num_layers=2).eval(), tmp_path / "model.onnx"
    torch.onnx.export(
        model, (drawn(),), file, dynamo=False, dynamic_axes={"x": {0: "batch", 1: "time"}}, input_names=["x"]
    )
    assert [node.op_type for node in onnx.load(file).graph.node].count("LSTM") == 2
    x = drawn(4, 9)
    close(runs(file, x), model(x))


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        (Model("LayerNormLSTM"), {}, "ONNX has no operator for the layer-normalised lstm"),
        (Model("LSTM"), marks("resets"), "ONNX's recurrent operators have no resets"),
    ],
)
def test_what_onnx_has_not_is_refused_in_words(model: Model, given: Any, said: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(Exception, match=said):
        torch.onnx.export(model.eval(), (drawn(),), tmp_path / "m.onnx", kwargs=given, dynamo=True, verbose=False)
    assert not list(tmp_path.iterdir())
