"""One step at a time: the short way to the kernels gives what the whole sequence gives."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import unrolled
from unrolled import inference
from unrolled.recurrence import cpu

KINDS = ["RNN", "GRU", "LSTM"]
B, T, I, H = 3, 9, 4, 20  # noqa: E741
needs_kernels = pytest.mark.skipif(cpu.missing() is not None, reason="the kernels were not built")


def zeros(kind: str, batch: int = B, width: int = H, layers: int = 1) -> Any:
    state = torch.zeros(layers, batch, width)
    return (state, state.clone()) if kind == "LSTM" else state


def streamed(module: Any, x: Tensor, state: Any, dim: int = 0) -> tuple[Tensor, Any]:
    outputs = []
    for step in x.split(1, dim):
        output, state = module(step, state)
        outputs.append(output)
    return torch.cat(outputs, dim), state


def close(found: Any, wanted: Any) -> None:
    states = (found[1], wanted[1]) if isinstance(found[1], tuple) else ((found[1],), (wanted[1],))
    for one, other in zip((found[0], *states[0]), (wanted[0], *states[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call took the short way."""
    taken: list[bool] = []
    infer = inference.infer

    def seen(*given: Any) -> Any:
        result = infer(*given)
        taken.append(result is not None)
        return result

    monkeypatch.setattr(inference, "infer", seen)
    return taken


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_steps_equal_the_whole_sequence_and_take_the_short_way(
    kind: str, batch_first: bool, bias: bool, batch: int, context: Any, short: list[bool]
) -> None:
    module = getattr(unrolled, kind)(I, H, batch_first=batch_first, bias=bias)
    x = torch.randn(*((batch, T) if batch_first else (T, batch)), I)
    with context():
        found = streamed(module, x, zeros(kind, batch), dim=1 if batch_first else 0)
        assert short == [True] * T
        with unrolled.backend("reference"):
            close(found, module(x))
        close(module(x, zeros(kind, batch)), found)
        close(module(x), found)
        assert short == [*[True] * T, False, True, True]


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_steps_with_resets_equal_the_whole_sequence_and_take_the_short_way(
    kind: str, batch_first: bool, short: list[bool]
) -> None:
    module = getattr(unrolled, kind)(I, H, batch_first=batch_first)
    shape, dim = ((B, T), 1) if batch_first else ((T, B), 0)
    x, reset = torch.randn(*shape, I), torch.rand(*shape) < 0.4
    with torch.no_grad():
        outputs, state = [], zeros(kind)
        for step, begins in zip(x.split(1, dim), reset.split(1, dim), strict=True):
            output, state = module(step, state, reset=begins)
            outputs.append(output)
        assert short == [True] * T
        close((torch.cat(outputs, dim), state), module(x, zeros(kind), reset=reset))
        with unrolled.backend("reference"):
            close((torch.cat(outputs, dim), state), module(x, zeros(kind), reset=reset))
        with pytest.raises(TypeError, match="reset: given torch.float32"):
            module(x, zeros(kind), reset=reset.float())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"num_layers": 2}, {"dtype": torch.float64}])
def test_steps_of_other_layers_equal_the_whole_sequence(kind: str, options: dict[str, Any]) -> None:
    module = getattr(unrolled, kind)(I, H, **options)
    x = torch.randn(T, B, I, dtype=options.get("dtype"))
    with torch.no_grad():
        close(streamed(module, x, None), module(x))


