"""Tiles of the matrix products: the shapes that compile well, and which of them suits a problem.

Convolution and linear layers are products of M x K by K x N with float32 accumulators. A candidate is scored by a model
of one streaming multiprocessor, in cycles: a step over BLOCK_K takes as long as its multiplications or as its operands
take to arrive from L2, whichever is longer, and the grid runs in whole waves. The latencies are of the order that
microbenchmarks report; they rank tiles, and predict no times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from alexkern.cost.chips import Chip
from alexkern.cost.model import REGISTERS, cdiv, waves


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
    def N(self) -> int:
        return self.BLOCK_N + self.TAIL_N

    def __str__(self) -> str:
        n = f"({self.BLOCK_N} + {self.TAIL_N})" if self.TAIL_N else str(self.BLOCK_N)
        return f"{self.BLOCK_M} x {n} x {self.BLOCK_K}, {self.num_warps} warps, {self.num_stages} stages"


class Product(NamedTuple):
    """`batch` products of M x K by K x N; precision is tl.dot's input_precision."""

    M: int
    N: int
    K: int
    batch: int
    dtype: torch.dtype
    precision: str


STEP_LATENCY = 100.0  # cycles that a step costs at least: barriers, waits, address arithmetic
TILE_LATENCY = 1500.0  # cycles to fill the pipeline and to store a tile
REDUCE_LATENCY = 4000.0  # cycles of the launch that adds up the parts of a split reduction
LAUNCH_CYCLES = 5000.0  # of a kernel more, from the last block of one to the first of the next
MAX_SPLITS = 64


def tiles(dtype: torch.dtype, precision: str, chip: Chip) -> tuple[Tile, ...]:
    """The candidates for an operand dtype on a chip. What of them AlexNet's layers take does not spill: a test."""
    candidates: tuple[Tile, ...] = TILES_HALF_90 if chip.multiplies_shared_memory else TILES_HALF_80
    if dtype == torch.float32:
        candidates = TILES_IEEE if precision == "ieee" else TILES_TF32
    return tuple(_fitted(tile, dtype.itemsize, chip) for tile in candidates)


def _fitted(tile: Tile, itemsize: int, chip: Chip) -> Tile:
    """With as many of its stages as a block has shared memory for; of a masked gradient a stage has the mask too."""
    stage = (2 * tile.BLOCK_M + tile.N) * tile.BLOCK_K * itemsize
    return replace(tile, num_stages=min(tile.num_stages, chip.shared_memory // stage))


# Shallow BLOCK_K and more stages where mma.sync's operands pass through registers; wgmma and tcgen05 read shared
# memory, and want a step to be long.
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


def sums(block_m: int, block_n: int, num_warps: int) -> int:
    """How many float32 sums of a tile a thread has to store."""
    return block_m * block_n // (32 * num_warps)


def register_limit(tile: Any, dtype: torch.dtype, precision: str, chip: Chip) -> dict[str, int]:
    """Triton's launch option maxnreg, where a kernel spills without it. tile: a Tile, or a configuration with one.

    For a small tile ptxas aims at more blocks than it has registers for, and spills a few numbers to get there. On
    sm_100 shared memory would not admit them either: told that a thread may have all of its registers, it takes the 85
    to 168 that it needs; without tensor cores four warps spill with that many too, and have the share of four blocks.
    With mma.sync it spills at 32 sums: there four blocks may have all registers between them, or as many as there is
    shared memory for, one stage of the operands waiting in registers.
    """
    cores = dtype != torch.float32 or precision == "tf32"
    if chip.capability[0] == 10:
        most = 255 if cores or tile.num_warps < 4 else 128
        return {"maxnreg": most} if tile.num_warps <= 4 else {}
    N = tile.BLOCK_N + getattr(tile, "TAIL_N", 0)
    spills = sums(tile.BLOCK_M, N, tile.num_warps) == 32 and tile.num_warps == 4
    if not (spills and cores) or chip.multiplies_shared_memory:
        return {}
    operands = (tile.BLOCK_M + N) * tile.BLOCK_K * dtype.itemsize * max(1, tile.num_stages - 1)
    blocks = max(1, min(4, chip.shared_memory // operands))
    return {"maxnreg": min(255, REGISTERS // (128 * blocks) // 8 * 8)}


def step_cycles(tile: Tile, product: Product, chip: Chip) -> float:
    """What a step over BLOCK_K costs."""
    itemsize = product.dtype.itemsize
    rate = chip.multiply_adds(itemsize, product.precision == "tf32")
    compute = tile.BLOCK_M * tile.N * tile.BLOCK_K / rate
    loads = (tile.BLOCK_M + tile.N) * tile.BLOCK_K * itemsize / chip.l2_bytes
    return max(compute, loads, STEP_LATENCY)


def cycles(tile: Tile, product: Product, chip: Chip, splits: int = 1) -> float:
    """The model's time of a product whose K is cut into so many parts, with the partial sums' traffic."""
    programs = cdiv(product.M, tile.BLOCK_M) * cdiv(product.N, tile.N) * product.batch
    steps = cdiv(cdiv(product.K, tile.BLOCK_K), splits)
    time = waves(programs * splits, chip) * (steps * step_cycles(tile, product, chip) + TILE_LATENCY)
    if splits == 1:
        return time
    # float32 sums written, read and reduced by a second kernel
    return time + REDUCE_LATENCY + splits * product.M * product.N * product.batch * 8 / (chip.l2_bytes * chip.num_sms)


def best_tile(product: Product, chip: Chip, candidates: Iterable[Tile] | None = None) -> Tile:
    """The candidate that the model finds fastest; of equals, the first. Default: all of `tiles`."""
    candidates = tiles(product.dtype, product.precision, chip) if candidates is None else candidates
    return min(candidates, key=lambda tile: cycles(tile, product, chip))


def best_split(product: Product, chip: Chip) -> tuple[Tile, int]:
    """The candidate, and into how many parts K is split, that the model finds fastest.

    For products whose reduction is long and whose result is small. Candidates with a tail are left out, and so are
    a BLOCK_N of 256 on sm_100: its float32 sums leave tensor memory for registers all at once, and spill.
    """
    candidates = [
        (tile, splits)
        for tile in tiles(product.dtype, product.precision, chip)
        if tile.TAIL_N == 0 and (tile.BLOCK_N <= 128 or chip.capability[0] != 10)
        for splits in range(1, min(cdiv(product.K, tile.BLOCK_K), MAX_SPLITS) + 1)
    ]
    return min(candidates, key=lambda candidate: cycles(candidate[0], product, chip, candidate[1]))


def pooled_cycles(tile: Tile, programs: int, steps: int, moved: int, product: Product, chip: Chip) -> float:
    """The model's time of a convolution and its pooling in one kernel, whose programs walk `steps` down an image.

    Every step fills the pipeline anew, and pools; `moved` bytes go to or come from DRAM meanwhile.
    """
    step = cdiv(product.K, tile.BLOCK_K) * step_cycles(tile, product, chip) + TILE_LATENCY
    return max(waves(programs, chip) * steps * step, moved / chip.memory_bytes) + LAUNCH_CYCLES


def separate_cycles(product: Product, first: int, second: int, chip: Chip) -> float:
    """The model's time of the two in a kernel each, which move so many bytes to or from DRAM."""
    arithmetic = cycles(best_tile(product, chip), product, chip)
    return max(arithmetic, first / chip.memory_bytes) + second / chip.memory_bytes + 2 * LAUNCH_CYCLES
