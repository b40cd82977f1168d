"""max_pool2d: the maximum of every R x S window with a one-byte offset r * S + s, and a backward that gathers.

Forward, 3x3 windows of stride 2 within the image (AlexNet's), one program: BLOCK_P strips of ROWS windows, one below
the other, x BLOCK_C channels, channels innermost.

    input    3 loads of [BLOCK_P, BLOCK_C] a row of the image: 128 bits a thread along C; neighbouring strips meet in L1
    row      its maximum and place, [BLOCK_P, BLOCK_C]; the last row of a window is the first of the next
    output   [BLOCK_P, BLOCK_C] a window in input's dtype; offsets in uint8

Forward, any other window: BLOCK_P pixels x BLOCK_C channels, R * S loads; offsets are int32 where a window has over 256
pixels. Values are compared as float32, which is exact, and in the window's order: the first of equal values wins.

Backward, one program: BLOCK_P pixels of one *input* image x BLOCK_C channels. An input pixel lies in at most
ceil(R / stride) * ceil(S / stride) windows (4 for 3x3 with stride 2); their gradients are added up, in the windows'
order and in float32, where the offset names this pixel. So every gradient is written once, without atomics and without
clearing it first. Behind a ReLU the forward writes CLIPPED where it did not let the winner pass: that names no pixel,
so the same pass applies the ReLU's mask.

All kernels take any strides: in NCHW memory a warp has consecutive pixels. Roofline and schedule: docs/pooling.md.
Its rung is pool of examples/ladder/1_naive.cu; it adds strips, offsets and the backward pass.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.cost.chips import Chip
from alexkern.geometry import Geometry, Pair, pooling
from alexkern.kernels.config import MAX_GRID_Z, choose, describe, index_type
from alexkern.plan import Spec, conform, empty, is_channels_last, nchw, pooled, strides

CLIPPED = tl.constexpr(-1)  # geometry.CLIPPED, in offsets of either dtype
UNROLLED_TAPS = 16  # windows (forward) or gathered positions (backward) up to this many are unrolled


@dataclass(frozen=True)
class Config:
    """BLOCK_P pixels, or strips of ROWS pixels one above the other, x BLOCK_C channels a program."""

    BLOCK_P: int
    BLOCK_C: int
    ROWS: int
    num_warps: int


def configure(written: tuple[int, ...], channels_inner: bool, strips: bool, device: Chip) -> Config:
    """Eight elements a thread: with channels innermost 128 bits of 16-bit numbers, else a warp has consecutive pixels.

    written: (N, C, rows, columns) of what the kernel writes. Of the BLOCK_C that read whole sectors, that with fewest
    idle channels. Strips are as long as saves input rows, while there are two programs for every multiprocessor.
    """
    N, C, rows, columns = written
    num_warps = 4
    elements = 8 * 32 * num_warps
    if channels_inner:
        narrowest = min(triton.next_power_of_2(C), 16)  # of 16 halves, a sector
        blocks = [size for size in (128, 64, 32, 16, 8, 4, 2, 1) if narrowest <= size < 2 * C]
        block_c = min(blocks, key=lambda size: -(-C // size) * size)  # of equals, the widest
        block_p = elements // block_c
    else:
        block_p = min(triton.next_power_of_2(rows * columns), elements)
        block_c = min(triton.next_power_of_2(C), elements // block_p)
    fewest = triton.next_power_of_2(triton.cdiv(C, MAX_GRID_Z))  # of channels, for as many programs as a grid can have
    if block_c < fewest:
        block_p, block_c = max(elements // fewest, 1), fewest
    longest = N * C * rows * columns // (elements * 2 * device.num_sms) if strips else 1
    lengths = range(1, max(min(longest, 4, rows), 1) + 1)
    return Config(block_p, block_c, min(lengths, key=lambda length: (2 * length + 1) * -(-rows // length)), num_warps)


@triton.jit
def better(value, best):
    """Whether a later value takes the window: greater or NaN. The first of equals keeps it, and the last NaN."""
    return (value > best) | (value != value)


@triton.jit
def join_row(first, middle, last):
    """The maximum of three neighbours in a row, float32, and its place 0, 1 or 2."""
    take = better(middle, first)
    best, place = tl.where(take, middle, first), take.to(tl.int32)
    take = better(last, best)
    return tl.where(take, last, best), tl.where(take, 2, place)


@triton.jit
def join_rows(first, first_place, second, second_place, third, third_place):
    """The maximum of a 3x3 window and its offset 0 to 8, from what join_row gives for its rows."""
    take = better(second, first)
    best, place = tl.where(take, second, first), tl.where(take, 3 + second_place, first_place)
    take = better(third, best)
    return tl.where(take, third, best), tl.where(take, 6 + third_place, place)


@triton.jit
def clip(best, offset, BEHIND_RELU: tl.constexpr):
    """What is saved of a winner: its offset, or, behind a ReLU that did not let it pass, CLIPPED."""
    if BEHIND_RELU:
        offset = tl.where(best <= 0, CLIPPED, offset)
    return offset


@triton.jit
def _image(n, stride, UNIT: tl.constexpr):
    """Where image n starts; its stride, in units, may be of over 2**31 numbers."""
    return n * (tl.cast(stride, tl.int64) * UNIT)


@triton.jit
def _load_row(pointer, stride_w, mask):
    first = tl.load(pointer, mask=mask, other=0).to(tl.float32)  # [BLOCK_P, BLOCK_C]
    middle = tl.load(pointer + stride_w, mask=mask, other=0).to(tl.float32)
    last = tl.load(pointer + 2 * stride_w, mask=mask, other=0).to(tl.float32)
    return join_row(first, middle, last)


@triton.jit
def max_pool2d_3x3_stride2_kernel(
    input,  # (N, C, H, W)
    output,  # (N, C, P, Q), dense
    offsets,  # the same strides
    first,  # image of the grid's first layer
    P, Q, strips,  # strips = segments of ROWS pooled rows * Q
    units,  # C / UNIT; strides too are in units, so that the compiler sees what divides them
    in_n, in_c, in_h, in_w,
    out_n, out_c, out_pixel,
    INDEX: tl.constexpr,  # of pixels and channels
    UNIT: tl.constexpr, SAVE_OFFSETS: tl.constexpr, BEHIND_RELU: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    n = (first + tl.program_id(2)).to(tl.int64)
    strip = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C)
    p, q = strip // Q * ROWS, strip % Q  # of the strip's first window
    stride_h, stride_w = tl.cast(in_h, tl.int64) * UNIT, tl.cast(in_w, tl.int64) * UNIT
    corner = 2 * p * stride_h + 2 * q * stride_w  # [BLOCK_P]
    base = (input + _image(n, in_n, UNIT) + corner)[:, None] + (c.to(tl.int64) * in_c)[None, :]
    exists = (strip < strips)[:, None] & (c < tl.cast(units, INDEX) * UNIT)[None, :]
    place = (
        _image(n, out_n, UNIT)
        + ((p * Q + q).to(tl.int64) * out_pixel * UNIT)[:, None]
        + (c.to(tl.int64) * out_c)[None, :]
    )

    carry, carry_place = _load_row(base, stride_w, exists)
    for j in tl.static_range(ROWS):
        inside = exists & (p + j < P)[:, None]
        upper, upper_place = _load_row(base + (2 * j + 1) * stride_h, stride_w, inside)
        under, under_place = _load_row(base + (2 * j + 2) * stride_h, stride_w, inside)
        best, offset = join_rows(carry, carry_place, upper, upper_place, under, under_place)
        spot = place + j * Q * tl.cast(out_pixel, tl.int64) * UNIT
        tl.store(output + spot, best.to(output.dtype.element_ty), mask=inside)
        if SAVE_OFFSETS:
            offset = clip(best, offset, BEHIND_RELU)
            tl.store(offsets + spot, offset.to(offsets.dtype.element_ty), mask=inside)
        carry, carry_place = under, under_place


@triton.jit
def _take_tap(base, r, s, h0, w0, inside, best, offset, H, W, stride_h, stride_w,
              S: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, INSIDE: tl.constexpr):  # fmt: skip
    if not INSIDE:
        h, w = h0 + r * DILATION_H, w0 + s * DILATION_W
        inside = inside & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    pointer = base + (r * DILATION_H * stride_h + s * DILATION_W * stride_w)
    value = tl.load(pointer, mask=inside, other=float("-inf")).to(tl.float32)  # [BLOCK_P, BLOCK_C]
    take = better(value, best)
    return tl.where(take, value, best), tl.where(take, r * S + s, offset)


@triton.jit
def max_pool2d_forward_kernel(
    input,  # (N, C, H, W)
    output,  # (N, C, P, Q), dense
    offsets,  # the same strides
    first,  # image of the grid's first layer
    H, W, Q, pixels,  # pixels = P * Q
    units,  # C / UNIT; strides too are in units, so that the compiler sees what divides them
    in_n, in_c, in_h, in_w,
    out_n, out_c, out_pixel,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    INDEX: tl.constexpr, UNIT: tl.constexpr,
    INSIDE: tl.constexpr,  # no window leaves the image
    UNROLL: tl.constexpr,
    SAVE_OFFSETS: tl.constexpr, BEHIND_RELU: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    n = (first + tl.program_id(2)).to(tl.int64)
    pixel = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C)
    p, q = pixel // Q, pixel % Q
    h0, w0 = p * STRIDE_H - PAD_H, q * STRIDE_W - PAD_W
    stride_h, stride_w = tl.cast(in_h, tl.int64) * UNIT, tl.cast(in_w, tl.int64) * UNIT
    corner = h0 * stride_h + w0 * stride_w  # [BLOCK_P]
    base = (input + _image(n, in_n, UNIT) + corner)[:, None] + (c.to(tl.int64) * in_c)[None, :]
    inside = (pixel < pixels)[:, None] & (c < tl.cast(units, INDEX) * UNIT)[None, :]

    best = tl.full([BLOCK_P, BLOCK_C], float("-inf"), tl.float32)
    offset = tl.zeros([BLOCK_P, BLOCK_C], tl.int32)
    if not INSIDE:  # a window of -inf alone keeps its first position in the image
        r0 = (tl.maximum(-h0, 0) + (DILATION_H - 1)) // DILATION_H
        s0 = (tl.maximum(-w0, 0) + (DILATION_W - 1)) // DILATION_W
        offset += (r0 * S + s0)[:, None]
    h0, w0 = h0[:, None], w0[:, None]
    if UNROLL:
        for tap in tl.static_range(R * S):
            best, offset = _take_tap(base, tap // S, tap % S, h0, w0, inside, best, offset, H, W, stride_h, stride_w,
                                     S, DILATION_H, DILATION_W, INSIDE)  # fmt: skip
    else:
        for r in range(R):
            for s in range(S):
                best, offset = _take_tap(base, r, s, h0, w0, inside, best, offset, H, W, stride_h, stride_w,
                                         S, DILATION_H, DILATION_W, INSIDE)  # fmt: skip

    pixels_place = _image(n, out_n, UNIT) + pixel.to(tl.int64) * out_pixel * UNIT
    place = pixels_place[:, None] + (c.to(tl.int64) * out_c)[None, :]
    tl.store(output + place, best.to(output.dtype.element_ty), mask=inside)
    if SAVE_OFFSETS:
        offset = clip(best, offset, BEHIND_RELU)
        tl.store(offsets + place, offset.to(offsets.dtype.element_ty), mask=inside)


@triton.jit
def _gather_window(total, grad_base, saved_base, offsets, i, j, h, w, p_last, q_last, P, Q, inside,
                   grad_p, grad_q, saved_p, saved_q,
                   R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
                   DILATION_H: tl.constexpr, DILATION_W: tl.constexpr):  # fmt: skip
    p, q = p_last - i, q_last - j  # [BLOCK_P]
    down, right = h - p * STRIDE_H, w - q * STRIDE_W  # of the window's corner
    r, s = down // DILATION_H, right // DILATION_W
    seen = (p >= 0) & (p < P) & (q >= 0) & (q < Q) & (r < R) & (s < S)
    if DILATION_H > 1:
        seen = seen & (down % DILATION_H == 0)
    if DILATION_W > 1:
        seen = seen & (right % DILATION_W == 0)
    mask = inside & seen[:, None]
    saved = saved_base - (i * saved_p + j * saved_q)
    winner = tl.load(offsets + saved, mask=mask, other=0).to(tl.int32)  # [BLOCK_P, BLOCK_C]
    grad = tl.load(grad_base - (i * grad_p + j * grad_q), mask=mask, other=0).to(tl.float32)
    won = mask & (winner == (r * S + s)[:, None])
    return total + tl.where(won, grad, 0.0)


@triton.jit
def max_pool2d_backward_kernel(
    grad,  # (N, C, P, Q)
    offsets,  # (N, C, P, Q)
    input_grad,  # (N, C, H, W), dense
    first,  # image of the grid's first layer
    P, Q, W, pixels,  # pixels = H * W
    units,  # C / UNIT, as in the forward
    grad_n, grad_c, grad_p, grad_q,
    saved_n, saved_c, saved_p, saved_q,
    out_n, out_c, out_pixel,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    REACH_H: tl.constexpr, REACH_W: tl.constexpr,  # windows that may hold a pixel, in each direction
    INDEX: tl.constexpr, UNIT: tl.constexpr, UNROLL: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    n = (first + tl.program_id(2)).to(tl.int64)
    pixel = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C)
    h, w = pixel // W + PAD_H, pixel % W + PAD_W  # from the padded corner
    p_last, q_last = h // STRIDE_H, w // STRIDE_W
    wide_c = c.to(tl.int64)[None, :]
    grad_p, grad_q = tl.cast(grad_p, tl.int64) * UNIT, tl.cast(grad_q, tl.int64) * UNIT
    saved_p, saved_q = tl.cast(saved_p, tl.int64) * UNIT, tl.cast(saved_q, tl.int64) * UNIT
    grad_base = (grad + _image(n, grad_n, UNIT) + (p_last * grad_p + q_last * grad_q))[:, None] + wide_c * grad_c
    saved_base = _image(n, saved_n, UNIT) + (p_last * saved_p + q_last * saved_q)[:, None] + wide_c * saved_c
    inside = (pixel < pixels)[:, None] & (c < tl.cast(units, INDEX) * UNIT)[None, :]

    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    if UNROLL:
        for place in tl.static_range(REACH_H * REACH_W - 1, -1, -1):  # windows in ascending order
            total = _gather_window(total, grad_base, saved_base, offsets,
                                   place // REACH_W, place % REACH_W,
                                   h, w, p_last, q_last, P, Q, inside, grad_p, grad_q, saved_p, saved_q,
                                   R, S, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W)  # fmt: skip
    else:
        for i in range(REACH_H):
            for j in range(REACH_W):
                total = _gather_window(total, grad_base, saved_base, offsets,
                                       REACH_H - 1 - i, REACH_W - 1 - j,
                                       h, w, p_last, q_last, P, Q, inside, grad_p, grad_q, saved_p, saved_q,
                                       R, S, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W)  # fmt: skip

    place = _image(n, out_n, UNIT) + (pixel.to(tl.int64) * out_pixel * UNIT)[:, None] + wide_c * out_c
    tl.store(input_grad + place, total.to(input_grad.dtype.element_ty), mask=inside)


@functools.lru_cache(maxsize=1024)
def _configuration(
    direction: str, input_shape: tuple[int, ...], written: tuple[int, ...], channels_inner: bool, strips: bool,
    dtype: torch.dtype, device: torch.device,
) -> Config:  # fmt: skip
    default = configure(written, channels_inner, strips, describe(device))
    # The table's entries are of channels_last images, the layout worth tuning.
    return (
        choose(f"max_pool2d.{direction}", input_shape, dtype, describe(device), default) if channels_inner else default
    )


def unit(channels: int, channels_inner: bool, *steps: tuple[int, ...]) -> int:
    """The power of two up to 16 that divides the channels and every stride but those of channels."""
    if not channels_inner:
        return 1
    return math.gcd(16, channels, *(step for n, _, h, w in steps for step in (n, h, w)))


def forward(
    input: Tensor, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool, save_offsets: bool,
    behind_relu: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`behind_relu`: `input` came out of a ReLU, and the offset of a winner that it did not let pass is CLIPPED."""
    windows = pooling(input.shape, kernel_size, stride, padding, dilation)
    N, C, H, W, _, R, S, stride, padding, dilation, _ = windows
    channels_last = is_channels_last(input)
    output_spec, offsets_spec = pooled(windows, input.dtype, channels_last, ceil_mode, save_offsets, behind_relu)
    output = empty(output_spec, input.device)
    offsets = empty(offsets_spec, input.device) if save_offsets else None
    if N == 0:
        return output, offsets
    P, Q = output_spec.shape[2:]
    out_n, out_c, _, out_pixel = output_spec.stride
    channels_inner = out_c == 1 and C > 1
    in_n, in_c, in_h, in_w = strides(input)
    UNIT = unit(C, channels_inner, strides(input))
    inside = padding == (0, 0) and all(
        (count - 1) * step + spread * (taps - 1) < size
        for count, step, spread, taps, size in zip((P, Q), stride, dilation, (R, S), (H, W), strict=True)
    )
    strips = inside and (R, S, stride, dilation) == (3, 3, (2, 2), (1, 1))
    written = (N, C, P, Q)
    config = _configuration("forward", (N, C, H, W), written, channels_inner, strips, input.dtype, input.device)
    pointers = (input, output, output if offsets is None else offsets)
    numbers = (C // UNIT, in_n // UNIT, in_c, in_h // UNIT, in_w // UNIT, out_n // UNIT, out_c, out_pixel // UNIT)
    count = triton.cdiv(P, config.ROWS) * Q if strips else P * Q
    blocks = triton.cdiv(count, config.BLOCK_P), triton.cdiv(C, config.BLOCK_C)
    INDEX = index_type(P * Q, C)
    with torch.cuda.device_of(input):
        for first in range(0, N, MAX_GRID_Z):
            grid = (*blocks, min(N - first, MAX_GRID_Z))
            if strips:
                max_pool2d_3x3_stride2_kernel[grid](
                    *pointers, first, P, Q, count, *numbers, INDEX, UNIT, save_offsets, behind_relu,
                    config.ROWS, config.BLOCK_P, config.BLOCK_C, num_warps=config.num_warps,
                )  # fmt: skip
            else:
                max_pool2d_forward_kernel[grid](
                    *pointers, first, H, W, Q, count, *numbers, R, S, *stride, *padding, *dilation,
                    INDEX, UNIT, inside, R * S <= UNROLLED_TAPS, save_offsets, behind_relu,
                    config.BLOCK_P, config.BLOCK_C, num_warps=config.num_warps,
                )  # fmt: skip
    return output, offsets


def backward(
    grad: Tensor, offsets: Tensor, input_shape: tuple[int, int, int, int], channels_last: bool,
    kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool, needs: tuple[bool],
) -> tuple[Tensor | None]:  # fmt: skip
    """Gradient of the input."""
    windows = pooling(input_shape, kernel_size, stride, padding, dilation)
    return (gather(grad, offsets, windows, channels_last),)


def gather(grad: Tensor, offsets: Tensor, windows: Geometry, channels_last: bool) -> Tensor:
    """The pooled values' gradient (N, C, P, Q) brought to the pixels that won, (N, C, H, W); CLIPPED names none."""
    N, C, H, W, _, R, S, stride, padding, dilation, _ = windows
    spec = nchw((N, C, H, W), grad.dtype, channels_last)
    input_grad = empty(spec, grad.device)
    if input_grad.numel() == 0:
        return input_grad
    P, Q = offsets.shape[2:]
    channels_inner = spec.stride[1] == 1 and C > 1
    if channels_inner and grad.stride(1) > 1:
        # A gradient in the other order of dimensions would be read a few bytes at a time, four times over.
        grad = conform(grad, Spec(tuple(grad.shape), offsets.stride(), grad.dtype))
    (grad_n, grad_c, grad_p, grad_q), (saved_n, saved_c, saved_p, saved_q) = strides(grad), strides(offsets)
    out_n, out_c, _, out_pixel = spec.stride
    UNIT = unit(C, channels_inner, strides(grad), strides(offsets))
    reach = [triton.cdiv(d * (taps - 1) + 1, s) for d, taps, s in zip(dilation, (R, S), stride, strict=True)]
    config = _configuration("backward", spec.shape, spec.shape, channels_inner, False, grad.dtype, grad.device)
    blocks = triton.cdiv(H * W, config.BLOCK_P), triton.cdiv(C, config.BLOCK_C)
    with torch.cuda.device_of(grad):
        for first in range(0, N, MAX_GRID_Z):
            grid = (*blocks, min(N - first, MAX_GRID_Z))
            max_pool2d_backward_kernel[grid](
                grad, offsets, input_grad, first,
                P, Q, W, H * W, C // UNIT,
                grad_n // UNIT, grad_c, grad_p // UNIT, grad_q // UNIT,
                saved_n // UNIT, saved_c, saved_p // UNIT, saved_q // UNIT,
                out_n // UNIT, out_c, out_pixel // UNIT,
                R, S, *stride, *padding, *dilation, *reach,
                index_type(H * W, C), UNIT, reach[0] * reach[1] <= UNROLLED_TAPS,
                config.BLOCK_P, config.BLOCK_C, num_warps=config.num_warps,
            )  # fmt: skip
    return input_grad
