"""Which backend computes a call, why the others do not, and how one is asked for."""

from __future__ import annotations

import contextvars
import copy
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import pack_padded_sequence

import unrolled
from exact import MODES, B, H, I, T, drawn, finals, given, pair, states_of
from unrolled.layers import layer_suffixes, weights_of
from unrolled.recurrence import cpu, dispatch, reference

BUILT = cpu.missing() is None
needs_kernels = pytest.mark.skipif(not BUILT, reason="the kernels were not built")
NOT_BUILT = "the kernels were not built, says this test"


@pytest.fixture(autouse=True)
def nothing_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNROLLED_BACKEND", raising=False)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which backend computed each layer and direction while the test runs."""
    seen: list[str] = []

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return function(*args, **kwargs)

        return noted

    monkeypatch.setattr(reference, "unroll", noting("reference", reference.unroll))
    monkeypatch.setattr(cpu, "forward", noting("cpu", cpu.forward))
    return seen


def call_of(layer: Any, x: Tensor | None = None, *, opened: bool = False) -> dispatch.Call:
    weights = [weights_of(layer, suffix) for suffix in layer_suffixes(layer)]
    return dispatch.Call(drawn(layer) if x is None else x, weights, opened)


def on_a_gpu(*, opened: bool = False, dtype: torch.dtype = torch.float32) -> dispatch.Call:
    """A call whose input says that it is on a GPU."""
    x: Any = SimpleNamespace(
        is_cuda=True, is_cpu=False, device=torch.device("cuda:0"), dtype=dtype, layout=torch.strided
    )
    return dispatch.Call(x, call_of(unrolled.LSTM(I, H)).weights, opened)


# The choice, and the reasons


@needs_kernels
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("opened", [False, True])
def test_float32_on_the_cpu_takes_the_kernels(mode: str, opened: bool, computed: list[str]) -> None:
    fast, _ = pair(mode, num_layers=2, bidirectional=True)
    call = call_of(fast, opened=opened)
    assert dispatch.choose(call) == "cpu"
    assert dispatch.refusal("cpu", call) is None
    if opened:
        with unrolled.record(fast):
            fast(call.x)
    else:
        fast(call.x)
    assert computed == ["cpu"] * 4


REFUSED: dict[str, tuple[dict[str, Any], Callable[[], Any], str]] = {
    "float64": ({"dtype": torch.float64}, ExitStack, "compute float32, the call is float64"),
    "meta": ({"device": "meta"}, ExitStack, "the input is on meta"),
    "projection": ({"proj_size": 3}, ExitStack, "proj_size"),
    "forward mode": ({}, forward_ad.dual_level, "forward"),
}


@needs_kernels
@pytest.mark.parametrize("what", REFUSED)
def test_a_call_that_the_kernels_cannot_take_goes_to_the_reference_and_is_told_why(
    what: str, computed: list[str]
) -> None:
    options, context, reason = REFUSED[what]
    layer = unrolled.LSTM(I, H, **options)
    call = call_of(layer, torch.zeros(T, B, I, dtype=options.get("dtype"), device=options.get("device")))
    with context():
        assert dispatch.choose(call) == "reference"
        assert reason in (dispatch.refusal("cpu", call) or "")
        said = {name: words for name, words, _ in dispatch.reasons(call)}
        assert reason in said["cpu"]
        layer(call.x)
        assert set(computed) == {"reference"}
        with unrolled.backend("cpu"), pytest.raises(ValueError, match=f"backend 'cpu' was asked for.*{reason}"):
            layer(call.x)
    assert what in ("float64", "bfloat16", "meta", "projection") or dispatch.choose(call) == "cpu"


@needs_kernels
@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp", "functionalize"])
def test_a_transform_of_torch_func_takes_the_reference_and_is_told_why(transform: str, computed: list[str]) -> None:
    layer, said = unrolled.LSTM(I, H), []

    def loss(x: Tensor) -> Tensor:
        said.append(dispatch.refusal("cpu", call_of(layer, x)))
        return layer(x)[0].sum()

    x = drawn(layer)
    {
        "vmap": lambda: torch.vmap(loss)(x.expand(2, T, B, I)),
        "grad": lambda: torch.func.grad(loss)(x),
        "jvp": lambda: torch.func.jvp(loss, (x,), (x,)),
        "functionalize": lambda: torch.func.functionalize(loss)(x),
    }[transform]()
    assert computed == ["reference"]
    assert "torch.func" in said[0]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("mode", ["GRU", "LSTM"])
