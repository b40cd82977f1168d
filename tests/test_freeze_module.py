"""A snapshot is still a module: whoever looks into it, changes, loads, copies, traces or watches it finds the model."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import prune
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import alexkern
from alexkern.frozen import FrozenSequential
from alexkern.frozen.convolution import FrozenConvolution
from alexkern.frozen.linear import FrozenLinear
from support.networks import NETWORKS, small_alexnet


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(2)
    return small_alexnet().eval().requires_grad_(False)


@pytest.fixture
def image(generator: torch.Generator) -> Tensor:
    return torch.randn(2, 3, 63, 63, generator=generator)


PACKED = [3, 2, 2, 2, 3, 2, 1]


@pytest.mark.parametrize("name", NETWORKS)
def test_children_parameters_and_state_are_the_models(name: str, generator: torch.Generator) -> None:
    model = NETWORKS[name][0]().eval()
    frozen = alexkern.freeze(model)
    pairs = list(zip(model.named_modules(), frozen.named_modules(), strict=True))
    for (name, module), (own, child) in pairs:
        assert name == own and type(child) is (FrozenSequential if type(module) is nn.Sequential else type(module))
        if not list(module.children()):
            assert repr(child) == repr(module) and vars(child).keys() == vars(module).keys()
    for (name, value), (own, kept) in zip(model.state_dict().items(), frozen.state_dict().items(), strict=True):
        assert name == own and torch.equal(value, kept)
    assert [name for name, _ in frozen.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert next(frozen.parameters()).dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_it_is_walked_sliced_and_tapped(model: nn.Sequential, image: Tensor, ran: list[int]) -> None:
    frozen = alexkern.freeze(model)
    one = two = image
    for layer, child in zip(model[0], frozen[0], strict=True):
        one, two = layer(one), child(two)
        assert torch.equal(one, two)
    assert ran == [] and isinstance(frozen[0][0], nn.Conv2d) and frozen[3][-1].out_features == 10
    value = image
    for piece in (slice(0, 2), slice(2, 5), slice(5, None)):  # as perceptual losses cut it
        assert list(frozen[0][piece]._modules) == list(model[0][piece]._modules)
        value = frozen[0][piece](value)
    torch.testing.assert_close(value, model[0](image))
    assert ran == [2, 2, 2, 2]


class Changed(nn.Sequential):
    """A container that is somebody's own."""


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "load_state_dict": lambda z, state: z.load_state_dict(state),
    "assign": lambda z, state: z.load_state_dict(state, assign=True),
    "load_state_dict of a child": lambda z, state: z[0][3].load_state_dict(
        {name: state[f"0.3.{name}"] for name in ("weight", "bias")}
    ),
    "in place": lambda z, _: [parameter.mul_(1.5) for parameter in z.parameters()],
    "data": lambda z, state: setattr(z[0][0].weight, "data", state["0.0.weight"]),
    "dtype there and back": lambda z, _: z.half().float(),
    "double": lambda z, _: z.double(),
    "a new layer": lambda z, state: setattr(z[3][4], "weight", nn.Parameter(state["3.4.weight"])),
    "another child": lambda z, _: z[0].__setitem__(4, nn.Tanh()),
    "one less": lambda z, _: z[3].__delitem__(5),
    "one more": lambda z, _: z[0].append(nn.Sigmoid()),
    "a container": lambda z, _: z.__setitem__(1, Changed(nn.AdaptiveAvgPool2d(3), nn.Softsign())),
    "memory format": lambda z, _: z.to(memory_format=torch.channels_last),
    "shared": lambda z, _: z.share_memory(),
    "forward": lambda z, _: setattr(z[3][2], "forward", torch.sigmoid),
    "pruned": lambda z, _: prune.l1_unstructured(z[3][4], "weight", 0.5),
    "parametrized": lambda z, _: nn.utils.parametrizations.weight_norm(z[0][0]),
}


