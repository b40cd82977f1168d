"""A layer joins a run only where Python would call torch's own forward on it, with nobody to see: by every run."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

import alexkern
from alexkern.nn import FusedSequential, is_bare
from alexkern.ops import flops
from alexkern.ops.operator import Operator
from alexkern.ops.registry import OPERATORS
from support import oracle
from support.backends import DEVICE
from support.cases import SUITES, Case
from support.networks import small_alexnet
from support.routes import Transparent
from support.runs import RUNS, Layers, name_of, run_of


def function_of(kind: type[nn.Module]) -> str:
    """The function of torch.nn.functional that a layer is."""
    lowered = kind.__name__.lower()
    (name,) = (name for name in vars(F) if name == name.strip("_") and name.replace("_", "") == lowered)
    return name


def every(runs: list[tuple[Operator, Layers]]) -> pytest.MarkDecorator:
    ids = [name_of(layers) for _, layers in runs]
    return pytest.mark.parametrize(("operator", "layers"), runs, ids=ids)


EVERY_RUN = every(RUNS)
MEMBERS = [(operator, layers, index) for operator, layers in RUNS for index in range(len(layers))]
EVERY_MEMBER = pytest.mark.parametrize(
    ("operator", "layers", "index"),
    MEMBERS,
    ids=[f"{name_of(layers)}-{index}" for _, layers, index in MEMBERS],
)


def plainly(model: nn.Module, input: Tensor) -> Tensor:
    return nn.Sequential.forward(model, input)  # type: ignore[arg-type]


def example(operator: Operator) -> Tensor:
    return torch.randn(operator.example.shapes[0])


def watch(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[str]:
    """The owner's function, and a name in the list for each of its calls."""
    seen, original = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: (seen.append(name), original(*args, **kwargs))[1])
    return seen


# What stands in a module's way: whose function, and its name.
PATCHES: dict[str, Callable[[nn.Module], tuple[Any, str]]] = {
    "instance_forward": lambda module: (module, "forward"),
    "instance_call_impl": lambda module: (module, "_call_impl"),
    "class_forward": lambda module: (type(module), "forward"),
    "class_call": lambda module: (type(module), "__call__"),
    "every_call": lambda module: (nn.Module, "_call_impl"),
    "function": lambda module: (F, function_of(type(module))),
}


