"""What the models choose for AlexNet's layers, and the microseconds that they give it: they rank, and measure nothing.

    python -m alexkern.cost conv2d_relu --chip h200 --batch 128 --dtype bfloat16

A command, and no part of the package: it asks the kernels and launchers above it what their products are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch

from alexkern.arithmetic import ARITHMETIC
from alexkern.backends.cuda import space_to_depth
from alexkern.backends.cuda.conv2d_relu_max_pool2d import FUSED_WINDOW, problem_of
from alexkern.backends.cuda.layout import padded
from alexkern.backends.cuda.linear_relu_dropout import FEW_ROWS
from alexkern.bench.layers import LAYERS, Convolution, Linear
from alexkern.commands import add_number, guarded
from alexkern.cost import sm80, sm80_pooled, sm90, triton
from alexkern.cost.chips import CHIPS, Chip
from alexkern.ops.registry import OPERATORS
from alexkern.tools.workloads import layers

PROGRAM = "python -m alexkern.cost"
CALLS = FORWARD, DATA, WEIGHT = "forward", "data gradient", "weight gradient"


def triton_choices(layer: Convolution | Linear, operator: str, batch: int, arithmetic: str, chip: Chip) -> list[str]:
    """Of each call of the operator."""
    from alexkern.kernels import conv2d_relu, conv2d_relu_data_gradient, conv2d_relu_weight_gradient
    from alexkern.kernels import conv2d_relu_max_pool2d as pooled
    from alexkern.kernels import linear_relu_dropout as linear
    from alexkern.kernels.convolution import Problem

    how = ARITHMETIC[arithmetic]
    if isinstance(layer, Linear):
        rows = linear.Problem(batch, layer.in_features, layer.out_features, *how)
        return [_product(linear.configure(rows, chip), linear.product(rows), chip)]
    problem = Problem(layer.geometry(batch), *how)
    if operator == "conv2d_relu_max_pool2d":
        config = pooled.configure(problem, FUSED_WINDOW, False, chip)
        if not config.fused:
            return [_line("separate", pooled.separate_cycles(problem, False, chip) / chip.clock)]
        shape = f"fused, {config.ROWS} x {config.BLOCK_Q - 1} windows x {config.BLOCK_N}"
        return [_line(shape, pooled.fused_cycles(problem, config, False, chip) / chip.clock)]
    modules = (conv2d_relu, conv2d_relu_data_gradient, conv2d_relu_weight_gradient)
    return [_product(module.configure(problem, chip), module.product(problem), chip) for module in modules]


def _product(config: Any, product: triton.Product, chip: Chip) -> str:
    sizes = (config.BLOCK_M, config.BLOCK_N, getattr(config, "TAIL_N", 0), config.BLOCK_K)
    tile, splits = triton.Tile(*sizes, config.num_warps, config.num_stages), getattr(config, "splits", 1)
    parts = f", {splits} splits" if splits > 1 else ""
    return _line(f"{tile}{parts}", triton.cycles(tile, product, chip, splits) / chip.clock)


def cuda_choices(layer: Convolution | Linear, operator: str, batch: int, arithmetic: str, chip: Chip) -> list[str]:
    """Of each call of the operator."""
    dtype, precision = ARITHMETIC[arithmetic]
    on_sm90 = chip.capability == (9, 0) and dtype.itemsize == 2
    if isinstance(layer, Linear):
        if dtype.itemsize == 2 and batch <= FEW_ROWS:
            return ["few rows"]
        work = sm90.linear_work(batch, layer.out_features, layer.in_features)
        return [_on_sm90(work, chip) if on_sm90 else "torch's"]
    if operator == "conv2d_relu":
        return [_convolution(layer, call, batch, dtype, on_sm90, chip) for call in CALLS]
    problem = problem_of(dtype, precision == "tf32", layer.geometry(batch), False)
    plan, fused, separate = sm80_pooled.compare(problem, chip)
    if fused < separate and not on_sm90:
        return [_line(f"fused, {plan}", fused * sm80.SECONDS)]
    return ["separate" if on_sm90 else _line("separate", separate * sm80.SECONDS)]


def _convolution(layer: Convolution, call: str, batch: int, dtype: torch.dtype, on_sm90: bool, chip: Chip) -> str:
    itemsize, deep, times = dtype.itemsize, False, None
    if call != DATA and space_to_depth.allows(layer.geometry(batch)):
        times = sm80.first_layer_times(itemsize, layer.geometry(batch), call == WEIGHT, False, chip)
        deep = on_sm90 or times.deep < times.padded
    product, work = products(layer, batch, dtype, deep)[call]
    way = ", in depth" if deep else ""
    if on_sm90 and work is not None:
        return _on_sm90(work, chip, call == WEIGHT, way)
    choice = sm80.choose(itemsize, product, chip)
    time = min(times) if times else sm80.time_of(choice, itemsize, product, chip)
    return _line(f"{choice}{way}", time * sm80.SECONDS)


def products(
    layer: Convolution, batch: int, dtype: torch.dtype, deep: bool
) -> dict[str, tuple[sm80.Product, sm90.Work | None]]:
    """What the launchers make of a layer's calls, over space to depth's images or not."""
    geometry = layer.geometry(batch)
    seen = geometry.in_depth(sm80.FACTOR) if deep else geometry
    channels, gradients = seen.C if deep else padded(layer.C // layer.groups, dtype), padded(geometry.GEMM_N, dtype)
    forward = sm90.convolution_work(seen, channels, False) if seen.stride == (1, 1) else None
    data = sm90.convolution_work(geometry.turned(), gradients, False) if layer.stride == 1 else None
    return {
        FORWARD: (sm80.forward_product(seen, channels), forward),
        DATA: (sm80.data_product(geometry, gradients), data),
        WEIGHT: (sm80.weight_product(seen, channels), sm90.weight_work(seen, channels)),
    }


def _on_sm90(work: sm90.Work, chip: Chip, weight_gradient: bool = False, way: str = "") -> str:
    choice = sm90.choose(work, chip, weight_gradient)
    return _line(f"{choice}{way} (wgmma)", sm90.modelled_cycles(work, choice, chip) / chip.clock)


def _line(choice: object, seconds: float) -> str:
    return f"{choice}: {seconds * 1e6:.1f} us"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = _Parser(prog=PROGRAM, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("operator", choices=[operator.name for operator in OPERATORS.values() if operator.multiplies])
    parser.add_argument("--chip", type=str.upper, default="H200", choices=CHIPS, help="default: H200")
    add_number(parser, "--batch", 128, "images", name="batch-size")
    parser.add_argument("--dtype", default="bfloat16", choices=ARITHMETIC, help="default: bfloat16")
    parser.add_argument("--model", default="alexnet", choices=LAYERS, help="default: alexnet")
    parser.add_argument("--layer", nargs="+", help="conv2, fc6, ...; default: all")
    args = parser.parse_args(argv)
    known = [layer.name for layer in layers(args.operator, args.model)]
    unknown = sorted(set(args.layer or ()) - set(known))
    if unknown:
        parser.error(f"--layer must be of {', '.join(known)}, got {', '.join(unknown)}")
    for layer in layers(args.operator, args.model):
        asked = (layer, args.operator, args.batch, args.dtype, CHIPS[args.chip])
        for call, ours, cuda in zip(CALLS, triton_choices(*asked), cuda_choices(*asked), strict=False):
            if layer.name in (args.layer or known):
                print(f"{layer.name:6} {call:16} Triton {ours:58} CUDA C++ {cuda}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(PROGRAM, main))
