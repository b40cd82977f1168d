"""max_pool2d in torch operators: torch's int64 indices become window offsets for keeping, and indices again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.geometry import CLIPPED, Geometry, Pair, offset_dtype, pooling
from alexkern.plan import empty, nchw

MOST_ENTRIES = 2**15  # of a table, of up to 8 bytes: what is kept is 8 MiB at most
Make = Callable[[Geometry, int, int, torch.device], tuple[Tensor, Tensor]]


def forward(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    save_offsets: bool,
    behind_relu: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`behind_relu`: `input` came out of a ReLU, and the offset of a winner that it did not let pass is CLIPPED."""
    if not save_offsets:
        return torch.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode), None
    output, indices = torch.ops.aten.max_pool2d_with_indices(input, kernel_size, stride, padding, dilation, ceil_mode)
    offsets = window_offsets(indices, plane(input.shape, kernel_size, stride, padding, dilation))
    if behind_relu:
        offsets = offsets.to(offset_dtype(*kernel_size, behind_relu))
        offsets.masked_fill_(output <= 0, CLIPPED[offsets.dtype])
    return output, offsets


def composite(input: Tensor, *args: Any) -> Tensor:
    """The forward, differentiable by torch itself."""
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
    # torch asks for the input too, but reads no more than its shape and format.
    input = empty(nchw(input_shape, grad.dtype, channels_last), grad.device)
    windows = plane(input_shape, kernel_size, stride, padding, dilation)
    if not have_pixels(windows):
        return (input.zero_(),)
    indices = flat_indices(offsets, windows)
    return (
        torch.ops.aten.max_pool2d_with_indices_backward(
            grad, input, kernel_size, stride, padding, dilation, ceil_mode, indices
        ),
    )


def plane(shape: Sequence[int], *window: Pair) -> Geometry:
    """The windows over one channel of an image of such a shape: what tables are made for."""
    return pooling((1, 1, *shape[2:]), *window)


def window_origins(windows: Geometry, P: int, Q: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Image row and column of every window's first position, (P, 1) and (Q,), negative in the padding."""
    rows, columns = (
        torch.arange(count, device=device).mul_(step).sub_(pad)
        for count, step, pad in zip((P, Q), windows.stride, windows.padding, strict=True)
    )
    return rows.unsqueeze(1), columns


def first_inside(windows: Geometry, P: int, Q: int, device: torch.device) -> Tensor:
    """The offset of every window's first position inside the image, (P, Q), where nothing is dilated."""
    rows, columns = window_origins(windows, P, Q, device)
    return rows.neg_().clamp_(min=0) * windows.S + columns.neg_().clamp_(min=0)


def have_pixels(windows: Geometry) -> bool:
    """Whether windows have pixels of the image, beside which torch would else write their gradients.

    Only a dilation larger than the image can step over it, and then there is room for a single window.
    """
    _, _, H, W, _, R, S, _, padding, dilation, _ = windows
    axes = zip((H, W), (R, S), padding, dilation, strict=True)
    return all(any(0 <= r * step - pad < length for r in range(count)) for length, count, pad, step in axes)


def steps(windows: Geometry, device: torch.device) -> Tensor:
    """How far in a flat image each position of a window lies behind its first: (R, S)."""
    r = torch.arange(windows.R, device=device).mul_(windows.dilation[0] * windows.W)
    return r.unsqueeze(1) + torch.arange(windows.S, device=device).mul_(windows.dilation[1])


def window_offsets(indices: Tensor, windows: Geometry) -> Tensor:
    """Offsets r * S + s into the R x S window from torch's indices h * W + w, overwritten; both (N, C, P, Q)."""
    P, Q = indices.shape[-2:]
    if Q * distances_of(windows) > MOST_ENTRIES:
        rows, columns = window_origins(windows, P, Q, indices.device)
        h = indices.div(windows.W, rounding_mode="floor")
        s = indices.sub_(h * windows.W).sub_(columns).div_(windows.dilation[1], rounding_mode="floor")
        r = h.sub_(rows).div_(windows.dilation[0], rounding_mode="floor")
        return r.mul_(windows.S).add_(s).to(offset_dtype(windows.R, windows.S, False))
    table, origins = kept(offset_table, windows, P, Q, indices.device)
    return look_up(table, indices.sub_(origins))


def distances_of(windows: Geometry) -> int:
    """How far apart two positions of a window may lie in a flat image, and one for what lies outside."""
    return (windows.R - 1) * windows.dilation[0] * windows.W + (windows.S - 1) * windows.dilation[1] + 2


def kept(make: Make, windows: Geometry, P: int, Q: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`make`'s, made once on a CPU. On a GPU it may be captured in a graph, whose memory nobody else may keep; and what
    is made under a mode or a transform is of no use behind it.
    """
    special = torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active()
    if special or device.type != "cpu" or max(P * Q, windows.R * windows.S) > MOST_ENTRIES:
        return make(windows, P, Q, device)
    return _kept(make, windows, P, Q, device)


@functools.lru_cache(maxsize=16)
def _kept(make: Make, *key: Any) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # whoever asks first, these are ordinary tensors
        return make(*key)


def offset_table(windows: Geometry, P: int, Q: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A table of window offsets, and what to subtract from an index to get its entry: two passes, no division.

    The distance of a winner from its window's first position says the offset. In an image narrower than the window two
    offsets may share a distance, but never in one column of windows and inside the image: hence one row of the table a
    column, and a last entry for what lies outside.
    """
    W, R, S, dilation = windows.W, windows.R, windows.S, windows.dilation
    rows, columns = window_origins(windows, P, Q, device)
    distances = steps(windows, device)  # (R, S)
    entries = distances_of(windows)
    w = columns.view(-1, 1, 1) + torch.arange(S, device=device) * dilation[1]  # (Q, 1, S)
    first_entry = torch.arange(Q, device=device) * entries  # (Q,)
    entry = torch.where((w >= 0) & (w < W), distances, entries - 1) + first_entry.view(-1, 1, 1)  # (Q, R, S)
    offsets = torch.arange(R * S, device=device).to(offset_dtype(R, S, False)).expand(Q, R * S)
    table = offsets.new_zeros(Q * entries).scatter_(0, entry.flatten(), offsets.flatten())
    return table, rows * W + columns - first_entry  # (Q * entries,), (P, Q)


def flat_indices(offsets: Tensor, windows: Geometry) -> Tensor:
    """torch's int64 indices h * W + w from window offsets: the inverse of window_offsets."""
    P, Q = offsets.shape[-2:]
    table, origins = kept(index_table, windows, P, Q, offsets.device)
    return look_up(table, offsets.long()).add_(origins)


def index_table(windows: Geometry, P: int, Q: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The distance in a flat image from a window's first position to its r * S + s, and that position's index."""
    rows, columns = window_origins(windows, P, Q, device)
    return steps(windows, device).flatten(), rows * windows.W + columns  # (R * S,), (P, Q)


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """table[index] for a dense int64 index whose images lie one behind the other, in its layout.

    A gather over the memory, with one row an image: the form of indexing that torch runs on all cores.
    """
    images = index.shape[0]
    if index.numel() == 0:
        return torch.empty_like(index, dtype=table.dtype)
    rows = index.as_strided((images, index.numel() // images), (index.numel() // images, 1))
    return table.expand(images, -1).gather(1, rows).as_strided(index.shape, index.stride())
