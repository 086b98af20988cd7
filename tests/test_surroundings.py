"""Files, workers, other processes, optimizers and what else stands around a layer in a user's program work with it."""

from __future__ import annotations

import copy
import io
import os
import pickle
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, multiprocessing, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, prune
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.nn.utils.rnn import pad_sequence
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

import unrolled
from exact import B, H, I, T, close, drawn, flat, wild
from unrolled import variants

TORCHS = ["RNN", "GRU", "LSTM"]
QUIET = ["PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM"]
NOISY = ["ZoneoutLSTM", "VariationalDropoutLSTM", "RecurrentDropoutLSTM"]
kinds = pytest.mark.parametrize("kind", TORCHS + QUIET + NOISY)
torchs = pytest.mark.parametrize("kind", TORCHS)

DEEP = {"num_layers": 2, "bidirectional": True, "dropout": 0.25}
# A normalisation divides by a deviation that may be small.
ROUNDING = {"LayerNormLSTM": 1e-4}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For tensors this small a second thread is only waited for, long where the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(kind: str, **options: Any) -> Any:
    return getattr(unrolled if kind in TORCHS else variants, kind)(I, H, **options)


def agree(kind: str, found: Any, expected: Any) -> None:
    close(found, expected, ROUNDING.get(kind, 1e-5))


def outcome(layer: Any) -> list[Tensor]:
    """What a call returns and all its gradients, with the same draws of dropout and noise each time."""
    torch.manual_seed(3)
    result = layer(drawn(layer))
    return flat((result, torch.autograd.grad(wild(result), list(layer.parameters()))))


def right(kind: str, change: Callable[[Any], Any] = lambda layer: layer, **options: Any) -> tuple[Any, Any]:
    """A layer and one that is right, both changed: torch.nn's or, for a variant, its own in float64."""
    layer = change(made(kind, **options).eval())
    other = change((getattr(nn, kind)(I, H, **options) if kind in TORCHS else made(kind, **options).double()).eval())
    other.load_state_dict(layer.state_dict())
    return layer, other


# Copies and files


def saved_whole(layer: Any, _: Any, path: Path) -> Any:
    torch.save(layer, path)
    return torch.load(path, weights_only=False)


def saved_weights(layer: Any, fresh: Any, path: Path) -> Any:
    torch.save(layer.state_dict(), path)
    fresh.load_state_dict(torch.load(path, weights_only=True))
    return fresh


def saved_as_safetensors(layer: Any, fresh: Any, path: Path) -> Any:
    save_model(layer, str(path))
    assert load_model(fresh, str(path)) == (set(), [])
    return fresh


def filled_from_safetensors(layer: Any, fresh: Any, path: Path) -> Any:
    save_file(layer.state_dict(), path)
    fresh.to("meta").load_state_dict(load_file(path), assign=True)
    return fresh


WAYS: dict[str, Callable[[Any, Any, Path], Any]] = {
    "deepcopy": lambda layer, *_: copy.deepcopy(layer),
    "pickle": lambda layer, *_: pickle.loads(pickle.dumps(layer)),
    "torch.save, whole": saved_whole,
    "torch.save, weights": saved_weights,
    "safetensors": saved_as_safetensors,
    "safetensors, onto meta": filled_from_safetensors,
}


@kinds
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_computes_the_same_with_parameters_of_its_own(kind: str, way: str, tmp_path: Path) -> None:
    layer = made(kind, **DEEP)
    before = outcome(layer)
    replica = WAYS[way](layer, made(kind, **DEEP), tmp_path / "saved")
    assert type(replica) is type(layer)
    assert repr(replica) == repr(layer)
    close(outcome(replica), before, 1e-6)
    with torch.no_grad():
        for parameter in replica.parameters():
            parameter.add_(1)
    close(outcome(layer), before, 1e-6)


class Outputs(nn.Sequential):
    """Layers in a row, of which each is given the output of the one before."""

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        state = None
        for module in self:
            x = module(x)
            if isinstance(x, tuple):
                x, state = x
        return x, state


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, *, after: Callable[[], None] = lambda: None) -> None:
    for seed in range(3):
        optimizer.zero_grad()
        output, _ = model(drawn(model, seed=seed))
        output.sub(0.5).square().mean().backward()
        optimizer.step()
        after()


