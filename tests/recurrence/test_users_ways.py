"""What users do around a layer keeps working when the kernels compute it, or raises what it raises with torch.nn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unrolled
from exact import MODES, B, H, I, T, assert_agree, close, drawn, dtype_of, finals, given, pair, states_of, wild
from unrolled.recurrence import cpu

pytestmark = [
    pytest.mark.usefixtures("sums"),
    pytest.mark.skipif(cpu.missing() is not None, reason="the kernels were not built"),
]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS: dict[str, Callable[[], Any]] = {
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device meta": lambda: default_device("meta"),
    "inside a device": lambda: torch.device("meta"),
    "deterministic algorithms": deterministic,
    "one thread": lambda: threads(1),
    "more threads than rows": lambda: threads(5),
}


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("recording", [False, True])
def test_settings_of_torch_change_no_number(mode: str, setting: str, recording: bool, kernels: Any) -> None:
    def gradients(layer: Any) -> Any:
        x, states = drawn(layer), states_of(layer)
        upstream = drawn(layer, T, B, 2 * H, seed=5)
        lengths = torch.tensor([2, 6, 3])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        found: list[Any] = []
        with SETTINGS[setting]():
            for called in (x, packed):
                if recording:
                    with unrolled.record(layer) as trace:
                        output, _ = layer(called, given(states))
                    wanted = [*trace.values(), *layer.parameters()]
                else:
                    output, _ = layer(called, given(states))
                    wanted = list(layer.parameters())
                if called is packed:
                    output = output.data
                given_to = upstream if called is x else upstream.flatten(0, 1)[: len(output)]
                found.append([output, torch.autograd.grad([output], wanted, [given_to])])
        return found

    assert_agree(gradients, mode, bidirectional=True)
    assert len(kernels.backward) == 4


@pytest.mark.parametrize("mode", MODES)
def test_expanded_inputs_and_states_get_the_gradients_of_what_they_were_expanded_from(mode: str) -> None:
    def gradients(layer: Any) -> Any:
        found: list[Any] = []
        for shape in ((1, B, I), (T, 1, I), (T, B, 1), (1, 1, 1)):
            x = drawn(layer, *shape).requires_grad_()
            states = tuple(drawn(layer, 1, 1, H, seed=index).requires_grad_() for index in range(len(states_of(layer))))
            result = layer(x.expand(T, B, I), given(tuple(state.expand(1, B, H) for state in states)))
            found.append(torch.autograd.grad(wild(result), [x, *states, *layer.parameters()]))
        return found

    assert_agree(gradients, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "laid_out",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        lambda x: torch.stack((x, x), -1)[..., 1],
        lambda x: torch.cat((x, x, x), -1)[..., x.size(-1) : -x.size(-1)],
        lambda x: torch.cat((x, x))[::2],
        lambda x: x.flip(0),
    ],
)
def test_inputs_in_any_layout_agree(mode: str, laid_out: Any) -> None:
    def gradients(layer: Any) -> Any:
        x = laid_out(drawn(layer)).detach().requires_grad_()
        states = tuple(laid_out(state.expand(3, B, H))[:1] for state in states_of(layer))
        result = layer(x, given(states))
        return result, torch.autograd.grad(wild(result), [x, *layer.parameters()])

    assert_agree(gradients, mode)


def negated_view(x: Tensor) -> Tensor:
    """x as torch hands it out as the imaginary part of a conjugate: a view that only says that its sign is turned."""
    view = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert view.is_neg()
    return view


@pytest.mark.parametrize("mode", MODES)
def test_views_whose_sign_is_turned_lazily_agree(mode: str) -> None:
    kind, _, _ = mode.partition("_")
    theirs = getattr(nn, kind)(1, H)
    ours = getattr(unrolled, kind)(1, H)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, 1)
    close(ours(negated_view(x)), theirs(x))
    weight = ours.weight_hh_l0.detach().clone()
    ours.weight_hh_l0 = nn.Parameter(torch._neg_view(-weight))
    close(ours(x), theirs(x))


@pytest.mark.parametrize("mode", MODES)
def test_upstream_gradients_whose_sign_is_turned_lazily_agree(mode: str) -> None:
    kind, _, _ = mode.partition("_")
    found = []
    torch.manual_seed(0)
    layer = getattr(unrolled, kind)(I, 1)
    x, upstream = torch.randn(T, B, I), torch.randn(T, B, 1)
    for gradient in (upstream, negated_view(upstream)):
        output, state = layer(x)
        hidden = state[0] if kind == "LSTM" else state
        found.append(torch.autograd.grad([output, hidden], list(layer.parameters()), [gradient, gradient[:1]]))
    close(*found)


# In-place changes of what a layer returns


def returned(layer: Any, **options: Any) -> Any:
    return layer(drawn(layer).requires_grad_(), **options)


@pytest.mark.parametrize("mode", MODES)
def test_a_change_of_the_output_in_place_is_torchs_error_in_backward_and_never_a_wrong_number(mode: str) -> None:
    """torch.nn's LSTM raises too; its RNN and GRU do not keep their output and go on."""
    fast, _ = pair(mode)
    output, _ = returned(fast)
    output.relu_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("mode", MODES)
