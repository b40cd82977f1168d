"""Philox4x32-10: the one definition of which elements dropout keeps, and of the words that augment draws.

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011), section 3.4; ten rounds.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
WORD = 0xFFFFFFFF


def block(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> tuple[Any, Any, Any, Any]:
    """The four words of the block of a counter, under a key: Python integers, or int64 tensors of many blocks at once.

    Only the lower 32 bits of what is given count, but c0 and c2 have no others: they are multiplied at once.
    """
    for _ in range(10):
        c0 = M0 * c0  # the products: 64 bits, and a tensor's wrap to them
        c2 = M1 * c2
        c1 = mixed(c2, c1, k0)
        c3 = mixed(c0, c3, k1)
        c0, c1, c2, c3 = c1, c2, c3, c0  # of a product the lower half is a word; what lies above is cut off later
        k0, k1 = k0 + W0, k1 + W1
    return c0, c1 & WORD, c2, c3 & WORD


def mixed(product: Any, word: Any, key: Any) -> Any:
    """high(product) ^ word ^ key; in place behind the shift, which is faster."""
    found = product >> 32
    found ^= word
    found ^= key
    found &= WORD
    return found


def blocks(seed: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The words of the first `count` blocks of the stream of seed, int64 (seed, offset), on its device.

    Block i has key = seed and counter (low, high, 0, 0) of offset + i modulo 2**64. The host reads
    nothing back.
    """
    high = torch.arange(count, device=seed.device).add_(seed[1])  # the counter, and then its upper half
    low = high & WORD
    high >>= 32
    return block(low, high, 0, 0, seed[0], seed[0] >> 32)


def words(seed: Tensor, count: int) -> Tensor:
    """The first `count` words of the stream of seed: word i is word i % 4 of block i // 4."""
    return torch.stack(blocks(seed, -(-count // 4)), dim=1).flatten()[:count]


def threshold(p: float) -> int:
    """An element is kept where its word is at least this: 0 keeps all. For p = 1 it is 2**32, which no word reaches."""
    return int(p * 2**32)


def keep(seed: Tensor, p: float, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Which elements dropout keeps: bool, of a dense tensor with this shape and these strides.

    Elements are numbered as they lie in memory. p = 0 keeps all of them and p = 1 none.
    """
    found, limit = blocks(seed, -(-math.prod(shape) // 4)), threshold(p)
    kept = torch.empty(len(found[0]), 4, dtype=torch.bool, device=seed.device)
    for place, word in enumerate(found):
        torch.ge(word, limit, out=kept[:, place])
    return kept.as_strided(shape, stride)


class Keep(Function):
    """`keep` where torch.func may have made a batch of seeds: a mask for each."""

    @staticmethod
    def forward(seed: Tensor, p: float, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return keep(seed, p, shape, stride)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, ...], seed: Tensor, p: float, shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> tuple[Tensor, int]:
        kept = seed.new_empty((info.batch_size, *shape), dtype=torch.bool)
        for mask, one in zip(kept, seed.unbind(in_dims[0]), strict=True):
            mask.copy_(Keep.apply(one, p, shape, stride))
        return kept, 0
