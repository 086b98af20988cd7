"""convert() changes the class of a model's recurrent layers and nothing else."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

import unrolled

KINDS = ["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"]


class Tagger(nn.Module):
    """Two layers, a cell and a head, as a user's model has them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.blocks = nn.ModuleList([nn.GRU(8, 4, batch_first=True)])
        self.cell = nn.LSTMCell(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.encoder(x)
        x, _ = self.blocks[0](x)
        states = None
        for step in x.unbind(1):
            states = self.cell(step, states)
        return self.head(states[0])


class Doubling(nn.LSTM):
    """A user's layer: its own attribute, its own forward around torch's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factor = 2.0

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        output, states = super().forward(self.factor * input, hx)
        return output + 1, states


class Leaky(nn.GRUCell):
    """A user's cell."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return 0.9 * super().forward(input, hx)


X = torch.linspace(-1, 1, 2 * 5 * 3).reshape(2, 5, 3)


def is_unrolled(module: nn.Module) -> bool:
    return any(isinstance(module, getattr(unrolled, kind)) for kind in KINDS)


def test_every_recurrent_layer_becomes_its_counterpart_and_the_rest_stays() -> None:
    model = Tagger()
    assert unrolled.convert(model) is model
    assert type(model) is Tagger
    assert type(model.encoder) is unrolled.LSTM
    assert type(model.blocks[0]) is unrolled.GRU
    assert type(model.cell) is unrolled.LSTMCell
    assert type(model.head) is nn.Linear


@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_layer_is_converted_in_place(kind: str) -> None:
    layer = getattr(nn, kind)(3, 4)
    assert unrolled.convert(layer) is layer
    assert type(layer) is getattr(unrolled, kind)


def test_outputs_and_gradients_stay_the_same() -> None:
    model = Tagger().double()
    expected = model(X.double())
    gradients = torch.autograd.grad(expected.sum(), list(model.parameters()))
    unrolled.convert(model)
    actual = model(X.double())
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    again = torch.autograd.grad(actual.sum(), list(model.parameters()))
    torch.testing.assert_close(again, gradients, rtol=1e-12, atol=1e-12)


def test_parameters_are_the_same_objects_and_state_dict_keys_are_unchanged() -> None:
    model = Tagger()
    parameters, keys = dict(model.named_parameters()), list(model.state_dict())
    unrolled.convert(model)
    assert list(model.state_dict()) == keys
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert len(parameters) == len(list(model.parameters()))


def test_an_optimizer_made_before_still_trains_the_model() -> None:
    model = Tagger()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    unrolled.convert(model)
    before = model(X)
    model(X).square().sum().backward()
    optimizer.step()
    assert model(X).square().sum() < before.square().sum()


def test_tied_weights_stay_tied() -> None:
    model = nn.ModuleList([nn.LSTM(4, 4), nn.LSTM(4, 4)])
    model[1].weight_hh_l0 = model[0].weight_hh_l0
    unrolled.convert(model)
    assert model[1].weight_hh_l0 is model[0].weight_hh_l0
    x = torch.randn(3, 2, 4)
    (model[0](x)[0].sum() + model[1](x)[0].sum()).backward()
    one = copy.deepcopy(model[0].weight_hh_l0.grad)
    model.zero_grad()
    model[0](x)[0].sum().backward()
    assert not torch.allclose(one, model[0].weight_hh_l0.grad)


def test_a_module_used_twice_stays_one_module() -> None:
    shared = nn.GRU(4, 4)
    model = nn.ModuleDict({"first": shared, "second": shared})
    unrolled.convert(model)
    assert model["first"] is model["second"] is shared
    assert type(shared) is unrolled.GRU


def test_hooks_are_kept_and_called() -> None:
    model, called = Tagger(), []
    model.encoder.register_forward_hook(lambda module, args, output: called.append("after"))
    model.encoder.register_forward_pre_hook(lambda module, args: called.append("before"))
    model.encoder.register_full_backward_hook(lambda module, before, after: called.append("backward"))
    unrolled.convert(model)
    model(X.clone().requires_grad_()).sum().backward()
    assert called == ["before", "after", "backward"]


def test_attributes_mode_and_dict_are_unchanged() -> None:
    model = Tagger().eval()
    before = dict(model.encoder.__dict__)
    unrolled.convert(model)
    assert model.encoder.__dict__ == before
    assert not model.encoder.training


def test_converting_twice_is_harmless() -> None:
    model = unrolled.convert(nn.Sequential(Doubling(3, 4), nn.LSTM(3, 4)))
    classes = [type(module) for module in model]
    unrolled.convert(model)
    assert [type(module) for module in model] == classes


def test_unrolled_layers_and_subclasses_of_them_are_left_alone() -> None:
    class Mine(unrolled.LSTM):
        pass

    model = nn.Sequential(Mine(3, 4), unrolled.GRU(3, 4))
    unrolled.convert(model)
    assert [type(module) for module in model] == [Mine, unrolled.GRU]


def test_a_users_subclass_keeps_its_forward_and_reaches_the_unrolled_one() -> None:
    layer = Doubling(3, 4)
    expected = layer(X)
    unrolled.convert(layer)
    assert isinstance(layer, Doubling)
    assert isinstance(layer, unrolled.LSTM)
    assert type(layer).__name__ == "Doubling"
    torch.testing.assert_close(layer(X), expected)
    assert isinstance(unrolled.convert(Doubling(2, 2)), type(layer))


def test_a_users_subclass_of_a_cell_is_converted_and_agrees() -> None:
    cell, x = Leaky(3, 4), torch.randn(2, 3)
    expected = cell(x)
    unrolled.convert(cell)
    assert isinstance(cell, unrolled.GRUCell)
    torch.testing.assert_close(cell(x), expected)


def through_pickle(model: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, through_pickle, through_torch_save])
@pytest.mark.parametrize("make", [lambda: nn.LSTM(3, 4), lambda: nn.GRU(3, 4), lambda: Doubling(3, 4)])
def test_a_copy_is_of_the_same_class_and_computes_the_same(copied: Any, make: Any) -> None:
    model = unrolled.convert(nn.Sequential(make()))
    model[0].note = "kept"
    replica = copied(model)
    assert type(replica[0]) is type(model[0])
    assert replica[0].note == "kept"
    assert torch.equal(replica(X)[0], model(X)[0])
    if copied is not copy.copy:
        with torch.no_grad():
            replica[0].weight_hh_l0.add_(1)
        assert not torch.equal(replica(X)[0], model(X)[0])


