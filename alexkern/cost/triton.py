"""Tiles of the matrix products: the shapes that compile well, and which of them suits a problem.

Convolution and linear layers are products of M x K by K x N with float32 accumulators. A candidate is scored by a model
of one streaming multiprocessor, in cycles: a step over BLOCK_K takes as long as its multiplications or as its operands
take to arrive from L2, whichever is longer, and the grid runs in whole waves. The constants are the data sheets' rates,
and an L2 bandwidth and a latency of the order that microbenchmarks report; they rank tiles, and predict no times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from alexkern.kernels.config import Device


@dataclass(frozen=True)
class Tile:
    """One program's part of a product.

    It computes BLOCK_M x (BLOCK_N + TAIL_N) outputs, BLOCK_K of the reduction at a time. TAIL_N (0 or a smaller power
    of two) is a second product with the same left operand: 128 + 64 covers AlexNet's 192 filters without waste, which
    a power of two cannot.
    """

    BLOCK_M: int
    BLOCK_N: int
    TAIL_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int

    @property
    def columns(self) -> int:
        return self.BLOCK_N + self.TAIL_N


@dataclass(frozen=True)
class Rates:
    """Per streaming multiprocessor and cycle: multiply-adds by operand, and bytes from L2 and from DRAM."""

    half: int
    tf32: int
    ieee: int
    l2_bytes: int
    dram_bytes: int


RATES = {8: Rates(1024, 512, 64, 32, 12), 9: Rates(2048, 1024, 128, 40, 18), 10: Rates(4096, 2048, 128, 48, 28)}
STEP_LATENCY = 100.0  # cycles that a step costs at least: barriers, waits, address arithmetic
TILE_LATENCY = 1500.0  # cycles to fill the pipeline and to store a tile
REDUCE_LATENCY = 4000.0  # cycles of the launch that adds up the parts of a split reduction
MAX_SPLITS = 64


def tiles(dtype: torch.dtype, precision: str, device: Device) -> tuple[Tile, ...]:
    """The candidates for an operand dtype on a device. None of them spills in any of the GEMM kernels."""
    if dtype == torch.float32:
        return TILES_IEEE if precision == "ieee" else TILES_TF32
    return TILES_HALF_90 if device.capability[0] >= 9 else TILES_HALF_80


# Shallow BLOCK_K and more stages on sm_80, where mma.sync's operands pass through registers; wgmma and tcgen05 read
# shared memory, and want a step to be long.
TILES_HALF_80 = (
    Tile(128, 128, 0, 32, 8, 4),
    Tile(128, 64, 0, 32, 4, 4),
    Tile(64, 128, 0, 32, 4, 4),
    Tile(64, 64, 0, 32, 4, 4),
    Tile(128, 32, 0, 32, 4, 4),
    Tile(32, 64, 0, 64, 4, 4),
    Tile(32, 32, 0, 64, 2, 4),
    Tile(128, 16, 0, 32, 4, 4),
    Tile(32, 16, 0, 64, 2, 4),
)
TILES_HALF_90 = (
    Tile(128, 256, 0, 64, 8, 3),
    Tile(128, 128, 64, 64, 8, 3),
    Tile(128, 128, 0, 64, 8, 3),
    Tile(128, 64, 0, 64, 4, 4),
    Tile(64, 256, 0, 64, 8, 3),
    Tile(64, 128, 0, 64, 4, 4),
    Tile(64, 64, 0, 64, 4, 4),
    Tile(128, 64, 32, 64, 4, 4),
    Tile(128, 32, 0, 64, 4, 4),
    Tile(64, 32, 0, 64, 4, 4),
    Tile(64, 16, 0, 64, 4, 4),
)
# For a linear layer of a few rows, which only reads its weights: a step that asks for much of them at once.
TILES_FEW_ROWS = (Tile(16, 32, 0, 256, 4, 4),)
TILES_TF32 = (
    Tile(128, 128, 0, 32, 8, 3),
    Tile(128, 64, 0, 32, 4, 3),
    Tile(64, 64, 0, 32, 4, 4),
    Tile(64, 32, 0, 32, 4, 4),
    Tile(64, 16, 0, 32, 4, 4),
)
TILES_IEEE = (
    Tile(64, 64, 0, 16, 4, 3),
    Tile(64, 32, 0, 16, 4, 3),
    Tile(32, 32, 0, 16, 2, 3),
    Tile(32, 16, 0, 16, 2, 3),
)


def rates(device: Device) -> Rates:
    """Those of a device's generation; of the nearest one that is known."""
    return RATES[min(max(device.capability[0], 8), 10)]


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def sums(block_m: int, columns: int, num_warps: int) -> int:
    """How many float32 sums of a tile a thread has to store."""
    return block_m * columns // (32 * num_warps)


