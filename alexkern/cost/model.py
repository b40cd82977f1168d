"""How many blocks share a streaming multiprocessor: the arithmetic of CUDA's occupancy calculator (cuda_occupancy.h).

The limits are those of the CUDA programming guide's table of compute capabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

REGISTERS = 65536  # of one multiprocessor, as are the following
PARTITIONS = 4
TENSOR_MEMORY_COLUMNS = 512
MAX_WARPS = 32  # of one block
REGISTER_UNIT = 256  # registers are handed out to a warp in these steps
SHARED_UNIT = 128  # bytes
RESERVED_SHARED = 1024  # bytes that the system takes for each block


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
}


def limits(target: int) -> Limits:
    """Of a compute capability, 90 for 9.0."""
    if target not in LIMITS:
        raise ValueError(
            f"alexkern.cost.occupancy: target must be one of {', '.join(map(str, LIMITS))}, got {target!r}"
        )
    return LIMITS[target]


def blocks_per_multiprocessor(target: int, registers: int, shared: int, warps: int, tensor_memory: int = 0) -> int:
    """Blocks of `warps` warps that run at once on one multiprocessor; 0 where not even one fits.

    registers a thread; shared in bytes a block, static and dynamic; tensor_memory in columns a block.
    """
    limit = limits(target)
    per_warp = _round_up(registers * 32, REGISTER_UNIT)
    if shared > limit.shared_per_block or per_warp * _round_up(warps, PARTITIONS) > REGISTERS or warps > MAX_WARPS:
        return 0
    by_registers = REGISTERS // PARTITIONS // per_warp * PARTITIONS // warps
    by_shared = limit.shared // _round_up(shared + RESERVED_SHARED, SHARED_UNIT)
    by_tensor_memory = TENSOR_MEMORY_COLUMNS // tensor_memory if tensor_memory else limit.blocks
    return min(by_registers, by_shared, limit.warps // warps, by_tensor_memory, limit.blocks)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
