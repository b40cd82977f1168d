"""conv2d_relu_max_pool2d by the kernels of conv2d_relu and max_pool2d, one after the other.

The convolution's output lives between the two alone. In the backward the mask and the bias's gradient come from the
pooled values, a quarter of what the convolution gave.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from alexkern.native import conv2d_relu, max_pool2d
from alexkern.ops.convolution import Pair, convolved_size


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> tuple[Tensor, Tensor | None]:
    *convolution, pool_kernel_size, pool_stride, pool_padding, save_offsets = args
    convolved = conv2d_relu.forward(input, weight, bias, *convolution)
    return max_pool2d.forward(convolved, pool_kernel_size, pool_stride, pool_padding, (1, 1), False, save_offsets)


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    output: Tensor,
    offsets: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    pool_kernel_size: Pair,
    pool_stride: Pair,
    pool_padding: Pair,
    needs: tuple[bool, bool, bool],
) -> conv2d_relu.Gradients:
    """Gradients of input, weight and bias, those that `needs` asks for."""
    K, _, R, S = weight.shape
    # A pooled value is the activation at its winner: masked before it is scattered, its sum is the bias's gradient.
    masked, bias_grad = conv2d_relu.masked_gradient(grad, output, 1, needs[2])
    if not (needs[0] or needs[1]):
        return None, None, bias_grad
    size = convolved_size(input, weight, stride, padding, dilation)
    (scattered,) = max_pool2d.backward(
        masked.memory[..., :K].permute(0, 3, 1, 2),
        offsets,
        (input.shape[0], K, *size),
        True,
        pool_kernel_size,
        pool_stride,
        pool_padding,
        (1, 1),
        False,
        (True,),
    )
    assert scattered is not None
    packed = conv2d_relu.packed(scattered, groups)
    geometry = conv2d_relu.Geometry((R, S), stride, padding, dilation, groups)
    input_grad = conv2d_relu.data_gradient(packed, input, weight, size, geometry) if needs[0] else None
    weight_grad = conv2d_relu.weight_gradient(packed, input, weight, size, geometry) if needs[1] else None
    return input_grad, weight_grad, bias_grad
