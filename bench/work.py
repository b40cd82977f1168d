"""What a computation cannot do without: its floating-point operations, and every byte read or written once.

A multiply-add counts as two operations; what is not a matrix product counts as none, because memory bounds it. Bytes
are those of an ideal kernel: each operator reads its inputs and writes its results once, with bias, ReLU, dropout and
the pooling behind a convolution fused into it, one byte per pooled value where a backward pass needs the winners, and
nothing kept but what README says. A network's floor is the sum of its operators' floors: one needs the other's result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from alexkern.bench.layers import Convolution, Dropout, Layers, Linear, Normalization, Pooling
from alexkern.ops.registry import OPERATORS

SGD_ACCESSES = 5  # SGD with momentum reads parameter, gradient and momentum, and writes the first and the last


@dataclass(frozen=True)
class Part:
    """One operator's work in one pass: floating-point operations of matrix products, and bytes."""

    flops: float
    bytes: float


Work = tuple[Part, ...]


@dataclass(frozen=True)
class Ceilings:
    """Per second: floating-point operations of a matrix product in one arithmetic, and bytes read and written."""

    flops: float
    bytes: float


def floor(work: Work, ceilings: Ceilings) -> float:
    """The seconds that work takes at least: for each part, the longer of computing and moving its bytes."""
    return sum(max(part.flops / ceilings.flops, part.bytes / ceilings.bytes) for part in work)


def total(work: Work) -> Part:
    return Part(sum(part.flops for part in work), sum(part.bytes for part in work))


def pooled_size(size: int) -> int:
    """3 x 3 windows at stride 2."""
    return (size - 3) // 2 + 1


def convolution(layer: Convolution, batch: int, itemsize: int, *, pooled: bool, backward: bool, first: bool) -> Work:
    """Forward, and with `backward` the pass behind it as a part of its own; the first layer's input has no gradient."""
    inputs = batch * layer.C * layer.H**2
    filters = layer.K * layer.C // layer.groups * layer.R**2
    outputs = batch * layer.K * (pooled_size(layer.P) if pooled else layer.P) ** 2
    flops = 2 * batch * layer.P**2 * filters
    winners = outputs if pooled and backward else 0
    forward = Part(flops, itemsize * (inputs + filters + layer.K + outputs) + winners)
    if not backward:
        return (forward,)
    # Reads the gradient, the output for its mask, the input and, for the input's gradient, the filters.
    gradients = 1 if first else 2
    moved = 2 * outputs + inputs + filters + layer.K + (0 if first else filters + inputs)
    return forward, Part(gradients * flops, itemsize * moved + winners)


def pooling(layer: Pooling, batch: int, itemsize: int, *, backward: bool) -> Work:
    inputs, outputs = batch * layer.C * layer.H**2, batch * layer.C * pooled_size(layer.H) ** 2
    forward = Part(0, itemsize * (inputs + outputs) + (outputs if backward else 0))
    return (forward, Part(0, itemsize * (inputs + outputs) + outputs)) if backward else (forward,)


def normalization(layer: Normalization, batch: int, itemsize: int, *, backward: bool) -> Work:
    values = batch * layer.C * layer.H**2
    forward = Part(0, itemsize * 2 * values)
    return (forward, Part(0, itemsize * 3 * values)) if backward else (forward,)


def linear(layer: Linear, batch: int, itemsize: int, *, backward: bool, relu: bool = True) -> Work:
    inputs, outputs = batch * layer.in_features, batch * layer.out_features
    weights = layer.in_features * layer.out_features
    flops = 2 * batch * weights
    forward = Part(flops, itemsize * (inputs + weights + layer.out_features + outputs))
    if not backward:
        return (forward,)
    moved = (2 if relu else 1) * outputs + 2 * (inputs + weights) + layer.out_features
    return forward, Part(2 * flops, itemsize * moved)


def dropout(layer: Dropout, batch: int, itemsize: int, *, backward: bool) -> Work:
    part = Part(0, itemsize * 2 * batch * layer.features)
    return (part, part) if backward else (part,)


ALONE: dict[type, Callable[..., Work]] = {
    Pooling: pooling, Normalization: normalization, Linear: linear, Dropout: dropout,
}  # fmt: skip


def layer_work(operator: str, layer: object, batch: int, itemsize: int, *, backward: bool) -> Work:
    """Of one operator on one layer, with the gradients of all its arguments."""
    if isinstance(layer, Convolution):
        pooled = any(nn.MaxPool2d in run for run in OPERATORS[operator].layers)
        return convolution(layer, batch, itemsize, pooled=pooled, backward=backward, first=False)
    if type(layer) not in ALONE:
        raise TypeError(f"layer_work: {type(layer).__name__} is no layer of LAYERS")
    return ALONE[type(layer)](layer, batch, itemsize, backward=backward)


def network(layers: Layers, batch: int, itemsize: int, *, backward: bool) -> Work:
    """All layers of a network, images of 224 x 224 and 1000 classes; dropout is fused into the layer beside it."""
    parts: list[Part] = []
    poolings = {pool.name.replace("pool", "conv"): pool for pool in layers.poolings}
    norms = {norm.name.replace("norm", "conv"): norm for norm in layers.normalizations}
    for index, layer in enumerate(layers.convolutions):
        pooled = layer.name in layers.pooled
        parts += convolution(layer, batch, itemsize, pooled=pooled, backward=backward, first=index == 0)
        if layer.name in norms:
            parts += normalization(norms[layer.name], batch, itemsize, backward=backward)
        if layer.name in poolings and not pooled:
            parts += pooling(poolings[layer.name], batch, itemsize, backward=backward)
    for hidden in layers.linears:
        parts += linear(hidden, batch, itemsize, backward=backward)
    parts += linear(
        Linear("fc8", layers.linears[-1].out_features, 1000), batch, itemsize, backward=backward, relu=False
    )
    return tuple(parts)


def sgd(parameters: Iterable[int], itemsize: int) -> Work:
    """One step of SGD with momentum over parameters of these sizes."""
    return (Part(0, SGD_ACCESSES * itemsize * sum(parameters)),)
