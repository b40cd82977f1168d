"""linear_relu_dropout in torch operators."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.torch import bits, dropout, philox
from alexkern.plan import linear_relu_dropout_output

PRECISION = "matmul"  # the fp32_precision of torch.backends that says whether float32 is multiplied as TF32


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, save_mask: bool
) -> tuple[Tensor, Tensor | None]:
    output = no_view(F.linear(input, weight, bias).relu_())
    if seed is None:
        return output, None
    keep = philox.keep(seed, p, tuple(output.shape), output.stride())
    mask = bits.pack(keep & ~(output <= 0)) if save_mask else None
    return dropout.apply(output, keep, p, output), mask


def no_view(output: Tensor) -> Tensor:
    """In other than two dimensions it is a view of rows: nobody could edit it in place behind an autograd.Function."""
    return output if output.dim() == 2 else torch.ops.aten._unsafe_view(output, output.shape)


def composite(input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, *_: Any) -> Tensor:
    """The forward, differentiable by torch itself."""
    output = F.linear(input, weight, bias).relu()
    if seed is None:
        return output
    spec = linear_relu_dropout_output(input, weight)
    return dropout.masked(output, philox.Keep.apply(seed, p, spec.shape, spec.stride), p)


def compiled(input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, *_: Any) -> Tensor:
    """The same in distribution: what torch.compile traces."""
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
    grad = masked(grad, mask, seed, p)
    rows, inputs = matrix(grad), matrix(input)
    return (
        (grad @ weight) if needs[0] else None,
        (rows.t() @ inputs) if needs[1] else None,
        rows.sum(0) if needs[2] else None,
    )


def masked(grad: Tensor, mask: Tensor, seed: Tensor | None, p: float) -> Tensor:
    """Gradient of the product, before dropout and ReLU."""
    if seed is None:
        return torch.ops.aten.threshold_backward(grad, mask, 0)
    return (grad * dropout.scale(p)).masked_fill(~bits.unpack(mask, tuple(grad.shape)), 0)


def matrix(value: Tensor) -> Tensor:
    """(*, features) as (rows, features)."""
    # Not flatten, which is_grads_batched has no rule for.
    return value if value.dim() == 2 else value.reshape(math.prod(value.shape[:-1]), value.shape[-1])
