"""fusion_report() says what a forward does, and why; unfuse() is the way back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import alexkern
from alexkern import dispatch, models
from alexkern.fuse import NO_RUN, OWN_FORWARD, REACHED, FusionReport
from alexkern.nn import FusedSequential
from alexkern.ops.operator import Operator
from alexkern.ops.registry import OPERATORS
from support.networks import NETWORKS, Residual, small_alexnet
from support.routes import Transparent

MODELS = {**NETWORKS, "alexnet_2012": (partial(models.alexnet_2012, num_classes=3), (1, 3, 63, 63))}
KINDS = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.Dropout, nn.LocalResponseNorm)

JOINED = "conv2d_relu_max_pool2d"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the operators that are called, whoever serves them."""
    names, call = [], Operator.__call__
    monkeypatch.setattr(Operator, "__call__", lambda self, *args: (names.append(self.name), call(self, *args))[1])
    return names


def every_layer_is_named(report: FusionReport, model: nn.Module) -> None:
    """Once, of the kinds that could be fused, in the order of the children."""
    by_name = dict(model.named_modules())
    named = [child for entry in report.entries for child in entry.children]
    layers = [child for child, module in by_name.items() if isinstance(module, KINDS)]
    assert [child for child in named if isinstance(by_name[child], KINDS)] == layers


@pytest.mark.parametrize("name", MODELS)
def test_a_real_forward_agrees(name: str, operators: list[str]) -> None:
    build, shape = MODELS[name]
    model = alexkern.fuse(build())
    report = alexkern.fusion_report(model)
    model(torch.randn(shape))
    assert [entry.operator for entry in report.fused] == operators and operators
    every_layer_is_named(report, model)
    by_name = dict(model.named_modules())
    for entry in report.fused:
        run = tuple(type(by_name[child]) for child in entry.children)
        assert run in OPERATORS[entry.operator].layers
        assert entry.backend == alexkern.dispatch.resolve_name(entry.operator, torch.empty(0))
        assert entry.layers == tuple(kind.__name__ for kind in run)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_snapshots_forward_agrees(name: str, dtype: torch.dtype, calls: list[str]) -> None:
    """What is packed for a CPU has ways of its own, which may call an operator or none; in float64 nothing is."""
    build, shape = MODELS[name]
    snapshot = alexkern.freeze(build().to(dtype))
    report = alexkern.fusion_report(snapshot)
    every_layer_is_named(report, snapshot)
    calls.clear()
    snapshot(torch.randn(shape, dtype=dtype))
    ours = [entry.operator for entry in report.fused if entry.backend in dispatch.PACKAGES]
    ours, left = [operator for operator in ours if operator in OPERATORS], iter(calls)
    assert all(operator in left for operator in ours)  # in this order
    assert calls == ours or dtype == torch.float32
    packed = [entry for entry in report.fused if entry.backend not in dispatch.PACKAGES]
    assert not packed or dtype == torch.float32
    assert all(reason in ("hands on its input", OWN_FORWARD) for reason in report.plain.values())


def test_what_a_snapshot_packs_and_why_it_does_not() -> None:
    norm = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(), nn.Linear(5, 3)]
    snapshot = alexkern.freeze(nn.Sequential(*norm))

    def entries() -> list[tuple[str, ...]]:
        return [(*entry.children, entry.operator) for entry in alexkern.fusion_report(snapshot).entries]

    assert entries() == [("0", "1", "2", "3", "conv2d_relu_max_pool2d"), ("4", ""), ("5", "linear")]
    snapshot[3].register_forward_hook(lambda *_: None)
    assert entries()[:2] == [("0", "1", "2", "conv2d_relu"), ("3", "")]
    snapshot[2].register_forward_hook(lambda *_: None)
    assert entries()[0] == ("0", "1", "conv2d")
    snapshot[0].padding_mode = "reflect"
    snapshot[5].train()
    wanted = {"0": "padding_mode", "3": "MaxPool2d has a hook", "4": "hands on its input", "5": "in training mode"}
    found = alexkern.fusion_report(snapshot).plain
    assert found.keys() == wanted.keys() and all(found[name].startswith(reason) for name, reason in wanted.items())
    with Transparent():
        assert set(alexkern.fusion_report(snapshot).plain.values()) == {"a TorchDispatchMode is watching"}


