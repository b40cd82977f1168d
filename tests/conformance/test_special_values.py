"""NaN, infinities, signed zeros, ties and windows of -inf: torch's results to the letter, on every backend."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import alexkern
from alexkern import dispatch, functional
from alexkern.accuracy import assert_same
from alexkern.geometry import CLIPPED
from alexkern.ops.registry import OPERATORS
from support import oracle
from support.backends import DEVICE, combination, serving
from support.cases import Case, channels_last, leaves_of

NAN, INF = math.nan, math.inf
POOL_BACKENDS = serving("max_pool2d")
CONVOLUTION_BACKENDS = serving("conv2d_relu")


def specials(shape: tuple[int, ...], generator: torch.Generator, values: list[float]) -> Tensor:
    """Each entry one of `values`, by chance."""
    table = torch.tensor(values)
    return table[torch.randint(len(values), shape, generator=generator)].to(DEVICE)


def assert_as_torch(backend: str, operator: str, tensors: list[Tensor], grads: list[float], **arguments: Any) -> Tensor:
    """Output and gradients, where each number of the gradient that comes in is one of `grads`; the output."""
    case = Case(operator, "special values", (), arguments)
    leaves, others = leaves_of(tensors), leaves_of(tensor.contiguous() for tensor in tensors)
    with alexkern.backend(backend):
        output = case.call(*leaves)
    wanted = oracle.plain(case, others, None)
    assert_same(output.detach(), wanted.detach(), "output")
    grad = specials(tuple(output.shape), torch.Generator().manual_seed(7), grads)
    found = (torch.autograd.grad(of, asked, grad) for of, asked in ((output, leaves), (wanted, others)))
    for ours, torchs, name in zip(*found, ("input", "weight", "bias")[: len(tensors)], strict=True):
        # + 0.0: the sign of a zero gradient is nobody's business
        assert_same(ours + 0.0, torchs + 0.0, f"gradient of {name}")
    return output.detach()


POWERS = [2.0**power for power in range(-3, 4)]  # gradients that are sums of these are exact in any order
POOL_VALUES = {
    "ties": [0.0, 1.0],
    "signed_zeros": [0.0, -0.0],
    "nan": [NAN, 1.0, 2.0],
    "infinities": [INF, -INF, 0.0],
    "everything": [NAN, INF, -INF, 0.0, -0.0, 1.0],
    "all_minus_infinity": [-INF],
    "all_nan": [NAN],
}


@pytest.mark.parametrize("values", POOL_VALUES.values(), ids=POOL_VALUES.keys())
@pytest.mark.parametrize("window", [(3, 2, 0), (3, 2, 1), (2, 2, 0), ((2, 3), (1, 2), (1, 1))], ids=str)
@pytest.mark.parametrize("backend", POOL_BACKENDS)
def test_max_pool2d(backend: str, window: tuple, values: list[float], generator: torch.Generator) -> None:
    input, (size, stride, padding) = specials((2, 5, 9, 8), generator, values), window
    for image in (input, channels_last(input)):
        assert_as_torch(backend, "max_pool2d", [image], POWERS, kernel_size=size, stride=stride, padding=padding)


@pytest.mark.parametrize("backend", POOL_BACKENDS)
def test_max_pool2d_of_windows_without_a_pixel(backend: str, generator: torch.Generator) -> None:
    """A dilated window may step over a small image. It is -inf, as in torch, and its gradient goes nowhere: torch
    writes it beside the image."""
    for size, *window in (
        ((1, 1), 2, 1, 1, 2),
        ((1, 6), (2, 3), 1, (1, 1), (2, 1)),
        ((7, 2), (3, 2), (2, 1), 1, (2, 3)),
        ((2, 5), 2, 2, 1, (4, 1), True),
    ):
        input = torch.randn(2, 9, *size, generator=generator).to(DEVICE)
        for (leaf,) in (leaves_of([input]), leaves_of([channels_last(input)])):
            with alexkern.backend(backend):
                output = functional.max_pool2d(leaf, *window)
            assert output.numel() > 0 and output.isneginf().all()
            assert_same(output.detach(), F.max_pool2d(input, *window), "output")
            output.backward(torch.ones_like(output))
            assert leaf.grad is not None
            assert_same(leaf.grad, torch.zeros_like(input), "gradient")


RELU_VALUES = {
    "nan": [NAN, 1.0, -1.0],
    "infinities": [INF, -INF, 1.0],
    "signed_zeros": [0.0, -0.0, 1.0, -1.0],
}


@pytest.mark.parametrize("values", RELU_VALUES.values(), ids=RELU_VALUES.keys())
@pytest.mark.parametrize("backend", CONVOLUTION_BACKENDS)
def test_relu_after_convolution(backend: str, values: list[float], generator: torch.Generator) -> None:
    """A 1x1 convolution with filter 1 hands its input to the ReLU: what comes out is ReLU's, bit by bit."""
    input = specials((2, 1, 5, 4), generator, values)
    weight = torch.ones(1, 1, 1, 1, device=DEVICE)
    assert_as_torch(backend, "conv2d_relu", [input, weight], [1.0, 0.5, -2.0])


