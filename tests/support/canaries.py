"""Canaries: guard bytes around everything a kernel fills, and poison in it: a stray or a missing write shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from alexkern import plan
from alexkern.backends.cpu import memory

GUARD = 256  # bytes on each side: keeps the alignment that kernels may count on
PATTERN = 0xA5


@contextmanager
def canaries() -> Iterator[list[Tensor]]:
    """Within the block, every planned output and workspace is surrounded by guards, which are checked at the end.

    Yields the list of buffers; a test may assert that it is not empty.
    """
    buffers: list[Tensor] = []

    def guarded(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        span = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if 0 not in shape else 0
        buffer = torch.full((2 * GUARD + span * dtype.itemsize,), PATTERN, dtype=torch.uint8, device=device)
        buffers.append(buffer)
        inner = buffer[GUARD : GUARD + span * dtype.itemsize].view(dtype)
        if dtype.is_floating_point:
            inner.fill_(float("nan"))
        return inner.as_strided(shape, stride)

    original, plan._allocate = plan._allocate, guarded
    large, memory.LARGE = memory.LARGE, sys.maxsize  # nothing lies in memory that comes back
    try:
        yield buffers
    finally:
        plan._allocate, memory.LARGE = original, large
    for buffer in buffers:
        guards = torch.cat((buffer[:GUARD], buffer[-GUARD:]))
        assert bool((guards == PATTERN).all()), "a kernel wrote outside its output or workspace"
