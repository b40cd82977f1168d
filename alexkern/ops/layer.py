"""A call in a captured graph, read as the module of torch's that would make it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn


class Layer(SimpleNamespace):
    """A call, read as the module that would make it: with the settings of one of `kind`, and nodes for its tensors."""

    kind: type[nn.Module]
    input: fx.Node
    inplace = training = False
    _parameters: dict[str, Any] = {}
    _buffers: dict[str, Any] = {}

    @property
    def weight(self) -> Tensor:
        return hinted(example(self._parameters["weight"]))


# What reads a call: it takes the call's own arguments, by torch's names and with torch's defaults.
Reader = Callable[..., Layer]


def example(node: fx.Node) -> Any:
    """What dynamo computed the node with: a fake tensor, mostly."""
    return node.meta.get("example_value")


def hinted(value: Tensor) -> Tensor:
    """Without numbers, in the shape of the call that is compiled for: to ask a symbolic size would be a guard."""
    places: list[Any] = [value.shape, value.stride()]
    shape, stride = ([size if isinstance(size, int) else size.node.hint or 1 for size in place] for place in places)
    return torch.empty_strided(shape, stride, dtype=value.dtype, device="meta")