@torchs
def test_a_training_run_of_torchs_layer_goes_on_with_unrolleds_from_its_checkpoint(kind: str) -> None:
    theirs, ours = (Outputs(nn.Linear(I, I), getattr(library, kind)(I, H), nn.Tanh()) for library in (nn, unrolled))
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    take_steps(theirs, optimizer)
    file = io.BytesIO()
    torch.save({"model": theirs.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    ours.load_state_dict(saved["model"])
    resumed = torch.optim.AdamW(ours.parameters(), lr=1.0)
    resumed.load_state_dict(saved["optimizer"])
    take_steps(theirs, optimizer)
    take_steps(ours, resumed)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    close(ours.state_dict(), theirs.state_dict(), 1e-4)


# Parametrizations, pruning and clipping

PARAMETRIZATIONS: dict[str, Callable[[Any], Any]] = {
    "orthogonal": lambda layer: orthogonal(layer, "weight_hh_l0"),
    "spectral_norm": lambda layer: spectral_norm(layer, "weight_hh_l0"),
    "weight_norm": lambda layer: weight_norm(layer, "weight_hh_l0", dim=0),
    "two weights": lambda layer: weight_norm(orthogonal(layer, "weight_hh_l0"), "weight_ih_l0"),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight_hh_l0", amount=0.5),
}


@kinds
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_a_parametrized_recurrent_weight_gives_outputs_and_gradients_that_are_right(
    kind: str, parametrization: str
) -> None:
    layer, other = right(kind, PARAMETRIZATIONS[parametrization])
    assert "weight_hh_l0" not in dict(layer.named_parameters())
    agree(kind, outcome(layer), outcome(other))
    with torch.no_grad():
        for parameter in (*layer.parameters(), *other.parameters()):
            parameter.mul_(1.5)
    agree(kind, outcome(layer), outcome(other))


@kinds
def test_a_parametrized_layer_is_copied_and_its_weights_load_into_another(kind: str) -> None:
    layer, fresh = (orthogonal(made(kind, **DEEP), "weight_hh_l1") for _ in range(2))
    before = outcome(layer)
    fresh.load_state_dict(layer.state_dict())
    for replica in (fresh, copy.deepcopy(layer)):
        close(outcome(replica), before, 1e-6)


@torchs
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_a_parametrized_layer_served_step_by_step_gives_what_one_call_gives(kind: str, parametrization: str) -> None:
    layer, states, outputs = PARAMETRIZATIONS[parametrization](made(kind).eval()), None, []
    expected = layer(drawn(layer))
    with torch.no_grad():
        for x in drawn(layer).split(1):
            output, states = layer(x, states)
            outputs.append(output)
    close([torch.cat(outputs), states], expected)


@torchs
@pytest.mark.parametrize("name", ["bias_ih_l0", "bias_hh_l0"])
def test_one_bias_of_one_number_served_step_by_step_gives_what_one_call_gives(kind: str, name: str) -> None:
    layer = made(kind)
    setattr(layer, name, nn.Parameter(torch.ones(1)))
    x = drawn(layer, 1, B, I)
    _, states = layer(x)
    expected = layer(x, states)
    with torch.no_grad():
        close(layer(x, states), expected)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("PeepholeLSTM", "peephole_l0"), ("LayerNormLSTM", "norm_hh_l0"), ("LayerNormLSTM", "norm_cell_l0")],
)
def test_a_parameter_that_only_a_variant_has_can_be_parametrized(kind: str, name: str) -> None:
    layer, other = right(kind, lambda layer: weight_norm(layer, name, dim=None))
    agree(kind, outcome(layer), outcome(other))


