"""conv2d_relu in fewer products by csrc/cpu/winograd, where crossovers.py says so.

Else by torch on the caller's tensors: its convolution, then a ReLU in place, which is one pass already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alexkern.backends.cpu import winograd
from alexkern.backends.cpu.crossovers import PRODUCTS, in_tiles
from alexkern.backends.torch import conv2d_relu as definition
from alexkern.geometry import Geometry, Pair, convolution
from alexkern.plan import is_channels_last

LEAST = 2**25  # multiply-adds of a convolution whose backward pass gains what it costs to come through Python


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
    channels_last = is_channels_last(input) or is_channels_last(weight)
    of, output = convolution(input, weight, *args), None
    if M := in_tiles("forward", of, input.dtype, channels_last):
        output = winograd.convolve(input, winograd.to_pack(weight, of, M), bias, True, channels_last)
    return definition.forward(input, weight, bias, *args) if output is None else output


def gains(of: Geometry, dtype: torch.dtype) -> bool:
    """Whether anything is done in fewer products: else torch's own calls are as quick, and quicker to make."""
    if not torch.is_grad_enabled():
        return in_tiles("forward", of, dtype, True) > 0
    enough = of.GEMM_M * of.K * of.GEMM_K >= LEAST
    return enough and any(in_tiles(product, of, dtype, True) > 0 for product in PRODUCTS)


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    output: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias, those that `needs` asks for."""
    return gradients(grad, output, input, weight, stride, padding, dilation, groups, needs)


def gradients(
    grad: Tensor,
    gate: Tensor | None,
    input: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Those of a convolution; with a gate, of the ReLU behind it, whose output that is."""
    of = convolution(input, weight, stride, padding, dilation, groups)
    channels_last = is_channels_last(input) or is_channels_last(weight)
    if gate is not None and any(needs[1:]):
        grad, gate = torch.ops.aten.threshold_backward(grad, gate, 0), None
    input_grad = weight_grad = bias_grad = None
    if needs[0] and (M := in_tiles("input_grad", of, grad.dtype, channels_last)):
        input_grad = winograd.input_grad(grad, weight, of, M, channels_last, gate)
    if needs[1] and in_tiles("weight_grad", of, grad.dtype, channels_last):
        weight_grad = winograd.weight_grad(grad, input, of, channels_last)
        bias_grad = grad.sum((0, 2, 3)) if weight_grad is not None and needs[2] else None
    found = input_grad, weight_grad, bias_grad
    theirs = [need and one is None for need, one in zip(needs, found, strict=True)]
    if not any(theirs):
        return found
    if gate is not None:
        grad = torch.ops.aten.threshold_backward(grad, gate, 0)
    rest = definition.convolution_gradients(
        grad, input, weight, stride, padding, dilation, groups, (theirs[0], theirs[1], theirs[2])
    )
    first, second, third = (other if mine is None else mine for mine, other in zip(found, rest, strict=True))
    return first, second, third
