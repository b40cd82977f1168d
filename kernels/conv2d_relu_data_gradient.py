"""conv2d_relu's gradient of its input: an implicit GEMM over the output's gradient, masked while loading.

    dx[m, c] = sum over (r, s, k) of dy[m; r, s, k] * w[k; r, s, c],  m = (n, h, w), p * stride = h + pad - r * dilation

    GEMM_M = N * H * W pixels of one residue   A [BLOCK_M, BLOCK_K]   dy, 0 where y <= 0 (a NaN output lets it pass)
    GEMM_N = C // groups channels              B [BLOCK_K, BLOCK_N]   w as it lies, (K, R, S, C): channels contiguous
    GEMM_K = taps of the residue * K // groups

With a stride only every stride-th tap reaches a given pixel. Pixels are therefore taken by residue, (h % stride,
w % stride): all pixels of one share their taps, r0 + j * step, and each program loops over these alone. Stride 1 is the
one residue with every tap. Each dx is written exactly once, 0 where no tap reaches it.

Its rung is conv2d_relu.py's, implicit_kernel of examples/ladder/7_triton.py; it adds the mask and the residues.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.cost.chips import Chip
from alexkern.cost.model import cdiv
from alexkern.cost.triton import Product, best_tile
from alexkern.geometry import Geometry, Pair
from alexkern.kernels.config import MAX_GRID_Z, choose, describe
from alexkern.kernels.convolution import Config, Key, Launch, Problem, constants_of, index_type, key_of, problem_of
from alexkern.kernels.space_to_depth import filter_rows
from alexkern.plan import empty, like


def configure(problem: Problem, device: Chip) -> Config:
    """The tile that the cost model finds fastest."""
    return Config(**best_tile(product(problem), device).__dict__)


def product(problem: Problem) -> Product:
    """That of one residue and group, and how many of these there are."""
    of = problem.geometry
    (residues_h, residues_w), (taps_h, taps_w) = residues(of), taps(of)
    pixels = of.N * cdiv(of.H, of.stride[0]) * cdiv(of.W, of.stride[1])
    sizes = (pixels, of.C // of.groups, taps_h * taps_w * of.GEMM_N)
    return Product(*sizes, of.groups * residues_h * residues_w, problem.dtype, problem.precision)


def residues(of: Geometry) -> Pair:
    """How many residues have pixels, vertically and horizontally."""
    return min(of.stride[0], of.H), min(of.stride[1], of.W)


def steps(of: Geometry) -> Pair:
    """From one tap that reaches a pixel to the next, vertically and horizontally."""
    (stride_h, stride_w), (dilation_h, dilation_w) = of.stride, of.dilation
    return stride_h // gcd(stride_h, dilation_h), stride_w // gcd(stride_w, dilation_w)


def taps(of: Geometry) -> Pair:
    """How many taps of a residue there are at most, vertically and horizontally."""
    step_h, step_w = steps(of)
    return cdiv(of.R, step_h), cdiv(of.S, step_w)


@triton.jit
def _first_tap(
    residue, STRIDE: tl.constexpr, PAD: tl.constexpr, DILATION: tl.constexpr, STEP: tl.constexpr, TAPS: tl.constexpr
):
    """The first tap that reaches a residue's pixels (TAPS where none does), and its first pixel's output row there."""
    first = residue * 0
    if STRIDE > 1:
        first += TAPS
        for candidate in tl.static_range(STEP if STEP < TAPS else TAPS):
            first = tl.where((residue + PAD - candidate * DILATION) % STRIDE == 0, candidate, first)
    return first, (residue + PAD - first * DILATION) // STRIDE


@triton.jit(
    do_not_specialize=[
        "first_residue",
        "N",
        "H",
        "W",
        "P",
        "Q",
        "gemm_k",
        "stride_n",
        "stride_c",
        "stride_h",
        "stride_w",
    ]
)
def data_gradient_kernel(
    dy,  # (N, P, Q, K)
    y,  # (N, P, Q, K), not read unless MASKED
    w,  # (K, R, S, C)
    dx,  # (N, C, H, W), any strides, or (N, H, W, C) where CHANNELS_LAST
    first_residue,  # of the grid
    N, H, W, P, Q,
    gemm_k,  # TAPS_H * TAPS_W * K // GROUPS, at run time so that the loop is not unrolled
    stride_n, stride_c, stride_h, stride_w,  # dx's
    C: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    RESIDUES_H: tl.constexpr, RESIDUES_W: tl.constexpr,  # that have pixels: a stride may be larger than the image
    MASKED: tl.constexpr, CHANNELS_LAST: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TAIL_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    CG: tl.constexpr = C // GROUPS
    KG: tl.constexpr = K // GROUPS
    TAPS_W: tl.constexpr = (S + STEP_W - 1) // STEP_W
    TAPS: tl.constexpr = (R + STEP_H - 1) // STEP_H * TAPS_W
    HOP_H: tl.constexpr = DILATION_H * STEP_H // STRIDE_H  # output rows from one such tap to the next
    HOP_W: tl.constexpr = DILATION_W * STEP_W // STRIDE_W
    STEP_IN_TAP: tl.constexpr = KG % BLOCK_K == 0
    RUN: tl.constexpr = KG & -KG if KG & -KG < BLOCK_K else BLOCK_K
    tiles_n = tl.cdiv(CG, BLOCK_N + TAIL_N)
    group, tile = tl.program_id(0) % GROUPS, tl.program_id(0) // GROUPS
    residue = first_residue + tl.program_id(1)
    tl.assume(residue >= 0)  # divisions of unsigned numbers are shorter
    residue_h, residue_w = residue // RESIDUES_W, residue % RESIDUES_W
    tile_m, tile_n = tile // tiles_n, tile % tiles_n
    r0, p0 = _first_tap(residue_h.to(INDEX), STRIDE_H, PAD_H, DILATION_H, STEP_H, R)
    s0, q0 = _first_tap(residue_w.to(INDEX), STRIDE_W, PAD_W, DILATION_W, STEP_W, S)

    width = (W - 1) // STRIDE_W + 1  # of a residue; rounding up by an addition might wrap
    pixels = ((H - 1) // STRIDE_H + 1).to(INDEX) * width
    first = tile_m.to(tl.int64) * BLOCK_M
    image = first // pixels
    m = (first - image * pixels).to(INDEX) + tl.arange(0, BLOCK_M)
    n = image + m // pixels
    i, j = m % pixels // width, m % width  # pixels is a multiple of width
    h, col = i * STRIDE_H + residue_h, j * STRIDE_W + residue_w
    m_ok = (n < N) & (h < H) & (col < W)
    p_m, q_m = p0 + i, q0 + j
    dy_pixels = group * KG + ((n * P + p_m) * Q + q_m) * K  # [BLOCK_M]
    places = tl.arange(0, BLOCK_K)

    channels = tile_n.to(INDEX) * (BLOCK_N + TAIL_N) + tl.arange(0, BLOCK_N)
    w_group = w + group.to(tl.int64) * KG * (R * S * CG)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if TAIL_N > 0:
        tail_channels = tile_n.to(INDEX) * (BLOCK_N + TAIL_N) + BLOCK_N + tl.arange(0, TAIL_N)
        acc_tail = tl.zeros((BLOCK_M, TAIL_N), tl.float32)

    for k0 in range(0, gemm_k, BLOCK_K):
        if STEP_IN_TAP:
            tap = k0 // KG
            k = tl.multiple_of(k0 % KG, BLOCK_K) + places
        else:
            tap = (k0 + places) // KG
            k = tl.max_contiguous(tl.multiple_of((k0 + places) % KG, RUN), RUN)
        tap_h, tap_w = tl.cast(tap // TAPS_W, INDEX), tl.cast(tap % TAPS_W, INDEX)
        r, s = r0 + tap_h * STEP_H, s0 + tap_w * STEP_W
        p = p_m[:, None] - tap_h * HOP_H  # [BLOCK_M, 1 or BLOCK_K]
        q = q_m[:, None] - tap_w * HOP_W
        ok = m_ok[:, None] & (p >= 0) & (p < P) & (q >= 0) & (q < Q)
        k_ok = k >= 0
        if STRIDE_H > 1 or STRIDE_W > 1:
            k_ok = k_ok & (r < R) & (s < S)
        if not STEP_IN_TAP:
            k_ok = k_ok & (tap < TAPS)
        ok = ok & k_ok[None, :]
        inner = k - (tap_h * HOP_H * Q + tap_w * HOP_W) * K
        a = tl.load(dy + dy_pixels[:, None] + inner[None, :], mask=ok, other=0)  # [BLOCK_M, BLOCK_K]
        if MASKED:
            output = tl.load(y + dy_pixels[:, None] + inner[None, :], mask=ok, other=0)
            a = tl.where(output <= 0, tl.zeros_like(a), a)
        filters = w_group + (k.to(INDEX) * (R * S) + (r * S + s)) * CG  # [BLOCK_K]
        w_ok = k_ok[:, None] & (channels < CG)[None, :]
        weights = tl.load(filters[:, None] + channels[None, :], mask=w_ok, other=0)  # [BLOCK_K, BLOCK_N]
        acc = tl.dot(a, weights, acc, input_precision=PRECISION)
        if TAIL_N > 0:
            w_ok = k_ok[:, None] & (tail_channels < CG)[None, :]
            weights = tl.load(filters[:, None] + tail_channels[None, :], mask=w_ok, other=0)
            acc_tail = tl.dot(a, weights, acc_tail, input_precision=PRECISION)

    if CHANNELS_LAST:
        out = dx + group * CG + ((n * H + h) * W + col) * C  # [BLOCK_M]
        _store(acc, out, m_ok, channels, CG)
        if TAIL_N > 0:
            _store(acc_tail, out, m_ok, tail_channels, CG)
    else:
        out = dx + n * stride_n + h.to(tl.int64) * stride_h + col.to(tl.int64) * stride_w
        _store_strided(acc, out, m_ok, group, channels, stride_c, CG)
        if TAIL_N > 0:
            _store_strided(acc_tail, out, m_ok, group, tail_channels, stride_c, CG)


@triton.jit
def _store(acc, out, m_ok, channels, CG: tl.constexpr):
    ok = m_ok[:, None] & (channels < CG)[None, :]
    tl.store(out[:, None] + channels[None, :], acc.to(out.dtype.element_ty), mask=ok)


@triton.jit
def _store_strided(acc, out, m_ok, group, channels, stride_c, CG: tl.constexpr):
    """Transposed, so that neighbouring threads store neighbouring pixels."""
    ok = (channels < CG)[:, None] & m_ok[None, :]
    planes = (group * CG + channels).to(tl.int64) * stride_c
    tl.store(out[None, :] + planes[:, None], tl.trans(acc.to(out.dtype.element_ty)), mask=ok)


@lru_cache(maxsize=4096)
def prepare(key: Key, masked: bool) -> Launch:
    """The data gradient's launch, with the configuration that the device's table or `configure` gives."""
    problem, device = problem_of(key), describe(key[0])
    config = choose(
        "conv2d_relu_data_gradient", problem.shape, problem.dtype, device, configure(problem, device), problem.precision
    )
    return launch_of(problem, config, masked, device)


def launch_of(problem: Problem, config: Config, masked: bool, device: Chip) -> Launch:
    """The launch of a problem with a configuration; `masked` where the kernel masks the gradient while loading it."""
    if masked and config.BLOCK_M >= 128:
        config = replace(config, num_warps=8)  # masked operands wait in registers: four warps would spill
    of = problem.geometry
    M, N, gemm_k = product(problem)[:3]
    tiles = cdiv(M, config.BLOCK_M) * cdiv(N, config.BLOCK_N + config.TAIL_N)
    (residues_h, residues_w), (step_h, step_w) = residues(of), steps(of)
    grid = (tiles * of.groups, residues_h * residues_w)
    constants = constants_of(of, config, problem, device)
    constants |= dict(
        C=of.C, S=of.S, STEP_H=step_h, STEP_W=step_w, RESIDUES_H=residues_h, RESIDUES_W=residues_w, MASKED=masked,
        INDEX=index_type(of),
    )  # fmt: skip
    sizes = (of.N, of.H, of.W, of.P, of.Q, gemm_k)
    return Launch(problem, config, grid, sizes, constants)


def loads(key: Key) -> int:
    """How often each of the output's gradients is loaded."""
    of, config = key[-1], prepare(key, False).config
    taps_h, taps_w = taps(of)
    return taps_h * taps_w * cdiv(of.C // of.groups, config.BLOCK_N + config.TAIL_N)


def data_gradient(
    grad: Tensor, output: Tensor | None, input: Tensor, weight: Tensor,
    stride: Pair, padding: Pair, dilation: Pair, groups: int, precision: str,
) -> Tensor:  # fmt: skip
    """The gradient of input (N, C, H, W), which lies like input.

    grad: (N, K, P, Q) in NHWC memory. output: the convolution's, in NHWC memory too, for the ReLU mask; or None where
    grad is masked already.
    """
    dx = empty(like(input), input.device)
    if dx.numel() == 0:
        return dx
    job = prepare(key_of(input, weight, stride, padding, dilation, groups, precision), output is not None)
    (programs, residues), filters = job.grid, filter_rows(weight)
    with torch.cuda.device_of(dx):
        for first in range(0, residues, MAX_GRID_Z):
            data_gradient_kernel[(programs, min(residues - first, MAX_GRID_Z))](
                grad, grad if output is None else output, filters, dx, first, *job.sizes, *dx.stride(),
                CHANNELS_LAST=dx.is_contiguous(memory_format=torch.channels_last),
                **job.constants,
            )  # fmt: skip
    return dx
