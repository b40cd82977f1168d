"""What has two sides is given two numbers, and what has a flag both values: through every way that reads a module."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import alexkern
from alexkern.accuracy import assert_accurate
from alexkern.nn import FusedSequential
from support.backends import DEVICE, serving


def compiled(plain: nn.Sequential) -> nn.Module:
    torch._dynamo.reset()  # of one forward's code it compiles eight versions at most
    return torch.compile(plain, backend="alexkern", fullgraph=True)


Ways = dict[str, Callable[[nn.Sequential], nn.Module]]
WAYS: Ways = {
    "fused": lambda plain: FusedSequential(*plain),
    "frozen": alexkern.freeze,
    "compiled": compiled,
}
# The convolution's settings and the window's, each pair with two numbers, none of which is another's.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "kernel": ({"kernel_size": (3, 5)}, {"kernel_size": (2, 3)}),
    "stride": ({"kernel_size": 3, "stride": (1, 2)}, {"kernel_size": 3, "stride": (2, 1)}),
    "padding": ({"kernel_size": 3, "padding": (1, 2)}, {"kernel_size": 3, "stride": 2, "padding": (1, 0)}),
    "padding 2, 0": ({"kernel_size": 3, "padding": (2, 0)}, {"kernel_size": 4, "padding": (1, 2)}),
    "dilation": ({"kernel_size": 3, "padding": 2, "dilation": (2, 1)}, {"kernel_size": 2, "dilation": (1, 2)}),
    "same": ({"kernel_size": (5, 3), "padding": "same", "dilation": (1, 2)}, {"kernel_size": 3, "stride": 2}),
    "same, even": ({"kernel_size": (4, 3), "padding": "same"}, {"kernel_size": 2}),
    "ceil": ({"kernel_size": (1, 2)}, {"kernel_size": 3, "stride": (2, 3), "padding": (0, 1), "ceil_mode": True}),
    "first layer": (
        {"kernel_size": (11, 7), "stride": 4, "padding": (2, 1)},
        {"kernel_size": (3, 2), "stride": (2, 1)},
    ),
    "all": (
        {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 1), "dilation": (2, 3), "groups": 3},
        {"kernel_size": (2, 3), "stride": (3, 1), "padding": (1, 0)},
    ),
}


def assert_as_torch(plain: nn.Sequential, way: str, backend: str, *shape: int) -> None:
    torch.manual_seed(7)
    plain, input = plain.eval().to(DEVICE), torch.randn(shape, device=DEVICE)
    with torch.no_grad():
        torchs, wanted = plain(input), plain.double()(input.double())
        with alexkern.backend(backend):
            assert_accurate(WAYS[way](plain.float())(input), wanted, torchs, f"{way} on {backend}")


# What the compile backend reads of a call does not depend on who serves it.
BACKENDS = serving("conv2d_relu")
SERVED = [(way, name) for way in WAYS for name in BACKENDS if way != "compiled" or name in ("torch", "cpu")]


@pytest.mark.parametrize(("way", "backend"), SERVED)
@pytest.mark.parametrize("name", PAIRS)
def test_both_sides(name: str, way: str, backend: str) -> None:
    convolution, pool = PAIRS[name]
    torch.manual_seed(3)
    run = [nn.Conv2d(3, 6, **convolution), nn.ReLU(), nn.MaxPool2d(**pool)]
    images = (2, 3, 23, 18) if name == "first layer" else (2, 3, 12, 11)
    assert_as_torch(nn.Sequential(*run), way, backend, *images)
    if backend in ("torch", "cpu"):  # elsewhere the operators' own cases have these
        assert_as_torch(nn.Sequential(*run[:2]), way, backend, *images)
        assert_as_torch(nn.Sequential(run[2]), way, backend, *images)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("modes", [*itertools.product((False, True), repeat=3)], ids=str)
def test_dropout_asks_its_own_flag(modes: tuple[bool, bool, bool], way: str) -> None:
    """Of a Linear, a ReLU and a Dropout the last alone says whether anything is dropped: as in Monte-Carlo dropout.

    A snapshot is for inference, whatever they say.
    """
    model = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Dropout(0.5))
    nn.init.zeros_(model[0].weight)
    nn.init.ones_(model[0].bias)
    for layer, training in zip(model, modes, strict=True):
        layer.train(training)
    output = WAYS[way](model)(torch.randn(4, 5))
    dropped = (output == 0).sum().item()
    assert 64 < dropped < 192 if modes[2] and way != "frozen" else dropped == 0
