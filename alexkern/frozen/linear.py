"""A snapshot's linear layer, and the plain way to run it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from alexkern import dispatch, functional
from alexkern.backends.way import Way
from alexkern.frozen.step import PackedRun, with_norm
from alexkern.nn import Match

LARGE = 2**20  # elements of a weight of which a way other than torch's may be quicker


class Plain(Way):
    """As torch does, or alexkern.functional."""

    words, trusts, serves_all = "plain", False, True

    def __call__(self, input: Tensor) -> Tensor | None:
        if self.relu:
            return functional.linear_relu_dropout(input, self.weight, self.bias, 0.0, False)
        return F.linear(input, self.weight, self.bias)


class FrozenLinear(PackedRun):
    """Linear[, BatchNorm1d][, ReLU[, Dropout]], its weight (K, C) where the ways want it: a copy if a norm went in."""

    LAYER, PLAIN = "linear", Plain

    def __init__(self, linear: nn.Linear, norm: nn.Module | None, found: Match | None):
        weight, bias = with_norm(linear, norm)
        norms, rest = () if norm is None else (norm,), () if found is None else found.modules[1:]
        super().__init__(dispatch.settled(self.LAYER, weight.contiguous()), bias, found, linear, *norms, *rest)
        self.of_rows = norm is not None  # of more dimensions it normalises another than the last

    def gains(self, input: Tensor) -> int:
        gains = self.weight.numel() >= LARGE or self.of_rows
        return self.weight.shape[0] * max(input.numel(), 1) if gains else 0

    def takes(self, input: Any) -> bool:
        return super().takes(input) and (input.dim() == 2 or not self.of_rows)

    def __call__(self, input: Tensor) -> Tensor:
        if self.trusting:
            self.check(input, self.weight.shape[1], -1)
        return self.run(input)


def settle(layers: Iterable[nn.Module | None]) -> None:
    """Bring the weights of linear layers that are nobody else's to where steps read them as they are."""
    for layer in layers:
        if type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and not layer.weight.is_shared():
            layer.weight.data = dispatch.settled(FrozenLinear.LAYER, layer.weight.data)
