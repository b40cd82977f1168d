"""A snapshot's linear layer on a CPU: by csrc/cpu, or by oneDNN with its operands exchanged."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alexkern.backends import cpu
from alexkern.backends.cpu.crossovers import is_ours
from alexkern.backends.cpu.huge_pages import in_huge_pages
from alexkern.backends.cpu.linear_relu_dropout import product
from alexkern.backends.way import Way

# Rows of a product with a weight of at least so many elements, between which torch's own took up to 1.9 times as long
# as with exchanged operands: measured on two cores with AVX-512 and AMX, 256 x 512 to 4096 x 9216, 1 to 512 rows.
LARGE = 2**20
FEWEST_ROWS = {torch.float32: 5, torch.bfloat16: 1}
MOST_ROWS = 192
# From so many rows on exchanged operands are as fast as csrc/cpu, which takes 0.65 to 0.75 of their time before.
EXCHANGED_ROWS = 16


class Exchanged(Way):
    """As (K, rows): oneDNN then streams the weight once, in its own order, while it multiplies. As the second operand,
    in blocks, it would be gone through again for every few rows, and waited for."""

    words = "with operands exchanged"

    @classmethod
    def pack(cls, step: Any, weight: Tensor) -> Exchanged | None:
        return cls(step, weight) if cpu.onednn_serves(weight) and weight.numel() >= LARGE else None

    def serves(self, input: Tensor) -> bool:
        return FEWEST_ROWS[self.weight.dtype] <= math.prod(input.shape[:-1]) <= MOST_ROWS

    def __call__(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        if self.bias is None:
            value: Tensor = torch.ops.mkldnn._linear_pointwise(self.weight, rows, None, "none", [], "")
        else:
            added = self.bias.unsqueeze(1).expand(-1, len(rows)).contiguous()  # before the sum is rounded
            value = torch.ops.mkldnn._linear_pointwise.binary(self.weight, added, rows, None, "add")
        value = value.t().contiguous()
        return (value.relu_() if self.relu else value).view(*input.shape[:-1], -1)


class FewRows(Way):
    """By csrc/cpu/linear_relu_dropout, with a ReLU or without."""

    words = "by few rows"

    @classmethod
    def pack(cls, step: Any, weight: Tensor) -> FewRows | None:
        reason = cpu.missing(weight.device.type, weight.dtype)
        return cls(step, weight) if reason is None else None

    def serves(self, input: Tensor) -> bool:
        rows = math.prod(input.shape[:-1])
        return rows < EXCHANGED_ROWS and is_ours("forward", self.weight, rows)

    def __call__(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias, relu=self.relu)


WAYS = (FewRows, Exchanged)
settled = in_huge_pages  # where a weight is to lie, for all ways