def hooked(model: Any) -> None:
    model[1].register_forward_hook(lambda *_: None)


def own_forward(model: Any) -> None:
    model[1].forward = model[1].__class__().forward


def subclassed(model: Any) -> None:
    class Own(nn.Conv2d):
        pass

    model[0].__class__ = Own


def float8(model: Any) -> None:
    model[0].weight = nn.Parameter(model[0].weight.to(torch.float8_e5m2), requires_grad=False)
    model[0].weight.__class__ = type("Packed", (nn.Parameter,), {})


# What is done to Conv2d, ReLU, MaxPool2d, and what the report then says of the convolution.
PLAIN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "hook": (hooked, "ReLU has a hook"),
    "own_forward": (own_forward, "ReLU has a forward of its own"),
    "subclass": (subclassed, "not torch's own class"),
    "parametrised": (lambda model: parametrizations.weight_norm(model[0]), "not torch's own class"),
    "pruned": (lambda model: prune.random_unstructured(model[0], "weight", amount=0.5), "Conv2d has a hook"),
    "other_layer": (lambda model: model.__setitem__(1, nn.ReLU6()), "no ReLU behind it"),
    "padding_mode": (lambda model: setattr(model[0], "padding_mode", "reflect"), "padding_mode"),
    "compiled": (lambda model: setattr(model[0], "_compiled_call_impl", print), "Conv2d has a _compiled_call_impl of"),
    "weight": (float8, "Conv2d's weight is no plain floating tensor"),
    "unfused": (alexkern.unfuse, "not in a FusedSequential"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_it_says_why_a_layer_is_plain(name: str) -> None:
    model = FusedSequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    assert alexkern.fusion_report(model).plain == {}
    change, reason = PLAIN[name]
    change(model)
    assert alexkern.fusion_report(model).plain["0"].startswith(reason)


def test_why_pools_dropouts_and_linear_layers_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [nn.MaxPool2d(2, return_indices=True), nn.Dropout(inplace=True), nn.Linear(3, 3), nn.Flatten()]
    model = nn.ModuleDict({"fused": FusedSequential(*layers, nn.LocalResponseNorm(3)), "alone": nn.Conv2d(3, 3, 1)})
    reasons = {"fused.0": "return_indices", "fused.1": "inplace", "fused.2": "no ReLU behind it"}
    assert alexkern.fusion_report(model).plain == reasons | {"alone": OWN_FORWARD}
    monkeypatch.setattr(nn.LocalResponseNorm, "forward", lambda self, input: input)
    assert alexkern.fusion_report(model).plain["fused.4"].startswith("LocalResponseNorm's forward")
    with Transparent():
        assert alexkern.fusion_report(model).plain["fused.2"] == "a TorchDispatchMode is watching"
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert alexkern.fusion_report(model).plain["fused.2"] == "a hook is on all modules"
    handle.remove()
    assert alexkern.fusion_report(model["alone"]).plain == {"": "not in a FusedSequential"}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("size", "ran"), [((9, 11), [JOINED]), ((10, 9), ["conv2d_relu", "max_pool2d"])])
def test_a_ceil_mode_pool_behind_a_convolution_joins_in(
    size: tuple[int, int], ran: list[str], frozen: bool, operators: list[str], calls: list[str]
) -> None:
    """One operator; where rounding up makes the output larger, it goes on to two."""
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(8, 8, 1)]
    model = FusedSequential(*layers).to(torch.float64)
    model = alexkern.freeze(model) if frozen else model
    image = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=not frozen)
    output, plain = model(image), nn.Sequential.forward(model, image)
    torch.testing.assert_close(output, plain)
    assert calls == ran and (frozen or operators == [JOINED])
    assert [entry.children for entry in alexkern.fusion_report(model).fused][0] == ("0", "1", "2")
    if not frozen:
        leaves = [image, *model.parameters()]
        found, wanted = (torch.autograd.grad(one.square().sum(), leaves) for one in (output, plain))
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(model(image[0]), plain[0])


