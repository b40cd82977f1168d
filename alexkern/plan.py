"""Where an operator's results live: shape, strides and dtype of every output, decided before anything runs.

Every backend fills what is planned here, and the fake (meta) version of an operator is the plan alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from alexkern.geometry import Pair, convolved_size, offset_dtype, pooled_sizes


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
    template = torch.empty_like(tensor, device="meta")
    return Spec(tuple(template.shape), template.stride(), tensor.dtype)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step = step * max(size, 1)
    return tuple(reversed(strides))


def is_channels_last(tensor: Tensor) -> bool:
    """Whether torch takes a 4-D tensor for channels_last when it chooses an output's format.

    It asks for strides in NHWC order, gaps allowed, and takes a tensor that could be read either way (C = 1 in a
    contiguous one, say) for contiguous: the rule of TensorImpl's is_channels_last_strides_2d.
    """
    if tensor.dim() != 4:
        return False
    shape, stride = tensor.shape, tensor.stride()
    if stride[1] == 0:
        return False
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
    """The convolution's output: (N, K, P, Q), channels_last if the input or the weight is."""
    P, Q = convolved_size(input, weight, stride, padding, dilation)
    channels_last = is_channels_last(input) or is_channels_last(weight)
    return nchw((input.shape[0], weight.shape[0], P, Q), input.dtype, channels_last)


def conv2d_relu_max_pool2d_outputs(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> tuple[Spec, Spec]:
    """The pooled values (N, K, P, Q) and their offsets, in the convolution's format; no offsets unless saved."""
    *convolution, pool_kernel_size, pool_stride, pool_padding, save_offsets = args
    N, K, P, Q = conv2d_relu_output(input, weight, bias, *convolution).shape
    shape = (N, K, *pooled_sizes((P, Q), pool_kernel_size, pool_stride, pool_padding, (1, 1), False))
    values = nchw(shape, input.dtype, is_channels_last(input) or is_channels_last(weight))
    dtype = offset_dtype(pool_kernel_size)
    return values, values._replace(dtype=dtype) if save_offsets else Spec((0,), (1,), dtype)


def max_pool2d_outputs(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    save_offsets: bool,
) -> tuple[Spec, Spec]:
    """The pooled values (N, C, P, Q) and their offsets, both in the input's format; no offsets unless saved."""
    N, C, H, W = input.shape
    shape = (N, C, *pooled_sizes((H, W), kernel_size, stride, padding, dilation, ceil_mode))
    values = nchw(shape, input.dtype, is_channels_last(input))
    dtype = offset_dtype(kernel_size)
    return values, values._replace(dtype=dtype) if save_offsets else Spec((0,), (1,), dtype)


def linear_relu_dropout_output(
    input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float
) -> Spec:
    shape = (*input.shape[:-1], weight.shape[0])
    return Spec(shape, contiguous_strides(shape), input.dtype)


def empty(spec: Spec, device: torch.device) -> Tensor:
    """The memory a kernel fills. Every kernel output and workspace is allocated here."""
    return _allocate(spec.shape, spec.stride, dtype=spec.dtype, device=device)


_allocate = torch.empty_strided  # the tests put guard bytes around what it returns


def conform(tensor: Tensor, spec: Spec) -> Tensor:
    """`tensor` itself where it lies as planned, else a copy that does."""
    if tensor.stride() == spec.stride:
        return tensor
    return empty(spec, tensor.device).copy_(tensor)
