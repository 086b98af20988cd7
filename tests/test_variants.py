"""The LSTM's variants: the papers' equations written out in float64, and identities with the plain LSTM."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unrolled
from exact import VARIANTS
from unrolled.recurrence import cpu
from unrolled.recurrence.cells import CELLS, Masks
from unrolled.structure import layer_suffixes

NOISY = VARIANTS[3:]
T, B, I, H = 6, 3, 4, 5  # noqa: E741
every_variant = pytest.mark.parametrize("kind", VARIANTS)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def normalised(x: np.ndarray, gains: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Layer normalisation over the last dimension, Ba et al. (2016), equations 3 and 4."""
    deviation = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return (x - x.mean(axis=-1, keepdims=True)) / deviation * gains + shifts


def by_hand(module: Any, x: Tensor, hidden: Tensor, cell: Tensor, masks: Masks) -> tuple[np.ndarray, ...]:
    """One layer in one direction, each paper's equations one after the other: outputs and final states."""
    kind = type(module).__name__
    w = {name: p.detach().double().numpy() for name, p in module.named_parameters()}
    h, c = hidden.double().numpy(), cell.double().numpy()
    factors = {name: None if m is None else m.double().numpy() for name, m in masks._asdict().items()}
    outputs = []
    for t, x_t in enumerate(x.double().numpy()):
        at = {name: None if m is None else m[t] for name, m in factors.items()}
        entering = h * at["hidden"] if kind == "VariationalDropoutLSTM" and at["hidden"] is not None else h
        from_x, from_h = x_t @ w["weight_ih_l0"].T, entering @ w["weight_hh_l0"].T
        if kind == "LayerNormLSTM":
            z = normalised(from_x, w["norm_ih_l0"], w["bias_ih_l0"]) + normalised(
                from_h, w["norm_hh_l0"], w["bias_hh_l0"]
            )
        else:
            z = from_x + w["bias_ih_l0"] + from_h + w["bias_hh_l0"]
        if kind == "CoupledLSTM":
            f, g, o = np.split(z, 3, axis=-1)
            i = None
        else:
            i, f, g, o = np.split(z, 4, axis=-1)
        if kind == "PeepholeLSTM":
            p_i, p_f, p_o = np.split(w["peephole_l0"], 3)
            i, f = i + p_i * c, f + p_f * c
        forget, candidate = sigmoid(f), np.tanh(g)
        written = 1 - forget if i is None else sigmoid(i)
        if kind == "RecurrentDropoutLSTM" and at["candidate"] is not None:
            candidate = candidate * at["candidate"]
        new_c = forget * c + written * candidate
        if kind == "PeepholeLSTM":
            o = o + p_o * new_c
        seen = normalised(new_c, w["norm_cell_l0"], w["norm_bias_l0"]) if kind == "LayerNormLSTM" else new_c
        new_h = sigmoid(o) * np.tanh(seen)
        if kind == "ZoneoutLSTM":
            new_h = at["hidden_zone"] * h + (1 - at["hidden_zone"]) * new_h
            new_c = at["cell_zone"] * c + (1 - at["cell_zone"]) * new_c
        h, c = new_h, new_c
        outputs.append(h)
    return np.stack(outputs), h, c


def made(kind: str, **options: Any) -> Any:
    """A layer whose every parameter is random, the gains and shifts too."""
    module = getattr(unrolled, kind)(I, H, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    return module


@every_variant
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["reference", "kernels"])
def test_a_variant_is_its_papers_equations(kind: str, training: bool, dtype: torch.dtype) -> None:
    module = made(kind, dtype=dtype).train(training)
    x, hidden, cell = (torch.randn(*shape, dtype=dtype) for shape in ((T, B, I), (B, H), (B, H)))
    torch.manual_seed(3)
    masks = module._noise("l0", T, B, x)
    torch.manual_seed(3)
    output, (h_n, c_n) = module(x, (hidden.unsqueeze(0), cell.unsqueeze(0)))
    wanted = by_hand(module, x, hidden, cell, masks)
    tolerance = 1e-12 if dtype is torch.float64 else 1e-4
    for found, exact in zip((output, h_n[0], c_n[0]), wanted, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), exact, rtol=tolerance, atol=tolerance)


def as_lstm(module: Any) -> nn.LSTM:
    """torch.nn's LSTM with the weights of a variant that has the same four gates."""
    lstm = nn.LSTM(I, H)
    lstm.load_state_dict({name: p for name, p in module.state_dict().items() if name in lstm.state_dict()})
    return lstm


def close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    for one, other in zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_peepholes_of_zero_are_the_lstm() -> None:
    module, x = made("PeepholeLSTM"), torch.randn(T, B, I)
    nn.init.zeros_(module.peephole_l0)
    close(module(x), as_lstm(module)(x))


