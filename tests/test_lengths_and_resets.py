"""`lengths=` and `reset=`: against torch.nn's packed path, and against running the pieces of a sequence separately."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given as drawing
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import unrolled
from unrolled.variants import ZoneoutLSTM

KINDS = ["RNN", "GRU", "LSTM"]
VARIANTS = ["PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "ZoneoutLSTM", "VariationalDropoutLSTM"]
T, B, I, H = 7, 5, 3, 4  # noqa: E741
LENGTHS = torch.tensor([4, 7, 1, 6, 2])
RESET = torch.rand(T, B, generator=torch.Generator().manual_seed(0)) < 0.3
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["reference", "kernels"])


def layer(kind: str = "LSTM", **options: Any) -> Any:
    return getattr(unrolled, kind)(I, H, **options)


def states(module: Any, dtype: torch.dtype, batch: int = B) -> tuple[Tensor, ...]:
    rows = module.num_layers * (2 if module.bidirectional else 1)
    count = 1 if isinstance(module, nn.RNN | nn.GRU) else 2
    return tuple(torch.randn(rows, batch, H, dtype=dtype, requires_grad=True) for _ in range(count))


def joined(values: tuple[Tensor, ...]) -> Any:
    return values if len(values) > 1 else values[0]


def results(result: Any) -> list[Tensor]:
    output, final = result
    return [output, *(final if isinstance(final, tuple) else (final,))]


def loss(tensors: list[Tensor]) -> Tensor:
    """Of everything, with another gradient at every element."""
    weighed = []
    for index, tensor in enumerate(tensors):
        weigh = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
        weighed.append((weigh.to(tensor.dtype) * tensor).sum() + tensor.pow(3).sum())
    return torch.stack(weighed).sum()


def close(found: Any, wanted: Any, dtype: torch.dtype) -> None:
    assert any(tensor.any() for tensor in wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def by_packing(module: Any, x: Tensor, before: tuple[Tensor, ...], lengths: Tensor) -> list[Tensor]:
    """torch.nn's own result: pack, run, pad."""
    theirs = getattr(nn, type(module).__name__)(
        *(I, H, module.num_layers),
        bias=module.bias,
        batch_first=module.batch_first,
        bidirectional=module.bidirectional,
        dtype=x.dtype,
    )
    theirs.load_state_dict(module.state_dict())
    parameters = dict(theirs.named_parameters())
    first = module.batch_first
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=first, enforce_sorted=False)
    output, final = torch.func.functional_call(theirs, dict(module.named_parameters()), (packed, joined(before)))
    assert parameters.keys() == dict(module.named_parameters()).keys()
    padded, _ = pad_packed_sequence(output, batch_first=first, total_length=x.size(1 if first else 0))
    return results((padded, final))


# Lengths


@dtypes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_equal_packing_and_padding_in_outputs_states_and_every_gradient(
    kind: str, bidirectional: bool, batch_first: bool, dtype: torch.dtype
) -> None:
    module = layer(kind, num_layers=2, bidirectional=bidirectional, batch_first=batch_first, dtype=dtype)
    x = torch.randn(*((B, T) if batch_first else (T, B)), I, dtype=dtype, requires_grad=True)
    before = states(module, dtype)
    wanted = [x, *before, *module.parameters()]
    mine = results(module(x, joined(before), lengths=LENGTHS))
    theirs = by_packing(module, x, before, LENGTHS)
    close(mine, theirs, dtype)
    close(torch.autograd.grad(loss(mine), wanted), torch.autograd.grad(loss(theirs), wanted), dtype)


@drawing(
    lengths=st.lists(st.integers(1, T), min_size=1, max_size=4),
    kind=st.sampled_from(KINDS),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    bias=st.booleans(),
)
def test_drawn_lengths_equal_packing(
    lengths: list[int], kind: str, layers: int, bidirectional: bool, bias: bool
) -> None:
    dtype = torch.float32
    module = layer(kind, num_layers=layers, bidirectional=bidirectional, bias=bias)
    x, before = torch.randn(T, len(lengths), I), states(module, dtype, len(lengths))
    counted = torch.tensor(lengths)
    close(results(module(x, joined(before), lengths=counted)), by_packing(module, x, before, counted), dtype)