def test_modules_of_our_own_are_operators_wherever_they_are() -> None:
    report = alexkern.fusion_report(nn.Sequential(alexkern.nn.MaxPool2d(2), alexkern.nn.Dropout(), nn.Dropout()))
    assert [entry.operator for entry in report.entries] == ["max_pool2d", "dropout", ""]


def test_it_names_the_backend_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_dtype(setting: str, operator: str, device: torch.device, dtype: torch.dtype, *_: Any) -> str:
        return "torch" if dtype == torch.float32 or operator == "dropout" else "cuda"

    monkeypatch.setattr(alexkern.dispatch, "serving", by_dtype)
    model = FusedSequential(nn.Dropout(), nn.Linear(3, 3), nn.ReLU(), nn.MaxPool2d(1))
    assert [entry.backend for entry in alexkern.fusion_report(model).fused] == ["torch"] * 3
    assert [entry.backend for entry in alexkern.fusion_report(model.half()).fused] == ["torch", "cuda", "cuda"]


def test_it_is_a_table() -> None:
    lines = str(alexkern.fusion_report(alexkern.fuse(small_alexnet()))).splitlines()
    assert lines[0].split() == ["children", "layers", "operator", "backend", "plain", "because"]
    assert lines[1].split("  ")[0] == "0.0, 0.1, 0.2" and "conv2d_relu_max_pool2d" in lines[1]
    assert lines[-1].split() == ["3.6", "Linear", "-", "no", "ReLU", "behind", "it"]


def test_unfuse_is_the_way_back() -> None:
    class Own(FusedSequential):
        pass

    plain = nn.Sequential(nn.Sequential(Residual(4)), nn.Sequential(nn.ReLU()))
    fused = alexkern.fuse(copy.deepcopy(plain))
    assert alexkern.unfuse(fused) is fused and list(map(type, fused.modules())) == list(map(type, plain.modules()))
    ours = nn.ModuleList([alexkern.nn.MaxPool2d(2), alexkern.nn.Dropout(), alexkern.nn.LocalResponseNorm(3), Own()])
    wanted = [nn.MaxPool2d, nn.Dropout, nn.LocalResponseNorm, Own]
    assert [type(module) for module in alexkern.unfuse(ours)] == wanted
    assert isinstance(ours[0](torch.ones(1, 4, 4)), Tensor)


@pytest.mark.parametrize("function", ["freeze", "fuse", "fusion_report", "unfuse"])
def test_a_model_has_to_be_a_module(function: str) -> None:
    with pytest.raises(TypeError, match=f"alexkern.{function}: model must be a torch.nn.Module, got list"):
        getattr(alexkern, function)([])


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.part = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        return self.part(self.relu(self.conv(image)))


def test_what_reaches_layers_that_a_forward_of_its_own_calls() -> None:
    model = ByHand()
    assert alexkern.fusion_report(model).plain == {"conv": OWN_FORWARD, "part.0": "not in a FusedSequential"}
    alexkern.fuse(model)
    report = alexkern.fusion_report(model)
    assert report.plain == {"conv": OWN_FORWARD} and [entry.operator for entry in report.fused] == ["conv2d_relu"]
    assert str(report).splitlines()[-1] == REACHED
    assert REACHED not in str(alexkern.fusion_report(model.part))


def test_fuse_warns_where_it_finds_nothing() -> None:
    model = ByHand()
    model.part = nn.Conv2d(4, 4, 1)  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="alexkern.fuse: ByHand has no nn.Sequential to fuse. torch.compile") as seen:
        assert alexkern.fuse(model) is model
    assert len(seen) == 1 and seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for silent in (
            ByHand(),
            nn.ReLU(),
            nn.Module(),
            nn.Conv2d(3, 3, 1),
            FusedSequential(),
            alexkern.fuse(ByHand()),
        ):
            alexkern.fuse(silent)