@pytest.mark.parametrize("patch", PATCHES)
@EVERY_MEMBER
def test_whoever_stands_in_the_way_is_called(
    operator: Operator,
    layers: Layers,
    index: int,
    patch: str,
    operators: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, input = run_of(layers), example(operator)
    wanted = plainly(model, input)
    with monkeypatch.context() as inside:
        seen = watch(inside, *PATCHES[patch](model[index]))
        torch.testing.assert_close(model(input), wanted)
    assert seen and operators.count(operator.name) == (layers[:index] in operator.layers and patch != "every_call")
    operators.clear()
    torch.testing.assert_close(model(input), wanted)
    assert operators == [operator.name]


@pytest.mark.parametrize("whose", ["instance", "class"])
def test_conv_forward_too(whose: str, operators: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = FusedSequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    seen = watch(monkeypatch, model[0] if whose == "instance" else nn.Conv2d, "_conv_forward")
    model(torch.randn(1, 3, 5, 5))
    assert seen == ["_conv_forward"] and operators == []


@EVERY_MEMBER
def test_a_forward_put_back_by_its_class_is_none_of_its_own(
    operator: Operator, layers: Layers, index: int, operators: list[str]
) -> None:
    model, input = run_of(layers), example(operator)
    for name in ("forward", "_call_impl"):
        setattr(model[index], name, getattr(model[index], name))
    for twin in (model, copy.deepcopy(model)):
        assert "forward" in vars(twin[index])
        twin(input)
    assert operators == [operator.name] * 2
    other = run_of(layers)[index]
    model[index].forward = MethodType(type(other).forward, other)  # type: ignore[method-assign]
    assert not is_bare(model[index])


class Watched(Tensor):
    """A tensor with a behaviour of its own."""

    seen: list[str] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(getattr(func, "__name__", ""))
        return super().__torch_function__(func, types, args, kwargs or {})


class Quiet(Tensor):
    """One that only torch's dispatcher shows to its class, as DTensor and torchao's are."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: type, inner: Tensor) -> Any:
        made = Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Quiet, lambda one: one.inner, (args, kwargs or {}))
        return tree_map_only(Tensor, Quiet, func(*args, **kwargs))


def watched(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Watched)


def change(module: Any, name: str, to: Callable[[Tensor], Tensor]) -> None:
    setattr(module, name, nn.Parameter(to(getattr(module, name).detach())))


def own_weight(module: Any) -> None:
    weight = module.weight.detach()
    del module.weight
    module.weight = weight


WITH_WEIGHT = [(operator, layers) for operator, layers in RUNS if operator.multiplies]
REPARAMETRISED: dict[str, Callable[[Any], Any]] = {
    "subclass": lambda module: change(module, "weight", watched),
    "quiet_subclass": lambda module: change(module, "weight", Quiet),
    "bias_subclass": lambda module: change(module, "bias", watched),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old_weight_norm": nn.utils.weight_norm,
    "old_spectral_norm": nn.utils.spectral_norm,
    "pruning": lambda module: prune.random_unstructured(module, "weight", amount=0.5),
    "no_parameter": own_weight,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", REPARAMETRISED)
@every(WITH_WEIGHT)
def test_a_weight_that_is_made_otherwise(how: str, operator: Operator, layers: Layers, operators: list[str]) -> None:
    model, input = run_of(layers), example(operator)
    REPARAMETRISED[how](model[0])
    model.eval()
    output = model(input)
    assert operator.name not in operators
    torch.testing.assert_close(plain_tensor(output), plain_tensor(plainly(model, input)))


def plain_tensor(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, Quiet) else tensor.as_subclass(Tensor)


def test_settings_count_as_they_are_at_the_call(operators: list[str]) -> None:
    image = torch.randn(2, 4, 9, 8)

    def changed(conv: Any, pool: Any, **settings: Any) -> None:
        for name, value in settings.items():
            setattr(pool if name.startswith("pool_") else conv, name.removeprefix("pool_"), value)

    for settings in (
        {"stride": 2},
        {"stride": (2, 1)},
        {"padding": 2},
        {"padding": (0, 2)},
        {"padding": "same"},
        {"dilation": 2, "padding": (1, 0)},
        {"in_channels": 7, "out_channels": 5, "kernel_size": (1, 1)},
        {"pool_stride": None, "pool_kernel_size": (2, 3)},
        {"pool_stride": (1, 2), "pool_padding": 1},
    ):
        model = FusedSequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2))
        changed(model[0], model[2], **settings)
        operators.clear()
        torch.testing.assert_close(model(image), plainly(model, image))
        assert operators == ["conv2d_relu_max_pool2d"]
    model[0].padding_mode = "circular"
    torch.testing.assert_close(model(image), plainly(model, image))
    assert operators == ["conv2d_relu_max_pool2d", "max_pool2d"]


@pytest.mark.parametrize("linear_trains", [True, False])
@pytest.mark.parametrize("dropout_trains", [True, False])
def test_dropout_goes_by_its_own_mode(linear_trains: bool, dropout_trains: bool) -> None:
    model = FusedSequential(nn.Linear(6, 300), nn.ReLU(), nn.Dropout()).train(linear_trains)
    model[2].train(dropout_trains)
    nn.init.constant_(model[0].bias, 100.0)
    assert bool((model(torch.randn(4, 6)) == 0).any()) == dropout_trains


class Foreign(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("cpu")
    try:
        yield
    finally:
        torch.set_default_device(None)


@EVERY_RUN
def test_who_watches_sees_the_children_and_a_device_does_not_watch(
    operator: Operator, layers: Layers, operators: list[str]
) -> None:
    model, input = run_of(layers), example(operator)
    for device in (lambda: torch.device("cpu"), default_device):
        with device():
            wanted = model(input)
            assert operators == [operator.name]
            with Foreign() as foreign:
                torch.testing.assert_close(model(input), wanted)
        functions = list(map(function_of, layers))
        assert [name for name in foreign.seen if name in functions] == functions
        with Transparent():
            torch.testing.assert_close(model(input), wanted)
        assert operators == [operator.name]
        operators.clear()


@pytest.mark.parametrize("wrap", [watched, Quiet])
@EVERY_RUN
def test_a_subclass_goes_through_the_children(
    operator: Operator, layers: Layers, wrap: Callable[[Tensor], Tensor], operators: list[str]
) -> None:
    model, input = run_of(layers), example(operator)
    output = model(wrap(input))
    assert type(output) is not Tensor and operators == []
    torch.testing.assert_close(plain_tensor(output), plainly(model, input))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_inputs_that_are_no_plain_floating_tensors(operators: list[str]) -> None:
    pool = FusedSequential(nn.MaxPool2d(2))
    integers = torch.arange(64).view(1, 1, 8, 8)
    assert torch.equal(pool(integers), F.max_pool2d(integers, 2))
    quantised = torch.quantize_per_tensor(torch.randn(1, 2, 8, 8), 0.1, 3, torch.quint8)
    assert torch.equal(pool(quantised).int_repr(), F.max_pool2d(quantised, 2).int_repr())
    linear = FusedSequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(RuntimeError, match="dtype"):
        linear(torch.ones(2, 4, dtype=torch.int64))
    nested = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)])
    assert [tuple(part.shape) for part in linear(nested).unbind()] == [(2, 4), (3, 4)]
    assert operators == []

    class Quantise(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return torch.quantize_per_tensor(input, 0.1, 3, torch.quint8)

    inside = FusedSequential(nn.Conv2d(2, 2, 3), nn.ReLU(), Quantise(), nn.MaxPool2d(2))
    assert inside(torch.randn(1, 2, 8, 8)).is_quantized and operators == ["conv2d_relu"]


@pytest.mark.parametrize(
    "case", [case for suite in SUITES.values() for case in suite.cases if case.label in suite.layouts], ids=str
)
def test_a_flop_counter_counts_what_it_counts_of_torch(case: Case, generator: torch.Generator) -> None:
    tensors = case.draw(torch.float32, DEVICE, generator)
    keep = oracle.keep(case, tensors) if "dropout" in case.operator else None

    def counted(call: Callable[..., Tensor]) -> int:
        leaves = [None if tensor is None else tensor.clone().requires_grad_() for tensor in tensors]
        with FlopCounterMode(display=False) as counter:
            call(*leaves).sum().backward()
        return counter.get_total_flops()

    flops = counted(case.call)
    assert flops == counted(lambda *leaves: oracle.plain(case, list(leaves), keep))
    assert (flops > 0) == OPERATORS[case.operator].multiplies


def test_a_flop_counter_counts_a_fused_network_as_torchs() -> None:
    fused = alexkern.fuse(small_alexnet())
    image = torch.randn(2, 3, 63, 63)
    counts = []
    for model in (alexkern.unfuse(copy.deepcopy(fused)), fused):
        with FlopCounterMode(display=False) as counter:
            model(image).sum().backward()
        counts.append(counter.get_flop_counts()["Global"])
    assert counts[0] == counts[1] and len(counts[0]) == 4


def test_a_counter_imported_later_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = flops._Waiting(OPERATORS)
    monkeypatch.setattr(torch.utils, "flop_counter", torch.utils.flop_counter)
    monkeypatch.delitem(sys.modules, flops.COUNTER)
    monkeypatch.setattr(sys, "meta_path", [waiting, *sys.meta_path])
    counter = importlib.import_module(flops.COUNTER)
    assert counter.FlopCounterMode is not FlopCounterMode and waiting not in sys.meta_path
    for name in OPERATORS:
        for packet in (name, f"{name}_backward"):
            assert getattr(torch.ops.alexkern, packet) in counter.flop_registry
