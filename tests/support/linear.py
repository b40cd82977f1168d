"""Inputs of a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor

from support.backends import DEVICE


def draw(dtype: torch.dtype, generator: torch.Generator, rows: int, C: int, K: int) -> tuple[Tensor, Tensor, Tensor]:
    """input (rows, C), weight (K, C) and bias (K,), which make outputs around 1."""
    tensors = (
        torch.randn((rows, C), generator=generator),
        torch.randn((K, C), generator=generator) / C**0.5,
        torch.randn(K, generator=generator),
    )
    input, weight, bias = (tensor.to(dtype).to(DEVICE) for tensor in tensors)
    return input, weight, bias
