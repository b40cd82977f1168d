"""FusedSequential and fuse(): what a model does and what it looks like stay the same."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import alexkern
from alexkern.nn import FusedSequential
from alexkern.ops.registry import OPERATORS
from support.copies import copies
from support.networks import NETWORKS, View, small_alexnet


def pair(build: Callable[[], nn.Sequential]) -> tuple[nn.Sequential, nn.Sequential]:
    """The same network twice: plain and fused."""
    torch.manual_seed(1)
    plain = build()
    return plain, alexkern.fuse(copy.deepcopy(plain))


# "nested" holds a view, which torch refuses to take of a channels_last image.
@pytest.mark.parametrize(
    ("name", "channels_last"), [(name, False) for name in NETWORKS] + [("alexnet", True), ("vgg", True)]
)
def test_same_results_and_gradients(name: str, channels_last: bool, generator: torch.Generator) -> None:
    build, shape = NETWORKS[name]
    plain, fused = pair(build)
    image = torch.randn(shape, generator=generator)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    results = []
    for model in (plain.eval(), fused.eval()):
        leaf = image.clone().requires_grad_()
        output = model(leaf)
        output.square().sum().backward()
        with torch.inference_mode():
            inference = model(image)
        with torch.no_grad():
            torch.testing.assert_close(inference, output)
        assert leaf.grad is not None
        results.append([output.detach(), leaf.grad, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_alexnet_becomes_operators(operators: list[str]) -> None:
    _, fused = pair(small_alexnet)
    fused(torch.randn(2, 3, 63, 63))
    convolution, linear, pool = (nn.Conv2d, nn.ReLU), (nn.Linear, nn.ReLU), (nn.MaxPool2d,)
    runs = ((*convolution, *pool), convolution, (nn.LocalResponseNorm,), pool, convolution, convolution)
    by_run = {run: name for name, operator in OPERATORS.items() for run in operator.layers}
    assert operators == [by_run[run] for run in (*runs, (nn.Dropout,), (*linear, nn.Dropout), linear)]


def test_fuse_changes_exactly_the_plain_sequentials() -> None:
    class Own(nn.Sequential):
        pass

    model = nn.Sequential(nn.Sequential(nn.ReLU()), Own(nn.Sequential(nn.ReLU())), nn.ModuleList([nn.Sequential()]))
    shared = model[0]
    model.append(shared)
    children, keys = list(model.modules()), list(model.state_dict())
    assert alexkern.fuse(model) is model
    assert list(model.modules()) == children and list(model.state_dict()) == keys
    assert [type(module) for module in children if isinstance(module, nn.Sequential)] == [
        FusedSequential,
        FusedSequential,
        Own,
        FusedSequential,
        FusedSequential,
    ]
    assert model[0] is shared and model[3] is shared


LEAVES = [name for name, module in small_alexnet().named_modules() if not list(module.children())]


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("name", LEAVES)
def test_a_hook_on_any_child_is_called(kind: str, name: str, operators: list[str]) -> None:
    plain, fused = pair(small_alexnet)
    image = torch.randn(1, 3, 63, 63)
    fused.eval()(image)
    unhooked = len(operators)
    calls: list[str] = []
    # nn.ReLU(inplace=True) and a full backward hook do not go together, in torch either.
    for module in fused.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    register = getattr(fused.get_submodule(name), f"register_{kind}_hook")
    handle = register(lambda *_: calls.append("hook"))
    operators.clear()
    output = fused(image)
    output.sum().backward()
    assert calls == ["hook"]
    torch.testing.assert_close(output, plain.eval()(image), rtol=1e-4, atol=1e-5)
    handle.remove()
    operators.clear()
    fused(image)
    assert len(operators) == unhooked and calls == ["hook"]


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
def test_global_hooks_see_every_child(kind: str, operators: list[str]) -> None:
    _, fused = pair(small_alexnet)
    for module in fused.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    seen: list[str] = []
    register = getattr(nn.modules.module, f"register_module_{kind}_hook")
    handle = register(lambda module, *_: seen.append(type(module).__name__))
    try:
        fused(torch.randn(1, 3, 63, 63)).sum().backward()
    finally:
        handle.remove()
    assert operators == [] and seen.count("Conv2d") == 4 and seen.count("ReLU") == 6


UNFUSABLE: dict[str, tuple[nn.Sequential, list[str]]] = {
    "no_relu": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), []),
    "conv_alone": (nn.Sequential(nn.Conv2d(3, 4, 3)), []),
    "dilated_pool": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, dilation=2)),
        ["conv2d_relu", "max_pool2d"],
    ),
    "relu6": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.MaxPool2d(2)), ["max_pool2d"]),
    "inplace_dropout": (nn.Sequential(nn.Dropout(0.0, inplace=True)), []),
    "lone": (
        nn.Sequential(nn.MaxPool2d(2), nn.Dropout(0.0), nn.LocalResponseNorm(3)),
        [name for name, operator in OPERATORS.items() if min(map(len, operator.layers)) == 1],
    ),
}


@pytest.mark.parametrize("name", UNFUSABLE)
def test_what_does_not_fit_runs_as_it_is(name: str, operators: list[str]) -> None:
    plain, wanted = UNFUSABLE[name]
    fused = alexkern.fuse(copy.deepcopy(plain))
    image = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(fused(image), plain(image))
    assert operators == wanted


def test_return_indices_and_tuples_pass_through() -> None:
    model = FusedSequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, return_indices=True))
    values, indices = model(torch.randn(1, 3, 8, 8))
    assert values.shape == indices.shape == (1, 4, 3, 3) and indices.dtype == torch.int64


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("weights_channels_last", [False, True])
def test_output_has_the_format_that_torch_gives(channels_last: bool, weights_channels_last: bool) -> None:
    plain, fused = pair(lambda: small_alexnet()[0])
    formats = {True: torch.channels_last, False: torch.contiguous_format}
    image = torch.randn(2, 3, 63, 63).contiguous(memory_format=formats[channels_last])
    outputs = []
    for model in (plain.eval(), fused.eval()):
        model.to(memory_format=formats[weights_channels_last])
        outputs.append(model(image))
    assert outputs[0].stride() == outputs[1].stride()


def test_memory_is_contiguous_where_foreign_modules_look() -> None:
    """View needs contiguous memory right after fused layers that ran in channels_last."""
    model = FusedSequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), View())
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 36)


def test_slices_share_children_and_compute_the_same() -> None:
    plain, fused = pair(small_alexnet)
    image = torch.randn(1, 3, 63, 63)
    for bounds in ((0, 2), (2, 5), (5, 8), (0, 11), (3, None), (-4, -1)):
        part = fused[0][slice(*bounds)]
        assert type(part) is FusedSequential
        assert all(one is other for one, other in zip(part, list(fused[0])[slice(*bounds)], strict=True))
    value, wanted = image, image
    for start, stop in ((0, 2), (2, 5), (5, 8), (8, 11)):
        value, wanted = fused[0][start:stop](value), plain[0][start:stop](wanted)
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("part", "index"), [(0, 0), (0, 3), (3, 1), (3, 6)])
def test_pruning_keeps_working(part: int, index: int) -> None:
    plain, fused = pair(small_alexnet)
    for model in (plain, fused):
        prune.l1_unstructured(model[part][index], "weight", amount=0.5)
        model.eval()
    image, layer = torch.randn(1, 3, 63, 63), fused[part][index]
    torch.testing.assert_close(fused(image), plain(image), rtol=1e-4, atol=1e-5)
    prune.remove(layer, "weight")
    assert float((layer.weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(fused(image), plain(image), rtol=1e-4, atol=1e-5)


def test_deepcopy_pickle_and_state_dict() -> None:
    plain, fused = pair(small_alexnet)
    fused.eval()
    image = torch.randn(1, 3, 63, 63)
    wanted = fused(image)
    assert all(torch.equal(again(image), wanted) for again in copies(fused))
    assert list(plain.state_dict()) == list(fused.state_dict())
    fresh = alexkern.fuse(small_alexnet())
    fresh.load_state_dict(plain.state_dict())
    plain.load_state_dict(fresh.state_dict())
    assert torch.equal(fresh.eval()(image), wanted)


def test_unbatched_images() -> None:
    plain, fused = pair(lambda: small_alexnet()[0][:5])
    image = torch.randn(3, 63, 63)
    torch.testing.assert_close(fused(image), plain(image), rtol=1e-4, atol=1e-5)
    assert fused(image).stride() == plain(image).stride()


def test_empty_and_mutated_sequentials(operators: list[str]) -> None:
    image = torch.randn(1, 3, 8, 8)
    model = FusedSequential()
    assert model(image) is image
    model.append(nn.Conv2d(3, 4, 3))
    model(image)
    assert operators == []
    model.append(nn.ReLU())
    model(image)
    assert operators == ["conv2d_relu"]
    del model[1]
    model(image)
    assert operators == ["conv2d_relu"]


def test_jit_script_is_refused_and_jit_trace_works() -> None:
    _, fused = pair(small_alexnet)
    fused.eval()
    with pytest.raises(RuntimeError, match="torch.jit.script is not supported; use torch.compile or torch.export"):
        torch.jit.script(fused)
    image = torch.randn(1, 3, 63, 63)
    traced = torch.jit.trace(fused, image)
    torch.testing.assert_close(traced(image), fused(image), rtol=1e-4, atol=1e-5)
    graph = str(traced.inlined_graph)
    assert "aten::_convolution" in graph and "alexkern::" not in graph and "PythonOp" not in graph


def test_modules_of_our_own() -> None:
    image = torch.randn(2, 6, 9, 9)
    assert torch.equal(alexkern.nn.MaxPool2d(3, 2)(image), nn.MaxPool2d(3, 2)(image))
    assert torch.equal(
        alexkern.nn.MaxPool2d(3, 2, 1, 1, ceil_mode=True)(image), nn.MaxPool2d(3, 2, 1, 1, ceil_mode=True)(image)
    )
    torch.testing.assert_close(alexkern.nn.LocalResponseNorm(5)(image), nn.LocalResponseNorm(5)(image))
    dropout = alexkern.nn.Dropout(0.25)
    assert 0.1 < float((dropout(torch.ones(4000)) == 0).float().mean()) < 0.4
    assert dropout.eval()(image) is image
    with pytest.raises(ValueError, match="return_indices"):
        alexkern.nn.MaxPool2d(2, return_indices=True)
    with pytest.raises(ValueError, match="inplace"):
        alexkern.nn.Dropout(inplace=True)
