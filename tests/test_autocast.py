"""Autocast: every operator runs in the dtype that torch's own modules would, and gradients come back in the leaf's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alexkern
from alexkern import functional as A
from support.backends import DEVICE
from support.networks import small_alexnet

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@pytest.fixture
def tensors(generator: torch.Generator) -> dict[str, Tensor]:
    shapes = {"image": (2, 4, 9, 9), "weight": (6, 4, 3, 3), "bias": (6,), "rows": (5, 12), "matrix": (7, 12)}
    return {name: torch.randn(shape, generator=generator).to(DEVICE).requires_grad_() for name, shape in shapes.items()}


@HALVES
def test_dtypes_are_torchs(dtype: torch.dtype, tensors: dict[str, Tensor]) -> None:
    image, weight, bias, rows, matrix = tensors.values()
    wide = image.double(), weight.double()
    with torch.autocast(DEVICE.type, dtype=dtype):
        pairs = {
            "conv2d_relu": (A.conv2d_relu(image, weight, bias), F.relu(F.conv2d(image, weight, bias))),
            "conv2d_relu_max_pool2d": (
                A.conv2d_relu_max_pool2d(image, weight, bias),
                F.max_pool2d(F.relu(F.conv2d(image, weight, bias)), 3, 2),
            ),
            "linear": (A.linear_relu_dropout(rows, matrix, None, 0.0), F.relu(F.linear(rows, matrix))),
            "max_pool2d": (A.max_pool2d(image, 3, 2), F.max_pool2d(image, 3, 2)),
            "max_pool2d of half": (A.max_pool2d(image.to(dtype), 3, 2), F.max_pool2d(image.to(dtype), 3, 2)),
            "dropout of half": (A.dropout(image.to(dtype), 0.5), F.dropout(image.to(dtype), 0.5)),
            "float64": (A.conv2d_relu(*wide), F.relu(F.conv2d(*wide))),
        }
        norm = alexkern.nn.LocalResponseNorm(3)(image.to(dtype))
    for name, (ours, torchs) in pairs.items():
        assert ours.dtype == torchs.dtype, name
        if "dropout" not in name:
            torch.testing.assert_close(ours, torchs, rtol=1e-2, atol=1e-2)
    assert norm.dtype == torch.float32
    torch.testing.assert_close(norm, nn.LocalResponseNorm(3)(image.to(dtype).float()))


@HALVES
def test_gradients_come_back_in_the_leafs_dtype(dtype: torch.dtype, tensors: dict[str, Tensor]) -> None:
    image, weight, bias, _, _ = tensors.values()
    results = []
    for function in (A.conv2d_relu, lambda *args: F.relu(F.conv2d(*args))):
        with torch.autocast(DEVICE.type, dtype=dtype):
            output = function(image, weight, bias)
        results.append(torch.autograd.grad(output.float().square().sum(), (image, weight, bias)))
    for ours, torchs in zip(*results, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, torchs, rtol=2e-2, atol=2e-2 * torchs.abs().max().item())


@HALVES
def test_a_fused_network_under_autocast(dtype: torch.dtype, generator: torch.Generator) -> None:
    torch.manual_seed(2)
    features: nn.Sequential = small_alexnet()[0].to(DEVICE)
    del features[5]  # torch's own local response norm has no half precision on a CPU
    image = torch.randn(2, 3, 63, 63, generator=generator).to(DEVICE)
    outputs = []
    for fused in (False, True):
        if fused:
            alexkern.fuse(features)
        with torch.autocast(DEVICE.type, dtype=dtype):
            outputs.append(features(image))
    assert outputs[0].dtype == outputs[1].dtype == dtype
    torch.testing.assert_close(outputs[1], outputs[0], rtol=2e-2, atol=2e-2)
