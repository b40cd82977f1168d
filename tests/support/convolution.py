"""A convolution of csrc's, called as the backend's own functions are: its output and gradients, judged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alexkern.backends.cuda import conv2d_relu
from alexkern.backends.torch import conv2d_relu as reference
from support.backends import DEVICE
from support.canaries import canaries
from support.references import hold

Args = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]  # stride, padding, dilation, groups
ONE: Args = ((1, 1), (1, 1), (1, 1), 1)


def draw(
    dtype: torch.dtype, generator: torch.Generator, input: tuple[int, ...], filters: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, filters and biases, which make outputs around 1."""
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (input, filters, filters[:1])]
    tensors[1] /= max(math.prod(filters[1:]), 1) ** 0.5
    x, w, b = (tensor.to(dtype).to(DEVICE) for tensor in tensors)
    return x, w, b


def check(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    args: Args,
    generator: torch.Generator,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> list[Tensor]:
    """Our output and gradients, held to the accuracy rule within their memory."""
    with canaries() as buffers:
        output = conv2d_relu.forward(x, w, b, *args)
        grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(x.dtype).to(DEVICE)
        grads = conv2d_relu.backward(grad, x, w, output, *args, needs)
    assert buffers
    hold((output,), lambda *given: reference.forward(*given, *args), x, w, b)
    hold(grads, lambda *given: reference.backward(*given, *args, needs), grad, x, w, output)
    return [output, *(found for found in grads if found is not None)]