@dtypes
@pytest.mark.parametrize("kind", KINDS + VARIANTS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_sequence_of_length_zero_has_outputs_of_zero_and_keeps_its_initial_state(
    kind: str, bidirectional: bool, dtype: torch.dtype
) -> None:
    module = layer(kind, bidirectional=bidirectional, dtype=dtype).eval()
    x = torch.randn(T, B, I, dtype=dtype, requires_grad=True)
    before = states(module, dtype)
    lengths = torch.tensor([0, 3, 0, 7, 1])
    output, *final = results(module(x, joined(before), lengths=lengths))
    assert not output[:, [0, 2]].any()
    for state, initial in zip(final, before, strict=True):
        assert torch.equal(state[:, [0, 2]], initial[:, [0, 2]])
    gradients = torch.autograd.grad(loss([output, *final]), [x, *before])
    assert not gradients[0][:, [0, 2]].any()
    alone = results(module(x[:3, 1:2], joined(tuple(s[:, 1:2].contiguous() for s in before))))
    close([output[:3, 1:2], *(s[:, 1:2] for s in final)], alone, dtype)


@pytest.mark.parametrize("kind", VARIANTS)
def test_each_sequence_of_a_variant_equals_the_sequence_alone(kind: str) -> None:
    module = layer(kind, num_layers=2, bidirectional=True).eval()
    x = torch.randn(T, B, I)
    output, *final = results(module(x, lengths=LENGTHS))
    for row, length in enumerate(LENGTHS.tolist()):
        alone = results(module(x[:length, row : row + 1]))
        close([output[:length, row : row + 1], *(s[:, row : row + 1] for s in final)], alone, torch.float32)
        assert not output[length:, row].any()


@dtypes
@pytest.mark.parametrize("kind", KINDS + VARIANTS)
def test_nothing_after_the_end_is_read_in_the_forward_or_the_backward(kind: str, dtype: torch.dtype) -> None:
    module = layer(kind, bidirectional=True, num_layers=2, dtype=dtype).eval()
    x = torch.randn(T, B, I, dtype=dtype)
    broken = x.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        broken[length:, row] = float("nan")
    found = []
    for given in (x, broken):
        leaf = given.clone().requires_grad_()
        result = results(module(leaf, lengths=LENGTHS))
        found.append([*result, *torch.autograd.grad(loss(result), [leaf, *module.parameters()])])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS + VARIANTS)
def test_no_value_of_lengths_or_resets_is_read_outside_of_the_recurrence(kind: str) -> None:
    # Tensors on meta have no values: reading one, as a copy to the CPU or sorting would, raises.
    module = layer(kind, num_layers=2, device="meta")
    x = torch.empty(T, B, I, device="meta")
    output, *final = results(module(x, lengths=LENGTHS.to("meta"), reset=RESET.to("meta")))
    assert output.shape == (T, B, H)
    assert all(state.shape == (2, B, H) for state in final)


@pytest.mark.parametrize("given", [LENGTHS.int(), LENGTHS.to(torch.uint8), LENGTHS.tolist(), tuple(LENGTHS.tolist())])
def test_lengths_of_any_whole_kind_are_taken(given: Any) -> None:
    module, x = layer(), torch.randn(T, B, I)
    assert torch.equal(module(x, lengths=given)[0], module(x, lengths=LENGTHS)[0])


