"""linear_relu_dropout in torch operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.torch import bits, dropout, philox

PRECISION = "matmul"  # the fp32_precision of torch.backends that says whether float32 is multiplied as TF32


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, save_mask: bool
) -> tuple[Tensor, Tensor | None]:
    output = F.linear(input, weight, bias).relu_()
    if output.dim() != 2:  # a view of rows, which nobody could edit in place behind an autograd.Function
        output = torch.ops.aten._unsafe_view(output, output.shape)
    if seed is None:
        return output, None
    keep = philox.keep(seed, p, tuple(output.shape), output.stride())
    mask = bits.pack(keep & ~(output <= 0)) if save_mask else None
    return dropout.apply(output, keep, p, output), mask


def composite(input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, *_: Any) -> Tensor:
    """The same in distribution, differentiable by torch itself: what torch.compile traces."""
    return F.dropout(F.linear(input, weight, bias).relu(), p, seed is not None)


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
    if seed is None:
        grad = torch.ops.aten.threshold_backward(grad, mask, 0)
    else:
        grad = (grad * dropout.scale(p)).masked_fill_(~bits.unpack(mask, tuple(grad.shape)), 0)
    rows = grad.flatten(0, -2) if grad.dim() > 1 else grad.unsqueeze(0)  # (N, out_features)
    inputs = input.flatten(0, -2) if input.dim() > 1 else input.unsqueeze(0)  # (N, in_features)
    return (
        (grad @ weight) if needs[0] else None,
        (rows.t() @ inputs) if needs[1] else None,
        rows.sum(0) if needs[2] else None,
    )