@pytest.mark.parametrize("kind", NOISY)
def test_noise_of_probability_zero_is_the_lstm(kind: str) -> None:
    options = {"zoneout_hidden": 0.0, "zoneout_cell": 0.0} if kind == "ZoneoutLSTM" else {"recurrent_dropout": 0.0}
    module, x = made(kind, **options).train(), torch.randn(T, B, I)
    close(module(x), as_lstm(module)(x))


@pytest.mark.parametrize("kind", ["VariationalDropoutLSTM", "RecurrentDropoutLSTM"])
def test_dropout_in_eval_mode_is_the_lstm(kind: str) -> None:
    module, x = made(kind).eval(), torch.randn(T, B, I)
    close(module(x), as_lstm(module)(x))


def test_a_coupled_gate_is_an_lstm_whose_input_gate_has_the_opposite_weights() -> None:
    module, x = made("CoupledLSTM"), torch.randn(T, B, I)
    lstm = nn.LSTM(I, H)
    lstm.load_state_dict({name: torch.cat([-p[:H], p]) for name, p in module.state_dict().items()})
    close(module(x), lstm(x))


def test_layer_normalisation_does_not_see_the_scale_of_the_recurrent_weights() -> None:
    module, x = made("LayerNormLSTM", dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)
    with torch.no_grad():
        module.weight_hh_l0 *= 1e3
        before = module(x, (torch.ones(1, B, H, dtype=torch.float64),) * 2)
        module.weight_hh_l0 *= 10
        close(module(x, (torch.ones(1, B, H, dtype=torch.float64),) * 2), before, 1e-6)


def test_zoneout_of_probability_one_keeps_the_initial_states() -> None:
    module = made("ZoneoutLSTM", zoneout_hidden=1.0, zoneout_cell=1.0).train()
    hidden, cell = torch.randn(1, B, H), torch.randn(1, B, H)
    output, final = module(torch.randn(T, B, I), (hidden, cell))
    assert torch.equal(output, hidden.expand(T, -1, -1))
    assert torch.equal(final[0], hidden)
    assert torch.equal(final[1], cell)


def test_zoneout_keeps_the_share_of_units_that_was_asked_for() -> None:
    module = made("ZoneoutLSTM", zoneout_hidden=0.2, zoneout_cell=0.7, batch_first=True).train()
    with unrolled.record(module) as trace:
        module(torch.randn(40, 100, I))
    for name, share in (("l0.hidden", 0.2), ("l0.cell", 0.7)):
        stays = (trace[name][:, 1:] == trace[name][:, :-1]).float().mean().item()
        assert stays == pytest.approx(share, abs=0.01)  # of 19,800 draws


def test_variational_dropout_has_one_mask_for_a_sequence_and_another_for_the_next() -> None:
    module = made("VariationalDropoutLSTM", recurrent_dropout=0.5, num_layers=2, bidirectional=True).train()
    masks = [module._noise(suffix, T, 200, torch.zeros(1)).hidden for suffix in layer_suffixes(module)]
    for mask in masks:
        assert torch.equal(mask, mask[:1].expand(T, -1, -1))
        assert set(mask.unique().tolist()) == {0.0, 2.0}
        assert mask[0].bool().float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert not torch.equal(masks[0], masks[1])


def test_recurrent_dropout_leaves_what_the_cell_state_holds() -> None:
    module = made("RecurrentDropoutLSTM", recurrent_dropout=0.9, batch_first=True).train()
    with torch.no_grad():
        module.bias_ih_l0[H : 2 * H] = 100.0  # forget gates of one
        module.weight_ih_l0[: 2 * H] = module.weight_hh_l0[: 2 * H] = 0.0
    with unrolled.record(module) as trace:
        module(torch.randn(20, 50, I))
    steps = trace["l0.cell"].diff(dim=1)
    assert (steps == 0).float().mean().item() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("kind", NOISY)