def test_a_layer_traced_by_jit_holds_torchs_layer_for_any_number_of_steps(mode: str, computed: list[str]) -> None:
    fast, _ = pair(mode)
    x, other = drawn(fast), drawn(fast, T + 4, B + 1, I, seed=5)
    trace = torch.jit.trace(fast, (x,), check_trace=False)
    assert computed == []
    torch.testing.assert_close(trace(other), fast(other), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace:DeprecationWarning")
def test_a_call_traced_by_jit_that_torchs_layer_has_not_holds_the_reference(computed: list[str]) -> None:
    fast, _ = pair("LSTM")
    fast.requires_grad_(False)  # or torch.jit.trace wants the weights to belong to a module
    x, lengths = drawn(fast), torch.tensor([T, 1, 3])

    def call(x: Tensor) -> Tensor:
        return fast(x, lengths=lengths)[0]

    trace = torch.jit.trace(call, (x,), check_trace=False)
    assert set(computed) == {"reference"}
    torch.testing.assert_close(trace(x), call(x), rtol=1e-5, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32_by_the_kernels(mode: str, dtype: torch.dtype, computed: list[str]) -> None:
    half = pair(mode)[0].to(dtype)
    whole = copy.deepcopy(half).float()
    x = drawn(half)
    result, wanted = half(x), whole(x.float())
    assert set(computed) == {"cpu"}
    for found, exact in zip((result[0], *finals(result)), (wanted[0], *finals(wanted)), strict=True):
        assert found.dtype is dtype
        assert torch.equal(found, exact.to(dtype))


@pytest.mark.parametrize(("opened", "expected"), [(False, "torch"), (True, "reference")])
def test_on_a_gpu_torchs_layer_computes_unless_states_are_opened(opened: bool, expected: str) -> None:
    call = on_a_gpu(opened=opened)
    assert dispatch.choose(call) == expected
    assert "cuda:0" in (dispatch.refusal("cpu", call) or "")
    assert ("opened" in (dispatch.refusal("torch", call) or "")) == opened


def test_the_kernels_asked_for_on_a_gpu_are_refused_with_the_device() -> None:
    with unrolled.backend("cpu"), pytest.raises(ValueError, match="the input is on cuda:0"):
        dispatch.choose(on_a_gpu())


@pytest.mark.parametrize("opened", [False, True])
def test_reasons_name_every_backend_once_and_mark_the_one_chosen(opened: bool) -> None:
    for call in (call_of(unrolled.GRU(I, H), opened=opened), on_a_gpu(opened=opened)):
        lines = dispatch.reasons(call)
        assert [name for name, _, _ in lines] == list(dispatch.BACKENDS)
        assert [name for name, _, chosen in lines if chosen] == [dispatch.choose(call)]
        assert all(said for _, said, _ in lines)


# A library that is not there


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_load", lambda: NOT_BUILT)


@pytest.mark.usefixtures("not_built")
def test_without_the_library_the_reference_computes_and_the_reason_is_told(computed: list[str]) -> None:
    layer = unrolled.LSTM(I, H)
    call = call_of(layer)
    layer(call.x)
    assert computed == ["reference"]
    assert dispatch.refusal("cpu", call) == NOT_BUILT
    assert [said for name, said, _ in dispatch.reasons(call) if name == "cpu"] == [f"no: {NOT_BUILT}"]


@pytest.mark.usefixtures("not_built")
def test_without_the_library_the_kernels_asked_for_are_an_error_that_says_so() -> None:
    layer = unrolled.LSTM(I, H)
    with unrolled.backend("cpu"), pytest.raises(ValueError, match=NOT_BUILT):
        layer(drawn(layer))
    with pytest.raises(RuntimeError, match=NOT_BUILT):
        cpu.kernels()


# A backend that is asked for


@needs_kernels
@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_the_backend_asked_for_computes(name: str, computed: list[str]) -> None:
    layer = unrolled.GRU(I, H)
    with unrolled.backend(name):
        layer(drawn(layer))
    assert computed == [name]


@needs_kernels
@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_the_backend_named_by_the_environment_computes(
    name: str, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = unrolled.GRU(I, H)
    monkeypatch.setenv("UNROLLED_BACKEND", name)
    layer(drawn(layer))
    assert computed == [name]


def test_a_context_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch, computed: list[str]) -> None:
    monkeypatch.setenv("UNROLLED_BACKEND", "torch")
    layer = unrolled.GRU(I, H)
    with unrolled.backend("reference"):
        layer(drawn(layer))
    assert computed == ["reference"]


@needs_kernels
def test_an_empty_environment_variable_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNROLLED_BACKEND", "")
    assert dispatch.forced() is None
    assert dispatch.choose(call_of(unrolled.GRU(I, H))) == "cpu"


@pytest.mark.parametrize("name", ["gpu", "CPU", "cpu ", ""])
def test_a_name_of_no_backend_is_an_error_that_lists_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = "cpu, triton, torch, reference"
    with pytest.raises(ValueError, match=f"backend: given {name!r}, expected one of {allowed}"), unrolled.backend(name):
        pass
    if name:
        monkeypatch.setenv("UNROLLED_BACKEND", name)
        layer = unrolled.LSTM(I, H)
        with pytest.raises(ValueError, match=f"UNROLLED_BACKEND: given {name!r}, expected one of {allowed}"):
            layer(drawn(layer))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["batched", "packed", "unbatched"])
def test_torch_asked_for_is_torchs_layer_bit_for_bit(mode: str, form: str, computed: list[str]) -> None:
    ours, _ = pair(mode, num_layers=2, bidirectional=True, dropout=0.5)
    theirs = copy.deepcopy(ours)
    theirs.__class__ = getattr(nn, type(ours).__name__)
    found = []
    for layer, name in ((ours, "torch"), (theirs, None)):
        torch.manual_seed(3)
        x, states = drawn(layer), states_of(layer)
        if form == "packed":
            x = pack_padded_sequence(x, torch.tensor([2, 6, 3]), enforce_sorted=False)  # type: ignore[assignment]
        elif form == "unbatched":
            x, states = x[:, 0], tuple(state[:, 0] for state in states)
        with unrolled.backend(name) if name else ExitStack():
            result = layer(x, given(states))
        output = result[0].data if form == "packed" else result[0]
        gradients = torch.autograd.grad(output.sum(), list(layer.parameters()))
        found.append([output, *finals(result), *gradients])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert computed == []


def test_torch_asked_for_while_recording_is_an_error_that_says_why() -> None:
    layer = unrolled.LSTM(I, H)
    with (
        unrolled.backend("torch"),
        unrolled.record(layer),
        pytest.raises(ValueError, match="backend 'torch' was asked for.*opened"),
    ):
        layer(drawn(layer))


def test_torch_asked_for_computes_the_layers_that_a_recording_leaves_closed() -> None:
    model = nn.ModuleDict({"one": unrolled.LSTM(I, H), "other": unrolled.LSTM(I, H)})
    with unrolled.backend("torch"), unrolled.record(model, names="one.*") as trace:
        model["other"](drawn(model["other"]))
    assert len(trace) == 0


def test_contexts_inside_each_other_restore_what_was_asked_before() -> None:
    assert dispatch.forced() is None
    with unrolled.backend("reference"):
        with unrolled.backend("torch"):
            assert dispatch.forced() == "torch"
            with pytest.raises(ValueError, match="given 'none'"), unrolled.backend("none"):
                pass
            assert dispatch.forced() == "torch"
        assert dispatch.forced() == "reference"
        with pytest.raises(KeyError), unrolled.backend("cpu"):
            raise KeyError
        assert dispatch.forced() == "reference"
    assert dispatch.forced() is None


def test_threads_do_not_see_each_others_context() -> None:
    seen: dict[str, str | None] = {}
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        seen["at first"] = dispatch.forced()
        with unrolled.backend("torch"):
            inside.set()
            leave.wait(10)
            seen["inside"] = dispatch.forced()

    with unrolled.backend("reference"):
        # A new thread begins without a context of its own, whatever this Python's threads inherit.
        thread = threading.Thread(target=contextvars.Context().run, args=(other,))
        thread.start()
        assert inside.wait(10)
        assert dispatch.forced() == "reference"
        leave.set()
        thread.join()
    assert seen == {"at first": None, "inside": "torch"}


@needs_kernels
def test_a_forward_by_one_backend_is_differentiated_by_it_outside_of_its_context(kernels: Any) -> None:
    layer = unrolled.LSTM(I, H)
    with unrolled.backend("reference"):
        by_reference, _ = layer(drawn(layer))
    by_kernels, _ = layer(drawn(layer))
    by_reference.sum().backward()
    assert kernels.backward == []
    with unrolled.backend("reference"):
        by_kernels.sum().backward()
    assert kernels.backward == [False]
