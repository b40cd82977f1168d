"""What max_pool2d and conv2d_relu_max_pool2d share: window arithmetic and its checks."""

from __future__ import annotations

from typing import Any

import torch

from alexkern.errors import argument_error
from alexkern.ops import checks

Pair = tuple[int, int]
Window = tuple[Pair, Pair, Pair, Pair]  # kernel_size, stride, padding, dilation


def pooled_size(size: int, kernel_size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """torch's output size: in ceil_mode the last window must still start inside the image or its left padding."""
    span = size + 2 * padding - dilation * (kernel_size - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count


def offset_dtype(kernel_size: Pair) -> torch.dtype:
    """The dtype of an offset r * S + s into an R x S window."""
    return torch.uint8 if kernel_size[0] * kernel_size[1] <= 256 else torch.int32


def window_arguments(
    operator: str, kernel_size: Any, stride: Any, padding: Any, dilation: Any, prefix: str = ""
) -> Window:
    if type(kernel_size) is type(stride) is type(padding) is type(dilation) is int:  # the usual form first
        if kernel_size > 0 and stride > 0 and dilation > 0 and 0 <= 2 * padding <= kernel_size:
            return (kernel_size, kernel_size), (stride, stride), (padding, padding), (dilation, dilation)
    kernel_size = checks.pair(operator, f"{prefix}kernel_size", kernel_size, 1)
    # torch takes an empty sequence as well as None for "the window's own size".
    stride = kernel_size if stride is None or stride == () or stride == [] else stride
    stride = checks.pair(operator, f"{prefix}stride", stride, 1)
    padding = checks.pair(operator, f"{prefix}padding", padding, 0)
    dilation = checks.pair(operator, f"{prefix}dilation", dilation, 1)
    if 2 * padding[0] > kernel_size[0] or 2 * padding[1] > kernel_size[1]:
        raise argument_error(operator, f"{prefix}padding", padding, f"at most half of the window {kernel_size}")
    return kernel_size, stride, padding, dilation


def pooled_sizes(
    size: tuple[int, ...], kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool
) -> Pair:
    """(P, Q), the pooled output's size."""
    P, Q = (
        pooled_size(size[axis], kernel_size[axis], stride[axis], padding[axis], dilation[axis], ceil_mode)
        for axis in (0, 1)
    )
    return P, Q


def checked_pooled_size(operator: str, size: Pair, kernel_size: Pair, *args: Any) -> Pair:
    """pooled_sizes(size, kernel_size, *args), once there is room for a window."""
    pooled = pooled_sizes(size, kernel_size, *args)
    if pooled[0] < 1 or pooled[1] < 1:
        raise argument_error(
            operator,
            "input",
            f"{size[0]}x{size[1]} where the windows are taken, which gives {pooled[0]}x{pooled[1]}",
            f"large enough for one {kernel_size[0]}x{kernel_size[1]} window: the output size is too small",
        )
    return pooled
