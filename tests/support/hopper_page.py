"""The tables of docs/hopper.md, computed: what launches on an H200 are made of, and the time that the model gives them.

python tests/support/hopper_page.py prints them.
"""

from __future__ import annotations

import math
from typing import Any

from alexkern.backends.cuda import emulated

MULTIPROCESSORS, GIGAHERTZ = 132, 1.755  # an H200, and its clock as assumed
PRODUCTS_PER_CLOCK = 2048  # of 16-bit values, a multiprocessor
# Rows of an image, columns, channels, taps, values of an image that are read.
LAYERS = {
    "conv1": (55 * 55, 64, 48, 9, 57 * 57 * 48),  # after space-to-depth
    "conv2": (27 * 27, 192, 64, 25, 27 * 27 * 64),
    "conv3": (13 * 13, 384, 192, 9, 13 * 13 * 192),
    "conv4": (13 * 13, 256, 384, 9, 13 * 13 * 384),
    "conv5": (13 * 13, 256, 256, 9, 13 * 13 * 256),
}
BATCHES = (1, 16, 128, 256, 1024)
HEAD = (
    "| layer | batch | columns, splits, cluster | tiles, waves, filled | steps | HGMMA | MB | us, predicted | alone "
    "| of peak |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
LINEAR_LAYERS = {"fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (1000, 4096)}  # out_features, in_features
LINEAR_BATCHES = (32, 64, 128, 256, 512, 1024)
MEMORY = 2400  # bytes a clock, as the model has it
LINEAR_HEAD = (
    "| layer | batch | columns, splits, cluster | tiles, waves, filled | steps | HGMMA | MB "
    "| us to read | us, predicted | of peak |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def row(module: Any, layer: str, batch: int) -> str:
    pixels, columns, channels, taps, values = LAYERS[layer]
    depth = module.hopper_depth(channels)
    rows, steps = batch * pixels, taps * -(-channels // depth)
    work = (rows, columns, steps, 1, depth, False)
    block_n, splits, cluster = module.hopper_choose(*work, MULTIPROCESSORS, False)
    cycles = module.hopper_modelled_cycles(*work, (block_n, splits, cluster), MULTIPROCESSORS)
    alone = min(
        module.hopper_modelled_cycles(*work, (other, parts, 1), MULTIPROCESSORS)
        for other in ((64, 96, 128) if depth == 48 else (64, 96, 128, 192, 256))
        for parts in range(1, max(steps // 4, 1) + 1)
    )
    tiles = math.ceil(rows / (128 * cluster)) * cluster * math.ceil(columns / block_n)
    waves = math.ceil(tiles * splits / (MULTIPROCESSORS // cluster * cluster))
    filled = tiles * splits / (waves * MULTIPROCESSORS)
    products = tiles * steps * (depth // 16) * 2  # two warpgroups
    megabytes = 2 * (batch * values + columns * channels * taps + rows * columns) / 1e6
    ideal = rows * columns * steps * depth / (PRODUCTS_PER_CLOCK * MULTIPROCESSORS)
    return (
        f"| {layer} | {batch} | {block_n}, {splits}, {cluster} | {tiles * splits}, {waves}, {filled:.0%} | "
        f"{math.ceil(steps / splits)} | {products} | {megabytes:.1f} | {cycles / GIGAHERTZ / 1e3:.1f} | "
        f"{alone / GIGAHERTZ / 1e3:.1f} | {ideal / cycles:.0%} |"
    )


def table() -> list[str]:
    module = emulated.load()
    return [*HEAD, *(row(module, layer, batch) for layer in LAYERS for batch in BATCHES)]


def linear_row(module: Any, layer: str, batch: int) -> str:
    K, C = LINEAR_LAYERS[layer]
    block_n, splits, cluster = module.hopper_choose_linear(batch, K, C, MULTIPROCESSORS)
    cycles = module.hopper_modelled_linear_cycles(batch, K, C, (block_n, splits, cluster), MULTIPROCESSORS)
    tiles, steps = math.ceil(batch / (128 * cluster)) * cluster * math.ceil(K / block_n), C // 64
    waves = math.ceil(tiles * splits / (MULTIPROCESSORS // cluster * cluster))
    filled = tiles * splits / (waves * MULTIPROCESSORS)
    operands, ideal = 2 * C * (batch + K), batch * K * C / (PRODUCTS_PER_CLOCK * MULTIPROCESSORS)
    return (
        f"| {layer} | {batch} | {block_n}, {splits}, {cluster} | {tiles * splits}, {waves}, {filled:.0%} | "
        f"{math.ceil(steps / splits)} | {tiles * steps * 8} | {(operands + 2 * batch * K) / 1e6:.1f} | "
        f"{operands / MEMORY / GIGAHERTZ / 1e3:.1f} | {cycles / GIGAHERTZ / 1e3:.1f} | {ideal / cycles:.0%} |"
    )


def linear_table() -> list[str]:
    module = emulated.load()
    return [*LINEAR_HEAD, *(linear_row(module, layer, batch) for layer in LINEAR_LAYERS for batch in LINEAR_BATCHES)]


if __name__ == "__main__":
    print("\n".join([*table(), *linear_table()]))