@pytest.mark.parametrize("kind", ["PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "ZoneoutLSTM"])
def test_steps_of_a_variant_equal_the_whole_sequence(kind: str) -> None:
    module, x = getattr(unrolled, kind)(I, H).eval(), torch.randn(T, B, I)
    with torch.no_grad():
        close(streamed(module, x, None), module(x))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_with_gradients_equal_the_whole_sequence_and_its_gradients(kind: str) -> None:
    module, x = getattr(unrolled, kind)(I, H), torch.randn(T, B, I, requires_grad=True)
    found, wanted = streamed(module, x, None), module(x)
    close(found, wanted)
    inputs = [x, *module.parameters()]
    one, other = (torch.autograd.grad(result[0].pow(2).sum(), inputs) for result in (found, wanted))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Shown(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@needs_kernels
@pytest.mark.parametrize(
    "odd",
    [
        "a strided input",
        "a strided state",
        "a double weight",
        "a negated input",
        "a parametrized weight",
        "a state of another batch",
        "an input of another width",
        "autocast",
        "a dispatch mode",
        "the reference asked for",
        "a recording",
        "vmap",
        "states as a list",
    ],
)
def test_what_the_short_way_is_not_for_goes_the_long_way_and_is_right(odd: str, short: list[bool]) -> None:
    module, x, state = unrolled.LSTM(I, H), torch.randn(1, B, I), zeros("LSTM")
    with torch.no_grad():
        wanted = nn.LSTM.forward(module, x, state)
        if odd == "a strided input":
            result = module(torch.randn(1, B, 2 * I).copy_(x.repeat_interleave(2, -1))[..., ::2], state)
        elif odd == "a strided state":
            wide = torch.zeros(1, B, 2 * H)[..., ::2]
            result = module(x, (wide, wide))
        elif odd == "a double weight":
            module.weight_hh_l0.data = module.weight_hh_l0.data.double()
            with pytest.raises((RuntimeError, ValueError)):
                module(x, state)
            result = wanted
        elif odd == "a negated input":
            result = module(torch.complex(torch.zeros_like(x), -x).conj().imag, state)
        elif odd == "a parametrized weight":
            nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
            result = module(x, state)
        elif odd in ("a state of another batch", "an input of another width"):
            given = (x, zeros("LSTM", B + 1)) if odd.startswith("a state") else (torch.randn(1, B, I + 1), state)
            with pytest.raises(RuntimeError):
                module(*given)
            result = wanted
        elif odd == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                output, final = module(x, state)
            assert output.dtype is torch.bfloat16
            result, wanted = (output.float(), tuple(s.float() for s in final)), wanted
            torch.testing.assert_close(result[0], wanted[0], rtol=1e-2, atol=1e-2)
            result = wanted
        elif odd == "a dispatch mode":
            with Shown():
                result = module(x, state)
        elif odd == "the reference asked for":
            with unrolled.backend("reference"):
                result = module(x, state)
        elif odd == "a recording":
            with unrolled.record(module) as trace:
                result = module(x, state)
            torch.testing.assert_close(trace["l0.hidden"][:, 0], wanted[0][0], rtol=1e-5, atol=1e-6)
        elif odd == "vmap":
            many = torch.vmap(lambda one: module(one, state)[0])(torch.stack([x, 2 * x]))
            result = (many[0], wanted[1])
        else:
            result = module(x, list(state))
    close(result, wanted)
    assert short
    assert not any(short)


@needs_kernels
def test_a_weight_changed_in_any_way_is_seen_by_the_next_step(short: list[bool]) -> None:
    module, x, state = unrolled.GRU(I, H), torch.randn(1, B, I), zeros("GRU")
    other = nn.GRU(I, H)
    with torch.no_grad():
        module(x, state)
        module.weight_ih_l0.data.fill_(0.1)
        module.weight_hh_l0.mul_(-1)
        module.bias_ih_l0 = nn.Parameter(torch.ones(3 * H))
        other.load_state_dict(module.state_dict())
        close(module(x, state), other(x, state))
    assert short == [True, True]


@needs_kernels
def test_results_share_no_memory() -> None:
    module = unrolled.LSTM(I, H)
    with torch.no_grad():
        output, (hidden, cell) = module(torch.randn(1, B, I), zeros("LSTM"))
        before = hidden.clone()
        output.zero_()
        cell.zero_()
    assert torch.equal(hidden, before)


@needs_kernels
def test_threads_may_stream_through_one_layer_at_once() -> None:
    module, results = unrolled.LSTM(I, H), {}
    inputs = {number: torch.randn(200, 1, I) for number in range(4)}

    def run(number: int) -> None:
        with torch.no_grad():
            results[number] = streamed(module, inputs[number], zeros("LSTM", 1))

    threads = [threading.Thread(target=run, args=(number,)) for number in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for number, x in inputs.items():
            close(results[number], module(x))
