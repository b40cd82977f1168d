"""Philox4x32-10 on the device: the bits of alexkern/backends/torch/philox.py, word for word.

The stream is numbered by 32-bit words. Word i comes from the block with counter (low, high, 0, 0) of offset + i // 4,
key = seed; a block yields four words. A kernel that owns runs of four elements computes each block once
(`keep_blocks`); one whose elements are not aligned to four computes a block an element (`keep_elements`).

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011), section 3.4.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def block_words(seed, block):
    """The four words of each block: seed points to (seed, offset) int64; block int64, any shape -> 4 x uint32."""
    key = tl.load(seed)
    counter = tl.load(seed + 1) + block  # wraps modulo 2**64
    low = counter.to(tl.uint32)
    high = (counter >> 32).to(tl.uint32)
    zero = low * 0
    return tl.philox(key, low, high, zero, zero)


@triton.jit
def keep_blocks(seed, block, limit):
    """Which elements are kept: block int64 [..., B], limit int64 (`threshold`) -> bool [..., B, 2, 2].

    Reshaped to [..., 4 * B], entry 4 * j + i is element 4 * block[j] + i of the stream.
    """
    word0, word1, word2, word3 = block_words(seed, block)
    even = tl.join(word0, word2)  # [..., B, 2]
    odd = tl.join(word1, word3)
    return tl.join(even, odd).to(tl.int64) >= limit


@triton.jit
def keep_elements(seed, element, limit):
    """Which elements are kept: element int64, any shape; limit int64 (`threshold`) -> bool of the same shape."""
    word0, word1, word2, word3 = block_words(seed, element >> 2)
    place = element & 3
    first = tl.where(place == 0, word0, word1)
    last = tl.where(place == 2, word2, word3)
    return tl.where(place < 2, first, last).to(tl.int64) >= limit
