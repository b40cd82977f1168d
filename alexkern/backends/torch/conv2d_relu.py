"""conv2d_relu in torch operators."""

from __future__ import annotations

import torch
from torch import Tensor

from alexkern.geometry import Pair

PRECISION = "conv"  # the fp32_precision of torch.backends that says whether float32 is multiplied as TF32


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    # oneDNN could apply the ReLU itself, but its ReLU turns NaN into 0.
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups).relu_()


def composite(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The forward, differentiable by torch itself."""
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups).relu()


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    output: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias, those that `needs` asks for."""
    # threshold_backward is 0 where output <= 0 and grad elsewhere: where the output is NaN the gradient passes.
    masked = torch.ops.aten.threshold_backward(grad, output, 0)
    return convolution_gradients(masked, input, weight, stride, padding, dilation, groups, needs)


def convolution_gradients(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return torch.ops.aten.convolution_backward(
        grad, input, weight, [weight.shape[0]], stride, padding, dilation, False, (0, 0), groups, needs
    )
