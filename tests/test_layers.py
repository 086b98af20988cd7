"""The layers compute what torch.nn's compute: outputs, final states, all gradients, in every configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import unrolled

LAYERS = ["RNN", "GRU", "LSTM"]
CELLS = ["RNNCell", "GRUCell", "LSTMCell"]
BATCHED, UNBATCHED, PACKED_SORTED, PACKED_UNSORTED = "batched", "unbatched", "packed sorted", "packed unsorted"

sizes = st.integers(1, 9)


@dataclass(frozen=True)
class Call:
    """One layer and one call of it, drawn by Hypothesis."""

    kind: str
    options: dict[str, Any]
    form: str
    lengths: list[int]  # of the sequences in the batch; the batched forms are of the longest one
    given_states: bool
    training: bool
    seed: int


@st.composite
def calls(draw: Any) -> Call:
    kind = draw(st.sampled_from(LAYERS))
    hidden_size, num_layers = draw(sizes), draw(st.integers(1, 3))
    options = {
        "input_size": draw(sizes),
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "bidirectional": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.4, 1.0])) if num_layers > 1 else 0.0,
    }
    if kind == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind == "LSTM":
        options["proj_size"] = draw(st.integers(0, hidden_size - 1))
    form = draw(st.sampled_from([BATCHED, UNBATCHED, PACKED_SORTED, PACKED_UNSORTED]))
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=1 if form == UNBATCHED else 5))
    if form == PACKED_SORTED:
        lengths.sort(reverse=True)
    return Call(kind, options, form, lengths, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2**32 - 1)))


def pair(kind: str, *, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Any, Any]:
    """torch.nn's module and ours with the same parameters."""
    torch.manual_seed(seed)
    theirs = getattr(nn, kind)(**options, dtype=dtype)
    ours = getattr(unrolled, kind)(**options, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, PackedSequence):
        return [value.data]
    return [tensor for part in value for tensor in tensors_in(part)]


def outcome(module: nn.Module, inputs: list[Tensor], run: Any, seed: int) -> dict[str, Tensor]:
    """The results of a call and the gradients of a random linear loss of all of them."""
    torch.manual_seed(seed)
    results = tensors_in(run())
    upstream = torch.Generator().manual_seed(seed)
    loss = sum((r * torch.randn(r.shape, dtype=r.dtype, generator=upstream)).sum() for r in results)
    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, [*parameters.values(), *inputs], allow_unused=True, materialize_grads=True)
    names = [*parameters, *(f"input {index}" for index in range(len(inputs)))]
    return {
        **{f"result {index}": result.detach() for index, result in enumerate(results)},
        **{f"gradient of {name}": gradient for name, gradient in zip(names, gradients, strict=True)},
    }


def call_outcome(layer: nn.RNNBase, call: Call, dtype: torch.dtype) -> tuple[dict[str, Tensor], Any]:
    numbers = torch.Generator().manual_seed(call.seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, generator=numbers).requires_grad_()

    steps, batch = max(call.lengths), len(call.lengths)
    if call.form == UNBATCHED:
        x: Any = leaf(steps, layer.input_size)
    elif call.form == BATCHED:
        x = leaf(*((batch, steps) if layer.batch_first else (steps, batch)), layer.input_size)
    else:
        padded = torch.randn(steps, batch, layer.input_size, dtype=dtype, generator=numbers)
        packed = pack_padded_sequence(padded, torch.tensor(call.lengths), enforce_sorted=call.form == PACKED_SORTED)
        x = packed._replace(data=packed.data.requires_grad_())
    states: Any = None
    if call.given_states:
        rows = layer.num_layers * (2 if layer.bidirectional else 1)
        widths = [layer.proj_size or layer.hidden_size] + [layer.hidden_size] * (call.kind == "LSTM")
        given_to = [leaf(*((rows,) if call.form == UNBATCHED else (rows, batch)), width) for width in widths]
        states = tuple(given_to) if call.kind == "LSTM" else given_to[0]
    inputs = [*tensors_in(x), *(tensors_in(states) if states is not None else [])]
    output: list[Any] = []

    def run() -> Any:
        output.append(layer(x, states))
        return output[-1]

    return outcome(layer, inputs, run, call.seed), output[0][0]


