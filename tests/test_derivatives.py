"""Derivatives of any order and by any transform are plain torch's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import alexkern
from alexkern.backends.torch import philox
from alexkern.models import MODELS
from alexkern.ops.registry import OPERATORS
from support import oracle, routes
from support.backends import DEVICE, serving
from support.cases import Case, small
from support.derivatives import EAGER, KINDS
from support.networks import nested, small_alexnet, vgg
from support.runs import RUNS, name_of, run_of

SMALL = [small(name) for name in OPERATORS]
COMBINATIONS = [
    pytest.param(
        *(case, backend, route, kind),
        id=f"{case.operator}-{backend}-{route}-{kind}",
        marks=() if backend == "torch" or (route, kind) == ("eager", "mixed") else pytest.mark.full,
    )
    for case in SMALL
    for backend in serving(case.operator)
    for kind in (KINDS if backend == "torch" else EAGER)
    for route in (("eager", "dispatcher") if kind in EAGER else ("eager",))
]


def agree(kind: str, ours: object, plain: object, tensors: Sequence[Tensor]) -> None:
    results = [KINDS[kind](function, tensors) for function in (ours, plain)]  # type: ignore[arg-type]
    for index, (mine, wanted) in enumerate(zip(*results, strict=True)):
        tolerance = 1e-5 * max(float(wanted.detach().abs().max()), 1.0)
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=tolerance, msg=lambda text, i=index: f"{i}: {text}")


@pytest.mark.parametrize(("case", "backend", "route", "kind"), COMBINATIONS)
def test_operators(case: Case, backend: str, route: str, kind: str, generator: torch.Generator) -> None:
    tensors: list[Tensor] = case.draw(torch.float32, DEVICE, generator)  # type: ignore[assignment]
    keep = oracle.keep(case, tensors)

    def ours(*tensors: Tensor) -> Tensor:
        torch.manual_seed(0)
        with routes.Transparent() if route == "dispatcher" else nullcontext():
            return case.call(*tensors)

    with alexkern.backend(backend):
        agree(kind, ours, lambda *tensors: oracle.plain(case, list(tensors), keep), tensors)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.operator)
def test_gradgradcheck(case: Case, generator: torch.Generator) -> None:
    leaves = case.draw(torch.float64, torch.device("cpu"), generator)

    def call(*tensors: Tensor) -> Tensor:
        torch.manual_seed(3)
        return case.call(*tensors)

    with alexkern.backend("torch"):
        inputs = [leaf.requires_grad_() for leaf in leaves]  # type: ignore[union-attr]
        assert torch.autograd.gradgradcheck(
            call, inputs, check_batched_grad=True, check_fwd_over_rev=True, fast_mode=True
        )


class Masked(nn.Module):
    """A dropout in plain torch with a given mask."""

    def __init__(self, mask: Tensor, p: float):
        super().__init__()
        self.factor = mask / (1 - p)

    def forward(self, input: Tensor) -> Tensor:
        return input * self.factor


def plain_twin(model: nn.Module, image: Tensor) -> nn.Module:
    """The network without a line of ours; its dropouts have the masks of a first run behind torch.manual_seed(0)."""
    masks: list[Tensor] = []
    keep = philox.keep

    def recording(*args: Any) -> Tensor:
        masks.append(keep(*args))
        return masks[-1]

    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), alexkern.backend("torch"):
        patch.setattr(philox, "keep", recording)
        torch.manual_seed(0)
        model(image)
    twin, drawn = copy.deepcopy(model), iter(masks)
    for module in list(twin.modules()):
        if isinstance(module, nn.Sequential):
            module.__class__ = nn.Sequential
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, Masked(next(drawn), child.p))
    assert next(drawn, None) is None
    return twin


def small_model(name: str) -> nn.Module:
    """A public model with a sixteenth of its channels, hidden layers of 16 and 5 classes."""
    with torch.device("meta"):
        model = MODELS[name](num_classes=5)
    channels = 3
    for layer in [*model.features, *model.classifier]:
        if isinstance(layer, nn.Conv2d):
            layer.in_channels, layer.out_channels = channels, layer.out_channels // 16
            shape: tuple[int, ...] = (layer.out_channels, channels // layer.groups, *layer.kernel_size)
            channels = layer.out_channels
        elif isinstance(layer, nn.Linear):
            width = channels * 36 if layer.in_features == 256 * 36 else 16
            layer.in_features, layer.out_features = width, min(layer.out_features, 16)
            shape = (layer.out_features, width)
        else:
            continue
        layer.weight = nn.Parameter(torch.randn(shape) / math.prod(shape[1:]) ** 0.5)
        layer.bias = nn.Parameter(torch.randn(shape[:1]))
    return model


def networks_agree(kind: str, ours: nn.Module, plain: nn.Module, image: Tensor, parameters: dict[str, Tensor]) -> None:
    """In the image and those of the parameters, which both have by the same names."""

    def calling(network: nn.Module) -> Callable[..., Tensor]:
        def call(image: Tensor, *values: Tensor) -> Tensor:
            torch.manual_seed(0)
            return functional_call(network, dict(zip(parameters, values, strict=True)), (image,))

        return call

    agree(kind, calling(ours), calling(plain), [image, *(one.detach() for one in parameters.values())])


OF_MODELS = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("hessian", "jacobian")])
NETWORKS = {"fused alexnet": small_alexnet, "fused vgg": vgg, "fused nested": nested}
SIZES = {"fused vgg": 32, "fused nested": 13}


@pytest.mark.parametrize(
    "name", ["fused alexnet", "fused nested", pytest.param("fused vgg", marks=pytest.mark.full), *MODELS]
)
@OF_MODELS
def test_models(name: str, kind: str) -> None:
    """In training."""
    torch.manual_seed(7)
    model = alexkern.fuse(NETWORKS[name]()) if name in NETWORKS else small_model(name)
    size = SIZES.get(name, 63)
    image = torch.randn(1, 3, size, size)
    networks_agree(kind, model, plain_twin(model, image), image, dict(model.named_parameters()))


def normed() -> nn.Sequential:
    """Normalisations that a snapshot folds, with statistics and weights of their own."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(8, 4, 3),
                          nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 3 * 3, 5))  # fmt: skip
    model(torch.randn(4, 3, 13, 13))
    return model


SNAPSHOTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name_of(layers): (partial(run_of, layers), one.example.shapes[0]) for one, layers in RUNS},
    "normed": (normed, (1, 3, 13, 13)),
    **{name: (partial(small_model, name), (1, 3, 63, 63)) for name in MODELS},
}


@pytest.mark.parametrize("name", SNAPSHOTS)
@OF_MODELS
def test_snapshots(name: str, kind: str) -> None:
    """In eval mode, where nothing is dropped."""
    torch.manual_seed(7)
    build, shape = SNAPSHOTS[name]
    model, image = build().eval(), torch.randn(shape)
    snapshot = alexkern.freeze(model)
    torch.testing.assert_close(snapshot(image), model(image), rtol=1e-4, atol=1e-5)  # by packed weights
    networks_agree(kind, snapshot, alexkern.unfuse(model), image, dict(model.named_parameters()))
