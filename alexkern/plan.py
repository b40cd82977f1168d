"""Where an operator's results live: shape, strides and dtype of every output, decided before anything runs.

Every backend fills what is planned here, and the fake (meta) version of an operator is the plan alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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


def empty(spec: Spec, device: torch.device) -> Tensor:
    """The memory a kernel fills. Every kernel output and workspace is allocated here."""
    return _allocate(spec.shape, spec.stride, dtype=spec.dtype, device=device)


_allocate = torch.empty_strided  # the tests put guard bytes around what it returns


def conform(tensor: Tensor, spec: Spec) -> Tensor:
    """`tensor` itself where it lies as planned, else a copy that does."""
    if tensor.stride() == spec.stride:
        return tensor
    return empty(spec, tensor.device).copy_(tensor)
