"""local_response_norm in torch operators."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def forward(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    x = _wide(input)
    return (x / energy(x, size, alpha, k).pow_(beta)).to(input.dtype)


def composite(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """The forward, differentiable by torch itself."""
    # Widened, because torch has no pooling in half precision on a CPU.
    return F.local_response_norm(_wide(input), size, alpha, beta, k).to(input.dtype)


def backward(
    grad: Tensor, input: Tensor, size: int, alpha: float, beta: float, k: float, needs: tuple[bool]
) -> tuple[Tensor | None]:
    """Gradient of the input.

    With e the energy and y = x / e**beta: dx = dy / e**beta - 2 * alpha * beta / size * x * sum(dy * y / e), the sum
    over the channels whose window x stands in.
    """
    x, dy = _wide(input), _wide(grad)
    e = energy(x, size, alpha, k)
    scaled = dy / e.pow(beta)
    shared = window_sum(scaled * x / e, (size - 1) // 2, size // 2).mul_(x)
    return (scaled.sub(shared, alpha=2 * alpha * beta / size).to(input.dtype),)


def energy(x: Tensor, size: int, alpha: float, k: float) -> Tensor:
    """k + alpha / size * sum of squares over size // 2 channels before, the channel, and (size - 1) // 2 after."""
    return window_sum(x * x, size // 2, (size - 1) // 2).mul_(alpha / size).add_(k)


def window_sum(x: Tensor, before: int, after: int) -> Tensor:
    """Sum over the channels c - before to c + after (dimension 1), those that exist: shifted adds in x's own layout."""
    channels = x.shape[1]
    total = x.clone(memory_format=torch.preserve_format)
    for shift in range(1, min(before, channels - 1) + 1):
        total[:, shift:] += x[:, : channels - shift]
    for shift in range(1, min(after, channels - 1) + 1):
        total[:, : channels - shift] += x[:, shift:]
    return total


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
