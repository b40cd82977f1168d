"""The tables of docs/tables/sm90.md, computed: what launches on an H200 are made of, and the time the model gives them.

python tests/support/sm90_page.py prints them.
"""

from __future__ import annotations

import math

from alexkern.cost.chips import CHIPS
from alexkern.cost.sm90 import (
    BLOCK_N,
    FINISH_COLUMN_CYCLES,
    FINISH_CYCLES,
    Choice,
    Work,
    block_k_of,
    choose,
    linear_work,
    modelled_cycles,
)

CHIP = CHIPS["H200"]
MULTIPROCESSORS, GIGAHERTZ, PRODUCTS_PER_CLOCK = CHIP.num_sms, CHIP.clock / 1e9, CHIP.half
# Pixels of an image, filters, channels, taps, values of an image that are read.
LAYERS = {
    "conv1": (55 * 55, 64, 48, 9, 57 * 57 * 48),  # after space-to-depth
    "conv2": (27 * 27, 192, 64, 25, 27 * 27 * 64),
    "conv3": (13 * 13, 384, 192, 9, 13 * 13 * 192),
    "conv4": (13 * 13, 256, 384, 9, 13 * 13 * 384),
    "conv5": (13 * 13, 256, 256, 9, 13 * 13 * 256),
}
BATCHES = (1, 16, 128, 256, 1024)
HEAD = (
    "| layer | batch | block_n, splits, cluster | tiles, waves, filled | steps | HGMMA | MB | us, predicted | alone "
    "| of peak |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
LINEAR_LAYERS = {"fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (1000, 4096)}  # out_features, in_features
LINEAR_BATCHES = (32, 64, 128, 256, 512, 1024)
LINEAR_HEAD = (
    "| layer | batch | block_n, splits, cluster | tiles, waves, filled | steps | HGMMA | MB "
    "| us to read | us, predicted | of peak |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def row(layer: str, batch: int) -> str:
    pixels, filters, channels, taps, values = LAYERS[layer]
    block_k = block_k_of(channels)
    pixels, steps = batch * pixels, taps * -(-channels // block_k)
    work = Work(pixels, filters, steps, 1, block_k, False)
    block_n, splits, cluster = choice = choose(work, CHIP)
    cycles = modelled_cycles(work, choice, CHIP)
    alone = min(
        modelled_cycles(work, Choice(other, parts, 1), CHIP)
        for other in ((64, 96, 128) if block_k == 48 else BLOCK_N)
        for parts in range(1, max(steps // 4, 1) + 1)
    )
    tiles = math.ceil(pixels / (128 * cluster)) * cluster * math.ceil(filters / block_n)
    waves = math.ceil(tiles * splits / (MULTIPROCESSORS // cluster * cluster))
    filled = tiles * splits / (waves * MULTIPROCESSORS)
    products = tiles * steps * (block_k // 16) * 2  # two warpgroups
    megabytes = 2 * (batch * values + filters * channels * taps + pixels * filters) / 1e6
    ideal = pixels * filters * steps * block_k / (PRODUCTS_PER_CLOCK * MULTIPROCESSORS)
    return (
        f"| {layer} | {batch} | {block_n}, {splits}, {cluster} | {tiles * splits}, {waves}, {filled:.0%} | "
        f"{math.ceil(steps / splits)} | {products} | {megabytes:.1f} | {cycles / GIGAHERTZ / 1e3:.1f} | "
        f"{alone / GIGAHERTZ / 1e3:.1f} | {ideal / cycles:.0%} |"
    )


def table() -> list[str]:
    return [*HEAD, *(row(layer, batch) for layer in LAYERS for batch in BATCHES)]


SHORTER_HEAD = ("| layer at batch 128 | waves | us, tiles ending as before | as now |", "|---|---|---|---|")
BEFORE = 2 * 64, 2 * 4.42  # FINISH_CYCLES and FINISH_COLUMN_CYCLES: 347 instructions for 64 columns, 1195 for 256


def shorter_row(layer: str) -> str:
    """What a tile's end took before it was shortened, by the same model."""
    pixels, filters, channels, taps, _ = LAYERS[layer]
    work = Work(128 * pixels, filters, taps * -(-channels // block_k_of(channels)), 1, block_k_of(channels), False)
    block_n, splits, cluster = choice = choose(work, CHIP)
    tiles = math.ceil(128 * pixels / (128 * cluster)) * math.ceil(filters / block_n)
    waves, cycles = math.ceil(tiles * splits / (MULTIPROCESSORS // cluster)), modelled_cycles(work, choice, CHIP)
    more = BEFORE[0] - FINISH_CYCLES + block_n * (BEFORE[1] - FINISH_COLUMN_CYCLES)
    before, now = ((cycles + waves * extra) / GIGAHERTZ / 1e3 for extra in (more, 0))
    return f"| {layer} | {waves} | {before:.1f} | {now:.1f} |"


def shorter_table() -> list[str]:
    return [*SHORTER_HEAD, *map(shorter_row, LAYERS)]


def linear_row(layer: str, batch: int) -> str:
    K, C = LINEAR_LAYERS[layer]
    block_n, splits, cluster = choice = choose(linear_work(batch, K, C), CHIP)
    cycles = modelled_cycles(linear_work(batch, K, C), choice, CHIP)
    tiles, steps = math.ceil(batch / (128 * cluster)) * cluster * math.ceil(K / block_n), C // 64
    waves = math.ceil(tiles * splits / (MULTIPROCESSORS // cluster * cluster))
    filled = tiles * splits / (waves * MULTIPROCESSORS)
    operands, ideal = 2 * C * (batch + K), batch * K * C / (PRODUCTS_PER_CLOCK * MULTIPROCESSORS)
    return (
        f"| {layer} | {batch} | {block_n}, {splits}, {cluster} | {tiles * splits}, {waves}, {filled:.0%} | "
        f"{math.ceil(steps / splits)} | {tiles * steps * 8} | {(operands + 2 * batch * K) / 1e6:.1f} | "
        f"{operands / CHIP.memory * 1e6:.1f} | {cycles / GIGAHERTZ / 1e3:.1f} | {ideal / cycles:.0%} |"
    )


def linear_table() -> list[str]:
    return [*LINEAR_HEAD, *(linear_row(layer, batch) for layer in LINEAR_LAYERS for batch in LINEAR_BATCHES)]


if __name__ == "__main__":
    print("\n".join([*table(), *shorter_table(), *linear_table()]))
