"""The model is left as it was, and what else may hold it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unrolled
from edited import (
    B,
    H,
    I,
    Model,
    T,
    clamp,
    drawn,
    edited_at,
    made,
)
from exact import close
from unrolled import Ablate, Apply, Push, Scale


def test_a_users_model_is_edited_inside_the_context_and_as_it_was_after_it() -> None:
    model, x = Model(), drawn(B, T, I, dtype=torch.float32)
    plain = model(x)
    kept = [(type(module), dict(module.__dict__)) for module in model.modules()]
    with unrolled.intervene(model, Ablate("encoder.l1.cell", steps=8), Scale("decoder.hidden", 0.5, steps=2)):
        assert isinstance(model.encoder, nn.LSTM)
        assert (model(x) - plain).abs().max() > 1e-3
    assert [(type(module), dict(module.__dict__)) for module in model.modules()] == kept
    assert not model._forward_pre_hooks
    assert torch.equal(model(x), plain)


def test_a_users_model_is_as_it_was_after_an_exception_which_is_what_is_raised() -> None:
    model, x = Model(), drawn(B, T, I, dtype=torch.float32)
    plain = model(x)

    def fails(state: Tensor, t: int) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), unrolled.intervene(model, Apply("encoder.l1.cell", fails, steps=5)):
        model(x)
    with pytest.raises(KeyError), unrolled.intervene(model, Ablate("encoder.l1.cell", steps=100)):
        raise KeyError
    assert [type(module) for module in (model, model.encoder, model.decoder)] == [Model, nn.LSTM, nn.GRUCell]
    assert not model._forward_pre_hooks
    assert torch.equal(model(x), plain)


def test_edits_that_change_nothing_leave_the_outputs_near_torchs() -> None:
    model, x = Model(), drawn(B, T, I, dtype=torch.float32)
    plain = model(x)
    with unrolled.intervene(model, Scale("*", 1.0)):
        close(model(x), plain, 1e-6)
    with unrolled.intervene(model):
        assert torch.equal(model(x), plain)


def test_a_users_subclass_is_edited_through_its_own_forward() -> None:
    class Doubling(nn.LSTM):
        def forward(self, input: Tensor, hx: Any = None) -> Any:
            output, states = super().forward(2 * input, hx)
            return output + 1, states

    module, x = Doubling(I, H), drawn(T, B, I, dtype=torch.float32)
    with unrolled.intervene(module, clamp("l0.hidden", 4)):
        output, _ = module(x)
    assert (output[4] == 10).all()
    assert type(module) is Doubling


def test_another_thread_is_not_edited() -> None:
    module, x, found = made(), drawn(T, B, I, dtype=torch.float32), []
    plain, _ = module(x)
    with unrolled.intervene(module, Push("l0.cell", 1.0, steps=4)):
        thread = threading.Thread(target=lambda: found.append(module(x)[0]))
        thread.start()
        thread.join()
        edited, _ = module(x)
    close(found[0], plain, 1e-6)
    assert (edited - plain).abs().max() > 0.01


def test_a_compiled_model_is_edited_too() -> None:
    model, x = Model(), drawn(B, T, I, dtype=torch.float32)
    compiled = torch.compile(model, backend="eager")
    plain = compiled(x)
    with unrolled.intervene(model, Ablate("encoder.l1.hidden", steps=8)):
        wanted = model(x)
        assert torch.equal(compiled(x), wanted)
        assert torch.equal(compiled(x), wanted)
    with unrolled.intervene(compiled, Ablate("*.encoder.l1.hidden", steps=8)):
        assert torch.equal(compiled(x), wanted)
    assert (wanted - plain).abs().max() > 1e-4
    close(compiled(x), plain, 1e-6)


def test_steps_of_a_compiled_bare_layer_are_counted_as_those_of_the_layer() -> None:
    module, x = unrolled.LSTM(I, H), drawn(T, B, I, dtype=torch.float32)
    compiled = torch.compile(module, backend="eager")
    with unrolled.intervene(compiled, clamp("*.l0.cell", 5)), unrolled.record(module) as trace:
        _, states = compiled(x[:3])
        compiled(x[3:], states)
    assert edited_at(trace, "l0.cell") == [5]
