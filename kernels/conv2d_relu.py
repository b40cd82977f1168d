"""conv2d_relu on tensor cores: an implicit GEMM over NHWC memory with bias and ReLU in its epilogue.

    y[m, k] = relu(b[k] + sum over (r, s, c) of x[m; r, s, c] * w[k; r, s, c]),   m = (n, p, q)

    GEMM_M = N * P * Q pixels      A [BLOCK_M, BLOCK_K]   taps, gathered from x while loading
    GEMM_N = K // groups filters   B [BLOCK_K, BLOCK_N]   w as it lies: (K, R, S, C)
    GEMM_K = R * S * C             one flat loop over (r, s, c)

One program owns BLOCK_M pixels and BLOCK_N (+ TAIL_N) filters of one group. Where BLOCK_K divides the group's
channels, a step lies within one tap and r, s, c are scalars; elsewhere (48 channels, 3 channels) each of the BLOCK_K
places has its own, so that no step is padded per tap. Neighbouring programs take the same pixels, so x is read from
DRAM about once. Few channels and a stride (the first layer) go through space_to_depth.py first, and amend.py looks
after what that may have spoiled. The gradients' kernels are in conv2d_relu_data_gradient.py and
conv2d_relu_weight_gradient.py. Why this shape, and each AlexNet layer's roofline and tile: docs/convolution.md.

Its rung is implicit_kernel of examples/ladder/7_triton.py; it adds tails, groups, strides, and any number of channels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.cost.chips import Chip
from alexkern.cost.model import cdiv
from alexkern.cost.triton import Product, best_tile
from alexkern.geometry import Geometry, Pair
from alexkern.kernels import conv2d_relu_data_gradient as data
from alexkern.kernels import conv2d_relu_weight_gradient as weights
from alexkern.kernels.amend import amend, spoils
from alexkern.kernels.config import choose, describe
from alexkern.kernels.convolution import (
    Config,
    Key,
    Launch,
    Problem,
    constants_of,
    depth_factor,
    gather,
    in_depth,
    index_type,
    key_of,
    nhwc,
    problem_of,
    runs,
)
from alexkern.kernels.masked_gradient import masked_gradient, worthwhile
from alexkern.kernels.precision import input_precision
from alexkern.kernels.space_to_depth import filter_rows, space_to_depth
from alexkern.plan import conv2d_relu_output, empty


def configure(problem: Problem, device: Chip) -> Config:
    """The tile that the cost model finds fastest."""
    tile = best_tile(product(problem), device)
    return Config(**tile.__dict__, factor=depth_factor(problem.geometry))


def product(problem: Problem) -> Product:
    """That of one group, after space_to_depth, and how many groups there are."""
    seen = in_depth(problem.geometry, depth_factor(problem.geometry))
    return Product(seen.GEMM_M, seen.GEMM_N, seen.GEMM_K, seen.groups, problem.dtype, problem.precision)


@triton.jit(do_not_specialize=["N", "H", "W", "P", "Q", "gemm_k"])
def conv2d_relu_kernel(
    x,  # (N, H, W, PITCH)
    w,  # (K, R, S, C)
    b,  # (K,), not read unless HAS_BIAS
    y,  # (N, P, Q, K), or (N, K, P, Q) unless CHANNELS_LAST
    N, H, W, P, Q,
    gemm_k,  # R * S * C, at run time so that the loop is not unrolled
    RUN_C: tl.constexpr,  # channels of a tap, or of a row of them
    PITCH: tl.constexpr,  # from one pixel of x to the next
    K: tl.constexpr, GROUPS: tl.constexpr, R: tl.constexpr, RUN_S: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    HAS_BIAS: tl.constexpr, CHANNELS_LAST: tl.constexpr, PRECISION: tl.constexpr,
    INDEX: tl.constexpr,  # of places in one image: int32, or int64 for images of over 2**31 elements
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TAIL_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    KG: tl.constexpr = K // GROUPS
    STEP_IN_TAP: tl.constexpr = RUN_C % BLOCK_K == 0
    PADDED: tl.constexpr = PAD_H > 0 or PAD_W > 0
    tiles_n = tl.cdiv(KG, BLOCK_N + TAIL_N)
    group, tile = tl.program_id(0) % GROUPS, tl.program_id(0) // GROUPS
    tile_m, tile_n = tile // tiles_n, tile % tiles_n

    pixels = P.to(INDEX) * Q
    first = tile_m.to(tl.int64) * BLOCK_M
    image = first // pixels  # one 64-bit division; what follows counts from this image's first pixel
    m = (first - image * pixels).to(INDEX) + tl.arange(0, BLOCK_M)
    n = image + m // pixels
    pixel = m % pixels
    m_ok = n < N
    h0 = (pixel // Q) * STRIDE_H - PAD_H
    col0 = (pixel % Q) * STRIDE_W - PAD_W
    x_pixels = x + group * RUN_C + ((n * H + h0) * W + col0) * PITCH  # [BLOCK_M]

    filters = tile_n.to(INDEX) * (BLOCK_N + TAIL_N) + tl.arange(0, BLOCK_N)
    w_filters = w + (group * KG + filters).to(tl.int64) * (R * RUN_S * RUN_C)  # [BLOCK_N]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if TAIL_N > 0:
        tail_filters = tile_n.to(INDEX) * (BLOCK_N + TAIL_N) + BLOCK_N + tl.arange(0, TAIL_N)
        w_tail = w + (group * KG + tail_filters).to(tl.int64) * (R * RUN_S * RUN_C)  # [TAIL_N]
        acc_tail = tl.zeros((BLOCK_M, TAIL_N), tl.float32)

    for k0 in range(0, gemm_k, BLOCK_K):
        a, k, k_ok = gather(
            x_pixels, h0, col0, m_ok, k0, H, W, RUN_C, PITCH, R, RUN_S, DILATION_H, DILATION_W, PADDED, INDEX,
            STEP_IN_TAP, BLOCK_K,
        )  # fmt: skip
        w_ok = filters[None, :] < KG
        if not STEP_IN_TAP:
            w_ok = w_ok & k_ok[:, None]
        weights = tl.load(w_filters[None, :] + k[:, None], mask=w_ok, other=0)  # [BLOCK_K, BLOCK_N]
        acc = tl.dot(a, weights, acc, input_precision=PRECISION)
        if TAIL_N > 0:
            w_ok = tail_filters[None, :] < KG
            if not STEP_IN_TAP:
                w_ok = w_ok & k_ok[:, None]
            weights = tl.load(w_tail[None, :] + k[:, None], mask=w_ok, other=0)  # [BLOCK_K, TAIL_N]
            acc_tail = tl.dot(a, weights, acc_tail, input_precision=PRECISION)

    _store(acc, b, y, first, n, pixel, m_ok, pixels, group, filters, K, KG, HAS_BIAS, CHANNELS_LAST)
    if TAIL_N > 0:
        _store(acc_tail, b, y, first, n, pixel, m_ok, pixels, group, tail_filters, K, KG, HAS_BIAS, CHANNELS_LAST)


@triton.jit
def _store(
    acc, b, y, first, n, pixel, m_ok, pixels, group, filters,
    K: tl.constexpr, KG: tl.constexpr, HAS_BIAS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Bias, ReLU, one rounding, store: acc [BLOCK_M, filters] float32."""
    k = group * KG + filters
    filter_ok = filters < KG
    if HAS_BIAS:
        acc += tl.load(b + k, mask=filter_ok, other=0).to(tl.float32)[None, :]
    value = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL).to(y.dtype.element_ty)
    if CHANNELS_LAST:
        m = first + tl.arange(0, acc.shape[0])
        tl.store(y + m[:, None] * K + k[None, :], value, mask=m_ok[:, None] & filter_ok[None, :])
    else:
        # Transposed, so that neighbouring threads store neighbouring pixels.
        planes = (n * K)[None, :] + k[:, None]  # [filters, BLOCK_M]
        tl.store(y + planes * pixels + pixel[None, :], tl.trans(value), mask=filter_ok[:, None] & m_ok[None, :])