def test_noise_is_the_same_for_the_same_seed(kind: str) -> None:
    module, x = made(kind, num_layers=2).train(), torch.randn(T, B, I)
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(module(x)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@every_variant
def test_a_variant_is_computed_by_the_kernels_and_says_so(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    if cpu.missing() is not None:
        pytest.skip("the kernels were not built")
    assert made(kind).mode in cpu.KERNELS
    unrolled.explain(made(kind), torch.randn(T, B, I))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("> cpu") for line in lines)
    assert any(line.strip().startswith("torch") and "torch's layer has no" in line for line in lines)


@every_variant
def test_a_variant_is_no_lstm_of_torch_but_is_recorded_like_one(kind: str) -> None:
    model = nn.ModuleDict({"encoder": made(kind, num_layers=2, bidirectional=True)})
    assert not isinstance(model["encoder"], nn.LSTM)
    with unrolled.record(model) as trace:
        model["encoder"](torch.randn(T, B, I))
    gates = CELLS[model["encoder"].mode].gates
    assert set(trace) == {
        f"encoder.l{layer}{way}.{name}"
        for layer in (0, 1)
        for way in ("", "_reverse")
        for name in ("hidden", "cell", *gates)
    }
    assert trace["encoder.l1_reverse.cell"].shape == (B, T, H)


@every_variant
def test_the_gradient_by_recorded_states_agrees_with_float64(kind: str) -> None:
    module, x = made(kind).eval(), torch.randn(T, B, I)
    found = []
    for one in (module, copy.deepcopy(module).double()):
        with unrolled.record(one) as trace:
            output, _ = one(x.to(one.weight_ih_l0.dtype))
        names = list(trace)
        found.append(torch.autograd.grad(output[-1].pow(2).sum(), [trace[name] for name in names]))
    for fast, exact in zip(*found, strict=True):
        assert exact.any()
        torch.testing.assert_close(fast.double(), exact, rtol=1e-4, atol=1e-5)


@every_variant
@pytest.mark.parametrize("bias", [False, True])
def test_copies_pickles_and_state_dicts_of_a_variant_compute_the_same(kind: str, bias: bool) -> None:
    module, x = made(kind, bias=bias, num_layers=2).eval(), torch.randn(T, B, I)
    fresh = getattr(unrolled, kind)(I, H, 2, bias).eval()
    fresh.load_state_dict(module.state_dict())
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh):
        assert torch.equal(other(x)[0], module(x)[0])


@every_variant
def test_a_packed_sequence_goes_through_a_variant(kind: str) -> None:
    module, x = made(kind, bidirectional=True).eval(), torch.randn(T, B, I)
    lengths = torch.tensor([2, 6, 4])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    output, final = module(packed)
    padded, _ = nn.utils.rnn.pad_packed_sequence(output, total_length=T)
    close((padded, final), module(x, lengths=lengths))


@every_variant
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((torch.randn(T, B, I + 1),), r"input: given \(6, 3, 5\).*expected.*I = 4"),
        ((torch.randn(T, B, I).double(),), "input: given .*float64 on cpu, expected .*float32 on cpu"),
        ((torch.randn(T, B, I, 1),), r"input: given \(6, 3, 4, 1\)"),
        ((torch.randn(0, B, I),), r"input: given \(0, 3, 4\).*T above 0"),
        ((torch.randn(T, B, I), torch.zeros(1, B, H)), "hx: given .*expected a pair of tensors"),
        ((torch.randn(T, B, I), (torch.zeros(1, B, H + 1),) * 2), r"hx: given \[\(1, 3, 6\), \(1, 3, 6\)\]"),
    ],
)
def test_bad_input_of_a_variant_is_refused_in_words(kind: str, given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(kind)(*given)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("ZoneoutLSTM", {"zoneout_cell": 1.5}, "zoneout_cell: given 1.5, expected a probability from 0 to 1"),
        ("ZoneoutLSTM", {"zoneout_hidden": "half"}, "zoneout_hidden: given 'half'"),
        ("RecurrentDropoutLSTM", {"recurrent_dropout": 1.0}, "recurrent_dropout: given 1.0, .* to below 1"),
        ("VariationalDropoutLSTM", {"recurrent_dropout": -0.1}, "recurrent_dropout: given -0.1"),
        ("VariationalDropoutLSTM", {"recurrent_dropout": float("nan")}, "recurrent_dropout: given nan"),
    ],
)
def test_probabilities_that_are_none_are_refused(kind: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        getattr(unrolled, kind)(I, H, **options)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("ZoneoutLSTM", "ZoneoutLSTM(4, 5, zoneout_hidden=0.05, zoneout_cell=0.5)"),
        ("VariationalDropoutLSTM", "VariationalDropoutLSTM(4, 5, recurrent_dropout=0.25)"),
        ("PeepholeLSTM", "PeepholeLSTM(4, 5)"),
    ],
)
def test_a_variant_prints_what_it_was_made_of(kind: str, said: str) -> None:
    assert str(getattr(unrolled, kind)(I, H)) == said


def test_new_gains_are_one_and_new_shifts_zero() -> None:
    module = unrolled.LayerNormLSTM(I, H, 2)
    for name, parameter in module.named_parameters():
        if name.startswith("norm_") or name.startswith("bias"):
            value = 0.0 if "bias" in name else 1.0
            assert (parameter == value).all(), name


@every_variant
def test_a_variant_learns(kind: str) -> None:
    torch.manual_seed(0)
    module, head = getattr(unrolled, kind)(I, 16), nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=0.01)
    x = torch.randn(T, 64, I)
    losses = []
    for _ in range(150):
        loss = (head(module(x)[0][-1]).squeeze(-1) - x[0, :, 0]).pow(2).mean()  # the first input, at the end
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