@kinds
@pytest.mark.parametrize(("clip", "limit"), [(clip_grad_norm_, 0.5), (clip_grad_value_, 0.1)])
def test_clipped_gradients_are_those_of_the_right_layer(kind: str, clip: Any, limit: float) -> None:
    found = []
    for layer in right(kind):
        wild(layer(drawn(layer))).backward()
        before = layer.weight_hh_l0.grad.clone()
        norm = clip(layer.parameters(), limit)
        assert not torch.equal(layer.weight_hh_l0.grad, before)
        found.append([norm, [parameter.grad for parameter in layer.parameters()]])
    agree(kind, *found)


# Other processes


class Encoded(Dataset[Tensor]):
    """Sequences of uneven lengths that a layer computes."""

    def __init__(self) -> None:
        self.encoder = unrolled.GRU(I, 64, batch_first=True)
        self.sequences = [torch.randn(length, I) for length in (7, 3, 5, 1)]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.encoder(self.sequences[index])[0]


class Summarised:
    """A collate function that runs layers on the padded batch."""

    def __init__(self) -> None:
        self.layers = [unrolled.LSTM(64, 64, batch_first=True), variants.PeepholeLSTM(64, 64, batch_first=True)]

    def __call__(self, sequences: list[Tensor]) -> Tensor:
        lengths = [len(sequence) for sequence in sequences]
        with torch.no_grad():
            states = [layer(pad_sequence(sequences, True), lengths=lengths)[1] for layer in self.layers]
        return torch.stack([cell[0] for _, cell in states], 1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader_compute_what_the_parent_computes(start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {start}")
    data, collate = Encoded(), Summarised()
    # A forked child has none of the threads that its parent started.
    torch.set_num_threads(2)
    expected = list(DataLoader(data, batch_size=2, collate_fn=collate))
    options = {"num_workers": 2, "timeout": 60, "multiprocessing_context": start}
    found = list(DataLoader(data, batch_size=2, collate_fn=collate, **options))
    close(found, expected)


def joined(context: Any, seconds: float) -> None:
    """Wait for the processes; one that failed raises here, and none outlives the wait."""
    until = time.monotonic() + seconds
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < until, f"the processes did not end in {seconds} s"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
                process.join()


DISTRIBUTED = ["LSTM", "GRU", "LayerNormLSTM"]


def loss_of(model: Any, x: Tensor, lengths: Tensor) -> Tensor:
    """The mean over the sequences, so that means over parts of equal size average to it."""
    output, _ = model(x, lengths=lengths)
    return output.pow(3).sum() / len(lengths) + output.sum() / len(lengths)


def distributed_gradients(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        *("gloo", f"file://{folder / 'meeting'}"), rank=rank, world_size=2, timeout=timedelta(seconds=30)
    )
    for kind in DISTRIBUTED:
        weights, x, lengths = torch.load(folder / kind, weights_only=True)
        layer = made(kind, batch_first=True, num_layers=2)
        if rank == 0:
            layer.load_state_dict(weights)
        model = nn.parallel.DistributedDataParallel(layer)
        loss_of(model, x.chunk(2)[rank], lengths.chunk(2)[rank]).backward()
        torch.save([parameter.grad for parameter in layer.parameters()], folder / f"{kind}.{rank}")
    torch.distributed.destroy_process_group()
    # Around torch's own layers too, the interpreter's end now and then aborts on a thread of gloo that still runs.
    os._exit(0)


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="this torch has no gloo"
)
def test_gradients_of_distributed_data_parallel_are_those_of_the_joint_batch(tmp_path: Path) -> None:
    expected = {}
    for kind in DISTRIBUTED:
        layer = made(kind, batch_first=True, num_layers=2)
        x, lengths = torch.randn(4, T, I), torch.tensor([2, T, 0, 5])
        torch.save((layer.state_dict(), x, lengths), tmp_path / kind)
        expected[kind] = torch.autograd.grad(loss_of(layer, x, lengths), list(layer.parameters()))
    joined(multiprocessing.spawn(distributed_gradients, (tmp_path,), nprocs=2, join=False), 60)
    for kind in DISTRIBUTED:
        for rank in range(2):
            close(torch.load(tmp_path / f"{kind}.{rank}", weights_only=True), expected[kind])


SHARED = ["RNN", "GRU", "LSTM", "CoupledLSTM"]


def descend(layer: Any) -> Tensor:
    """One step of gradient descent; what the layer returned before it."""
    output, _ = layer(drawn(layer))
    output.pow(2).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    return output.detach()


def descend_when_told(_: int, layers: nn.ModuleList, outputs: list[Tensor], told: Any) -> None:
    torch.set_num_threads(1)
    assert told.wait(30)
    for layer, output in zip(layers, outputs, strict=True):
        output.copy_(descend(layer))


def test_parameters_in_shared_memory_are_seen_by_both_processes_and_trained_by_either() -> None:
    layers = nn.ModuleList(made(kind) for kind in SHARED).share_memory()
    assert all(parameter.is_shared() for parameter in layers.parameters())
    outputs = [torch.zeros(T, B, H).share_memory_() for _ in layers]
    told = multiprocessing.get_context("spawn").Event()
    context = multiprocessing.spawn(descend_when_told, (layers, outputs, told), nprocs=1, join=False)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.add_(0.1)
    alone = copy.deepcopy(layers)
    told.set()
    joined(context, 60)
    close(outputs, [descend(layer) for layer in alone])
    close(list(layers.parameters()), list(alone.parameters()))
    close([layer(drawn(layer)) for layer in layers], [layer(drawn(layer)) for layer in alone])


# Dtypes and devices


@kinds
def test_a_layer_made_double_and_single_again_is_as_it_was(kind: str) -> None:
    layer = made(kind, **DEEP).eval()
    before = outcome(layer)
    exact = outcome(layer.double())
    assert {tensor.dtype for tensor in exact} == {torch.float64}
    agree(kind, exact, before)
    close(outcome(layer.float()), before, 1e-6)


@kinds
@pytest.mark.parametrize("half", ["bfloat16", "half"])
def test_a_halved_layer_computes_in_float32_and_rounds_what_it_returns(kind: str, half: str) -> None:
    layer = getattr(made(kind, **DEEP).eval(), half)()
    single = copy.deepcopy(layer).float()
    x = drawn(layer)
    found, expected = flat(layer(x)), flat(single(x.float()))
    close(found, [tensor.to(x.dtype) for tensor in expected], 1e-6)
    assert {tensor.dtype for tensor in found} == {x.dtype}
    wild(layer(x)).backward()
    assert {parameter.grad.dtype for parameter in layer.parameters()} == {x.dtype}
    close(outcome(layer.float()), outcome(single), 1e-6)


@kinds
def test_a_layer_sent_to_meta_and_back_computes_with_the_weights_it_is_given(kind: str) -> None:
    layer = made(kind, **DEEP)
    weights, before = copy.deepcopy(layer.state_dict()), outcome(layer)
    layer.to("meta")
    shapes = [tensor.shape for tensor in flat(layer(torch.empty(T, B, I, device="meta")))]
    assert shapes == [tensor.shape for tensor in before[: len(shapes)]]
    layer.to_empty(device="cpu").load_state_dict(weights)
    close(outcome(layer), before, 1e-6)


# Training


@kinds
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=["plain", "foreach", "fused"])
def test_training_moves_the_weights_and_their_average_as_it_moves_the_right_layers(kind: str, options: Any) -> None:
    found = []
    for layer in right(kind):
        averaged, seen = AveragedModel(layer), []

        def note(layer: Any = layer, averaged: Any = averaged, seen: Any = seen) -> None:
            averaged.update_parameters(layer)
            seen.append([parameter.detach().clone() for parameter in layer.parameters()])

        take_steps(layer, torch.optim.AdamW(layer.parameters(), lr=1e-2, **options), after=note)
        means = [torch.stack(steps).mean(0) for steps in zip(*seen, strict=True)]
        close(list(averaged.parameters()), means)
        found.append([seen, averaged(drawn(layer))])
    close(*found, 1e-4)


