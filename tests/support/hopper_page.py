"""The table of docs/hopper.md, computed: what launches on an H200 are made of, and the time that the model gives them.

python tests/support/hopper_page.py prints it.
"""

from __future__ import annotations

import math
from typing import Any

from alexkern.native import emulate

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
    module = emulate.load()
    return [*HEAD, *(row(module, layer, batch) for layer in LAYERS for batch in BATCHES)]


if __name__ == "__main__":
    print("\n".join(table()))
