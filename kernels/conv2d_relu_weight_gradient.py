"""conv2d_relu's gradients of its weight and bias: an implicit GEMM over all pixels, split in a fixed order.

    dw[k, (r, s, c)] = sum over m of dy[m, k] * x[m; r, s, c]      db[k] = sum over m of dy[m, k],      m = (n, p, q)

    GEMM_M = K // groups filters   A [BLOCK_M, BLOCK_K]   dy transposed as it is loaded, 0 where y <= 0
    GEMM_N = R * S * C weights     B [BLOCK_K, BLOCK_N]   x, gathered; a weight's tap is fixed for the whole loop
    GEMM_K = N * P * Q pixels      in `splits` runs, one program each

The weights are few and the pixels many, so the pixels are split to fill the GPU. Each split stores float32 sums into a
workspace of its own, and a second kernel adds them up in ascending order: the same bits in every run, without atomics.
One split of a channels_last weight needs neither. The bias gradient's programs stand behind the last tile of the
same grid. Few channels and a stride go through space_to_depth.py; the second kernel folds its filters back.
Its rung is conv2d_relu.py's, implicit_kernel of examples/ladder/7_triton.py; it adds the splits and the long GEMM_K.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.cost.chips import Chip
from alexkern.cost.model import cdiv
from alexkern.cost.triton import Product, best_split
from alexkern.geometry import Pair
from alexkern.kernels.config import choose, describe, index_type
from alexkern.kernels.convolution import (
    Key,
    Launch,
    Problem,
    constants_of,
    depth_factor,
    in_depth,
    key_of,
    nhwc,
    padded_image,
    problem_of,
    runs,
)
from alexkern.kernels.space_to_depth import space_to_depth
from alexkern.plan import Spec, contiguous_strides, empty, like

REDUCE_BLOCK = 512


@dataclass(frozen=True)
class SplitConfig:
    """splits is how many programs share a tile's pixels; factor is space_to_depth's, 1 for none."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int
    splits: int
    factor: int = 1


def configure(problem: Problem, device: Chip) -> SplitConfig:
    """The tile and the number of splits that the cost model finds fastest."""
    tile, splits = best_split(product(problem), device)
    sizes = (tile.BLOCK_M, tile.BLOCK_N, tile.BLOCK_K, tile.num_warps, tile.num_stages)
    return SplitConfig(*sizes, splits, depth_factor(problem.geometry))


def product(problem: Problem) -> Product:
    """That of one group, after space_to_depth, and how many groups there are."""
    seen = in_depth(problem.geometry, depth_factor(problem.geometry))
    return Product(seen.GEMM_N, seen.GEMM_K, seen.GEMM_M, seen.groups, problem.dtype, problem.precision)


@triton.jit
def _load_gradient(dy, y, offsets, ok, MASKED: tl.constexpr):
    gradient = tl.load(dy + offsets, mask=ok, other=0)
    if MASKED:
        output = tl.load(y + offsets, mask=ok, other=0)
        gradient = tl.where(output <= 0, tl.zeros_like(gradient), gradient)
    return gradient


