"""The runs of layers that operators stand for, built."""

from __future__ import annotations

import inspect

from torch import nn

from alexkern.nn import FusedSequential
from alexkern.ops.registry import OPERATORS

Layers = tuple[type[nn.Module], ...]
RUNS = [(operator, layers) for operator in OPERATORS.values() for layers in operator.layers]
# What the layers' required arguments are, by name; the registry's examples are images of 8 channels or rows of 16.
NUMBERS = {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "in_features": 16, "out_features": 16, "size": 5}


def name_of(layers: Layers) -> str:
    return "-".join(kind.__name__ for kind in layers)


def run_of(layers: Layers) -> FusedSequential:
    def build(kind: type[nn.Module]) -> nn.Module:
        parameters = inspect.signature(kind).parameters.values()
        return kind(*(NUMBERS[item.name] for item in parameters if item.default is inspect.Parameter.empty))

    return FusedSequential(*map(build, layers)).eval()
