"""Steps 3 and 5 in Triton: what a block does, without its threads.

    acc[m, k] += a[m, c] b[c, k]; conv = relu(bias + acc), rounded; pooled = the largest of a window's nine

implicit_kernel: a program has 64 pixels x 64 filters. multiply() is the loop of step 3: a step gathers a [64
pixels, 64 channels of a tap] and b [64 channels, 64 filters], and tl.dot adds their product to acc. The compiler
makes of it what step 4 (on Ampere) and step 6 (on Hopper) spell out: copies ahead, swizzles, fragments.

fused_kernel: 15 windows x 64 filters, down an image, as step 5. Registers keep the last row's maxima of three
columns (carry) in place of the row itself: a window is carry, upper row, lower row.

    m of the fused kernel: two rows of 32 columns, in pairs:
      m          0    1    2    3   31   32   33   63
      row        0    0    0    0    0    1    1    1
      q          0    0    1    1   15    0    0   15
      column     0    1    2    3   31    0    1   31
    program (2, 0, 0), p = 3, m = 35: row 8, column 3, filters 128 to 191;
    its q = 1 stores window 1: columns 2, 3, 4 of rows 6, 7, 8

So even and odd columns are a dimension of 2 that tl.split takes apart, and the third column of a window is the next
q's even one, which tl.gather brings; the last q has no next one, and stores nothing.

New since steps 3 and 5: no thread, no shared memory, no barrier. What a block has is a tensor, and a layout that the
compiler chooses says which thread has which of its numbers. In return nobody can say what a thread does next.

Exercise: what does the compiler have to move between threads for tl.gather, and how does the order of m in
kernels/conv2d_relu_max_pool2d.py make splitting free on Ampere?
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

ON_GPU = os.environ.get("TRITON_INTERPRET") != "1"
BLOCK_Q = 16  # 15 windows look at 31 of 32 columns
CLIPPED = tl.constexpr(255)  # a winner that the ReLU did not let pass


@triton.jit
def multiply(x, w, n, p, q, exists, filters, H, W, C, R, S, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
             BLOCK_K: tl.constexpr):  # fmt: skip
    """The convolution at pixels (n, p, q) [BLOCK_M], those that exist, for filters [BLOCK_N]; float32."""
    channels = tl.arange(0, BLOCK_K)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(R * S * C // BLOCK_K):
        tap, c = step // (C // BLOCK_K), step % (C // BLOCK_K) * BLOCK_K + channels
        h, col = p + tap // S - R // 2, q + tap % S - S // 2  # [BLOCK_M]
        inside = exists & (h >= 0) & (h < H) & (col >= 0) & (col < W)
        a = tl.load(x + (((n * H + h) * W + col) * C)[:, None] + c[None, :], mask=inside[:, None], other=0.0)
        b = tl.load(w + (filters * (R * S * C))[None, :] + (tap * C + c)[:, None])  # [BLOCK_K, BLOCK_N]
        acc = tl.dot(a, b, acc)
    return acc


@triton.jit
def finish(acc, b, filters):
    """Bias and ReLU in float32, then the one rounding. A NaN stays one."""
    acc += tl.load(b + filters).to(tl.float32)[None, :]
    return tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL).to(tl.float16)


@triton.jit
def implicit_kernel(x, w, b, conv, N, H, W, C, K, R, S,
                    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    filters = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q = m // (H * W), m // W % H, m % W
    acc = multiply(x, w, n, p, q, n < N, filters, H, W, C, R, S, BLOCK_M, BLOCK_N, BLOCK_K)
    tl.store(conv + (m * K)[:, None] + filters[None, :], finish(acc, b, filters), mask=(n < N)[:, None])


@triton.jit
def join(value, place, best, best_place):
    """A later value takes the window only where it is greater, or a NaN: the first of equals keeps it."""
    take = (value > best) | (value != value)
    return tl.where(take, value, best), tl.where(take, place, best_place)


@triton.jit
def pool_row(even, odd, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr):
    """Columns 2q, 2q + 1 and 2q + 2, which is the next q's even one: their maximum and its place."""
    q = tl.arange(0, BLOCK_Q)[:, None] + tl.zeros([1, BLOCK_N], tl.int32)
    last = tl.gather(even, tl.minimum(q + 1, BLOCK_Q - 1), 0)
    best, place = join(odd, 1, even, tl.zeros([BLOCK_Q, BLOCK_N], tl.int32))
    return join(last, 2, best, place)


@triton.jit
def fused_kernel(x, w, b, pooled, place, H, W, C, K, R, S, pooled_h, pooled_w,
                 BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    filters = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    first_q, n = tl.program_id(1) * (BLOCK_Q - 1), tl.program_id(2)
    m = tl.arange(0, 4 * BLOCK_Q)  # (row 0 or 1, q, column 2q or 2q + 1)
    column, q = 2 * first_q + m % (2 * BLOCK_Q), tl.arange(0, BLOCK_Q)
    ok = (q < BLOCK_Q - 1) & (first_q + q < pooled_w)
    carry = tl.full([BLOCK_Q, BLOCK_N], float("-inf"), tl.float32)
    carry_place = tl.zeros([BLOCK_Q, BLOCK_N], tl.int32)
    for p in range(-1, pooled_h):
        row = 2 * p + 1 + m // (2 * BLOCK_Q)
        acc = multiply(x, w, n, row, column, row >= 0, filters, H, W, C, R, S, 4 * BLOCK_Q, BLOCK_N, BLOCK_K)
        value = tl.reshape(finish(acc, b, filters).to(tl.float32), [2, BLOCK_Q, 2, BLOCK_N])
        even, odd = tl.split(tl.permute(value, [1, 3, 0, 2]))  # [BLOCK_Q, BLOCK_N, row]
        even0, even1 = tl.split(even)
        odd0, odd1 = tl.split(odd)
        upper, upper_place = pool_row(even0, odd0, BLOCK_Q, BLOCK_N)
        under, under_place = pool_row(even1, odd1, BLOCK_Q, BLOCK_N)
        best, winner = join(upper, 3 + upper_place, carry, carry_place)
        best, winner = join(under, 6 + under_place, best, winner)
        to = ((n * pooled_h + p) * pooled_w + first_q + q)[:, None] * K + filters[None, :]
        mask = (ok & (p >= 0))[:, None]
        tl.store(pooled + to, best.to(tl.float16), mask=mask)
        tl.store(place + to, tl.where(best <= 0.0, CLIPPED, winner).to(tl.uint8), mask=mask)
        carry, carry_place = under, under_place


def run(x: Tensor, w: Tensor, b: Tensor) -> dict[str, Tensor]:
    """x (N, H, W, C), w (K, R, S, C), b (K,); conv by the first kernel, pooled and place by the second."""
    (N, H, W, C), (K, R, S, _) = x.shape, w.shape
    P, Q = (H - 1) // 2, (W - 1) // 2
    conv, pooled = x.new_empty(N, H, W, K), x.new_empty(N, P, Q, K)
    place = x.new_empty(N, P, Q, K, dtype=torch.uint8)
    tiles = (K // 64, triton.cdiv(N * H * W, 64))
    implicit_kernel[tiles](x, w, b, conv, N, H, W, C, K, R, S, BLOCK_M=64, BLOCK_N=64, BLOCK_K=64)
    strips = (K // 64, triton.cdiv(Q, BLOCK_Q - 1), N)
    fused_kernel[strips](x, w, b, pooled, place, H, W, C, K, R, S, P, Q, BLOCK_Q=BLOCK_Q, BLOCK_N=64, BLOCK_K=64)
    return {"conv": conv, "pooled": pooled, "place": place}
