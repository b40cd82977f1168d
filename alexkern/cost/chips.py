"""The GPUs that are known: the one table of what they are made of.

Sources: NVIDIA's data sheets of the H200 SXM (2024), H100 SXM5 (2023), A100 SXM4 80 GB (2021) and HGX B200 (2025), with
the clocks of the H100's and A100's white papers; of the consumer chips the white papers of GA102 (2021), Ada (2023) and
RTX Blackwell (2025), tensor cores with FP32 sums; the CUDA programming guide's table of compute capabilities. No sheet
has the bytes from L2: they are assumptions, near the 47 (A100) and 39 (H100) a multiprocessor that 5120 a clock for the
whole chip would be, and about what is said to be measured on consumer chips, for a run on a GPU to correct.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Limits:
    """Of one multiprocessor: bytes of shared memory, the most of them for one block, warps, blocks."""

    shared: int
    shared_per_block: int
    warps: int
    blocks: int


# By 10 * major + minor of the compute capability.
LIMITS = {
    80: Limits(164 * 1024, 163 * 1024, 64, 32),
    86: Limits(100 * 1024, 99 * 1024, 48, 16),
    89: Limits(100 * 1024, 99 * 1024, 48, 24),
    90: Limits(228 * 1024, 227 * 1024, 64, 32),
    100: Limits(228 * 1024, 227 * 1024, 64, 32),
    120: Limits(100 * 1024, 99 * 1024, 48, 24),
}
MINIMUM_CAPABILITY = (8, 0)  # of the kernels
SHARED_BYTES = 128  # that a multiprocessor reads or writes in a clock, on all of them


@dataclass(frozen=True, eq=False)  # compared and hashed as an object: that costs a launcher's caches nothing
class Chip:
    """A GPU as schedules and predictions see it.

    shared_memory is the most one block may have, in bytes. half, tf32 and ieee are multiply-adds of a multiprocessor
    and clock by operand, and l2_bytes what it gets from L2 meanwhile; memory is the chip's bandwidth in bytes per
    second. Clocks in Hz: that of tensor cores, and the higher one of everything else.
    """

    name: str
    capability: tuple[int, int]
    num_sms: int
    shared_memory: int
    half: int
    tf32: int
    ieee: int
    l2_bytes: int
    memory: float
    clock: float
    boost: float

    @property
    def label(self) -> str:
        return self.name.removeprefix("NVIDIA ").removeprefix("GeForce ")

    @property
    def target(self) -> int:
        """What kernels are compiled for: 90 for compute capability 9.0."""
        return 10 * self.capability[0] + self.capability[1]

    @property
    def multiplies_shared_memory(self) -> bool:
        """Whether products take their operands from shared memory: wgmma, tcgen05. mma.sync, which is all that the
        others have, 12.0 among them, takes registers."""
        return self.capability[0] in (9, 10)

    @property
    def memory_bytes(self) -> float:
        """Per clock, of the whole chip."""
        return self.memory / self.clock

    def multiply_adds(self, itemsize: int, tf32: bool) -> int:
        """Per multiprocessor and clock, of operands of so many bytes."""
        return self.half if itemsize == 2 else self.tf32 if tf32 else self.ieee

    def flops(self, arithmetic: str) -> float:
        """Operations per second in "bfloat16", "float16", "tf32" or "float32"."""
        tensor_cores = arithmetic != "float32"
        rate = self.multiply_adds(2 if arithmetic.endswith("16") else 4, arithmetic == "tf32")
        return 2 * self.num_sms * rate * (self.clock if tensor_cores else self.boost)


_CONSUMER = (LIMITS[86].shared_per_block, 256, 128, 128, 16)
_SM90 = ((9, 0), 132, LIMITS[90].shared_per_block, 2048, 1024, 128, 44)
CHIPS = {
    chip.label: chip
    for chip in (
        Chip("NVIDIA H200", *_SM90, 4.8e12, 1.83e9, 1.98e9),
        Chip("NVIDIA H100", *_SM90, 3.35e12, 1.83e9, 1.98e9),
        Chip("NVIDIA A100", (8, 0), 108, LIMITS[80].shared_per_block, 1024, 512, 64, 32, 2.039e12, 1.41e9, 1.41e9),
        Chip("NVIDIA B200", (10, 0), 148, LIMITS[100].shared_per_block, 4096, 2048, 128, 48, 8e12, 1.855e9, 1.98e9),
        Chip("NVIDIA GeForce RTX 3090", (8, 6), 82, *_CONSUMER, 0.936e12, 1.695e9, 1.695e9),
        Chip("NVIDIA GeForce RTX 4090", (8, 9), 128, *_CONSUMER, 1.008e12, 2.52e9, 2.52e9),
        Chip("NVIDIA GeForce RTX 5090", (12, 0), 170, *_CONSUMER, 1.792e12, 2.407e9, 2.407e9),
    )
}


def unusable(kernels: str) -> str | None:
    """Why these kernels cannot run on the GPUs of this machine, or None where they can."""
    if not torch.cuda.is_available():
        return "there is no CUDA device that torch can use"
    capability = min(torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))
    if capability < MINIMUM_CAPABILITY:
        return f"{kernels} need compute capability 8.0, and a GPU here has {capability[0]}.{capability[1]}"
    return None


@functools.cache
def here(index: int) -> Chip:
    """A GPU of this machine; it is asked for once."""
    found = torch.cuda.get_device_properties(index)
    capability, shared_memory = (found.major, found.minor), found.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return like(found.name, capability, found.multi_processor_count, shared_memory)


def like(name: str, capability: tuple[int, int], num_sms: int, shared_memory: int) -> Chip:
    """A GPU of these sizes: else as the chip of CHIPS that it is, or the first of the nearest compute capability.

    Memory is then as fast as it has multiprocessors.
    """
    target = 10 * capability[0] + capability[1]
    known = min(CHIPS.values(), key=lambda chip: (abs(chip.target - target), chip.label not in name))
    memory = known.memory * num_sms / known.num_sms
    return replace(known, name=name, capability=capability, num_sms=num_sms, shared_memory=shared_memory, memory=memory)