def test_one_sequence_without_a_batch_takes_a_single_length() -> None:
    module, x = layer(), torch.randn(T, I)
    output, _ = module(x, lengths=torch.tensor(4))
    torch.testing.assert_close(output[:4], module(x[:4])[0])
    assert not output[4:].any()
    assert torch.equal(output, module(x, lengths=[4])[0])


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (LENGTHS[:3], ValueError, r"lengths: given shape \(3,\), expected \(5,\)"),
        (LENGTHS.float(), TypeError, "lengths: given torch.float32, expected whole numbers"),
        (LENGTHS > 3, TypeError, "lengths: given torch.bool"),
        (LENGTHS + 1, ValueError, r"lengths: given \[5, 8, 2, 7, 3\], expected from 0 to the 7 steps"),
        (LENGTHS - 3, ValueError, r"lengths: given \[1, 4, -2, 3, -1\], expected from 0"),
        ("all", TypeError, "lengths: given str"),
        (torch.tensor(3), ValueError, r"lengths: given shape \(\), expected \(5,\)"),
    ],
)
def test_lengths_that_do_not_fit_are_refused_in_words(given: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        layer()(torch.randn(T, B, I), lengths=given)


def test_lengths_of_a_packed_sequence_are_refused() -> None:
    packed = pack_padded_sequence(torch.randn(T, B, I), LENGTHS, enforce_sorted=False)
    with pytest.raises(ValueError, match="lengths: a PackedSequence has lengths of its own"):
        layer()(packed, lengths=LENGTHS)
    with pytest.raises(ValueError, match="reset: a PackedSequence has lengths of its own"):
        layer()(packed, reset=RESET)


# Resets


def in_pieces(module: Any, x: Tensor, before: tuple[Tensor, ...], reset: Tensor) -> list[Tensor]:
    """Each sequence run piece by piece, every piece after a reset from zero: torch.nn has no resets."""
    outputs, finals = [], []
    for row in range(x.size(1)):
        state = tuple(s[:, row : row + 1].contiguous() for s in before)
        begins = [0, *[t for t in range(1, x.size(0)) if reset[t, row]], x.size(0)]
        parts = []
        for number, (begin, end) in enumerate(itertools.pairwise(begins)):
            if number > 0 or reset[0, row]:
                state = tuple(torch.zeros_like(s) for s in state)
            output, *state = results(module(x[begin:end, row : row + 1], joined(tuple(state))))
            parts.append(output)
        outputs.append(torch.cat(parts))
        finals.append(state)
    return [torch.cat(outputs, 1), *(torch.cat(state, 1) for state in zip(*finals, strict=True))]


@dtypes
@pytest.mark.parametrize("kind", [*KINDS, *VARIANTS])
@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_equal_running_the_pieces_with_every_gradient(kind: str, batch_first: bool, dtype: torch.dtype) -> None:
    module = layer(kind, num_layers=2, dtype=dtype).eval()
    before = states(module, dtype)
    x = torch.randn(T, B, I, dtype=dtype, requires_grad=True)
    wanted = [x, *before, *module.parameters()]
    theirs = in_pieces(module, x, before, RESET)
    module.batch_first = batch_first
    given, reset = (x.transpose(0, 1), RESET.t()) if batch_first else (x, RESET)
    output, *final = results(module(given, joined(before), reset=reset))
    mine = [output.transpose(0, 1) if batch_first else output, *final]
    close(mine, theirs, dtype)
    close(torch.autograd.grad(loss(mine), wanted), torch.autograd.grad(loss(theirs), wanted), dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_crosses_a_reset(kind: str) -> None:
    module, x = layer(kind), torch.randn(T, 1, I, requires_grad=True)
    reset = torch.zeros(T, 1, dtype=torch.bool)
    reset[4] = True
    (gradient,) = torch.autograd.grad(module(x, reset=reset)[0][5:].sum(), x)
    assert not gradient[:4].any()
    assert gradient[4:6].any()


@dtypes
def test_a_reset_after_the_end_of_a_sequence_leaves_its_final_state(dtype: torch.dtype) -> None:
    module, x = layer(dtype=dtype), torch.randn(T, B, I, dtype=dtype)
    reset = torch.zeros(T, B, dtype=torch.bool)
    for row, length in enumerate(LENGTHS.tolist()):
        reset[length:, row] = True
    before = states(module, dtype)
    with_reset = results(module(x, before, lengths=LENGTHS, reset=reset))
    close(with_reset, results(module(x, before, lengths=LENGTHS)), dtype)


@dtypes
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_lengths_and_resets_together_equal_the_pieces_of_each_sequence(kind: str, dtype: torch.dtype) -> None:
    module, x = layer(kind, dtype=dtype), torch.randn(T, B, I, dtype=dtype)
    before = states(module, dtype)
    output, *final = results(module(x, joined(before), lengths=LENGTHS, reset=RESET))
    for row, length in enumerate(LENGTHS.tolist()):
        alone = in_pieces(
            module, x[:length, row : row + 1], tuple(s[:, row : row + 1] for s in before), RESET[:length, row : row + 1]
        )
        close([output[:length, row : row + 1], *(s[:, row : row + 1] for s in final)], alone, dtype)


@pytest.mark.parametrize(
    ("reset", "error", "said"),
    [
        (RESET.float(), TypeError, "reset: given torch.float32, expected a tensor of torch.bool"),
        (RESET.t(), ValueError, r"reset: given shape \(5, 7\), expected \(7, 5\)"),
        ([True] * T, TypeError, "reset: given list"),
    ],
)
def test_resets_that_do_not_fit_are_refused_in_words(reset: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        layer()(torch.randn(T, B, I), reset=reset)


def test_resets_of_a_bidirectional_layer_are_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="reset: a bidirectional layer .* use a layer of one direction"):
        layer(bidirectional=True)(torch.randn(T, B, I), reset=RESET)


def test_one_sequence_without_a_batch_takes_resets_of_its_steps() -> None:
    module, x, reset = layer(), torch.randn(T, I), RESET[:, 0]
    assert torch.equal(module(x, reset=reset)[0], module(x.unsqueeze(1), reset=reset.unsqueeze(1))[0].squeeze(1))


# In traces


@dtypes
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "ZoneoutLSTM"])
def test_a_trace_shows_the_states_of_each_piece(kind: str, dtype: torch.dtype) -> None:
    module = layer(kind, batch_first=True, dtype=dtype).eval()
    x = torch.randn(B, T, I, dtype=dtype)
    with unrolled.record(module) as trace:
        module(x, lengths=LENGTHS, reset=RESET.t())
    assert torch.equal(trace.lengths("l0.hidden"), LENGTHS)
    assert torch.equal(trace.resets("l0.hidden"), RESET.t())
    for row, length in enumerate(LENGTHS.tolist()):
        last = max([t for t in range(1, length) if RESET[t, row]], default=0)
        with unrolled.record(module) as piece:
            module(x[row : row + 1, last:length])
        for name in piece:
            close([trace[name][row, last:length]], [piece[name][0]], dtype)
            assert not trace[name][row, length:].any()


@dtypes
def test_the_gradient_by_a_recorded_state_does_not_cross_a_reset(dtype: torch.dtype) -> None:
    module, x = layer(batch_first=True, dtype=dtype), torch.randn(1, T, I, dtype=dtype)
    reset = torch.zeros(1, T, dtype=torch.bool)
    reset[0, 4] = True
    with unrolled.record(module) as trace:
        output, _ = module(x, reset=reset)
    for name in ("l0.cell", "l0.forget_gate"):
        (gradient,) = torch.autograd.grad(output[:, 5].sum(), trace[name], retain_graph=True)
        assert not gradient[:, :4].any()
        assert gradient[:, 5].any()


def test_a_trace_without_resets_has_none() -> None:
    module = ZoneoutLSTM(I, H)
    with unrolled.record(module) as trace:
        module(torch.randn(T, B, I))
    assert trace.resets("l0.cell") is None
