"""linear_relu_dropout by torch's product, with ReLU and dropout in one pass over its result (csrc/cpu/dropout)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.cpu import dropout
from alexkern.backends.torch import linear_relu_dropout as definition
from alexkern.backends.torch.linear_relu_dropout import backward
from alexkern.plan import empty, packed_bits

__all__ = ["backward", "forward"]


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, save_mask: bool
) -> tuple[Tensor, Tensor | None]:
    if seed is None:
        return definition.forward(input, weight, bias, seed, p, save_mask)
    output = definition.no_view(F.linear(input, weight, bias))
    mask = empty(packed_bits(output.numel()), output.device) if save_mask else None
    dropout.run(output, output, mask, seed, p, relu=True)
    return output, mask
