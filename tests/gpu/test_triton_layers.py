"""Layers computed by Triton, through the public surface, beside the same by the reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import unrolled
from by_triton import DEVICE, ON_GPU
from unrolled.recurrence.gpu import launch

T, B, I, H = 4, 3, 2, 5  # noqa: E741
KINDS = {
    "RNN": unrolled.RNN,
    "GRU": unrolled.GRU,
    "LSTM": unrolled.LSTM,
    "PeepholeLSTM": unrolled.PeepholeLSTM,
    "CoupledLSTM": unrolled.CoupledLSTM,
    "ZoneoutLSTM": unrolled.ZoneoutLSTM,
    "VariationalDropoutLSTM": unrolled.VariationalDropoutLSTM,
    "RecurrentDropoutLSTM": unrolled.RecurrentDropoutLSTM,
}
kinds = pytest.mark.parametrize("kind", KINDS)

Calls = list[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The kernels that were called, in order: what says that Triton computed at all."""
    found: Calls = []

    def noted(name: str) -> Callable[..., Any]:
        original = getattr(launch, name)

        def called(*args: Any, **options: Any) -> Any:
            found.append(name)
            return original(*args, **options)

        return called

    for name in ("forward", "backward"):
        monkeypatch.setattr(launch, name, noted(name))
    return found


def made(kind: str, **options: Any) -> Any:
    torch.manual_seed(3)
    return KINDS[kind](I, H, batch_first=True, **options).to(DEVICE)


def inputs(steps: int = T) -> Tensor:
    return torch.randn(B, steps, I, generator=torch.Generator().manual_seed(4)).to(DEVICE)


def flat(value: Any) -> list[Tensor]:
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in flat(part)]


def weighed(tensors: list[Tensor]) -> Tensor:
    """A loss that treats every number in its own way."""
    return torch.stack(
        [(tensor * torch.cos(torch.arange(tensor.numel()).view(tensor.shape)).to(tensor)).sum() for tensor in tensors]
    ).sum()


def close(found: list[Tensor], wanted: list[Tensor]) -> None:
    tolerance = 1e-4 if ON_GPU else 1e-5
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def by_both(computed: Callable[[], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """What is computed by Triton, and by the reference, with the same random numbers drawn."""
    found = []
    for name in ("triton", "reference"):
        torch.manual_seed(5)
        with unrolled.backend(name):
            found.append(computed())
    return found[0], found[1]


def trained(layer: Any, *args: Any, **options: Any) -> list[Tensor]:
    """Outputs, final states and the gradients of all parameters."""
    results = flat(layer(*args, **options))
    return results + list(torch.autograd.grad(weighed(results), list(layer.parameters())))


@kinds
def test_views_that_show_another_sign_are_read_as_they_are_shown(kind: str, calls: Calls) -> None:
    def negative(tensor: Tensor) -> Tensor:
        return torch._neg_view(-tensor.detach()).requires_grad_()

    layer, x = made(kind), inputs()
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(negative(parameter)))
    assert layer.weight_hh_l0.is_neg()
    states = [torch.randn(1, B, H).to(DEVICE) for _ in range(1 if kind in ("RNN", "GRU") else 2)]
    grad = torch.randn(B, T, H).to(DEVICE)

    def computed() -> list[Tensor]:
        leaves = [negative(tensor) for tensor in (x, *states)]
        shown, *hx = leaves
        output, _ = layer(shown, hx[0] if len(hx) == 1 else tuple(hx))
        return [output, *torch.autograd.grad(output, [*leaves, *layer.parameters()], negative(grad))]

    close(*by_both(computed))
    assert calls == ["forward", "backward"]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two layers, both ways": {"num_layers": 2, "bidirectional": True},
    "no bias": {"bias": False},
}


@kinds
@pytest.mark.parametrize("option", OPTIONS)
def test_training_matches_the_reference(kind: str, option: str, calls: Calls) -> None:
    layer, x = made(kind, **OPTIONS[option]), inputs()
    close(*by_both(lambda: trained(layer, x)))
    number = 4 if "layers" in option else 1
    assert calls == ["forward"] * number + ["backward"] * number


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "PeepholeLSTM"])
def test_lengths_resets_and_packed_sequences_match_the_reference(kind: str, calls: Calls) -> None:
    layer, x = made(kind, bidirectional=True), inputs()
    lengths = torch.tensor([2, T, 1], device=DEVICE)
    reset = (torch.arange(B * T).view(B, T) % 3 == 0).to(DEVICE)
    close(*by_both(lambda: trained(layer, x, lengths=lengths)))
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    close(*by_both(lambda: trained(layer, packed)))
    assert set(calls) == {"forward", "backward"}
    calls.clear()
    one_way = made(kind)
    close(*by_both(lambda: trained(one_way, x, lengths=lengths, reset=reset)))
    assert calls == ["forward", "backward"]


@kinds
def test_inference_calls_no_backward_and_keeps_nothing(kind: str, calls: Calls) -> None:
    layer, x = made(kind).eval(), inputs()
    with torch.no_grad():
        close(*by_both(lambda: flat(layer(x))))
    assert calls == ["forward"]


