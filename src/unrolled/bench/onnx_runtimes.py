"""ONNX Runtime and OpenVINO on the same weights, as ONNX's standard RNN, GRU and LSTM nodes; inference only."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.bench.numbers import Numbers

_OPERATORS = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
# Where ONNX's gates stand in torch's rows: LSTM i, o, f, c in torch's i, f, g, o; GRU z, r, h in torch's r, z, n.
_GATES = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
# Old enough for every runtime of the last years, and these operators have not changed since.
_OPSET, _IR = 17, 8

_Entered = tuple[Callable[[], Any], Callable[[Any], dict[str, Tensor]]]


def onnx_runtime(numbers: Numbers, phase: str, threads: int) -> _Entered:
    """An inference session with as many threads as torch has."""
    runtime: Any = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that go on spinning after a call would slow whoever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(graph(numbers), options, providers=["CPUExecutionProvider"])
    feed = {"x": numbers.x.numpy()}
    return lambda: session.run(["output"], feed)[0], _read


def openvino(numbers: Numbers, phase: str, threads: int) -> _Entered:
    """A model compiled for latency, in float32 also where the processor has bfloat16, threads as many as torch has."""
    runtime: Any = import_module("openvino")
    core = runtime.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(graph(numbers)), "CPU", settings).create_infer_request()
    x = numbers.x.numpy()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)[0], _read


def _read(output: Any) -> dict[str, Tensor]:
    return {"output": torch.from_numpy(np.array(output))}


def graph(numbers: Numbers) -> bytes:
    """The row as an ONNX model: x (T, B, I) -> output (T, B, D * H)."""
    onnx: Any = import_module("onnx")
    helper, row, width = onnx.helper, numbers.row, numbers.row.hidden * numbers.row.directions
    tensors = {"width": np.array([row.steps, row.batch, width], dtype=np.int64)}
    nodes, x = [], "x"
    attributes: dict[str, Any] = {"hidden_size": row.hidden}
    if row.bidirectional:
        attributes["direction"] = "bidirectional"
    if numbers.cell == "gru":
        # torch.nn's GRU, where the reset gate comes after the product.
        attributes["linear_before_reset"] = 1
    for layer in range(row.layers):
        suffixes = [f"l{layer}{direction}" for direction in ("", "_reverse")[: row.directions]]
        tensors[f"W{layer}"] = _stacked(numbers, [f"weight_ih_{suffix}" for suffix in suffixes])  # (D, G * H, I)
        tensors[f"R{layer}"] = _stacked(numbers, [f"weight_hh_{suffix}" for suffix in suffixes])  # (D, G * H, H)
        biases = [_stacked(numbers, [f"{bias}_{suffix}" for suffix in suffixes]) for bias in ("bias_ih", "bias_hh")]
        tensors[f"B{layer}"] = np.concatenate(biases, axis=1)  # (D, 2 * G * H)
        inputs = [x, f"W{layer}", f"R{layer}", f"B{layer}"]
        x = "output" if layer == row.layers - 1 else f"output{layer}"
        nodes += [
            helper.make_node(_OPERATORS[numbers.cell], inputs, [f"Y{layer}"], **attributes),  # (T, D, B, H)
            helper.make_node("Transpose", [f"Y{layer}"], [f"rows{layer}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"rows{layer}", "width"], [x]),
        ]
    kind = onnx.TensorProto.FLOAT
    made = helper.make_graph(
        nodes,
        "row",
        [helper.make_tensor_value_info("x", kind, [row.steps, row.batch, row.inputs])],
        [helper.make_tensor_value_info("output", kind, [row.steps, row.batch, width])],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _stacked(numbers: Numbers, names: list[str]) -> np.ndarray:
    """Parameters of all directions, their gates in ONNX's order: (D, G * H, ...)."""
    gates = [numbers.weights[name].chunk(len(_GATES[numbers.cell])) for name in names]
    reordered = [torch.cat([each[place] for place in _GATES[numbers.cell]]) for each in gates]
    return torch.stack(reordered).numpy()
