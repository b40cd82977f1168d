"""What max_pool2d and conv2d_relu_max_pool2d share: window arithmetic and its checks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alexkern.errors import argument_error
from alexkern.geometry import Pair, pooled_size, pooling
from alexkern.ops import checks

Window = tuple[Pair, Pair, Pair, Pair]  # kernel_size, stride, padding, dilation


def window_arguments(
    operator: str, kernel_size: Any, stride: Any, padding: Any, dilation: Any, prefix: str = ""
) -> Window:
    if type(kernel_size) is type(stride) is type(padding) is type(dilation) is int:  # the usual form first
        most = checks.MOST
        if 0 < kernel_size <= most and 0 < stride <= most and 0 < dilation <= most and 0 <= 2 * padding <= kernel_size:
            return (kernel_size, kernel_size), (stride, stride), (padding, padding), (dilation, dilation)
    kernel_size = checks.pair(operator, f"{prefix}kernel_size", kernel_size, 1)
    # torch takes an empty sequence as well as None for "the window's own size".
    stride = kernel_size if stride is None or (isinstance(stride, (tuple, list)) and not stride) else stride
    stride = checks.pair(operator, f"{prefix}stride", stride, 1)
    padding = checks.pair(operator, f"{prefix}padding", padding, 0)
    dilation = checks.pair(operator, f"{prefix}dilation", dilation, 1)
    if 2 * padding[0] > kernel_size[0] or 2 * padding[1] > kernel_size[1]:
        raise argument_error(operator, f"{prefix}padding", padding, f"at most half of the window {kernel_size}")
    return kernel_size, stride, padding, dilation


def rounded_up(
    operator: str, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool
) -> bool:
    """Whether ceil_mode makes the output larger, once there is room for a window."""
    windows = pooling((1, 1, *size), kernel_size, stride, padding, dilation)
    pooled = pooled_size(windows, ceil_mode)
    if pooled[0] < 1 or pooled[1] < 1:
        raise argument_error(
            operator,
            "input",
            f"{size[0]}x{size[1]} where the windows are taken, which gives {pooled[0]}x{pooled[1]}",
            f"large enough for one {kernel_size[0]}x{kernel_size[1]} window: the output size is too small",
        )
    return pooled != pooled_size(windows, False)


def unbatched(output: Tensor) -> Tensor:
    """The image of a batch of one: contiguous, and no view, since nobody else has its memory, nor a backward pass."""
    image: Tensor = torch.ops.aten._unsafe_view(output.contiguous(), output.shape[1:])
    return image
