"""linear_relu_dropout in torch operators."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.torch import dropout, philox
from alexkern.plan import linear_relu_dropout_output

PRECISION = "matmul"  # the fp32_precision of torch.backends that says whether float32 is multiplied as TF32


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float) -> Tensor:
    output = F.linear(input, weight, bias).relu_()
    if seed is None:
        return output
    return dropout.apply(output, philox.keep(seed, p, tuple(output.shape), output.stride()), p, output)


def composite(input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float) -> Tensor:
    """The forward, differentiable by torch itself."""
    output = F.linear(input, weight, bias).relu()
    if seed is None:
        return output
    spec = linear_relu_dropout_output(input, weight)
    return dropout.masked(output, philox.Keep.apply(seed, p, spec.shape, spec.stride), p)


def compiled(input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float) -> Tensor:
    """The same in distribution: what torch.compile traces."""
    return F.dropout(F.linear(input, weight, bias).relu(), p, seed is not None)


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    output: Tensor,
    seed: Tensor | None,
    p: float,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias, those that `needs` asks for."""
    if seed is not None:
        grad = grad * dropout.scale(p)
    # Where an element was dropped the output is 0, so the ReLU mask drops its gradient too.
    grad = torch.ops.aten.threshold_backward(grad, output, 0)
    # Only a dropped NaN is no 0. A CPU can afford to ask; on a GPU the answer would stall the stream, and a tracer's
    # tensors have none.
    tells = output.device.type == "cpu" and torch._C._len_torch_dispatch_stack() == 0
    if seed is not None and (not tells or bool(output.isnan().any())):
        grad = grad.masked_fill(~philox.keep(seed, p, tuple(output.shape), output.stride()), 0)
    rows, inputs = _matrix(grad), _matrix(input)  # (N, out_features), (N, in_features)
    return (
        (grad @ weight) if needs[0] else None,
        (rows.t() @ inputs) if needs[1] else None,
        rows.sum(0) if needs[2] else None,
    )


def _matrix(value: Tensor) -> Tensor:
    # Not flatten, which is_grads_batched has no rule for.
    return value if value.dim() == 2 else value.reshape(math.prod(value.shape[:-1]), value.shape[-1])
