"""Philox4x32-10 in torch's int64 arithmetic: the one definition of which elements dropout keeps.

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011), section 3.4; ten rounds.
A 32-bit word lives in an int64: products of two words wrap modulo 2**64, and their halves are read by shift and mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF


def words(seed: Tensor, count: int) -> Tensor:
    """The first `count` words of the stream of (seed, offset): int64 values below 2**32, on seed's device.

    seed: int64 tensor of two, (seed, offset). Word i is word i % 4 of the block with key = seed and counter
    (low, high, 0, 0) of offset + i // 4 modulo 2**64.
    """
    blocks = -(-count // 4)
    counter = torch.arange(blocks, device=seed.device).add_(seed[1])  # wraps modulo 2**64
    c0, c1 = counter & WORD, (counter >> 32).bitwise_and_(WORD)
    c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0)
    # Keys of all rounds at once, as tensors: reading them back would stall a GPU and break graph capture.
    steps = torch.arange(ROUNDS, device=seed.device)
    keys0 = (seed[0] + steps * WEYL[0]) & WORD
    keys1 = ((seed[0] >> 32) + steps * WEYL[1]) & WORD
    for step in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0 = (product1 >> 32).bitwise_and_(WORD).bitwise_xor_(c1).bitwise_xor_(keys0[step])
        c2 = (product0 >> 32).bitwise_and_(WORD).bitwise_xor_(c3).bitwise_xor_(keys1[step])
        c1, c3 = product1.bitwise_and_(WORD), product0.bitwise_and_(WORD)
    return torch.stack((c0, c1, c2, c3), dim=1).flatten()[:count]


def keep(seed: Tensor, p: float, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Which elements dropout keeps: bool, of a dense tensor with this shape and these strides.

    Elements are numbered as they lie in memory. p = 0 keeps all of them and p = 1 none.
    """
    count = 1
    for size in shape:
        count *= size
    return (words(seed, count) >= int(p * 2**32)).as_strided(shape, stride)