@pytest.mark.parametrize("backend", CONVOLUTION_BACKENDS)
def test_nan_gradient_stops_at_the_mask(backend: str) -> None:
    """Where the output is <= 0 the gradient is 0 even if a NaN comes in; where the output is NaN it passes."""
    input = torch.tensor([-1.0, 2.0, NAN, 0.0], device=DEVICE).view(1, 1, 1, 4)
    weight = torch.ones(1, 1, 1, 1, device=DEVICE)
    grad = torch.tensor([NAN, 3.0, 5.0, NAN], device=DEVICE).view(1, 1, 1, 4)
    leaf = input.clone().requires_grad_()
    with alexkern.backend(backend):
        functional.conv2d_relu(leaf, weight).backward(grad)
    assert leaf.grad is not None
    assert leaf.grad.flatten().tolist() == [0.0, 3.0, 5.0, 0.0]


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("backend", CONVOLUTION_BACKENDS)
def test_nothing_beyond_a_window_counts(backend: str, pooled: bool, generator: torch.Generator) -> None:
    """AlexNet's first layer: 11 is no multiple of the stride, 4. Sums of small whole numbers are exact in any order."""
    input = torch.randint(-2, 3, (1, 3, 39, 35), generator=generator).float()
    for place, value in zip(torch.randint(input.numel(), (6,), generator=generator), [NAN, INF, -INF] * 2, strict=True):
        input.view(-1)[place] = value
    weight = torch.randint(-1, 2, (5, 3, 11, 11), generator=generator).float().to(DEVICE)
    tensors = [input.to(DEVICE), weight, torch.randint(-9, 10, (5,), generator=generator).float().to(DEVICE)]
    operator = "conv2d_relu_max_pool2d" if pooled else "conv2d_relu"
    output = assert_as_torch(backend, operator, tensors, [-2.0, -1.0, 0.0, 1.0, 2.0], stride=4, padding=2)
    assert output.isnan().any() and output.isinf().any() and output.isfinite().any()


@pytest.mark.parametrize("values", POOL_VALUES.values(), ids=POOL_VALUES.keys())
@pytest.mark.parametrize("backend", serving("conv2d_relu_max_pool2d"))
def test_convolution_relu_and_pool(backend: str, values: list[float], generator: torch.Generator) -> None:
    input = specials((2, 1, 9, 7), generator, values)
    weight = torch.ones(1, 1, 1, 1, device=DEVICE)
    output = assert_as_torch(backend, "conv2d_relu_max_pool2d", [input, weight], POWERS)
    with alexkern.backend(backend):
        assert_same(functional.conv2d_relu_max_pool2d(input, weight), output, "inference")


