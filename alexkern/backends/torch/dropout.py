"""dropout in torch operators."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.torch import philox
from alexkern.plan import like


def scale(p: float) -> float:
    """What kept values are multiplied by. With p = 1 none is kept."""
    return 1.0 / (1.0 - p) if p < 1.0 else 0.0


def forward(input: Tensor, seed: Tensor, p: float) -> Tensor:
    output = torch.empty_like(input)
    keep = philox.keep(seed, p, tuple(output.shape), output.stride())
    return apply(input, keep, p, output)


def factors(keep: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    return keep.to(torch.float64 if dtype == torch.float64 else torch.float32).mul_(scale(p))


def apply(input: Tensor, keep: Tensor, p: float, output: Tensor) -> Tensor:
    """output = input * scale where kept, input * 0 where not: a dropped NaN or infinity is NaN."""
    return torch.mul(input, factors(keep, p, input.dtype), out=output)


def masked(input: Tensor, keep: Tensor, p: float) -> Tensor:
    """The same, differentiable by torch itself, laid out as `keep`."""
    return (factors(keep, p, input.dtype) * input).to(input.dtype)


def composite(input: Tensor, seed: Tensor, p: float) -> Tensor:
    """The forward, differentiable by torch itself."""
    spec = like(input)
    return masked(input, philox.Keep.apply(seed, p, spec.shape, spec.stride), p)


def compiled(input: Tensor, seed: Tensor, p: float) -> Tensor:
    """The same in distribution: what torch.compile traces."""
    return F.dropout(input, p, True)


def backward(
    grad: Tensor, seed: Tensor, output_stride: tuple[int, ...], p: float, needs: tuple[bool]
) -> tuple[Tensor | None]:
    """Gradient of the input."""
    return (masked(grad, philox.keep(seed, p, tuple(grad.shape), output_stride), p),)
