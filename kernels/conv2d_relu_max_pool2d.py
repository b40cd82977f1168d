"""conv2d_relu_max_pool2d: convolution, bias, ReLU and max-pooling, in one kernel where that saves time, else in two.

Fused, for 3x3 windows of stride 2 (AlexNet's), one program: ROWS pooled rows x up to BLOCK_Q - 1 pooled columns of one
image x BLOCK_N filters. It walks down the image, two rows of the convolution's output at a time:

    A      [4 * BLOCK_Q, BLOCK_K]   2 rows x 2 * BLOCK_Q columns of pixels, gathered from x as in conv2d_relu.py
    acc    [4 * BLOCK_Q, BLOCK_N]   float32; bias, ReLU, one rounding; then it is split, in registers, into
    even, odd   [BLOCK_Q, BLOCK_N]  columns 2q and 2q + 1 of either row; column 2q + 2 is the next q's even column
    carry  [BLOCK_Q, BLOCK_N]       the last row's maxima of three columns: a window is carry, row, row

A row is convolved once in a program, so what is computed twice is one row a segment of ROWS and one column a tile. The
convolution's output never reaches memory. m, the index of a pixel in A, is laid out so that the two rows and the two
column parities stand in bits of m that mma's accumulators keep within a thread (sm_80); wgmma's (sm_90) keep the
parities, and the rows are brought together through shared memory.

Its rung is fused_kernel of examples/ladder/7_triton.py; it adds segments, any convolution, and the choice below.

Separate: conv2d_relu.py's kernel, then max_pool2d.py's. `configure` compares the two by FLOPs and bytes; the table is
in docs/pooling.md. Backward brings the pooled gradient to the winners that the ReLU let pass (max_pool2d.gather), and
hands the masked gradient to the convolution's gradient kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.cost import triton as model
from alexkern.cost.chips import Chip
from alexkern.cost.model import cdiv
from alexkern.geometry import Geometry, Pair, pooling
from alexkern.kernels import conv2d_relu, max_pool2d
from alexkern.kernels.amend import amend
from alexkern.kernels.config import choose, describe
from alexkern.kernels.conv2d_relu import operands
from alexkern.kernels.convolution import Problem, depth_factor, gather, in_depth, index_type, key_of, problem_of, runs
from alexkern.kernels.max_pool2d import clip, join_row, join_rows
from alexkern.kernels.precision import input_precision
from alexkern.plan import conv2d_relu_max_pool2d_outputs, conv2d_relu_output, empty, is_channels_last

WINDOW = ((3, 3), (2, 2), (0, 0))  # kernel_size, stride, padding: the fused kernel's


@dataclass(frozen=True)
class Config:
    """One of the two ways, and the fused kernel's tile. factor is space_to_depth's, 1 for none."""

    fused: bool
    ROWS: int
    BLOCK_Q: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int
    factor: int


def pooled(of: Geometry) -> Pair:
    """Output size for 3x3 windows of stride 2."""
    windows = pooling((of.N, of.K, of.P, of.Q), *WINDOW)
    return windows.P, windows.Q


def moved(problem: Problem, save_offsets: bool) -> tuple[int, int, int]:
    """Bytes of the inputs, of the convolution's output, and of the pooled output with its offsets."""
    of, size = problem.geometry, problem.dtype.itemsize
    P, Q = pooled(of)
    inputs = of.N * of.C * of.H * of.W + of.K * of.GEMM_K
    return inputs * size, of.GEMM_M * of.K * size, of.N * of.K * P * Q * (size + save_offsets)


def _tiles_q(of: Geometry, block_q: int) -> int:
    return cdiv(pooled(of)[1], block_q - 1)


def configure(problem: Problem, pool: tuple[Pair, ...], save_offsets: bool, device: Chip) -> Config:
    """The way that the cost model finds faster."""
    if not fusable(problem, pool):
        return _separate(problem)
    best = best_fused(problem, save_offsets, device)
    faster = fused_cycles(problem, best, save_offsets, device) < separate_cycles(problem, save_offsets, device)
    return best if faster else _separate(problem)