def register_limit(block_m: int, columns: int, num_warps: int, device: Device) -> dict[str, int]:
    """Triton's launch option maxnreg, where a kernel spills without it.

    For a small tile on sm_100 ptxas aims at more blocks than shared memory admits, and spills a few numbers to get
    there. Told that a thread may have all of its registers, it takes the 85 to 160 that it needs.
    """
    small = sums(block_m, columns, num_warps) <= 32 and num_warps <= 4
    return {"maxnreg": 255} if small and device.capability[0] >= 10 else {}


def multiply_adds(dtype: torch.dtype, precision: str, device: Device) -> int:
    """Multiply-adds per streaming multiprocessor and cycle."""
    if dtype == torch.float32:
        return rates(device).tf32 if precision == "tf32" else rates(device).ieee
    return rates(device).half


def step_cycles(tile: Tile, dtype: torch.dtype, precision: str, device: Device) -> float:
    """What a step over BLOCK_K costs."""
    compute = tile.BLOCK_M * tile.columns * tile.BLOCK_K / multiply_adds(dtype, precision, device)
    loads = (tile.BLOCK_M + tile.columns) * tile.BLOCK_K * dtype.itemsize / rates(device).l2_bytes
    return max(compute, loads, STEP_LATENCY)


def cycles(tile: Tile, M: int, N: int, K: int, batch: int, dtype: torch.dtype, precision: str, device: Device) -> float:
    """The model's time of `batch` products of M x K by K x N."""
    waves = cdiv(cdiv(M, tile.BLOCK_M) * cdiv(N, tile.columns) * batch, device.num_sms)
    return waves * (cdiv(K, tile.BLOCK_K) * step_cycles(tile, dtype, precision, device) + TILE_LATENCY)


def best_tile(
    M: int, N: int, K: int, batch: int, dtype: torch.dtype, precision: str, device: Device,
    candidates: Iterable[Tile] | None = None,
) -> Tile:  # fmt: skip
    """The candidate that the model finds fastest; of equals, the first. Default: all of `tiles`."""
    candidates = tiles(dtype, precision, device) if candidates is None else candidates
    return min(candidates, key=lambda tile: cycles(tile, M, N, K, batch, dtype, precision, device))


def best_split(
    M: int, N: int, K: int, batch: int, dtype: torch.dtype, precision: str, device: Device
) -> tuple[Tile, int]:
    """The candidate, and into how many parts K is split, that the model finds fastest with the partial sums' traffic.

    For products whose reduction is long and whose result is small. Candidates with a tail are left out, and so are
    256 columns on sm_100: their float32 sums leave tensor memory for registers all at once, and spill.
    """
    best: tuple[float, Tile, int] | None = None
    for tile in tiles(dtype, precision, device):
        if tile.TAIL_N > 0 or (tile.BLOCK_N > 128 and device.capability[0] >= 10):
            continue
        steps, programs = cdiv(K, tile.BLOCK_K), cdiv(M, tile.BLOCK_M) * cdiv(N, tile.BLOCK_N) * batch
        for splits in range(1, min(steps, MAX_SPLITS) + 1):
            waves = cdiv(programs * splits, device.num_sms)
            time = waves * (cdiv(steps, splits) * step_cycles(tile, dtype, precision, device) + TILE_LATENCY)
            if splits > 1:  # float32 sums written, read and reduced by a second kernel
                time += REDUCE_LATENCY + splits * M * N * batch * 8 / (rates(device).l2_bytes * device.num_sms)
            if best is None or time < best[0]:
                best = (time, tile, splits)
    assert best is not None
    return best[1], best[2]
