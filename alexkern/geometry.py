"""The sizes of convolutions and of pooling windows: what all rooms stand on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Pair = tuple[int, int]  # (vertical, horizontal)


class Geometry(NamedTuple):
    """A convolution but for its channels and images."""

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


def output_size(size: int, kernel_size: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1


def convolved_size(input: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """(P, Q), the convolution's output."""
    P, Q = (
        output_size(input.shape[axis], weight.shape[axis], stride[axis], padding[axis], dilation[axis])
        for axis in (-2, -1)
    )
    return P, Q


def pooled_size(size: int, kernel_size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """torch's output size: in ceil_mode the last window must still start inside the image or its left padding."""
    span = size + 2 * padding - dilation * (kernel_size - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count


def pooled_sizes(
    size: tuple[int, ...], kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool
) -> Pair:
    """(P, Q), the pooled output's size."""
    P, Q = (
        pooled_size(size[axis], kernel_size[axis], stride[axis], padding[axis], dilation[axis], ceil_mode)
        for axis in (0, 1)
    )
    return P, Q


def offset_dtype(kernel_size: Pair) -> torch.dtype:
    """The dtype of an offset r * S + s into an R x S window."""
    return torch.uint8 if kernel_size[0] * kernel_size[1] <= 256 else torch.int32
