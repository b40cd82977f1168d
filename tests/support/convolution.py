"""A convolution of csrc's, called as the backend's own functions are: its output and gradients, judged."""

from __future__ import annotations

import torch
from torch import Tensor

from alexkern.accuracy import assert_accurate
from alexkern.backends.cuda import conv2d_relu
from alexkern.backends.torch import conv2d_relu as reference
from support.backends import DEVICE
from support.canaries import canaries

Args = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]  # stride, padding, dilation, groups


def check(x: Tensor, w: Tensor, b: Tensor, args: Args, generator: torch.Generator) -> list[Tensor]:
    """Our output and gradients, held to the accuracy rule within their memory."""
    with canaries() as buffers:
        output = conv2d_relu.forward(x, w, b, *args)
        grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(x.dtype).to(DEVICE)
        grads = conv2d_relu.backward(grad, x, w, output, *args, (True, True, True))
    assert buffers
    everything = [output, *(found for found in grads if found is not None)]
    references = []
    for dtype in (torch.float64, x.dtype):
        tensors = [tensor.to(dtype) for tensor in (x, w, b)]
        torchs = reference.backward(grad.to(dtype), tensors[0], tensors[1], output.to(dtype), *args, (True, True, True))
        references.append((reference.forward(*tensors, *args), *torchs))
    for name, ours, wanted, torchs_own in zip(("output", "x", "w", "b"), everything, *references, strict=True):
        assert wanted is not None and torchs_own is not None
        assert_accurate(ours, wanted, torchs_own, name)
    return everything
