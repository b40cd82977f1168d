"""conv2d_relu_max_pool2d by csrc/cuda/conv2d_relu_max_pool2d: one kernel for all of it where that is faster, else two.

The choice is made by FLOPs and bytes, for every problem (docs/cuda-convolution.md). In two kernels, conv2d_relu's and
max_pool2d's, the convolution's output lives between them alone; in one it never reaches memory. Values and offsets are
the same. The backward goes through pooling and ReLU in one pass, by the offsets alone, and then takes conv2d_relu's
products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alexkern.backends.cuda import chip_of, conv2d_relu, launch, max_pool2d
from alexkern.backends.cuda.conv2d_relu import CHUNKS_AT_ONCE
from alexkern.backends.cuda.layout import COPY_BYTES, Packed, operands, padded, workspace
from alexkern.backends.cuda.wide import OFFSETS, Wide
from alexkern.cost.sm80_pooled import Plan, Problem, compare
from alexkern.geometry import Geometry, Pair, convolution, pooling
from alexkern.plan import Spec, conform, empty, is_channels_last, pooled, strides

WIDE = (Wide(r"backward_kernel<\w+, unsigned char, [48], \w+>", OFFSETS, frozenset({32})),)

FUSED_WINDOW = ((3, 3), (2, 2), (0, 0))  # kernel_size, stride, padding: what the fused kernel is written for
CHUNKS = 1024  # of pixels, at most: a gradient's blocks, and the parts of the bias's gradient


def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    pool_kernel_size: Pair,
    pool_stride: Pair,
    pool_padding: Pair,
    save_offsets: bool,
) -> tuple[Tensor, Tensor | None]:
    pool = (pool_kernel_size, pool_stride, pool_padding)
    geometry = convolution(input, weight, stride, padding, dilation, groups)
    windows = pooling((geometry.N, geometry.K, geometry.P, geometry.Q), *pool)
    fusable = ((windows.R, windows.S), windows.stride, windows.padding) == FUSED_WINDOW and geometry.N > 0
    plan = plan_of(input, geometry, save_offsets) if fusable else None
    if plan is None:
        convolved = conv2d_relu.forward(input, weight, bias, stride, padding, dilation, groups)
        return max_pool2d.forward(convolved, *pool, (1, 1), False, save_offsets, behind_relu=True)
    channels_last = is_channels_last(input) or is_channels_last(weight)
    output_spec, offsets_spec = pooled(windows, input.dtype, channels_last, False, save_offsets, behind_relu=True)
    output = empty(output_spec, input.device)
    offsets = empty(offsets_spec, input.device) if save_offsets else None
    images, filters = operands(input, weight, groups)
    bias = None if bias is None else bias.contiguous()
    launch(
        "conv2d_relu_max_pool2d_forward",
        output,
        conv2d_relu.is_tf32(output),
        geometry,
        images.memory.data_ptr(),
        images.channels,
        filters.memory.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        output.data_ptr(),
        output_spec.shape,
        strides(output),
        0 if offsets is None else offsets.data_ptr(),
        plan,
    )
    return output, offsets


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
) -> conv2d_relu.Gradients:
    """Gradients of input, weight and bias, those that `needs` asks for."""
    geometry = convolution(input, weight, stride, padding, dilation, groups)
    size = (geometry.N, geometry.K, geometry.P, geometry.Q)
    windows = pooling(size, pool_kernel_size, pool_stride, pool_padding)
    masked, bias_grad = _unpooled(grad, offsets, windows, groups, needs[2])
    input_grad = conv2d_relu.data_gradient(masked, input, weight, geometry) if needs[0] else None
    weight_grad = conv2d_relu.weight_gradient(masked, input, weight, geometry) if needs[1] else None
    return input_grad, weight_grad, bias_grad


def _unpooled(
    grad: Tensor, offsets: Tensor, windows: Geometry, groups: int, with_bias: bool
) -> tuple[Packed, Tensor | None]:
    """The gradient, over the windows' input, of the convolution behind the ReLU, packed, and its sum: the bias's."""
    N, K, H, W = windows[:4]
    channels = padded(K // groups, grad.dtype, COPY_BYTES)
    memory = workspace((N, H, W, groups * channels), grad)
    chunks = max(min(N * H * W, CHUNKS), 1)
    chunks -= chunks % CHUNKS_AT_ONCE if chunks > CHUNKS_AT_ONCE else 0
    sums = workspace((chunks, groups * channels), grad, torch.float32) if with_bias else None
    # Every gradient is read up to four times: in the order of the offsets, which is that of `memory`.
    grad = conform(grad, Spec(tuple(grad.shape), offsets.stride(), grad.dtype))
    launch(
        "conv2d_relu_max_pool2d_backward",
        grad,
        offsets.dtype == torch.int32,
        windows,
        grad.shape[2:],
        grad.data_ptr(),
        strides(grad),
        offsets.data_ptr(),
        strides(offsets),
        memory.data_ptr(),
        0 if sums is None else sums.data_ptr(),
        groups,
        channels,
        chunks,
    )
    bias_grad = None if sums is None else conv2d_relu.bias_gradient(sums, groups, channels, K, grad.dtype)
    return Packed(memory, channels), bias_grad


def plan_of(input: Tensor, geometry: Geometry, save_offsets: bool) -> Plan | None:
    """The fused kernel's plan where that is faster than two kernels, else None."""
    if conv2d_relu.on_sm90(input, geometry):
        return None  # by wgmma, which the fused kernel does not multiply by
    problem = problem_of(input.dtype, conv2d_relu.is_tf32(input), geometry, save_offsets)
    plan, fused, separate = compare(problem, chip_of(input))
    return plan if fused < separate else None


def problem_of(dtype: torch.dtype, tf32: bool, geometry: Geometry, save_offsets: bool) -> Problem:
    """What the model compares the two ways of."""
    channels = padded(geometry.C // geometry.groups, dtype)
    return Problem(dtype.itemsize, tf32, geometry, channels, save_offsets)
