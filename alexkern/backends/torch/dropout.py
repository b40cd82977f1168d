"""dropout in torch operators."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.torch import philox


def scale(p: float) -> float:
    """What kept values are multiplied by. With p = 1 none is kept."""
    return 1.0 / (1.0 - p) if p < 1.0 else 0.0


def forward(input: Tensor, seed: Tensor, p: float) -> Tensor:
    output = torch.empty_like(input)
    keep = philox.keep(seed, p, tuple(output.shape), output.stride())
    return apply(input, keep, p, output)


def apply(input: Tensor, keep: Tensor, p: float, output: Tensor) -> Tensor:
    """output = input * scale where kept, input * 0 where not: a dropped NaN or infinity is NaN."""
    factor = keep.to(torch.float64 if input.dtype == torch.float64 else torch.float32).mul_(scale(p))
    return torch.mul(input, factor, out=output)


def composite(input: Tensor, seed: Tensor, p: float) -> Tensor:
    """The same in distribution, differentiable by torch itself: what torch.compile traces."""
    return F.dropout(input, p, True)


def backward(
    grad: Tensor, seed: Tensor, output_stride: tuple[int, ...], p: float, needs: tuple[bool]
) -> tuple[Tensor | None]:
    """Gradient of the input."""
    keep = philox.keep(seed, p, tuple(grad.shape), output_stride)
    return (apply(grad, keep, p, torch.empty_strided(grad.shape, output_stride, dtype=grad.dtype, device=grad.device)),)
