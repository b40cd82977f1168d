"""A snapshot's linear layer, and the ways to run it: by csrc/cpu, with its operands exchanged, as torch does."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern import functional
from alexkern.backends import cpu
from alexkern.backends.cpu.crossovers import is_ours
from alexkern.backends.cpu.huge_pages import in_huge_pages
from alexkern.backends.cpu.linear_relu_dropout import product
from alexkern.frozen.step import PackedRun, Way, onednn_serves
from alexkern.nn import Match

# Rows of a product with a weight of at least so many elements, between which torch's own took up to 1.9 times as long
# as with exchanged operands: measured on two cores with AVX-512 and AMX, 256 x 512 to 4096 x 9216, 1 to 512 rows.
LARGE = 2**20
FEWEST_ROWS = {torch.float32: 5, torch.bfloat16: 1}
MOST_ROWS = 192
# From so many rows on exchanged operands are as fast as csrc/cpu, which takes 0.65 to 0.75 of their time before.
EXCHANGED_ROWS = 16


class Plain(Way):
    """As torch does, or alexkern.functional; the weight (K, C) in huge pages."""

    words = "plain"

    def __init__(self, step: FrozenLinear, weight: Tensor):
        self.bias, self.relu = step.bias, step.relu
        self.weight = weight

    def __call__(self, input: Tensor) -> Tensor | None:
        if self.relu:
            return functional.linear_relu_dropout(input, self.weight, self.bias, 0.0, False)
        return F.linear(input, self.weight, self.bias)


class Exchanged(Plain):
    """As (K, rows): oneDNN then streams the weight once, in its own order, while it multiplies. As the second operand,
    in blocks, it would be gone through again for every few rows, and waited for."""

    words = "with operands exchanged"

    @classmethod
    def pack(cls, step: FrozenLinear, weight: Tensor) -> Exchanged | None:
        return cls(step, weight) if onednn_serves(weight) and weight.numel() >= LARGE else None

    def serves(self, input: Tensor) -> bool:
        return FEWEST_ROWS[self.weight.dtype] <= math.prod(input.shape[:-1]) <= MOST_ROWS

    def __call__(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        if self.bias is None:
            value: Tensor = torch.ops.mkldnn._linear_pointwise(self.weight, rows, None, "none", [], "")
        else:
            columns = self.bias.unsqueeze(1).expand(-1, len(rows)).contiguous()  # added before the sum is rounded
            value = torch.ops.mkldnn._linear_pointwise.binary(self.weight, columns, rows, None, "add")
        value = value.t().contiguous()
        return (value.relu_() if self.relu else value).view(*input.shape[:-1], -1)


class FewRows(Plain):
    """By csrc/cpu/linear_relu_dropout, with a ReLU or without."""

    words = "by few rows"

    @classmethod
    def pack(cls, step: FrozenLinear, weight: Tensor) -> FewRows | None:
        reason = cpu.missing(weight.device.type, weight.dtype)
        return cls(step, weight) if reason is None and weight.dtype == torch.float32 else None

    def serves(self, input: Tensor) -> bool:
        rows = math.prod(input.shape[:-1])
        return rows < EXCHANGED_ROWS and is_ours("forward", self.weight, rows)

    def __call__(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias, relu=self.relu)


class FrozenLinear(PackedRun):
    """Linear[, ReLU[, Dropout]] with its weight in huge pages."""

    ALONE = "linear"
    WAYS = (FewRows, Exchanged, Plain)

    def __init__(self, linear: nn.Linear, found: Match | None):
        weight = in_huge_pages(linear.weight.detach().contiguous())
        super().__init__(weight, linear.bias, found, *((linear,) if found is None else found.modules))

    def __call__(self, input: Tensor) -> Tensor:
        if len(self.ways) > 1:  # all but torch's trust their arguments
            self.check(input, self.weight.shape[1], -1)
        return self.run(input)


def settle(layers: Iterable[nn.Module | None]) -> None:
    """Bring the weights of linear layers that are nobody else's into huge pages, where steps read them as they are."""
    for layer in layers:
        if type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and not layer.weight.is_shared():
            layer.weight.data = in_huge_pages(layer.weight.data)
