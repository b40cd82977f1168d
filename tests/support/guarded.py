"""Arrays that end where their page ends, in front of a page that nobody may touch: a stray read is the end of it."""

from __future__ import annotations

import ctypes
import math
import mmap

import torch
from torch import Tensor

PROT_NONE = 0
ALIGNED = 64  # bytes: what kernels may count on of memory that is planned for them


def at_the_end(tensor: Tensor) -> Tensor:
    """A copy of a dense tensor, whose last number is the last before the page."""
    return room(tuple(tensor.shape), tensor.stride(), tensor.dtype).copy_(tensor)


def room(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, aligned: int = 1) -> Tensor:
    """A dense tensor of zeros there."""
    count = math.prod(shape)
    size = -(-count * dtype.itemsize // aligned) * aligned
    whole = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, whole + mmap.PAGESIZE)
    beyond = ctypes.addressof(ctypes.c_char.from_buffer(memory, whole))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(beyond), mmap.PAGESIZE, PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=whole - size)
    return flat.as_strided(shape, stride)
