"""linear_relu_dropout: a GEMM with bias, ReLU and dropout in its epilogue.

    y[m, n] = relu(b[n] + sum over k of x[m, k] * w[n, k]) * (scale if kept else 0)

    GEMM_M = samples       A [BLOCK_M, BLOCK_K]   x
    GEMM_N = out_features  B [BLOCK_K, BLOCK_N]   w as it lies, (out_features, in_features)
    GEMM_K = in_features

At the classifier's sizes the weights (75 MB in 16 bits) are most of the traffic, so each is read once: programs that
share a weight tile are neighbours. Dropout's bits are computed in the epilogue, one Philox block for four outputs where
out_features is a multiple of four. Backward masks and scales the gradient once (masked_gradient.py, which also packs
the mask; the products load each of its values dozens of times) and is then two plain products: those of a 1x1
convolution over 1x1 images. Its rungs are implicit_kernel of examples/ladder/7_triton.py and dropout.py beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.backends.torch.dropout import scale
from alexkern.backends.torch.philox import threshold
from alexkern.cost.chips import Chip
from alexkern.cost.model import cdiv
from alexkern.cost.triton import TILES_FEW_ROWS, Product, best_tile, register_limit, sums, tiles
from alexkern.kernels import philox
from alexkern.kernels.config import choose, describe
from alexkern.kernels.conv2d_relu_data_gradient import data_gradient
from alexkern.kernels.conv2d_relu_weight_gradient import weight_gradient
from alexkern.kernels.masked_gradient import masked_gradient, packed_mask
from alexkern.kernels.precision import input_precision
from alexkern.plan import empty, linear_relu_dropout_output, packed_bits

MAX_SUMS = 64  # a thread; with 128 of them the epilogue's Philox blocks spill


@dataclass(frozen=True)
class Problem:
    """One linear layer: rows, in_features, out_features; precision is tl.dot's input_precision."""

    M: int
    K: int
    N: int
    dtype: torch.dtype
    precision: str

    @property
    def shape(self) -> tuple[int, ...]:
        """What tuned tables know the problem by."""
        return (self.M, self.K, self.N)


@dataclass(frozen=True)
class Config:
    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int


def configure(problem: Problem, device: Chip) -> Config:
    """The tile that the cost model finds fastest, of those that leave room for dropout's bits beside their sums."""
    dtype, precision = problem.dtype, problem.precision
    candidates = [
        tile
        for tile in tiles(dtype, precision, device)
        if tile.TAIL_N == 0 and sums(tile.BLOCK_M, tile.BLOCK_N, tile.num_warps) <= MAX_SUMS
    ]
    if dtype != torch.float32:
        candidates += TILES_FEW_ROWS
    tile = best_tile(product(problem), device, candidates)
    return Config(tile.BLOCK_M, tile.BLOCK_N, tile.BLOCK_K, tile.num_warps, tile.num_stages)


def product(problem: Problem) -> Product:
    return Product(problem.M, problem.N, problem.K, 1, problem.dtype, problem.precision)