@pytest.mark.parametrize(
    ("window", "backend", "dtype"),
    [
        combination(window, backend, dtype, quick=False)
        for window, dtype in (((15, 17), torch.uint8), ((16, 16), torch.int32))
        for backend in serving("conv2d_relu_max_pool2d")
    ],
)
def test_the_last_place_of_a_window_is_not_clipped(window: tuple[int, int], backend: str, dtype: torch.dtype) -> None:
    """A byte has a number for each of 255 places and one for what was clipped; a window of 256 has offsets of four."""
    operator = dispatch.implementation(backend, "conv2d_relu_max_pool2d")
    count, arguments = window[0] * window[1], ((1, 1), (0, 0), (1, 1), 1, window, (1, 1), (0, 0))
    ramp = torch.arange(1.0, count + 1, device=DEVICE).view(1, 1, *window)
    input, weight = torch.cat((ramp, -ramp), 1), torch.eye(2, device=DEVICE)[:, :, None, None]
    output, offsets = operator.forward(input, weight, None, *arguments, True)
    assert output.flatten().tolist() == [count, 0]
    assert offsets.dtype == dtype and offsets.flatten().tolist() == [count - 1, CLIPPED[dtype]]
    gradient, _, _ = operator.backward(
        torch.ones_like(output), input, weight, offsets, *arguments, (True, False, False)
    )
    assert_same(gradient, torch.cat((ramp == count, ramp < 0), 1).float())


@pytest.mark.parametrize("backend", serving("dropout"))
def test_dropped_nan_and_infinity_are_nan(backend: str) -> None:
    input = torch.tensor([NAN, INF, -INF, 1.0, -1.0] * 40, device=DEVICE)
    torch.manual_seed(0)
    with alexkern.backend(backend):
        output = functional.dropout(input, 0.5)
    kept = ~torch.isnan(output) & (output != 0)
    assert 20 < int(kept.sum()) < 140
    assert torch.equal(output[kept], input[kept] * 2)
    dropped = output[~kept]
    finite = torch.isfinite(input[~kept])
    assert bool(torch.isnan(dropped[~finite]).all()) and bool((dropped[finite] == 0).all())
    with alexkern.backend(backend):
        everything = functional.dropout(input, 1.0)
    assert_same(everything, F.dropout(input, 1.0), "p = 1")


@pytest.mark.parametrize("incoming", [NAN, INF])
@pytest.mark.parametrize("backend", serving("linear_relu_dropout"))
def test_no_gradient_passes_a_dropped_nan(backend: str, incoming: float) -> None:
    """Where linear's output was NaN the ReLU mask lets everything pass: only dropout's own bits can stop a gradient."""
    operator, seed = dispatch.implementation(backend, "linear_relu_dropout"), torch.tensor([7, 5], device=DEVICE)
    input, weight = torch.full((9, 1), NAN, device=DEVICE), torch.ones(9, 1, device=DEVICE)
    kept = dispatch.implementation("torch", "dropout").forward(torch.ones(9, 9, device=DEVICE), seed, 0.9) != 0
    output, mask = operator.forward(input, weight, None, seed, 0.9, True)
    assert bool(output.isnan().all())
    grad = torch.full_like(output, incoming)
    input_grad, _, bias_grad = operator.backward(grad, input, weight, mask, seed, 0.9, (True, False, True))
    for found, passes in ((input_grad[:, 0], kept.any(1)), (bias_grad, kept.any(0))):
        assert 0 < int(passes.sum()) < 9
        assert torch.equal(found == 0, ~passes) and not bool(found[passes].isfinite().any())


@pytest.mark.parametrize(("operator", "backend"), [(name, backend) for name in OPERATORS for backend in serving(name)])
def test_one_nan_and_one_infinity_reach_what_they_reach_in_torch(
    operator: str, backend: str, generator: torch.Generator
) -> None:
    case = OPERATORS[operator].example
    tensors = [torch.randn(shape, generator=generator).to(DEVICE) for shape in case.shapes]
    image = tensors[0][0]
    image[(0,) * image.dim()], image[(-1,) * image.dim()] = NAN, INF
    results = []
    for name in (backend, "torch"):
        torch.manual_seed(5)
        with alexkern.backend(name):
            results.append(OPERATORS[operator].function(*tensors, *case.public))
    assert results[1].isnan().any() and not results[1].isnan().all()
    torch.testing.assert_close(*results, equal_nan=True, rtol=1e-4, atol=1e-4)