def _separate(problem: Problem) -> Config:
    return Config(False, *(0, 0, 0, 0, 0, 0), depth_factor(problem.geometry))


def best_fused(problem: Problem, save_offsets: bool, device: Chip) -> Config:
    """The fused kernel's tile that the model finds fastest."""
    return min(candidates(problem, device), key=lambda config: fused_cycles(problem, config, save_offsets, device))


def candidates(problem: Problem, device: Chip) -> list[Config]:
    """The fused kernel's tiles for a problem: they compile without spills."""
    # On sm_80 a BLOCK_K of 32 makes ptxas aim at 128 registers, and spill.
    block_k, stages = (32, 4) if problem.dtype == torch.float32 else (64, 3)
    tiles = [(16, 64, 4), (32, 64, 8)]
    if device.multiplies_shared_memory:
        tiles.append((32, 128, 8))
    P = pooled(problem.geometry)[0]
    segments = sorted({cdiv(P, parts) for parts in range(1, P + 1)})
    return [
        Config(True, rows, block_q, block_n, block_k, warps, stages, depth_factor(problem.geometry))
        for block_q, block_n, warps in tiles
        for rows in segments
    ]


def fusable(problem: Problem, pool: tuple[Pair, ...]) -> bool:
    """What the fused kernel can do, and could do faster: without tensor cores no product is worth computing twice."""
    of = problem.geometry
    small = index_type(in_depth(of, depth_factor(of))) == tl.int32
    fast = problem.dtype != torch.float32 or problem.precision == "tf32"
    return pool == WINDOW and of.groups == 1 and of.C > 0 and small and fast


def fused_cycles(problem: Problem, config: Config, save_offsets: bool, device: Chip) -> float:
    """The model's time of the fused kernel."""
    tile = model.Tile(4 * config.BLOCK_Q, config.BLOCK_N, 0, config.BLOCK_K, config.num_warps, config.num_stages)
    of = problem.geometry
    programs = cdiv(of.K, config.BLOCK_N) * _tiles_q(of, config.BLOCK_Q) * of.N * cdiv(pooled(of)[0], config.ROWS)
    inputs, _, outputs = moved(problem, save_offsets)
    product = conv2d_relu.product(problem)
    return model.pooled_cycles(tile, programs, config.ROWS + 1, inputs + outputs, product, device)


def separate_cycles(problem: Problem, save_offsets: bool, device: Chip) -> float:
    """The model's time of the two kernels: the convolution's output is written and read again."""
    inputs, between, outputs = moved(problem, save_offsets)
    return model.separate_cycles(conv2d_relu.product(problem), inputs + between, between + outputs, device)


@triton.jit
def _pool_row(even, odd, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr):
    """The maximum of columns 2q, 2q + 1, 2q + 2 (the next q's even one) and its place: [BLOCK_Q, BLOCK_N] each."""
    q = tl.arange(0, BLOCK_Q)[:, None] + tl.zeros([1, BLOCK_N], tl.int32)
    last = tl.gather(even, tl.minimum(q + 1, BLOCK_Q - 1), 0)
    return join_row(even.to(tl.float32), odd.to(tl.float32), last.to(tl.float32))


