"""The orders of layers that people write, and how they write a forward: fused, frozen and plain are one network."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alexkern
from alexkern.ops.registry import OPERATORS
from support.backends import DEVICE
from support.drawn_networks import Drawn

CONV, NORM, POOL = lambda: nn.Conv2d(6, 8, 3, padding=1), lambda: nn.BatchNorm2d(8), lambda: nn.MaxPool2d(3, 2)
RELU, LRN, LINEAR = lambda: nn.ReLU(True), lambda: nn.LocalResponseNorm(3, 5e-2), lambda: nn.Linear(6, 8)
JOINED, LONE = "conv2d_relu_max_pool2d", "max_pool2d"
(NORMALISED,) = (name for name, operator in OPERATORS.items() if (nn.LocalResponseNorm,) in operator.layers)
# What is written, what a fused network runs of it in training and in evaluation, and of how many layers each step of a
# snapshot is made.
ORDERS: dict[str, tuple[list[Any], list[str], list[int]]] = {
    "conv, ReLU, pool": ([CONV, RELU, POOL], [JOINED], [3]),
    "conv, pool, ReLU": ([CONV, POOL, RELU], [JOINED], [3]),
    "conv, BN, ReLU, pool": ([CONV, NORM, RELU, POOL], [LONE], [4]),
    "conv, BN, pool, ReLU": ([CONV, NORM, POOL, RELU], [LONE], [4]),
    "conv, ReLU, BN, pool": ([CONV, RELU, NORM, POOL], ["conv2d_relu", LONE], [2, 1, 1]),
    "conv, ReLU, LRN, pool": ([CONV, RELU, LRN, POOL], ["conv2d_relu", NORMALISED, LONE], [2, 1, 1]),
    "dropout, linear, ReLU": ([lambda: nn.Dropout(0.0), LINEAR, RELU], ["dropout", "linear_relu_dropout"], [1, 2]),
    "linear, BN, ReLU": ([LINEAR, lambda: nn.BatchNorm1d(8), RELU], [], [3]),
    "linear, ReLU, BN": ([LINEAR, RELU, lambda: nn.BatchNorm1d(8)], ["linear_relu_dropout"], [2, 1]),
}


def written(order: str) -> nn.Sequential:
    """With statistics as of a trained one."""
    torch.manual_seed(4)
    model = nn.Sequential(*(make() for make in ORDERS[order][0]))
    for module in model:
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.2, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.to(DEVICE)


def batch(order: str, generator: torch.Generator) -> Tensor:
    shape = (4, 6, 9, 11) if "conv" in order else (5, 6)
    return torch.randn(shape, generator=generator).to(DEVICE)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("order", ORDERS)
def test_fused_is_plain(order: str, training: bool, generator: torch.Generator, operators: list[str]) -> None:
    """Values, gradients and running statistics, against torch in float64."""
    fused = alexkern.fuse(written(order)).train(training)
    plain = written(order).double().train(training)
    image = batch(order, generator)
    results = []
    for model, leaf in ((plain, image.double()), (fused, image.clone())):
        output = model(leaf.requires_grad_())
        weights = torch.linspace(-1, 2, output.numel(), device=DEVICE, dtype=leaf.dtype).view(output.shape)
        (output * weights).sum().backward()
        gradients = [leaf.grad, *(parameter.grad for parameter in model.parameters())]
        results.append([output, *gradients, *(buffer for _, buffer in model.named_buffers())])
    for wanted, found in zip(*results, strict=True):
        assert wanted is not None and found is not None
        torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-4, atol=1e-4)
    assert operators == ORDERS[order][1]
    assert results[0][0].stride() == results[1][0].stride()


@pytest.mark.parametrize("order", ORDERS)
def test_frozen_is_plain(order: str, generator: torch.Generator) -> None:
    frozen, plain = alexkern.freeze(written(order)), written(order).double().eval()
    image = batch(order, generator)
    with torch.no_grad():
        wanted = plain(image.double())
        torch.testing.assert_close(frozen(image).double(), wanted, rtol=1e-5, atol=1e-5)
    assert [len(step.modules) for step in frozen._current().steps] == ORDERS[order][2]
    assert frozen(image).stride() == wanted.stride()


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2, dilation=2)])
def test_a_pooling_in_front_of_the_relu_is_the_one_behind_it(pool: nn.MaxPool2d, operators: list[str]) -> None:
    """NaN, ties, windows without a positive value, and windows that reach beyond the edge."""
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), pool, nn.ReLU())
    nn.init.dirac_(plain[0].weight)
    fused = alexkern.fuse(copy.deepcopy(plain))
    image = torch.randint(-3, 2, (2, 3, 7, 9)).float()
    image[0, 0, 2, 2], image[1, 1, 5, 5] = float("nan"), float("inf")
    results = []
    for model in (plain, fused):
        leaf = image.clone().requires_grad_()
        output = model(leaf)
        (output.nan_to_num(1.0, 1.0) * torch.arange(output.numel()).view(output.shape)).sum().backward()
        results.append((output, leaf.grad))
    torch.testing.assert_close(*results, equal_nan=True, rtol=0, atol=0)
    assert operators == [JOINED if pool.dilation == 1 else LONE]


class Forward(nn.Module):
    """Sequentials in a forward of one's own, with all that may stand between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.scale, self.relu = nn.Parameter(torch.tensor(0.5)), nn.ReLU(inplace=True)
        self.heads = nn.ModuleList([nn.Sequential(nn.Linear(8 * 5 * 6, 7), nn.ReLU()) for _ in range(2)])

    def forward(self, image: Tensor, both: bool = False, drop: float | None = None) -> Any:
        stem = self.stem(image)
        value = self.relu(self.body(stem) - stem)  # of which two read the result
        value = value + F.conv2d(value, self.body[0].weight * self.scale, padding=1).sigmoid() * value
        rows = value.view(value.size(0), -1)  # needs NCHW
        if drop is not None:
            rows = F.dropout(rows, drop)  # in evaluation too
        first = self.heads[0](rows)
        return (first, self.heads[1](rows), stem) if both else first


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", ["fused", "frozen"])
def test_a_forward_of_ones_own(kind: str, both: bool, generator: torch.Generator) -> None:
    torch.manual_seed(6)
    model = Forward().eval()
    other = alexkern.fuse(copy.deepcopy(model)) if kind == "fused" else alexkern.freeze(model)
    image = torch.randn(3, 3, 10, 12, generator=generator)
    leaves = [image.clone().requires_grad_(kind == "fused") for _ in range(2)]
    plain, ours = (one(leaf, both=both) for one, leaf in zip((model, other), leaves, strict=True))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    if both:
        assert [value.stride() for value in ours] == [value.stride() for value in plain]
    if kind == "fused":
        for value in (plain, ours):
            sum(part.square().sum() for part in (value if both else (value,))).backward()
        pairs = zip((leaves[0], *model.parameters()), (leaves[1], *other.parameters()), strict=True)
        for one, two in pairs:
            assert (one.grad is None) == (two.grad is None)
            if one.grad is not None:
                torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-4)


