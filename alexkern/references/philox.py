"""Philox4x32-10, written out: which elements dropout keeps, and what augment draws.

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011), section 3.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


def words(seed: Tensor, count: int) -> Tensor:
    """The first `count` words behind a seed and offset, each an int64: word i % 4 of the block of counter
    offset + i // 4."""
    key, offset = seed.tolist()
    counter = torch.arange(-(-count // 4)) + offset  # an int64, as all here: products wrap modulo 2**64
    k0, k1 = key & WORD, (key >> 32) & WORD
    c0, c1, c2, c3 = counter & WORD, (counter >> 32) & WORD, torch.zeros_like(counter), torch.zeros_like(counter)
    for _ in range(10):
        even, odd = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c2 = (odd >> 32) & WORD ^ c1 ^ k0, (even >> 32) & WORD ^ c3 ^ k1
        c1, c3 = odd & WORD, even & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return torch.stack((c0, c1, c2, c3), dim=1).flatten()[:count]


def keep(seed: Tensor, p: float, like: Tensor) -> Tensor:
    """Bool, for every element of torch.empty_like(like): element i, as they lie in memory, has word i, and stays where
    that is at least floor(p * 2**32)."""
    kept = words(seed, like.numel()) >= int(p * 2**32)
    return kept.as_strided(like.shape, torch.empty_like(like).stride()).to(like.device)