class Mixed(nn.Module):
    """A module's call, a function's, a normalisation, a layer with nothing behind it, one that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.norm, self.relu, self.never = ByHand(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(1, 1, 1)
        self.conv, self.last, self.w = nn.Conv2d(4, 4, 1), nn.Linear(4, 2), nn.Parameter(torch.randn(4, 4))

    def forward(self, image: Tensor) -> Tensor:
        value = self.part(image)
        value = torch.nn.functional.max_pool2d(value + 1 if self.training else value, 2)
        value = self.relu(self.norm(self.conv(value)))
        if self.training:
            torch._dynamo.graph_break()
        value = torch.nn.functional.max_pool2d(value.sigmoid(), 1)
        return self.last(torch.relu(torch.nn.functional.linear(value.amax((2, 3)), self.w)))


def found(model: nn.Module) -> list[tuple[Any, ...]]:
    return [(entry.children, entry.operator) for entry in alexkern.fusion_report(model).fused]


@pytest.mark.usefixtures("fresh_dynamo")
def test_what_graphs_run_at_once() -> None:
    model, image = Mixed(), torch.randn(2, 3, 9, 9)
    ours = torch.compile(model, backend="alexkern")
    plain = alexkern.fusion_report(ours).plain
    assert plain["_orig_mod.conv"] == plain["_orig_mod.part.conv"] == OWN_FORWARD  # it has not been called
    assert REACHED in str(alexkern.fusion_report(ours))
    ours(image)  # in training, as two graphs
    root = "_orig_mod."
    parts = [((f"{root}part.conv", f"{root}part.relu"), "conv2d_relu")]
    parts += [((f"{root}part.part.0", f"{root}part.part.1"), "conv2d_relu")]
    ends = [((f"{root}w",), "linear_relu_dropout"), ((), "max_pool2d")]
    assert found(ours)[:2] == parts and sorted(found(ours), key=str) == sorted([*parts, *ends], key=str)
    model.eval()
    ours(image)
    pooled = (parts[1][0], "conv2d_relu_max_pool2d")  # of the newer graph
    norm = ((f"{root}conv", f"{root}norm", f"{root}relu"), "conv2d_relu")
    assert found(ours) == [parts[0], pooled, norm, *ends[::-1]]
    report = alexkern.fusion_report(ours)
    assert report.plain == {f"{root}never": NO_RUN, f"{root}last": NO_RUN} and REACHED not in str(report)
    assert {entry.backend for entry in report.fused} == {dispatch.resolve_name("conv2d_relu", image)}
    assert found(model) == []  # which is called without its graphs
    model.compile(backend="alexkern")
    assert [children for children, _ in found(model)][:1] == [("part.conv", "part.relu")]


@pytest.mark.usefixtures("fresh_dynamo")
def test_what_the_graphs_of_a_snapshot_run_at_once() -> None:
    model, image = nn.Sequential(Mixed().eval(), nn.Linear(2, 2)), torch.randn(2, 3, 9, 9)
    snapshot = alexkern.freeze(model, image)
    wanted = [
        (("0.part.conv", "0.part.relu"), "conv2d_relu"),
        (("0.part.part.0", "0.part.part.1"), "conv2d_relu_max_pool2d"),
        (("0.conv", "0.norm", "0.relu"), "conv2d_relu"),
        (("0.last",), "linear"),
        (("0.w",), "linear_relu_dropout"),
        ((), "max_pool2d"),
        (("1",), "linear"),
    ]
    assert found(snapshot)[:2] == wanted[:2] and sorted(found(snapshot), key=str) == sorted(wanted, key=str)
    assert alexkern.fusion_report(snapshot).plain == {"0.never": NO_RUN}
    snapshot[0].relu.register_forward_hook(lambda *_: None)  # which its graphs do not call
    report = alexkern.fusion_report(snapshot)
    assert {"0.conv", "0.never", "0.last", "0.part.conv"} <= {entry.children[0] for entry in report.fused}
    alexkern.unfuse(snapshot)
    assert found(snapshot) == [] and type(snapshot[0]) is Mixed