def test_a_parametrized_layer_is_converted_and_its_parametrization_can_be_removed() -> None:
    layer = weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    expected = layer(X)
    unrolled.convert(layer)
    assert isinstance(layer, unrolled.LSTM)
    torch.testing.assert_close(layer(X), expected)
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert type(layer) is unrolled.LSTM
    torch.testing.assert_close(layer(X), expected)


def test_a_parametrized_subclass_of_a_user_keeps_its_forward() -> None:
    layer = weight_norm(Doubling(3, 4), "weight_ih_l0")
    expected = layer(X)
    unrolled.convert(layer)
    torch.testing.assert_close(layer(X), expected)
    parametrize.remove_parametrizations(layer, "weight_ih_l0")
    assert isinstance(layer, Doubling)
    assert isinstance(layer, unrolled.LSTM)
    torch.testing.assert_close(layer(X), expected)


def test_a_model_without_recurrent_layers_is_returned_as_it_is() -> None:
    model = nn.Linear(3, 4)
    assert unrolled.convert(model) is model
    assert type(model) is nn.Linear


@pytest.mark.parametrize("wrong", [nn.LSTM, [nn.LSTM(3, 4)], None, torch.zeros(3)])
def test_what_is_not_a_module_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"convert: model must be a torch.nn.Module, given {type(wrong).__name__}"):
        unrolled.convert(wrong)
