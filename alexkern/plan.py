"""Where an operator's results live: shape, strides and dtype of every output, decided before anything runs.

Every backend fills what is planned here, and the fake (meta) version of an operator is the plan alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alexkern.geometry import Geometry, Pair, convolution, offset_dtype, pooled_size, pooling


class Spec(NamedTuple):
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def nchw(shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool) -> Spec:
    """A dense image batch of logical shape (N, C, H, W), in NHWC memory if `channels_last`, else in NCHW.

    The strides are those torch gives such a tensor, where sizes are 0 or 1 too.
    """
    _, C, H, W = (max(size, 1) for size in shape)
    stride = (H * W * C, 1, W * C, C) if channels_last else (C * H * W, H * W, W, 1)
    return Spec(shape, stride, dtype)


def like(tensor: Tensor) -> Spec:
    """What torch.empty_like(tensor) makes: dense, in the same order of dimensions."""
    if tensor.is_contiguous():
        return Spec(tuple(tensor.shape), contiguous_strides(tuple(tensor.shape)), tensor.dtype)
    # Not of the tensor itself, which torch.func may have made a batch.
    template = torch.empty_like(torch.empty_strided(tensor.shape, tensor.stride(), device="meta"))
    return Spec(tuple(template.shape), template.stride(), tensor.dtype)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step = step * max(size, 1)
    return tuple(reversed(strides))


class Planes(NamedTuple):
    """Memory of (N, C, ...) as (N, C, L), L pixels of one stride; a dimension of one has the stride 0."""

    N: int
    C: int
    L: int
    strides: tuple[int, int, int]


def in_planes(spec: Spec) -> tuple[Spec, Planes]:
    """`spec`, or the contiguous one of its shape where something lies between the pixels; and what it is as planes."""
    N, C, *sizes = spec.shape
    step = following = 0
    for size, stride in zip(reversed(sizes), reversed(spec.stride[2:]), strict=True):
        if size == 1:
            continue
        if step == 0:
            step = following = stride
        if stride != following:
            return in_planes(Spec(spec.shape, contiguous_strides(spec.shape), spec.dtype))
        following *= max(size, 1)
    strides = (spec.stride[0] if N > 1 else 0, spec.stride[1] if C > 1 else 0, step)
    return spec, Planes(N, C, math.prod(sizes), strides)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether torch takes a 4-D tensor for channels_last when it chooses an output's format.

    It asks for strides in NHWC order, gaps allowed, and takes a tensor that could be read either way (C = 1 in a
    contiguous one, say) for contiguous: the rule of TensorImpl's is_channels_last_strides_2d.
    """
    if tensor.dim() != 4:
        return False
    stride = tensor.stride()
    if stride[1] > stride[3] or stride[1] == 0:  # most images are contiguous: that much says so
        return False
    shape = tensor.shape
    N, C, H, W = shape
    if C > 1 and N * H * W > 0 and stride == (H * W * C, 1, W * C, C):  # and most others are dense
        return True
    smallest = 0
    for d in (1, 3, 2, 0):
        if shape[d] == 0 or stride[d] < smallest:
            return False
        if d == 0 and smallest == stride[1]:
            return False
        smallest = stride[d]
        if shape[d] > 1:
            smallest = smallest * shape[d]
    return True


def conv2d_relu_output(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Spec:
    return convolved(convolution(input, weight, stride, padding, dilation, groups), input, weight)


def convolved(geometry: Geometry, input: Tensor, weight: Tensor) -> Spec:
    """The convolution's output: (N, K, P, Q), channels_last if the input or the weight is."""
    channels_last = is_channels_last(input) or is_channels_last(weight)
    return nchw((geometry.N, geometry.K, geometry.P, geometry.Q), input.dtype, channels_last)


def conv2d_relu_max_pool2d_outputs(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> tuple[Spec, Spec]:
    """The pooled values (N, K, P, Q) and their offsets, in the convolution's format; no offsets unless saved."""
    *parameters, pool_kernel_size, pool_stride, pool_padding, save_offsets = args
    between = conv2d_relu_output(input, weight, bias, *parameters)
    windows = pooling(between.shape, pool_kernel_size, pool_stride, pool_padding)
    channels_last = is_channels_last(input) or is_channels_last(weight)
    return pooled(windows, input.dtype, channels_last, False, save_offsets, behind_relu=True)


def pooled(
    windows: Geometry,
    dtype: torch.dtype,
    channels_last: bool,
    ceil_mode: bool,
    save_offsets: bool,
    behind_relu: bool = False,
) -> tuple[Spec, Spec]:
    """The pooled values (N, C, P, Q) and their offsets, in the same format; no offsets unless saved."""
    values = nchw((windows.N, windows.C, *pooled_size(windows, ceil_mode)), dtype, channels_last)
    offsets = offset_dtype(windows.R, windows.S, behind_relu)
    return values, values._replace(dtype=offsets) if save_offsets else Spec((0,), (1,), offsets)


def linear_relu_dropout_output(input: Tensor, weight: Tensor) -> Spec:
    shape = (*input.shape[:-1], weight.shape[0])
    return Spec(shape, contiguous_strides(shape), input.dtype)


def packed_bits(count: int) -> Spec:
    """Bit i % 8 of byte i // 8 belongs to the i-th of `count` elements."""
    return Spec((-(-count // 8),), (1,), torch.uint8)


def strides(tensor: Tensor) -> tuple[int, ...]:
    """The strides, 0 for a dimension of one: there they mean nothing, and would hide what divides the others."""
    steps = tensor.stride()
    if 1 not in tensor.shape:
        return steps
    return tuple(step if size > 1 else 0 for size, step in zip(tensor.shape, steps, strict=True))


def empty(spec: Spec, device: torch.device) -> Tensor:
    """The memory a kernel fills. Every kernel output and workspace is allocated here."""
    return _allocate(spec.shape, spec.stride, dtype=spec.dtype, device=device)


_allocate = torch.empty_strided  # the tests put guard bytes around what it returns


def conform(tensor: Tensor, spec: Spec) -> Tensor:
    """`tensor` itself where it lies as planned, else a copy that does."""
    if tensor.stride() == spec.stride:
        return tensor
    return empty(spec, tensor.device).copy_(tensor)
