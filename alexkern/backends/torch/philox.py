"""Philox4x32-10 in torch's int64 arithmetic: the one definition of which elements dropout keeps.

In place, for speed; number by number it is in examples/ladder/dropout.py.

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011), section 3.4; ten rounds. A block's
state is four 32-bit words, and a round is

    c0, c1, c2, c3 = high(M1 * c2) ^ c1 ^ k0, low(M1 * c2), high(M0 * c0) ^ c3 ^ k1, low(M0 * c0)

A 32-bit word lives in an int64: products of two words wrap modulo 2**64, and their halves are read by shift and mask.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF


def blocks(seed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` blocks of the stream of (seed, offset), as (c0, c2) and (c1, c3): two int64 (2, count).

    seed: int64 tensor of two, (seed, offset). Block i has key = seed and counter (low, high, 0, 0) of offset + i
    modulo 2**64.
    """
    counter = torch.arange(count, device=seed.device).add_(seed[1])  # wraps modulo 2**64
    multipliers, keys = _both(*MULTIPLIERS, seed), _round_keys(seed)
    # A round swaps the two multiplied words, and the two others with them. Rather than swap them back, `multiplied`
    # holds the order that a round leaves: (c0, c2) and (c2, c0) in turns, and so do the products, whose low halves are
    # the others of the next round. They stay whole until they meet a mask. Three buffers serve all rounds.
    multiplied, others, product = counter.new_zeros(3, 2, count).unbind()
    (first, second), halves, next_halves = multiplied.unbind(), others.unbind(), product.unbind()
    torch.bitwise_and(counter, WORD, out=first)  # c0
    torch.bitwise_and(counter.bitwise_right_shift_(32), WORD, out=halves[0])  # c1
    for step in range(ROUNDS):
        torch.mul(multiplied, multipliers[step % 2], out=product)
        torch.bitwise_right_shift(product, 32, out=multiplied)
        first.bitwise_xor_(halves[1])
        second.bitwise_xor_(halves[0])
        multiplied.bitwise_xor_(keys[step]).bitwise_and_(WORD)
        product, others, halves, next_halves = others, product, next_halves, halves
    return multiplied, others.bitwise_and_(WORD)


def _both(first: int, second: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers as a column in either order, made on `like`'s device: a copy from the host would break a capture."""
    index = torch.arange(2, device=like.device).unsqueeze(1)
    return index * (second - first) + first, index * (first - second) + second


def _round_keys(seed: Tensor) -> list[Tensor]:
    """(k1, k0), then (k0, k1), and so on in turns: a (2, 1) column a round. Nothing is read back from the device."""
    steps = torch.arange(ROUNDS, device=seed.device)
    key0 = (seed[0] + steps * WEYL[0]).bitwise_and_(WORD)
    key1 = ((seed[0] >> 32) + steps * WEYL[1]).bitwise_and_(WORD)
    odd = (steps & 1).bool()
    return list(torch.stack((key1.where(~odd, key0), key0.where(~odd, key1)), dim=1).unsqueeze(2).unbind())


def words(seed: Tensor, count: int) -> Tensor:
    """The first `count` words of the stream of (seed, offset): int64 values below 2**32, on seed's device.

    Word i is word i % 4 of block i // 4.
    """
    (c0, c2), (c1, c3) = blocks(seed, -(-count // 4))
    return torch.stack((c0, c1, c2, c3), dim=1).flatten()[:count]


def threshold(p: float) -> int:
    """An element is kept where its word is at least this: 0 keeps all. For p = 1 it is 2**32, which no word reaches."""
    return int(p * 2**32)


def keep(seed: Tensor, p: float, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Which elements dropout keeps: bool, of a dense tensor with this shape and these strides.

    Elements are numbered as they lie in memory. p = 0 keeps all of them and p = 1 none.
    """
    even, odd = blocks(seed, -(-math.prod(shape) // 4))
    kept = torch.empty(even.shape[1], 2, 2, dtype=torch.bool, device=seed.device)  # block, half, word
    limit = threshold(p)
    torch.ge(even.t(), limit, out=kept[..., 0])
    torch.ge(odd.t(), limit, out=kept[..., 1])
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
