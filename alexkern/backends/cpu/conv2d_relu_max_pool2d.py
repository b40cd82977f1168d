"""conv2d_relu_max_pool2d by a convolution as conv2d_relu's and csrc/cpu/max_pool2d, which applies the ReLU to what it
reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alexkern.backends.cpu import conv2d_relu, max_pool2d
from alexkern.backends.torch import conv2d_relu_max_pool2d as definition
from alexkern.geometry import Geometry, Pair, convolution
from alexkern.plan import is_channels_last


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> tuple[Tensor, Tensor | None]:
    *convolution, pool_kernel_size, pool_stride, pool_padding, save_offsets = args
    window = (pool_kernel_size, pool_stride, pool_padding, (1, 1), False)
    convolved = conv2d_relu.tiled(input, weight, bias, *convolution, relu=False)
    if convolved is None:
        convolved = torch.conv2d(input, weight, bias, *convolution)
    return max_pool2d.reduce(convolved, window, save_offsets, relu=True)


def gains(of: Geometry) -> bool:
    return conv2d_relu.gains(of) or max_pool2d.gains((of.N, of.K, of.P, of.Q))


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
    channels_last = is_channels_last(input) or is_channels_last(weight)
    pooling = (pool_kernel_size, pool_stride, pool_padding)
    shape = (between.N, between.K, between.P, between.Q)
    if max_pool2d.torch_scatters(shape, channels_last):
        convolved = (stride, padding, dilation, groups)
        return definition.backward(grad, input, weight, offsets, *convolved, *pooling, needs)
    (gathered,) = max_pool2d.backward(  # nothing, where an offset says that the ReLU clipped the winner
        grad,
        offsets,
        shape,
        channels_last,
        *pooling,
        (1, 1),
        False,
        (True,),
    )
    assert gathered is not None
    return conv2d_relu.gradients(gathered, None, input, weight, stride, padding, dilation, groups, needs)
