"""csrc/cuda/conv2d_relu_max_pool2d: one kernel or two, and the plan of the one.

FLOPs that run twice and a longer epilogue against bytes that do not move; times are in sm80.py's units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from alexkern.cost.chips import Chip
from alexkern.cost.model import cdiv
from alexkern.cost.sm80 import (
    BLOCK_STEPS,
    BYTES,
    SECOND_PASS,
    STEP_BYTES,
    TILES,
    forward_product,
    product_time,
    steps_in,
    time_of,
)
from alexkern.cost.sm80 import choose as choose_product
from alexkern.geometry import Geometry, Pair

FIRST_TILE = 1  # of TILES that are compiled, as conv2d_relu_max_pool2d.h has it
STAGES = 3  # of the product, as conv2d_relu/traits.cuh has them
POOL_STEPS = 4.0  # what pooling a tile takes, in steps of the product (counted in instructions)
IEEE_STEP_COST = 4.0  # how much longer a step takes without tensor cores
MOST_TILES = 8  # side by side, more than must be, which may leave fewer places empty


class Problem(NamedTuple):
    """Windows are 3x3 with stride 2, not padded; channels are those that a group's are padded to."""

    itemsize: int
    tf32: bool
    geometry: Geometry
    channels: int
    save_offsets: bool

    @property
    def step_cost(self) -> float:
        return IEEE_STEP_COST if self.itemsize == 4 and not self.tf32 else 1.0

    @property
    def gemm_k(self) -> int:
        """The length of a sum, padding included."""
        return self.geometry.R * self.geometry.S * self.channels

    @property
    def moved(self) -> tuple[int, int, int]:
        """Bytes of the inputs, of the convolution's output, and of the pooled output with its offsets."""
        N, C, H, W, K, R, S, *_, groups = self.geometry
        P, Q = self.pooled_size
        inputs = (N * C * H * W + K * (C // groups) * R * S) * self.itemsize
        between = self.geometry.GEMM_M * K * self.itemsize
        return inputs, between, N * P * Q * K * (self.itemsize + self.save_offsets)

    @property
    def pooled_size(self) -> Pair:
        return (self.geometry.P - 1) // 2, (self.geometry.Q - 1) // 2


class Plan(NamedTuple):
    """How the fused kernel cuts up the pooled output: a tile of TILES, columns and rows of a block."""

    tile: int
    windows: int
    segment: int

    def __str__(self) -> str:
        m, n = TILES[self.tile]
        return f"{m} x {n}, {self.segment} x {self.windows} windows"

    def shared_bytes(self, itemsize: int) -> int:
        """Of a block: the product's stages, the tile's pixels and biases, and the two rows above it."""
        m, n = TILES[self.tile]
        return STAGES * (m + n) * STEP_BYTES + 12 * m + 4 * n + 2 * (2 * self.windows + 1) * (n * itemsize + 16)


class Comparison(NamedTuple):
    """The fused kernel's best plan, None where the chip has too little shared memory; its time; that of two kernels."""

    plan: Plan | None
    fused: float
    separate: float


@lru_cache(maxsize=1024)
def compare(problem: Problem, chip: Chip) -> Comparison:
    """What each way takes; of equal plans the first: the larger tile, the widest, the tallest."""
    itemsize = problem.itemsize
    inputs, between, outputs = problem.moved
    times = {
        plan: max(_products_time(plan, problem, chip), (inputs + outputs) / BYTES)
        for tile in range(FIRST_TILE, len(TILES))
        for plan in _plans(tile, *problem.pooled_size)
        if plan.shared_bytes(itemsize) <= chip.shared_memory
    }
    best = min(times, key=lambda plan: times[plan], default=None)
    product = forward_product(problem.geometry, problem.channels)
    products = problem.step_cost * time_of(choose_product(itemsize, product, chip), itemsize, product, chip)
    time = max(products, (inputs + between) / BYTES) + SECOND_PASS + (between + outputs) / BYTES
    return Comparison(best, math.inf if best is None else times[best], time)


def _plans(tile: int, P: int, Q: int) -> Iterator[Plan]:
    least = cdiv(Q, (TILES[tile][0] - 1) // 2)
    for windows in _lengths(Q, least, least + MOST_TILES):
        for segment in _lengths(P, 1, P):
            yield Plan(tile, windows, segment)


def _lengths(whole: int, least_parts: int, most_parts: int) -> list[int]:
    """Those that cut a whole into equal parts, each once."""
    return list(dict.fromkeys(cdiv(whole, parts) for parts in range(least_parts, min(whole, most_parts) + 1)))


def _products_time(plan: Plan, problem: Problem, chip: Chip) -> float:
    (m, n), geometry, (P, Q) = TILES[plan.tile], problem.geometry, problem.pooled_size
    walk = cdiv(2 * plan.segment + 1, m // (2 * plan.windows + 1))  # steps down the image
    walks = geometry.N * cdiv(Q, plan.windows) * cdiv(P, plan.segment)
    blocks = walks * cdiv(geometry.GEMM_N, n) * geometry.groups
    steps = walk * (problem.step_cost * steps_in(problem.itemsize, problem.gemm_k) + BLOCK_STEPS + POOL_STEPS)
    return product_time(plan.tile, blocks, steps, chip)
