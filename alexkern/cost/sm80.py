"""csrc/cuda/conv2d_relu's products: which tile, in how many splits, and over which images the first layer goes.

Times are in steps of a 128 x 128 tile on one multiprocessor, about half a microsecond. Nothing here was measured.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from alexkern.cost.chips import Chip
from alexkern.cost.model import cdiv, waves
from alexkern.geometry import Geometry

TILES = ((128, 128), (128, 64), (64, 64))  # those of conv2d_relu.h
STEP_BYTES = 128  # of GEMM_K, as mma/layout.cuh has it
# What a step of each tile takes (smaller ones read more for each product), what it takes at least, however little
# there is to do, and what a block takes before its first and after its last step.
STEP_COST = (1.0, 0.55, 0.32)
LEAST_STEP_COST = 0.6
BLOCK_STEPS = 4.0
SECOND_PASS = 4.0  # one more launch
BYTES = 1.5e6  # that the memory moves in a unit
SECONDS = 0.5e-6  # of a unit, about
LEAST_STEPS = 4  # of a split
MOST_SPLITS = 64
MOST_PARTIAL_BYTES = 256e6  # of memory for the splits' sums
FACTOR, PADDED_CHANNELS = 4, 4  # of space to depth, and what the first layer's channels are padded to without it


class Choice(NamedTuple):
    """tile is an index into TILES."""

    tile: int
    splits: int

    def __str__(self) -> str:
        m, n = TILES[self.tile]
        return f"{m} x {n}" + (f", {self.splits} splits" if self.splits > 1 else "")


class Product(NamedTuple):
    """`batches` products of GEMM_M x GEMM_K by GEMM_K x GEMM_N."""

    gemm_m: int
    gemm_n: int
    gemm_k: int
    batches: int


class Times(NamedTuple):
    """Of a convolution of stride 4 over padded images, and over those of space to depth."""

    padded: float
    deep: float


def forward_product(geometry: Geometry, channels: int) -> Product:
    """A convolution's, whose images and filters are padded to so many channels a group."""
    return Product(geometry.GEMM_M, geometry.GEMM_N, geometry.R * geometry.S * channels, geometry.groups)


def data_product(geometry: Geometry, channels: int) -> Product:
    """The data gradient's, whose gradient is padded to so many channels; one for each residue of the stride."""
    N, C, H, W, _, R, S, stride, _, _, groups = geometry
    residues = stride[0] * stride[1]
    return Product(cdiv(N * H * W, residues), C // groups, max(R * S * channels // residues, 1), groups * residues)


def weight_product(geometry: Geometry, channels: int) -> Product:
    """The weight gradient's, whose images are padded to so many channels a group."""
    return Product(geometry.GEMM_N, geometry.R * geometry.S * channels, max(geometry.GEMM_M, 1), geometry.groups)


def steps_in(itemsize: int, gemm_k: int) -> int:
    return cdiv(gemm_k, STEP_BYTES // itemsize)


def product_time(tile: int, blocks: int, steps: float, chip: Chip) -> float:
    """Products alone: blocks in whole waves, each of so many steps."""
    return max(waves(blocks, chip) * STEP_COST[tile], LEAST_STEP_COST) * steps


def time_of(choice: Choice, itemsize: int, product: Product, chip: Chip) -> float:
    """Of products, and of the sum of their splits."""
    (m, n), (gemm_m, gemm_n, gemm_k, batches) = TILES[choice.tile], product
    blocks = batches * cdiv(gemm_m, m) * cdiv(gemm_n, n)
    steps = cdiv(steps_in(itemsize, gemm_k), choice.splits) + BLOCK_STEPS
    time = product_time(choice.tile, blocks * choice.splits, steps, chip)
    if choice.splits == 1:
        return time
    return time + SECOND_PASS + 2 * choice.splits * _partial_bytes(product) / BYTES


def _partial_bytes(product: Product) -> float:
    return 4.0 * product.gemm_m * product.gemm_n * product.batches


@lru_cache(maxsize=1024)
def choose(itemsize: int, product: Product, chip: Chip) -> Choice:
    """The fastest; of equals the smallest tile, and the fewest splits."""
    most = min(MOST_SPLITS, steps_in(itemsize, product.gemm_k) // LEAST_STEPS)
    candidates = [
        Choice(tile, splits)
        for tile in reversed(range(len(TILES)))
        for splits in range(1, max(most, 1) + 1)
        if splits == 1 or splits * _partial_bytes(product) <= MOST_PARTIAL_BYTES
    ]
    return min(candidates, key=lambda choice: time_of(choice, itemsize, product, chip))


@lru_cache(maxsize=256)
def first_layer_times(itemsize: int, geometry: Geometry, gradient: bool, in_place: bool, chip: Chip) -> Times:
    """A convolution of stride 4 over images of up to four channels, or its weight gradient.

    The passes that bring the images to where the products read them are included; `in_place`: they need no padding.
    """

    def time(geometry: Geometry, channels: int) -> float:
        product = (weight_product if gradient else forward_product)(geometry, channels)
        return time_of(choose(itemsize, product, chip), itemsize, product, chip)

    seen, pixels = geometry.in_depth(FACTOR), geometry.N * geometry.H * geometry.W
    padded = float(pixels * (geometry.C + PADDED_CHANNELS))
    deep = float(pixels * geometry.C + seen.N * seen.H * seen.W * seen.C)
    # In depth, outputs are amended behind the product; a gradient's filters are brought back, in two passes.
    passes = 3 if gradient else 2
    return Times(
        time(geometry, PADDED_CHANNELS) + (0.0 if in_place else SECOND_PASS + padded * itemsize / BYTES),
        time(seen, seen.C) + passes * SECOND_PASS + deep * itemsize / BYTES,
    )