def assert_call_agrees_with_torch(call: Call, dtype: torch.dtype, tolerance: float) -> None:
    theirs, ours = pair(call.kind, seed=call.seed, dtype=dtype, **call.options)
    theirs.train(call.training)
    ours.train(call.training)
    expected, their_output = call_outcome(theirs, call, dtype)
    actual, our_output = call_outcome(ours, call, dtype)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    assert type(our_output) is type(their_output)
    if isinstance(our_output, PackedSequence):
        for mine, torchs in zip(our_output[1:], their_output[1:], strict=True):
            assert (mine is None and torchs is None) or torch.equal(mine, torchs)


@settings(max_examples=100)
@given(calls())
def test_outputs_states_and_all_gradients_agree_with_torch_in_float64(call: Call) -> None:
    assert_call_agrees_with_torch(call, torch.float64, 1e-12)


@settings(max_examples=25)
@given(calls())
def test_outputs_states_and_all_gradients_agree_with_torch_in_float32(call: Call) -> None:
    assert_call_agrees_with_torch(call, torch.float32, 1e-5)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(CELLS),
    input_size=sizes,
    hidden_size=sizes,
    batch=st.none() | st.integers(1, 5),
    bias=st.booleans(),
    nonlinearity=st.sampled_from(["tanh", "relu"]),
    given_states=st.booleans(),
    precision=st.sampled_from([(torch.float64, 1e-12), (torch.float32, 1e-5)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_cell_states_and_all_gradients_agree_with_torch(
    kind: str,
    input_size: int,
    hidden_size: int,
    batch: int | None,
    bias: bool,
    nonlinearity: str,
    given_states: bool,
    precision: tuple[torch.dtype, float],
    seed: int,
) -> None:
    dtype, tolerance = precision
    options = {"nonlinearity": nonlinearity} if kind == "RNNCell" else {}
    modules = pair(kind, seed=seed, dtype=dtype, input_size=input_size, hidden_size=hidden_size, bias=bias, **options)
    rows = () if batch is None else (batch,)
    numbers = torch.Generator().manual_seed(seed)
    x, *states = (
        torch.randn(*rows, size, dtype=dtype, generator=numbers).requires_grad_()
        for size in [input_size] + [hidden_size] * (2 if kind == "LSTMCell" else 1)
    )
    hx = None if not given_states else tuple(states) if kind == "LSTMCell" else states[0]
    inputs = [x, *(states if given_states else [])]
    expected, actual = (outcome(module, inputs, lambda m=module: m(x, hx), seed) for module in modules)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_draws_new_numbers_at_every_call_in_training_and_none_in_evaluation(kind: str) -> None:
    layer = getattr(unrolled, kind)(3, 8, num_layers=2, dropout=0.5)
    x = torch.randn(4, 2, 3)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_state_dict_loads_from_torch_and_into_torch(kind: str) -> None:
    theirs, ours = getattr(nn, kind)(3, 4), getattr(unrolled, kind)(3, 4)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())
    other = getattr(nn, kind)(3, 4)
    other.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3) if kind in CELLS else torch.randn(5, 2, 3)
    torch.testing.assert_close(tensors_in(ours(x)), tensors_in(other(x)))


@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_is_an_instance_of_the_torch_class_with_the_same_initialisation_and_repr(kind: str) -> None:
    torch.manual_seed(3)
    theirs = getattr(nn, kind)(3, 4)
    torch.manual_seed(3)
    ours = getattr(unrolled, kind)(3, 4)
    assert isinstance(ours, getattr(nn, kind))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_constructor_takes_device_and_dtype(kind: str) -> None:
    module = getattr(unrolled, kind)(3, 4, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.float64)}
    shape = (2, 3) if kind in CELLS else (5, 2, 3)
    results = tensors_in(module(torch.zeros(shape, device="meta", dtype=torch.float64)))
    assert {(r.device.type, r.dtype) for r in results} == {("meta", torch.float64)}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2)])