def test_a_change_of_the_output_of_two_directions_in_place_agrees(mode: str) -> None:
    def gradients(layer: Any) -> Any:
        output, _ = returned(layer)
        output.relu_()
        return torch.autograd.grad(output.pow(2).sum(), list(layer.parameters()))

    assert_agree(gradients, mode, bidirectional=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_change_of_the_output_in_place_without_gradients_leaves_the_final_states(mode: str, context: Any) -> None:
    fast, _ = pair(mode)
    with context():
        result = returned(fast)
        before = [state.clone() for state in finals(result)]
        result[0].zero_()
        assert all(torch.equal(state, old) for state, old in zip(finals(result), before, strict=True))
        finals(result)[0].fill_(7)
        assert not result[0].any()


@pytest.mark.parametrize("mode", MODES)
def test_final_states_can_be_detached_in_place_as_in_truncated_backpropagation(mode: str) -> None:
    fast, _ = pair(mode)
    result = returned(fast)
    for state in finals(result):
        state.detach_()
    result[0].sum().backward()
    assert not any(state.requires_grad for state in finals(result))
    assert fast.weight_hh_l0.grad is not None


@pytest.mark.parametrize("mode", MODES)
def test_a_layers_given_states_are_not_changed_by_it(mode: str) -> None:
    fast, _ = pair(mode)
    x, states = drawn(fast), states_of(fast)
    before = [tensor.clone() for tensor in (x, *states)]
    wild(fast(x, given(states))).backward()
    assert all(torch.equal(one, other) for one, other in zip((x, *states), before, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_states_fed_back_in_chunks_under_no_grad_equal_one_call(mode: str) -> None:
    fast, _ = pair(mode)
    x, states = drawn(fast), None
    with torch.no_grad():
        whole = fast(x)
        parts = []
        for chunk in x.split(1):
            output, states = fast(chunk, states)
            parts.append(output)
    close(torch.cat(parts), whole[0])
    close(states, whole[1])


# Weights that are not the layer's


def with_weight(name: str, value: Tensor) -> Any:
    layer = unrolled.LSTM(I, H)
    setattr(layer, name, nn.Parameter(value))
    return layer


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()[0]
    except (RuntimeError, ValueError) as error:
        return type(error)


UNFIT = {
    "float64 weight": ("weight_hh_l0", torch.ones(4 * H, H, dtype=torch.float64)),
    "bfloat16 bias": ("bias_ih_l0", torch.ones(4 * H, dtype=torch.bfloat16)),
    "weight_hh with a column less": ("weight_hh_l0", torch.ones(4 * H, H - 1)),
    "weight_hh with a row less": ("weight_hh_l0", torch.ones(4 * H - 1, H)),
    "weight_ih with a column less": ("weight_ih_l0", torch.ones(4 * H, I - 1)),
    "weight_ih with a gate less": ("weight_ih_l0", torch.ones(3 * H, I)),
    "bias with a number less": ("bias_hh_l0", torch.ones(4 * H - 1)),
    "bias of one number": ("bias_hh_l0", torch.ones(1)),
    "bias on meta": ("bias_hh_l0", torch.ones(4 * H, device="meta")),
    "sparse weight": ("weight_hh_l0", torch.ones(4 * H, H).to_sparse()),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_weight_of_another_kind_or_shape_is_what_it_is_with_the_reference(unfit: str) -> None:
    layer = with_weight(*UNFIT[unfit])
    x = drawn(unrolled.LSTM(I, H))
    found = outcome(lambda: layer(x))
    with unrolled.backend("reference"):
        expected = outcome(lambda: layer(x))
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        close(found, expected)
    else:
        assert found is expected


@pytest.mark.parametrize("mode", MODES)
def test_weights_replaced_by_others_are_used_at_the_next_call(mode: str) -> None:
    def outputs(layer: Any) -> Any:
        before = layer(drawn(layer))[0]
        layer.weight_hh_l0 = nn.Parameter(drawn(layer, *layer.weight_hh_l0.shape, seed=8))
        layer.bias_ih_l0.data = layer.bias_ih_l0.data + 1
        return before, layer(drawn(layer))[0]

    assert_agree(outputs, mode)


# Small and odd calls


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 1, I), (1, B, I), (T, 1, I), (17, 33, I)])
def test_sequences_of_one_step_and_batches_of_one_agree(mode: str, shape: tuple[int, ...]) -> None:
    def gradients(layer: Any) -> Any:
        x = drawn(layer, *shape).requires_grad_()
        result = layer(x)
        return result, torch.autograd.grad(wild(result), [x, *layer.parameters()])

    assert_agree(gradients, mode, bidirectional=True, tolerance=1e-4 if shape[0] > T else 1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(T, 0, I), (0, B, I)])
def test_an_empty_call_is_what_it_is_with_torch(mode: str, shape: tuple[int, ...]) -> None:
    fast, _ = pair(mode)
    theirs = getattr(nn, type(fast).__name__)(I, H)
    x = torch.zeros(shape)
    found, expected = outcome(lambda: fast(x)), outcome(lambda: theirs(x))
    assert found is expected or found.shape == expected.shape


@pytest.mark.parametrize("mode", MODES)
def test_numbers_that_are_not_finite_stay_in_their_own_sequence(mode: str) -> None:
    for bad in (float("nan"), float("inf")):
        fast, exact = pair(mode)
        x = drawn(fast)
        x[2, 1, 0] = bad
        output, expected = fast(x)[0], exact(x.double())[0]
        close(output[:, [0, 2]], expected[:, [0, 2]])
        assert torch.equal(output.isnan(), expected.isnan())


def test_every_layer_of_a_model_in_training_moves_as_in_float64() -> None:
    def trained(layer: Any) -> Any:
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
        for step in range(5):
            optimizer.zero_grad()
            output, _ = layer(drawn(layer, seed=step))
            (output - drawn(layer, T, B, 2 * H, seed=100 + step)).pow(2).mean().backward()
            nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
        assert dtype_of(layer) is output.dtype
        return [p.detach() for p in layer.parameters()]

    for mode in MODES:
        assert_agree(trained, mode, tolerance=1e-4, num_layers=2, bidirectional=True)
