"""NaN, infinities, signed zeros, ties and windows of -inf: torch's results to the letter, on every backend."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import alexkern
from alexkern import dispatch, functional
from alexkern.accuracy import assert_same
from alexkern.geometry import CLIPPED
from alexkern.ops.registry import OPERATORS
from support.backends import DEVICE, combination, serving

NAN, INF = math.nan, math.inf
POOL_BACKENDS = serving("max_pool2d")
CONVOLUTION_BACKENDS = serving("conv2d_relu")


def specials(shape: tuple[int, ...], generator: torch.Generator, values: list[float]) -> Tensor:
    """Each entry one of `values`, by chance."""
    table = torch.tensor(values)
    return table[torch.randint(len(values), shape, generator=generator)].to(DEVICE)


def both(ours: Tensor, torchs: Tensor, leaves: tuple[Tensor, Tensor], grad: Tensor) -> None:
    assert_same(ours.detach(), torchs.detach(), "output")
    ours.backward(grad)
    torchs.backward(grad)
    mine, wanted = leaves[0].grad, leaves[1].grad
    assert mine is not None and wanted is not None
    assert_same(mine + 0.0, wanted + 0.0, "gradient")  # + 0.0: the sign of a zero gradient is nobody's business


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
    input = specials((2, 5, 9, 8), generator, values)
    leaves = input.clone().requires_grad_(), input.clone().requires_grad_()
    torchs = F.max_pool2d(leaves[1], *window)
    # Gradients that are sums of powers of two are exact in any order.
    grad = 2.0 ** torch.randint(-3, 4, torchs.shape, generator=generator).to(DEVICE)
    for channels_last in (False, True):
        leaf = input.contiguous(memory_format=torch.channels_last) if channels_last else input.clone()
        leaf.requires_grad_()
        with alexkern.backend(backend):
            ours = functional.max_pool2d(leaf, *window)
        leaves[1].grad = None
        both(ours, F.max_pool2d(leaves[1], *window), (leaf, leaves[1]), grad)


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
        for channels_last in (False, True):
            leaf = input.contiguous(memory_format=torch.channels_last) if channels_last else input.clone()
            leaf.requires_grad_()
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
    leaves = input.clone().requires_grad_(), input.clone().requires_grad_()
    with alexkern.backend(backend):
        ours = functional.conv2d_relu(leaves[0], weight)
    torchs = F.relu(F.conv2d(leaves[1], weight))
    grad = specials(tuple(torchs.shape), generator, [1.0, 0.5, -2.0])
    both(ours, torchs, leaves, grad)


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
    leaves = [[tensor.clone().requires_grad_() for tensor in tensors] for _ in range(2)]
    with alexkern.backend(backend):
        ours = (functional.conv2d_relu_max_pool2d if pooled else functional.conv2d_relu)(*leaves[0], 4, 2)
    torchs = F.relu(F.conv2d(*leaves[1], 4, 2))
    torchs = F.max_pool2d(torchs, 3, 2) if pooled else torchs
    assert torchs.isnan().any() and torchs.isinf().any() and torchs.isfinite().any()
    assert_same(ours.detach(), torchs.detach(), "output")
    grad = torch.randint(-2, 3, torchs.shape, generator=generator).float().to(DEVICE)
    ours.backward(grad)
    torchs.backward(grad)
    for mine, wanted, name in zip(*leaves, ("input", "weight", "bias"), strict=True):
        assert mine.grad is not None and wanted.grad is not None
        assert_same(mine.grad + 0.0, wanted.grad + 0.0, f"gradient of {name}")


@pytest.mark.parametrize("values", POOL_VALUES.values(), ids=POOL_VALUES.keys())
@pytest.mark.parametrize("backend", serving("conv2d_relu_max_pool2d"))
def test_convolution_relu_and_pool(backend: str, values: list[float], generator: torch.Generator) -> None:
    input = specials((2, 1, 9, 7), generator, values)
    weight = torch.ones(1, 1, 1, 1, device=DEVICE)
    leaves = input.clone().requires_grad_(), input.clone().requires_grad_()
    with alexkern.backend(backend):
        ours = functional.conv2d_relu_max_pool2d(leaves[0], weight)
        inference = functional.conv2d_relu_max_pool2d(input, weight)
    torchs = F.max_pool2d(F.relu(F.conv2d(leaves[1], weight)), 3, 2)
    assert_same(inference, ours.detach(), "inference")
    grad = 2.0 ** torch.randint(-3, 4, torchs.shape, generator=generator).to(DEVICE)
    both(ours, torchs, leaves, grad)


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


@pytest.mark.parametrize("backend", serving("linear_relu_dropout"))
def test_linear_relu_dropout_of_nan(backend: str) -> None:
    """NaN goes through, dropped or not; its gradient is 0 where it was dropped and passes where it was kept."""
    input = torch.tensor([[NAN], [1.0], [-1.0], [INF]] * 16, device=DEVICE).requires_grad_()
    weight = torch.ones(3, 1, device=DEVICE)
    torch.manual_seed(0)
    with alexkern.backend(backend):
        output = functional.linear_relu_dropout(input, weight, None, 0.5)
    assert bool(torch.isnan(output[0::4]).all())
    assert bool((output[2::4] == 0).all())
    kept = (output[1::4] == 2).sum(1)  # of three features, each of them 2 where kept
    output.sum().backward()
    assert input.grad is not None
    assert torch.equal(input.grad[1::4, 0], 2.0 * kept)
    assert bool((input.grad[2::4] == 0).all())
    nan_gradients = set(input.grad[0::4, 0].tolist())
    assert nan_gradients <= {0.0, 2.0, 4.0, 6.0} and len(nan_gradients) > 1


@pytest.mark.parametrize("incoming", [NAN, INF])
@pytest.mark.parametrize("backend", serving("linear_relu_dropout"))
def test_no_gradient_passes_a_dropped_nan(backend: str, incoming: float) -> None:
    """Where linear's output was NaN the ReLU mask lets everything pass: only dropout's own bits can stop a gradient."""
    operator, seed = dispatch.implementation(backend, "linear_relu_dropout"), torch.tensor([7, 5], device=DEVICE)
    input, weight = torch.full((4, 1), NAN, device=DEVICE), torch.ones(9, 1, device=DEVICE)
    kept = dispatch.implementation("torch", "dropout").forward(torch.ones(4, 9, device=DEVICE), seed, 0.5) != 0
    output, mask = operator.forward(input, weight, None, seed, 0.5, True)
    assert bool(output.isnan().all())
    _, _, bias_grad = operator.backward(
        torch.full_like(output, incoming), input, weight, mask, seed, 0.5, (False, False, True)
    )
    untouched = ~kept.any(0)
    assert 0 < int(untouched.sum()) < 9
    assert torch.equal(bias_grad == 0, untouched)
    assert not bool(bias_grad[~untouched].isfinite().any())


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


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(4, 0), (0,), (2, 3, 0), (2, 0, 5)], ids=str)
@pytest.mark.parametrize("backend", serving("linear_relu_dropout"))
def test_linear_relu_dropout_of_nothing(backend: str, shape: tuple[int, ...], p: float) -> None:
    """Without features only the bias is left, without rows nothing."""
    input = torch.ones(shape, device=DEVICE, requires_grad=True)
    weight = torch.ones(3, shape[-1], device=DEVICE, requires_grad=True)
    bias = torch.tensor([1.0, -1.0, 2.0], device=DEVICE, requires_grad=True)
    with alexkern.backend(backend):
        output = functional.linear_relu_dropout(input, weight, bias, p)
    assert output.shape == (*shape[:-1], 3)
    assert bool((output[..., 1] == 0).all())
    kept = output != 0
    assert torch.equal(output[kept], (F.relu(bias).detach() / (1 - p)).expand(output.shape)[kept])
    output.sum().backward()
    assert input.grad is not None and weight.grad is not None and bias.grad is not None
    assert input.grad.shape == shape and weight.grad.shape == weight.shape and not bool(weight.grad.any())
    assert torch.equal(bias.grad, kept.reshape(-1, 3).sum(0) / (1 - p))
