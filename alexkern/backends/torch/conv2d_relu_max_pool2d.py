"""conv2d_relu_max_pool2d in torch operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.torch import conv2d_relu, max_pool2d
from alexkern.geometry import CLIPPED, Pair, convolution, pooling
from alexkern.plan import is_channels_last

PRECISION = "conv"  # the fp32_precision of torch.backends that says whether float32 is multiplied as TF32


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> tuple[Tensor, Tensor | None]:
    *convolution, pool_kernel_size, pool_stride, pool_padding, save_offsets = args
    return max_pool2d.forward(
        conv2d_relu.forward(input, weight, bias, *convolution),
        pool_kernel_size,
        pool_stride,
        pool_padding,
        (1, 1),
        False,
        save_offsets,
        behind_relu=True,
    )


def composite(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
    """The forward, differentiable by torch itself."""
    *convolution, pool_kernel_size, pool_stride, pool_padding, _ = args
    return F.max_pool2d(
        conv2d_relu.composite(input, weight, bias, *convolution), pool_kernel_size, pool_stride, pool_padding
    )


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    pool_kernel_size: Pair,
    pool_stride: Pair,
    pool_padding: Pair,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias, those that `needs` asks for."""
    between = convolution(input, weight, stride, padding, dilation, groups)
    shape = (between.N, between.K, between.P, between.Q)
    clipped = offsets == CLIPPED[offsets.dtype]
    # What the ReLU clipped gets nothing, but torch's scatter wants to know of a pixel for it too.
    windows = pooling(shape, pool_kernel_size, pool_stride, pool_padding)
    inside = max_pool2d.first_inside(windows, offsets.shape[2], offsets.shape[3], offsets.device)
    (scattered,) = max_pool2d.backward(
        torch.where(clipped, 0, grad),  # in the offsets' format: of another one torch would copy all that it reads
        offsets.where(~clipped, inside.to(offsets.dtype)),
        shape,
        is_channels_last(input) or is_channels_last(weight),
        pool_kernel_size,
        pool_stride,
        pool_padding,
        (1, 1),
        False,
        (True,),
    )
    assert scattered is not None
    return conv2d_relu.convolution_gradients(scattered, input, weight, stride, padding, dilation, groups, needs)
