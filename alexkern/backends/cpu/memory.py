"""Where outputs of the cpu backend live: large ones in memory that comes back (csrc/cpu/memory.h), small in torch's."""

from __future__ import annotations

import functools
import math
import sys

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from alexkern import plan
from alexkern._environment import read
from alexkern.backends import cpu, extension
from alexkern.plan import Spec

# Bytes. Of smaller ones the C library keeps its pages itself, and a tensor of ours takes longer to make than torch's.
LARGE = 2**20
LARGEST_OF_GLIBC = 2**25 - 2**13  # with what it keeps for itself
DEVICE = torch.device("cpu")
# As DLPack has them.
CODES = {torch.float32: (2, 32), torch.bfloat16: (4, 16), torch.int32: (0, 32), torch.uint8: (1, 8)}


def empty(spec: Spec) -> Tensor:
    """What a kernel or an `out=` of torch fills; `spec` is dense. The tensor owns its memory and gives it back when it
    goes. It is as torch's, but that it does not grow in place: `resize_` to more is torch's error."""
    size = math.prod(spec.shape) * spec.dtype.itemsize
    if LARGE <= size <= sys.maxsize and limit() > 0:
        capsule = cpu.native().memory_take(size, spec.shape, spec.stride, *CODES[spec.dtype])
        if capsule is not None:
            return from_dlpack(capsule)
    return plan.empty(spec, DEVICE)  # where there is no memory, torch says so


@functools.cache
def limit() -> int:
    """How many bytes may be kept; 0 where all memory is torch's."""
    if extension.cpu.module is None:
        return 0
    limit: int = read("ALEXKERN_CPU_MEMORY") * 2**20
    cpu.native().memory_keep(limit)
    if limit > 0:
        # What torch itself allocates is glibc's. That keeps twice the largest mapping that was ever freed, of 32 MiB at
        # most, and has to see one: else it gives the pages of all images' convolutions back at every step.
        torch.empty(LARGEST_OF_GLIBC, dtype=torch.uint8, device=DEVICE)
    return limit


def describe() -> str:
    if extension.cpu.module is None:
        return f"torch's: {extension.cpu.why_not}"
    kept, lent = (f"{size / 2**20:.0f} MiB" for size in cpu.native().memory_use())
    return f"at most {read('ALEXKERN_CPU_MEMORY')} MiB kept for outputs on a CPU; {kept} are, {lent} are in use"


def held_bytes() -> int:
    """How much memory of ours there is, kept or in use."""
    return 0 if extension.cpu.module is None else sum(cpu.native().memory_use())


def release_memory() -> int:
    """Give the memory back to the system that the cpu backend keeps for its next outputs.

    Returns:
        How many bytes that were. What tensors still own is not among them, and is kept when they go.
    """
    return 0 if extension.cpu.module is None else cpu.native().memory_release()
