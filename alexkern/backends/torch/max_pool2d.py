"""max_pool2d in torch operators: torch's int64 indices become window offsets for keeping, and indices again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.geometry import Pair, offset_dtype
from alexkern.plan import empty, nchw


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
    if not have_pixels(input_shape[2:], kernel_size, padding, dilation):
        return (gradient.zero_(),)
    indices = flat_indices(offsets, input_shape, kernel_size, stride, padding, dilation)
    # torch asks for the input too, but reads no more than its shape and format, which the gradient has.
    torch.ops.aten.max_pool2d_with_indices_backward.grad_input(
        grad, gradient, kernel_size, stride, padding, dilation, ceil_mode, indices, grad_input=gradient
    )
    return (gradient,)


def window_origins(pooled: tuple[int, ...], stride: Pair, padding: Pair, device: torch.device) -> tuple[Tensor, Tensor]:
    """Image row and column of every window's first position, (P, 1) and (Q,), negative in the padding."""
    rows = torch.arange(pooled[0], device=device).mul_(stride[0]).sub_(padding[0])
    columns = torch.arange(pooled[1], device=device).mul_(stride[1]).sub_(padding[1])
    return rows.unsqueeze(1), columns


def have_pixels(size: tuple[int, ...], kernel_size: Pair, padding: Pair, dilation: Pair) -> bool:
    """Whether windows have pixels of the image, beside which torch would else write their gradients.

    Only a dilation larger than the image can step over it, and then there is room for a single window.
    """
    axes = zip(size, kernel_size, padding, dilation, strict=True)
    return all(any(0 <= r * step - pad < length for r in range(count)) for length, count, pad, step in axes)


def steps(kernel_size: Pair, dilation: Pair, W: int, device: torch.device) -> Tensor:
    """How far in a flat image each position of a window lies behind its first: (R, S)."""
    r = torch.arange(kernel_size[0], device=device).mul_(dilation[0] * W)
    s = torch.arange(kernel_size[1], device=device).mul_(dilation[1])
    return r.unsqueeze(1) + s


def window_offsets(
    indices: Tensor, input_size: tuple[int, ...], kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Offsets r * S + s into the R x S window from torch's indices h * W + w, overwritten; both (N, C, P, Q)."""
    P, Q = indices.shape[-2:]
    table, origins = kept(offset_table, P, Q, input_size[-1], kernel_size, stride, padding, dilation, indices.device)
    return look_up(table, indices.sub_(origins))


def kept(make: Callable[..., tuple[Tensor, Tensor]], *key: Any) -> tuple[Tensor, Tensor]:
    """`make(*key)`, made once on a CPU. On a GPU it may be captured in a graph, whose memory nobody else may keep."""
    if key[-1].type != "cpu":
        return make(*key)
    return _kept(make, *(tuple(value) if type(value) is list else value for value in key))  # torch's dispatcher: lists


@functools.lru_cache(maxsize=64)
def _kept(make: Callable[..., tuple[Tensor, Tensor]], *key: Any) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # whoever asks first, these are ordinary tensors
        return make(*key)


def offset_table(
    P: int, Q: int, W: int, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A table of window offsets, and what to subtract from an index to get its entry: two passes, no division.

    The distance of a winner from its window's first position says the offset. In an image narrower than the window two
    offsets may share a distance, but never in one column of windows and inside the image: hence one row of the table a
    column, and a last entry for what lies outside.
    """
    R, S = kernel_size
    rows, columns = window_origins((P, Q), stride, padding, device)
    distances = steps(kernel_size, dilation, W, device)  # (R, S)
    entries = (R - 1) * dilation[0] * W + (S - 1) * dilation[1] + 2
    w = columns.view(-1, 1, 1) + torch.arange(S, device=device) * dilation[1]  # (Q, 1, S)
    first_entry = torch.arange(Q, device=device) * entries  # (Q,)
    entry = torch.where((w >= 0) & (w < W), distances, entries - 1) + first_entry.view(-1, 1, 1)  # (Q, R, S)
    offsets = torch.arange(R * S, device=device).to(offset_dtype(R, S)).expand(Q, R * S)
    table = offsets.new_zeros(Q * entries).scatter_(0, entry.flatten(), offsets.flatten())
    return table, rows * W + columns - first_entry  # (Q * entries,), (P, Q)


def flat_indices(
    offsets: Tensor,
    input_shape: tuple[int, ...],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """torch's int64 indices h * W + w from window offsets: the inverse of window_offsets."""
    P, Q = offsets.shape[-2:]
    table, origins = kept(index_table, P, Q, input_shape[-1], kernel_size, stride, padding, dilation, offsets.device)
    return look_up(table, offsets.long()).add_(origins)


def index_table(
    P: int, Q: int, W: int, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The distance in a flat image from a window's first position to its r * S + s, and that position's index."""
    rows, columns = window_origins((P, Q), stride, padding, device)
    return steps(kernel_size, dilation, W, device).flatten(), rows * W + columns  # (R * S,), (P, Q)


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """table[index] for a dense int64 index whose images lie one behind the other, in its layout.

    A gather over the memory, with one row an image: the form of indexing that torch runs on all cores.
    """
    images = index.shape[0]
    if index.numel() == 0:
        return torch.empty_like(index, dtype=table.dtype)
    rows = index.as_strided((images, index.numel() // images), (index.numel() // images, 1))
    return table.expand(images, -1).gather(1, rows).as_strided(index.shape, index.stride())