@kinds
def test_everything_recorded_and_its_gradients_match_the_reference(kind: str, calls: Calls) -> None:
    layer, x = made(kind, num_layers=2), inputs()

    def read() -> list[Tensor]:
        with unrolled.record(layer) as trace:
            results = flat(layer(x))
        tensors = [tensor for _, tensor in sorted(trace.items())]
        loss = weighed(results) + weighed(tensors)
        return (
            tensors
            + list(torch.autograd.grad(loss, tensors, retain_graph=True))
            + list(torch.autograd.grad(loss, list(layer.parameters())))
        )

    close(*by_both(read))
    assert "backward" in calls


def test_the_gradient_of_one_step_by_a_state_far_before_matches_the_reference() -> None:
    layer, x = made("LSTM"), inputs()

    def read() -> list[Tensor]:
        with unrolled.record(layer, names=["*.cell", "*.forget_gate"]) as trace:
            output, _ = layer(x)
        return list(torch.autograd.grad(output[:, -1].sum(), [trace["l0.cell"], trace["l0.forget_gate"]]))

    found, wanted = by_both(read)
    close(found, wanted)
    assert found[0][:, 0].abs().sum() > 0


@pytest.mark.parametrize("name", ["hidden", "cell", "forget_gate"])
def test_interventions_match_the_reference(name: str, calls: Calls) -> None:
    layer, x = made("LSTM"), inputs(steps=12)

    def changed() -> list[Tensor]:
        with unrolled.intervene(layer, unrolled.Ablate(f"l0.{name}", steps=[6], units=[1, 3])):
            results = flat(layer(x))
        return results + list(torch.autograd.grad(weighed(results), list(layer.parameters())))

    found, wanted = by_both(changed)
    close(found, wanted)
    # The steps before the one that is changed, and those after it.
    assert calls == ["forward"] * 2 + ["backward"] * 2
    with unrolled.backend("triton"):
        assert not torch.allclose(found[0], layer(x)[0])


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "PeepholeLSTM", "ZoneoutLSTM"])
def test_one_graph_computes_the_same(kind: str, calls: Calls) -> None:
    torch._dynamo.reset()
    layer, x = made(kind).eval(), inputs()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with unrolled.backend("reference"):
        wanted = trained(layer, x)
    with unrolled.backend("triton"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = trained(compiled, x)
    close(found, wanted)
    assert set(calls) == {"forward", "backward"}


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_second_derivatives_match_the_reference(kind: str) -> None:
    layer = made(kind)

    def twice() -> list[Tensor]:
        x = inputs().requires_grad_()
        results = flat(layer(x))
        (first,) = torch.autograd.grad(weighed(results), x, create_graph=True)
        return [first, *torch.autograd.grad(first.square().sum(), [x, layer.weight_hh_l0])]

    close(*by_both(twice))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "PeepholeLSTM", "ZoneoutLSTM"])
def test_halves_keep_their_dtype_and_come_near_float32(kind: str, dtype: torch.dtype, calls: Calls) -> None:
    layer, x = made(kind).to(dtype), inputs().to(dtype)
    exact = made(kind)
    exact.load_state_dict(layer.state_dict())
    torch.manual_seed(5)
    with unrolled.backend("reference"):
        wanted = trained(exact, x.float())
    torch.manual_seed(5)
    with unrolled.backend("triton"):
        found = trained(layer, x)
        with unrolled.record(layer) as trace:
            layer(x)
    assert {tensor.dtype for tensor in found} == {dtype}
    if kind != "ZoneoutLSTM":  # draws masks of its own dtype
        for one, other in zip(found, wanted, strict=True):
            assert (one.float() - other).abs().max() <= 12 * torch.finfo(dtype).eps * other.abs().max()
    for name, tensor in trace.items():
        assert tensor.dtype is (dtype if name.endswith("hidden") else torch.float32), name
    assert "backward" in calls


def test_explain_says_that_triton_computes(capsys: pytest.CaptureFixture[str]) -> None:
    with unrolled.backend("triton"):
        unrolled.explain(made("LSTM"), inputs())
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(">"))
    assert line.split()[1] == "triton"
    assert "asked for; kernels in Triton" in line


def test_explain_says_why_triton_is_not_taken_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    unrolled.explain(made("LSTM"), inputs())
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["triton"])
    assert 'unrolled.backend("triton") asks for it' in line


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "layer norm": (lambda: unrolled.LayerNormLSTM(I, H, batch_first=True), "normalised"),
    "projection": (lambda: unrolled.LSTM(I, H, proj_size=3, batch_first=True), "proj_size"),
    "float64": (lambda: unrolled.LSTM(I, H, batch_first=True).double(), "float64"),
    "wide": (lambda: unrolled.RNN(I, 1025, batch_first=True), "1025"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_triton_cannot_take_is_refused_with_the_reason(name: str) -> None:
    make, reason = REFUSED[name]
    layer = make().to(DEVICE)
    x = inputs().to(next(layer.parameters()).dtype)
    with unrolled.backend("triton"), pytest.raises(ValueError, match=rf"'triton' was asked for.*{reason}"):
        layer(x)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_torchs_own_layer_gives_the_same(kind: str) -> None:
    layer, x = made(kind, num_layers=2, bidirectional=True), inputs()
    own = getattr(nn, kind)(I, H, num_layers=2, bidirectional=True, batch_first=True).to(DEVICE)
    own.load_state_dict(layer.state_dict())
    with unrolled.backend("triton"):
        found = trained(layer, x)
    close(found, trained(own, x))
