"""linear_relu_dropout by torch's products, with ReLU and dropout in one pass over the output (csrc/cpu/dropout)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.cpu import dropout
from alexkern.backends.cpu.memory import empty
from alexkern.backends.torch import linear_relu_dropout as definition
from alexkern.plan import Spec, contiguous_strides, packed_bits


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, save_mask: bool
) -> tuple[Tensor, Tensor | None]:
    if seed is None:
        return definition.forward(input, weight, bias, seed, p, save_mask)
    output = definition.no_view(F.linear(input, weight, bias))
    mask = empty(packed_bits(output.numel())) if save_mask else None
    dropout.run(output, output, mask, seed, p, relu=True)
    return output, mask


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    mask: Tensor,
    seed: Tensor | None,
    p: float,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias, those that `needs` asks for. Without a seed the output is the mask."""
    grad = definition.masked(grad, mask, seed, p)
    rows, inputs = definition.matrix(grad), definition.matrix(input)
    shape = tuple(weight.shape)
    return (
        (grad @ weight) if needs[0] else None,
        torch.mm(rows.t(), inputs, out=empty(Spec(shape, contiguous_strides(shape), grad.dtype))) if needs[1] else None,
        rows.sum(0) if needs[2] else None,
    )
