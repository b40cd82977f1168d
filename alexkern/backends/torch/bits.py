"""A bit for each element: what plan.packed_bits describes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pack(flags: Tensor) -> Tensor:
    """Bits from bools, which are numbered as they lie in a contiguous tensor."""
    padded = F.pad(flags.flatten().view(torch.uint8), (0, -flags.numel() % 8))
    return (padded.view(-1, 8) << _places(flags.device)).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The bools again."""
    flags = (bits.unsqueeze(1) >> _places(bits.device)) & 1
    return flags.bool().flatten()[: torch.Size(shape).numel()].view(shape)


def _places(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)
