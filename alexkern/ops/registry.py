"""Every operator: what dispatch, fusing, reports, benchmarks and tests go through. A new one has its entry here."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from alexkern.ops import (
    augment,
    conv2d_relu,
    conv2d_relu_max_pool2d,
    dropout,
    flops,
    linear_relu_dropout,
    local_response_norm,
    max_pool2d,
)
from alexkern.ops.description import Description, Layers
from alexkern.ops.layer import Reader
from alexkern.ops.operator import Operator

ENTRIES = conv2d_relu, conv2d_relu_max_pool2d, max_pool2d, dropout, linear_relu_dropout, local_response_norm
OPERATORS: dict[str, Operator] = {entry.OPERATOR.name: entry.OPERATOR for entry in ENTRIES}
flops.register(OPERATORS)


def served() -> dict[str, Description]:
    """Whatever a backend may have: the operators, and augment, which is none of a network's."""
    return {**OPERATORS, augment.NAME: augment.OPERATOR}


def alone(layer: type) -> Operator:
    """The operator that a layer of torch's is by itself."""
    return next(operator for operator in OPERATORS.values() if (layer,) in operator.layers)


def runs() -> dict[type, list[tuple[Layers, Operator, str]]]:
    """The runs of layers that operators stand for, by their first layer, the longest first; and what others lack."""
    # Dynamo traces what is cached, and warns of the cache.
    found = _runs.__wrapped__ if torch.compiler.is_compiling() else _runs
    return found(*OPERATORS.values())


def spellings() -> dict[Any, Reader]:
    """What reads a call of torch's functions in a graph, of all operators."""
    return {name: reader for operator in OPERATORS.values() for name, reader in operator.spellings.items()}


@lru_cache(maxsize=8)
def _runs(*operators: Operator) -> dict[type, list[tuple[Layers, Operator, str]]]:
    found = [
        (layers, operator, f"no {', '.join(layer.__name__ for layer in layers[1:])} behind it")
        for operator in operators
        for layers in operator.layers
    ]
    found.sort(key=lambda run: len(run[0]), reverse=True)
    return {layers[0]: [run for run in found if run[0][0] is layers[0]] for layers, *_ in found}