@triton.jit(do_not_specialize=["total", "span", "tiles_n"])
def weight_gradient_kernel(
    dy,  # (N, P, Q, K)
    y,  # (N, P, Q, K), not read unless MASKED
    x,  # (N, H, W, PITCH)
    dw,  # (splits, K, GEMM_N) float32, or the gradient itself, (K, R, S, C)
    db,  # (splits, K) float32, or the gradient itself
    total,  # N * P * Q
    span,  # pixels of a split, a multiple of BLOCK_K
    tiles_n,  # 0 where only the bias gradient is wanted
    H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,  # constants: the loop divides by them
    RUN_C: tl.constexpr,  # channels of a tap, or of a row of them
    PITCH: tl.constexpr,  # from one pixel of x to the next
    K: tl.constexpr, GROUPS: tl.constexpr, R: tl.constexpr, RUN_S: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    KG: tl.constexpr = K // GROUPS
    GEMM_N: tl.constexpr = R * RUN_S * RUN_C
    TILE_IN_TAP: tl.constexpr = RUN_C % BLOCK_N == 0
    ALIGNED: tl.constexpr = RUN_C & -RUN_C if RUN_C & -RUN_C < BLOCK_N else BLOCK_N
    PADDED: tl.constexpr = PAD_H > 0 or PAD_W > 0
    UNSIGNED: tl.constexpr = tl.uint32 if INDEX == tl.int32 else tl.uint64
    group, tile, split = tl.program_id(0) % GROUPS, tl.program_id(0) // GROUPS, tl.program_id(1)
    tile_m, tile_n = tile % tl.cdiv(KG, BLOCK_M), tile // tl.cdiv(KG, BLOCK_M)
    filters = tile_m.to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M)
    filter_ok = filters < KG
    k = group * KG + filters
    places = tl.arange(0, BLOCK_K)
    begin = tl.cast(split, INDEX) * span
    end = tl.minimum(begin + span, total)

    if tile_n == tiles_n:
        sums = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
        for m0 in range(begin, end, BLOCK_K):
            m = tl.cast(m0, INDEX) + places
            ok = filter_ok[:, None] & (m < end)[None, :]
            sums += _load_gradient(dy, y, k[:, None] + m[None, :] * K, ok, MASKED).to(tl.float32)
        tl.store(db + split.to(tl.int64) * K + k, tl.sum(sums, axis=1).to(db.dtype.element_ty), mask=filter_ok)
        return

    rsc = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)  # a weight's number in its filter
    if TILE_IN_TAP:
        tap = tile_n * BLOCK_N // RUN_C
        c = tl.multiple_of(tile_n * BLOCK_N % RUN_C, BLOCK_N) + tl.arange(0, BLOCK_N)
    else:
        tap = rsc // RUN_C
        c = tl.max_contiguous(tl.multiple_of(rsc % RUN_C, ALIGNED), ALIGNED)
    r, s = tl.cast(tap // RUN_S, INDEX) * DILATION_H, tl.cast(tap % RUN_S, INDEX) * DILATION_W  # in pixels
    inner = group * RUN_C + (r * W + s) * PITCH + c  # [BLOCK_N]
    r, s = r.to(UNSIGNED), s.to(UNSIGNED)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for m0 in range(begin, end, BLOCK_K):
        m = tl.cast(m0, INDEX) + places
        m_ok = m < end
        ok = filter_ok[:, None] & m_ok[None, :]
        a = _load_gradient(dy, y, k[:, None] + m[None, :] * K, ok, MASKED)  # [BLOCK_M, BLOCK_K]
        # Unsigned: division by a constant is two instructions, and a place left of or above the image is one of over
        # 2**31, so that one comparison an axis keeps to the image.
        pixel = m.to(UNSIGNED) % (P * Q)
        n = m.to(UNSIGNED) // (P * Q)
        h, col = pixel // Q * STRIDE_H - PAD_H, pixel % Q * STRIDE_W - PAD_W
        x_pixels = (((n * H + h) * W + col) * PITCH).to(INDEX)  # [BLOCK_K]
        if PADDED:
            # Weights beyond the last read the image's own pixels, and are never stored.
            h = tl.where(m_ok, h, H)
            x_ok = (h[:, None] + r < H) & (col[:, None] + s < W)  # [BLOCK_K, 1 or BLOCK_N]
        else:
            x_ok = m_ok[:, None] & (rsc < GEMM_N)[None, :]
        b = tl.load(x + x_pixels[:, None] + inner[None, :], mask=x_ok, other=0)  # [BLOCK_K, BLOCK_N]
        acc = tl.dot(a, b, acc, input_precision=PRECISION)

    ok = filter_ok[:, None] & (rsc < GEMM_N)[None, :]
    out = (split.to(tl.int64) * K + k)[:, None] * GEMM_N + rsc[None, :]
    tl.store(dw + out, acc.to(dw.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["splits", "tiles", "gemm_n", "stride_k", "stride_c", "stride_r", "stride_s"])
def reduce_kernel(
    sums,  # (splits, K, gemm_n) float32
    bias_sums,  # (splits, K) float32
    dw,  # (K, C, R, S), any strides
    db,  # (K,)
    splits,
    tiles,  # programs for the weight; the bias's stand behind them
    gemm_n,
    stride_k, stride_c, stride_r, stride_s,
    K: tl.constexpr, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, FACTOR: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds up the splits, first to last. They have (r, s, c) in space_to_depth's blocks of FACTOR x FACTOR taps."""
    pid = tl.program_id(0)
    if pid < tiles:
        place = pid.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        ok = place < K * R * S * C
        rsc = (place % (R * S * C)).to(tl.int32)
        k = place // (R * S * C)
        r, s, c = rsc // (S * C), rsc // C % S, rsc % C
        block = r // FACTOR * ((S + FACTOR - 1) // FACTOR) + s // FACTOR
        source = k * gemm_n + block * (FACTOR * FACTOR * C) + (r % FACTOR * FACTOR + s % FACTOR) * C + c
        total = tl.zeros((BLOCK,), tl.float32)
        for _ in range(splits):
            total += tl.load(sums + source, mask=ok, other=0)
            source += gemm_n.to(tl.int64) * K
        out = k * stride_k + r.to(tl.int64) * stride_r + s.to(tl.int64) * stride_s + c.to(tl.int64) * stride_c
        tl.store(dw + out, total.to(dw.dtype.element_ty), mask=ok)
    else:
        # Names of their own: a name bound in both branches has to have one type.
        filters = (pid - tiles) * BLOCK + tl.arange(0, BLOCK)
        bias_source = bias_sums + filters
        bias_total = tl.zeros((BLOCK,), tl.float32)
        for _ in range(splits):
            bias_total += tl.load(bias_source, mask=filters < K, other=0)
            bias_source += K
        tl.store(db + filters, bias_total.to(db.dtype.element_ty), mask=filters < K)


@lru_cache(maxsize=4096)
def prepare(key: Key, masked: bool) -> Launch:
    """The weight gradient's launch, with the configuration that the device's table or `configure` gives."""
    problem, device = problem_of(key), describe(key[0])
    default, name = configure(problem, device), "conv2d_relu_weight_gradient"
    config = choose(name, problem.shape, problem.dtype, device, default, problem.precision)
    return launch_of(problem, config, masked, device)


def launch_of(problem: Problem, config: SplitConfig, masked: bool, device: Chip) -> Launch:
    """The launch of a problem with a configuration; `masked` where the kernel masks the gradient while loading it.

    The grid is (tiles of M and groups, splits), its first axis to be multiplied by the tiles of N wanted. The sizes are
    the pixels, those of a split, and the tiles of N.
    """
    if masked and config.BLOCK_M >= 128:
        config = replace(config, num_warps=8)  # masked operands wait in registers: four warps would spill
    seen = in_depth(problem.geometry, config.factor)
    run_c, run_s = runs(seen)
    total = seen.GEMM_M
    span = cdiv(cdiv(total, config.splits), config.BLOCK_K) * config.BLOCK_K
    farthest = max(total * seen.K, seen.N * seen.H * seen.W * seen.C + padded_image(seen))
    constants = constants_of(seen, config, problem, device)
    constants |= dict(
        H=seen.H, W=seen.W, P=seen.P, Q=seen.Q, RUN_C=run_c, PITCH=seen.C, RUN_S=run_s, MASKED=masked,
        INDEX=index_type(farthest + 2**24),  # and the splits' last steps
    )  # fmt: skip
    grid = (cdiv(seen.GEMM_N, config.BLOCK_M) * seen.groups, cdiv(total, span))
    tiles_n = cdiv(seen.GEMM_K, config.BLOCK_N)
    return Launch(problem, config, grid, (total, span, tiles_n), constants)


def loads(key: Key) -> int:
    """How often each of the output's gradients is loaded."""
    return prepare(key, False).sizes[2]


def workspace(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return empty(Spec(shape, contiguous_strides(shape), torch.float32), device)


def weight_gradient(
    grad: Tensor, output: Tensor | None, input: Tensor, weight: Tensor,
    stride: Pair, padding: Pair, dilation: Pair, groups: int, precision: str, needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of weight (K, C // groups, R, S), which lies like weight, and of bias (K,); None where not needed.

    grad: (N, K, P, Q) in NHWC memory. output: the convolution's, in NHWC memory too, for the ReLU mask; or None where
    grad is masked already.
    """
    needs_weight, needs_bias = needs
    K, C, R, S = weight.shape
    device = input.device
    dw = empty(like(weight), device) if needs_weight else None
    db = empty(Spec((K,), (1,), weight.dtype), device) if needs_bias else None
    if grad.numel() == 0 or weight.numel() == 0:
        for gradient in (dw, db):
            if gradient is not None:
                gradient.zero_()
        if grad.numel() == 0 or not needs_bias:
            return dw, db
    job = prepare(key_of(input, weight, stride, padding, dilation, groups, precision), output is not None)
    factor, constants = job.config.factor, job.constants
    total, span, tiles_n = job.sizes
    tiles_n = tiles_n if needs_weight else 0
    tiles_m, splits = job.grid
    gemm_n = constants["R"] * constants["RUN_S"] * constants["RUN_C"]
    reduces = splits > 1 or factor > 1 or not (dw is None or dw.is_contiguous(memory_format=torch.channels_last))
    sums, bias_sums = dw, db
    if reduces:
        sums = workspace((splits, K, gemm_n), device) if needs_weight else None
        bias_sums = workspace((splits, K), device) if needs_bias else None
    some = grad  # stands in for what is not wanted, and is neither read nor written there
    with torch.cuda.device_of(grad):
        if factor > 1 and needs_weight:
            seen = in_depth(job.problem.geometry, factor)
            x, _ = space_to_depth(input, factor, job.problem.geometry.padding, (seen.H, seen.W))
        else:
            x = nhwc(input) if needs_weight else some
        weight_gradient_kernel[(tiles_m * (tiles_n + needs_bias), splits)](
            grad, some if output is None else output, x, some if sums is None else sums,
            some if bias_sums is None else bias_sums, total, span, tiles_n, **constants,
        )  # fmt: skip
        if reduces:
            tiles = cdiv(weight.numel(), REDUCE_BLOCK) if needs_weight else 0
            reduce_kernel[(tiles + (cdiv(K, REDUCE_BLOCK) if needs_bias else 0),)](
                some if sums is None else sums, some if bias_sums is None else bias_sums,
                some if dw is None else dw, some if db is None else db, splits, tiles, gemm_n,
                *((0, 0, 0, 0) if dw is None else dw.stride()),
                K=K, C=C, R=R, S=S, FACTOR=factor, BLOCK=REDUCE_BLOCK, num_warps=4,
            )  # fmt: skip
    return dw, db
