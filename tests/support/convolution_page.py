"""The tables of docs/tables/convolution.md, computed: what the convolutions are, and which Triton tiles take them.

python tests/support/convolution_page.py prints them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from alexkern.bench.layers import LAYERS, Convolution
from alexkern.cost.chips import CHIPS
from alexkern.cost.model import cdiv, waves
from alexkern.cost.triton import Product
from alexkern.kernels import conv2d_relu, conv2d_relu_data_gradient, conv2d_relu_weight_gradient
from alexkern.kernels.convolution import Problem

BATCH, CHIP = 128, CHIPS["H200"]
FLOPS, BYTES = 989e12, CHIP.memory  # a second, by the data sheet
NAMES = {"alexnet": "", "alexnet_2012": "2012 ", "alexnet_single_tower": "tower "}
SAME = {"alexnet_single_tower": ("conv1", "conv3")}  # as the paper's
WORK = ("layer", "GEMM_M x GEMM_N x GEMM_K", "GFLOP", "MB", "us of arithmetic", "us of memory")
TILES = ("layer", "forward: tile, warps, stages", "programs, waves, filled", "data gradient", "weight gradient, splits")


def layers() -> Iterator[tuple[str, Convolution]]:
    for model, prefix in NAMES.items():
        for layer in LAYERS[model].convolutions:
            if layer.name not in SAME.get(model, ()):
                yield prefix + layer.name, layer


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def work(name: str, layer: Convolution) -> str:
    of = layer.geometry(BATCH)
    groups = f", {of.groups} groups" if of.groups > 1 else ""
    flops = 2 * of.GEMM_M * of.K * of.GEMM_K
    moved = 2 * (of.N * of.C * of.H * of.W + of.K * of.GEMM_K + of.GEMM_M * of.K)
    times = (1e6 * flops / FLOPS, 1e6 * moved / BYTES)
    sizes = f"{of.GEMM_M} x {of.GEMM_N} x {of.GEMM_K}{groups}"
    return row(name, sizes, f"{flops / 1e9:.1f}", f"{moved / 1e6:.1f}", *(f"{time:.1f}" for time in times))


def tile(config: object) -> str:
    sizes = vars(config)
    tail = f"({sizes['BLOCK_N']} + {sizes['TAIL_N']})" if sizes.get("TAIL_N") else sizes["BLOCK_N"]
    return f"{sizes['BLOCK_M']} x {tail} x {sizes['BLOCK_K']}, {sizes['num_warps']}, {sizes['num_stages']}"


def tiles(name: str, layer: Convolution) -> str:
    problem = Problem(layer.geometry(BATCH), torch.bfloat16, "ieee")
    config = conv2d_relu.configure(problem, CHIP)
    product: Product = conv2d_relu.product(problem)
    width = config.BLOCK_N + config.TAIL_N
    programs = cdiv(product.M, config.BLOCK_M) * cdiv(product.N, width) * product.batch
    rounds = waves(programs, CHIP)
    filled = f"{programs}, {rounds}, {programs / (rounds * CHIP.num_sms):.0%}"
    data = conv2d_relu_data_gradient.configure(problem, CHIP)
    weight = conv2d_relu_weight_gradient.configure(problem, CHIP)
    return row(name, tile(config), filled, tile(data), f"{tile(weight)}, {weight.splits}")


def table(header: tuple[str, ...], make: object) -> list[str]:
    return [row(*header), "|" + "---|" * len(header), *(make(*layer) for layer in layers())]  # type: ignore[operator]


def tables() -> list[str]:
    return [*table(WORK, work), *table(TILES, tiles)]


if __name__ == "__main__":
    print("\n".join(tables()))
