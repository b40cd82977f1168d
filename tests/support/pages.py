"""The tables of docs/tables, computed: what launches are made of, which tiles take them, and the time of the models.

python tests/support/pages.py convolution (or pooling, cuda-pooling, sm90) prints a page's.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch

from alexkern.backends.cuda.conv2d_relu_max_pool2d import problem_of
from alexkern.bench.layers import LAYERS, Convolution
from alexkern.cost import sm80, sm80_pooled
from alexkern.cost import sm90 as wgmma
from alexkern.cost.chips import CHIPS, Chip
from alexkern.cost.model import cdiv, waves
from alexkern.geometry import Geometry
from alexkern.kernels import conv2d_relu, conv2d_relu_data_gradient, conv2d_relu_weight_gradient
from alexkern.kernels import conv2d_relu_max_pool2d as pooled
from alexkern.kernels.convolution import Problem

CHIP, ALEXNET = CHIPS["H200"], LAYERS["alexnet"].convolutions
FLOPS = 989e12  # a second, by the data sheet
NAMES = {"alexnet": "", "alexnet_2012": "2012 ", "alexnet_single_tower": "tower "}
SAME = {"alexnet_single_tower": ("conv1", "conv3")}  # as the paper's
POOL = ((3, 3), (2, 2), (0, 0))


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def table(header: str, rows: Iterable[str]) -> Iterator[str]:
    yield f"| {header} |"
    yield "|" + "---|" * (header.count("|") + 1)
    yield from rows


def rounded(*numbers: float, digits: int = 1) -> list[str]:
    return [f"{number:.{digits}f}" for number in numbers]


def us(cycles: float) -> str:
    return f"{cycles / CHIP.clock * 1e6:.1f}"


# ---- convolution.md: what the convolutions are at batch 128, and which Triton tiles take them


def work(name: str, layer: Convolution) -> str:
    of = layer.geometry(128)
    groups = f", {of.groups} groups" if of.groups > 1 else ""
    flops = 2 * of.GEMM_M * of.K * of.GEMM_K
    moved = 2 * (of.N * of.C * of.H * of.W + of.K * of.GEMM_K + of.GEMM_M * of.K)
    sizes = f"{of.GEMM_M} x {of.GEMM_N} x {of.GEMM_K}{groups}"
    return row(name, sizes, *rounded(flops / 1e9, moved / 1e6, 1e6 * flops / FLOPS, 1e6 * moved / CHIP.memory))


def tile(config: object) -> str:
    sizes = vars(config)
    tail = f"({sizes['BLOCK_N']} + {sizes['TAIL_N']})" if sizes.get("TAIL_N") else sizes["BLOCK_N"]
    return f"{sizes['BLOCK_M']} x {tail} x {sizes['BLOCK_K']}, {sizes['num_warps']}, {sizes['num_stages']}"


def tiles(name: str, layer: Convolution) -> str:
    problem = Problem(layer.geometry(128), torch.bfloat16, "ieee")
    config, product = conv2d_relu.configure(problem, CHIP), conv2d_relu.product(problem)
    programs = cdiv(product.M, config.BLOCK_M) * cdiv(product.N, config.BLOCK_N + config.TAIL_N) * product.batch
    rounds = waves(programs, CHIP)
    filled = f"{programs}, {rounds}, {programs / (rounds * CHIP.num_sms):.0%}"
    data = conv2d_relu_data_gradient.configure(problem, CHIP)
    weight = conv2d_relu_weight_gradient.configure(problem, CHIP)
    return row(name, tile(config), filled, tile(data), f"{tile(weight)}, {weight.splits}")


def convolution() -> Iterator[str]:
    layers = [
        (prefix + layer.name, layer)
        for model, prefix in NAMES.items()
        for layer in LAYERS[model].convolutions
        if layer.name not in SAME.get(model, ())
    ]
    yield from table(
        "layer | GEMM_M x GEMM_N x GEMM_K | GFLOP | MB | us of arithmetic | us of memory",
        (work(*layer) for layer in layers),
    )
    yield from table(
        "layer | forward: tile, warps, stages | programs, waves, filled | data gradient | weight gradient, splits",
        (tiles(*layer) for layer in layers),
    )


# ---- pooling.md, cuda-pooling.md: a convolution and its pooling in two kernels or in one


def triton_pooling(label: str, problem: Problem, chip: Chip) -> str:
    """Of the fused kernel the halo, and the places that a tile has too many, are computed as well."""
    of, product = problem.geometry, conv2d_relu.product(problem)
    inputs, between, outputs = pooled.moved(problem, False)
    ways = [(product.M, inputs + 2 * between + outputs, pooled.separate_cycles(problem, False, chip))]
    if pooled.fusable(problem, POOL):
        best, (P, Q) = pooled.best_fused(problem, False, chip), pooled.pooled(of)
        pixels = of.N * (P + cdiv(P, best.ROWS)) * cdiv(Q, best.BLOCK_Q - 1) * 4 * best.BLOCK_Q
        ways.append((pixels, inputs + outputs, pooled.fused_cycles(problem, best, False, chip)))
    cells = [label]
    for column, unit, digits in ((0, 5e8 / (of.K * product.K), 1), (1, 1e6, 1), (2, 1e3, 0)):
        cells += rounded(*(way[column] / unit for way in ways), digits=digits) + ["-"] * (2 - len(ways))
    return row(*cells, "fused" if pooled.configure(problem, POOL, False, chip).fused else "separate")


def pooling() -> Iterator[str]:
    """All pooled convolutions of the three networks at batch 128 on the chips of data centres."""
    rows = (
        triton_pooling(f"{chip} {NAMES[model]}{layer.name}", problem, CHIPS[chip])
        for chip in ("A100", "H100", "B200")
        for model in ("alexnet", "alexnet_single_tower", "alexnet_2012")
        for layer in LAYERS[model].pooled_convolutions
        for problem in [Problem(layer.geometry(128), torch.bfloat16, "ieee")]
    )
    head = "layer | GFLOP separate | GFLOP fused | MB separate | MB fused | kcycles separate | kcycles fused | chosen"
    return table(head, rows)


def cuda_row(label: str, of: Geometry, multiprocessors: int) -> str:
    """A multiply-add is two FLOPs, also where a place is left empty."""
    problem = problem_of(torch.bfloat16, False, of, False)
    plan, fused, separate = sm80_pooled.compare(problem, replace(CHIP, num_sms=multiprocessors))
    assert plan is not None
    m, n = sm80.TILES[plan.tile]
    (P, Q), (inputs, between, outputs) = problem.pooled_size, problem.moved
    steps = cdiv(2 * plan.segment + 1, m // (2 * plan.windows + 1))
    places = of.N * cdiv(Q, plan.windows) * cdiv(P, plan.segment) * steps * m
    flops = 2e-9 * of.K * problem.gemm_k
    return row(
        f"{label}, {of.N}, {multiprocessors}",
        f"{m} x {n}, {plan.segment} x {plan.windows}",
        *rounded(flops * of.GEMM_M, flops * places),
        *rounded((inputs + 2 * between + outputs) / 1e6, (inputs + outputs) / 1e6),
        *rounded(separate, fused, digits=0),
        "fused" if fused < separate else "separate",
    )


def cuda_pooling() -> Iterator[str]:
    layers = [("", layer) for layer in LAYERS["alexnet"].pooled_convolutions]
    layers.append(("tower ", LAYERS["alexnet_single_tower"].pooled_convolutions[0]))
    rows = (
        cuda_row(prefix + layer.name, layer.geometry(batch), multiprocessors)
        for batch in (2, 128)
        for multiprocessors in (108, 132, 148)
        for prefix, layer in layers
    )
    head = "GFLOP separate | fused | MB separate | fused | time separate | fused | chosen"
    return table(f"layer, batch, SMs | tile, plan | {head}", rows)


# ---- sm90.md: on an H200

HEAD = "layer | batch | block_n, splits, cluster | tiles, waves, filled | steps | HGMMA | MB"
LINEARS = {"fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (1000, 4096)}  # out_features, in_features
BEFORE = 2 * 64, 2 * 4.42  # FINISH_CYCLES and FINISH_COLUMN_CYCLES: 347 instructions for 64 columns, 1195 for 256


def tiles_and_waves(work: wgmma.Work, choice: wgmma.Choice) -> tuple[int, int]:
    """The tiles of a split, and how often they fill the multiprocessors of whole clusters."""
    block_n, splits, cluster = choice
    tiles = cdiv(work.gemm_m, 128 * cluster) * cluster * cdiv(work.gemm_n, block_n)
    return tiles, cdiv(tiles * splits, CHIP.num_sms // cluster * cluster)


def sm90_row(name: str, batch: int, work: wgmma.Work, bytes: int, times: str) -> str:
    """times: two columns, of which {} is the time that is predicted."""
    block_n, splits, cluster = choice = wgmma.choose(work, CHIP)
    tiles, waves = tiles_and_waves(work, choice)
    cycles = wgmma.modelled_cycles(work, choice, CHIP)
    ideal = work.gemm_m * work.gemm_n * work.steps * work.block_k / (CHIP.half * CHIP.num_sms)
    products = tiles * work.steps * (work.block_k // 16) * 2  # two warpgroups
    filled = f"{tiles * splits}, {waves}, {tiles * splits / (waves * CHIP.num_sms):.0%}"
    what = (f"{block_n}, {splits}, {cluster}", filled, math.ceil(work.steps / splits), products, f"{bytes / 1e6:.1f}")
    return row(name, batch, *what, times.format(us(cycles)), f"{ideal / cycles:.0%}")


def seen(layer: Convolution, batch: int) -> tuple[Geometry, wgmma.Work]:
    """The first layer after space to depth."""
    of = layer.geometry(batch)
    of = of.in_depth(sm80.FACTOR) if layer.stride == 4 else of
    return of, wgmma.convolution_work(of, of.C, False)


def sm90_convolution(layer: Convolution, batch: int) -> str:
    of, work = seen(layer, batch)
    alone = min(
        wgmma.modelled_cycles(work, wgmma.Choice(block_n, splits, 1), CHIP)
        for block_n in (wgmma.BLOCK_N[:3] if work.block_k == 48 else wgmma.BLOCK_N)
        for splits in range(1, max(work.steps // 4, 1) + 1)
    )
    values = of.N * of.C * of.H * of.W + of.K * of.GEMM_K + of.GEMM_M * of.K
    return sm90_row(layer.name, batch, work, 2 * values, f"{{}} | {us(alone)}")


def sm90_linear(name: str, batch: int) -> str:
    features, channels = LINEARS[name]
    work = wgmma.linear_work(batch, features, channels)
    read = f"{work.bytes / CHIP.memory * 1e6:.1f}"
    return sm90_row(name, batch, work, work.bytes + 2 * batch * features, f"{read} | {{}}")


def shorter(layer: Convolution) -> str:
    """What a tile's end took before it was shortened, by the same model."""
    _, work = seen(layer, 128)
    choice = wgmma.choose(work, CHIP)
    waves = tiles_and_waves(work, choice)[1]
    more = BEFORE[0] - wgmma.FINISH_CYCLES + choice.block_n * (BEFORE[1] - wgmma.FINISH_COLUMN_CYCLES)
    now = wgmma.modelled_cycles(work, choice, CHIP)
    return row(layer.name, waves, us(now + waves * more), us(now))


def sm90() -> Iterator[str]:
    rows = (sm90_convolution(layer, batch) for layer in ALEXNET for batch in (1, 16, 128, 256, 1024))
    yield from table(f"{HEAD} | us, predicted | alone | of peak", rows)
    rows = (sm90_linear(name, batch) for name in LINEARS for batch in (32, 64, 128, 256, 512, 1024))
    yield from table(f"{HEAD} | us to read | us, predicted | of peak", rows)


def shorter_ends() -> Iterator[str]:
    """Of docs/sm90.md itself."""
    return table("layer at batch 128 | waves | us, tiles ending as before | as now", map(shorter, ALEXNET))


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "convolution": convolution,
    "pooling": pooling,
    "cuda-pooling": cuda_pooling,
    "sm90": sm90,
}

if __name__ == "__main__":
    print("\n".join(PAGES[sys.argv[1]]()))
