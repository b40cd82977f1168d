"""max_pool2d in torch operators: torch's int64 indices become window offsets for keeping, and indices again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.ops.plan import empty, nchw
from alexkern.ops.pooling import Pair, offset_dtype


def forward(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    save_offsets: bool,
) -> tuple[Tensor, Tensor | None]:
    if not save_offsets:
        return torch.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode), None
    output, indices = torch.ops.aten.max_pool2d_with_indices(input, kernel_size, stride, padding, dilation, ceil_mode)
    return output, window_offsets(indices, input.shape[-2:], kernel_size, stride, padding, dilation)


def composite(input: Tensor, *args: Any) -> Tensor:
    """The same, differentiable by torch itself: what torch.compile traces."""
    *window, _ = args
    return F.max_pool2d(input, *window)


def backward(
    grad: Tensor,
    offsets: Tensor,
    input_shape: tuple[int, int, int, int],
    channels_last: bool,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    needs: tuple[bool],
) -> tuple[Tensor | None]:
    """Gradient of the input."""
    gradient = empty(nchw(input_shape, grad.dtype, channels_last), grad.device)
    indices = flat_indices(offsets, input_shape, kernel_size, stride, padding, dilation)
    # torch asks for the input too, but reads no more than its shape and format, which the gradient has.
    torch.ops.aten.max_pool2d_with_indices_backward.grad_input(
        grad, gradient, kernel_size, stride, padding, dilation, ceil_mode, indices, grad_input=gradient
    )
    return (gradient,)


def window_origins(pooled: tuple[int, ...], stride: Pair, padding: Pair, like: Tensor) -> tuple[Tensor, Tensor]:
    """Image row and column of every window's first position, (P, 1) and (Q,), negative in the padding."""
    rows = torch.arange(pooled[0], dtype=like.dtype, device=like.device).mul_(stride[0]).sub_(padding[0])
    columns = torch.arange(pooled[1], dtype=like.dtype, device=like.device).mul_(stride[1]).sub_(padding[1])
    return rows.unsqueeze(1), columns


def window_offsets(
    indices: Tensor, input_size: tuple[int, ...], kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Offsets r * S + s into the R x S window from torch's indices h * W + w, both of shape (N, C, P, Q)."""
    H, W = input_size
    if H * W < 2**31:
        indices = indices.to(torch.int32)  # half the bytes, and a faster division
    rows, columns = window_origins(indices.shape[-2:], stride, padding, indices)
    h = indices.div(W, rounding_mode="floor")
    w = torch.sub(indices, h, alpha=W)
    r = _divided(h.sub_(rows), dilation[0])
    s = _divided(w.sub_(columns), dilation[1])
    return s.add_(r, alpha=kernel_size[1]).to(offset_dtype(kernel_size))


def _divided(distance: Tensor, dilation: int) -> Tensor:
    return distance if dilation == 1 else distance.div_(dilation, rounding_mode="floor")


def flat_indices(
    offsets: Tensor,
    input_shape: tuple[int, ...],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """torch's int64 indices h * W + w from window offsets: the inverse of window_offsets."""
    W = input_shape[-1]
    R, S = kernel_size
    r = torch.arange(R, device=offsets.device).mul_(dilation[0] * W).unsqueeze(1)
    s = torch.arange(S, device=offsets.device).mul_(dilation[1])
    within = (r + s).flatten()  # (R * S,)
    rows, columns = window_origins(offsets.shape[-2:], stride, padding, within)
    return within[offsets.to(torch.int32)].add_(rows * W + columns)
