"""Space to depth: blocks of FACTOR x FACTOR pixels become channels, with the convolution's padding taken in.

    y[n, i, j, (a * FACTOR + b) * C + c] = x[n, c, i * FACTOR + a - pad_h, j * FACTOR + b - pad_w]    (0 outside x)

It turns a convolution of stride FACTOR over few channels into one of stride 1 over FACTOR * FACTOR * C channels,
exactly: AlexNet's first layer (11x11, stride 4, 3 channels) becomes 3x3 over 48 channels, whose rows of taps are 3 * 48
contiguous numbers. Filters take the same way, without padding: (K, 3, 11, 11) -> (K, 3, 3, 48), rows and columns beyond
the eleventh 0. The same kernel with FACTOR 1 brings a filter to (K, R, S, C).

One program writes BLOCK contiguous outputs and, where asked, a mark: whether an infinity or a NaN is among them
(amend.py says what for). What it reads may have any strides: an NCHW image needs no copy before.
Memory-bound: x is read about once (neighbouring threads read runs of FACTOR * C numbers), y written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.kernels.config import MAX_GRID_Z, index_type
from alexkern.plan import Spec, contiguous_strides, empty

BLOCK = 1024


@triton.jit
def space_to_depth_kernel(
    x,  # (N, C, H, W), any strides
    y,  # (N, HEIGHT, WIDTH, FACTOR, FACTOR, C), dense
    marks,  # (N, HEIGHT, programs of a row), uint8; not written unless MARKS
    H, W, height, width,
    stride_n, stride_c, stride_h, stride_w,
    pad_h, pad_w,
    INDEX: tl.constexpr,  # of places in a row
    C: tl.constexpr, FACTOR: tl.constexpr, MARKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row_length = tl.cast(width, INDEX) * (FACTOR * FACTOR * C)
    row, part = tl.program_id(0), tl.program_id(1)  # of all N * height rows of blocks
    n, i = (row // height).to(tl.int64), row % height
    place = part.to(INDEX) * BLOCK + tl.arange(0, BLOCK)  # in the row: (j, a, b, c)
    c = place % C
    b = place // C % FACTOR
    a = place // (C * FACTOR) % FACTOR
    j = place // (C * FACTOR * FACTOR)
    h = i * FACTOR + a - pad_h
    w = j * FACTOR + b - pad_w
    inside = (h >= 0) & (h < H) & (w >= 0) & (w < W) & (place < row_length)
    offset = h.to(tl.int64) * stride_h + w.to(tl.int64) * stride_w + c.to(tl.int64) * stride_c
    value = tl.load(x + n * stride_n + offset, mask=inside, other=0)
    tl.store(y + row.to(tl.int64) * row_length + place, value, mask=place < row_length)
    if MARKS:
        finite = tl.abs(value.to(tl.float32)) < float("inf")
        mark = tl.max((~finite).to(tl.int32), 0)
        tl.store(marks + row.to(tl.int64) * tl.num_programs(1) + part, mark.to(tl.uint8))


def space_to_depth(
    x: Tensor, factor: int, padding: tuple[int, int], size: tuple[int, int], marked: bool = False
) -> tuple[Tensor, Tensor | None]:
    """x (N, C, H, W) in any memory -> (N, *size, factor * factor * C), dense. `padding` is in x's pixels.

    `marked`: and marks (N, size[0], parts of a row), uint8, not 0 where such a part has an infinity or a NaN.
    """
    N, C, H, W = x.shape
    shape = (N, *size, factor * factor * C)
    y = empty(Spec(shape, contiguous_strides(shape), x.dtype), x.device)
    row_length = size[1] * shape[3]
    block = max(BLOCK, triton.next_power_of_2(triton.cdiv(row_length, MAX_GRID_Z)))
    parts = triton.cdiv(row_length, block)
    marks = None
    if marked:
        lines = (N, size[0], parts)
        marks = empty(Spec(lines, contiguous_strides(lines), torch.uint8), x.device)
    space_to_depth_kernel[(N * size[0], parts)](
        x, y, y if marks is None else marks, H, W, *size, *x.stride(), *padding,
        INDEX=index_type(row_length), C=C, FACTOR=factor, MARKS=marked, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return y, marks


def filter_rows(weight: Tensor) -> Tensor:
    """weight (K, C, R, S) as dense (K, R, S, C) memory: itself where it lies so, else a copy."""
    if weight.is_contiguous(memory_format=torch.channels_last):
        return weight
    return space_to_depth(weight, 1, (0, 0), (weight.shape[2], weight.shape[3]))[0]
