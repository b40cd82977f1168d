"""What all models share: rounding up, whole waves, and how many blocks share a streaming multiprocessor.

The last is the arithmetic of CUDA's occupancy calculator (cuda_occupancy.h).
"""

from __future__ import annotations

from alexkern.cost.chips import LIMITS, Chip, Limits

REGISTERS = 65536  # of one multiprocessor, as are the following
PARTITIONS = 4
TENSOR_MEMORY_COLUMNS = 512
MAX_WARPS = 32  # of one block
REGISTER_UNIT = 256  # registers are handed out to a warp in these steps
SHARED_UNIT = 128  # bytes
RESERVED_SHARED = 1024  # bytes that the system takes for each block


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def waves(blocks: int, chip: Chip) -> int:
    """How many blocks the busiest multiprocessor has, one after the other."""
    return cdiv(blocks, chip.num_sms)


def limits(target: int) -> Limits:
    """Of a compute capability, 90 for 9.0."""
    if target not in LIMITS:
        raise ValueError(f"alexkern.cost.model: target must be one of {', '.join(map(str, LIMITS))}, got {target!r}")
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
    return cdiv(value, unit) * unit