@kinds
@pytest.mark.parametrize("given", [{}, {"lengths": [T, 2, 4]}], ids=["whole", "lengths"])
def test_a_checkpointed_layer_draws_its_noise_again_and_has_the_gradients_of_a_plain_one(kind: str, given: Any) -> None:
    layers = nn.ModuleList([made(kind, num_layers=2, dropout=0.25), made(kind)])

    def gradients(call: Callable[..., Any]) -> Any:
        torch.manual_seed(5)
        x = drawn(layers).requires_grad_()
        output, _ = call(layers[0], x, **given)
        result = call(layers[1], output[..., :I], **given)
        return torch.autograd.grad(wild(result), [x, *layers.parameters()])

    recomputed = gradients(lambda layer, *args, **kwargs: checkpoint(layer, *args, use_reentrant=False, **kwargs))
    close(recomputed, gradients(lambda layer, *args, **kwargs: layer(*args, **kwargs)), 1e-6)


# Parameters from elsewhere, containers and groups


@kinds
def test_replaced_parameters_are_computed_with_and_get_the_gradients(kind: str) -> None:
    layer, other = made(kind, **DEEP), made(kind, **DEEP)
    model, before = nn.ModuleDict({"layer": layer}), outcome(layer)
    model.forward = lambda x: model["layer"](x)
    replaced = {f"layer.{name}": value.detach().clone().requires_grad_() for name, value in other.named_parameters()}
    torch.manual_seed(3)
    result = torch.func.functional_call(model, replaced, (drawn(layer),))
    gradients = torch.autograd.grad(wild(result), list(replaced.values()))
    close(flat((result, gradients)), outcome(other), 1e-6)
    close(outcome(layer), before, 1e-6)


