"""linear_relu_dropout by torch's product, with ReLU and dropout in one pass over its result (csrc/cpu/dropout)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.cpu import dropout
from alexkern.backends.torch.linear_relu_dropout import backward

__all__ = ["backward", "forward"]


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float) -> Tensor:
    output = F.linear(input, weight, bias)
    if seed is None:
        return output.relu_()
    dropout.run(output, output, seed, p, relu=True)
    return output
