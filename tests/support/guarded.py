"""Arrays that end where their page ends, in front of a page that nobody may touch: a stray read is the end of it."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

PROT_NONE = 0


def at_the_end(tensor: Tensor) -> Tensor:
    """A copy of a dense tensor, whose last number is the last before the page."""
    size = tensor.numel() * tensor.element_size()
    whole = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, whole + mmap.PAGESIZE)
    beyond = ctypes.addressof(ctypes.c_char.from_buffer(memory, whole))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(beyond), mmap.PAGESIZE, PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    flat = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=whole - size)
    return flat.as_strided(tensor.shape, tensor.stride()).copy_(tensor)