def test_half_precision_is_near_single_precision(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    layer = getattr(unrolled, kind)(3, 4)
    x = torch.randn(5, 2, 3)
    expected, _ = layer(x)
    output, _ = layer.to(dtype)(x.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=tolerance, atol=tolerance)
    output.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_runs_in_reduced_precision_near_the_full_one(kind: str) -> None:
    layer = getattr(unrolled, kind)(3, 4, num_layers=2)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(x)
    torch.testing.assert_close(output.float(), layer(x)[0], rtol=5e-2, atol=5e-2)
    assert not torch.equal(output.float(), layer(x)[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_empty_batch_behaves_as_in_torch(kind: str) -> None:
    theirs, ours = pair(kind, input_size=3, hidden_size=4, num_layers=2, bidirectional=True)
    x = torch.zeros(5, 0, 3, dtype=torch.float64)
    assert [r.shape for r in tensors_in(ours(x))] == [r.shape for r in tensors_in(theirs(x))]


@pytest.mark.parametrize("kind", CELLS)
def test_empty_batch_of_a_cell_behaves_as_in_torch(kind: str) -> None:
    theirs, ours = pair(kind, input_size=3, hidden_size=4)
    x = torch.zeros(0, 3, dtype=torch.float64)
    assert [r.shape for r in tensors_in(ours(x))] == [r.shape for r in tensors_in(theirs(x))]


@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_functional_call_uses_the_parameters_it_is_given(kind: str) -> None:
    theirs, ours = pair(kind, input_size=3, hidden_size=4)
    x = torch.randn(*((2, 3) if kind in CELLS else (5, 2, 3)), dtype=torch.float64)
    before = tensors_in(ours(x))
    others = {name: torch.randn_like(p) for name, p in ours.named_parameters()}
    expected = tensors_in(torch.func.functional_call(theirs, others, (x,)))
    actual = tensors_in(torch.func.functional_call(ours, others, (x,)))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tensors_in(ours(x)), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", LAYERS)
def test_vmap_over_inputs_equals_a_loop(kind: str) -> None:
    layer = getattr(unrolled, kind)(3, 4, dtype=torch.float64)
    x = torch.randn(6, 5, 2, 3, dtype=torch.float64)
    mapped = torch.func.vmap(lambda one: layer(one)[0])(x)
    torch.testing.assert_close(mapped, torch.stack([layer(one)[0] for one in x]), rtol=1e-12, atol=1e-12)


class Scaled(nn.Module):
    """A parametrization that counts how often it is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.computed = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.computed += 1
        return 0.5 * weight


@pytest.mark.parametrize("kind", LAYERS)
def test_weight_normalised_layer_agrees_with_torch_in_outputs_and_gradients(kind: str) -> None:
    theirs, ours = pair(kind, input_size=3, hidden_size=4)
    x = torch.randn(5, 2, 3, dtype=torch.float64).requires_grad_()
    outcomes = []
    for layer in (theirs, ours):
        weight_norm(layer, "weight_hh_l0")
        with torch.no_grad():
            layer.parametrizations.weight_hh_l0.original0.mul_(1.5)
        outcomes.append(outcome(layer, [x], lambda m=layer: m(x), 0))
    torch.testing.assert_close(outcomes[1], outcomes[0], rtol=1e-12, atol=1e-12)
    assert "gradient of parametrizations.weight_hh_l0.original0" in outcomes[1]


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
def test_a_parametrized_weight_is_computed_once_a_call(name: str) -> None:
    theirs, ours = pair("LSTM", input_size=3, hidden_size=4)
    with torch.no_grad():
        getattr(theirs, name).mul_(0.5)
    parametrize.register_parametrization(ours, name, Scaled())
    parametrization = ours.parametrizations[name][0]
    parametrization.computed = 0
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    assert parametrization.computed == 1


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_first_and_second_derivatives_agree_with_finite_differences(kind: str, bidirectional: bool) -> None:
    layer = getattr(unrolled, kind)(2, 2, bidirectional=bidirectional, dtype=torch.float64)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    rows = 2 if bidirectional else 1
    x = torch.randn(3, 1, 2, dtype=torch.float64).requires_grad_()
    states = [torch.randn(rows, 1, 2, dtype=torch.float64).requires_grad_() for _ in range(2 if kind == "LSTM" else 1)]

    def results(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        hx = rest[: len(states)]
        weights = dict(zip(names, rest[len(states) :], strict=True))
        call = (x, hx if kind == "LSTM" else hx[0])
        return tuple(tensors_in(torch.func.functional_call(layer, weights, call)))

    assert torch.autograd.gradcheck(results, (x, *states, *parameters))
    assert torch.autograd.gradgradcheck(results, (x, *states, *parameters))


@pytest.mark.parametrize("kind", CELLS)
def test_first_and_second_derivatives_of_a_cell_agree_with_finite_differences(kind: str) -> None:
    cell = getattr(unrolled, kind)(2, 3, dtype=torch.float64)
    x = torch.randn(2, 2, dtype=torch.float64).requires_grad_()
    states = [torch.randn(2, 3, dtype=torch.float64).requires_grad_() for _ in range(2 if kind == "LSTMCell" else 1)]

    def results(x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_in(cell(x, states if kind == "LSTMCell" else states[0])))

    assert torch.autograd.gradcheck(results, (x, *states))
    assert torch.autograd.gradgradcheck(results, (x, *states))