SAME = {"double", "memory format", "shared", "parametrized"}  # numbers


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference_mode"])
def test_what_is_changed_is_seen_at_the_next_call(
    change: str, inference: bool, model: nn.Sequential, image: Tensor
) -> None:
    torch.manual_seed(8)
    state = small_alexnet().state_dict()
    frozen = alexkern.freeze(model)
    before = frozen(image)
    with torch.inference_mode() if inference else torch.no_grad():
        CHANGES[change](model, copy.deepcopy(state))
        CHANGES[change](frozen, copy.deepcopy(state))
        image = image.to(next(model.parameters()).dtype)
        wanted, found = model(image), frozen(image)
    assert (change in SAME) == torch.allclose(wanted.float(), before, rtol=0, atol=1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert {name: value.dtype for name, value in frozen.state_dict().items()} == {
        name: value.dtype for name, value in model.state_dict().items()
    }


def test_no_later_parameter_lies_where_one_was_packed(model: nn.Sequential) -> None:
    """An address is what tells one apart."""
    frozen = alexkern.freeze(model)
    weight = frozen[0][3].weight
    storage = StorageWeakRef(weight.untyped_storage())
    weight.data = torch.zeros_like(weight)
    assert not storage.expired()


def test_hooks_see_what_they_would_and_leave_no_trace(model: nn.Sequential, image: Tensor, ran: list[int]) -> None:
    frozen = alexkern.freeze(model)
    frozen(image)
    assert ran == PACKED
    seen: list[Tensor] = []
    handles = [frozen[0][1].register_forward_hook(lambda _, __, output: seen.append(output.clone()))]
    handles.append(frozen[3][4].register_forward_pre_hook(lambda _, args: (args[0] + 1,)))
    model[3][4].register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    ran.clear()
    torch.testing.assert_close(frozen(image), model(image))
    assert torch.equal(seen[0], model[0][:2](image)) and ran == [1, 2, 2, 2, 3, 1]
    for handle in handles:
        handle.remove()
    ran.clear()
    frozen(image)
    with nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module)):
        frozen(image)
    assert ran == PACKED and len(seen) == 1 + len(list(model.modules()))


@pytest.mark.parametrize("kind", [FrozenConvolution, FrozenLinear])
def test_a_snapshot_that_an_older_version_pickled_says_freeze_again(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had modules of these names in place of its children."""
    old = type(kind.__name__, (nn.Module,), {"__module__": kind.__module__})
    monkeypatch.setattr(sys.modules[kind.__module__], kind.__name__, old)
    pickled = pickle.dumps(FrozenSequential(old()))
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="alexkern.freeze: a snapshot of another version .*; freeze the model again"):
        pickle.loads(pickled)


def test_a_hook_that_was_frozen_goes_on_seeing(model: nn.Sequential, image: Tensor, ran: list[int]) -> None:
    seen: list[nn.Module] = []
    handle = model[0][1].register_forward_hook(lambda module, *_: seen.append(module))
    frozen = alexkern.freeze(model)
    frozen(image)
    assert seen == [frozen[0][1]] and ran == [1, *PACKED[1:]]
    handle.remove()
    for hooks in (frozen[0][1]._forward_hooks, ran):
        hooks.clear()
    frozen(image)
    assert ran == PACKED


def test_tuples_and_none_pass_through(generator: torch.Generator, ran: list[int]) -> None:
    class Split(nn.Module):
        def forward(self, input: Tensor) -> tuple[Tensor, None, Tensor]:
            return input, None, 2 * input

    class Join(nn.Module):
        def forward(self, parts: tuple[Tensor, None, Tensor] | None) -> Tensor:
            return torch.ones(2, 4) if parts is None else parts[0] - parts[2]

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Split(), nn.Sequential(nn.Identity()), Join(), nn.Linear(4, 3))
    frozen = alexkern.freeze(model)
    rows = torch.randn(2, 4, generator=generator)
    torch.testing.assert_close(frozen(rows), model(rows))
    assert ran == [2, 1]
    torch.testing.assert_close(frozen[4:](None), model[4:](None))


class Marked(Tensor):
    """A subclass that stays one in torch's operators."""


class Marking(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return input.as_subclass(Marked)


def test_a_subclass_meets_torchs_own_layers(image: Tensor, ran: list[int]) -> None:
    layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.AdaptiveAvgPool2d((28, 28))
    frozen = alexkern.freeze(nn.Sequential(Marking(), *layers))
    assert type(frozen(image)) is Marked and type(frozen[1:](image.as_subclass(Marked))) is Marked and ran == []


@pytest.mark.parametrize("tuned", [False, True], ids=["input", "input and weights"])
def test_gradients_are_torchs(tuned: bool, model: nn.Sequential, image: Tensor, operators: list[str]) -> None:
    frozen = alexkern.freeze(model)
    results = []
    for network in (model, frozen):
        network.requires_grad_(tuned)
        leaf = image.clone().requires_grad_(not tuned)
        leaves = list(network.parameters()) if tuned else [leaf]
        results.append(torch.autograd.grad(network(leaf).square().sum(), leaves))
    torch.testing.assert_close(*results)
    assert tuned or operators.count("conv2d_relu") == 3  # as a fused model differentiates


def test_train_leaves_it_in_eval_mode(model: nn.Sequential, image: Tensor) -> None:
    frozen = alexkern.freeze(nn.ModuleList([model]))
    wanted = frozen[0](image)
    frozen.train()
    assert frozen.training and not any(module.training for module in frozen[0].modules())
    assert torch.equal(frozen[0](image), wanted)
    frozen[0][3][3].train()  # but whoever turns on a single dropout has one
    assert not torch.equal(frozen[0](image), wanted)


def test_copies_of_every_kind(model: nn.Sequential, image: Tensor, ran: list[int]) -> None:
    frozen = alexkern.freeze(model, image)
    wanted = frozen(image)
    buffer = io.BytesIO()
    torch.save(frozen, buffer)
    buffer.seek(0)
    with torch.inference_mode():
        loaded = torch.load(buffer, weights_only=False)
    crossed = pickle.loads(ForkingPickler.dumps(frozen))  # as a process that is spawned gets it
    for again in (copy.copy(frozen), copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen)), crossed, loaded):
        ran.clear()
        torch.testing.assert_close(again(image), wanted)
        assert ran == ([] if again is loaded else PACKED)  # tensors of inference mode do not say when they change
    assert len(pickle.dumps(frozen)) < 1.1 * len(pickle.dumps(model))