@triton.jit(do_not_specialize=["M", "gemm_k"])
def linear_relu_dropout_kernel(
    x,  # (M, K)
    w,  # (N, K)
    b,  # (N,), not read unless HAS_BIAS
    y,  # (M, N)
    seed,  # (seed, offset), not read unless DROPOUT
    scale, limit,  # 1 / (1 - p), philox.threshold(p)
    M,
    gemm_k,  # K, at run time so that the loop is not unrolled
    K: tl.constexpr, N: tl.constexpr,
    HAS_BIAS: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles_m = (M - 1) // BLOCK_M + 1  # an addition might wrap
    tile_m, tile_n = tl.program_id(0) % tiles_m, tl.program_id(0) // tiles_m
    m = tile_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    places = tl.arange(0, BLOCK_K)
    x_tile = x + m[:, None] * K + places[None, :]  # [BLOCK_M, BLOCK_K]
    w_tile = w + n.to(tl.int64)[None, :] * K + places[:, None]  # [BLOCK_K, BLOCK_N]
    m_ok, n_ok = m < M, n < N
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, gemm_k, BLOCK_K):
        x_ok, w_ok = m_ok[:, None], n_ok[None, :]
        if K % BLOCK_K != 0:
            k_ok = k0 + places < K
            x_ok, w_ok = x_ok & k_ok[None, :], w_ok & k_ok[:, None]
        acc = tl.dot(
            tl.load(x_tile + k0, mask=x_ok, other=0),
            tl.load(w_tile + k0, mask=w_ok, other=0),
            acc,
            input_precision=PRECISION,
        )
    if HAS_BIAS:
        acc += tl.load(b + n, mask=n_ok, other=0).to(tl.float32)[None, :]
    value = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if DROPOUT:
        if N % 4 == 0:
            blocks = m[:, None] * (N // 4) + tile_n * (BLOCK_N // 4) + tl.arange(0, BLOCK_N // 4)[None, :]
            keep = tl.reshape(philox.keep_blocks(seed, blocks, limit), (BLOCK_M, BLOCK_N))
        else:
            keep = philox.keep_elements(seed, m[:, None] * N + n[None, :], limit)
        value *= tl.where(keep, scale, 0.0)
    tl.store(y + m[:, None] * N + n[None, :], value.to(y.dtype.element_ty), mask=m_ok[:, None] & n_ok[None, :])


@lru_cache(maxsize=4096)
def prepare(
    device: torch.device, dtype: torch.dtype, precision: str, M: int, K: int, N: int
) -> tuple[tuple[int], dict[str, Any]]:
    """The launch's grid and constants."""
    problem, target = Problem(M, K, N, dtype, precision), describe(device)
    default = configure(problem, target)
    config = choose("linear_relu_dropout", problem.shape, dtype, target, default, precision)
    return launch_of(problem, config, target)


def launch_of(problem: Problem, config: Config, device: Chip) -> tuple[tuple[int], dict[str, Any]]:
    """The grid and constants of a problem's launch with a configuration."""
    grid = (cdiv(problem.M, config.BLOCK_M) * cdiv(problem.N, config.BLOCK_N),)
    limit = register_limit(config, problem.dtype, problem.precision, device)
    return grid, dict(config.__dict__, **limit, K=problem.K, N=problem.N, PRECISION=problem.precision)


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, save_mask: bool
) -> tuple[Tensor, Tensor | None]:
    output = empty(linear_relu_dropout_output(input, weight), input.device)
    if output.numel() == 0:
        return output, empty(packed_bits(0), input.device)
    N, K = weight.shape
    M = output.numel() // N
    grid, constants = prepare(input.device, input.dtype, input_precision(input.dtype, "matmul"), M, K, N)
    with torch.cuda.device_of(output):
        linear_relu_dropout_kernel[grid](
            input.contiguous(), weight.contiguous(), output if bias is None else bias.contiguous(), output,
            output if seed is None else seed, scale(p), threshold(p), M, K,
            HAS_BIAS=bias is not None, DROPOUT=seed is not None, **constants,
        )  # fmt: skip
    return output, packed_mask(output, seed, threshold(p)) if save_mask and seed is not None else None


def backward(
    grad: Tensor, input: Tensor, weight: Tensor, mask: Tensor, seed: Tensor | None, p: float,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of input, weight and bias, those that `needs` asks for. Without a seed the output is the mask."""
    N, K = weight.shape
    M = input.shape[:-1].numel()
    masked = grad
    if grad.numel() > 0:
        masked = masked_gradient(grad.contiguous(), mask.contiguous(), None if seed is None else p)
    # (rows, features) as images of 1x1 pixels, weight as 1x1 filters.
    dy, x, w = masked.reshape(M, N, 1, 1), input.reshape(M, K, 1, 1), weight[:, :, None, None]
    geometry = ((1, 1), (0, 0), (1, 1), 1, input_precision(input.dtype, "matmul"))
    dx = data_gradient(dy, None, x, w, *geometry).view(input.shape) if needs[0] else None
    if not (needs[1] or needs[2]):
        return dx, None, None
    dw, db = weight_gradient(dy, None, x, w, *geometry, (needs[1], needs[2]))
    return dx, None if dw is None else dw[:, :, 0, 0], db
