"""A snapshot's linear layer, and the plain way to run it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from alexkern import dispatch, functional
from alexkern.backends.way import Way
from alexkern.frozen.step import PackedRun
from alexkern.nn import Match


class Plain(Way):
    """As torch does, or alexkern.functional."""

    words, trusts, serves_all = "plain", False, True

    def __call__(self, input: Tensor) -> Tensor | None:
        if self.relu:
            return functional.linear_relu_dropout(input, self.weight, self.bias, 0.0, False)
        return F.linear(input, self.weight, self.bias)


class FrozenLinear(PackedRun):
    """Linear[, ReLU[, Dropout]] with its weight (K, C) where the backends' ways want it."""

    LAYER, PLAIN = "linear", Plain

    def __init__(self, linear: nn.Linear, found: Match | None):
        weight = dispatch.settled(self.LAYER, linear.weight.detach().contiguous())
        super().__init__(weight, linear.bias, found, *((linear,) if found is None else found.modules))

    def __call__(self, input: Tensor) -> Tensor:
        if self.trusting:
            self.check(input, self.weight.shape[1], -1)
        return self.run(input)


def settle(layers: Iterable[nn.Module | None]) -> None:
    """Bring the weights of linear layers that are nobody else's to where steps read them as they are."""
    for layer in layers:
        if type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and not layer.weight.is_shared():
            layer.weight.data = dispatch.settled(FrozenLinear.LAYER, layer.weight.data)