@pytest.mark.full
def test_a_spawned_process_has_it(model: nn.Sequential, image: Tensor) -> None:
    frozen = alexkern.freeze(model)
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(nn.Module.__call__, (frozen, image)).get(timeout=120)
    torch.testing.assert_close(found, frozen(image))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_autocast_is_torchs(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    torch.manual_seed(4)
    build, shape = NETWORKS[name]
    model = build().eval()
    frozen = alexkern.freeze(model)
    image = torch.randn(shape, generator=generator)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        wanted, found = model(image), frozen(image)
        torch.testing.assert_close(found, wanted)  # dtype included
        assert frozen[0](image).dtype == model[0](image).dtype


def test_what_is_exported_is_the_model(model: nn.Sequential, image: Tensor, ran: list[int]) -> None:
    frozen = alexkern.freeze(model)
    traced = torch.jit.trace(frozen, image, check_trace=False)
    exported = torch.export.export(frozen, (image,))
    symbolic = torch.fx.symbolic_trace(frozen)
    assert ran == []
    for graph in (traced.inlined_graph, exported.graph):
        assert "mkldnn" not in str(graph) and "alexkern::" not in str(graph)
    targets = [node.target for node in symbolic.graph.nodes if node.op == "call_module"]
    assert targets == [name for name, module in model.named_modules() if not list(module.children())]
    assert exported.state_dict.keys() == model.state_dict().keys()
    for made in (traced, exported.module(), symbolic):
        torch.testing.assert_close(made(image), model(image))


def test_who_watches_sees_the_children(model: nn.Sequential, image: Tensor, ran: list[int]) -> None:
    frozen = alexkern.freeze(model)
    counts = []
    for network in (model, frozen):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(image)
        counts.append({str(key): value for key, value in counter.get_flop_counts()["Global"].items()})
    assert counts[0] == counts[1] and ran == []
    with BaseTorchFunctionMode():
        torch.testing.assert_close(frozen(image), model(image))
    assert ran == []
    with torch.device("cpu"):  # sees nothing
        frozen(image)
    assert ran == PACKED


def test_minus_what_lies_in_memory() -> None:
    """As the imaginary part of a conjugate is: by packed weights too, which are multiplied with what lies there."""
    model = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 32, 3)).eval()
    image = torch.randn(2, 16, 24, 24).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(alexkern.freeze(model)(torch._neg_view(-image)), model(image), rtol=1e-4, atol=1e-4)