@kinds
def test_an_ensemble_of_stacked_parameters_computes_what_its_members_compute(kind: str) -> None:
    members = [made(kind).eval() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(members)
    empty, x = copy.deepcopy(members[0]).to("meta"), drawn(members[0])
    outputs = torch.vmap(lambda p, b: torch.func.functional_call(empty, (p, b), (x,))[0])(parameters, buffers)
    agree(kind, outputs, torch.stack([member(x)[0] for member in members]))


@torch.no_grad()
def start(module: nn.Module) -> None:
    """A user's own initialisation: recurrent layers are found by their class, their parameters by name."""
    if isinstance(module, nn.RNNBase):
        for name, parameter in module.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(parameter)
            elif parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.constant_(parameter, 0.25)


@kinds
def test_an_initialisation_that_is_applied_to_a_container_is_what_its_layers_compute_with(kind: str) -> None:
    model = Outputs(nn.Linear(I, I), made(kind), nn.Tanh()).apply(start)
    layer = model[1]
    square = layer.weight_hh_l0.T @ layer.weight_hh_l0
    torch.testing.assert_close(square, torch.eye(H), rtol=1e-5, atol=1e-5)
    assert set(layer.bias_hh_l0.tolist()) == {0.25}
    model.eval()
    agree(kind, outcome(model), outcome(copy.deepcopy(model).double()))


@kinds
def test_frozen_weights_stay_and_the_others_get_the_gradients_they_had(kind: str) -> None:
    layer = made(kind, **DEEP).eval()
    names = [name for name, _ in layer.named_parameters()]
    expected = dict(zip(names, outcome(layer)[-len(names) :], strict=True))
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_("_ih_" in name)
    wild(layer(drawn(layer))).backward()
    found = {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.grad is not None}
    assert set(found) == {name for name in names if "_ih_" in name}
    close(found, {name: expected[name] for name in found}, 1e-6)


@kinds
def test_groups_of_parameters_are_trained_each_by_its_own_options(kind: str) -> None:
    found = []
    for layer in right(kind):
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in layer.named_parameters():
            groups[name.startswith("weight")].append(parameter)
        before = copy.deepcopy(groups[False])
        decayed, still = {"params": groups[True], "weight_decay": 0.1}, {"params": groups[False], "lr": 0.0}
        take_steps(layer, torch.optim.SGD([decayed, still], lr=0.1))
        assert all(torch.equal(one, other) for one, other in zip(before, groups[False], strict=True))
        found.append([parameter.detach() for parameter in groups[True]])
    agree(kind, *found)
