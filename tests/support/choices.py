"""Every choice of tile, splits and way that the AlexNets ask for, as lines of text: what choices.txt has pinned.

python tests/support/choices.py prints them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from alexkern.arithmetic import ARITHMETIC
from alexkern.backends.cuda import space_to_depth
from alexkern.backends.cuda.conv2d_relu_max_pool2d import problem_of
from alexkern.bench.layers import LAYERS, Convolution, Linear
from alexkern.cost import sm80, sm80_pooled, sm90
from alexkern.cost.__main__ import WEIGHT, products
from alexkern.cost.chips import CHIPS, Chip
from alexkern.kernels import conv2d_relu as forward
from alexkern.kernels import conv2d_relu_data_gradient as data
from alexkern.kernels import conv2d_relu_max_pool2d as pooling
from alexkern.kernels import conv2d_relu_weight_gradient as weight
from alexkern.kernels import linear_relu_dropout as linear
from alexkern.kernels.config import rehearse
from alexkern.kernels.convolution import Problem
from alexkern.kernels.masked_gradient import worthwhile

BATCHES = (1, 16, 128, 256)
POOL = ((3, 3), (2, 2), (0, 0))
HEAD = """\
# layer batch arithmetic chips
# Triton: tile, warps, stages (and splits; factor): forward; data gradient; weight gradient; pooled, without and with
# offsets: fused? rows; whether the gradient is masked first
# csrc/cuda/conv2d_relu: tile, splits: forward; data gradient; weight gradient; pooled, without and with offsets: its
# plan, fused? ; in depth? forward, weight gradient
# csrc/cuda/sm90: block_n, splits, cluster: forward; data gradient; weight gradient"""


def words(*values: Any) -> str:
    return ",".join(str(int(value)) for value in values)


def convolutions() -> Iterator[tuple[str, Convolution]]:
    """Each once, by the name of the first network that has it."""
    seen = set()
    for model, layers in LAYERS.items():
        for layer in layers.convolutions:
            sizes = (layer.C, layer.H, layer.K, layer.R, layer.groups)
            if sizes not in seen:
                seen.add(sizes)
                yield f"{model}.{layer.name}", layer


def convolution_problem(layer: Convolution, batch: int, arithmetic: str) -> Problem:
    return Problem(layer.geometry(batch), *ARITHMETIC[arithmetic])


def triton_choices(layer: Convolution, batch: int, arithmetic: str, chip: Chip) -> Iterator[str]:
    problem = convolution_problem(layer, batch, arithmetic)
    for kernels in (forward, data, weight):
        yield words(*vars(kernels.configure(problem, chip)).values())
    for save_offsets in (False, True):
        yield words(*vars(pooling.configure(problem, POOL, save_offsets, chip)).values())
    key = (torch.device("cpu"), problem.dtype, problem.precision, problem.geometry)
    with rehearse(chip):
        loads = data.loads(key) + weight.loads(key)
    yield words(worthwhile(batch * layer.K * layer.P**2, loads, problem.dtype, chip))


def sm80_choices(layer: Convolution, batch: int, arithmetic: str, chip: Chip) -> Iterator[str]:
    dtype, precision = ARITHMETIC[arithmetic]
    for product, _ in products(layer, batch, dtype, False).values():
        yield words(*sm80.choose(dtype.itemsize, product, chip))
    geometry = layer.geometry(batch)
    for save_offsets in (False, True):
        problem = problem_of(dtype, precision == "tf32", geometry, save_offsets)
        plan, fused, separate = sm80_pooled.compare(problem, chip)
        yield words(*plan, fused < separate)
    if space_to_depth.allows(geometry):
        for gradient in (False, True):
            times = sm80.first_layer_times(dtype.itemsize, geometry, gradient, False, chip)
            yield words(times.deep < times.padded)


def sm90_choices(layer: Convolution, batch: int, arithmetic: str, chip: Chip) -> Iterator[str]:
    """The first layer's over space to depth's images."""
    calls = products(layer, batch, ARITHMETIC[arithmetic][0], deep=layer.stride == 4)
    for call, (_, work) in calls.items():
        if work is not None:
            yield words(*sm90.choose(work, chip, call == WEIGHT))


def linear_choices(layer: Linear, batch: int, arithmetic: str, chip: Chip) -> Iterator[str]:
    problem = linear.Problem(batch, layer.in_features, layer.out_features, *ARITHMETIC[arithmetic])
    yield words(*vars(linear.configure(problem, chip)).values())
    if chip.capability == (9, 0) and problem.dtype != torch.float32:
        yield words(*sm90.choose(sm90.linear_work(batch, layer.out_features, layer.in_features), chip))


def choices(layer: Convolution | Linear, batch: int, arithmetic: str, chip: Chip) -> str:
    if isinstance(layer, Linear):
        return "; ".join(linear_choices(layer, batch, arithmetic, chip))
    found = ["; ".join(triton_choices(layer, batch, arithmetic, chip))]
    found.append("; ".join(sm80_choices(layer, batch, arithmetic, chip)))
    if chip.capability == (9, 0) and ARITHMETIC[arithmetic][0] != torch.float32:
        found.append("; ".join(sm90_choices(layer, batch, arithmetic, chip)))
    return " | ".join(found)


def lines() -> Iterator[str]:
    """One for each layer, batch and arithmetic on the chips that choose alike; float16 is one with bfloat16."""
    layers = [*convolutions(), *((f"alexnet.{layer.name}", layer) for layer in LAYERS["alexnet"].linears)]
    for name, layer in layers:
        for batch in BATCHES:
            groups: dict[tuple[str, str], list[str]] = {}
            for arithmetic in ("bfloat16", "float16", "float32", "tf32"):
                kind = "16" if arithmetic.endswith("float16") else arithmetic
                for chip in ("H200", "H100", "A100"):
                    chosen = choices(layer, batch, arithmetic, CHIPS[chip])
                    groups.setdefault((kind, chosen), []).append(chip)
            for (arithmetic, chosen), chips in groups.items():
                yield f"{name} {batch} {arithmetic} {'+'.join(dict.fromkeys(chips))}: {chosen}"


if __name__ == "__main__":
    print("\n".join([HEAD, *lines()]))