def test_a_dropout_that_nobody_switches_off_stays_on(generator: torch.Generator) -> None:
    torch.manual_seed(6)
    model = Forward().eval()
    image, results = torch.randn(3, 3, 10, 12, generator=generator), []
    with torch.no_grad():
        for network in (model, alexkern.fuse(copy.deepcopy(model)), alexkern.freeze(model)):
            torch.manual_seed(8)
            results.append(network(image, drop=0.5))
            assert not torch.allclose(network(image, drop=0.5), results[-1])
    for found in results[1:]:
        torch.testing.assert_close(found, results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_drawn_networks_frozen(seed: int) -> None:
    model = Drawn(seed).eval()
    frozen, image = alexkern.freeze(model), model.image()
    with torch.no_grad():
        for found, wanted in zip(frozen(image), copy.deepcopy(model).double()(image.double()), strict=True):
            scale = float(wanted.abs().max()) + 1e-3
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5 * scale, msg=lambda text: (
                f"{model.written}: {text}"))  # fmt: skip
            assert found.is_contiguous() == wanted.is_contiguous()


@pytest.mark.parametrize("case", [(1, 16, 3), (1, 16, 64), (8, 16, 3), (8, 4, 64), (64, 4, 64)], ids=str)
@pytest.mark.parametrize("pools", [False, True])
def test_images_lie_as_their_size_wants_it(
    pools: bool, case: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU a format of torch's own choice where filters weigh more than images; results lie as torch's do."""
    N, size, C = case
    layers = [nn.Conv2d(C, 8, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if pools else [])]
    model = alexkern.fuse(nn.Sequential(*layers, nn.Conv2d(8, 8, 1), nn.ReLU()))
    seen: list[bool] = []
    for operator in OPERATORS.values():
        function = operator.function
        monkeypatch.setattr(operator, "function", lambda input, *args, function=function, **settings: (
            seen.append(input.is_contiguous()), function(input, *args, **settings))[1])  # fmt: skip
    image = torch.randn(N, C, size, size)
    output = model(image)
    assert seen == [not (pools and N > 1 and 2 * N * size**2 >= C * 9), True]
    assert output.is_contiguous()
    seen.clear()
    assert not model(image.contiguous(memory_format=torch.channels_last)).is_contiguous() and seen == [False, False]
    seen.clear()
    assert not model.to(memory_format=torch.channels_last)(image).is_contiguous() and seen == [False, False]
