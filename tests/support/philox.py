"""Philox4x32-10 in plain Python integers, to hold the backends' to."""

from __future__ import annotations

import torch
from torch import Tensor


def block(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & 0xFFFFFFFF,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def keep(seed: Tensor, p: float, like: Tensor) -> Tensor:
    """Which elements of torch.empty_like(like) dropout keeps, element by element."""
    key, offset = (value % 2**64 for value in seed.tolist())
    template = torch.empty_like(like)
    kept = []
    for start in range(0, template.numel(), 4):
        counter = (offset + start // 4) % 2**64
        words = block((key & 0xFFFFFFFF, key >> 32), (counter & 0xFFFFFFFF, counter >> 32, 0, 0))
        kept += [word >= int(p * 2**32) for word in words]
    flat = torch.tensor(kept[: template.numel()], dtype=torch.bool)
    return flat.as_strided(template.shape, template.stride()).to(like.device)
