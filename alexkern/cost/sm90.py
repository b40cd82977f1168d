"""csrc/cuda/sm90's products: which tile, in how many splits, and whether blocks share their filters.

In clocks; the terms are in docs/sm90.md.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from alexkern.cost.chips import SHARED_BYTES, Chip
from alexkern.cost.model import cdiv
from alexkern.geometry import Geometry

# As sm90/sm90.h has them: a tile's M and N, channels of a step (and pixels, for the weight gradient).
BLOCK_M = 128
BLOCK_N = (64, 96, 128, 192, 256)
WEIGHT_BLOCK_N = (64, 128, 256)
SMALL_BLOCK_K, LARGE_BLOCK_K = 48, 64
MOST_BLOCK_N = 128  # of a tile whose steps are small

START_CYCLES, LAUNCH_CYCLES = 1500.0, 4000.0  # that no tile overlaps: of a launch, and of one more
# Of a tile's end, while nothing is multiplied, and of each of its columns: 50 instructions and 2.35 a column, of two
# warps that take turns.
FINISH_CYCLES, FINISH_COLUMN_CYCLES = 100.0, 4.7
MOST_SPLITS = 64
LEAST_STEPS = 4  # of a split
WORTH_A_CLUSTER = 0.95  # of the time without: blocks that wait for each other are not in the model


class Work(NamedTuple):
    """What a launch is made of: `batches` products of GEMM_M x GEMM_N, `steps` of BLOCK_K long.

    sums: fp32 sums are stored, also where there is one split. bytes: of operands too large for a cache, which device
    memory has to bring once.
    """

    gemm_m: int
    gemm_n: int
    steps: int
    batches: int
    block_k: int
    sums: bool
    bytes: int = 0


class Choice(NamedTuple):
    """BLOCK_N of a tile, splits of the steps, and blocks that share the tiles of filters."""

    block_n: int
    splits: int
    cluster: int

    def __str__(self) -> str:
        splits = f", {self.splits} splits" if self.splits > 1 else ""
        return f"{BLOCK_M} x {self.block_n}{splits}" + (", clusters of 2" if self.cluster > 1 else "")


def block_k_of(channels: int) -> int:
    """Channels of a step for so many of a group: 64, which are a row of a tile; 48 where there are 48."""
    return SMALL_BLOCK_K if channels == SMALL_BLOCK_K else LARGE_BLOCK_K


@lru_cache(maxsize=1024)
def convolution_work(geometry: Geometry, channels: int, sums: bool) -> Work:
    """A convolution's, or the data gradient's as one, whose images and filters have so many channels a group."""
    block_k = block_k_of(channels)
    steps = geometry.R * geometry.S * cdiv(channels, block_k)
    return Work(geometry.GEMM_M, geometry.GEMM_N, steps, geometry.groups, block_k, sums)


@lru_cache(maxsize=1024)
def weight_work(geometry: Geometry, channels: int) -> Work:
    """The weight gradient's, over images of so many channels a group."""
    taps = geometry.R * geometry.S * cdiv(channels, LARGE_BLOCK_K) * LARGE_BLOCK_K
    return Work(geometry.GEMM_N, taps, cdiv(geometry.GEMM_M, LARGE_BLOCK_K), geometry.groups, LARGE_BLOCK_K, True)


def linear_work(samples: int, features: int, channels: int) -> Work:
    """A linear layer of so many samples."""
    block_k = block_k_of(channels)
    return Work(samples, features, cdiv(channels, block_k), 1, block_k, False, (samples + features) * channels * 2)


def modelled_cycles(work: Work, choice: Choice, chip: Chip) -> float:
    gemm_m, gemm_n, steps, batches, block_k, sums, read = work
    n, splits, cluster = choice
    # A block has the values of both tiles, and fetches its part of those that its cluster shares.
    multiplied = BLOCK_M * n * block_k / chip.half
    # TMA writes both tiles in whole rows, and each of the two warpgroups reads its own rows of A and all of B.
    shared = ((BLOCK_M + n) * LARGE_BLOCK_K + (BLOCK_M + 2 * n) * block_k) * 2 / SHARED_BYTES
    fetched = (BLOCK_M + n / cluster) * block_k * 2 / chip.l2_bytes
    stored = BLOCK_M * n * (4 if splits > 1 or sums else 2) / chip.l2_bytes
    finished = FINISH_CYCLES + n * FINISH_COLUMN_CYCLES
    # A cluster takes as many tiles at once as it has blocks, one below the other.
    tiles = cdiv(gemm_m, BLOCK_M * cluster) * cdiv(gemm_n, n) * batches
    waves = cdiv(tiles * splits, max(1, chip.num_sms // cluster))
    step = max(multiplied, shared, fetched)
    cycles = START_CYCLES + max(waves * (cdiv(steps, splits) * step + finished + stored), read / chip.memory_bytes)
    if splits > 1:  # the sums go out and come back to be added up
        cycles += LAUNCH_CYCLES + gemm_m * gemm_n * batches * splits * 4 / chip.memory_bytes
    return cycles


@lru_cache(maxsize=1024)
def choose(work: Work, chip: Chip, weight_gradient: bool = False) -> Choice:
    """The fastest; of equals the fewest splits, and the narrower tile."""
    best = _fastest(work, 1, WEIGHT_BLOCK_N if weight_gradient else BLOCK_N, chip)
    if weight_gradient:
        return best
    shared = _fastest(work, 2, BLOCK_N, chip)
    worth = modelled_cycles(work, shared, chip) < WORTH_A_CLUSTER * modelled_cycles(work, best, chip)
    return shared if worth else best


def _fastest(work: Work, cluster: int, widths: tuple[int, ...], chip: Chip) -> Choice:
    most = min(MOST_SPLITS, max(work.steps // LEAST_STEPS, 1))
    candidates = [
        Choice(block_n, splits, cluster)
        for block_n in widths
        if work.block_k == LARGE_BLOCK_K or block_n <= MOST_BLOCK_N
        for splits in range(1, most + 1)
    ]
    return min(candidates, key=lambda choice: modelled_cycles(work, choice, chip))
