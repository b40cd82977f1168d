"""What the models choose for AlexNet's layers, and the microseconds that they give it: they rank, and measure nothing.

    python -m alexkern.cost conv2d_relu --chip h200 --batch 128 --dtype bfloat16

A command, and no part of the package: it asks the kernels and launchers above it what their products are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch

from alexkern.backends.cuda import space_to_depth
from alexkern.backends.cuda.conv2d_relu import Geometry, padded
from alexkern.backends.cuda.conv2d_relu_max_pool2d import problem_of
from alexkern.backends.cuda.linear_relu_dropout import FEW_ROWS
from alexkern.bench.layers import LAYERS, Convolution, Linear
from alexkern.cost import sm80, sm80_pooled, sm90
from alexkern.cost.chips import CHIPS, Chip
from alexkern.cost.model import cdiv
from alexkern.cost.triton import Tile, cycles, split_cycles
from alexkern.tools.workloads import ARITHMETIC, PRODUCTS, layers

FORWARD, DATA, WEIGHT = "forward", "data gradient", "weight gradient"
POOL = ((3, 3), (2, 2), (0, 0))


def triton_choices(layer: Convolution | Linear, operator: str, batch: int, arithmetic: str, chip: Chip) -> list[str]:
    """Of each call of the operator."""
    from alexkern.kernels import conv2d_relu, conv2d_relu_data_gradient, conv2d_relu_weight_gradient
    from alexkern.kernels import conv2d_relu_max_pool2d as pooled
    from alexkern.kernels import linear_relu_dropout as linear
    from alexkern.kernels.convolution import Problem

    dtype, precision = ARITHMETIC[arithmetic]
    how = (dtype, precision, chip)
    if isinstance(layer, Linear):
        rows = linear.Problem(batch, layer.in_features, layer.out_features, dtype, precision)
        tile = _tile(linear.configure(rows, chip))
        return [_line(tile, cycles(tile, rows.M, rows.N, rows.K, 1, *how) / chip.clock)]
    sizes = (batch, layer.C, layer.H, layer.H, layer.K, layer.R, layer.R)
    problem = Problem(*sizes, (layer.stride,) * 2, (layer.padding,) * 2, (1, 1), layer.groups, dtype, precision)
    if operator == "conv2d_relu_max_pool2d":
        config = pooled.configure(problem, POOL, False, chip)
        if config.fused:
            rows_columns = f"{config.ROWS} x {config.BLOCK_Q - 1} windows x {config.BLOCK_N}"
            return [_line(f"fused, {rows_columns}", pooled.fused_cycles(problem, config, False, chip) / chip.clock)]
        return [_line("separate", pooled.separate_cycles(problem, False, chip) / chip.clock)]
    found = []
    for kernels in (conv2d_relu, conv2d_relu_data_gradient):
        tile = _tile(kernels.configure(problem, chip))
        found.append(_line(tile, cycles(tile, *kernels.product(problem), *how) / chip.clock))
    split = conv2d_relu_weight_gradient.configure(problem, chip)
    time = split_cycles(_tile(split), split.splits, *conv2d_relu_weight_gradient.product(problem), *how)
    return [*found, _line(f"{_tile(split)}, {split.splits} splits", time / chip.clock)]


def _tile(config: Any) -> Tile:
    sizes = (config.BLOCK_M, config.BLOCK_N, getattr(config, "TAIL_N", 0), config.BLOCK_K)
    return Tile(*sizes, config.num_warps, config.num_stages)


def cuda_choices(layer: Convolution | Linear, operator: str, batch: int, arithmetic: str, chip: Chip) -> list[str]:
    """Of each call of the operator."""
    dtype, precision = ARITHMETIC[arithmetic]
    on_hopper = chip.capability == (9, 0) and dtype.itemsize == 2
    if isinstance(layer, Linear):
        if dtype.itemsize == 2 and batch <= FEW_ROWS:
            return ["few rows"]
        if not on_hopper:
            return ["torch's"]
        work = sm90.linear_work(batch, layer.out_features, layer.in_features)
        return [_on_hopper(work, chip)]
    if operator == "conv2d_relu_max_pool2d":
        if on_hopper:
            return ["separate"]
        shapes = ((batch, layer.C, layer.H, layer.H), (layer.K, layer.C // layer.groups, layer.R, layer.R))
        problem = problem_of(dtype, precision == "tf32", *shapes, (layer.P, layer.P), layer.groups, False)
        plan, fused, separate = sm80_pooled.compare(problem, chip)
        if fused.time < separate.time:
            return [_line(f"fused, {plan}", fused.time * sm80.SECONDS)]
        return [_line("separate", separate.time * sm80.SECONDS)]
    return [_convolution(layer, call, batch, dtype, on_hopper, chip) for call in (FORWARD, DATA, WEIGHT)]


def _convolution(layer: Convolution, call: str, batch: int, dtype: torch.dtype, on_hopper: bool, chip: Chip) -> str:
    itemsize = dtype.itemsize
    geometry = Geometry((layer.R,) * 2, (layer.stride,) * 2, (layer.padding,) * 2, (1, 1), layer.groups)
    times = None
    if call != DATA and space_to_depth.allows(layer.C, geometry):
        sizes = ((batch, layer.C, layer.H, layer.H), layer.K, (layer.R, layer.R), (layer.P, layer.P))
        times = sm80.first_layer_times(itemsize, *sizes, call == WEIGHT, False, chip)
    deep = times is not None and (on_hopper or times.deep < times.padded)
    product, work = products(layer, batch, dtype, deep)[call]
    way = ", in depth" if deep else ""
    if on_hopper and work is not None:
        return _on_hopper(work, chip, call == WEIGHT, way)
    choice = sm80.choose(itemsize, product, chip)
    time = sm80.time_of(choice, itemsize, product, chip) if times is None else min(times)
    return _line(f"{choice}{way}", time * sm80.SECONDS)


def products(
    layer: Convolution, batch: int, dtype: torch.dtype, deep: bool
) -> dict[str, tuple[sm80.Product, sm90.Work | None]]:
    """What the launchers make of a layer's calls, over space to depth's images or not."""
    size, stride, groups = (cdiv(layer.R, sm80.FACTOR), 1, 1) if deep else (layer.R, layer.stride, layer.groups)
    channels = sm80.FACTOR**2 * layer.C if deep else padded(layer.C // groups, dtype)
    taps, filters, phases = size**2, layer.K // groups, stride**2
    pixels, inputs, gradients = batch * layer.P**2, batch * layer.H**2, padded(filters, dtype)

    def work(rows: int, columns: int, channels: int) -> sm90.Work | None:
        depth = sm90.depth_of(channels)
        return sm90.Work(rows, columns, taps * cdiv(channels, depth), groups, depth, False) if phases == 1 else None

    depth, chunks = sm90.DEPTH, cdiv(channels, sm90.DEPTH)
    weight = sm90.Work(filters, taps * chunks * depth, cdiv(pixels, depth), groups, depth, True)
    over_taps = (cdiv(inputs, phases), layer.C // groups, max(taps * gradients // phases, 1), groups * phases)
    return {
        FORWARD: (sm80.Product(pixels, filters, taps * channels, groups), work(pixels, filters, channels)),
        DATA: (sm80.Product(*over_taps), work(inputs, layer.C // groups, gradients)),
        WEIGHT: (sm80.Product(filters, taps * channels, pixels, groups), weight),
    }


def _on_hopper(work: sm90.Work, chip: Chip, weight_gradient: bool = False, way: str = "") -> str:
    choice = sm90.choose(work, chip, weight_gradient)
    return _line(f"{choice}{way} (wgmma)", sm90.modelled_cycles(work, choice, chip) / chip.clock)


def _line(choice: object, seconds: float) -> str:
    return f"{choice}: {seconds * 1e6:.1f} us"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def rows(operator: str, model: str, names: Sequence[str], batch: int, arithmetic: str, chip: Chip) -> Iterator[str]:
    """A line for each call of each layer."""
    for layer in layers(operator, model):
        if layer.name in names:
            asked = (layer, operator, batch, arithmetic, chip)
            for call, *chosen in zip(
                (FORWARD, DATA, WEIGHT), triton_choices(*asked), cuda_choices(*asked), strict=False
            ):
                yield f"{layer.name:6} {call:16} Triton {chosen[0]:58} CUDA C++ {chosen[1]}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = _Parser(prog="python -m alexkern.cost", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("operator", choices=PRODUCTS)
    parser.add_argument("--chip", type=str.upper, default="H200", choices=CHIPS, help="default: H200")
    parser.add_argument("--batch", type=int, default=128, help="default: 128")
    parser.add_argument("--dtype", default="bfloat16", choices=ARITHMETIC, help="default: bfloat16")
    parser.add_argument("--model", default="alexnet", choices=LAYERS, help="default: alexnet")
    parser.add_argument("--layer", nargs="+", help="conv2, fc6, ...; default: all")
    args = parser.parse_args(argv)
    known = [layer.name for layer in layers(args.operator, args.model)]
    unknown = sorted(set(args.layer or ()) - set(known))
    if unknown:
        parser.error(f"--layer must be of {', '.join(known)}, got {', '.join(unknown)}")
    if args.batch < 1:
        parser.error(f"--batch must be at least 1, got {args.batch}")
    print("\n".join(rows(args.operator, args.model, args.layer or known, args.batch, args.dtype, CHIPS[args.chip])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