@lru_cache(maxsize=4096)
def prepare(key: Key) -> Launch:
    """The convolution's launch, with the configuration that the device's table or `configure` gives."""
    problem, device = problem_of(key), describe(key[0])
    config = choose("conv2d_relu", problem.shape, problem.dtype, device, configure(problem, device), problem.precision)
    return launch_of(problem, config, device)


def launch_of(problem: Problem, config: Config, device: Chip) -> Launch:
    """The launch of a problem with a configuration."""
    seen = in_depth(problem.geometry, config.factor)
    run_c, run_s = runs(seen)
    constants = constants_of(seen, config, problem, device)
    constants |= dict(RUN_C=run_c, PITCH=seen.C, RUN_S=run_s, INDEX=index_type(seen))
    tiles_m, tiles_n = cdiv(seen.GEMM_M, config.BLOCK_M), cdiv(seen.GEMM_N, config.BLOCK_N + config.TAIL_N)
    sizes = (seen.N, seen.H, seen.W, seen.P, seen.Q, seen.GEMM_K)
    return Launch(problem, config, (tiles_m * tiles_n * seen.groups,), sizes, constants)


def operands(input: Tensor, weight: Tensor, of: Geometry, factor: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """input as (N, H, W, C) and weight as (K, R, S, C) memory, both through space_to_depth where factor > 1.

    And, where outputs may have to be amended, space_to_depth's marks.
    """
    if factor == 1:
        return nhwc(input), filter_rows(weight), None
    seen = in_depth(of, factor)
    x, marks = space_to_depth(input, factor, of.padding, (seen.H, seen.W), spoils(of, factor))
    return x, space_to_depth(weight, factor, (0, 0), (seen.R, seen.S))[0], marks


def launch(
    input: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor,
    stride: Pair, padding: Pair, dilation: Pair, groups: int,
) -> None:  # fmt: skip
    """output (N, K, P, Q), dense NHWC or NCHW, = relu(conv2d(input, weight, bias)). Any strides of the rest."""
    job = prepare(key_of(input, weight, stride, padding, dilation, groups, input_precision(input.dtype, "conv")))
    factor = job.config.factor
    x, w, marks = operands(input, weight, job.problem.geometry, factor)
    conv2d_relu_kernel[job.grid](
        x, w, output if bias is None else bias.contiguous(), output, *job.sizes, HAS_BIAS=bias is not None,
        CHANNELS_LAST=output.is_contiguous(memory_format=torch.channels_last), **job.constants,
    )  # fmt: skip
    if marks is not None:
        amend(input, weight, bias, output, None, marks, job.problem.geometry, factor, pooled=False)


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    output = empty(conv2d_relu_output(input, weight, bias, stride, padding, dilation, groups), input.device)
    if output.numel() > 0:
        with torch.cuda.device_of(output):
            launch(input, weight, bias, output, stride, padding, dilation, groups)
    return output


def backward(
    grad: Tensor, input: Tensor, weight: Tensor, output: Tensor,
    stride: Pair, padding: Pair, dilation: Pair, groups: int, needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of input, weight and bias, those that `needs` asks for."""
    return convolution_gradients(grad, output, input, weight, stride, padding, dilation, groups, needs)


def convolution_gradients(
    grad: Tensor, output: Tensor | None, input: Tensor, weight: Tensor,
    stride: Pair, padding: Pair, dilation: Pair, groups: int, needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of input, weight and bias, those that `needs` asks for, by this convolution's kernels.

    grad: (N, K, P, Q), any strides. output: the convolution's, for the ReLU mask, or None where grad is masked already.
    """
    geometry = (stride, padding, dilation, groups, input_precision(input.dtype, "conv"))
    grad = nhwc(grad)
    if output is not None:
        output = nhwc(output)
        if grad.numel() > 0 and input.numel() > 0:
            key = key_of(input, weight, *geometry)
            loads = (data.loads(key) if needs[0] else 0) + (weights.loads(key) if needs[1] else 0)
            if worthwhile(grad.numel(), loads, grad.dtype, describe(grad.device)):
                grad, output = masked_gradient(grad, output), None
    dx = data.data_gradient(grad, output, input, weight, *geometry) if needs[0] else None
    if not (needs[1] or needs[2]):
        return dx, None, None
    return dx, *weights.weight_gradient(grad, output, input, weight, *geometry, (needs[1], needs[2]))