@triton.jit(do_not_specialize=["H", "W", "P", "Q", "pooled_p", "pooled_q", "rows", "gemm_k"])
def conv2d_relu_max_pool2d_kernel(
    x,  # (N, H, W, PITCH)
    w,  # (K, R, S, C)
    b,  # (K,), not read unless HAS_BIAS
    y,  # (N, K, pooled_p, pooled_q), dense in any order
    offsets,  # the same, uint8; not written unless SAVE_OFFSETS
    H, W, P, Q, pooled_p, pooled_q,
    rows,  # of pooled values in a segment; like gemm_k at run time, so that no loop is unrolled
    gemm_k,  # R * S * C
    out_n, out_k, out_pixel,
    RUN_C: tl.constexpr,  # channels of a tap, or of a row of them
    PITCH: tl.constexpr,  # from one pixel of x to the next
    K: tl.constexpr, R: tl.constexpr, RUN_S: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    HAS_BIAS: tl.constexpr, SAVE_OFFSETS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    BLOCK_M: tl.constexpr = 4 * BLOCK_Q
    PADDED: tl.constexpr = PAD_H > 0 or PAD_W > 0
    tiles_n, tiles_q = tl.cdiv(K, BLOCK_N), tl.cdiv(pooled_q, BLOCK_Q - 1)
    segments = tl.cdiv(pooled_p, rows)
    pid = tl.program_id(0)
    tile_n, pid = pid % tiles_n, pid // tiles_n
    tile_q, pid = pid % tiles_q, pid // tiles_q
    segment, n = pid % segments, (pid // segments).to(tl.int64)

    m = tl.arange(0, BLOCK_M)  # (row 0 or 1, q // 8, parity, q % 8)
    lower = m // (2 * BLOCK_Q)
    column = 2 * (tile_q * (BLOCK_Q - 1) + m % (2 * BLOCK_Q) // 16 * 8 + m % 8) + m // 8 % 2
    col0 = column * STRIDE_W - PAD_W
    filters = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    filter_ok = filters < K
    w_filters = w + filters.to(tl.int64) * (R * RUN_S * RUN_C)  # [BLOCK_N]
    image = x + n * H * W * PITCH
    q = tl.arange(0, BLOCK_Q)
    pooled_column = tile_q * (BLOCK_Q - 1) + q
    store_ok = (q < BLOCK_Q - 1)[:, None] & filter_ok[None, :]
    out = n * out_n + pooled_column.to(tl.int64)[:, None] * out_pixel + filters.to(tl.int64)[None, :] * out_k

    carry = tl.full([BLOCK_Q, BLOCK_N], float("-inf"), tl.float32)
    carry_place = tl.zeros([BLOCK_Q, BLOCK_N], tl.int32)
    first = segment * rows
    for p in range(first - 1, tl.minimum(first + rows, pooled_p)):
        row = 2 * p + 1 + lower  # of the convolution's output; the first of all, above the segment, is not needed
        m_ok = (row >= 2 * first) & (row < P) & (column < Q)
        h0 = row * STRIDE_H - PAD_H
        x_pixels = image + (h0 * W + col0) * PITCH  # [BLOCK_M]
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for k0 in range(0, gemm_k, BLOCK_K):
            a, k, k_ok = gather(
                x_pixels, h0, col0, m_ok, k0, H, W, RUN_C, PITCH, R, RUN_S, DILATION_H, DILATION_W, PADDED, tl.int32,
                False, BLOCK_K,
            )  # fmt: skip
            w_ok = k_ok[:, None] & filter_ok[None, :]
            weights = tl.load(w_filters[None, :] + k[:, None], mask=w_ok, other=0)  # [BLOCK_K, BLOCK_N]
            acc = tl.dot(a, weights, acc, input_precision=PRECISION)
        if HAS_BIAS:
            acc += tl.load(b + filters, mask=filter_ok, other=0).to(tl.float32)[None, :]
        value = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL).to(y.dtype.element_ty)
        value = tl.reshape(value, [2, BLOCK_Q // 8, 2, 8, BLOCK_N])
        value = tl.reshape(tl.permute(value, [1, 3, 4, 0, 2]), [BLOCK_Q, BLOCK_N, 2, 2])  # (q, filter, row, parity)
        even, odd = tl.split(value)
        even0, even1 = tl.split(even)
        odd0, odd1 = tl.split(odd)
        upper, upper_place = _pool_row(even0, odd0, BLOCK_Q, BLOCK_N)
        under, under_place = _pool_row(even1, odd1, BLOCK_Q, BLOCK_N)
        best, place = join_rows(carry, carry_place, upper, upper_place, under, under_place)
        ok = store_ok & (pooled_column < tl.where(p >= first, pooled_q, 0))[:, None]
        spot = out + tl.cast(p, tl.int64) * pooled_q * out_pixel
        tl.store(y + spot, best.to(y.dtype.element_ty), mask=ok)
        if SAVE_OFFSETS:
            place = clip(best, place, True)
            tl.store(offsets + spot, place.to(offsets.dtype.element_ty), mask=ok)
        carry, carry_place = under, under_place


@lru_cache(maxsize=1024)
def _configuration(key: conv2d_relu.Key, pool: tuple[Pair, ...], save_offsets: bool) -> Config:
    problem, device = problem_of(key), describe(key[0])
    default = configure(problem, pool, save_offsets, device)
    if not fusable(problem, pool):
        return default

    def others() -> list[Config]:
        ranked = sorted(candidates(problem, device), key=lambda one: fused_cycles(problem, one, save_offsets, device))
        return [_separate(problem), *ranked[:8]]

    return choose(
        "conv2d_relu_max_pool2d", problem.shape, problem.dtype, device, default, problem.precision, others=others
    )


def launch_fused(
    input: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, offsets: Tensor | None,
    problem: Problem, config: Config,
) -> None:  # fmt: skip
    """output and, where there are any, offsets (N, K, P, Q) of 3x3 windows with stride 2; any strides of the rest."""
    of = problem.geometry
    seen = in_depth(of, config.factor)
    x, w, marks = operands(input, weight, of, config.factor)
    run_c, run_s = runs(seen)
    P, Q = pooled(seen)
    grid = cdiv(seen.K, config.BLOCK_N) * _tiles_q(seen, config.BLOCK_Q) * cdiv(P, config.ROWS) * seen.N
    # On sm_100 a tile of 32 sums a thread fits in 128 registers; left alone, ptxas may spill on its way there.
    limit = {"maxnreg": 128} if describe(input.device).capability[0] == 10 and config.BLOCK_N == 64 else {}
    out_n, out_k, _, out_pixel = output.stride()
    conv2d_relu_max_pool2d_kernel[(grid,)](
        x, w, output if bias is None else bias.contiguous(), output, output if offsets is None else offsets,
        seen.H, seen.W, seen.P, seen.Q, P, Q, config.ROWS, seen.GEMM_K, out_n, out_k, out_pixel,
        run_c, seen.C, seen.K, seen.R, run_s, *seen.stride, *seen.padding, *seen.dilation,
        bias is not None, offsets is not None, problem.precision,
        config.BLOCK_Q, config.BLOCK_N, config.BLOCK_K,
        num_warps=config.num_warps, num_stages=config.num_stages, **limit,
    )  # fmt: skip
    if marks is not None:
        amend(input, weight, bias, output, offsets, marks, of, config.factor, pooled=True)


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int,
    pool_kernel_size: Pair, pool_stride: Pair, pool_padding: Pair, save_offsets: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    convolution, pool = (stride, padding, dilation, groups), (pool_kernel_size, pool_stride, pool_padding)
    key = key_of(input, weight, *convolution, input_precision(input.dtype, "conv"))
    of = key[-1]
    windows = pooling((of.N, of.K, of.P, of.Q), *pool)
    config = _configuration(key, ((windows.R, windows.S), windows.stride, windows.padding), save_offsets)
    if not config.fused:
        activation = conv2d_relu.forward(input, weight, bias, *convolution)
        return max_pool2d.forward(activation, *pool, (1, 1), False, save_offsets, behind_relu=True)
    output_spec, offsets_spec = conv2d_relu_max_pool2d_outputs(input, weight, bias, *convolution, *pool, save_offsets)
    output = empty(output_spec, input.device)
    offsets = empty(offsets_spec, input.device) if save_offsets else None
    if output.numel() > 0:
        with torch.cuda.device_of(output):
            launch_fused(input, weight, bias, output, offsets, problem_of(key), config)
    return output, offsets


def backward(
    grad: Tensor, input: Tensor, weight: Tensor, offsets: Tensor,
    stride: Pair, padding: Pair, dilation: Pair, groups: int,
    pool_kernel_size: Pair, pool_stride: Pair, pool_padding: Pair, needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of input, weight and bias, those that `needs` asks for."""
    convolution = (stride, padding, dilation, groups)
    between = conv2d_relu_output(input, weight, None, *convolution)
    windows = pooling(between.shape, pool_kernel_size, pool_stride, pool_padding)
    masked = max_pool2d.gather(grad, offsets, windows, is_channels_last(input) or is_channels_last(weight))
    return conv2d_relu.convolution_gradients(masked, None, input, weight, *convolution, needs)
