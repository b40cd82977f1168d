"""Dropout's randomness: 16 bytes on the device, drawn from torch's own generator."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(device: torch.device) -> Tensor:
    """(seed, offset) as an int64 tensor of two, on `device`.

    torch.randint is the one operator here that is not pure: it obeys torch.manual_seed, torch.func's randomness modes
    and checkpointing, and in a CUDA graph it advances the generator at every replay. Nothing is read back to the host.
    """
    return torch.randint(-(2**63), 2**63 - 1, (2,), dtype=torch.int64, device=device)
