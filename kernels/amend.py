"""Outputs that space_to_depth's zeros have spoiled, computed again from the images and filters themselves.

Over blocks of FACTOR x FACTOR pixels an R x S filter has ceil(R / FACTOR) x ceil(S / FACTOR) blocks, whose rows and
columns beyond R and S are 0. A pixel just outside of a window is multiplied by such a 0, and NaN comes of it where the
pixel is an infinity or a NaN. space_to_depth marks the parts of its lines that have one.

One program looks after LINES lines of an image's outputs. It reads the marks of all lines of blocks that their windows
lie in, and is done where there are none: nearly always. Else it goes through its outputs, BLOCK at a time, and sums up
again those that are NaN, TAPS products at a time and in float64, which needs no care. What torch makes NaN stays NaN. A
pooled output is NaN if one of the outputs in its window is; that window is pooled again, and its offset written.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from alexkern.cost.model import cdiv
from alexkern.geometry import Geometry
from alexkern.kernels.max_pool2d import better, clip

LINES, BLOCK, TAPS = 8, 32, 8
POOL_SIZE, POOL_STRIDE = 3, 2  # of conv2d_relu_max_pool2d's fused kernel


def spoils(of: Geometry, factor: int) -> bool:
    """Whether a filter over blocks of factor x factor pixels has rows or columns that are its own no more."""
    return of.R % factor != 0 or of.S % factor != 0


@triton.jit(do_not_specialize=["H", "W", "rows", "columns", "height", "marks_of_a_line", "taps"])
def amend_kernel(
    x,  # (N, C, H, W), any strides
    w,  # (K, C, R, S), any strides
    b,  # (K,), not read unless HAS_BIAS
    marks,  # (N, height, marks_of_a_line), uint8
    y,  # (N, K, rows, columns), any strides
    offsets,  # the same, uint8; not written unless SAVE_OFFSETS
    H, W, rows, columns, height, marks_of_a_line,
    taps,  # R * S * C, at run time so that the loop is not unrolled
    x_n, x_c, x_h, x_w, w_k, w_c, w_r, w_s, y_n, y_k, y_p, y_q,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    FACTOR: tl.constexpr,
    SIZE: tl.constexpr, STRIDE: tl.constexpr,  # of the pooling's windows; 1 and 1 for none
    HAS_BIAS: tl.constexpr, SAVE_OFFSETS: tl.constexpr, LINES: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    groups = tl.cdiv(rows, LINES)
    n = (tl.program_id(0) // groups).to(tl.int64)
    first = tl.program_id(0) % groups * LINES
    end = tl.minimum(first + LINES, rows)
    places = tl.arange(0, BLOCK)
    last_block = (end - 1) * STRIDE + SIZE - 1 + (R + FACTOR - 1) // FACTOR - 1
    count = (last_block - first * STRIDE + 1) * marks_of_a_line
    image = x + n * x_n
    own = marks + (n * height + first * STRIDE) * marks_of_a_line
    marked = tl.zeros([BLOCK], tl.int32)
    for start in range(0, count, BLOCK):
        marked |= tl.load(own + start + places, mask=start + places < count, other=0).to(tl.int32)
    if tl.max(marked, 0) != 0:
        for line in range(first, end):
            for start in range(0, columns * K, BLOCK):
                index = start + places
                q, k = (index // K).to(tl.int64), (index % K).to(tl.int64)
                p = tl.zeros_like(q) + line
                spot = n * y_n + k * y_k + p * y_p + q * y_q
                found = tl.load(y + spot, mask=index < columns * K, other=0)
                spoiled = found != found
                if tl.max(spoiled.to(tl.int32), 0) != 0:
                    best = tl.full([BLOCK], float("-inf"), tl.float32)
                    place = tl.zeros([BLOCK], tl.int32)
                    for window in range(SIZE * SIZE):
                        h0 = (p * STRIDE + window // SIZE) * FACTOR - PAD_H
                        col0 = (q * STRIDE + window % SIZE) * FACTOR - PAD_W
                        total = tl.zeros([BLOCK], tl.float64)
                        for start_tap in range(0, taps, TAPS):
                            tap = start_tap + tl.arange(0, TAPS)
                            r, s, c = tap // (S * C), tap // C % S, (tap % C).to(tl.int64)
                            h, col = h0[:, None] + r, col0[:, None] + s  # [BLOCK, TAPS]
                            wanted = spoiled[:, None] & (tap < taps)
                            inside = wanted & (h >= 0) & (h < H) & (col >= 0) & (col < W)
                            pixel = tl.load(image + h * x_h + col * x_w + c * x_c, mask=inside, other=0)
                            weight = tl.load(
                                w + k[:, None] * w_k + c * w_c + r.to(tl.int64) * w_r + s.to(tl.int64) * w_s,
                                mask=wanted,
                                other=0,
                            )
                            total += tl.sum(pixel.to(tl.float64) * weight.to(tl.float64), 1)
                        value = total.to(tl.float32)
                        if HAS_BIAS:
                            value += tl.load(b + k, mask=spoiled, other=0).to(tl.float32)
                        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
                        value = value.to(y.dtype.element_ty).to(tl.float32)
                        take = better(value, best)
                        best, place = tl.where(take, value, best), tl.where(take, window, place)
                    tl.store(y + spot, best.to(y.dtype.element_ty), mask=spoiled)
                    if SAVE_OFFSETS:
                        place = clip(best, place, True)
                        tl.store(offsets + spot, place.to(offsets.dtype.element_ty), mask=spoiled)


def amend(
    input: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, offsets: Tensor | None, marks: Tensor,
    of: Geometry, factor: int, pooled: bool,
) -> None:  # fmt: skip
    """Amends output (N, K, P, Q), or, `pooled`, that of 3x3 windows of stride 2 over it, with its offsets if any.

    ptxas aims at more blocks and may spill for it; told that a thread may have all of its registers, it takes 52 to 76.
    """
    rows, columns = output.shape[2:]
    amend_kernel[(output.shape[0] * cdiv(rows, LINES),)](
        input, weight, output if bias is None else bias.contiguous(), marks, output,
        output if offsets is None else offsets,
        of.H, of.W, rows, columns, marks.shape[1], marks.shape[2], of.R * of.S * of.C,
        *input.stride(), *weight.stride(), *output.stride(),
        C=of.C, K=of.K, R=of.R, S=of.S, PAD_H=of.padding[0], PAD_W=of.padding[1],
        FACTOR=factor, SIZE=POOL_SIZE if pooled else 1, STRIDE=POOL_STRIDE if pooled else 1,
        HAS_BIAS=bias is not None, SAVE_OFFSETS=offsets is not None, LINES=LINES, BLOCK=BLOCK, TAPS=TAPS, num_warps=4,
        maxnreg=255,
    )  # fmt: skip
