"""Memory in huge pages: for weights that are read from end to end at every call."""

from __future__ import annotations

import contextlib
import mmap

import torch
from torch import Tensor

SIZE = 2 * 2**20  # bytes of a huge page


def in_huge_pages(tensor: Tensor) -> Tensor:
    """A contiguous copy of `tensor` in 2 MiB pages, or `tensor` itself where it starts with one, where there is nothing
    to win or no way to ask.

    A product with a single row reads its weight once, at the speed of memory, and in 4 KiB pages a good part of that
    goes into looking up addresses. The kernel is asked by madvise, as its default setting wants it; if it has none to
    give, the copy lies in small pages and is as good as before.
    """
    size = tensor.numel() * tensor.element_size()
    wanted = tensor.device.type == "cpu" and size >= SIZE and tensor.data_ptr() % SIZE != 0
    if not wanted or not hasattr(mmap, "MADV_HUGEPAGE"):
        return tensor
    memory = mmap.mmap(-1, size + SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel built without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % SIZE
    aligned = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=start)  # keeps it mapped
    return aligned.view(tensor.shape).copy_(tensor)
